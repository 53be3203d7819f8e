//! Pods that never begin: refused fields, labels that do not match (contract B.11).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
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
    let status = status(&pod, reason, message, now);
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

/// Says of no container that it waits, as a kubelet does: what a person sees of the pod is then the reason.
/// What an earlier agent said of them stays.
fn status(pod: &Pod, reason: &str, message: String, now: Timestamp) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        start_time: Some(Time(whole_seconds(now))),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rejected_pod_has_a_reason_and_no_waiting_container() {
        let pod = json!({"metadata": {"name": "p", "generation": 3},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let told = status(&pod, "OutOfcpu", "why".to_owned(), Timestamp::UNIX_EPOCH);
        let expected = json!({"phase": "Failed", "reason": "OutOfcpu", "message": "why",
            "startTime": "1970-01-01T00:00:00Z", "observedGeneration": 3});
        assert_eq!(serde_json::to_value(told).expect("a status"), expected);
    }
}
