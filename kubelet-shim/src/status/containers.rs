//! One `ContainerStatus` per container (B.2).

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, LinuxContainerUser, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use coracle_runtime::fs::User;

use super::phase::Phase;
use super::whole_seconds;
use crate::ground::is_image_problem;
use crate::lifecycle::{
    ContainerFacts, FailedPull, Ground, Health, Life, MESSAGE_STARTS_OVER, PodFacts, Problem,
    PullShown, REASON_STARTS_OVER, StopReason, Termination, takes_part,
};
use crate::spec::{ContainerPlan, LeftOut, PodSpecPlan, Resources, Role};

/// Prefix of container IDs, the one `nodeInfo.containerRuntimeVersion` begins with.
const ID_PREFIX: &str = "coracle://";

/// Returns one status per planned container, in the plan's order.
pub(super) fn statuses(spec: &PodSpecPlan, pod: &PodFacts, phase: Phase) -> Vec<ContainerStatus> {
    let is_before = |role| match role {
        Role::Init | Role::Sidecar => true,
        Role::App | Role::Ephemeral => false,
    };
    let has_init = spec.containers.iter().any(|c| is_before(c.role));
    // A kubelet calls it so for every container of such a pod, the first one included.
    let mut initialising = has_init;
    let mut list = Vec::with_capacity(spec.containers.len());
    for (container, facts) in spec.containers.iter().zip(&pod.containers) {
        let default = if let Ground::Failed { problem, .. } = &pod.ground
            && is_image_problem(problem)
        {
            problem.reason
        } else if initialising && container.role != Role::Ephemeral {
            "PodInitializing"
        } else {
            "ContainerCreating"
        };
        list.push(status(spec, container, facts, default, pod, phase));
        // Where an init container failed for good, those behind it wait for ever.
        initialising = has_init && matches!(phase, Phase::Pending | Phase::Failed);
    }
    list
}

/// Returns the status of an ephemeral container that is not started, so that whoever waits for it sees why.
pub(super) fn left_out(container: &LeftOut) -> ContainerStatus {
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        state: Some(waiting("CreateContainerConfigError", Some(container.why()))),
        ..ContainerStatus::default()
    }
}

fn status(
    spec: &PodSpecPlan,
    container: &ContainerPlan,
    facts: &ContainerFacts,
    default_reason: &str,
    pod: &PodFacts,
    phase: Phase,
) -> ContainerStatus {
    let id = |attempt: u32| format!("{ID_PREFIX}{}.{}.{attempt}", spec.key.uid, container.name);
    let is_over = phase.is_terminal() && pod.ending.is_some();
    let shown = if is_over {
        final_state(facts, &id)
    } else if starts_over(container, facts, pod) {
        Some(waiting(
            REASON_STARTS_OVER,
            Some(MESSAGE_STARTS_OVER.to_owned()),
        ))
    } else {
        None
    };
    let state = shown.unwrap_or_else(|| state(spec, container, facts, default_reason, &id));
    let earlier = if state.terminated.is_some() && !matches!(facts.life, Life::Ended { .. }) {
        None
    } else if starts_over(container, facts, pod) {
        let end = facts.latest_end();
        end.map(|end| terminated(end, id(facts.attempts)))
    } else {
        previous(facts, &id)
    };
    let health = facts.life.health();
    ContainerStatus {
        name: container.name.to_string(),
        last_state: earlier,
        ready: match container.role {
            Role::Init => facts.completed,
            Role::Sidecar | Role::App => health.is_some_and(Health::is_ready),
            Role::Ephemeral => false,
        },
        started: match container.role {
            Role::Init | Role::Sidecar | Role::App => Some(health.is_some_and(Health::is_started)),
            Role::Ephemeral => None,
        },
        restart_count: i32::try_from(facts.attempts.saturating_sub(1)).unwrap_or(i32::MAX),
        image: facts
            .image
            .as_deref()
            .unwrap_or(&container.image)
            .to_owned(),
        image_id: facts.image_id.as_deref().unwrap_or_default().to_owned(),
        container_id: (facts.attempts > 0).then(|| id(facts.attempts)),
        state: Some(state),
        volume_mounts: mounts(container),
        user: facts.user.as_deref().map(user),
        allocated_resources: match container.role {
            Role::Init | Role::Sidecar | Role::App => container.resources.to_wire().requests,
            Role::Ephemeral => None,
        },
        resources: match container.role {
            Role::Init | Role::Sidecar | Role::App => Some(given(container, facts).to_wire()),
            Role::Ephemeral => None,
        },
        ..ContainerStatus::default()
    }
}

/// Whether a container is gone and waits until all start again.
fn starts_over(container: &ContainerPlan, facts: &ContainerFacts, pod: &PodFacts) -> bool {
    pod.starting_over.is_some() && takes_part(container.role) && !facts.life.is_alive()
}

/// What a living instance has; what the next one will have.
fn given(container: &ContainerPlan, facts: &ContainerFacts) -> Resources {
    let given = facts.given.filter(|_| facts.life.is_alive());
    given.unwrap_or(container.resources)
}

/// As the kernel lists them, the groups begin with the user's own.
fn user(user: &User) -> ContainerUser {
    let User { uid, gid, groups } = user;
    let all = [*gid].into_iter().chain(groups.iter().copied());
    ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: i64::from(*uid),
            gid: i64::from(*gid),
            supplemental_groups: Some(all.map(i64::from).collect()),
        }),
    }
}

fn mounts(container: &ContainerPlan) -> Option<Vec<VolumeMountStatus>> {
    let list: Vec<_> = container
        .mounts
        .iter()
        .map(|m| VolumeMountStatus {
            mount_path: m.path.clone(),
            name: m.volume.clone(),
            read_only: Some(m.read_only),
            ..VolumeMountStatus::default()
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

fn state(
    spec: &PodSpecPlan,
    container: &ContainerPlan,
    facts: &ContainerFacts,
    default_reason: &str,
    id: &dyn Fn(u32) -> String,
) -> ContainerState {
    match &facts.life {
        Life::Fetching => match &facts.retried {
            // The problem of the last attempt stands until this one comes out.
            Some(FailedPull { problem, shown }) => failed_pull(problem, *shown, container, facts),
            None => waiting(default_reason, None),
        },
        Life::Waiting
        | Life::Ready
        | Life::Starting
        | Life::Cancelling
        | Life::Greeting { failed: None, .. } => waiting(default_reason, None),
        Life::Greeting {
            failed: Some(message),
            ..
        }
        | Life::Stopping {
            reason: StopReason::PostStartFailed(message),
            ..
        } => waiting("PostStartHookError", Some(message.to_string())),
        Life::FetchFailed { problem, shown, .. } => failed_pull(problem, *shown, container, facts),
        Life::StartFailed { problem, .. } => {
            waiting(problem.reason, Some(problem.message.to_string()))
        }
        Life::CrashLoop { delay, .. } => waiting(
            "CrashLoopBackOff",
            Some(format!(
                "back-off {} restarting failed container={} pod={}",
                go_duration(*delay),
                container.name,
                spec.key
            )),
        ),
        Life::Running { since, .. } | Life::Stopping { since, .. } => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(Time(whole_seconds(*since))),
            }),
            ..ContainerState::default()
        },
        Life::Ended { end, .. } => terminated(end, id(facts.attempts)),
    }
}

/// What a container waits for whose image was not to be had.
fn failed_pull(
    problem: &Problem,
    shown: PullShown,
    container: &ContainerPlan,
    facts: &ContainerFacts,
) -> ContainerState {
    let Problem {
        reason, message, ..
    } = problem;
    match shown {
        PullShown::Error => waiting(reason, Some(message.to_string())),
        // Never pulled: there is nothing to hold back, the kubelet repeats the same reason.
        PullShown::BackOff if !is_pull(reason) => waiting(reason, Some(message.to_string())),
        PullShown::BackOff => waiting(
            "ImagePullBackOff",
            Some(format!(
                "Back-off pulling image \"{}\": {reason}: {message}",
                facts.image.as_deref().unwrap_or(&container.image)
            )),
        ),
    }
}

/// Whether a failed fetch was a pull, which is then backed off from.
pub(super) fn is_pull(reason: &str) -> bool {
    reason == "ErrImagePull"
}

/// What a container of a pod ended from outside is left with: every one is terminated.
fn final_state(facts: &ContainerFacts, id: &dyn Fn(u32) -> String) -> Option<ContainerState> {
    match facts.latest_end() {
        Some(end) => Some(terminated(end, id(facts.attempts))),
        None => Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some("The container had not been started when the pod ended".to_owned()),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        }),
    }
}

/// `lastState`: the end before the present state.
fn previous(facts: &ContainerFacts, id: &dyn Fn(u32) -> String) -> Option<ContainerState> {
    match &facts.life {
        Life::CrashLoop { end, .. } => Some(terminated(end, id(facts.attempts))),
        Life::Greeting { .. }
        | Life::Running { .. }
        | Life::Stopping { .. }
        | Life::Ended { .. } => facts
            .last
            .as_ref()
            .map(|end| terminated(end, id(facts.attempts.saturating_sub(1)))),
        Life::Waiting
        | Life::Fetching
        | Life::FetchFailed { .. }
        | Life::Ready
        | Life::Starting
        | Life::Cancelling
        | Life::StartFailed { .. } => facts
            .last
            .as_ref()
            .map(|end| terminated(end, id(facts.attempts))),
    }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message,
        }),
        ..ContainerState::default()
    }
}

fn terminated(end: &Termination, id: String) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: end.code,
            reason: Some(end.reason.to_owned()),
            message: end.message.clone(),
            started_at: end.started_at.map(|at| Time(whole_seconds(at))),
            finished_at: end.finished_at.map(|at| Time(whole_seconds(at))),
            container_id: Some(id),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

/// Writes a delay of whole seconds as Go does: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(delay: std::time::Duration) -> String {
    let seconds = delay.as_secs();
    if seconds < 60 {
        format!("{seconds}s")
    } else {
        format!("{}m{}s", seconds / 60, seconds % 60)
    }
}
