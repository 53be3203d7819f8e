//! Pods that never begin: refused fields, labels that do not match (contract B.11).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateWaiting, ContainerStatus, Pod, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams};

use crate::events::{PodEvents, Severity};
use crate::spec::PodKey;
use crate::status::{is_gone, whole_seconds};
use crate::worker::Node;

/// Delay before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why a pod is refused.
pub(super) struct Rejection {
    /// The contract's code.
    pub(super) reason: &'static str,
    /// What was refused.
    pub(super) message: String,
}

/// Writes phase `Failed` and a Warning event; tries until the server has it or the pod is gone.
pub(super) async fn reject(node: Arc<Node>, key: PodKey, pod: Pod, rejection: Rejection) {
    let Rejection { reason, message } = rejection;
    let events = PodEvents::new(node.events.clone(), key.clone());
    let message = format!("Pod was rejected: {message}");
    events.emit(Severity::Warning, reason, message.clone(), None);
    let now = node.clock.now().wall();
    let status = PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        start_time: Some(Time(whole_seconds(now))),
        observed_generation: pod.metadata.generation,
        container_statuses: pod.spec.as_ref().map(waiting),
        ..PodStatus::default()
    };
    let api = Api::<Pod>::namespaced(node.site.client.clone(), &key.namespace);
    let patch = serde_json::json!({"metadata": {"uid": &*key.uid}, "status": status});
    let patch = Patch::Merge(patch);
    while let Err(error) = api
        .patch_status(&key.name, &PatchParams::default(), &patch)
        .await
    {
        if is_gone(&api, &key, &error).await {
            return;
        }
        tracing::warn!(pod = %key, %error, "failed to reject a pod");
        tokio::time::sleep(RETRY).await;
    }
}

/// The containers stay waiting.
fn waiting(spec: &PodSpec) -> Vec<ContainerStatus> {
    let status = |container: &Container| ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some("ContainerCreating".to_owned()),
                message: None,
            }),
            ..ContainerState::default()
        }),
        ..ContainerStatus::default()
    };
    spec.containers.iter().map(status).collect()
}
