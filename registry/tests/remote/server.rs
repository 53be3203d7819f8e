//! A small registry in this process that can be told to misbehave.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

/// How the registry misbehaves.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Breaks the connection after so many bytes of a blob's answer, once.
    Cut { digest: String, after: usize },
    /// Ends a blob's answer early as if that were all, every time.
    Short { digest: String, len: usize },
    /// Gives other bytes for a blob.
    Lie { digest: String, bytes: Vec<u8> },
    /// Answers with a status, so many times.
    Status {
        path: &'static str,
        status: u16,
        times: usize,
    },
    /// Ignores `Range`.
    NoRange,
    /// Demands a token.
    Bearer,
    /// Demands a name and password.
    Basic,
}

#[derive(Default)]
pub(crate) struct State {
    blobs: HashMap<String, Vec<u8>>,
    manifests: HashMap<String, (String, Vec<u8>)>,
    faults: Vec<Fault>,
    requests: Vec<String>,
}

/// A registry on a loopback port of its own. It ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Registry {
    pub(crate) address: String,
    pub(crate) state: Arc<Mutex<State>>,
}

type Body = BoxBody<Bytes, io::Error>;

impl Registry {
    pub(crate) async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let registry = Self {
            address,
            state: Arc::default(),
        };
        let serving = registry.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let registry = serving.clone();
                let service = service_fn(move |request| {
                    let registry = registry.clone();
                    async move { Ok::<_, Infallible>(registry.answer(request).await) }
                });
                tokio::spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        registry
    }

    pub(crate) fn blob(&self, bytes: Vec<u8>) -> String {
        let digest = digest_of(&bytes);
        self.state().blobs.insert(digest.clone(), bytes);
        digest
    }

    pub(crate) fn manifest(&self, tag: &str, media_type: &str, bytes: Vec<u8>) -> String {
        let digest = digest_of(&bytes);
        let mut state = self.state();
        for name in [tag, &digest] {
            state
                .manifests
                .insert(name.to_owned(), (media_type.to_owned(), bytes.clone()));
        }
        digest
    }

    /// Lets a tag or digest stand for bytes that may not fit it.
    pub(crate) fn lie_about_manifest(&self, name: &str, media_type: &str, bytes: Vec<u8>) {
        self.state()
            .manifests
            .insert(name.to_owned(), (media_type.to_owned(), bytes));
    }

    pub(crate) fn stored_manifest(&self, name: &str) -> Vec<u8> {
        self.state().manifests[name].1.clone()
    }

    pub(crate) fn stored(&self, digest: &str) -> Option<Vec<u8>> {
        self.state().blobs.get(digest).cloned()
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    pub(crate) fn mend(&self) {
        self.state().faults.clear();
    }

    /// Returns the requests since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state().requests)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no test panics while it holds the state")
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let range = head
            .headers
            .get("range")
            .and_then(|range| range.to_str().ok());
        let offset = range
            .and_then(|range| range.strip_prefix("bytes="))
            .and_then(|range| range.split('-').next())
            .and_then(|offset| offset.parse::<usize>().ok());
        self.state()
            .requests
            .push(format!("{} {path}", head.method));
        if let Some(refused) = self.refusal(&path, &head.headers) {
            return refused;
        }
        if path == "/token" {
            return full(200, &[], br#"{"token":"let-me-in"}"#);
        }
        if path == "/v2/" {
            return full(200, &[], b"{}");
        }
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => return full(400, &[], b"the body broke off"),
        };
        let (_, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if path.contains("/blobs/uploads/") {
            return self.upload(&head.method, head.uri.query(), &path, body);
        }
        if path.contains("/manifests/") {
            return self.manifests(&head, name, body);
        }
        self.blobs(&head.method, name, offset)
    }

    fn refusal(&self, path: &str, headers: &http::HeaderMap) -> Option<Response<Body>> {
        let authorization = headers
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        let mut state = self.state();
        for fault in &mut state.faults {
            match fault {
                Fault::Status {
                    path: part,
                    status,
                    times,
                } if *times > 0 && path.contains(*part) => {
                    *times -= 1;
                    return Some(full(*status, &[], b"not now"));
                }
                Fault::Bearer if path != "/token" && authorization != Some("Bearer let-me-in") => {
                    let realm = format!(
                        "Bearer realm=\"http://{}/token\",service=\"x\"",
                        self.address
                    );
                    return Some(full(401, &[("www-authenticate", &realm)], b"{}"));
                }
                // `user:secret`.
                Fault::Basic if authorization != Some("Basic dXNlcjpzZWNyZXQ=") => {
                    return Some(full(
                        401,
                        &[("www-authenticate", "Basic realm=\"x\"")],
                        b"{}",
                    ));
                }
                _ => {}
            }
        }
        None
    }

    fn manifests(&self, head: &http::request::Parts, name: &str, body: Bytes) -> Response<Body> {
        if head.method == Method::PUT {
            let media_type = head.headers["content-type"].to_str().expect("a media type");
            self.manifest(name, media_type, body.to_vec());
            return full(201, &[("location", "/there")], b"");
        }
        let found = self.state().manifests.get(name).cloned();
        match found {
            Some((media_type, bytes)) => {
                let digest = digest_of(&bytes);
                let headers = [
                    ("content-type", media_type.as_str()),
                    ("docker-content-digest", &digest),
                ];
                full(
                    200,
                    &headers,
                    if head.method == Method::HEAD {
                        b""
                    } else {
                        &bytes
                    },
                )
            }
            None => full(404, &[], br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
        }
    }

    fn blobs(&self, method: &Method, digest: &str, offset: Option<usize>) -> Response<Body> {
        let mut state = self.state();
        let Some(mut bytes) = state.blobs.get(digest).cloned() else {
            return full(404, &[], br#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#);
        };
        if *method == Method::HEAD {
            return full(200, &[], b"");
        }
        let mut cut = None;
        let mut offset = offset;
        state.faults.retain(|fault| match fault {
            Fault::Cut {
                digest: cut_digest,
                after,
            } if cut_digest == digest && cut.is_none() => {
                cut = Some(*after);
                false
            }
            _ => true,
        });
        for fault in &state.faults {
            match fault {
                Fault::Lie {
                    digest: lied,
                    bytes: other,
                } if lied == digest => bytes = other.clone(),
                Fault::Short { digest: short, len } if short == digest => bytes.truncate(*len),
                Fault::NoRange => offset = None,
                _ => {}
            }
        }
        if offset.is_some_and(|offset| offset >= bytes.len()) {
            return full(416, &[], b"");
        }
        let status = if offset.is_some() { 206 } else { 200 };
        let bytes = bytes.split_off(offset.unwrap_or(0));
        let Some(after) = cut else {
            return full(status, &[], &bytes);
        };
        let length = bytes.len().to_string();
        let sent = Bytes::copy_from_slice(&bytes[..after.min(bytes.len())]);
        let frames = VecDeque::from([Ok(Frame::data(sent)), Err(io::Error::other("cut"))]);
        let body = BodyExt::boxed(StreamBody::new(stream::iter(frames)));
        let response = Response::builder()
            .status(status)
            .header("content-length", length);
        response.body(body).expect("a response")
    }

    fn upload(
        &self,
        method: &Method,
        query: Option<&str>,
        path: &str,
        body: Bytes,
    ) -> Response<Body> {
        if *method == Method::POST {
            return full(202, &[("location", &format!("{path}1"))], b"");
        }
        let digest = query
            .unwrap_or_default()
            .replace("digest=", "")
            .replace("%3A", ":");
        if digest_of(&body) != digest {
            return full(400, &[], br#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
        }
        self.state().blobs.insert(digest, body.to_vec());
        full(201, &[("location", "/there")], b"")
    }
}

pub(crate) fn digest_of(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold("sha256:".to_owned(), |text, byte| {
        text + &format!("{byte:02x}")
    })
}

fn full(status: u16, headers: &[(&str, &str)], bytes: &[u8]) -> Response<Body> {
    let mut response = Response::builder().status(StatusCode::from_u16(status).expect("a status"));
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let body = http_body_util::Full::new(Bytes::copy_from_slice(bytes));
    response
        .body(body.map_err(|never| match never {}).boxed())
        .expect("a response")
}
