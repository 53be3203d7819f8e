//! A handler of `wasi:http`: greets, and names the request when it is not for `/`.

use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

struct Hello;

impl wasip2::exports::http::incoming_handler::Guest for Hello {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        let text = greeting(&request);
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

fn greeting(request: &IncomingRequest) -> String {
    let mut text = "Hello from a Coracle pod!\n".to_owned();
    let path = request.path_with_query().unwrap_or_default();
    if !matches!(path.as_str(), "" | "/") {
        let method = match request.method() {
            Method::Other(name) => name,
            known => format!("{known:?}")
                .trim_start_matches("Method::")
                .to_uppercase(),
        };
        // One write takes at most 4096 bytes.
        text.extend(format!("{method} {path}").chars().take(1000));
        text.push('\n');
    }
    text
}

wasip2::http::proxy::export!(Hello);
