//! Requests by `wasi:http`, over the pod's network, with the host's TLS.

use std::io;

use std::rc::Rc;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    Scheme,
};

use super::{Input, Output, Request, Source};
use crate::reactor;

/// How much is read at once.
const CHUNK_BYTES: usize = 32 * 1024;

/// An answer. What is within comes before what it is within, as it has to be dropped first.
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    input: Input,
    _body: IncomingBody,
    _response: IncomingResponse,
}

impl Response {
    /// Its headers.
    pub(crate) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let mut found = self.headers.iter();
        let found = found.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    }

    /// Reads a piece of the body; nothing is the end.
    pub(crate) async fn read(&self) -> io::Result<Vec<u8>> {
        self.input.read(CHUNK_BYTES).await
    }
}

/// Sends a request and waits until its answer begins.
pub(crate) async fn request(request: Request) -> io::Result<Response> {
    let invalid = |_| io::Error::other("the request cannot be written");
    let fields = Fields::new();
    for (name, value) in &request.headers {
        let bytes = value.as_bytes().to_vec();
        fields
            .append(name, &bytes)
            .map_err(|_| io::Error::other(format!("the header `{name}` cannot be sent")))?;
    }
    if !request.body.is_empty() {
        let length = request.body.len().to_string().into_bytes();
        // The host may insist on counting itself.
        let _ = fields.append("content-length", &length);
    }
    let outgoing = OutgoingRequest::new(fields);
    outgoing
        .set_method(&method(&request.method))
        .map_err(invalid)?;
    let scheme = if request.secure {
        Scheme::Https
    } else {
        Scheme::Http
    };
    outgoing.set_scheme(Some(&scheme)).map_err(invalid)?;
    outgoing
        .set_authority(Some(&request.authority))
        .map_err(invalid)?;
    outgoing
        .set_path_with_query(Some(&request.path))
        .map_err(invalid)?;
    let body = outgoing.body().map_err(invalid)?;
    let future = outgoing_handler::handle(outgoing, None).map_err(|code| error(&code))?;
    if !request.body.is_empty() {
        let stream = body.write().map_err(invalid)?;
        let output = Output::new(stream);
        output.write(&request.body).await?;
    }
    OutgoingBody::finish(body, None).map_err(|code| error(&code))?;
    let answer = {
        let source = Rc::new(Source::of(future.subscribe()));
        loop {
            match future.get() {
                Some(answer) => break answer,
                None => reactor::wait_for(&source).await,
            }
        }
    };
    let response = answer
        .map_err(|()| io::Error::other("the answer was taken twice"))?
        .map_err(|code| error(&code))?;
    let headers = response.headers().entries();
    let headers = headers
        .into_iter()
        .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
        .collect();
    let body = response.consume().map_err(invalid)?;
    let stream = body.stream().map_err(invalid)?;
    Ok(Response {
        status: response.status(),
        headers,
        input: Input::new(stream),
        _body: body,
        _response: response,
    })
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "PATCH" => Method::Patch,
        "OPTIONS" => Method::Options,
        other => Method::Other(other.to_owned()),
    }
}

fn error(code: &ErrorCode) -> io::Error {
    match code {
        ErrorCode::ConnectionRefused => io::ErrorKind::ConnectionRefused.into(),
        ErrorCode::ConnectionTimeout => io::ErrorKind::TimedOut.into(),
        ErrorCode::DestinationIpUnroutable | ErrorCode::DestinationUnavailable => {
            io::ErrorKind::HostUnreachable.into()
        }
        ErrorCode::DnsError(_) | ErrorCode::DestinationNotFound => {
            io::Error::other("Name does not resolve")
        }
        ErrorCode::DnsTimeout => io::Error::other("the name could not be looked up in time"),
        ErrorCode::DestinationIpProhibited => io::ErrorKind::PermissionDenied.into(),
        ErrorCode::TlsCertificateError => io::Error::other("the certificate is not trusted"),
        ErrorCode::TlsProtocolError | ErrorCode::TlsAlertReceived(_) => {
            io::Error::other("TLS failed")
        }
        ErrorCode::InternalError(Some(text)) => io::Error::other(text.clone()),
        other => io::Error::other(format!("{other:?}")),
    }
}
