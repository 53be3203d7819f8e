//! The way to the kubelet of another process: where its Node object says, over TLS, as the API server.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, SignatureScheme,
    client::{
        WantsClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::KubeletStream;
use crate::{
    identity::{Identity, Purpose, Subject},
    kinds,
    object::{self, ObjectStore},
};

/// How long connecting and agreeing on TLS may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Whom kubelets know as the API server; the group may do everything.
const CLIENT: &str = "kube-apiserver-kubelet-client";
const CLIENT_GROUP: &str = "system:masters";
/// Kinds of addresses, in the order in which they are tried.
const ADDRESS_KINDS: [&str; 2] = ["InternalIP", "ExternalIP"];

/// Reaches the nodes that have joined from elsewhere.
pub(crate) struct Remote {
    store: ObjectStore,
    identity: Arc<Identity>,
    clock: fn() -> Timestamp,
}

impl Remote {
    pub(crate) fn new(
        store: ObjectStore,
        identity: Arc<Identity>,
        clock: fn() -> Timestamp,
    ) -> Remote {
        Remote {
            store,
            identity,
            clock,
        }
    }

    /// Opens a stream; nothing when there is no such node, or it names no kubelet.
    pub(super) async fn dial(&self, node: &str) -> Option<io::Result<KubeletStream>> {
        let nodes = kinds::served("v1", "Node")?;
        let record = self.store.get(&object::key(nodes, None, node))?;
        let address = address(&object::parse(&record))?;
        let opened = tokio::time::timeout(DIAL_TIMEOUT, self.open(address));
        Some(opened.await.unwrap_or_else(|_| {
            let text = format!("`{address}` does not answer");
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }))
    }

    async fn open(&self, address: SocketAddr) -> io::Result<KubeletStream> {
        let connector = TlsConnector::from(Arc::new(self.client_config()?));
        let stream = TcpStream::connect(address).await?;
        // Keystrokes shall not wait for one another.
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(address.ip().into());
        Ok(Box::pin(connector.connect(name, stream).await?))
    }

    /// A certificate for each connection: they are few, and none outlives its time.
    fn client_config(&self) -> io::Result<ClientConfig> {
        let subject = Subject {
            name: CLIENT.to_owned(),
            group: Some(CLIENT_GROUP.to_owned()),
            purpose: Purpose::Client,
        };
        let issued = self.identity.issue(&subject, (self.clock)());
        let issued = issued.map_err(io::Error::other)?;
        let chain = CertificateDer::from_pem_slice(issued.certificate.as_bytes());
        let chain = chain.map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes());
        let key = key.map_err(io::Error::other)?;
        any_server()?
            .with_client_auth_cert(vec![chain], key)
            .map_err(io::Error::other)
    }
}

/// Agrees on TLS with whoever is at the other end, as nobody in particular.
pub(crate) async fn secured(stream: KubeletStream, ip: IpAddr) -> io::Result<KubeletStream> {
    let connector = TlsConnector::from(Arc::new(any_server()?.with_no_client_auth()));
    let name = ServerName::IpAddress(ip.into());
    Ok(Box::pin(connector.connect(name, stream).await?))
}

fn any_server() -> io::Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = AnyServer(provider.signature_verification_algorithms);
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

/// Where a Node says that its kubelet listens.
fn address(node: &Value) -> Option<SocketAddr> {
    let status = &node["status"];
    let port = &status["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    let port = u16::try_from(port.as_u64()?)
        .ok()
        .filter(|port| *port > 0)?;
    let addresses = status["addresses"].as_array()?;
    let of_kind = |kind: &str| {
        let mut found = addresses.iter().filter(|one| one["type"] == kind);
        found.find_map(|one| one["address"].as_str()?.parse::<IpAddr>().ok())
    };
    let ip = ADDRESS_KINDS.into_iter().find_map(of_kind)?;
    Some(SocketAddr::new(ip, port))
}

/// Takes every certificate, as a stock server does that was told of no authority of its kubelets: most
/// of them sign their own.
#[derive(Debug)]
struct AnyServer(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kubelet_is_where_its_node_says() {
        let port = |port: i64| json!({"kubeletEndpoint": {"Port": port}});
        let ip = |kind: &str, address: &str| json!({"type": kind, "address": address});
        let inner = ip("InternalIP", "10.0.0.1");
        let rows = [
            (json!([inner]), port(10250), Some("10.0.0.1:10250")),
            (
                json!([ip("Hostname", "n"), ip("ExternalIP", "192.0.2.1"), inner]),
                port(1),
                Some("10.0.0.1:1"),
            ),
            (
                json!([ip("InternalIP", "n"), ip("ExternalIP", "::1")]),
                port(1),
                Some("[::1]:1"),
            ),
            (json!([ip("Hostname", "n")]), port(1), None),
            (json!([inner]), port(0), None),
            (json!([inner]), port(70000), None),
            (json!([inner]), json!({}), None),
        ];
        for (addresses, endpoints, expected) in rows {
            let node = json!({"status": {"addresses": addresses, "daemonEndpoints": endpoints}});
            let found = address(&node).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{node}");
        }
    }
}
