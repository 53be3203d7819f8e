//! Deleting objects: at once, after a grace period that someone else ends, or when the last
//! finalizer is gone.
//!
//! A pod's deletion (contract B.9) only marks it; the node agent ends the pod and then deletes it
//! with grace 0. Pods nobody runs, because they have no node or have ended, go at once.

use std::sync::Arc;

use coracle_store::{Expect, Range, WriteError};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Machine, draft::Draft, write_failure};
use crate::{
    kinds::{Grace, KindInfo},
    object::{self, ObjectRecord, namespace_and_name},
    request::{self, Call, Options, Persistence},
    service::{Answer, Content},
    status::{self, ApiError},
};

/// A deletion that loses its race is computed again this often.
const ATTEMPTS_MAX: usize = 5;

/// The grace of a pod that gives none.
const POD_GRACE_SECONDS_DEFAULT: i64 = 30;

/// The longest grace that is kept: keeps the time of deletion representable.
const GRACE_SECONDS_MAX: i64 = 10 * 365 * 24 * 60 * 60;

const DELETE_OPTIONS: &str = "meta.v1.DeleteOptions";

/// How a deletion is wanted.
#[derive(Debug, Default)]
struct Wish {
    grace_seconds: Option<i64>,
    uid: Option<String>,
    resource_version: Option<String>,
    persistence: Persistence,
}

/// What a deletion does to an object.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It goes now.
    Remove,
    /// It is marked, or its mark is moved, and stays.
    Mark(Value),
    /// It stays as it is: an earlier deletion already asks for as much.
    Leave,
}

/// What became of an object.
#[derive(Debug)]
enum Outcome {
    Removed(Arc<ObjectRecord>),
    Pending(Arc<ObjectRecord>),
}

impl Machine {
    pub(super) async fn delete(&self, call: &Call, content: &Content) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        let info = objects.info;
        let wish = Wish::read(info, options, content)?;
        match self.delete_one(info, &objects.key(), &wish).await? {
            Outcome::Pending(record) => Ok(Answer::encoded(StatusCode::OK, record.value.clone())),
            Outcome::Removed(record) => match info.grace {
                // The stock server shows the last of a pod, and only a success for other kinds.
                Grace::Pod => Ok(Answer::encoded(StatusCode::OK, record.value.clone())),
                Grace::None => {
                    let success = status::success(info, objects.name(), &record.index.uid);
                    Ok(Answer::json(StatusCode::OK, &success))
                }
            },
        }
    }

    pub(super) async fn delete_collection(
        &self,
        call: &Call,
        content: &Content,
    ) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        let wish = Wish::read(objects.info, options, content)?;
        let selector = objects.selector(options)?;
        let prefix = object::prefix(objects.info, objects.namespace.as_deref());
        let range = Range {
            prefix: &prefix,
            after: None,
            limit: options.limit,
            at: None,
        };
        let page = self.store.range(&range, |record| selector.matches(record));
        let page = page.map_err(|error| ApiError::internal(error.to_string()))?;
        for record in &page.records {
            match self.delete_one(objects.info, &record.key, &wish).await {
                Ok(_) => (),
                // Someone else was faster; the outcome is the wanted one.
                Err(error) if error.code == StatusCode::NOT_FOUND => (),
                Err(error) => return Err(error),
            }
        }
        let metadata = json!({"resourceVersion": self.store.revision().to_string()});
        Ok(Answer::list(call, &metadata, page.records))
    }

    async fn delete_one(
        &self,
        info: &'static KindInfo,
        key: &str,
        wish: &Wish,
    ) -> Result<Outcome, ApiError> {
        let (_, name) = namespace_and_name(key);
        for attempt in 1.. {
            let record = self
                .store
                .get(key)
                .ok_or_else(|| ApiError::not_found(info, name))?;
            wish.check(info, name, &record)?;
            let object = object::parse(&record);
            let step = plan(info, &object, wish, self.now());
            if wish.persistence == Persistence::DryRun {
                return Ok(Outcome::Pending(record));
            }
            let expect = Expect::At(record.revision);
            let written = match step {
                Step::Leave => return Ok(Outcome::Pending(record)),
                Step::Remove => {
                    let encoded = object::encode(info, &object);
                    let render = |revision| encoded.render(revision);
                    self.store
                        .delete(key, expect, render)
                        .await
                        .map(Outcome::Removed)
                }
                Step::Mark(object) => {
                    let encoded = object::encode(info, &object);
                    let render = |revision| encoded.render(revision);
                    self.store
                        .put(key, expect, render)
                        .await
                        .map(Outcome::Pending)
                }
            };
            match written {
                Ok(outcome) => return Ok(outcome),
                Err(WriteError::Changed { .. }) if attempt < ATTEMPTS_MAX => (),
                Err(error) => return Err(write_failure(info, name, error)),
            }
        }
        unreachable!("the last attempt returns")
    }
}

impl Wish {
    /// Reads the options from query and body; the body, if there is one, says more.
    fn read(info: &KindInfo, options: &Options, content: &Content) -> Result<Wish, ApiError> {
        let (grace_seconds, persistence) = (options.grace_seconds, options.persistence);
        let mut wish = Wish {
            grace_seconds,
            persistence,
            ..Wish::default()
        };
        if content.bytes.is_empty() {
            return Ok(wish);
        }
        let core = crate::kinds::served("v1", "Pod").unwrap_or(info);
        // `DeleteOptions` of any group version mean the same.
        let mut content = Content {
            media: content.media.clone(),
            bytes: content.bytes.clone(),
        };
        if let Ok(decoded) = crate::decode::json(&content.bytes)
            && let Value::Object(mut body) = decoded.value
        {
            body.remove("apiVersion");
            content.bytes = Value::Object(body).to_string().into();
        }
        let body = Draft::of_type(core, DELETE_OPTIONS, options, &content)?.object;
        let text = |pointer| {
            body.pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        wish.grace_seconds = body["gracePeriodSeconds"].as_i64().or(wish.grace_seconds);
        wish.uid = text("/preconditions/uid");
        wish.resource_version = text("/preconditions/resourceVersion");
        if let Some(word) = text("/dryRun/0") {
            wish.persistence = request::persistence(&word)?;
        }
        match text("/propagationPolicy").as_deref() {
            None | Some("Background") => Ok(wish),
            // Nothing collects garbage yet, so waiting for dependents or freeing them is refused.
            Some(other) => Err(ApiError::bad_request(format!(
                "propagationPolicy `{other}` is not served yet, only `Background`"
            ))),
        }
    }

    fn check(&self, info: &KindInfo, name: &str, record: &ObjectRecord) -> Result<(), ApiError> {
        let refuse = |what: &str, wanted: &str, found: &str| {
            let why = format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: \
                 {found}"
            );
            Err(ApiError::conflict(info, name, &why))
        };
        let found = record.revision.to_string();
        match (&self.uid, &self.resource_version) {
            (Some(uid), _) if **uid != *record.index.uid => refuse("UID", uid, &record.index.uid),
            (_, Some(version)) if *version != found => refuse("ResourceVersion", version, &found),
            _ => Ok(()),
        }
    }
}

/// Decides what a deletion does; pure, so that the protocol can be read and tested here.
fn plan(info: &KindInfo, object: &Value, wish: &Wish, now: Timestamp) -> Step {
    let metadata = &object["metadata"];
    let held = metadata["finalizers"]
        .as_array()
        .is_some_and(|list| !list.is_empty());
    let grace = match info.grace {
        Grace::None => 0,
        Grace::Pod => pod_grace(object, wish),
    };
    let marked = metadata["deletionTimestamp"].as_str().map(|_| {
        let grace = metadata["deletionGracePeriodSeconds"].as_i64();
        grace.unwrap_or(0)
    });
    match marked {
        _ if grace == 0 && !held => Step::Remove,
        None => Step::Mark(mark(object, now, grace)),
        // A repeated deletion can only shorten the time; one without a wish changes nothing.
        Some(before) if grace < before && (wish.grace_seconds.is_some() || grace == 0) => {
            let deadline = metadata["deletionTimestamp"].as_str().unwrap_or_default();
            let deadline = deadline.parse().unwrap_or(now);
            let began = deadline - SignedDuration::from_secs(before);
            Step::Mark(moved(object, began, grace))
        }
        Some(_) => Step::Leave,
    }
}

/// Returns how long the node agent may take; 0 when no agent runs the pod.
fn pod_grace(pod: &Value, wish: &Wish) -> i64 {
    let unassigned = pod["spec"]["nodeName"]
        .as_str()
        .unwrap_or_default()
        .is_empty();
    let ended = matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    if unassigned || ended {
        return 0;
    }
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
    match wish
        .grace_seconds
        .or(own)
        .unwrap_or(POD_GRACE_SECONDS_DEFAULT)
    {
        // Kubernetes reads a negative grace as one second.
        negative if negative < 0 => 1,
        grace => grace.min(GRACE_SECONDS_MAX),
    }
}

fn mark(object: &Value, now: Timestamp, grace: i64) -> Value {
    let mut marked = moved(object, now, grace);
    if let Some(generation) = marked["metadata"]["generation"].as_i64() {
        marked["metadata"]["generation"] = Value::from(generation + 1);
    }
    marked
}

fn moved(object: &Value, began: Timestamp, grace: i64) -> Value {
    let mut marked = object.clone();
    let deadline = began + SignedDuration::from_secs(grace);
    marked["metadata"]["deletionTimestamp"] = Value::from(deadline.to_string());
    marked["metadata"]["deletionGracePeriodSeconds"] = Value::from(grace);
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn check(pod: Value, grace: Option<i64>, expected: Result<(&str, i64), Step>) {
        let info = crate::kinds::served("v1", "Pod").expect("pods are served");
        let wish = Wish {
            grace_seconds: grace,
            ..Wish::default()
        };
        match (plan(info, &pod, &wish, NOW), expected) {
            (Step::Mark(marked), Ok((deadline, grace))) => {
                assert_eq!(marked["metadata"]["deletionTimestamp"], deadline);
                assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], grace);
            }
            (step, Err(expected)) => assert_eq!(step, expected),
            (step, Ok(_)) => panic!("{step:?}"),
        }
    }

    fn running() -> Value {
        json!({"metadata": {"generation": 1},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30},
            "status": {"phase": "Running"}})
    }

    fn deleting(grace: i64) -> Value {
        let mut pod = running();
        pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:30Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        pod
    }

    #[test]
    fn a_running_pod_is_given_its_grace() {
        check(running(), None, Ok(("1970-01-01T00:00:30Z", 30)));
        check(running(), Some(5), Ok(("1970-01-01T00:00:05Z", 5)));
        check(running(), Some(-7), Ok(("1970-01-01T00:00:01Z", 1)));
    }

    #[test]
    fn a_pod_that_nobody_runs_goes_at_once() {
        let mut pod = running();
        pod["spec"]["nodeName"] = json!("");
        check(pod, Some(30), Err(Step::Remove));
        for phase in ["Succeeded", "Failed"] {
            let mut pod = running();
            pod["status"]["phase"] = json!(phase);
            check(pod, None, Err(Step::Remove));
        }
    }

    #[test]
    fn grace_zero_removes_a_pod_whatever_its_state() {
        check(running(), Some(0), Err(Step::Remove));
        check(deleting(30), Some(0), Err(Step::Remove));
    }

    #[test]
    fn a_repeated_deletion_only_shortens() {
        check(deleting(30), None, Err(Step::Leave));
        check(deleting(30), Some(60), Err(Step::Leave));
        check(deleting(30), Some(10), Ok(("1970-01-01T00:00:10Z", 10)));
    }

    #[test]
    fn a_finalizer_keeps_the_pod() {
        let mut pod = running();
        pod["metadata"]["finalizers"] = json!(["a/b"]);
        check(pod.clone(), Some(0), Ok(("1970-01-01T00:00:00Z", 0)));
        pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:30Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        check(pod, Some(0), Err(Step::Leave));
    }
}
