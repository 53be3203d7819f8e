//! What this node's containers use (contract E.6): `/stats/summary` as JSON, `/metrics/resource` for
//! Prometheus and metrics-server. Measured when it is asked for; nothing runs in between.

mod cadvisor;
mod disk;
mod summary;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Response, header};
use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{KubeletBody, Refusal, Shared, text, whole};
use crate::exec::Occupant;
use crate::images::blocking;
use crate::metrics;

pub(super) use disk::Disk;
use summary::Summary;

/// A rate over less than this says more about the moment than about the load.
const RATE_WINDOW_MIN: Duration = Duration::from_secs(1);

/// metrics-server drops a whole pod when a container reports none of something.
const AT_LEAST: u64 = 1;

/// Measurements to which the next ones are compared, for rates.
#[derive(Default)]
pub(super) struct Meter(Mutex<HashMap<MeterKey, Sample>>);

/// A container by the pod's UID and its name; the node itself by two empty texts.
type MeterKey = (Arc<str>, Arc<str>);

/// Processor time at a moment, and the rate that was found then.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    cpu: Duration,
    nano_cores: Option<u64>,
}

/// What one container uses now.
#[derive(Debug)]
struct Measured {
    namespace: Arc<str>,
    pod: Arc<str>,
    uid: Arc<str>,
    container: Arc<str>,
    started_at: SystemTime,
    cpu: Duration,
    nano_cores: Option<u64>,
    memory: u64,
    memory_peak: u64,
    image: Arc<str>,
    cpu_limit_milli: Option<u64>,
    memory_limit: Option<u64>,
    storage_limit: Option<u64>,
}

/// What the machine uses now.
#[derive(Debug)]
struct Machine {
    cpu: Duration,
    nano_cores: Option<u64>,
    memory_used: u64,
    memory_available: u64,
    disk_total: u64,
    disk_available: u64,
    booted_at: u64,
}

impl Meter {
    /// Returns the rate since an earlier measurement in billionths of a processor, once there is one.
    fn rate(&self, key: MeterKey, cpu: Duration, now: Instant) -> Option<u64> {
        let mut samples = self.0.lock();
        let sample = samples.entry(key).or_insert(Sample {
            at: now,
            cpu,
            nano_cores: None,
        });
        let passed = now.saturating_duration_since(sample.at);
        if cpu < sample.cpu {
            // Another instance: it began at nothing.
            *sample = Sample {
                at: now,
                cpu,
                nano_cores: None,
            };
        } else if passed >= RATE_WINDOW_MIN {
            let used = (cpu - sample.cpu).as_nanos();
            let rate = used * 1_000_000_000 / passed.as_nanos();
            *sample = Sample {
                at: now,
                cpu,
                nano_cores: u64::try_from(rate).ok(),
            };
        }
        sample.nano_cores
    }

    /// Forgets everything but what is there now.
    fn keep(&self, there: &[Measured]) {
        let mut samples = self.0.lock();
        if samples.len() > there.len() + 1 {
            let known: std::collections::HashSet<_> = there
                .iter()
                .map(|it| (it.uid.clone(), it.container.clone()))
                .collect();
            samples.retain(|key, _| key.0.is_empty() || known.contains(key));
        }
    }
}

impl Shared {
    /// Answers `/stats/summary`.
    pub(super) async fn summary(&self, query: &str) -> Result<Response<KubeletBody>, Refusal> {
        let brief = form_urlencoded::parse(query.as_bytes())
            .any(|(name, value)| name == "only_cpu_and_memory" && value == "true");
        let (machine, containers) = self.measure().await;
        let held = match brief {
            true => None,
            false => Some(self.disk.measure(&self.folders, &self.data_dir).await),
        };
        let summary = Summary {
            node_name: &self.node_name,
            now: Timestamp::now().to_string(),
            machine: &machine,
            held: held.as_deref(),
        };
        let summary = summary.tell(&containers);
        let mut response = Response::new(whole(summary.to_string()));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        Ok(response)
    }

    /// Answers `/metrics/resource`.
    pub(super) async fn resource_metrics(&self) -> Response<KubeletBody> {
        let (machine, containers) = self.measure().await;
        let page = resource_page(&machine, &containers, Timestamp::now().as_millisecond());
        let mut response = text(http::StatusCode::OK, page);
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    /// Answers `/metrics/cadvisor`.
    pub(super) async fn cadvisor_metrics(&self) -> Response<KubeletBody> {
        let (machine, containers) = self.measure().await;
        let held = self.disk.measure(&self.folders, &self.data_dir).await;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let memory_total = machine.memory_used.saturating_add(machine.memory_available);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(cadvisor::Page {
            machine,
            containers,
            held,
            traffic: self.folders.traffic(),
            now: SystemTime::now(),
            cores: u64::try_from(cores).unwrap_or(1),
            memory_total,
        }));
        open_metrics(metrics::page(&registry))
    }

    /// Answers `/metrics`.
    pub(super) fn agent_metrics(&self) -> Response<KubeletBody> {
        open_metrics(self.metrics.page())
    }

    /// Answers `/metrics/probes`.
    pub(super) fn probe_metrics(&self) -> Response<KubeletBody> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.probes.clone()));
        open_metrics(metrics::page(&registry))
    }

    async fn measure(&self) -> (Machine, Vec<Measured>) {
        let now = Instant::now();
        let containers = self.execs.occupants().into_iter().map(|occupant| {
            let Occupant {
                key,
                container,
                instance,
                plan,
            } = occupant;
            let usage = instance.usage();
            let name = (key.uid.clone(), container.clone());
            Measured {
                nano_cores: self.meter.rate(name, usage.cpu, now),
                namespace: key.namespace,
                pod: key.name,
                uid: key.uid,
                container,
                started_at: instance.started_at(),
                cpu: usage.cpu,
                memory: usage.memory,
                memory_peak: usage.memory_peak,
                image: plan.image.clone(),
                cpu_limit_milli: plan.cpu_limit_milli,
                memory_limit: plan.memory_limit,
                storage_limit: plan.storage_limit,
            }
        });
        let containers: Vec<_> = containers.collect();
        self.meter.keep(&containers);
        let data_dir = self.data_dir.clone();
        let mut machine = blocking(move || Machine::measure(&data_dir)).await;
        machine.nano_cores = self.meter.rate(Default::default(), machine.cpu, now);
        (machine, containers)
    }
}

fn open_metrics(page: String) -> Response<KubeletBody> {
    let mut response = text(http::StatusCode::OK, page);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

impl Machine {
    /// Touches the disk.
    fn measure(data_dir: &Path) -> Machine {
        let mut system = sysinfo::System::new();
        system.refresh_memory();
        Machine {
            cpu: processor_time(),
            nano_cores: None,
            memory_used: system.used_memory().max(AT_LEAST),
            memory_available: system.available_memory(),
            // A disk that cannot be measured shows as none.
            disk_total: fs4::total_space(data_dir).unwrap_or(0),
            disk_available: fs4::available_space(data_dir).unwrap_or(0),
            booted_at: sysinfo::System::boot_time(),
        }
    }
}

/// The processor time of the whole machine where the system counts it, else of this process.
fn processor_time() -> Duration {
    let counted = std::fs::read_to_string("/proc/stat")
        .ok()
        .and_then(|text| parse_stat(&text));
    counted.unwrap_or_else(|| {
        let mut system = sysinfo::System::new();
        let own = sysinfo::Pid::from_u32(std::process::id());
        system.refresh_processes(sysinfo::ProcessesToUpdate::Some(&[own]), false);
        let millis = system.process(own).map(|it| it.accumulated_cpu_time());
        Duration::from_millis(millis.unwrap_or(AT_LEAST))
    })
}

/// Reads the first line of Linux's `/proc/stat`: hundredths of seconds, the fourth and fifth are idle,
/// what is after the eighth was counted before.
fn parse_stat(text: &str) -> Option<Duration> {
    let mut words = text.lines().next()?.split_whitespace();
    if words.next()? != "cpu" {
        return None;
    }
    let busy = words
        .take(8)
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .map(|(_, word)| word.parse::<u64>().ok())
        .sum::<Option<u64>>()?;
    Some(Duration::from_millis(busy.checked_mul(10)?))
}

/// What the containers of a pod use together.
#[derive(Default)]
struct Sum {
    started_at: Option<SystemTime>,
    cpu: Duration,
    nano_cores: Option<u64>,
    memory: u64,
}

impl Sum {
    fn add(&mut self, it: &Measured) {
        let earlier = self.started_at.unwrap_or(it.started_at);
        self.started_at = Some(earlier.min(it.started_at));
        self.cpu += it.cpu;
        self.memory += it.memory;
        if let Some(rate) = it.nano_cores {
            self.nano_cores = Some(self.nano_cores.unwrap_or(0) + rate);
        }
    }
}

fn second(at: SystemTime) -> String {
    Timestamp::try_from(at).unwrap_or_default().to_string()
}

fn cpu(now: &str, used: Duration, nano_cores: Option<u64>) -> Value {
    let mut value = json!({"time": now, "usageCoreNanoSeconds": nanos(used)});
    if let Some(rate) = nano_cores {
        value["usageNanoCores"] = rate.into();
    }
    value
}

fn memory(now: &str, bytes: u64) -> Value {
    let bytes = bytes.max(AT_LEAST);
    json!({"time": now, "usageBytes": bytes, "workingSetBytes": bytes})
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos())
        .unwrap_or(u64::MAX)
        .max(AT_LEAST)
}

/// One family of metrics and its lines. The names of pods and containers need no escapes.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
}

const FAMILIES: [Family; 8] = [
    Family {
        name: "container_cpu_usage_seconds_total",
        help: "Cumulative cpu time consumed by the container in core-seconds",
        kind: "counter",
    },
    Family {
        name: "container_memory_working_set_bytes",
        help: "Current working set of the container in bytes",
        kind: "gauge",
    },
    Family {
        name: "container_start_time_seconds",
        help: "Start time of the container since unix epoch in seconds",
        kind: "gauge",
    },
    Family {
        name: "node_cpu_usage_seconds_total",
        help: "Cumulative cpu time consumed by the node in core-seconds",
        kind: "counter",
    },
    Family {
        name: "node_memory_working_set_bytes",
        help: "Current working set of the node in bytes",
        kind: "gauge",
    },
    Family {
        name: "pod_cpu_usage_seconds_total",
        help: "Cumulative cpu time consumed by the pod in core-seconds",
        kind: "counter",
    },
    Family {
        name: "pod_memory_working_set_bytes",
        help: "Current working set of the pod in bytes",
        kind: "gauge",
    },
    Family {
        name: "resource_scrape_error",
        help: "1 if there was an error while getting container metrics, 0 otherwise",
        kind: "gauge",
    },
];

fn resource_page(machine: &Machine, containers: &[Measured], at: i64) -> String {
    let mut lines: BTreeMap<&str, String> = BTreeMap::new();
    let mut put = |family: &'static str, labels: &str, value: f64, at: Option<i64>| {
        let line = lines.entry(family).or_default();
        let stamp = at.map(|at| format!(" {at}")).unwrap_or_default();
        writeln!(line, "{family}{labels} {value}{stamp}").expect("a string takes everything");
    };
    let mut pods: BTreeMap<_, Sum> = BTreeMap::new();
    for it in containers {
        let (namespace, pod, container) = (&it.namespace, &it.pod, &it.container);
        let labels =
            format!("{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\"}}");
        let began = it.started_at.duration_since(SystemTime::UNIX_EPOCH);
        let began = began.unwrap_or_default().as_secs_f64();
        put(
            "container_cpu_usage_seconds_total",
            &labels,
            seconds(it.cpu),
            Some(at),
        );
        put(
            "container_memory_working_set_bytes",
            &labels,
            bytes(it.memory),
            Some(at),
        );
        put("container_start_time_seconds", &labels, began, Some(at));
        pods.entry((namespace, pod)).or_default().add(it);
    }
    for ((namespace, pod), sum) in pods {
        let labels = format!("{{namespace=\"{namespace}\",pod=\"{pod}\"}}");
        put(
            "pod_cpu_usage_seconds_total",
            &labels,
            seconds(sum.cpu),
            Some(at),
        );
        put(
            "pod_memory_working_set_bytes",
            &labels,
            bytes(sum.memory),
            Some(at),
        );
    }
    put(
        "node_cpu_usage_seconds_total",
        "",
        seconds(machine.cpu),
        Some(at),
    );
    put(
        "node_memory_working_set_bytes",
        "",
        bytes(machine.memory_used),
        Some(at),
    );
    put("resource_scrape_error", "", 0.0, None);
    let mut page = String::new();
    for Family { name, help, kind } in FAMILIES {
        if let Some(lines) = lines.get(name) {
            write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}")
                .expect("a string takes everything");
        }
    }
    page
}

fn seconds(cpu: Duration) -> f64 {
    cpu.as_secs_f64().max(1e-9)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floating-point numbers"
)]
fn bytes(bytes: u64) -> f64 {
    bytes.max(AT_LEAST) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn idle() -> Machine {
        Machine {
            cpu: Duration::from_secs(7),
            nano_cores: None,
            memory_used: 1000,
            memory_available: 0,
            disk_total: 0,
            disk_available: 0,
            booted_at: 0,
        }
    }

    pub(super) fn measured(pod: &str, container: &str, cpu: Duration, memory: u64) -> Measured {
        Measured {
            namespace: "default".into(),
            pod: pod.into(),
            uid: format!("uid-of-{pod}").into(),
            container: container.into(),
            started_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
            cpu,
            nano_cores: None,
            memory,
            memory_peak: memory,
            image: format!("registry/{pod}:1").into(),
            cpu_limit_milli: None,
            memory_limit: None,
            storage_limit: None,
        }
    }

    #[test]
    fn a_page_has_each_family_once_and_sums_pods() {
        let machine = idle();
        let containers = [
            measured("web", "a", Duration::from_millis(250), 10),
            measured("web", "b", Duration::ZERO, 0),
        ];
        let page = resource_page(&machine, &containers, 42);
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"a\",namespace=\"default\",pod=\"web\"} 0.25 42",
            "container_cpu_usage_seconds_total{container=\"b\",namespace=\"default\",pod=\"web\"} \
             0.000000001 42",
            "container_memory_working_set_bytes{container=\"b\",namespace=\"default\",pod=\"web\"} 1 42",
            "container_start_time_seconds{container=\"a\",namespace=\"default\",pod=\"web\"} 1.5 42",
            "pod_memory_working_set_bytes{namespace=\"default\",pod=\"web\"} 10 42",
            "node_cpu_usage_seconds_total 7 42",
            "resource_scrape_error 0",
        ] {
            let found = page.lines().filter(|it| *it == line).count();
            assert_eq!(found, 1, "{line} in\n{page}");
        }
    }

    #[test]
    fn a_rate_needs_two_measurements_and_survives_a_restart() {
        let meter = Meter::default();
        let key: MeterKey = ("uid".into(), "web".into());
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let rows = [
            (0, 1000, None),
            (2, 2000, Some(500_000_000)),
            // Asked again at once: the last rate, not one over an instant.
            (2, 2000, Some(500_000_000)),
            (4, 2000, Some(0)),
            // A new instance.
            (6, 10, None),
        ];
        for (second, millis, expected) in rows {
            let cpu = Duration::from_millis(millis);
            assert_eq!(
                meter.rate(key.clone(), cpu, at(second)),
                expected,
                "at {second}"
            );
        }
        meter.keep(&[measured("web", "a", Duration::ZERO, 0)]);
        assert_eq!(
            meter.0.lock().len(),
            1,
            "one more than there is, the node's, is allowed"
        );
        meter.rate(("gone".into(), "a".into()), Duration::ZERO, begin);
        meter.rate(Default::default(), Duration::ZERO, begin);
        meter.keep(&[]);
        assert_eq!(meter.0.lock().len(), 1, "the node's");
    }

    #[test]
    fn the_machines_time_is_what_it_did_not_idle() {
        let text = "cpu  100 1 20 4000 300 2 3 4 50 6\ncpu0 1 2 3\n";
        assert_eq!(parse_stat(text), Some(Duration::from_millis(1300)));
        assert_eq!(parse_stat("intr 5"), None);
        assert_eq!(parse_stat("cpu a b"), None);
    }
}
