//! One request over a connection of its own, to a kubelet or a pod.

use bytes::Bytes;
use futures::{
    FutureExt,
    future::{Either, join, select},
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};
use hyper::{
    client::conn::http1,
    upgrade::{self, Upgraded},
};
use hyper_util::rt::TokioIo;

use super::{Connection, KubeletBody, KubeletStream};

/// The body of a request that is passed on.
pub(crate) type SentBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// What is answered.
pub(crate) enum Answered {
    /// The connection carries what these headers say from now on.
    Switched {
        headers: HeaderMap,
        stream: Upgraded,
    },
    Plain(Response<KubeletBody>),
}

/// Returns a body without content.
pub(super) fn nothing() -> SentBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Sends a request and waits for the head of its answer. The connection ends with the answer's body.
pub(crate) async fn exchange(
    stream: KubeletStream,
    request: Request<SentBody>,
) -> Result<Answered, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // How it ended, the answer tells.
    let connection = connection.with_upgrades().map(drop).boxed();
    let sending = sender.send_request(request).boxed();
    let (answer, connection) = match select(sending, connection).await {
        Either::Left((answer, connection)) => (answer?, Some(connection)),
        Either::Right(((), sending)) => (sending.await?, None),
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answered::Plain(answer.map(|body| KubeletBody {
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
