//! The conditions the agent owns (B.3), with transition times that move only when the status does.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::phase::Phase;
use super::whole_seconds;
use crate::lifecycle::{EndCause, PodFacts};
use crate::spec::{PodSpecPlan, Role};

/// What a pod is told that ends with its node (contract A.8).
const SHUTDOWN_MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// The node does not grant other resources that were wished for.
const PENDING: &str = "PodResizePending";
/// Other resources were granted, and not all that lives has them.
const IN_PROGRESS: &str = "PodResizeInProgress";
/// The conditions of a resize, which go when it is over.
pub(super) const PASSING: [&str; 2] = [PENDING, IN_PROGRESS];

/// What the conditions follow from.
pub(super) struct Input<'a> {
    pub(super) spec: &'a PodSpecPlan,
    pub(super) pod: &'a PodFacts,
    pub(super) phase: Phase,
    pub(super) has_network: bool,
    pub(super) statuses: &'a [ContainerStatus],
    pub(super) generation: Option<i64>,
    pub(super) gates: &'a [PodCondition],
    pub(super) previous: &'a [PodCondition],
    pub(super) now: Timestamp,
}

struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// Returns the agent's own conditions; those of others are theirs to write.
pub(super) fn conditions(input: &Input<'_>) -> Vec<PodCondition> {
    let ready = containers_ready(input);
    let mut owned = vec![
        (
            "PodReadyToStartContainers",
            Verdict::plain(input.has_network),
        ),
        ("Initialized", initialized(input)),
        ("Ready", ready_with_gates(input, &ready)),
        ("ContainersReady", ready),
        // The scheduler's, re-asserted for every pod that runs here.
        ("PodScheduled", Verdict::plain(true)),
    ];
    let is_shutdown = input
        .pod
        .ending
        .is_some_and(|(ending, _)| ending.cause == EndCause::Shutdown);
    let disruption = match &input.pod.evicted {
        Some(message) => Some(message.to_string()),
        None => is_shutdown.then(|| SHUTDOWN_MESSAGE.to_owned()),
    };
    if let Some(message) = disruption.filter(|_| input.phase.is_terminal()) {
        owned.push((
            "DisruptionTarget",
            Verdict {
                holds: true,
                reason: Some("TerminationByKubelet"),
                message: Some(message),
            },
        ));
    }
    let mut containers = input.spec.containers.iter();
    if containers.any(|container| container.restarts.may_restart_all()) {
        owned.push(("AllContainersRestarting", all_restarting(input)));
    }
    owned.extend(resize(input));
    let own = owned.into_iter();
    own.map(|(name, verdict)| verdict.into_condition(name, input))
        .collect()
}

/// Only of a pod with a rule that may start all containers again.
fn all_restarting(input: &Input<'_>) -> Verdict {
    let reason = match input.phase {
        Phase::Succeeded => Some("PodCompleted"),
        Phase::Failed => Some("PodFailed"),
        Phase::Pending | Phase::Running => None,
    };
    if reason.is_some() || input.pod.starting_over.is_none() {
        return Verdict {
            holds: false,
            reason,
            message: None,
        };
    }
    Verdict {
        holds: true,
        reason: Some("RestartAllContainersStarted"),
        message: Some("container exited with restart policy rule".to_owned()),
    }
}

/// What became of a wish for other resources, as long as not all of it is fulfilled (B.12).
fn resize(input: &Input<'_>) -> Vec<(&'static str, Verdict)> {
    if input.phase.is_terminal() {
        return Vec::new();
    }
    let holds = |reason, message: Option<String>| Verdict {
        holds: true,
        reason,
        message,
    };
    let (pod, spec) = (input.pod, input.spec);
    let pending = pod.pending_resize.as_ref().map(|pending| {
        let message = pending.message.to_string();
        let verdict = holds(Some(pending.outlook.reason()), Some(message));
        (PENDING, verdict)
    });
    let failure = pod.resize_failure(spec);
    let reason = failure.map(|_| "Error");
    let verdict = holds(reason, failure.map(|message| message.to_string()));
    let in_progress = pod.is_resizing(spec).then_some((IN_PROGRESS, verdict));
    pending.into_iter().chain(in_progress).collect()
}

/// Ready is more than its containers where the pod names readiness gates.
fn ready_with_gates(input: &Input<'_>, containers: &Verdict) -> Verdict {
    let unmet = input.spec.readiness_gates.iter().filter_map(|gate| {
        match input.gates.iter().find(|c| c.type_ == *gate) {
            None => Some(format!(
                "corresponding condition of pod readiness gate \"{gate}\" does not exist."
            )),
            Some(condition) if condition.status == "True" => None,
            Some(condition) => Some(format!(
                "the status of pod readiness gate \"{gate}\" is not \"True\", but {}",
                condition.status
            )),
        }
    });
    let unmet: Vec<String> = unmet.collect();
    if !containers.holds || unmet.is_empty() {
        return containers.copy();
    }
    Verdict {
        holds: false,
        reason: Some("ReadinessGatesNotReady"),
        message: Some(unmet.join(", ")),
    }
}

fn initialized(input: &Input<'_>) -> Verdict {
    if input.phase == Phase::Succeeded {
        return Verdict {
            holds: true,
            reason: Some("PodCompleted"),
            message: None,
        };
    }
    if input.pod.was_initialised {
        return Verdict::plain(true);
    }
    let names = names(input, |role, facts, _| match role {
        Role::Init => !facts.completed,
        Role::Sidecar => !facts.was_started,
        Role::App | Role::Ephemeral => false,
    });
    match names {
        None => Verdict::plain(true),
        Some(names) => Verdict {
            holds: false,
            reason: Some("ContainersNotInitialized"),
            message: Some(format!("containers with incomplete status: [{names}]")),
        },
    }
}

fn containers_ready(input: &Input<'_>) -> Verdict {
    match input.phase {
        Phase::Succeeded => {
            return Verdict {
                holds: false,
                reason: Some("PodCompleted"),
                message: None,
            };
        }
        Phase::Failed => {
            return Verdict {
                holds: false,
                reason: Some("PodFailed"),
                message: None,
            };
        }
        Phase::Pending | Phase::Running => {}
    }
    match names(input, |role, _, status| match role {
        Role::Sidecar | Role::App => !status.ready,
        Role::Init | Role::Ephemeral => false,
    }) {
        None => Verdict::plain(true),
        Some(names) => Verdict {
            holds: false,
            reason: Some("ContainersNotReady"),
            message: Some(format!("containers with unready status: [{names}]")),
        },
    }
}

/// Returns the names of the containers that fit, or nothing when none does.
fn names(
    input: &Input<'_>,
    fits: impl Fn(Role, &crate::lifecycle::ContainerFacts, &ContainerStatus) -> bool,
) -> Option<String> {
    let pairs = input
        .spec
        .containers
        .iter()
        .zip(&input.pod.containers)
        .zip(input.statuses);
    let names: Vec<&str> = pairs
        .filter(|((container, facts), status)| fits(container.role, facts, status))
        .map(|((container, _), _)| &*container.name)
        .collect();
    (!names.is_empty()).then(|| names.join(" "))
}

impl Verdict {
    fn plain(holds: bool) -> Verdict {
        Verdict {
            holds,
            reason: None,
            message: None,
        }
    }

    fn copy(&self) -> Verdict {
        Verdict {
            holds: self.holds,
            reason: self.reason,
            message: self.message.clone(),
        }
    }

    fn into_condition(self, name: &str, input: &Input<'_>) -> PodCondition {
        let status = if self.holds { "True" } else { "False" };
        let kept = input
            .previous
            .iter()
            .find(|c| c.type_ == name && c.status == status)
            .and_then(|c| c.last_transition_time.clone());
        PodCondition {
            type_: name.to_owned(),
            status: status.to_owned(),
            reason: self.reason.map(str::to_owned),
            message: self.message,
            last_transition_time: kept.or_else(|| Some(Time(whole_seconds(input.now)))),
            last_probe_time: None,
            observed_generation: input.generation,
        }
    }
}
