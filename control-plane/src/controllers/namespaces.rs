//! Empties namespaces that are being deleted: pods first, then everything else.
//!
//! Objects that stay for a while, because a node agent ends them or a finalizer holds them, are
//! waited for; the namespace's conditions tell which. In the end the namespace is released by
//! `…/finalize`, which lets the server remove it.

mod conditions;

use std::time::Duration;

use futures::StreamExt;
use http::Method;
use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api, Client, Resource,
    api::{ListParams, PostParams},
    discovery::verbs,
    runtime::watcher,
};
use serde_json::json;

use super::{
    catalogue::{Catalogue, Kind},
    queue::{Backoff, Step, Workers},
    requests::{self, JSON, unless},
    thin::Thin,
};
use crate::changes::changes;
use conditions::Remains;

/// Several namespaces may wait for their pods without holding up others.
const NAMESPACES_AT_ONCE: usize = 8;

/// How long to wait before looking again whether the rest has gone: soon at first, so that small
/// namespaces go at once, and never so seldom that a person would notice.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(20),
    longest: Duration::from_secs(2),
};

/// So many objects are counted with one request.
const PAGE_OBJECTS: u32 = 500;

/// The finalizer that stands for this controller.
const FINALIZER: &str = "kubernetes";

/// Whether a namespace has to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It is gone, or released, or not being deleted.
    Finished,
    /// Something is left in it.
    Waiting,
}

/// Runs until it is dropped.
pub(super) async fn run(client: Client) {
    let mut changes = changes::<Namespace>(client.clone(), &(), watcher::Config::default());
    let mut workers: Workers<String, _> = Workers::new(NAMESPACES_AT_ONCE, BACKOFF);
    loop {
        // Neither stream nor workers lose anything when the other wins.
        tokio::select! {
            Some(event) = changes.next() => {
                if let watcher::Event::Apply(namespace) | watcher::Event::InitApply(namespace) = event
                    && namespace.metadata.deletion_timestamp.is_some()
                {
                    workers.add(namespace.metadata.name.unwrap_or_default());
                }
            }
            step = workers.next() => match step {
                Step::Begin(name) => {
                    let work = empty(client.clone(), name.clone());
                    workers.start(name, work);
                }
                Step::Finished(name, Ok(Progress::Finished)) => workers.done(&name),
                Step::Finished(name, Ok(Progress::Waiting)) => workers.retry(&name),
                Step::Finished(name, Err(error)) => {
                    tracing::debug!(namespace = name, %error, "not emptied yet, tried again");
                    workers.retry(&name);
                }
            },
            else => return,
        }
    }
}

/// Does what can be done now for one namespace.
async fn empty(client: Client, name: String) -> Result<Progress, kube::Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    let Some(mut namespace) = api.get_opt(&name).await? else {
        return Ok(Progress::Finished);
    };
    if namespace.meta().deletion_timestamp.is_none() {
        return Ok(Progress::Finished);
    }
    if finalizers(&namespace).is_empty() {
        remove(&client, &namespace).await?;
        return Ok(Progress::Finished);
    }
    let remains = delete_content(&client, &name).await;
    let status = namespace.status.get_or_insert_default();
    let now = Time(jiff::Timestamp::now());
    if remains.update(status.conditions.get_or_insert_default(), &now) {
        let parameters = PostParams::default();
        namespace = api.replace_status(&name, &parameters, &namespace).await?;
    }
    if !remains.is_empty() {
        return Ok(Progress::Waiting);
    }
    release(&client, namespace).await?;
    Ok(Progress::Finished)
}

fn finalizers(namespace: &Namespace) -> &[String] {
    let spec = namespace.spec.as_ref();
    spec.and_then(|spec| spec.finalizers.as_deref())
        .unwrap_or_default()
}

/// Deletes a namespace that everyone has released.
async fn remove(client: &Client, namespace: &Namespace) -> Result<(), kube::Error> {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let path = format!("/api/v1/namespaces/{name}");
    let body = json!({"preconditions": {"uid": namespace.metadata.uid}});
    let deleted = requests::send(client, Method::DELETE, &path, JSON, &body).await;
    unless(deleted, 404)
}

/// Takes this controller off the list of those who have to empty the namespace.
async fn release(client: &Client, mut namespace: Namespace) -> Result<(), kube::Error> {
    if let Some(finalizers) = namespace
        .spec
        .as_mut()
        .and_then(|spec| spec.finalizers.as_mut())
    {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let path = format!("/api/v1/namespaces/{name}/finalize");
    let body = serde_json::to_value(&namespace).map_err(kube::Error::SerdeError)?;
    let released = requests::send(client, Method::PUT, &path, JSON, &body).await;
    unless(released, 404)
}

/// Deletes all it can and finds out what is left.
async fn delete_content(client: &Client, namespace: &str) -> Remains {
    let mut remains = Remains::default();
    let catalogue = match Catalogue::discover(client).await {
        Ok(catalogue) => catalogue,
        Err(error) => {
            remains.discovery_failure = Some(error.to_string());
            return remains;
        }
    };
    let kinds = catalogue.preferred.iter();
    let kinds = kinds.filter(|kind| kind.namespaced && kind.is_deletable());
    let is_pods = |kind: &&Kind| kind.resource.plural == "pods" && kind.resource.group.is_empty();
    let (pods, others): (Vec<_>, Vec<_>) = kinds.partition(is_pods);
    for kind in pods {
        delete_kind(client, kind, namespace, &mut remains).await;
    }
    // What runs may still need what is beside it: config maps, secrets, accounts.
    if remains.is_empty() {
        for kind in others {
            delete_kind(client, kind, namespace, &mut remains).await;
        }
    }
    remains
}

async fn delete_kind(client: &Client, kind: &Kind, namespace: &str, remains: &mut Remains) {
    if let Err(error) = try_delete_kind(client, kind, namespace, remains).await {
        remains.failures.push(error.to_string());
    }
}

async fn try_delete_kind(
    client: &Client,
    kind: &Kind,
    namespace: &str,
    remains: &mut Remains,
) -> Result<(), kube::Error> {
    let background = json!({"kind": "DeleteOptions", "apiVersion": "v1",
        "propagationPolicy": "Background"});
    let delete = |name: String| {
        let (path, body) = (kind.path(namespace, &name), background.clone());
        async move { requests::send(client, Method::DELETE, &path, JSON, &body).await }
    };
    if kind.offers(verbs::DELETE_COLLECTION) {
        delete(String::new()).await?;
    } else {
        for object in every(client, kind, namespace).await? {
            unless(delete(object.name().to_owned()).await, 404)?;
        }
    }
    for object in every(client, kind, namespace).await? {
        let ApiKey { resource, group } = ApiKey::of(kind);
        *remains.resources.entry((resource, group)).or_default() += 1;
        for finalizer in object.finalizers() {
            *remains.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }
    Ok(())
}

struct ApiKey {
    resource: String,
    group: String,
}

impl ApiKey {
    fn of(kind: &Kind) -> ApiKey {
        ApiKey {
            resource: kind.resource.plural.clone(),
            group: kind.resource.group.clone(),
        }
    }
}

/// Lists all objects of a kind, page by page.
async fn every(client: &Client, kind: &Kind, namespace: &str) -> Result<Vec<Thin>, kube::Error> {
    let api: Api<Thin> = Api::namespaced_with(client.clone(), namespace, &kind.resource);
    let mut parameters = ListParams::default().limit(PAGE_OBJECTS);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&parameters).await?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(objects),
        }
    }
}
