//! Deleting objects: at once, after a grace period that someone else ends, or when the last
//! finalizer is gone.
//!
//! A pod's deletion (contract B.9) only marks it; the node agent ends the pod and then deletes it
//! with grace 0. Pods nobody runs, because they have no node or have ended, go at once. A
//! namespace waits until a controller has emptied it. What an object owns is a controller's work
//! too; a deletion only says by finalizers whether it comes first or stays.

mod collection;
mod eviction;
mod expire;
mod finalize;
mod plan;
mod wish;

use bytes::Bytes;
use coracle_store::{Expect, WriteError};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

use super::{Machine, write_failure};
use crate::{
    kinds::{Grace, KindInfo},
    object::{self, namespace_and_name},
    request::{Call, Persistence},
    service::{Answer, Content},
    status::{self, ApiError},
};

pub(crate) use expire::expire_events;
pub(super) use finalize::check_finalizers;
use plan::{Step, plan};
use wish::Wish;

/// A deletion that loses its race is computed again this often.
const ATTEMPTS_MAX: usize = 5;

/// The namespaces every cluster has; what runs it lives in them.
const IMMORTAL_NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

/// Kinds whose deletion is answered with the last of the object instead of a mere success.
pub(crate) const SHOWN_WHEN_REMOVED: &[&str] =
    &["pods", "resourcequotas", "serviceaccounts", "services"];

/// Returns what is removed. A pod is marked like one that has time left, with none.
fn last_of(info: &KindInfo, mut object: Value, now: Timestamp) -> Value {
    if info.grace != Grace::Pod {
        return object;
    }
    let metadata = &mut object["metadata"];
    if metadata["deletionTimestamp"].is_null() {
        metadata["deletionTimestamp"] = Value::from(now.to_string());
        let generation = metadata["generation"].as_i64().unwrap_or(0);
        metadata["generation"] = Value::from(generation.saturating_add(1));
    }
    metadata["deletionGracePeriodSeconds"] = Value::from(0);
    object
}

/// What became of an object.
#[derive(Debug)]
enum Outcome {
    /// It is gone; this was the last of it.
    Removed(Remains),
    /// It stays for now and looks like this.
    Kept(Bytes),
}

#[derive(Debug)]
struct Remains {
    encoded: Bytes,
    uid: Box<str>,
}

impl Machine {
    pub(super) async fn delete(&self, call: &Call, content: &Content) -> Result<Answer, ApiError> {
        let Call {
            objects, options, ..
        } = call;
        let (info, name) = (objects.info, objects.name());
        let wish = Wish::read(options, content)?;
        if info.grace == Grace::Namespace && IMMORTAL_NAMESPACES.contains(&name) {
            let why = "this namespace may not be deleted";
            return Err(ApiError::forbidden_object(info, name, why));
        }
        match self.delete_one(info, &objects.key(), &wish).await? {
            Outcome::Kept(encoded) => Ok(Answer::encoded(wish.code_if_kept(), encoded)),
            Outcome::Removed(last) if SHOWN_WHEN_REMOVED.contains(&info.plural) => {
                Ok(Answer::encoded(StatusCode::OK, last.encoded))
            }
            Outcome::Removed(last) => {
                let success = status::success(info, name, &last.uid);
                Ok(Answer::json(StatusCode::OK, &success))
            }
        }
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
            let removed = |encoded| {
                let uid = record.index.uid.clone();
                Outcome::Removed(Remains { encoded, uid })
            };
            if wish.persistence == Persistence::DryRun {
                return Ok(match step {
                    Step::Leave => Outcome::Kept(record.value.clone()),
                    Step::Mark(marked) => Outcome::Kept(Bytes::from(marked.to_string())),
                    Step::Remove => {
                        let last = last_of(info, object, self.now());
                        removed(Bytes::from(last.to_string()))
                    }
                });
            }
            let expect = Expect::At(record.revision);
            let written = match step {
                Step::Leave => return Ok(Outcome::Kept(record.value.clone())),
                Step::Remove => {
                    let last = last_of(info, object, self.now());
                    self.remove(info, key, expect, &last).await.map(removed)
                }
                Step::Mark(object) => {
                    let encoded = object::encode(info, &object);
                    let render = |revision| encoded.render(revision);
                    let put = self.store.put(key, expect, render).await;
                    put.map(|record| Outcome::Kept(record.value.clone()))
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

    /// Takes an object out of the store and returns its last encoding.
    async fn remove(
        &self,
        info: &KindInfo,
        key: &str,
        expect: Expect,
        object: &Value,
    ) -> Result<Bytes, WriteError> {
        let encoded = object::encode(info, object);
        let render = |revision| encoded.render(revision);
        let record = self.store.delete(key, expect, render).await?;
        Ok(record.value.clone())
    }
}
