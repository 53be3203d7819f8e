//! `proxy` of nodes, pods and services: the API passes requests on, as they are, to what an object stands for.
//!
//! ```text
//! /api/v1/namespaces/default/pods/http:web:8080/proxy/a/b?c
//! └────────────────────── prefix ───────────────────┘└rest┘
//! ```
//!
//! Method, body and header fields pass as they come, but for those that concern one connection; nothing is kept
//! in between. Links in answers of HTML are not rewritten, as a stock server does; `Location` is.

mod target;

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    request::Parts,
};

use target::Scheme;
pub(crate) use target::Target;

use crate::{
    kinds::Verb,
    kubelets::{self, Answered, Joined, Kubelets, SentBody, exchange, is_upgrade, secured},
    request,
    service::{ApiBody, BrokenOff},
    status::ApiError,
};

/// How long connecting to a pod may take; the stock server's number.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Fields about one connection (RFC 9110, 7.6.1), and what this server has answered itself by then.
const OF_ONE_CONNECTION: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::EXPECT,
];

const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The body of an answer that somebody else writes.
pub(crate) struct PassedStream(BoxStream<'static, Result<Bytes, hyper::Error>>);

impl fmt::Debug for PassedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PassedStream")
    }
}

impl PassedStream {
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        let next = Pin::new(&mut self.0).poll_next(cx);
        next.map(|next| {
            next.map(|piece| {
                piece.map_err(|error| {
                    tracing::debug!(%error, "an answer that is passed on broke off");
                    BrokenOff
                })
            })
        })
    }
}

/// Says whether a path is one behind `proxy`; one that hides it in `%70` is taken for another.
pub(crate) fn is_meant(path: &str) -> bool {
    let mut segments = path.split('/').skip(3);
    let at = match segments.next() {
        Some("namespaces") => 3,
        Some("nodes") => 1,
        _ => return false,
    };
    segments.nth(at) == Some("proxy")
}

/// Names what a method does to who may.
pub(crate) fn verb(method: &Method) -> Result<Verb, ApiError> {
    Ok(match method.as_str() {
        "GET" | "HEAD" | "OPTIONS" => Verb::Get,
        "POST" => Verb::Create,
        "PUT" => Verb::Update,
        "PATCH" => Verb::Patch,
        "DELETE" => Verb::Delete,
        _ => return Err(ApiError::method_not_allowed()),
    })
}

/// Passes a request on and answers with what is answered.
pub(crate) async fn pass_on(
    kubelets: &Kubelets,
    target: &Target,
    head: Parts,
    body: SentBody,
) -> Result<Response<ApiBody>, ApiError> {
    let path = head.uri.path().to_owned();
    let (prefix, rest) = divide(&path)?;
    let upgrade = is_upgrade(&head.headers);
    if rest.is_empty() && !upgrade && matches!(head.method, Method::GET | Method::HEAD) {
        return redirect(&head.uri);
    }
    let host = host(&head);
    let places = Places {
        prefix: prefix.to_owned(),
        asked: host.clone(),
        target: target.to_string(),
    };
    let request = outgoing(head, body, rest, (prefix, host), upgrade)?;
    let answered = match target {
        Target::Kubelet { node } => kubelets
            .ask(node, request)
            .await
            .map_err(kubelets::unreachable)?,
        Target::Address { scheme, to } => {
            let asked = ask(kubelets, *scheme, *to, request).await;
            asked.map_err(|why| {
                ApiError::unavailable(format!("error trying to reach service: {why}"))
            })?
        }
    };
    Ok(match answered {
        Answered::Switched { headers, stream } => {
            let mut response = Response::new(ApiBody::whole(Bytes::new()));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = headers;
            response.extensions_mut().insert(Joined::new(stream));
            response
        }
        Answered::Plain(answer) => {
            let (head, body) = answer.into_parts();
            let body = PassedStream(body.into_stream().boxed());
            let mut response = Response::new(ApiBody::passed_on(body));
            *response.status_mut() = head.status;
            *response.headers_mut() = of_the_end(head.headers);
            places.relocate(response.headers_mut());
            response
        }
    })
}

/// Divides a path, as it was written, behind `proxy`.
fn divide(path: &str) -> Result<(&str, &str), ApiError> {
    let segments = match path.split('/').nth(3) {
        Some("namespaces") => 8,
        _ => 6,
    };
    let end = path.match_indices('/').nth(segments - 1);
    let (prefix, rest) = path.split_at(end.map_or(path.len(), |(at, _)| at));
    // A name is checked as it is read, and there a slash that was written as `%2F` divides it.
    let read = request::decoded(prefix)?;
    match read.split('/').count() == segments && read.ends_with("/proxy") {
        true => Ok((prefix, rest)),
        false => Err(ApiError::no_such_path()),
    }
}

/// Sends a client to where relative links lead on.
fn redirect(uri: &Uri) -> Result<Response<ApiBody>, ApiError> {
    let mut place = format!("{}/", uri.path());
    if let Some(query) = uri.query() {
        place = format!("{place}?{query}");
    }
    let place = HeaderValue::from_str(&place);
    let place = place.map_err(|_| ApiError::no_such_path())?;
    let mut response = Response::new(ApiBody::whole(Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, place);
    Ok(response)
}

/// Returns what the client calls this server.
fn host(head: &Parts) -> HeaderValue {
    let of_uri = head.uri.authority();
    let of_uri = of_uri.and_then(|name| HeaderValue::from_str(name.as_str()).ok());
    // HTTP/2 has it in the request's target.
    let host = head.headers.get(header::HOST).cloned().or(of_uri);
    host.unwrap_or(HeaderValue::from_static("localhost"))
}

/// Makes the request that is sent.
fn outgoing(
    head: Parts,
    body: SentBody,
    rest: &str,
    (prefix, host): (&str, HeaderValue),
    upgrade: bool,
) -> Result<Request<SentBody>, ApiError> {
    let rest = if rest.is_empty() { "/" } else { rest };
    let uri = match head.uri.query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    let uri = uri.parse::<Uri>();
    let uri = uri.map_err(|_| ApiError::bad_request("invalid path"))?;
    let forwarded = HeaderValue::from_str(&format!("{prefix}{rest}"));
    let protocol = head.headers.get(header::UPGRADE).cloned();
    let mut headers = of_the_end(head.headers.clone());
    // Who asks is nobody else's business.
    headers.remove(header::AUTHORIZATION);
    if let (true, Some(protocol)) = (upgrade, protocol) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    joined_cookies(&mut headers);
    headers.insert(header::HOST, host.clone());
    if let Ok(forwarded) = forwarded {
        headers.insert(FORWARDED_URI, forwarded);
    }
    headers.insert(FORWARDED_HOST, host);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Leaves out what concerns one connection only.
fn of_the_end(mut headers: HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in OF_ONE_CONNECTION.iter().chain(&named) {
        headers.remove(name);
    }
    headers.remove(header::UPGRADE);
    headers
}

/// HTTP/2 may send each cookie in a field of its own, HTTP/1 not (RFC 9113, 8.2.3).
fn joined_cookies(headers: &mut HeaderMap) {
    let fields: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
    if fields.len() < 2 {
        return;
    }
    let fields: Vec<_> = fields.iter().map(|field| field.as_bytes()).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&fields.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Asks a pod; why it cannot be asked is told as Go tells it.
async fn ask(
    kubelets: &Kubelets,
    scheme: Scheme,
    to: SocketAddr,
    request: Request<SentBody>,
) -> Result<Answered, String> {
    let dialled = async {
        let stream = kubelets.dial_pod(to).await?;
        match scheme {
            Scheme::Http => Ok(stream),
            Scheme::Https => secured(stream, to.ip()).await,
        }
    };
    let stream = match tokio::time::timeout(DIAL_TIMEOUT, dialled).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(format!("dial tcp {to}: connect: {}", in_words(&error))),
        Err(_) => return Err(format!("dial tcp {to}: i/o timeout")),
    };
    exchange(stream, request)
        .await
        .map_err(|error| format!("{to}: {error}"))
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// What the two ends call themselves.
struct Places {
    prefix: String,
    asked: HeaderValue,
    target: String,
}

impl Places {
    /// Turns a place that the answer names into one that the client can ask for.
    fn relocate(&self, headers: &mut HeaderMap) {
        let named = headers.get(header::LOCATION);
        let Some(place) = named.and_then(|place| self.seen_from_outside(place.to_str().ok()?))
        else {
            return;
        };
        if let Ok(place) = HeaderValue::from_str(&place) {
            headers.insert(header::LOCATION, place);
        }
    }

    /// Returns nothing for a place elsewhere, and for one that is right as it stands.
    fn seen_from_outside(&self, place: &str) -> Option<String> {
        let asked = self.asked.to_str().ok()?;
        let (origin, path) = match place.strip_prefix('/') {
            // `//host/path` has a host.
            Some(rest) if rest.starts_with('/') => return None,
            Some(_) => (String::new(), place),
            None => {
                let (_, rest) = place.split_once("://")?;
                let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
                if host != self.target && host != asked {
                    return None;
                }
                (format!("https://{asked}"), path)
            }
        };
        if path.starts_with(&self.prefix) {
            return None;
        }
        let gap = if path.starts_with('/') { "" } else { "/" };
        Some(format!("{origin}{}{gap}{path}", self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "/api/v1/namespaces/a/pods/p:80/proxy";

    #[test]
    fn a_path_is_divided_behind_proxy_as_it_was_written() {
        for (path, expected) in [
            (POD.to_owned(), Some((POD, ""))),
            (format!("{POD}/"), Some((POD, "/"))),
            (
                format!("{POD}/a%2Fb//proxy/"),
                Some((POD, "/a%2Fb//proxy/")),
            ),
            (
                "/api/v1/nodes/n/proxy/metrics".to_owned(),
                Some(("/api/v1/nodes/n/proxy", "/metrics")),
            ),
            // As it is read, somebody else's pod.
            (
                "/api/v1/namespaces/a/pods/b%2Fproxy/c/proxy/".to_owned(),
                None,
            ),
            (
                "/api/v1/namespaces/a%2Fpods/b/proxy/proxy/".to_owned(),
                None,
            ),
        ] {
            assert_eq!(divide(&path).ok(), expected, "{path}");
        }
    }

    #[test]
    fn only_paths_behind_proxy_have_time_without_end() {
        for (path, expected) in [
            (POD, true),
            ("/api/v1/nodes/n/proxy", true),
            ("/api/v1/namespaces/a/services/s/proxy/x", true),
            ("/api/v1/namespaces/proxy", false),
            ("/api/v1/namespaces/a/pods/proxy", false),
            ("/api/v1/nodes/proxy", false),
            ("/api/v1/nodes/n/status", false),
            ("/", false),
        ] {
            assert_eq!(is_meant(path), expected, "{path}");
        }
    }

    #[test]
    fn a_named_place_is_one_that_the_client_can_ask_for() {
        let places = Places {
            prefix: POD.to_owned(),
            asked: HeaderValue::from_static("localhost:6443"),
            target: "10.244.0.5:80".to_owned(),
        };
        for (place, expected) in [
            ("/login?a", Some(format!("{POD}/login?a"))),
            (
                "http://10.244.0.5:80/x",
                Some(format!("https://localhost:6443{POD}/x")),
            ),
            (
                "https://localhost:6443",
                Some(format!("https://localhost:6443{POD}/")),
            ),
            ("http://elsewhere/x", None),
            ("//elsewhere/x", None),
            ("next", None),
            ("", None),
            (&format!("{POD}/y"), None),
        ] {
            assert_eq!(places.seen_from_outside(place), expected, "{place}");
        }
    }

    #[test]
    fn what_concerns_one_connection_stays_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let mut left = of_the_end(headers);
        joined_cookies(&mut left);
        let mut names: Vec<_> = left.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "cookie"]);
        assert_eq!(left[header::COOKIE], "a=1; b=2");
    }
}
