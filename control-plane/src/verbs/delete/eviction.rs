//! `pods/eviction`: a deletion that asks disruption budgets first.
//!
//! No kind of budget is served yet, so nothing objects. Budgets would be asked in
//! [`Machine::evict`], between reading the pod and writing its condition.

use coracle_store::{Expect, WriteError};
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    super::{Machine, draft::Draft, write_failure},
    ATTEMPTS_MAX,
    wish::Wish,
};
use crate::{
    object::{self, ObjectRecord},
    request::{Call, Options, Persistence},
    service::{Answer, Content},
    status::ApiError,
};

const EVICTION: &str = "policy.v1.Eviction";

/// The versions of an eviction; both mean the same.
const VERSIONS: &[&str] = &["policy/v1", "policy/v1beta1"];

/// The condition of a pod that is ended for another reason than its own.
const CONDITION: &str = "DisruptionTarget";

impl Machine {
    pub(in super::super) async fn evict(
        &self,
        call: &Call,
        content: &Content,
    ) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        let mut wish = read(options, objects.name(), content)?;
        if wish.persistence == Persistence::Kept {
            let revision = self.mark_disrupted(call, &wish).await?;
            // The pod was changed by this eviction itself; what was meant is still met.
            wish.resource_version = wish.resource_version.and(Some(revision));
        }
        self.delete_one(objects.info, &objects.key(), &wish).await?;
        let success = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "code": 201,
        });
        Ok(Answer::json(StatusCode::CREATED, &success))
    }

    /// Writes into the pod why it ends; returns the revision at which that is written.
    async fn mark_disrupted(&self, call: &Call, wish: &Wish) -> Result<String, ApiError> {
        let (info, name) = (call.objects.info, call.objects.name());
        let key = call.objects.key();
        for attempt in 1.. {
            let record = self.store.get(&key);
            let record = record.ok_or_else(|| ApiError::not_found(info, name))?;
            wish.check(info, name, &record)?;
            let mut pod = object::parse(&record);
            // A pod that has ended goes as it is, and needs no budget either.
            if has_ended(&pod) {
                return Ok(record.revision.to_string());
            }
            set_disrupted(&mut pod, &self.now().to_string());
            let encoded = object::encode(info, &pod);
            let expect = Expect::At(record.revision);
            let render = |revision| encoded.render(revision);
            let written = self.store.put(&key, expect, render).await;
            match written.map(|record: std::sync::Arc<ObjectRecord>| record.revision.to_string()) {
                Ok(revision) => return Ok(revision),
                Err(WriteError::Changed { .. }) if attempt < ATTEMPTS_MAX => (),
                Err(error) => return Err(write_failure(info, name, error)),
            }
        }
        unreachable!("the last attempt returns")
    }
}

/// Reads the eviction in a request.
fn read(options: &Options, pod: &str, content: &Content) -> Result<Wish, ApiError> {
    let eviction = Draft::of_any_version(EVICTION, options, content)?.object;
    let version = eviction["apiVersion"].as_str().unwrap_or_default();
    if !version.is_empty() && !VERSIONS.contains(&version) {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version \
             (policy/v1)"
        )));
    }
    if eviction["metadata"]["name"].as_str().unwrap_or_default() != pod {
        let message = "name in URL does not match name in Eviction object";
        return Err(ApiError::bad_request(message));
    }
    Wish::merged(options, &eviction["deleteOptions"])
}

fn has_ended(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str();
    matches!(phase, Some("Succeeded" | "Failed"))
        || pod["metadata"]["deletionTimestamp"].is_string()
}

fn set_disrupted(pod: &mut Value, now: &str) {
    let mut fresh = json!({"type": CONDITION, "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": now});
    if let Some(generation) = pod["metadata"]["generation"].as_i64() {
        fresh["observedGeneration"] = Value::from(generation);
    }
    let status = &mut pod["status"]["conditions"];
    let mut conditions = status.as_array().cloned().unwrap_or_default();
    conditions.retain(|condition| condition["type"] != CONDITION);
    conditions.push(fresh);
    *status = Value::Array(conditions);
}
