//! What the collector does to one object: asks, decides, deletes or frees.

use std::sync::Arc;

use http::Method;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client};
use serde_json::{Value, json};
use thiserror::Error;

use super::{
    super::{
        catalogue::{Catalogue, Kind},
        requests::{JSON, MERGE_PATCH, send, unless},
        thin::Thin,
    },
    graph::{FOREGROUND, ORPHAN, Uid},
};
use crate::moment;

const COMPONENT: &str = "garbage-collector-controller";

/// Where events about objects outside all namespaces are written.
const DEFAULT_NAMESPACE: &str = "default";

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// Its place in the catalogue's list of preferred kinds.
    pub(super) kind: usize,
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    pub(super) uid: Box<str>,
}

/// Something to do about an object.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) object: Object,
    pub(super) task: Task,
    /// Owners that live in another namespace; people are told.
    pub(super) misplaced: Vec<Uid>,
}

#[derive(Debug)]
pub(super) enum Task {
    /// Delete it unless someone owns it.
    Check {
        dependents: Dependents,
        /// Owners that are known not to exist.
        absent: Vec<Uid>,
    },
    /// Free these, and then let the object go.
    Orphan(Vec<Object>),
    /// Let it go: take this finalizer away.
    Release(&'static str),
}

/// What an object owns itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dependents {
    None,
    Some,
    /// At least one of them waits for what *it* owns: there may be a circle.
    Waiting,
}

/// What was found out by the way.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The object does not exist.
    pub(super) is_gone: bool,
    /// Owners that do not exist.
    pub(super) absent: Vec<Uid>,
}

/// Why an object has to be looked at again.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error("request for `{object}` failed")]
    Request {
        object: Box<str>,
        #[source]
        source: kube::Error,
    },
    /// Whether such an owner exists cannot be known, so its dependents are left alone.
    #[error("owner of `{object}` has kind `{kind}`, which the server does not have")]
    UnknownKind { object: Box<str>, kind: String },
}

/// What an owner means for its dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// It is there and keeps the object.
    Solid,
    /// It is not there.
    Absent,
    /// It waits for the object to go.
    Waiting,
    /// It can never be found: an object outside all namespaces cannot say in which one it is.
    Unreachable,
}

/// What becomes of an object.
#[derive(Debug, PartialEq)]
enum Verdict {
    Keep,
    /// It stays, but only with these owners.
    KeepFor(Vec<OwnerReference>),
    /// It goes; `unblock` if nobody may wait for it any more.
    Delete {
        policy: &'static str,
        unblock: bool,
    },
}

impl Job {
    pub(super) async fn run(
        self,
        client: Client,
        catalogue: Arc<Catalogue>,
    ) -> Result<Done, Failure> {
        let Some(kind) = catalogue.preferred.get(self.object.kind) else {
            return Ok(Done::default());
        };
        let about = About {
            client: &client,
            kind,
            object: &self.object,
        };
        let Some(latest) = about.latest().await? else {
            return Ok(Done {
                is_gone: true,
                absent: Vec::new(),
            });
        };
        about.tell(&latest, &self.misplaced).await;
        match self.task {
            Task::Check { dependents, absent } => {
                check(&about, &catalogue, &latest, dependents, &absent).await
            }
            Task::Release(finalizer) => {
                about.take_finalizer(&latest, finalizer).await?;
                Ok(Done::default())
            }
            Task::Orphan(dependents) => {
                for dependent in dependents {
                    free(&client, &catalogue, &dependent, &self.object.uid).await?;
                }
                about.take_finalizer(&latest, ORPHAN).await?;
                Ok(Done::default())
            }
        }
    }
}

async fn check(
    about: &About<'_>,
    catalogue: &Catalogue,
    latest: &Thin,
    dependents: Dependents,
    absent: &[Uid],
) -> Result<Done, Failure> {
    let mut owners = Vec::new();
    for owner in latest.owners() {
        let found = about.find_owner(catalogue, owner, absent).await?;
        owners.push((owner, found));
    }
    let done = Done {
        is_gone: false,
        absent: owners
            .iter()
            .filter(|(_, found)| *found == Owner::Absent)
            .map(|(owner, _)| Uid::of(&owner.uid))
            .collect(),
    };
    match judge(latest, &owners, dependents) {
        Verdict::Keep => (),
        Verdict::KeepFor(owners) => about.set_owners(latest, &owners).await?,
        Verdict::Delete { policy, unblock } => {
            let mut latest = latest.clone();
            if unblock {
                about.set_owners(&latest, &unblocked(&latest)).await?;
                // The patch has given it another revision, which nobody else knows.
                latest.metadata.resource_version = None;
            }
            about.delete(&latest, policy).await?;
        }
    }
    Ok(done)
}

/// Decides about an object; pure.
fn judge(object: &Thin, owners: &[(&OwnerReference, Owner)], dependents: Dependents) -> Verdict {
    let has = |wanted: Owner| owners.iter().any(|(_, found)| *found == wanted);
    if owners.is_empty() || object.is_deleting() || has(Owner::Unreachable) {
        return Verdict::Keep;
    }
    if has(Owner::Solid) {
        if !has(Owner::Absent) && !has(Owner::Waiting) {
            return Verdict::Keep;
        }
        // Owners that wait would wait for ever for an object that stays.
        let solid = owners.iter().filter(|(_, found)| *found == Owner::Solid);
        return Verdict::KeepFor(solid.map(|(owner, _)| (*owner).clone()).collect());
    }
    if has(Owner::Waiting) && dependents != Dependents::None {
        return Verdict::Delete {
            policy: "Foreground",
            unblock: dependents == Dependents::Waiting,
        };
    }
    let policy = if object.has_finalizer(ORPHAN) {
        "Orphan"
    } else if object.has_finalizer(FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    };
    Verdict::Delete {
        policy,
        unblock: false,
    }
}

fn unblocked(object: &Thin) -> Vec<OwnerReference> {
    let mut owners = object.owners().to_vec();
    for owner in &mut owners {
        owner.block_owner_deletion = Some(false);
    }
    owners
}

/// Takes an owner away from what it owned.
async fn free(
    client: &Client,
    catalogue: &Catalogue,
    object: &Object,
    owner: &str,
) -> Result<(), Failure> {
    let Some(kind) = catalogue.preferred.get(object.kind) else {
        return Ok(());
    };
    let about = About {
        client,
        kind,
        object,
    };
    let Some(latest) = about.latest().await? else {
        return Ok(());
    };
    let mut owners = latest.owners().to_vec();
    owners.retain(|known| known.uid != owner);
    match owners.len() == latest.owners().len() {
        true => Ok(()),
        false => about.set_owners(&latest, &owners).await,
    }
}

/// An object, and how to reach it.
struct About<'a> {
    client: &'a Client,
    kind: &'a Kind,
    object: &'a Object,
}

impl About<'_> {
    /// Asks for the object; none if it is gone, or another one has its name by now.
    async fn latest(&self) -> Result<Option<Thin>, Failure> {
        let Object {
            namespace,
            name,
            uid,
            ..
        } = self.object;
        let found = get(self.client, self.kind, namespace, name).await;
        let found = self.tried(found)?;
        Ok(found.filter(|found| found.uid() == &**uid))
    }

    async fn find_owner(
        &self,
        catalogue: &Catalogue,
        owner: &OwnerReference,
        absent: &[Uid],
    ) -> Result<Owner, Failure> {
        let Some(kind) = catalogue.find(&owner.api_version, &owner.kind) else {
            return Err(Failure::UnknownKind {
                object: self.object.name.clone(),
                kind: format!("{}/{}", owner.api_version, owner.kind),
            });
        };
        if kind.namespaced && !self.kind.namespaced {
            return Ok(Owner::Unreachable);
        }
        if absent.contains(&Uid::of(&owner.uid)) {
            return Ok(Owner::Absent);
        }
        let found = get(self.client, kind, &self.object.namespace, &owner.name).await;
        Ok(match self.tried(found)? {
            Some(found) if found.uid() != owner.uid => Owner::Absent,
            Some(found) if found.is_deleting() && found.has_finalizer(FOREGROUND) => Owner::Waiting,
            Some(_) => Owner::Solid,
            None => Owner::Absent,
        })
    }

    async fn delete(&self, latest: &Thin, policy: &str) -> Result<(), Failure> {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1",
            "propagationPolicy": policy, "preconditions": {"uid": self.object.uid}});
        // If the object changes meanwhile, it may have got an owner that keeps it.
        if let Some(version) = &latest.metadata.resource_version {
            body["preconditions"]["resourceVersion"] = Value::from(version.as_str());
        }
        self.change(Method::DELETE, JSON, &body).await
    }

    async fn set_owners(&self, latest: &Thin, owners: &[OwnerReference]) -> Result<(), Failure> {
        let owners = serde_json::to_value(owners).map_err(kube::Error::SerdeError);
        self.patch(latest, "ownerReferences", self.tried(owners)?)
            .await
    }

    async fn take_finalizer(&self, latest: &Thin, finalizer: &str) -> Result<(), Failure> {
        let kept = latest.finalizers().iter().filter(|name| *name != finalizer);
        let kept: Vec<_> = kept.map(|name| Value::from(name.as_str())).collect();
        match kept.len() == latest.finalizers().len() {
            true => Ok(()),
            false => self.patch(latest, "finalizers", Value::Array(kept)).await,
        }
    }

    /// Changes a list in the metadata of the object, if nobody else has changed it meanwhile.
    async fn patch(&self, latest: &Thin, field: &str, list: Value) -> Result<(), Failure> {
        let mut metadata = json!({"uid": self.object.uid,
            "resourceVersion": latest.metadata.resource_version});
        let is_empty = list.as_array().is_some_and(Vec::is_empty);
        metadata[field] = if is_empty { Value::Null } else { list };
        let body = json!({"metadata": metadata});
        self.change(Method::PATCH, MERGE_PATCH, &body).await
    }

    async fn change(&self, method: Method, media: &str, body: &Value) -> Result<(), Failure> {
        let path = self.kind.path(&self.object.namespace, &self.object.name);
        let changed = send(self.client, method, &path, media, body).await;
        self.tried(unless(changed, 404))
    }

    /// Writes an event for every owner that lives in another namespace.
    async fn tell(&self, latest: &Thin, misplaced: &[Uid]) {
        let owners = latest.owners().iter();
        for owner in owners.filter(|owner| misplaced.contains(&Uid::of(&owner.uid))) {
            let event = self.misplaced_event(owner);
            let namespace = event["metadata"]["namespace"].as_str().unwrap_or_default();
            let path = format!("/api/v1/namespaces/{namespace}/events");
            if let Err(error) = send(self.client, Method::POST, &path, JSON, &event).await {
                tracing::debug!(object = %self.object.name, %error, "event not written");
            }
        }
    }

    fn misplaced_event(&self, owner: &OwnerReference) -> Value {
        let Object {
            namespace,
            name,
            uid,
            ..
        } = self.object;
        let reference = format!(
            "[{}/{}, namespace: {namespace}, name: {}, uid: {}]",
            owner.api_version, owner.kind, owner.name, owner.uid
        );
        let at = jiff::Timestamp::now();
        let now = moment::second_of(at).to_string();
        let place = if namespace.is_empty() {
            DEFAULT_NAMESPACE
        } else {
            namespace
        };
        json!({
            "metadata": {"name": format!("{name}.{:x}", at.as_nanosecond()), "namespace": place},
            "involvedObject": {
                "apiVersion": self.kind.resource.api_version,
                "kind": self.kind.resource.kind,
                "namespace": namespace,
                "name": name,
                "uid": uid,
            },
            "reason": "OwnerRefInvalidNamespace",
            "message": format!("ownerRef {reference} does not exist in namespace {namespace:?}"),
            "type": "Warning",
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
        })
    }

    fn tried<T>(&self, result: Result<T, kube::Error>) -> Result<T, Failure> {
        result.map_err(|source| Failure::Request {
            object: self.object.name.clone(),
            source,
        })
    }
}

async fn get(
    client: &Client,
    kind: &Kind,
    namespace: &str,
    name: &str,
) -> Result<Option<Thin>, kube::Error> {
    let api: Api<Thin> = match kind.namespaced {
        true => Api::namespaced_with(client.clone(), namespace, &kind.resource),
        false => Api::all_with(client.clone(), &kind.resource),
    };
    api.get_opt(name).await
}
