//! What the proxy tells under `/metrics`: kube-proxy's own figures under their names, and for each
//! Service and endpoint what went to it.
//!
//! The figures of Services are read from the counters of the table when somebody asks; keeping them
//! costs nothing else. There are as many labels as there are Services and endpoints.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use coracle_network::{
    Endpoint, EndpointCounters, Protocol, ServiceCounters, ServicePort, ServicePortName,
    ServiceTable,
};
use http::{Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::answering::{self, Answers};
use crate::edge::{Edge, EdgeCounters, Mechanism};

/// Where these are served.
const PATH: &str = "/metrics";

const MEDIA: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of durations: from 10 µs, which one slice takes, by fours to 10 s.
const DURATIONS: (f64, f64, u16) = (0.000_01, 4.0, 11);

type Label = (&'static str, String);

/// Counts what the proxy does.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    syncs: Histogram,
    programming: Histogram,
    last_sync: Gauge<f64, AtomicU64>,
    last_queued: Gauge<f64, AtomicU64>,
    endpoint_changes: Counter,
    service_changes: Counter,
    invalid: Counter,
    healthz: Family<[(&'static str, u16); 1], Counter>,
    livez: Family<[(&'static str, u16); 1], Counter>,
}

impl Metrics {
    /// Returns metrics that have counted nothing; Services are read from `table`.
    pub(crate) fn new(table: Arc<ServiceTable>, edge: Option<Weak<Edge>>) -> Metrics {
        let (start, factor, length) = DURATIONS;
        let durations = || Histogram::new(exponential_buckets(start, factor, length));
        let metrics = Metrics {
            registry: Registry::default(),
            syncs: durations(),
            programming: durations(),
            last_sync: Gauge::default(),
            last_queued: Gauge::default(),
            endpoint_changes: Counter::default(),
            service_changes: Counter::default(),
            invalid: Counter::default(),
            healthz: Family::default(),
            livez: Family::default(),
        };
        metrics.registered(Services { table }, edge)
    }

    fn registered(mut self, services: Services, edge: Option<Weak<Edge>>) -> Metrics {
        let registry = self.registry.sub_registry_with_prefix("kubeproxy");
        registry.register(
            "sync_proxy_rules_duration_seconds",
            "Time that bringing routing up to date takes, once for all news that are there",
            self.syncs.clone(),
        );
        registry.register(
            "network_programming_duration_seconds",
            "Time from the change of a pod or Service until it was routed",
            self.programming.clone(),
        );
        registry.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "When routing was last brought up to date",
            self.last_sync.clone(),
        );
        registry.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "When the last news came",
            self.last_queued.clone(),
        );
        registry.register(
            "sync_proxy_rules_endpoint_changes",
            "EndpointSlices that were new, changed or gone",
            self.endpoint_changes.clone(),
        );
        registry.register(
            "sync_proxy_rules_service_changes",
            "Services that were new, changed or gone",
            self.service_changes.clone(),
        );
        registry.register("proxy_healthz", "Answers to /healthz", self.healthz.clone());
        registry.register("proxy_livez", "Answers to /livez", self.livez.clone());
        let registry = self.registry.sub_registry_with_prefix("coracle");
        registry.register(
            "proxy_invalid_objects",
            "Objects that could not be parsed and were skipped",
            self.invalid.clone(),
        );
        self.registry.register_collector(Box::new(services));
        if let Some(edge) = edge {
            self.registry.register_collector(Box::new(Outside { edge }));
        }
        self
    }

    /// Counts a Service that was new, changed or gone.
    pub(crate) fn service_changed(&self) {
        self.service_changes.inc();
    }

    /// Counts a slice that was new, changed or gone, since `trigger` if that is known.
    pub(crate) fn slice_changed(&self, trigger: Option<Timestamp>) {
        self.endpoint_changes.inc();
        let Some(since) = trigger else { return };
        let took = Timestamp::now().duration_since(since);
        if let Ok(took) = Duration::try_from(took) {
            self.programming.observe(took.as_secs_f64());
        }
    }

    /// Counts an object that could not be parsed.
    pub(crate) fn skipped(&self) {
        self.invalid.inc();
    }

    /// Counts news, all of which were dealt with within `took`.
    pub(crate) fn synced(&self, took: Duration) {
        let now = Timestamp::now().as_duration().as_secs_f64();
        self.syncs.observe(took.as_secs_f64());
        self.last_queued.set(now - took.as_secs_f64());
        self.last_sync.set(now);
    }

    /// Counts an answer to a question about health.
    pub(crate) fn asked(&self, path: &str, code: StatusCode) {
        let family = match path {
            "/healthz" => &self.healthz,
            "/livez" => &self.livez,
            _ => return,
        };
        family.get_or_create(&[("code", code.as_u16())]).inc();
    }

    /// Answers a request for metrics.
    fn answer(&self) -> Response<Full<Bytes>> {
        let mut body = String::new();
        match encode(&mut body, &self.registry) {
            Ok(()) => answering::text(StatusCode::OK, MEDIA, body),
            Err(error) => {
                tracing::error!(%error, "metrics cannot be written");
                let body = "metrics cannot be written\n".to_owned();
                answering::text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", body)
            }
        }
    }
}

/// Returns what answers on the port for metrics.
pub(crate) fn answers(metrics: Arc<Metrics>) -> Answers {
    Arc::new(move |path| match path {
        PATH => metrics.answer(),
        _ => answering::not_found(),
    })
}

/// Reads the counters of the table.
struct Services {
    table: Arc<ServiceTable>,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

/// What belongs to one name: a Service of two families has two ports of it.
type Ports = BTreeMap<ServicePortName, Vec<Arc<ServicePort>>>;

impl Collector for Services {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let ports = self.ports();
        for (name, help, read) in SERVICE_FIGURES {
            let rows = ports.iter().map(|(name, ports)| {
                let sum = ports
                    .iter()
                    .map(|port| load(read(port.counters())))
                    .sum::<u64>();
                (labels(name), sum)
            });
            write(&mut encoder, name, help, rows)?;
        }
        for (name, help, read) in ENDPOINT_FIGURES {
            let rows = ports.iter().flat_map(|(name, ports)| {
                endpoints(ports).into_values().map(move |one| {
                    let mut labels = labels(name).to_vec();
                    labels.push(("endpoint", one.address().to_string()));
                    (labels, load(read(one.counters())))
                })
            });
            write(&mut encoder, name, help, rows)?;
        }
        let rows = ports.iter().flat_map(|(name, ports)| {
            endpoints(ports).into_values().map(move |one| {
                let mut labels = labels(name).to_vec();
                labels.push(("endpoint", one.address().to_string()));
                let took = load(&one.counters().connect_nanoseconds);
                (labels, Duration::from_nanos(took).as_secs_f64())
            })
        });
        let (name, help) = CONNECT_SECONDS;
        write(&mut encoder, name, help, rows)
    }
}

impl Services {
    fn ports(&self) -> Ports {
        let fronts = self.table.fronts();
        let mut ports = Ports::new();
        for (_, front) in fronts.iter() {
            let same = ports.entry(front.service.name().clone()).or_default();
            if !same.iter().any(|port| Arc::ptr_eq(port, &front.service)) {
                same.push(Arc::clone(&front.service));
            }
        }
        ports
    }
}

/// Reads the counters of what listens for the world outside.
struct Outside {
    /// Weak, so that a scrape never keeps sockets open.
    edge: Weak<Edge>,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").finish_non_exhaustive()
    }
}

impl Collector for Outside {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(edge) = self.edge.upgrade() else {
            return Ok(());
        };
        for (name, help, read) in EDGE_FIGURES {
            let counter = ConstCounter::new(load(read(edge.counters())));
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let now = [
            (
                "coracle_edge_relayed_now",
                "Connections that are relayed now",
                edge.relayed_now(),
            ),
            (
                "coracle_edge_udp_flows_now",
                "UDP flows from outside that are kept now",
                edge.udp_flows_now(),
            ),
        ];
        if let Some(failures) = edge.failures() {
            let rows = [
                ("no_socket", failures.no_socket),
                ("not_assigned", failures.not_assigned),
            ];
            let (name, help) = LOOKUP_FAILURES;
            let rows = rows.map(|(reason, count)| ([("reason", reason.to_owned())], count));
            write(&mut encoder, name, help, rows.into_iter())?;
        }
        let mechanism = edge.mechanism().into_iter().flat_map(|mechanism| {
            let is = |one| usize::from(mechanism == one);
            let lookup = "Whether one socket stands for all addresses, by a program in the kernel";
            let rules = "Whether one socket stands for all addresses, by rules of nftables";
            [
                (
                    "coracle_edge_socket_lookup",
                    lookup,
                    is(Mechanism::SocketLookup),
                ),
                (
                    "coracle_edge_socket_rules",
                    rules,
                    is(Mechanism::SocketRules),
                ),
            ]
        });
        for (name, help, value) in now.into_iter().chain(mechanism) {
            let gauge = ConstGauge::new(u32::try_from(value).unwrap_or(u32::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

const LOOKUP_FAILURES: (&str, &str) = (
    "coracle_edge_socket_lookup_failures",
    "Lookups of the kernel's table that led to no socket",
);

const EDGE_FIGURES: &Figures<EdgeCounters> = &[
    (
        "coracle_edge_accepted_connections",
        "Connections from outside that were accepted",
        |all| &all.accepted,
    ),
    (
        "coracle_edge_handed_over_connections",
        "Connections given to pods of this node",
        |all| &all.handed_over,
    ),
    (
        "coracle_edge_relayed_connections",
        "Connections relayed to endpoints elsewhere",
        |all| &all.relayed,
    ),
    (
        "coracle_edge_reset_connections",
        "Connections reset as the fabric would drop them",
        |all| &all.reset,
    ),
    (
        "coracle_edge_refused_connections",
        "Connections for which no endpoint was to be had",
        |all| &all.refused,
    ),
    (
        "coracle_edge_over_limit_connections",
        "Connections beyond a limit",
        |all| &all.over_limit,
    ),
    (
        "coracle_edge_exhausted",
        "Times that the system had no descriptor left",
        |all| &all.exhausted,
    ),
    (
        "coracle_edge_listen_failures",
        "Ports that could not be opened",
        |all| &all.listen_failures,
    ),
    ("coracle_edge_udp_flows", "UDP flows from outside", |all| {
        &all.udp_flows
    }),
    (
        "coracle_edge_lost_datagrams",
        "Datagrams that were lost for want of room",
        |all| &all.udp_lost,
    ),
];

type Figures<C> = [(&'static str, &'static str, fn(&C) -> &AtomicU64)];

const SERVICE_FIGURES: &Figures<ServiceCounters> = &[
    (
        "coracle_service_connections",
        "Connections and UDP flows to a Service that were given an endpoint",
        |all| &all.balanced,
    ),
    (
        "coracle_service_refused_connections",
        "Connections and UDP flows refused since the Service had no endpoint",
        |all| &all.refused,
    ),
    (
        "coracle_service_dropped_connections",
        "Connections and UDP flows dropped by a policy or a source range",
        |all| &all.dropped,
    ),
];

const ENDPOINT_FIGURES: &Figures<EndpointCounters> = &[
    (
        "coracle_endpoint_connections",
        "Connections and UDP flows that were established to an endpoint",
        |all| &all.connections,
    ),
    (
        "coracle_endpoint_errors",
        "Connections to an endpoint that were refused, unreachable or timed out",
        |all| &all.errors,
    ),
    (
        "coracle_endpoint_received_bytes",
        "Bytes from clients to an endpoint",
        |all| &all.received_bytes,
    ),
    (
        "coracle_endpoint_sent_bytes",
        "Bytes from an endpoint to clients",
        |all| &all.sent_bytes,
    ),
];

const CONNECT_SECONDS: (&str, &str) = (
    "coracle_endpoint_connect_seconds",
    "Time that establishing connections to an endpoint took, in sum",
);

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn labels(name: &ServicePortName) -> [Label; 4] {
    let protocol = match name.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    [
        ("namespace", name.namespace.clone()),
        ("service", name.service.clone()),
        ("port", name.port.clone()),
        ("protocol", protocol.to_owned()),
    ]
}

/// Returns the endpoints in use, each once whatever policy uses it.
fn endpoints(ports: &[Arc<ServicePort>]) -> BTreeMap<SocketAddr, Arc<Endpoint>> {
    let mut found = BTreeMap::new();
    for port in ports {
        let routes = port.routes();
        for one in routes.cluster.iter().chain(routes.local.iter()) {
            found.insert(one.address(), Arc::clone(one));
        }
    }
    found
}

fn write<L, N>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl Iterator<Item = (L, N)>,
) -> fmt::Result
where
    L: AsRef<[Label]>,
    ConstCounter<N>: EncodeMetric,
{
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in rows {
        let labels = labels.as_ref();
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
