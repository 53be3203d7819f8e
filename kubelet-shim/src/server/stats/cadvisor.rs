//! `/metrics/cadvisor`: what containers use, by the names and labels that stock rules of Prometheus expect.
//!
//! A container has a line with its image and name; the pod's sum has neither, as cadvisor's cgroup of the pod.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use coracle_network::PodTraffic;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::disk::Measurement;
use super::{Machine, Measured};
use crate::spec::PodKey;

/// The period that a CPU quota counts in, in microseconds, as cadvisor shows it.
const CPU_PERIOD_MICROS: u64 = 100_000;

/// One scrape.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) machine: Machine,
    pub(super) containers: Vec<Measured>,
    /// What they keep on the disk.
    pub(super) held: Arc<Measurement>,
    /// What passed through the sockets of each pod.
    pub(super) traffic: Vec<(PodKey, PodTraffic)>,
    pub(super) now: SystemTime,
    pub(super) cores: u64,
    pub(super) memory_total: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    container: String,
    id: String,
    image: String,
    name: String,
    namespace: String,
    pod: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CpuLabels {
    #[prometheus(flatten)]
    whose: Labels,
    cpu: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NetworkLabels {
    #[prometheus(flatten)]
    whose: Labels,
    interface: &'static str,
}

/// A family of one number for each pod's network. There are no packets to count.
struct NetworkRow {
    name: &'static str,
    help: &'static str,
    value: fn(&PodTraffic) -> u64,
}

const NETWORK_ROWS: [NetworkRow; 2] = [
    NetworkRow {
        name: "container_network_receive_bytes",
        help: "Cumulative count of bytes received",
        value: |it| it.received,
    },
    NetworkRow {
        name: "container_network_transmit_bytes",
        help: "Cumulative count of bytes transmitted",
        value: |it| it.sent,
    },
];

/// The name of a pod's only interface, as stock rules select it.
const INTERFACE: &str = "eth0";

/// A family of one number for each container.
struct Row {
    name: &'static str,
    help: &'static str,
    value: fn(&Measured) -> Option<u64>,
}

const ROWS: [Row; 9] = [
    Row {
        name: "container_memory_working_set_bytes",
        help: "Current working set in bytes",
        value: |it| Some(it.memory.max(1)),
    },
    Row {
        name: "container_memory_usage_bytes",
        help: "Current memory usage in bytes, including all memory regardless of when it was accessed",
        value: |it| Some(it.memory.max(1)),
    },
    Row {
        name: "container_memory_rss",
        help: "Size of RSS in bytes",
        value: |it| Some(it.memory.max(1)),
    },
    Row {
        name: "container_memory_max_usage_bytes",
        help: "Maximum memory usage recorded in bytes",
        value: |it| Some(it.memory_peak.max(it.memory).max(1)),
    },
    Row {
        // A sandbox has no page cache.
        name: "container_memory_cache",
        help: "Number of bytes of page cache memory",
        value: |_| Some(0),
    },
    Row {
        name: "container_spec_memory_limit_bytes",
        help: "Memory limit for the container",
        value: |it| Some(it.memory_limit.unwrap_or(0)),
    },
    Row {
        name: "container_spec_cpu_period",
        help: "CPU period of the container",
        value: |it| it.cpu_limit_milli.map(|_| CPU_PERIOD_MICROS),
    },
    Row {
        name: "container_spec_cpu_quota",
        help: "CPU quota of the container",
        value: |it| {
            let milli = it.cpu_limit_milli?;
            Some(milli.saturating_mul(CPU_PERIOD_MICROS / 1000))
        },
    },
    Row {
        name: "container_start_time_seconds",
        help: "Start time of the container since unix epoch in seconds",
        value: |it| {
            let began = it.started_at.duration_since(SystemTime::UNIX_EPOCH);
            Some(began.unwrap_or_default().as_secs())
        },
    },
];

fn labels(it: &Measured) -> Labels {
    Labels {
        container: it.container.to_string(),
        id: format!("/coracle/pod{}/{}", it.uid, it.container),
        image: it.image.to_string(),
        name: format!("{}.{}", it.uid, it.container),
        namespace: it.namespace.to_string(),
        pod: it.pod.to_string(),
    }
}

fn of_pod(it: &Measured) -> Labels {
    sum_of(&it.namespace, &it.pod, &it.uid)
}

fn sum_of(namespace: &str, pod: &str, uid: &str) -> Labels {
    Labels {
        container: String::new(),
        id: format!("/coracle/pod{uid}"),
        image: String::new(),
        name: String::new(),
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
    }
}

impl Page {
    fn cpu(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Cumulative cpu time consumed in seconds";
        let name = "container_cpu_usage_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        let mut put = |whose: Labels, cpu: Duration| {
            let labels = CpuLabels {
                whose,
                cpu: "total",
            };
            let mut one = family.encode_family(&labels)?;
            one.encode_counter::<NoLabelSet, _, u64>(&cpu.as_secs_f64().max(1e-9), None)
        };
        let mut pods: BTreeMap<&Arc<str>, (&Measured, Duration)> = BTreeMap::new();
        for it in &self.containers {
            put(labels(it), it.cpu)?;
            pods.entry(&it.uid).or_insert((it, Duration::ZERO)).1 += it.cpu;
        }
        for (it, cpu) in pods.into_values() {
            put(of_pod(it), cpu)?;
        }
        Ok(())
    }

    fn network(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for NetworkRow { name, help, value } in &NETWORK_ROWS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (key, traffic) in &self.traffic {
                let labels = NetworkLabels {
                    whose: sum_of(&key.namespace, &key.name, &key.uid),
                    interface: INTERFACE,
                };
                let mut one = family.encode_family(&labels)?;
                one.encode_counter::<NoLabelSet, _, u64>(&value(traffic), None)?;
            }
        }
        Ok(())
    }

    /// The writable layer and the logs of each container, on the disk of the data folder.
    fn file_systems(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let used = |it: &Measured| {
            let (root, logs) = self.held.get(&it.uid)?.containers.get(&it.container)?;
            Some(root.plus(*logs))
        };
        let help = "Number of bytes that are consumed by the container on this filesystem";
        let name = "container_fs_usage_bytes";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for it in &self.containers {
            if let Some(held) = used(it) {
                let labels = labels(it);
                let mut one = family.encode_family(&labels)?;
                one.encode_gauge(&gauge(held.bytes))?;
            }
        }
        let help = "Number of bytes that can be consumed by the container on this filesystem";
        let name = "container_fs_limit_bytes";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for it in &self.containers {
            let limit = it.storage_limit.unwrap_or(self.machine.disk_total);
            let labels = labels(it);
            let mut one = family.encode_family(&labels)?;
            one.encode_gauge(&gauge(limit.min(self.machine.disk_total)))?;
        }
        Ok(())
    }

    fn last_seen(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let now = self.now.duration_since(SystemTime::UNIX_EPOCH);
        let now = gauge(now.unwrap_or_default().as_secs());
        let help = "Last time a container was seen by the exporter";
        let name = "container_last_seen";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for it in &self.containers {
            family.encode_family(&labels(it))?.encode_gauge(&now)?;
        }
        Ok(())
    }

    fn machine(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let rows = [
            (
                "machine_cpu_cores",
                "Number of logical CPU cores",
                self.cores,
            ),
            (
                "machine_memory_bytes",
                "Amount of memory installed on the machine",
                self.memory_total,
            ),
            (
                "machine_scrape_error",
                "1 if there was an error while getting machine metrics, 0 otherwise",
                0,
            ),
        ];
        for (name, help, value) in rows {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            family.encode_gauge(&gauge(value))?;
        }
        let help = "Cumulative cpu time consumed by the machine in seconds";
        let name = "machine_cpu_usage_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&self.machine.cpu.as_secs_f64(), None)
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.cpu(&mut encoder)?;
        for Row { name, help, value } in &ROWS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            let mut pods: BTreeMap<&Arc<str>, (&Measured, u64)> = BTreeMap::new();
            for it in &self.containers {
                let Some(value) = value(it) else { continue };
                family
                    .encode_family(&labels(it))?
                    .encode_gauge(&gauge(value))?;
                if name.starts_with("container_memory_") {
                    let sum = &mut pods.entry(&it.uid).or_insert((it, 0)).1;
                    *sum = sum.saturating_add(value);
                }
            }
            for (it, sum) in pods.into_values() {
                family
                    .encode_family(&of_pod(it))?
                    .encode_gauge(&gauge(sum))?;
            }
        }
        self.network(&mut encoder)?;
        self.file_systems(&mut encoder)?;
        self.last_seen(&mut encoder)?;
        self.machine(&mut encoder)
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::super::disk::PodHeld;
    use super::super::tests::{idle, measured};
    use super::*;
    use crate::folders::Held;

    #[test]
    fn a_container_has_the_labels_that_stock_rules_select_by_and_its_pod_the_sum() {
        let mut first = measured("web", "a", Duration::from_millis(250), 10);
        first.cpu_limit_milli = Some(1500);
        first.storage_limit = Some(5000);
        let held = |bytes| Held { bytes, entries: 1 };
        let on_disk = PodHeld {
            containers: [("a".into(), (held(30), held(12)))].into(),
            volumes: Vec::new(),
        };
        let key = PodKey {
            namespace: "default".into(),
            name: "web".into(),
            uid: "uid-of-web".into(),
        };
        let traffic = PodTraffic {
            received: 7,
            sent: 8,
        };
        let machine = Machine {
            disk_total: 9000,
            ..idle()
        };
        let containers = vec![first, measured("web", "b", Duration::from_millis(500), 20)];
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Page {
            machine,
            containers,
            held: Arc::new([("uid-of-web".into(), on_disk)].into()),
            traffic: vec![(key, traffic)],
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(9),
            cores: 2,
            memory_total: 1 << 30,
        }));
        let text = crate::metrics::page(&registry);
        let a = "container=\"a\",id=\"/coracle/poduid-of-web/a\",image=\"registry/web:1\",\
                 name=\"uid-of-web.a\",namespace=\"default\",pod=\"web\"";
        let pod = "container=\"\",id=\"/coracle/poduid-of-web\",image=\"\",name=\"\",\
                   namespace=\"default\",pod=\"web\"";
        for line in [
            format!("container_cpu_usage_seconds_total{{{a},cpu=\"total\"}} 0.25"),
            format!("container_cpu_usage_seconds_total{{{pod},cpu=\"total\"}} 0.75"),
            format!("container_memory_working_set_bytes{{{a}}} 10"),
            format!("container_memory_working_set_bytes{{{pod}}} 30"),
            format!("container_spec_cpu_quota{{{a}}} 150000"),
            format!("container_spec_cpu_period{{{a}}} 100000"),
            format!("container_start_time_seconds{{{a}}} 1"),
            format!("container_last_seen{{{a}}} 9"),
            format!("container_network_receive_bytes_total{{{pod},interface=\"eth0\"}} 7"),
            format!("container_network_transmit_bytes_total{{{pod},interface=\"eth0\"}} 8"),
            format!("container_fs_usage_bytes{{{a}}} 42"),
            format!("container_fs_limit_bytes{{{a}}} 5000"),
            "machine_cpu_cores 2".to_owned(),
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
        assert!(!text.contains("container_spec_cpu_quota{container=\"b\""));
        assert!(
            text.contains("container_fs_limit_bytes{container=\"b\"") && text.contains("} 9000")
        );
        assert!(!text.contains("container_fs_usage_bytes{container=\"b\""));
    }
}
