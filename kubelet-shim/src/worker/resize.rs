//! Resources of a pod that lives: asks the node for other ones, and gives them to what runs.

use std::sync::Arc;

use coracle_runtime::PodLimits;
use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::Serialize;

use super::Worker;
use crate::allocation::{Demand, ResizeRefused};
use crate::events::Severity::{Normal, Warning};
use crate::launch;
use crate::lifecycle::{Outcome, PendingResize, ResizeOutlook};
use crate::spec::{PodSpecPlan, Resources, Role};

/// What an event says of a resize.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<ContainerSummary<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<ContainerSummary<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct ContainerSummary<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

impl Worker {
    /// Asks the node for the resources of a newer plan, and returns that plan with those that are granted.
    pub(super) fn allot(&mut self, wanted: &Arc<PodSpecPlan>) -> Arc<PodSpecPlan> {
        if !self.spec.is_resized(wanted) {
            self.facts.pending_resize = None;
            return wanted.clone();
        }
        let demand = self.demand(wanted);
        match self.node.ledger.resize(&self.spec.key.uid, demand) {
            Ok(()) => {
                self.facts.pending_resize = None;
                wanted.clone()
            }
            Err(refused) => {
                self.hold_off(wanted, refused);
                Arc::new(self.spec.without_resize(wanted))
            }
        }
    }

    fn hold_off(&mut self, wanted: &PodSpecPlan, refused: ResizeRefused) {
        let pending = PendingResize {
            outlook: match refused {
                ResizeRefused::Deferred(_) => ResizeOutlook::Deferred,
                ResizeRefused::Infeasible { .. } => ResizeOutlook::Infeasible,
            },
            message: refused.to_string().into(),
        };
        if self.facts.pending_resize.as_ref() == Some(&pending) {
            return;
        }
        let event = match pending.outlook {
            ResizeOutlook::Deferred => "ResizeDeferred",
            ResizeOutlook::Infeasible => "ResizeInfeasible",
        };
        let summary = self.summary(wanted, Some(&pending.message));
        let reason = pending.outlook.reason();
        self.events.emit(
            Warning,
            event,
            format!("Pod resize {reason}: {summary}"),
            None,
        );
        self.facts.pending_resize = Some(pending);
    }

    /// Whether a resize waits for others to need less.
    pub(super) fn waits_for_room(&self) -> bool {
        let pending = self.facts.pending_resize.as_ref();
        pending.is_some_and(|pending| pending.outlook == ResizeOutlook::Deferred)
    }

    /// Tells of a resize that begins, if anything lives that has to follow it.
    pub(super) fn tell_of_start(&mut self) {
        if self.facts.is_resizing(&self.spec) {
            self.is_resizing = true;
            let summary = self.summary(&self.spec, None);
            let message = format!("Pod resize started: {summary}");
            self.events.emit(Normal, "ResizeStarted", message, None);
        }
    }

    /// Tells of a resize that everything alive has followed.
    pub(super) fn tell_of_completion(&mut self) {
        if self.is_resizing && !self.facts.is_resizing(&self.spec) {
            self.is_resizing = false;
            let summary = self.summary(&self.spec, None);
            let message = format!("Pod resize completed: {summary}");
            self.events.emit(Normal, "ResizeCompleted", message, None);
            // What was had beyond that is others' now.
            let demand = self.demand(&self.spec);
            self.node.ledger.note(&self.spec.key.uid, demand);
        }
    }

    /// Gives a living instance the resources of the plan.
    pub(super) fn resize(&mut self, index: usize) {
        let result = self.try_resize(index);
        if let Err(message) = &result
            && self.facts.resize_failure(&self.spec) != Some(message)
        {
            let summary = self.summary(&self.spec, Some(message));
            let message = format!("Pod resize error: {summary}");
            self.events.emit(Warning, "ResizeError", message, None);
        }
        let now = self.node.clock.now();
        self.facts
            .settle(&self.spec, Outcome::Resized(index, result), now);
    }

    /// What grows grows at the pod first; what shrinks shrinks there last.
    fn try_resize(&self, index: usize) -> Result<(), Arc<str>> {
        let (Some(kit), Some(instance)) = (&self.kit, &self.holds[index].instance) else {
            // Its end is on its way, and what comes after it is made with the plan's resources.
            return Ok(());
        };
        let wanted = self.spec.containers[index].resources;
        let after = self.pod_limits(Some(index));
        let during = PodLimits {
            memory: after
                .memory
                .zip(self.pod_limits(None).memory)
                .map(|(a, b)| a.max(b)),
            ..after
        };
        // Nothing is taken away yet, so this is never refused.
        let _ = kit.account.resize(&during);
        if let Some(limit) = after.memory.filter(|limit| *limit < kit.account.memory()) {
            return Err(below_use("pod", limit, kit.account.memory()));
        }
        let name = format!("container \"{}\"", self.spec.containers[index].name);
        instance
            .resize(&launch::limits(wanted))
            .map_err(|below| below_use(&name, below.limit, below.used))?;
        kit.account
            .resize(&after)
            .map_err(|below| below_use("pod", below.limit, below.used))
    }

    /// Bounds the pod by what its containers have; a bound that is below what its volumes hold stays.
    pub(super) fn bound_pod(&self) {
        if let Some(kit) = &self.kit
            && let Err(below) = kit.account.resize(&self.pod_limits(None))
        {
            tracing::debug!(pod = %self.spec.key, %below, "the pod's memory limit stays");
        }
    }

    /// What the pod may use when the container with that index has the plan's resources, and the others have
    /// what they have.
    fn pod_limits(&self, resized: Option<usize>) -> PodLimits {
        self.spec.limits(|index| match self.given(index) {
            Some(given) if resized != Some(index) => given,
            Some(_) | None => self.spec.containers[index].resources,
        })
    }

    fn given(&self, index: usize) -> Option<Resources> {
        let facts = &self.facts.containers[index];
        facts.given.filter(|_| facts.life.is_alive())
    }

    /// What the pod takes of its node by a plan: what that requests or what its containers have, whichever is
    /// more.
    fn demand(&self, plan: &PodSpecPlan) -> Demand {
        let containers = plan.containers.iter().enumerate();
        let containers = containers.map(|(index, container)| {
            let wanted = container.resources;
            let known = index < self.facts.containers.len();
            let given = if known { self.given(index) } else { None };
            let given = given.unwrap_or_default();
            let resources = Resources {
                cpu_request_milli: wanted.cpu_request_milli.max(given.cpu_request_milli),
                memory_request: wanted.memory_request.max(given.memory_request),
                ..wanted
            };
            (container.role, resources)
        });
        Demand::of_pod(plan, containers)
    }

    fn summary(&self, plan: &PodSpecPlan, error: Option<&str>) -> String {
        let generation = self.desired.borrow().renewal.generation;
        summary(plan, generation, error)
    }
}

fn below_use(what: &str, limit: u64, used: u64) -> Arc<str> {
    format!(
        "cannot decrease memory limits: attempting to set {what} memory limit ({limit}) below current \
         usage ({used})"
    )
    .into()
}

/// Writes a plan's resources as a kubelet's events do.
fn summary(plan: &PodSpecPlan, generation: Option<i64>, error: Option<&str>) -> String {
    let of = |wanted: fn(Role) -> bool| {
        let containers = plan.containers.iter().filter(|c| wanted(c.role));
        containers
            .map(|container| ContainerSummary {
                name: &container.name,
                resources: container.resources.to_wire(),
            })
            .collect()
    };
    let summary = Summary {
        init_containers: of(|role| matches!(role, Role::Init | Role::Sidecar)),
        containers: of(|role| role == Role::App),
        generation: generation.unwrap_or(0),
        error,
    };
    serde_json::to_string(&summary).expect("names and amounts are text")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;
    use crate::spec::{HostPathPolicy, check_pod};

    #[test]
    fn an_event_lists_what_each_container_has() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {
                "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}],
                "containers": [{"name": "c", "image": "i", "resources": {
                    "requests": {"cpu": "300m", "memory": "128Mi"},
                    "limits": {"cpu": "500m", "memory": "256Mi"}}}],
            },
        }))
        .expect("a pod");
        let plan = check_pod(&pod, HostPathPolicy::Refuse).expect("a plan");
        assert_eq!(
            summary(&plan, Some(2), Some("no room")),
            r#"{"initContainers":[{"name":"s","resources":{}}],"containers":[{"name":"c","resources":{"limits":{"cpu":"500m","memory":"256Mi"},"requests":{"cpu":"300m","memory":"128Mi"}}}],"generation":2,"error":"no room"}"#
        );
    }

    #[test]
    fn a_limit_below_use_is_told_as_a_kubelet_does() {
        assert_eq!(
            &*below_use("container \"c\"", 1024, 2048),
            "cannot decrease memory limits: attempting to set container \"c\" memory limit (1024) below \
             current usage (2048)"
        );
    }
}
