//! A handler that says which version of it answers.

use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Canary;

impl wasip2::exports::http::incoming_handler::Guest for Canary {
    fn handle(_: IncomingRequest, answer: ResponseOutparam) {
        let version = std::env::var("VERSION").unwrap_or_else(|_| "unknown".to_owned());
        let text = format!("version {version}\n");
        let headers = Fields::new();
        for (name, value) in [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", &text.len().to_string()),
        ] {
            headers
                .append(name, value.as_bytes())
                .expect("the header is allowed");
        }
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(answer, Ok(response));
        let stream = body.write().expect("the stream is taken once");
        // A client that has gone away is no failure of ours.
        let written = stream.blocking_write_and_flush(text.as_bytes());
        drop(stream);
        if written.is_ok() {
            let _ = OutgoingBody::finish(body, None);
        }
    }
}

wasip2::http::proxy::export!(Canary);
