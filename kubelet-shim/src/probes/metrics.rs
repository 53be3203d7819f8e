//! What the probes of the node have come to, as `/metrics/probes` tells it (contract C.2).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;

use super::attempt::Ended;
use crate::spec::{PodKey, ProbeKind};

/// Upper bounds in seconds, the kubelet's.
const BOUNDS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Whose probe it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Whose {
    /// Namespace of the pod.
    pub namespace: Arc<str>,
    /// Name of the pod.
    pub pod: Arc<str>,
    /// UID of the pod.
    pub uid: Arc<str>,
    /// The container.
    pub container: Arc<str>,
}

impl Whose {
    /// A container of a pod.
    pub fn new(pod: &PodKey, container: &Arc<str>) -> Whose {
        Whose {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            container: container.clone(),
        }
    }
}

/// The counts of all probes; there are as many series as the pods of the node have probes, and they go with
/// their pods. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProbeMetrics(Arc<Mutex<BTreeMap<(Whose, usize), Series>>>);

/// One probe of one container.
#[derive(Debug)]
struct Series {
    successful: u64,
    failed: u64,
    unknown: u64,
    took: Histogram,
}

impl Default for Series {
    fn default() -> Series {
        Series {
            successful: 0,
            failed: 0,
            unknown: 0,
            took: Histogram::new(BOUNDS),
        }
    }
}

impl ProbeMetrics {
    /// Counts an attempt.
    pub(super) fn note(&self, whose: &Whose, kind: ProbeKind, ended: &Ended, took: Duration) {
        let mut all = self.0.lock();
        let series = all.entry((whose.clone(), kind as usize)).or_default();
        // The kubelet measures the attempts that are no failure.
        match ended {
            Ended::Good | Ended::Warned(_) => {
                series.successful += 1;
                series.took.observe(took.as_secs_f64());
            }
            Ended::Failed(_) => series.failed += 1,
            Ended::Errored(_) => {
                series.unknown += 1;
                series.took.observe(took.as_secs_f64());
            }
        }
    }

    /// Forgets a pod.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().retain(|(whose, _), _| *whose.uid != *uid);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    probe_type: &'static str,
    container: String,
    pod: String,
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
    pod_uid: String,
    #[prometheus(flatten)]
    probe: ProbeLabels,
}

fn labels((whose, kind): &(Whose, usize)) -> ProbeLabels {
    ProbeLabels {
        probe_type: ProbeKind::ALL.get(*kind).map_or("", |kind| kind.title()),
        container: whose.container.to_string(),
        pod: whose.pod.to_string(),
        namespace: whose.namespace.to_string(),
    }
}

impl Collector for ProbeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.0.lock();
        let help =
            "Cumulative number of a liveness, readiness or startup probe for a container by result";
        let mut totals =
            encoder.encode_descriptor("prober_probe", help, None, MetricType::Counter)?;
        for (key, series) in all.iter() {
            for (result, count) in [
                ("successful", series.successful),
                ("failed", series.failed),
                ("unknown", series.unknown),
            ] {
                if count == 0 {
                    continue;
                }
                let labels = ResultLabels {
                    result,
                    pod_uid: key.0.uid.to_string(),
                    probe: labels(key),
                };
                let mut one = totals.encode_family(&labels)?;
                one.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        let help = "Duration in seconds for a probe response";
        let name = "prober_probe_duration_seconds";
        let mut durations = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (key, series) in all.iter() {
            let labels = labels(key);
            let one = durations.encode_family(&labels)?;
            series.took.encode(one)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn attempts_are_counted_by_probe_and_result_and_go_with_their_pod() {
        let metrics = ProbeMetrics::default();
        let whose = Whose {
            namespace: "n".into(),
            pod: "p".into(),
            uid: "u".into(),
            container: "c".into(),
        };
        let took = Duration::from_millis(20);
        metrics.note(&whose, ProbeKind::Liveness, &Ended::Good, took);
        metrics.note(&whose, ProbeKind::Liveness, &Ended::Good, took);
        metrics.note(
            &whose,
            ProbeKind::Liveness,
            &Ended::Failed(String::new()),
            took,
        );
        let page = |metrics: &ProbeMetrics| {
            let mut registry = Registry::default();
            registry.register_collector(Box::new(metrics.clone()));
            let mut text = String::new();
            encode(&mut text, &registry).expect("a string takes everything");
            text
        };
        let text = page(&metrics);
        for line in [
            "prober_probe_total{result=\"successful\",pod_uid=\"u\",probe_type=\"Liveness\",container=\"c\",\
             pod=\"p\",namespace=\"n\"} 2",
            "prober_probe_total{result=\"failed\",pod_uid=\"u\",probe_type=\"Liveness\",container=\"c\",\
             pod=\"p\",namespace=\"n\"} 1",
            "prober_probe_duration_seconds_count{probe_type=\"Liveness\",container=\"c\",pod=\"p\",\
             namespace=\"n\"} 2",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
        metrics.forget("u");
        assert!(!page(&metrics).contains("Liveness"));
    }
}
