//! `grpc` of probes: one call of `grpc.health.v1.Health/Check` over HTTP/2 without TLS (contract C.3).
//!
//! The two messages have one field each, so they are written and read here by hand.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use coracle_network::Stream;
use h2::client::{self, SendRequest};
use http::{HeaderMap, HeaderValue, Request, StatusCode};

use super::attempt::{Ended, Reach, shortened};
use super::http::VERSION;

/// Where a service's health is asked.
const PATH: &str = "/grpc.health.v1.Health/Check";

/// Bytes of an answer: its message has two.
const ANSWER_BYTES_MAX: usize = 4096;

/// `HealthCheckResponse.ServingStatus`
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// `SERVING`
const SERVING: u64 = 1;

/// The code of a call that its server does not know.
const UNIMPLEMENTED: &str = "12";

/// How a call ended.
enum Called {
    /// With this status of the service.
    Status(u64),
    /// With a code other than 0, and a message.
    Refused { code: String, message: String },
}

/// Asks for the health of `service` within `timeout`; whatever goes wrong is a failure.
pub(super) async fn probe(
    reach: &Reach,
    to: SocketAddr,
    service: &str,
    timeout: Duration,
) -> Ended {
    let seconds = timeout.as_secs();
    let until = tokio::time::Instant::now() + timeout;
    let connected = async {
        let stream = reach.dial(to).await?;
        client::handshake(stream).await.map_err(|e| e.to_string())
    };
    let (sender, connection) = match tokio::time::timeout_at(until, connected).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => {
            let text = format!("error: failed to connect service at \"{to}\": {error}");
            return Ended::Failed(shortened(text));
        }
        Err(_) => {
            return Ended::Failed(format!(
                "timeout: failed to connect service \"{to}\" within {seconds}s: context deadline exceeded"
            ));
        }
    };
    match tokio::time::timeout_at(until, driven(connection, call(sender, to, service))).await {
        Ok(Ok(called)) => judged(&called),
        Ok(Err(error)) => Ended::Failed(shortened(format!(
            "error: health rpc probe failed: rpc error: code = Unavailable desc = {error}"
        ))),
        Err(_) => Ended::Failed(format!(
            "timeout: health rpc did not complete within {seconds}s"
        )),
    }
}

/// Drives the connection until the call has come out.
async fn driven<T>(
    connection: client::Connection<Stream>,
    call: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let (mut connection, mut call) = (pin!(connection), pin!(call));
    tokio::select! {
        biased;
        // First, so that an answer that is complete counts though the connection broke behind it.
        called = &mut call => called,
        // When it is over, what it has brought is still read.
        _ = &mut connection => call.await,
    }
}

async fn call(sender: SendRequest<Bytes>, to: SocketAddr, service: &str) -> Result<Called, String> {
    let told = |error: h2::Error| error.to_string();
    let mut sender = sender.ready().await.map_err(told)?;
    let request = Request::post(format!("http://{to}{PATH}"))
        .header("content-type", "application/grpc")
        .header("user-agent", format!("kube-probe/{VERSION}"))
        .header("te", "trailers")
        .body(())
        .map_err(|error| error.to_string())?;
    let (answer, mut body) = sender.send_request(request, false).map_err(told)?;
    body.send_data(question(service), true).map_err(told)?;
    let answer = answer.await.map_err(told)?;
    let (head, mut body) = answer.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!(
            "unexpected HTTP status code received from server: {}",
            head.status.as_u16()
        ));
    }
    let mut taken = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(told)?;
        // The window is given back, so that a server that says too much meets the limit and not a wall.
        body.flow_control()
            .release_capacity(data.len())
            .map_err(told)?;
        if taken.len() + data.len() > ANSWER_BYTES_MAX {
            return Err("received message larger than max".to_owned());
        }
        taken.extend_from_slice(&data);
    }
    // An answer without a body carries its end in its head.
    let trailers = body.trailers().await.map_err(told)?;
    let trailers = trailers.as_ref().unwrap_or(&head.headers);
    let code = text(trailers, "grpc-status");
    if code != "0" {
        let message = text(trailers, "grpc-message");
        return Ok(Called::Refused { code, message });
    }
    let status = status(&taken).ok_or("the server's answer is no HealthCheckResponse")?;
    Ok(Called::Status(status))
}

fn judged(called: &Called) -> Ended {
    match called {
        Called::Status(SERVING) => Ended::Good,
        Called::Status(status) => {
            let name = usize::try_from(*status)
                .ok()
                .and_then(|at| STATUSES.get(at));
            let name = name.map_or_else(|| status.to_string(), |name| (*name).to_owned());
            Ended::Failed(format!("service unhealthy (responded with \"{name}\")"))
        }
        Called::Refused { code, message } if code == UNIMPLEMENTED => {
            Ended::Failed(shortened(format!(
                "error: this server does not implement the grpc health protocol \
                 (grpc.health.v1.Health): {message}"
            )))
        }
        Called::Refused { code, message } => Ended::Failed(shortened(format!(
            "error: health rpc probe failed: rpc error: code = {} desc = {message}",
            code_name(code)
        ))),
    }
}

/// The names of gRPC's codes.
fn code_name(code: &str) -> &str {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    let at = code.parse::<usize>().ok();
    at.and_then(|at| NAMES.get(at))
        .copied()
        .unwrap_or("Unknown")
}

fn text(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).map(HeaderValue::as_bytes);
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

/// `HealthCheckRequest`: field 1 is the service's name; before it the frame's head.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    // A name has a few hundred bytes at most: the API's objects do.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put(message);
    frame.freeze()
}

/// `HealthCheckResponse`: field 1 is the status, 0 when it is absent; others are skipped.
fn status(frame: &[u8]) -> Option<u64> {
    let (head, mut rest) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    // No compression was offered.
    if head[0] != 0 || usize::try_from(length) != Ok(rest.len()) {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        match key & 7 {
            0 => {
                let value = take_varint(&mut rest)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_protocol() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = "x".repeat(200);
        assert_eq!(question(&long)[5..8], [0x0a, 0xc8, 0x01]);
        for (frame, expected) in [
            (&[0, 0, 0, 0, 0][..], Some(0)),
            (&[0, 0, 0, 0, 2, 8, 1], Some(1)),
            (&[0, 0, 0, 0, 5, 0x12, 1, 9, 8, 2], Some(2)),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 2, 8, 0x80], None),
            (&[0, 0, 0, 0, 3, 0x12, 9, 0], None),
            (&[0, 0], None),
        ] {
            assert_eq!(status(frame), expected, "{frame:?}");
        }
    }
}
