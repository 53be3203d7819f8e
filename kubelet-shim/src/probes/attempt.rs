//! One attempt of one probe: at most its timeout, and how it came out in the kubelet's words.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use coracle_network::{Fabric, Stream};
use tokio::sync::Semaphore;

use super::http::{self, Agent};
use super::registry::Job;
use super::tls::Tls;
use super::{Names, Programs, exec, grpc};
use crate::spec::{Check, Probe, ProbeHost, TargetPort};

/// Tries in a row of an attempt that cannot be made (contract C.2).
const TRIES_MAX: usize = 3;

/// Programs of probes that run at once on a node: each is an instance with a memory of its own.
const PROGRAMS_MAX: usize = 256;

/// Longest text of an attempt that is told (contract C.2).
pub(crate) const OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// The way to pods. Made once: it holds the TLS configuration.
#[derive(Clone)]
pub(crate) struct Reach {
    fabric: Fabric,
    pub(super) tls: Tls,
    programs: Arc<Semaphore>,
}

/// Where an attempt goes: an address, and the name it was found by, if it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) to: SocketAddr,
    pub(crate) name: Option<Arc<str>>,
}

/// How an attempt came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Well.
    Good,
    /// Well, with something to tell.
    Warned(String),
    /// Badly; it counts.
    Failed(String),
    /// It could not be made and counts for nothing.
    Errored(String),
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Nobody answered, or wrongly.
    Failed(String),
    /// What answers does not speak TLS.
    NotTls(String),
    /// It cannot be asked.
    Error(String),
}

impl Refusal {
    pub(crate) fn into_text(self) -> String {
        match self {
            Refusal::Failed(text) | Refusal::NotTls(text) | Refusal::Error(text) => text,
        }
    }
}

impl Reach {
    pub(crate) fn new(fabric: Fabric) -> Reach {
        Reach {
            fabric,
            tls: Tls::new(),
            programs: Arc::new(Semaphore::new(PROGRAMS_MAX)),
        }
    }

    /// Connects from the node; the error is worded as Go's.
    pub(crate) async fn dial(&self, to: SocketAddr) -> Result<Stream, String> {
        let dialled = self.fabric.dial(to).await;
        dialled.map_err(|error| format!("dial tcp {to}: connect: {}", in_words(&error)))
    }
}

/// Makes an attempt; one that cannot be made is tried again at once a few times.
pub(super) async fn run(reach: &Reach, job: &Job) -> Ended {
    let Job {
        kind,
        probe,
        pod_ip,
        programs,
        names,
        whose: _,
        id: _,
    } = job;
    let mut last = String::new();
    for _ in 0..TRIES_MAX {
        match once(reach, probe, (*pod_ip, names), programs).await {
            Ended::Errored(text) => last = text,
            ended @ (Ended::Good | Ended::Warned(_) | Ended::Failed(_)) => return ended,
        }
    }
    tracing::debug!(?kind, %pod_ip, error = last, "a probe could not be made");
    Ended::Errored(last)
}

async fn once(reach: &Reach, probe: &Probe, whom: (IpAddr, &Names), programs: &Programs) -> Ended {
    let pod_ip = whom.0;
    match &probe.check {
        Check::Exec(command) => {
            // The semaphore is never closed; without a place the program only goes uncounted.
            let _place = reach.programs.acquire().await.ok();
            exec::probe(programs, command, probe.timeout).await
        }
        Check::Http(get) => http::probe(reach, get, whom, Agent::Probe, probe.timeout).await,
        Check::Grpc { port, service } => {
            let to = SocketAddr::new(pod_ip, *port);
            grpc::probe(reach, to, service, probe.timeout).await
        }
        Check::Tcp(target) => {
            let found = find(target.host.as_ref(), &target.port, whom);
            match tokio::time::timeout(probe.timeout, found).await {
                Ok(Ok(place)) => tcp(reach, place.to, probe.timeout).await,
                Ok(Err(error)) => Ended::Errored(error),
                Err(_) => Ended::Errored("dial tcp: lookup timed out".to_owned()),
            }
        }
    }
}

async fn tcp(reach: &Reach, to: SocketAddr, timeout: Duration) -> Ended {
    match tokio::time::timeout(timeout, reach.dial(to)).await {
        Ok(Ok(stream)) => {
            drop(stream);
            Ended::Good
        }
        Ok(Err(text)) => Ended::Failed(text),
        Err(_) => Ended::Failed(format!("dial tcp {to}: i/o timeout")),
    }
}

/// Where an attempt goes; a port that has no number and a name that has no address cannot be asked.
pub(crate) async fn find(
    host: Option<&ProbeHost>,
    port: &TargetPort,
    (pod_ip, names): (IpAddr, &Names),
) -> Result<Place, String> {
    let port = match port {
        TargetPort::Number(port) => *port,
        TargetPort::Unknown(name) => return Err(format!("couldn't find port: {name}")),
    };
    let (ip, name) = match host {
        None => (pod_ip, None),
        Some(ProbeHost::Address(ip)) => (*ip, None),
        Some(ProbeHost::Name(name)) => (names.look_up(name).await?, Some(name.clone())),
    };
    Ok(Place {
        to: SocketAddr::new(ip, port),
        name,
    })
}

/// What Go calls an error of a socket.
pub(crate) fn in_words(error: &io::Error) -> String {
    let words = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset => "connection reset by peer",
        io::ErrorKind::HostUnreachable => "no route to host",
        io::ErrorKind::NetworkUnreachable => "network is unreachable",
        io::ErrorKind::TimedOut => "connection timed out",
        _ => return error.to_string(),
    };
    words.to_owned()
}

/// Cuts a text at a character's border.
pub(crate) fn shortened(mut text: String) -> String {
    if text.len() > OUTPUT_BYTES_MAX {
        let mut end = OUTPUT_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}
