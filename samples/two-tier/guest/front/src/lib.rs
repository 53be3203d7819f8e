//! The front end: a handler that finds its back end by the name of its Service, and shows a page.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam,
    Scheme,
};

/// The back end's Service: a name of the cluster, looked up for every request.
const BACK_END: &str = "back";

/// More of an answer of the back end is not shown.
const ANSWER_BYTES_MAX: u64 = 1024;

struct Front;

impl wasip2::exports::http::incoming_handler::Guest for Front {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (status, page) = match path.as_str() {
            "" | "/" => visit(),
            "/restart" => (200, page("The back end", &told(ask("/end")))),
            _ => (404, page("Nothing", "There is no such page.")),
        };
        send(answer, status, &page);
    }
}

/// Visits the back end. While it is away the page says so, and is shown again by itself.
fn visit() -> (u16, String) {
    match ask("/visit") {
        Ok(text) => (
            200,
            page("Hello from two tiers", &format!("This is {text}.")),
        ),
        Err(why) => (503, page("The back end is away", &why)),
    }
}

fn told(answer: Result<String, String>) -> String {
    match answer {
        Ok(_) => "It ends, and is started again.".to_owned(),
        Err(why) => why,
    }
}

fn ask(path: &str) -> Result<String, String> {
    let request = OutgoingRequest::new(Fields::new());
    let unusable = |()| "the request cannot be written".to_owned();
    request.set_scheme(Some(&Scheme::Http)).map_err(unusable)?;
    request.set_authority(Some(BACK_END)).map_err(unusable)?;
    request.set_path_with_query(Some(path)).map_err(unusable)?;
    let failed = |code| format!("It does not answer: {code:?}.");
    let future = outgoing_handler::handle(request, None).map_err(failed)?;
    future.subscribe().block();
    let answer = future.get().expect("it is there once the wait is over");
    let answer = answer.expect("it is taken once").map_err(failed)?;
    let body = answer.consume().map_err(unusable)?;
    let stream = body.stream().map_err(unusable)?;
    let mut text = Vec::new();
    while let Ok(more) = stream.blocking_read(ANSWER_BYTES_MAX) {
        text.extend(more);
        if text.len() as u64 >= ANSWER_BYTES_MAX {
            break;
        }
    }
    match answer.status() {
        200 => Ok(String::from_utf8_lossy(&text).into_owned()),
        status => Err(format!("It answers with status {status}.")),
    }
}

fn page(title: &str, text: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" \
         content=\"2; url=/\"><title>{title}</title><style>body{{font:1.2em sans-serif;margin:15vh auto;\
         max-width:30em;text-align:center}}a{{color:#06c}}</style></head><body><h1>{title}</h1>\
         <p>{text}</p><p><a href=\"/restart\">restart the back end</a></p></body></html>\n"
    )
}

fn send(answer: ResponseOutparam, status: u16, page: &str) {
    let headers = Fields::new();
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("content-length", &page.len().to_string()),
        ("cache-control", "no-store"),
    ] {
        headers
            .append(name, value.as_bytes())
            .expect("the header is allowed");
    }
    let response = OutgoingResponse::new(headers);
    response
        .set_status_code(status)
        .expect("the status is a status");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(answer, Ok(response));
    let stream = body.write().expect("the stream is taken once");
    // A client that has gone away is no failure of ours; a page fits into one write of 4096 bytes.
    let written = stream.blocking_write_and_flush(page.as_bytes());
    drop(stream);
    if written.is_ok() {
        let _ = OutgoingBody::finish(body, None);
    }
}

wasip2::http::proxy::export!(Front);
