//! The API as a tower service.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;

/// The body of an answer.
pub type ApiBody = Full<Bytes>;

/// The embedded API: takes HTTP requests, from memory or from a connection.
#[derive(Clone, Debug)]
pub struct ApiService;

impl<B> tower::Service<Request<B>> for ApiService {
    type Response = Response<ApiBody>;
    type Error = Infallible;
    type Future = Ready<Result<Response<ApiBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        ready(Ok(response))
    }
}
