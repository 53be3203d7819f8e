//! Everything the scheduler writes: bindings, conditions, nominations, deletions, events.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};

use super::{
    SCHEDULER_NAME,
    cluster::{Course, PodKey},
    preempt::Plan,
};
use crate::moment::now;

/// The longest text of an event; longer ones are cut, as the stock scheduler does.
const NOTE_BYTES_MAX: usize = 1024;

/// Says for which node a claim is to be bound.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

const CUT: &str = " ...";

/// Writes on behalf of the scheduler.
#[derive(Clone)]
pub(super) struct Announcer {
    client: Client,
}

/// A pod that something is written about.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) key: PodKey,
    pub(super) uid: Arc<str>,
    pub(super) generation: Option<i64>,
}

/// Why a pod waits.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) message: Arc<str>,
    /// Whether the pod was waiting before, so that its condition keeps its time.
    pub(super) repeated: bool,
}

/// What becomes of `status.nominatedNodeName`.
#[derive(Clone, Debug)]
pub(super) enum Nomination {
    Keep,
    Clear,
    Set(Arc<str>),
}

/// One event about a pod.
struct Note<'a> {
    kind: &'a str,
    reason: &'a str,
    action: &'a str,
    text: &'a str,
}

impl Announcer {
    pub(super) fn new(client: Client) -> Announcer {
        Announcer { client }
    }

    fn pods(&self, key: &PodKey) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// Gives a pod its node and tells so.
    pub(super) async fn bind(&self, target: &Target, node: &str) -> Result<(), kube::Error> {
        let key = &target.key;
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": &*key.name, "namespace": &*key.namespace, "uid": &*target.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/binding",
            key.namespace, key.name
        );
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(binding.to_string().into_bytes())
            .expect("names in a stored key are valid in a path");
        // Only the acknowledgement counts.
        self.client.request_text(request).await?;
        let text = format!("Successfully assigned {key} to {node}");
        let note = Note {
            kind: "Normal",
            reason: "Scheduled",
            action: "Binding",
            text: &text,
        };
        self.record(target, &note).await;
        Ok(())
    }

    /// Says for which node the claims of a pod are to be bound.
    pub(super) async fn select(
        &self,
        target: &Target,
        node: &str,
        claims: &[String],
    ) -> Result<(), kube::Error> {
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), &target.key.namespace);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {SELECTED_NODE: node}}}));
        for claim in claims {
            api.patch_metadata(claim, &PatchParams::default(), &patch)
                .await?;
        }
        Ok(())
    }

    /// Tells a pod why it waits.
    pub(super) async fn refuse(
        &self,
        target: &Target,
        refusal: &Refusal,
        nomination: &Nomination,
    ) -> Result<(), kube::Error> {
        let mut condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": &*refusal.message,
        });
        if !refusal.repeated {
            condition["lastTransitionTime"] = now().into();
        }
        if let Some(generation) = target.generation {
            condition["observedGeneration"] = generation.into();
        }
        let mut status = json!({"conditions": [condition]});
        match nomination {
            Nomination::Keep => (),
            Nomination::Clear => status["nominatedNodeName"] = Value::Null,
            Nomination::Set(node) => status["nominatedNodeName"] = Value::from(&**node),
        }
        self.patch_status(&target.key, &target.uid, status).await?;
        let text = cut(&refusal.message);
        let note = Note {
            kind: "Warning",
            reason: "FailedScheduling",
            action: "Scheduling",
            text: &text,
        };
        self.record(target, &note).await;
        Ok(())
    }

    /// Voids the nomination of a pod whose room went to a more important one.
    pub(super) async fn clear_nomination(&self, key: &PodKey, uid: &str) {
        let status = json!({"nominatedNodeName": null});
        if let Err(error) = self.patch_status(key, uid, status).await {
            tracing::debug!(pod = %key, %error, "nomination not cleared");
        }
    }

    /// Deletes the victims with their grace, and tells them for whom.
    pub(super) async fn evict(&self, target: &Target, plan: &Plan) -> Result<(), kube::Error> {
        for victim in &plan.victims {
            if victim.course == Course::Leaving {
                continue;
            }
            let gone = |error: &kube::Error| matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409));
            match self
                .evict_one(target, &plan.node, &victim.key, &victim.uid)
                .await
            {
                Ok(()) => (),
                // It has left by itself.
                Err(error) if gone(&error) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn evict_one(
        &self,
        target: &Target,
        node: &str,
        key: &PodKey,
        uid: &Arc<str>,
    ) -> Result<(), kube::Error> {
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message":
                format!("{SCHEDULER_NAME}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": now(),
        });
        let status = json!({"conditions": [condition]});
        self.patch_status(key, uid, status).await?;
        let same = DeleteParams::default().preconditions(Preconditions {
            uid: Some(uid.to_string()),
            resource_version: None,
        });
        self.pods(key).delete(&key.name, &same).await?;
        let text = format!("Preempted by pod {} on node {node}", target.uid);
        let note = Note {
            kind: "Normal",
            reason: "Preempted",
            action: "Preempting",
            text: &text,
        };
        let victim = Target {
            key: key.clone(),
            uid: Arc::clone(uid),
            generation: None,
        };
        self.record(&victim, &note).await;
        Ok(())
    }

    async fn patch_status(
        &self,
        key: &PodKey,
        uid: &str,
        status: Value,
    ) -> Result<(), kube::Error> {
        let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
        let params = PatchParams::default();
        let written = self
            .pods(key)
            .patch_status(&key.name, &params, &patch)
            .await;
        written.map(drop)
    }

    /// Writes an event; one that cannot be written is only logged, as by every component.
    async fn record(&self, target: &Target, note: &Note<'_>) {
        if let Err(error) = self.try_record(target, note).await {
            tracing::debug!(pod = %target.key, %error, "event not written");
        }
    }

    /// The same text about the same pod is one event that is counted.
    async fn try_record(&self, target: &Target, note: &Note<'_>) -> Result<(), kube::Error> {
        let (key, now) = (&target.key, now());
        let name = format!("{}.{:016x}", key.name, fingerprint(target, note));
        let event = json!({
            "metadata": {"name": &name, "namespace": &*key.namespace},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": &*key.name,
                "namespace": &*key.namespace, "uid": &*target.uid},
            "reason": note.reason,
            "message": note.text,
            "action": note.action,
            "type": note.kind,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": SCHEDULER_NAME},
            "reportingComponent": SCHEDULER_NAME,
        });
        let events: Api<Event> = Api::namespaced(self.client.clone(), &key.namespace);
        let request = http::Request::post(events.resource_url())
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(event.to_string().into_bytes())
            .expect("namespaces are valid in a path");
        // The answer would be the same event again, and nobody reads it.
        match self.client.request_text(request).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => (),
            Err(error) => return Err(error),
        }
        let told = events.get(&name).await?;
        let count = told.count.unwrap_or(1).saturating_add(1);
        let again = Patch::Merge(json!({"count": count, "lastTimestamp": now}));
        let params = PatchParams::default();
        events.patch(&name, &params, &again).await.map(drop)
    }
}

/// Returns what tells events about one pod apart; only equality within a cluster's hour matters.
fn fingerprint(target: &Target, note: &Note<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&target.uid, note.kind, note.reason, note.text).hash(&mut hasher);
    hasher.finish()
}

fn cut(text: &str) -> String {
    if text.len() <= NOTE_BYTES_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(NOTE_BYTES_MAX - CUT.len());
    format!("{}{CUT}", &text[..end])
}
