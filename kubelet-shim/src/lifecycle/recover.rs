//! What is known of a pod that ran before this agent did: an agent's restart is a container's restart.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodStatus};

use super::{
    ContainerFacts, Life, PodFacts, REASON_STARTS_OVER, StartOver, Termination, takes_part,
};
use crate::spec::{PodSpecPlan, Role};
use crate::time::Moment;

impl PodFacts {
    /// Takes over what an earlier agent published. Nothing of it lives any more; restart counts go on.
    pub(crate) fn recover(spec: &PodSpecPlan, status: &PodStatus, now: Moment) -> PodFacts {
        let mut pod = PodFacts::new(spec, now);
        let Some(start_time) = &status.start_time else {
            return pod;
        };
        pod.start_time = start_time.0;
        let age = now.wall().duration_since(start_time.0);
        pod.accepted = now.before(Duration::try_from(age).unwrap_or_default());
        let mut conditions = status.conditions.iter().flatten();
        if conditions.any(|c| c.type_ == "AllContainersRestarting" && c.status == "True") {
            pod.starting_over = Some(StartOver::recovered(now));
        }
        let inits = status.init_container_statuses.iter().flatten();
        let all: Vec<&ContainerStatus> = inits
            .chain(status.container_statuses.iter().flatten())
            .chain(status.ephemeral_container_statuses.iter().flatten())
            .collect();
        for (container, facts) in spec.containers.iter().zip(&mut pod.containers) {
            if let Some(status) = all.iter().find(|s| s.name == *container.name) {
                facts.take_over(container.role, status, now);
            }
            facts.anew |= pod.starting_over.is_some() && takes_part(container.role);
        }
        pod
    }
}

impl ContainerFacts {
    fn take_over(&mut self, role: Role, status: &ContainerStatus, now: Moment) {
        let state = status.state.as_ref();
        let running = state.and_then(|s| s.running.as_ref());
        let ended = state.and_then(|s| s.terminated.as_ref()).or_else(|| {
            status
                .last_state
                .as_ref()
                .and_then(|s| s.terminated.as_ref())
        });
        let end = match (running, ended) {
            (Some(running), _) => Termination {
                code: 137,
                reason: "ContainerStatusUnknown",
                message: Some("The container was lost when the node agent ended".to_owned()),
                started_at: running.started_at.as_ref().map(|at| at.0),
                finished_at: Some(now.wall()),
            },
            (None, Some(ended)) => recorded(ended),
            (None, None) => return,
        };
        self.attempts = u32::try_from(status.restart_count)
            .unwrap_or(0)
            .saturating_add(1);
        // One that waits after an end was about to start again, whatever its policy says of that end.
        self.anew = takes_part(role) && state.is_some_and(|state| state.waiting.is_some());
        self.was_started = role == Role::Sidecar && status.started == Some(true);
        let end = Arc::new(end);
        match role {
            // The pod gets a new network, so its init containers run again.
            Role::Init => self.last = Some(end),
            Role::Sidecar | Role::App | Role::Ephemeral => self.life = Life::Ended { end, at: now },
        }
    }
}

fn recorded(ended: &ContainerStateTerminated) -> Termination {
    let reason = match ended.reason.as_deref() {
        Some("Completed") => "Completed",
        Some("OOMKilled") => "OOMKilled",
        Some("StartError") => "StartError",
        Some(REASON_STARTS_OVER) => REASON_STARTS_OVER,
        Some("ContainerStatusUnknown") => "ContainerStatusUnknown",
        Some(_) | None => "Error",
    };
    Termination {
        code: ended.exit_code,
        reason,
        message: ended.message.clone(),
        started_at: ended.started_at.as_ref().map(|at| at.0),
        finished_at: ended.finished_at.as_ref().map(|at| at.0),
    }
}
