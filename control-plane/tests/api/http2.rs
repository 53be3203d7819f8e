//! The limits of a connection over HTTP/2, where a refusal must not end the other requests.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::auth::Served;

/// Opens a connection as the administrator.
async fn connect(served: &Served) -> http2::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(served.address()).await.unwrap();
    speak(served, stream, "127.0.0.1").await
}

/// Begins TLS and HTTP/2 with a server that must prove this name.
async fn speak(
    served: &Served,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    name: &'static str,
) -> http2::SendRequest<Full<Bytes>> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(served.authority.as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let chain = CertificateDer::pem_slice_iter(served.admin.certificate.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(served.admin.key.as_bytes()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let mut config = config.with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(name).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.unwrap();
    let io = TokioIo::new(stream);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn post(served: &Served, bytes: usize) -> Request<Full<Bytes>> {
    let (address, path) = (served.address(), "/api/v1/namespaces/default/configmaps");
    let body = json!({"metadata": {"name": "large"}, "data": {"k": "x".repeat(bytes)}});
    Request::post(format!("https://{address}{path}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap()
}

async fn answer(response: Response<Incoming>) -> (u16, Value) {
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_the_connection_goes_on() {
    let served = Served::start().await;
    let mut client = connect(&served).await;
    for (bytes, reason) in [
        (4 << 20, "limit is 3145728"),
        (20 << 20, "limit is 3145728"),
    ] {
        let (code, status) = answer(client.send_request(post(&served, bytes)).await.unwrap()).await;
        assert_eq!(
            (code, &status["reason"]),
            (413, &json!("RequestEntityTooLarge"))
        );
        let expected = format!("Request entity too large: {reason}");
        assert_eq!(status["message"], json!(expected));
    }
    let mut large = post(&served, 1);
    let header = "x".repeat(40 << 10).parse().unwrap();
    large.headers_mut().insert("x-large", header);
    let (code, _) = answer(client.send_request(large).await.unwrap()).await;
    assert_eq!(code, 431);
    let (code, created) = answer(client.send_request(post(&served, 1)).await.unwrap()).await;
    assert_eq!(code, 201, "{created}");
    served.stop().await;
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    let served = Served::start().await;
    let client = connect(&served).await;
    let address = served.address();
    let requests = (0..300).map(|_| {
        let mut client = client.clone();
        let request = Request::get(format!("https://{address}/api/v1/namespaces"));
        let request = request.body(Full::new(Bytes::new())).unwrap();
        async move { answer(client.send_request(request).await.unwrap()).await }
    });
    for (code, list) in futures::future::join_all(requests).await {
        assert_eq!((code, &list["kind"]), (200, &json!("NamespaceList")));
    }
    served.stop().await;
}

/// Pods reach the API over a network that is not the kernel's, by the names and addresses of a cluster.
#[tokio::test]
async fn connections_that_were_accepted_elsewhere_are_served_like_all_others() {
    let served = Served::start().await;
    let entrance = served.server.entrance();
    for name in ["kubernetes.default.svc", "10.96.0.1"] {
        let (client, server) = tokio::io::duplex(4096);
        let place = entrance.place().await;
        entrance.take(place, server);
        let mut client = speak(&served, client, name).await;
        let request = Request::get(format!("https://{name}/api/v1/namespaces"));
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let (code, list) = answer(client.send_request(request).await.unwrap()).await;
        assert_eq!(
            (code, &list["kind"]),
            (200, &json!("NamespaceList")),
            "as {name}"
        );
    }
    served.stop().await;
    // A server that has stopped closes what comes late.
    let (mut client, server) = tokio::io::duplex(4096);
    entrance.take(entrance.place().await, server);
    let mut end = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut client, &mut end)
        .await
        .unwrap();
    assert!(end.is_empty());
}
