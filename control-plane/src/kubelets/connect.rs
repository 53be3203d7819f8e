//! `pods/exec`, `pods/attach`, `pods/portforward`: which container of which node is meant, and the
//! connection to its kubelet. What the two sides say after that is nobody's business here.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderName, Method, Response, StatusCode, header, request::Parts};
use hyper::upgrade::Upgraded;
use serde_json::Value;

use super::{Kubelets, log, reach::Answered};
use crate::{kinds::Subresource, request::Call, service::ApiBody, status::ApiError};

/// The query parameters of a connection, beside `container`.
pub(crate) const CONNECT_PARAMETERS: &[&str] =
    &["command", "ports", "stderr", "stdin", "stdout", "tty"];

/// What a client and a kubelet say to each other about the protocol. Anything else a client says,
/// such as who it is, stays here.
const SHAKEN: [HeaderName; 8] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_VERSION,
    HeaderName::from_static("x-accepted-stream-protocol-versions"),
    HeaderName::from_static("x-stream-protocol-version"),
];

/// How a client asks for a connection.
#[derive(Debug)]
pub(crate) struct Asked {
    method: Method,
    headers: HeaderMap,
}

/// The connection to a kubelet, for the server to join with that of the client; part of an answer
/// that switches protocols. Whoever takes it is the only one.
#[derive(Clone)]
pub(crate) struct Joined(Arc<Mutex<Option<Upgraded>>>);

impl Joined {
    pub(crate) fn new(stream: Upgraded) -> Joined {
        Joined(Arc::new(Mutex::new(Some(stream))))
    }

    pub(crate) fn take(&self) -> Option<Upgraded> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        place.take()
    }
}

impl Asked {
    pub(crate) fn of(head: &Parts) -> Asked {
        Asked {
            method: head.method.clone(),
            headers: shaken(&head.headers),
        }
    }

    fn is_upgrade(&self) -> bool {
        is_upgrade(&self.headers)
    }
}

/// Says whether a connection shall carry something else than HTTP.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(header::CONNECTION);
    let mut words = connection
        .iter()
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

/// Answers a request for a connection with what the kubelet answers.
pub(crate) async fn connect(
    kubelets: &Kubelets,
    call: &Call,
    pod: &Value,
    asked: Asked,
) -> Result<Response<ApiBody>, ApiError> {
    let path = path(call, pod)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        let name = call.objects.name.as_deref().unwrap_or_default();
        let message = format!("pod {name} does not have a host assigned");
        return Err(ApiError::bad_request(message));
    }
    if !asked.is_upgrade() {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    let Asked { method, headers } = asked;
    let answered = kubelets.upgrade(node, method, &path, headers).await;
    match answered.map_err(log::unreachable)? {
        Answered::Switched { headers, stream } => {
            let mut response = Response::new(ApiBody::whole(bytes::Bytes::new()));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = shaken(&headers);
            response.extensions_mut().insert(Joined::new(stream));
            Ok(response)
        }
        // A refusal is passed on as it is: the client shows its text.
        Answered::Plain(refusal) => {
            let (head, body) = refusal.into_parts();
            let text = body.into_text(log::REFUSAL_BYTES_MAX).await;
            let mut response = Response::new(ApiBody::whole(text.into()));
            *response.status_mut() = head.status;
            let headers = response.headers_mut();
            *headers = shaken(&head.headers);
            headers.remove(header::CONNECTION);
            if let Some(media) = head.headers.get(header::CONTENT_TYPE) {
                headers.insert(header::CONTENT_TYPE, media.clone());
            }
            Ok(response)
        }
    }
}

/// Returns where the kubelet has what is asked for, and how it is asked.
fn path(call: &Call, pod: &Value) -> Result<String, ApiError> {
    let objects = &call.objects;
    let namespace = objects.namespace.as_deref().unwrap_or_default();
    let name = objects.name.as_deref().unwrap_or_default();
    let container = || {
        let named = log::parameter(&call.options.log, "container");
        log::container(name, named, &pod["spec"])
    };
    let asked = &call.options.connect;
    let mut query = form_urlencoded::Serializer::new(String::new());
    let path = match objects.subresource {
        Some(Subresource::PortForward) => {
            let ports = asked.iter().filter(|(known, _)| *known == "ports");
            let ports: Vec<_> = ports.map(|(_, value)| value.as_str()).collect();
            if !ports.is_empty() {
                query.append_pair("port", &ports.join(","));
            }
            format!("/portForward/{namespace}/{name}")
        }
        Some(part) => {
            for (ours, theirs) in [
                ("stdin", "input"),
                ("stdout", "output"),
                ("stderr", "error"),
                ("tty", "tty"),
            ] {
                if log::parameter(asked, ours).is_some_and(is_set) {
                    query.append_pair(theirs, "1");
                }
            }
            let words = asked.iter().filter(|(known, _)| *known == "command");
            if part == Subresource::Exec {
                query.extend_pairs(words);
            }
            format!("/{}/{namespace}/{name}/{}", part.as_str(), container()?)
        }
        None => return Err(ApiError::no_such_path()),
    };
    Ok(match query.finish() {
        query if query.is_empty() => path,
        query => format!("{path}?{query}"),
    })
}

/// Only these two words mean no, as for every query that Kubernetes reads.
fn is_set(value: &str) -> bool {
    !(value == "0" || value.eq_ignore_ascii_case("false"))
}

fn shaken(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in SHAKEN {
        for value in headers.get_all(&name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}
