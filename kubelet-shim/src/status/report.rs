//! Writes a pod's status: at most one patch under way per pod, and none when nothing changed.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::conditions::PASSING;
use super::{ANNOTATION_PUBLISHED, ANNOTATION_REFUSED, PublishedUrl, Refused};
use crate::spec::PodKey;
use crate::time::Moment;

/// Status patches under way at once, over all pods: enough to hide the round trip to a real server
/// without holding its request limit.
pub(crate) const STATUS_WRITES_MAX: usize = 32;

/// Delay after the first failed write; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(250);

/// Failed writes are at most this many doublings apart: 16 s.
const RETRY_DOUBLINGS_MAX: u32 = 6;

/// Remembers what the API server has been told about one pod.
pub(crate) struct Reporter {
    key: PodKey,
    api: Api<Pod>,
    writes: Arc<Semaphore>,
    /// The patch that was accepted last.
    accepted: Option<Value>,
    /// The patch under way.
    pending: Option<Value>,
    conditions: Vec<PodCondition>,
    /// The server may have conditions that are gone by now.
    had_passing: bool,
    /// After failures: how many in a row, and when the next try is due.
    failures: u32,
    not_before: Option<Moment>,
}

/// How a write came out.
#[derive(Debug)]
pub(crate) enum Written {
    /// The server has it.
    Accepted,
    /// The pod is gone, or another took its name: nothing is left to report.
    Gone,
    /// It may work later.
    Failed(kube::Error),
}

impl Reporter {
    /// Starts with the conditions found on the object, of which those of others are kept.
    pub(crate) fn new(
        key: PodKey,
        client: kube::Client,
        writes: Arc<Semaphore>,
        conditions: Vec<PodCondition>,
    ) -> Reporter {
        let api = Api::namespaced(client, &key.namespace);
        Reporter {
            key,
            api,
            writes,
            accepted: None,
            pending: None,
            had_passing: has_passing(&conditions),
            conditions,
            failures: 0,
            not_before: None,
        }
    }

    /// The conditions published last, for their transition times.
    pub(crate) fn conditions(&self) -> &[PodCondition] {
        &self.conditions
    }

    /// Whether the server knows everything that was offered.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.is_none() && self.not_before.is_none()
    }

    /// When a failed write is tried again, and how often it has failed in a row.
    pub(crate) fn retry(&self) -> Option<(Moment, u32)> {
        self.not_before.map(|at| (at, self.failures))
    }

    /// Returns a write when the status differs from what the server knows and none is under way.
    ///
    /// A status that changes while a write is under way is offered again after it, so any number of
    /// changes in between cost one write.
    pub(crate) fn offer(
        &mut self,
        status: &PodStatus,
        published: &[PublishedUrl],
        refused: &[Refused],
        now: Moment,
    ) -> Option<impl Future<Output = Written> + Send + use<>> {
        if self.pending.is_some() || self.not_before.is_some_and(|at| !now.reached(at)) {
            return None;
        }
        self.not_before = None;
        let conditions = status.conditions.as_deref().unwrap_or_default();
        self.had_passing |= has_passing(conditions);
        let patch = self.patch(status, published, refused);
        if self.accepted.as_ref() == Some(&patch) {
            return None;
        }
        self.conditions = status.conditions.clone().unwrap_or_default();
        self.pending = Some(patch.clone());
        let (api, writes) = (self.api.clone(), self.writes.clone());
        let key = self.key.clone();
        Some(async move {
            // The semaphore is never closed; without a permit the write only goes unmetered.
            let _permit = writes.acquire_owned().await.ok();
            match api
                .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
                .await
            {
                Ok(_) => Written::Accepted,
                Err(error) if is_gone(&api, &key, &error).await => Written::Gone,
                Err(error) => Written::Failed(error),
            }
        })
    }

    /// Notes how the write came out.
    pub(crate) fn written(&mut self, outcome: &Written, now: Moment) {
        let patch = self.pending.take();
        match outcome {
            Written::Accepted => {
                self.accepted = patch;
                self.failures = 0;
            }
            Written::Gone => {}
            Written::Failed(_) => {
                self.failures = self.failures.saturating_add(1);
                let delay = RETRY_FIRST.saturating_mul(1 << self.failures.min(RETRY_DOUBLINGS_MAX));
                self.not_before = Some(now.after(delay));
            }
        }
    }

    /// A strategic merge patch, which leaves the conditions of others alone. What is absent now is
    /// written as null, so that it goes away; of the addresses, which would be merged, the list replaces
    /// what is there.
    fn patch(&self, status: &PodStatus, published: &[PublishedUrl], refused: &[Refused]) -> Value {
        let mut body = match serde_json::to_value(status) {
            Ok(Value::Object(body)) => body,
            // The type has only string keys and finite numbers, so this does not happen.
            Ok(_) | Err(_) => Map::new(),
        };
        for field in ["reason", "message", "podIP", "podIPs"] {
            body.entry(field).or_insert(Value::Null);
        }
        if self.had_passing
            && let Some(Value::Array(conditions)) = body.get_mut("conditions")
        {
            for name in PASSING {
                if !conditions.iter().any(|known| known["type"] == name) {
                    conditions.push(json!({"$patch": "delete", "type": name}));
                }
            }
        }
        for field in ["podIPs", "hostIPs"] {
            if let Some(Value::Array(list)) = body.get_mut(field) {
                list.insert(0, json!({"$patch": "replace"}));
            }
        }
        let list = |json: Result<String, _>, is_empty: bool| match json {
            Ok(text) if !is_empty => Value::String(text),
            Ok(_) | Err::<_, serde_json::Error>(_) => Value::Null,
        };
        json!({
            "metadata": {
                // Makes the server refuse the patch when another pod has taken the name.
                "uid": &*self.key.uid,
                "annotations": {
                    ANNOTATION_PUBLISHED: list(serde_json::to_string(published), published.is_empty()),
                    ANNOTATION_REFUSED: list(serde_json::to_string(refused), refused.is_empty()),
                },
            },
            "status": body,
        })
    }
}

fn has_passing(conditions: &[PodCondition]) -> bool {
    let is_passing = |one: &PodCondition| PASSING.contains(&one.type_.as_str());
    conditions.iter().any(is_passing)
}

/// Whether the object is gone or another one has its name. A conflict alone does not tell, so it is looked
/// up.
pub(crate) async fn is_gone(api: &Api<Pod>, key: &PodKey, error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    match status.code {
        404 => true,
        409 | 422 => match api.get_metadata_opt(&key.name).await {
            Ok(found) => {
                found.is_none_or(|object| object.metadata.uid.as_deref() != Some(&*key.uid))
            }
            Err(_) => false,
        },
        _ => false,
    }
}
