//! The answers that the runtime gives in a guest's place.

use super::body::AnswerBody;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

/// What the client is told when no guest answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The request names no host, which a guest could not be told either.
    NoHost,
    /// The request names several hosts: whoever is before us may have meant another one.
    ManyHosts,
    /// The guest failed before it answered, or answered with an error.
    GuestFailed,
    /// Every instance of the container was busy for too long.
    Busy,
    /// The guest took too long to begin its answer.
    TooSlow,
}

impl Reply {
    fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Reply::NoHost => (StatusCode::BAD_REQUEST, "the request names no host\n"),
            Reply::ManyHosts => (
                StatusCode::BAD_REQUEST,
                "the request names more than one host\n",
            ),
            Reply::GuestFailed => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the program failed to answer\n",
            ),
            Reply::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "all instances of the program are busy\n",
            ),
            Reply::TooSlow => (
                StatusCode::GATEWAY_TIMEOUT,
                "the program took too long to answer\n",
            ),
        }
    }

    pub(super) fn response(self) -> Response<AnswerBody> {
        let (status, text) = self.parts();
        let body = Full::new(Bytes::from_static(text.as_bytes()));
        let mut response = Response::new(AnswerBody::Ours(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if self == Reply::Busy {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
