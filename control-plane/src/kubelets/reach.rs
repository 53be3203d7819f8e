//! One connection to a kubelet that stops being HTTP.

use futures::{
    FutureExt,
    future::{Either, join, select},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{
    client::conn::http1,
    upgrade::{self, Upgraded},
};
use hyper_util::rt::TokioIo;

use super::{Connection, KubeletBody, KubeletStream};

/// What a kubelet answers a request for an upgrade.
pub(super) enum Answered {
    /// The connection carries what these headers say.
    Switched {
        headers: HeaderMap,
        stream: Upgraded,
    },
    Refused(Response<KubeletBody>),
}

/// Asks for an upgrade.
pub(super) async fn upgrade(
    stream: KubeletStream,
    node: &str,
    (method, path): (Method, &str),
    mut headers: HeaderMap,
) -> Result<Answered, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // How it ended, the answer tells.
    let connection = connection.with_upgrades().map(drop).boxed();
    let host = HeaderValue::from_str(node).expect("the name of a node is valid in a header");
    headers.insert(header::HOST, host);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(http_body_util::Empty::new())
        .expect("names of pods and containers are valid in a path");
    *request.headers_mut() = headers;
    let sending = sender.send_request(request).boxed();
    let (answer, connection) = match select(sending, connection).await {
        Either::Left((answer, connection)) => (answer?, Some(connection)),
        Either::Right(((), sending)) => (sending.await?, None),
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answered::Refused(answer.map(|body| KubeletBody {
            body,
            connection: Connection(connection),
            _sender: sender,
        })));
    }
    let headers = answer.headers().clone();
    let upgraded = upgrade::on(answer);
    let driven = async {
        if let Some(connection) = connection {
            connection.await;
        }
    };
    let (stream, ()) = join(upgraded, driven).await;
    Ok(Answered::Switched {
        headers,
        stream: stream?,
    })
}
