//! What the agent tells of its own work under `/metrics`, by the kubelet's names.
//!
//! A handful of series for the node, none of them by pod: what grows with the pods is measured when it is asked
//! for (`server/stats`) or kept with the probes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::exec::ExecBook;
use crate::spec::Role;

/// Bounds in seconds of the kubelet's histogram of pod starts, and below them where ours are.
const START_BOUNDS: [f64; 16] = [
    0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// Bounds in seconds of what takes a moment.
const MOMENT_BOUNDS: [f64; 11] = [
    0.000_1, 0.000_5, 0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0,
];

/// The agent's own numbers. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Arc<Mutex<Registry>>,
    pod_starts: Histogram,
    turns: Histogram,
    pods: Counter,
    containers: Family<TypeLabels, Counter>,
    container_errors: Family<ErrorLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RequestLabels, Histogram, Moments>,
    in_flight: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabels {
    container_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    container_type: &'static str,
    code: &'static str,
}

/// What was asked of the kubelet API. Paths are those it knows, so there is a bounded number of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    path: &'static str,
    server_type: &'static str,
    long_running: &'static str,
}

#[derive(Clone, Copy, Debug)]
struct Moments;

impl MetricConstructor<Histogram> for Moments {
    fn new_metric(&self) -> Histogram {
        Histogram::new(MOMENT_BOUNDS)
    }
}

/// Counts a request as long as it is answered.
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Numbers of the node of this name, whose running containers are in `execs`.
    pub(crate) fn new(node_name: &str, execs: Arc<ExecBook>) -> Metrics {
        let mut registry = Registry::default();
        let metrics = Metrics {
            registry: Arc::default(),
            pod_starts: Histogram::new(START_BOUNDS),
            turns: Histogram::new(MOMENT_BOUNDS),
            pods: Counter::default(),
            containers: Family::default(),
            container_errors: Family::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(Moments),
            in_flight: Gauge::default(),
        };
        registry.register(
            "kubelet_pod_start_duration_seconds",
            "Duration in seconds from the agent seeing a pod for the first time to the pod running",
            metrics.pod_starts.clone(),
        );
        registry.register(
            "kubelet_pod_worker_duration_seconds",
            "Duration in seconds to plan and begin what a pod needs, once something has changed",
            metrics.turns.clone(),
        );
        registry.register(
            "kubelet_started_pods",
            "Cumulative number of pods whose network and volumes were made",
            metrics.pods.clone(),
        );
        registry.register(
            "kubelet_started_containers",
            "Cumulative number of containers started",
            metrics.containers.clone(),
        );
        registry.register(
            "kubelet_started_containers_errors",
            "Cumulative number of errors when starting containers",
            metrics.container_errors.clone(),
        );
        registry.register(
            "kubelet_http_requests",
            "Number of the http requests received since the server started",
            metrics.requests.clone(),
        );
        registry.register(
            "kubelet_http_requests_duration_seconds",
            "Duration in seconds to serve http requests, until the head of the answer",
            metrics.durations.clone(),
        );
        registry.register(
            "kubelet_http_inflight_requests",
            "Number of the inflight http requests",
            metrics.in_flight.clone(),
        );
        registry.register_collector(Box::new(Standing {
            node_name: node_name.to_owned(),
            execs,
        }));
        *metrics.registry.lock() = registry;
        metrics
    }

    /// Notes that a pod is shown to run for the first time.
    pub(crate) fn pod_runs(&self, after: Duration) {
        self.pod_starts.observe(after.as_secs_f64());
    }

    /// Notes that a pod's worker has had a turn.
    pub(crate) fn turn(&self, took: Duration) {
        self.turns.observe(took.as_secs_f64());
    }

    /// Notes that a pod stands on its ground.
    pub(crate) fn pod_stands(&self) {
        self.pods.inc();
    }

    /// Notes that a container has started.
    pub(crate) fn container_starts(&self, role: Role) {
        let container_type = container_type(role);
        let labels = TypeLabels { container_type };
        self.containers.get_or_create(&labels).inc();
    }

    /// Notes that a container could not be started, and the contract's reason.
    pub(crate) fn container_fails(&self, role: Role, code: &'static str) {
        let container_type = container_type(role);
        let labels = ErrorLabels {
            container_type,
            code,
        };
        self.container_errors.get_or_create(&labels).inc();
    }

    /// Notes that a request has come.
    pub(crate) fn request_comes(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Notes that a request was answered.
    pub(crate) fn request_done(&self, method: &http::Method, path: &str, took: Duration) {
        let path = known_path(path);
        let is_long = matches!(
            path,
            "exec" | "attach" | "portForward" | "containerLogs" | "run"
        );
        let labels = RequestLabels {
            method: match *method {
                http::Method::GET => "GET",
                http::Method::POST => "POST",
                _ => "other",
            },
            path,
            server_type: "readwrite",
            long_running: if is_long { "true" } else { "false" },
        };
        self.requests.get_or_create(&labels).inc();
        let duration = self.durations.get_or_create(&labels);
        duration.observe(took.as_secs_f64());
    }

    /// Returns the page.
    pub(crate) fn page(&self) -> String {
        page(&self.registry.lock())
    }
}

/// Writes what is registered as text.
pub(crate) fn page(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).expect("a string takes everything");
    text
}

fn container_type(role: Role) -> &'static str {
    match role {
        Role::Init | Role::Sidecar => "init_container",
        Role::App => "container",
        Role::Ephemeral => "ephemeral_container",
    }
}

/// The first part of a path, if it is one that is known.
fn known_path(path: &str) -> &'static str {
    const KNOWN: [&str; 12] = [
        "attach",
        "configz",
        "containerLogs",
        "exec",
        "healthz",
        "metrics",
        "pods",
        "portForward",
        "run",
        "runningpods",
        "stats",
        "logs",
    ];
    let first = path.trim_start_matches('/').split('/').next();
    let known = KNOWN.iter().find(|known| Some(**known) == first);
    known.copied().unwrap_or("other")
}

/// What is so now, looked up when it is asked for.
#[derive(Debug)]
struct Standing {
    node_name: String,
    execs: Arc<ExecBook>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    node: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    container_state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    git_version: &'static str,
    platform: &'static str,
}

/// The agent's version as a node tells it.
const VERSION: &str = concat!("v1.36.0+coracle-", env!("CARGO_PKG_VERSION"));

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let occupants = self.execs.occupants();
        let mut pods: Vec<_> = occupants.iter().map(|it| &it.key.uid).collect();
        pods.sort_unstable();
        pods.dedup();
        let (pods, containers) = (number(pods.len()), number(occupants.len()));
        let gauge = MetricType::Gauge;
        let help = "Number of pods that have a running pod sandbox";
        let mut family = encoder.encode_descriptor("kubelet_running_pods", help, None, gauge)?;
        family.encode_gauge(&pods)?;
        let name = "kubelet_running_containers";
        let mut family = encoder.encode_descriptor(
            name,
            "Number of containers currently running",
            None,
            gauge,
        )?;
        let labels = StateLabels {
            container_state: "running",
        };
        family.encode_family(&labels)?.encode_gauge(&containers)?;
        let help = "The node's name. The count is always 1";
        let mut family = encoder.encode_descriptor("kubelet_node_name", help, None, gauge)?;
        let labels = NodeLabels {
            node: self.node_name.clone(),
        };
        family.encode_family(&labels)?.encode_gauge(&1_i64)?;
        let help = "A metric with a constant '1' value labeled by version and platform";
        let mut family = encoder.encode_descriptor("kubernetes_build_info", help, None, gauge)?;
        let labels = BuildLabels {
            git_version: VERSION,
            platform: std::env::consts::OS,
        };
        family.encode_family(&labels)?.encode_gauge(&1_i64)?;
        process(encoder)
    }
}

/// What this process uses.
fn process(mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let mut system = sysinfo::System::new();
    let own = sysinfo::Pid::from_u32(std::process::id());
    system.refresh_processes(sysinfo::ProcessesToUpdate::Some(&[own]), false);
    let Some(process) = system.process(own) else {
        return Ok(());
    };
    let cpu = Duration::from_millis(process.accumulated_cpu_time()).as_secs_f64();
    let help = "Total user and system CPU time spent in seconds";
    let counter = MetricType::Counter;
    let mut family = encoder.encode_descriptor("process_cpu_seconds", help, None, counter)?;
    family.encode_counter::<NoLabelSet, _, u64>(&cpu, None)?;
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes",
            process.memory(),
        ),
        (
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds",
            process.start_time(),
        ),
    ] {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        family.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))?;
    }
    Ok(())
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_numbers_have_the_kubelets_names() {
        let metrics = Metrics::new("edge-1", Arc::default());
        metrics.pod_stands();
        metrics.pod_runs(Duration::from_millis(20));
        metrics.turn(Duration::from_micros(40));
        metrics.container_starts(Role::App);
        metrics.container_fails(Role::Sidecar, "CreateContainerConfigError");
        let took = Duration::from_millis(1);
        metrics.request_done(&http::Method::GET, "/metrics/cadvisor", took);
        metrics.request_done(&http::Method::GET, "/what/ever", took);
        let coming = metrics.request_comes();
        let text = metrics.page();
        for line in [
            "kubelet_started_pods_total 1",
            "kubelet_pod_start_duration_seconds_count 1",
            "kubelet_pod_worker_duration_seconds_count 1",
            "kubelet_started_containers_total{container_type=\"container\"} 1",
            "kubelet_started_containers_errors_total{container_type=\"init_container\",\
             code=\"CreateContainerConfigError\"} 1",
            "kubelet_http_requests_total{method=\"GET\",path=\"metrics\",server_type=\"readwrite\",\
             long_running=\"false\"} 1",
            "kubelet_http_requests_total{method=\"GET\",path=\"other\",server_type=\"readwrite\",\
             long_running=\"false\"} 1",
            "kubelet_http_inflight_requests 1",
            "kubelet_running_pods 0",
            "kubelet_running_containers{container_state=\"running\"} 0",
            "kubelet_node_name{node=\"edge-1\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
        drop(coming);
        assert!(metrics.page().contains("kubelet_http_inflight_requests 0"));
    }
}
