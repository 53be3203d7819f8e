//! Probes and lifecycle hooks of the wire into those of the plan, with the API's defaults (contract C.1).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, HTTPHeader, Lifecycle, LifecycleHandler,
    Probe as WireProbe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::check::{Field, is_dns_subdomain};
use super::{EnvValue, EnvVar, Port, Role, Transport};
use crate::environment::expand;

/// Most headers of one request; each is sent with every attempt.
const HEADERS_MAX: usize = 100;

/// The three probes of a container. What a container runs without is unset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probes {
    /// Until it succeeds, the other two wait and the container is not started.
    pub startup: Option<Arc<Probe>>,
    /// Decides whether the container is ready.
    pub readiness: Option<Arc<Probe>>,
    /// Its failure ends the container.
    pub liveness: Option<Arc<Probe>>,
}

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// `startupProbe`
    Startup,
    /// `readinessProbe`
    Readiness,
    /// `livenessProbe`
    Liveness,
}

/// One probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// What an attempt does.
    pub check: Check,
    /// No attempt sooner than this after the container's start.
    pub initial_delay: Duration,
    /// From one attempt to the next; at least a second.
    pub period: Duration,
    /// How long an attempt may take; at least a second.
    pub timeout: Duration,
    /// Successes in a row that count; at least 1.
    pub success_threshold: u32,
    /// Failures in a row that count; at least 1.
    pub failure_threshold: u32,
    /// Grace of a container that this probe ends; the pod's when unset.
    pub grace: Option<Duration>,
}

/// What one attempt does.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// Runs a program in the container.
    Exec(Arc<[String]>),
    /// Asks over HTTP.
    Http(HttpGet),
    /// Connects.
    Tcp(TcpTarget),
    /// Asks `grpc.health.v1.Health` for a service, at the pod's address.
    Grpc {
        /// Which port.
        port: u16,
        /// Which service; the whole server's when empty.
        service: Arc<str>,
    },
}

/// What `postStart` or `preStop` does.
#[derive(Clone, Debug, PartialEq)]
pub enum Hook {
    /// Runs a program in the container.
    Exec(Arc<[String]>),
    /// Asks over HTTP; every answer is a success.
    Http(HttpGet),
    /// Waits.
    Sleep(Duration),
    /// Accepted by the API and served by nobody: it fails when its time comes.
    Tcp,
}

/// `lifecycle` of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hooks {
    /// Right after the start.
    pub post_start: Option<Arc<Hook>>,
    /// Before the container is asked to end.
    pub pre_stop: Option<Arc<Hook>>,
}

/// `httpGet`
#[derive(Clone, Debug, PartialEq)]
pub struct HttpGet {
    /// Plain or over TLS.
    pub scheme: Scheme,
    /// Where; the pod's address when unset.
    pub host: Option<ProbeHost>,
    /// Which port.
    pub port: TargetPort,
    /// Path and query; begins with `/`.
    pub path: PathAndQuery,
    /// Sent in this order, in addition to or instead of the prober's own.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// `tcpSocket`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpTarget {
    /// Where; the pod's address when unset.
    pub host: Option<ProbeHost>,
    /// Which port.
    pub port: TargetPort,
}

/// `host` of a probe or hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeHost {
    /// An address.
    Address(IpAddr),
    /// A name, looked up at each attempt as the pod would.
    Name(Arc<str>),
}

/// `scheme` of an HTTP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `HTTP`
    Http,
    /// `HTTPS`; certificates are not verified.
    Https,
}

/// A port by number, or the name of none: the API accepts such a probe, and every attempt is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number, or the number that a name stands for.
    Number(u16),
    /// A name that no TCP port of the container has.
    Unknown(Arc<str>),
}

impl Probes {
    /// Returns the probe of a kind.
    pub fn get(&self, kind: ProbeKind) -> Option<&Arc<Probe>> {
        match kind {
            ProbeKind::Startup => self.startup.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
            ProbeKind::Liveness => self.liveness.as_ref(),
        }
    }
}

impl ProbeKind {
    /// All three.
    pub const ALL: [ProbeKind; 3] = [
        ProbeKind::Startup,
        ProbeKind::Readiness,
        ProbeKind::Liveness,
    ];

    /// The word of the events' texts.
    pub fn title(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        }
    }

    /// The same inside a sentence.
    pub fn lower(self) -> &'static str {
        match self {
            ProbeKind::Startup => "startup",
            ProbeKind::Readiness => "readiness",
            ProbeKind::Liveness => "liveness",
        }
    }
}

/// The wire's three probes.
pub(super) struct WireProbes<'a> {
    pub(super) startup: Option<&'a WireProbe>,
    pub(super) readiness: Option<&'a WireProbe>,
    pub(super) liveness: Option<&'a WireProbe>,
}

/// What a container's probes refer to.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    pub(super) ports: &'a [Port],
    pub(super) env: &'a [EnvVar],
}

impl Own<'_> {
    /// `$(NAME)` of variables that are written out. Those from elsewhere are known only inside the
    /// container, and empty here.
    fn expanded(self, word: &str) -> String {
        expand(word, |name| {
            let variable = self.env.iter().rev().find(|variable| variable.name == name);
            variable.map(|variable| match &variable.value {
                EnvValue::Literal(text) => text.as_str(),
                EnvValue::Key { .. }
                | EnvValue::File { .. }
                | EnvValue::Field(_)
                | EnvValue::Resource(_) => "",
            })
        })
    }
}

/// Converts the probes of a container in this role.
pub(super) fn convert_probes(
    wire: &WireProbes<'_>,
    role: Role,
    own: Own<'_>,
    at: &Field<'_>,
) -> Probes {
    let convert = |wire: Option<&WireProbe>, kind: ProbeKind| {
        let at = at.field(&format!("{}Probe", kind.lower()));
        let wire = wire?;
        if role == Role::Init {
            at.refuse("must not be set on an init container that runs to its end");
            return None;
        }
        convert_probe(wire, kind, own, &at).map(Arc::new)
    };
    Probes {
        startup: convert(wire.startup, ProbeKind::Startup),
        readiness: convert(wire.readiness, ProbeKind::Readiness),
        liveness: convert(wire.liveness, ProbeKind::Liveness),
    }
}

fn convert_probe(wire: &WireProbe, kind: ProbeKind, own: Own<'_>, at: &Field<'_>) -> Option<Probe> {
    let WireProbe {
        exec,
        failure_threshold,
        grpc,
        http_get,
        initial_delay_seconds,
        period_seconds,
        success_threshold,
        tcp_socket,
        termination_grace_period_seconds,
        timeout_seconds,
    } = wire;
    let actions = Actions {
        exec: exec.as_ref(),
        http_get: http_get.as_ref(),
        tcp_socket: tcp_socket.as_ref(),
        grpc: grpc.as_ref(),
    };
    let mut check = actions.check(own.ports, at);
    if let Some(Check::Exec(command)) = &mut check {
        *command = command.iter().map(|word| own.expanded(word)).collect();
    }
    let number = |value: Option<i32>, default: u32, name: &str| match value {
        // The API server writes the default in place of 0.
        None | Some(0) => default,
        Some(value) => u32::try_from(value).unwrap_or_else(|_| {
            at.field(name).refuse("must not be negative");
            default
        }),
    };
    let seconds = |value, default, name| Duration::from_secs(number(value, default, name).into());
    let success_threshold = number(*success_threshold, 1, "successThreshold");
    if kind != ProbeKind::Readiness && success_threshold != 1 {
        at.field("successThreshold").refuse("must be 1");
    }
    Some(Probe {
        initial_delay: seconds(*initial_delay_seconds, 0, "initialDelaySeconds"),
        period: seconds(*period_seconds, 10, "periodSeconds"),
        timeout: seconds(*timeout_seconds, 1, "timeoutSeconds"),
        success_threshold,
        failure_threshold: number(*failure_threshold, 3, "failureThreshold"),
        grace: grace(*termination_grace_period_seconds, kind, at),
        check: check?,
    })
}

fn grace(value: Option<i64>, kind: ProbeKind, at: &Field<'_>) -> Option<Duration> {
    let at = at.field("terminationGracePeriodSeconds");
    let value = value?;
    if kind == ProbeKind::Readiness {
        at.refuse("must not be set for readinessProbes");
        return None;
    }
    match u32::try_from(value) {
        Ok(seconds) if seconds > 0 => Some(Duration::from_secs(seconds.into())),
        Ok(_) | Err(_) => {
            at.refuse("must be greater than 0");
            None
        }
    }
}

/// What probes and hooks have in common.
struct Actions<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
}

impl Actions<'_> {
    /// The one action that is set.
    fn check(&self, ports: &[Port], at: &Field<'_>) -> Option<Check> {
        let Actions {
            exec,
            http_get,
            tcp_socket,
            grpc,
        } = *self;
        let given = [exec.is_some(), http_get.is_some(), tcp_socket.is_some()];
        if given.into_iter().filter(|given| *given).count() + usize::from(grpc.is_some()) > 1 {
            at.refuse("may not specify more than 1 handler type");
            return None;
        }
        if let Some(ExecAction { command }) = exec {
            let command = command.as_deref().unwrap_or_default();
            if command.is_empty() {
                at.field("exec.command").refuse("is empty");
            }
            Some(Check::Exec(command.into()))
        } else if let Some(http) = http_get {
            convert_http(http, ports, &at.field("httpGet")).map(Check::Http)
        } else if let Some(tcp) = tcp_socket {
            convert_tcp(tcp, ports, &at.field("tcpSocket")).map(Check::Tcp)
        } else if let Some(GRPCAction { port, service }) = grpc {
            let number = u16::try_from(*port).ok().filter(|port| *port > 0);
            if number.is_none() {
                at.field("grpc.port").refuse("is no port number");
            }
            Some(Check::Grpc {
                port: number?,
                service: service.as_deref().unwrap_or_default().into(),
            })
        } else {
            at.refuse("must specify a handler type");
            None
        }
    }
}

/// `stopSignal` is satisfied: without signals, which one it would be makes no difference.
pub(super) fn convert_hooks(
    wire: Option<&Lifecycle>,
    role: Role,
    ports: &[Port],
    at: &Field<'_>,
) -> Hooks {
    let Some(Lifecycle {
        post_start,
        pre_stop,
        stop_signal: _,
    }) = wire
    else {
        return Hooks::default();
    };
    let convert = |wire: &Option<LifecycleHandler>, name: &str| {
        let at = at.field(name);
        let wire = wire.as_ref()?;
        if role == Role::Init {
            at.refuse("must not be set on an init container that runs to its end");
            return None;
        }
        convert_hook(wire, ports, &at).map(Arc::new)
    };
    Hooks {
        post_start: convert(post_start, "postStart"),
        pre_stop: convert(pre_stop, "preStop"),
    }
}

fn convert_hook(wire: &LifecycleHandler, ports: &[Port], at: &Field<'_>) -> Option<Hook> {
    let LifecycleHandler {
        exec,
        http_get,
        sleep,
        tcp_socket,
    } = wire;
    if let Some(sleep) = sleep {
        let seconds = u32::try_from(sleep.seconds);
        if seconds.is_err() {
            at.field("sleep.seconds").refuse("is out of range");
        }
        return Some(Hook::Sleep(Duration::from_secs(seconds.ok()?.into())));
    }
    let actions = Actions {
        exec: exec.as_ref(),
        http_get: http_get.as_ref(),
        tcp_socket: tcp_socket.as_ref(),
        grpc: None,
    };
    match actions.check(ports, at)? {
        Check::Exec(command) => Some(Hook::Exec(command)),
        Check::Http(http) => Some(Hook::Http(http)),
        // No hook has the field.
        Check::Tcp(_) | Check::Grpc { .. } => Some(Hook::Tcp),
    }
}

fn convert_http(wire: &HTTPGetAction, ports: &[Port], at: &Field<'_>) -> Option<HttpGet> {
    let HTTPGetAction {
        host,
        http_headers,
        path,
        port,
        scheme,
    } = wire;
    let scheme = match scheme.as_deref() {
        None | Some("" | "HTTP") => Scheme::Http,
        Some("HTTPS") => Scheme::Https,
        Some(other) => {
            at.field("scheme")
                .refuse(format!("has the unknown value `{other}`"));
            return None;
        }
    };
    let headers = convert_headers(
        http_headers.as_deref().unwrap_or_default(),
        &at.field("httpHeaders"),
    );
    let path = request_target(path.as_deref().unwrap_or_default());
    if path.is_none() {
        at.field("path").refuse("is no path of a URL");
    }
    Some(HttpGet {
        scheme,
        host: convert_host(host.as_deref(), &at.field("host"))?,
        port: convert_port(port, ports, &at.field("port"))?,
        path: path?,
        headers,
    })
}

fn convert_tcp(wire: &TCPSocketAction, ports: &[Port], at: &Field<'_>) -> Option<TcpTarget> {
    let TCPSocketAction { host, port } = wire;
    Some(TcpTarget {
        host: convert_host(host.as_deref(), &at.field("host"))?,
        port: convert_port(port, ports, &at.field("port"))?,
    })
}

/// The outer value is missing when the text is refused, the inner when the pod itself is meant.
fn convert_host(text: Option<&str>, at: &Field<'_>) -> Option<Option<ProbeHost>> {
    let Some(text) = text.filter(|t| !t.is_empty()) else {
        return Some(None);
    };
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(Some(ProbeHost::Address(ip)));
    }
    // One dot at the end is the root.
    if is_dns_subdomain(&text.strip_suffix('.').unwrap_or(text).to_lowercase()) {
        return Some(Some(ProbeHost::Name(text.into())));
    }
    at.refuse("is neither an address nor a name");
    None
}

fn convert_port(wire: &IntOrString, ports: &[Port], at: &Field<'_>) -> Option<TargetPort> {
    let number = |value: i64| u16::try_from(value).ok().filter(|port| *port > 0);
    let found = match wire {
        IntOrString::Int(value) => number((*value).into()).map(TargetPort::Number),
        IntOrString::String(name) => {
            let mut named = ports.iter().filter(|p| p.protocol == Transport::Tcp);
            let known = named.find(|p| p.name.as_deref() == Some(name));
            match (known, name.parse::<i64>()) {
                (Some(port), _) => Some(TargetPort::Number(port.port)),
                (None, Ok(value)) => number(value).map(TargetPort::Number),
                (None, Err(_)) => Some(TargetPort::Unknown(name.as_str().into())),
            }
        }
    };
    if found.is_none() {
        at.refuse("is no port number");
    }
    found
}

/// Duplicates are kept. The API server lets through values that no request can carry.
fn convert_headers(wire: &[HTTPHeader], at: &Field<'_>) -> Vec<(HeaderName, HeaderValue)> {
    if wire.len() > HEADERS_MAX {
        at.refuse(format!("has more than {HEADERS_MAX} entries"));
        return Vec::new();
    }
    let mut headers = Vec::with_capacity(wire.len());
    for (index, HTTPHeader { name, value }) in wire.iter().enumerate() {
        let at = at.index(index);
        match (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) {
            (Ok(name), Ok(value)) => headers.push((name, value)),
            (Err(_), _) => at.field("name").refuse("is no name of a header"),
            (_, Err(_)) => at.field("value").refuse("cannot be sent in a header"),
        }
    }
    headers
}

/// What a path means in a request: a slash before it, no fragment, and encoded what must be.
fn request_target(path: &str) -> Option<PathAndQuery> {
    let path = path.split('#').next().unwrap_or_default();
    let mut target = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        target.push('/');
    }
    for byte in path.bytes() {
        // A percent sign stays: the path may be encoded already.
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`') {
            target.push(byte.into());
        } else {
            target.push_str(&format!("%{byte:02X}"));
        }
    }
    PathAndQuery::try_from(target).ok()
}

#[cfg(test)]
mod tests;
