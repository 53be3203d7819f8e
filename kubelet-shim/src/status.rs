//! Facts into `PodStatus`, and the only hand that writes it.
//!
//! [`mod@phase`] and the container states are pure functions of the facts; [`render`] adds what only the
//! reporter keeps (transition times of conditions); [`Reporter`] patches the API when something changed.

mod conditions;
mod containers;
mod phase;
mod report;

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, PodCondition, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub(crate) use phase::{Phase, phase};
pub(crate) use report::{Reporter, STATUS_WRITES_MAX, Written, is_gone};

use crate::agent::NodeIps;
use crate::lifecycle::{EndCause, PodFacts};
use crate::spec::{PodSpecPlan, Role};
use crate::time::Moment;

/// What the status says beside the facts of the lifecycle.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// `status.hostIPs`.
    pub(crate) host_ips: NodeIps,
    /// Whether the pod is attached to its network.
    pub(crate) has_network: bool,
    /// The pod's addresses, the main one first. It keeps those it had last, also after its end.
    pub(crate) pod_ips: Vec<IpAddr>,
    /// `metadata.generation` of the object the plan was made from.
    pub(crate) generation: Option<i64>,
    /// The conditions that readiness gates name, as others have written them.
    pub(crate) gates: Vec<PodCondition>,
}

/// Computes what to publish. `previous` is what was published last and keeps its transition times.
pub(crate) fn render(
    spec: &PodSpecPlan,
    pod: &PodFacts,
    surroundings: &Surroundings,
    previous: &[PodCondition],
    now: Moment,
) -> PodStatus {
    let phase = phase(spec, pod);
    let statuses = containers::statuses(spec, pod, phase);
    let conditions = conditions::conditions(&conditions::Input {
        spec,
        pod,
        phase,
        has_network: surroundings.has_network,
        statuses: &statuses,
        generation: surroundings.generation,
        gates: &surroundings.gates,
        previous,
        now: now.wall(),
    });
    let (reason, message) = verdict(pod, phase);
    let ips = &surroundings.pod_ips;
    let Split {
        inits,
        apps,
        mut late,
    } = split(spec, statuses);
    late.extend(left_out(spec));
    let mut status = PodStatus {
        phase: Some(phase.name().to_owned()),
        reason,
        message,
        start_time: Some(Time(whole_seconds(pod.start_time))),
        host_ip: Some(surroundings.host_ips.main.to_string()),
        host_ips: Some({
            let ips = surroundings.host_ips.iter();
            ips.map(|ip| HostIP { ip: ip.to_string() }).collect()
        }),
        pod_ip: ips.first().map(ToString::to_string),
        pod_ips: (!ips.is_empty()).then(|| {
            let ips = ips.iter();
            ips.map(|ip| PodIP { ip: ip.to_string() }).collect()
        }),
        observed_generation: surroundings.generation,
        conditions: Some(conditions),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: Some(apps),
        ephemeral_container_statuses: (!late.is_empty()).then_some(late),
        ..PodStatus::default()
    };
    if pod.rejected.is_some() && pod.containers.iter().all(|one| one.attempts == 0) {
        forget_containers(&mut status);
    }
    status
}

/// The statuses of ephemeral containers that are not started, unless the fault is that they take the name of
/// another one.
fn left_out(spec: &PodSpecPlan) -> impl Iterator<Item = ContainerStatus> {
    let is_taken = |name: &str| spec.containers.iter().any(|one| *one.name == *name);
    let left_out = spec.left_out.iter();
    left_out
        .filter(move |one| !is_taken(&one.name))
        .map(containers::left_out)
}

/// Says of no container that it waits: a pod that is refused before anything of it ran has none. An empty list
/// takes the place of what may have been told before.
fn forget_containers(status: &mut PodStatus) {
    let lists = [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    lists.into_iter().flatten().for_each(Vec::clear);
}

/// The pod's own reason and message: only the agent's decisions have one.
fn verdict(pod: &PodFacts, phase: Phase) -> (Option<String>, Option<String>) {
    if let Some(problem) = &pod.rejected {
        let message = format!("Pod was rejected: {}", problem.message);
        return (Some(problem.reason.to_owned()), Some(message));
    }
    if let (Some(message), Phase::Failed) = (&pod.evicted, phase) {
        return (Some("Evicted".to_owned()), Some(message.to_string()));
    }
    let text = match (pod.ending.map(|(ending, _)| ending.cause), phase) {
        (Some(EndCause::Deadline), Phase::Failed) => (
            "DeadlineExceeded",
            "Pod was active on the node longer than the specified deadline",
        ),
        (Some(EndCause::Shutdown), Phase::Failed) => (
            "Terminated",
            "Pod was terminated in response to imminent node shutdown.",
        ),
        (
            Some(
                EndCause::Deadline
                | EndCause::Evicted
                | EndCause::Shutdown
                | EndCause::Deleted
                | EndCause::Vanished,
            )
            | None,
            _,
        ) => {
            return (None, None);
        }
    };
    (Some(text.0.to_owned()), Some(text.1.to_owned()))
}

#[derive(Default)]
struct Split {
    inits: Vec<ContainerStatus>,
    apps: Vec<ContainerStatus>,
    late: Vec<ContainerStatus>,
}

fn split(spec: &PodSpecPlan, statuses: Vec<ContainerStatus>) -> Split {
    let mut split = Split::default();
    for (container, status) in spec.containers.iter().zip(statuses) {
        match container.role {
            Role::Init | Role::Sidecar => split.inits.push(status),
            Role::App => split.apps.push(status),
            Role::Ephemeral => split.late.push(status),
        }
    }
    split
}

/// The API's times have whole seconds.
pub(crate) fn whole_seconds(at: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// One published port, as the annotation `coracle.dev/published` lists it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct PublishedUrl {
    /// The container that declares it.
    pub(crate) container: Arc<str>,
    /// The port's name, or nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// The port in the pod.
    pub(crate) port: u16,
    /// Where it can be reached.
    pub(crate) url: String,
}

/// One final refusal, as the annotation `coracle.dev/refused` lists it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Refused {
    /// The container that cannot run.
    pub(crate) container: Arc<str>,
    /// Why.
    pub(crate) message: String,
}

/// Annotation with the addresses at which a pod's ports can be reached.
pub const ANNOTATION_PUBLISHED: &str = "coracle.dev/published";

/// Annotation with the containers that can never run here, and why.
pub const ANNOTATION_REFUSED: &str = "coracle.dev/refused";

#[cfg(test)]
mod tests;
