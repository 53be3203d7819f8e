//! `exec`, `attach` and `portForward`: connections that stop being HTTP (contract E.4, E.5).
//!
//! ```text
//! request ──► what is meant ──► agree on a protocol ──► 101 ──► streams ──► session or pod
//! ```
//!
//! What an upgraded connection does is one future, which [`KubeletService::serve`] runs in the place of
//! the connection: whoever drops that ends the stream and what it started.
//!
//! - `upgrade` agrees on a protocol; `frames`, `header_block` and `channels` are the pure codecs.
//! - `spdy` and `websocket` run connections; `drive` is what both have in common, `output` the way out.
//! - `remote_command` and `port_forward` say what the streams are for.
//!
//! [`KubeletService::serve`]: super::KubeletService::serve

mod channels;
#[cfg(test)]
mod client;
mod drive;
mod frames;
mod header_block;
mod output;
mod port_forward;
mod remote_command;
mod spdy;
mod upgrade;
mod websocket;

use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use super::session::{Place, SessionKind};
use super::{KubeletBody, Refusal, Shared};

/// Connections at once: each costs its program and some hundred kilobytes while a client is slow.
pub(super) const CONNECTIONS_MAX: usize = 1024;

/// Streams at once over all connections: each costs 32 KiB while its reader is slow.
pub(super) const STREAMS_MAX: usize = 8192;

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish<'a> {
    Session {
        kind: SessionKind,
        pod: PodPath<'a>,
        container: &'a str,
    },
    Forward(PodPath<'a>),
}

/// How a path names a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PodPath<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: Option<&'a str>,
}

/// The place for what a connection does once it is no HTTP any more; part of every request that
/// arrives on a connection.
#[derive(Clone, Default)]
pub(super) struct AfterUpgrade(Arc<Mutex<Option<BoxFuture<'static, ()>>>>);

impl AfterUpgrade {
    /// Runs what the connection was upgraded for, if it was.
    pub(super) async fn run(self) {
        let work = self.0.lock().take();
        if let Some(work) = work {
            work.await;
        }
    }
}

impl<'a> Wish<'a> {
    /// Reads a path; nothing if it asks for something else.
    pub(super) fn read(segments: &[&'a str]) -> Option<Wish<'a>> {
        let (kind, rest) = match segments {
            ["exec", rest @ ..] => (Some(SessionKind::Exec), rest),
            ["attach", rest @ ..] => (Some(SessionKind::Attach), rest),
            ["portForward", rest @ ..] => (None, rest),
            _ => return None,
        };
        let pod = |namespace: &'a str, name: &'a str, uid: Option<&'a str>| PodPath {
            namespace,
            name,
            uid,
        };
        let (kind, pod, container) = match (kind, rest) {
            (Some(kind), &[namespace, name, container]) => {
                (kind, pod(namespace, name, None), container)
            }
            (Some(kind), &[namespace, name, uid, container]) => {
                (kind, pod(namespace, name, Some(uid)), container)
            }
            (None, &[namespace, name]) => return Some(Wish::Forward(pod(namespace, name, None))),
            (None, &[namespace, name, uid]) => {
                return Some(Wish::Forward(pod(namespace, name, Some(uid))));
            }
            (Some(_) | None, _) => return None,
        };
        Some(Wish::Session {
            kind,
            pod,
            container,
        })
    }
}

impl Shared {
    /// Answers a request for an upgrade; what follows is put where the connection finds it.
    pub(super) fn upgrade(
        &self,
        wish: Wish<'_>,
        head: Parts,
    ) -> Result<Response<KubeletBody>, Refusal> {
        if head.method != Method::GET && head.method != Method::POST {
            let code = StatusCode::METHOD_NOT_ALLOWED;
            return Err(Refusal::new(code, "Method Not Allowed"));
        }
        let query = head.uri.query().unwrap_or_default();
        match wish {
            Wish::Session {
                kind,
                pod,
                container,
            } => {
                let PodPath {
                    namespace,
                    name,
                    uid,
                } = pod;
                let place = Place {
                    namespace,
                    pod: name,
                    uid,
                    container,
                };
                let session = self.session(kind, place, query)?;
                self.remote_command(session, head)
            }
            Wish::Forward(pod) => self.port_forward(pod, head),
        }
    }

    fn remote_command(
        &self,
        session: super::session::Session,
        head: Parts,
    ) -> Result<Response<KubeletBody>, Refusal> {
        use remote_command::{OFFER, Protocol, over_channels, over_spdy};
        let agreed = upgrade::agree(&head, &OFFER)?;
        let streams = Arc::clone(&self.streams);
        self.switch(head, agreed.answer, move |io| async move {
            match agreed.protocol {
                Protocol::Spdy { ending, resize } => {
                    over_spdy(io, session, (ending, resize), streams).await;
                }
                Protocol::Channels(protocol, ending) => {
                    let socket = websocket::accept(io).await;
                    over_channels(socket, session, protocol, ending).await;
                }
            }
        })
    }

    fn port_forward(
        &self,
        pod: PodPath<'_>,
        head: Parts,
    ) -> Result<Response<KubeletBody>, Refusal> {
        use port_forward::{Forwarder, OFFER, Protocol, is_expected};
        let key = self.book.pod(pod.namespace, pod.name);
        let key = key.filter(|key| pod.uid.is_none_or(|uid| *key.uid == *uid));
        let Some(key) = key else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "pod does not exist"));
        };
        let agreed = upgrade::agree(&head, &OFFER)?;
        let ports = match agreed.protocol {
            Protocol::Spdy | Protocol::Tunnel => Vec::new(),
            Protocol::Channels(_) => port_forward::ports(head.uri.query().unwrap_or_default())
                .map_err(|text| Refusal::new(StatusCode::BAD_REQUEST, text))?,
        };
        let streams = Arc::clone(&self.streams);
        let forwarder = Forwarder {
            fabric: self.fabric.clone(),
            pod: key,
        };
        self.switch(head, agreed.answer, move |io| async move {
            match agreed.protocol {
                Protocol::Spdy => {
                    let work = |opened| port_forward::over_spdy(forwarder, opened);
                    spdy::serve(io, streams, is_expected, work).await;
                }
                Protocol::Tunnel => {
                    let io = websocket::Tunnel::new(websocket::accept(io).await);
                    let work = |opened| port_forward::over_spdy(forwarder, opened);
                    spdy::serve(io, streams, is_expected, work).await;
                }
                Protocol::Channels(protocol) => {
                    let (pipes, ends) = port_forward::pipes(&ports);
                    let socket = websocket::accept(io).await;
                    let work = |outputs| port_forward::over_channels(forwarder, ends, outputs);
                    websocket::serve(socket, protocol, pipes, work).await;
                }
            }
        })
    }

    /// Answers that the protocol is switched, and leaves `work` for the connection to run.
    fn switch<F>(
        &self,
        head: Parts,
        answer: Response<()>,
        work: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
    ) -> Result<Response<KubeletBody>, Refusal>
    where
        F: Future<Output = ()> + Send,
    {
        let Some(after) = head.extensions.get::<AfterUpgrade>().cloned() else {
            let text = "unable to upgrade: this is no connection";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        };
        let place = Arc::clone(&self.connections).try_acquire_owned();
        let place = place.map_err(|_| {
            let text = "too many streams are open on this node";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
        })?;
        let upgraded = hyper::upgrade::on(Request::from_parts(head, ()));
        let work = async move {
            match upgraded.await {
                Ok(io) => work(TokioIo::new(io)).await,
                Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
            }
            drop(place);
        };
        *after.0.lock() = Some(work.boxed());
        Ok(upgrade::switching(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<Wish<'_>>) {
        let segments: Vec<&str> = path.split('/').collect();
        assert_eq!(Wish::read(&segments), expected, "{path}");
    }

    #[test]
    fn paths_name_a_pod_and_maybe_its_uid() {
        let pod = |uid| PodPath {
            namespace: "d",
            name: "p",
            uid,
        };
        let session = |kind, uid| {
            Some(Wish::Session {
                kind,
                pod: pod(uid),
                container: "c",
            })
        };
        check("exec/d/p/c", session(SessionKind::Exec, None));
        check("attach/d/p/u/c", session(SessionKind::Attach, Some("u")));
        check("portForward/d/p", Some(Wish::Forward(pod(None))));
        check("portForward/d/p/u", Some(Wish::Forward(pod(Some("u")))));
        for path in [
            "exec/d/p",
            "portForward/d",
            "portForward/d/p/u/c",
            "run/d/p/c",
        ] {
            check(path, None);
        }
    }
}
