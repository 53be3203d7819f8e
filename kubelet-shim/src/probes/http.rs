//! `httpGet` of probes and hooks: one GET over a connection of its own (contract C.3).

use std::error::Error as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Names;
use super::attempt::{Ended, OUTPUT_BYTES_MAX, Place, Reach, Refusal, find, in_words, shortened};
use crate::spec::{HttpGet, Scheme};

/// Redirects that are followed (as Go's client does).
const REDIRECTS_MAX: usize = 10;

/// Bytes of an answer's head. Go's client takes a megabyte; what asks a probe needs less.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The version that probes and hooks say they are of.
pub(super) const VERSION: &str = "1.36";

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agent {
    /// A probe.
    Probe,
    /// A lifecycle hook.
    Hook,
}

/// An answer: status and the beginning of the body.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    location: Option<HeaderValue>,
    body: Bytes,
}

/// Where one request of a row of redirects goes.
#[derive(Clone)]
struct Target {
    scheme: Scheme,
    to: SocketAddr,
    /// What the address was found by, and is called towards the server.
    name: Option<Arc<str>>,
    path: PathAndQuery,
}

/// Asks within `timeout` and judges the answer.
pub(super) async fn probe(
    reach: &Reach,
    get: &HttpGet,
    whom: (IpAddr, &Names),
    agent: Agent,
    timeout: Duration,
) -> Ended {
    match self::get(reach, get, whom, agent, timeout).await {
        Ok(answer) => judged(&answer),
        Err(Refusal::Failed(text) | Refusal::NotTls(text)) => Ended::Failed(shortened(text)),
        Err(Refusal::Error(text)) => Ended::Errored(shortened(text)),
    }
}

fn judged(answer: &Answer) -> Ended {
    let status = answer.status;
    if status.is_redirection() {
        let body = String::from_utf8_lossy(&answer.body);
        Ended::Warned(shortened(format!(
            "Probe terminated redirects, Response body: {body}"
        )))
    } else if status.is_success() {
        Ended::Good
    } else {
        Ended::Failed(format!(
            "HTTP probe failed with statuscode: {}",
            status.as_u16()
        ))
    }
}

/// Asks within `timeout`, following redirects to the same host.
pub(crate) async fn get(
    reach: &Reach,
    get: &HttpGet,
    whom: (IpAddr, &Names),
    agent: Agent,
    timeout: Duration,
) -> Result<Answer, Refusal> {
    let began = tokio::time::Instant::now();
    let found = find(get.host.as_ref(), &get.port, whom);
    let Place { to, name } = match tokio::time::timeout(timeout, found).await {
        Ok(found) => found.map_err(Refusal::Error)?,
        Err(_) => return Err(Refusal::Error("dial tcp: lookup timed out".to_owned())),
    };
    let timeout = timeout.saturating_sub(began.elapsed());
    let mut target = Target {
        scheme: get.scheme,
        to,
        name,
        path: get.path.clone(),
    };
    let headers = headers(&get.headers, agent);
    let mut asked = target.clone();
    let row = async {
        let mut follows = 0;
        loop {
            asked = target.clone();
            let answer = ask(reach, &target, &headers).await?;
            let Some(next) = redirect(&answer, &target) else {
                return Ok(answer);
            };
            if follows == REDIRECTS_MAX {
                let text = format!("Get \"{next}\": stopped after {REDIRECTS_MAX} redirects");
                return Err(Refusal::Failed(text));
            }
            follows += 1;
            target = next;
        }
    };
    match tokio::time::timeout(timeout, row).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::Failed(format!(
            "Get \"{asked}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        ))),
    }
}

/// The headers of every request: the pod's, and ours where it names none. An empty value takes one away.
fn headers(own: &[(HeaderName, HeaderValue)], agent: Agent) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(own.len() + 4);
    for (name, value) in own {
        headers.append(name.clone(), value.clone());
    }
    let name = match agent {
        Agent::Probe => "kube-probe",
        Agent::Hook => "kube-lifecycle",
    };
    if let Ok(value) = HeaderValue::from_str(&format!("{name}/{VERSION}")) {
        headers.entry(USER_AGENT).or_insert(value);
    }
    headers
        .entry(ACCEPT)
        .or_insert(HeaderValue::from_static("*/*"));
    for name in [USER_AGENT, ACCEPT, HOST] {
        if headers.get(&name).is_some_and(HeaderValue::is_empty) {
            headers.remove(&name);
        }
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers
}

async fn ask(reach: &Reach, target: &Target, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let failed = |text: String| Refusal::Failed(format!("Get \"{target}\": {text}"));
    let stream = reach.dial(target.to).await.map_err(failed)?;
    match target.scheme {
        Scheme::Http => exchange(stream, target, headers).await,
        Scheme::Https => {
            let secured = reach.tls.connect(target.to.ip(), stream).await;
            let secured = secured.map_err(|error| match is_plain(&error) {
                true => Refusal::NotTls(format!(
                    "Get \"{target}\": http: server gave HTTP response to HTTPS client"
                )),
                false => failed(in_words(&error)),
            })?;
            exchange(secured, target, headers).await
        }
    }
}

async fn exchange<S>(stream: S, target: &Target, headers: &HeaderMap) -> Result<Answer, Refusal>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed =
        |error: &hyper::Error| Refusal::Failed(format!("Get \"{target}\": {}", told(error)));
    let (mut sender, connection) = http1::Builder::new()
        .title_case_headers(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let request = request(target, headers).map_err(|error| Refusal::Error(error.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await;
        read(response.map_err(|error| failed(&error))?).await
    };
    let (mut connection, mut answer) = (std::pin::pin!(connection), std::pin::pin!(answer));
    tokio::select! {
        biased;
        // First, so that an answer that is complete counts though the connection broke behind it.
        answer = &mut answer => answer,
        // Drives the connection; when it is over, what it has brought is still read.
        _ = &mut connection => answer.await,
    }
}

fn request(target: &Target, headers: &HeaderMap) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::get(target.path.as_str()).body(Empty::new())?;
    *request.headers_mut() = headers.clone();
    if !headers.contains_key(HOST) {
        let host = HeaderValue::from_str(&target.authority())?;
        request.headers_mut().insert(HOST, host);
    }
    Ok(request)
}

/// Reads as much of a body as is told; one that breaks off cannot be judged.
async fn read(response: Response<Incoming>) -> Result<Answer, Refusal> {
    let status = response.status();
    let location = response.headers().get(LOCATION).cloned();
    let mut body = response.into_body();
    let mut taken = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::Error(told(&error)))?;
        if let Some(data) = frame.data_ref() {
            let room = OUTPUT_BYTES_MAX - taken.len();
            taken.extend_from_slice(&data[..data.len().min(room)]);
        }
        if taken.len() == OUTPUT_BYTES_MAX {
            break;
        }
    }
    Ok(Answer {
        status,
        location,
        body: taken.freeze(),
    })
}

/// Where an answer sends us, if that is the host we asked.
fn redirect(answer: &Answer, from: &Target) -> Option<Target> {
    if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = answer.location.as_ref()?.to_str().ok()?;
    if !location.contains("://") && !location.starts_with("//") {
        let path = if location.starts_with('/') {
            location.to_owned()
        } else {
            let path = from.path.path();
            let folder = path.rfind('/').map_or("", |end| &path[..end]);
            format!("{folder}/{location}")
        };
        let path = path.split('#').next()?.parse().ok()?;
        return Some(Target {
            path,
            ..from.clone()
        });
    }
    let absolute = match location.strip_prefix("//") {
        Some(rest) => format!("{}://{rest}", from.scheme.lower()),
        None => location.split('#').next()?.to_owned(),
    };
    let uri: Uri = absolute.parse().ok()?;
    let (scheme, port) = match uri.scheme_str()? {
        "http" => (Scheme::Http, 80),
        "https" => (Scheme::Https, 443),
        _ => return None,
    };
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let is_same = match &from.name {
        Some(name) => host.eq_ignore_ascii_case(name),
        None => host.parse() == Ok(from.to.ip()),
    };
    if !is_same {
        return None;
    }
    Some(Target {
        scheme,
        to: SocketAddr::new(from.to.ip(), uri.port_u16().unwrap_or(port)),
        name: from.name.clone(),
        path: uri
            .path_and_query()
            .cloned()
            .unwrap_or(PathAndQuery::from_static("/")),
    })
}

/// Whether a handshake failed because what came was no message of TLS.
fn is_plain(error: &io::Error) -> bool {
    let source = error.get_ref().and_then(|s| s.downcast_ref());
    matches!(source, Some(rustls::Error::InvalidMessage(_)))
}

/// What Go calls a failed exchange.
fn told(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        return "EOF".to_owned();
    }
    let source = error.source().and_then(|s| s.downcast_ref::<io::Error>());
    match source {
        Some(source) => format!("read: {}", in_words(source)),
        None => error.to_string(),
    }
}

impl Scheme {
    fn lower(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

impl Target {
    fn authority(&self) -> String {
        match &self.name {
            Some(name) => format!("{name}:{}", self.to.port()),
            None => self.to.to_string(),
        }
    }
}

impl std::fmt::Display for Target {
    /// As a URL.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let authority = self.authority();
        write!(f, "{}://{authority}{}", self.scheme.lower(), self.path)
    }
}
