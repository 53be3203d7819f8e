//! Binds claims to volumes, makes volumes of the class `local-path`, and does with released ones what they say.
//!
//! What a claim or a volume needs is decided by pure functions over what the watches have told; one step is
//! taken, and the change that it makes wakes the next. A write names the revision it was decided on, so
//! that a decision on an older picture fails and is made anew.

mod book;
mod decide;
mod local;

use std::time::Duration;

use futures::StreamExt;
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Preconditions},
    runtime::watcher,
};
use serde_json::{Value, json};

pub use local::LocalVolumes;
pub(crate) use local::seed_class;

use super::{
    queue::{Backoff, Step, Workers},
    requests::{JSON, MERGE_PATCH, has_code, send, unless},
};
use crate::changes::changes;
use book::{Book, Key};
use decide::{Act, Note};

const AT_ONCE: usize = 8;

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    longest: Duration::from_secs(5),
};

/// Who speaks in events about claims.
const SOURCE: &str = "persistentvolume-controller";

/// Pods that are looked through with one request.
const PAGE_PODS: u32 = 500;

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// A pod uses the claim that is being deleted.
    #[error("it is in use")]
    InUse,
    #[error("failed to remove the folder of a volume")]
    Folder(#[source] std::io::Error),
}

/// Runs until it is dropped.
pub(super) async fn run(client: Client, local: Option<LocalVolumes>) {
    let all = watcher::Config::default;
    let mut claims = changes::<PersistentVolumeClaim>(client.clone(), &(), all());
    let mut volumes = changes::<PersistentVolume>(client.clone(), &(), all());
    let mut classes = changes::<StorageClass>(client.clone(), &(), all());
    let mut book = Book::default();
    let mut workers: Workers<Key, Result<(), Failure>> = Workers::new(AT_ONCE, BACKOFF);
    loop {
        // Streams and workers lose nothing when another branch wins.
        let touched = tokio::select! {
            Some(event) = claims.next() => book.on_claim(event),
            Some(event) = volumes.next() => book.on_volume(event),
            Some(event) = classes.next() => book.on_class(event),
            step = workers.next() => {
                match step {
                    Step::Begin(key) => match book.decide(&key, local.as_ref()) {
                        Some(act) => {
                            let work = take(client.clone(), act, local.clone());
                            workers.start(key, work);
                        }
                        None => workers.start(key, async { Ok(()) }),
                    },
                    Step::Finished(key, Ok(())) => workers.done(&key),
                    Step::Finished(key, Err(Failure::Api(error)))
                        if has_code(&error, 409) || has_code(&error, 404) =>
                    {
                        tracing::debug!(?key, %error, "it has changed meanwhile");
                        workers.retry(&key);
                    }
                    Step::Finished(key, Err(error)) => {
                        tracing::debug!(?key, %error, "tried again");
                        workers.retry(&key);
                    }
                }
                Vec::new()
            }
            else => return,
        };
        for key in touched {
            workers.add(key);
        }
    }
}

/// Takes one step.
async fn take(client: Client, act: Act, local: Option<LocalVolumes>) -> Result<(), Failure> {
    match act {
        Act::Patch(change) => {
            for part in change.parts {
                send(&client, Method::PATCH, &part.path, MERGE_PATCH, &part.body).await?;
            }
            Ok(())
        }
        Act::Create(volume) => {
            let path = "/api/v1/persistentvolumes";
            let made = send(&client, Method::POST, path, JSON, &volume).await;
            Ok(unless(made, 409)?)
        }
        Act::Tell(note) => tell(&client, &note).await,
        Act::Unprotect {
            namespace,
            name,
            patch,
        } => {
            if is_used(&client, &namespace, &name).await? {
                return Err(Failure::InUse);
            }
            Ok(send(
                &client,
                Method::PATCH,
                &patch.path,
                MERGE_PATCH,
                &patch.body,
            )
            .await?)
        }
        Act::Reclaim { name, uid, folder } => {
            if let (Some(local), Some(folder)) = (local, folder) {
                let gone = tokio::task::spawn_blocking(move || local.remove(&folder)).await;
                // A panic in there is a bug, and the volume stays.
                gone.map_err(std::io::Error::other)
                    .and_then(|gone| gone)
                    .map_err(Failure::Folder)?;
            }
            let volumes: Api<PersistentVolume> = Api::all(client);
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: Some(uid),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            volumes.delete(&name, &params).await?;
            Ok(())
        }
    }
}

/// Says whether a pod that has not ended mounts the claim.
async fn is_used(client: &Client, namespace: &str, claim: &str) -> Result<bool, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut params = ListParams::default().limit(PAGE_PODS);
    loop {
        let page = pods.list(&params).await?;
        if page.items.iter().any(|pod| mounts(pod, claim)) {
            return Ok(true);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(false),
        }
    }
}

fn mounts(pod: &Pod, claim: &str) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    !matches!(phase, Some("Succeeded" | "Failed")) && claims.any(|one| one.claim_name == claim)
}

/// Writes an event about a claim.
async fn tell(client: &Client, note: &Note) -> Result<(), Failure> {
    let now = Timestamp::now();
    let text = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let event: Value = json!({
        "metadata": {
            "namespace": note.namespace,
            "name": format!("{}.{:x}", note.name, now.as_nanosecond()),
        },
        "involvedObject": {
            "kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": note.namespace,
            "name": note.name, "uid": note.uid,
        },
        "reason": note.reason, "message": note.message, "type": note.severity,
        "source": {"component": SOURCE}, "reportingComponent": SOURCE,
        "firstTimestamp": text, "lastTimestamp": text, "count": 1,
    });
    let path = format!("/api/v1/namespaces/{}/events", note.namespace);
    let told = send(client, Method::POST, &path, JSON, &event).await;
    // Where the namespace goes, nobody reads any more.
    Ok(unless(told, 403)?)
}
