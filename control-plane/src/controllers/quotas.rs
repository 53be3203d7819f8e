//! Writes into every quota what its namespace uses.
//!
//! Admission does not trust these numbers, it counts by itself; they are for people. As long as
//! there is no quota, nothing is watched but quotas.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use futures::{
    StreamExt,
    future::pending,
    stream::{BoxStream, SelectAll, select_all},
};
use http::{Method, Request};
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::{Client, ResourceExt, runtime::watcher};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::{
    catalogue::{Catalogue, Kind},
    queue::{Backoff, Step, Workers},
    requests::{JSON, send, unless},
    thin::{self, Thin},
};
use crate::{
    admission::{
        Charge,
        quota::{OF_CLASS, Quota},
    },
    changes::changes,
    kinds,
};

const NAMESPACES_AT_ONCE: usize = 5;

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(20),
    longest: Duration::from_secs(60),
};

/// How long a namespace rests after it was counted, so that many changes are counted together.
const REST: Duration = Duration::from_millis(200);

/// How often everything is counted again, as by the stock controller.
const RESYNC_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// So many objects are read with one request.
const PAGE_OBJECTS: usize = 500;

/// Runs until it is dropped.
pub(super) async fn run(client: Client) {
    let mut quotas = changes::<ResourceQuota>(client.clone(), &(), watcher::Config::default());
    let mut known = Known::default();
    let mut content: Option<SelectAll<BoxStream<'static, watcher::Event<Thin>>>> = None;
    let mut workers: Workers<String, _> = Workers::new(NAMESPACES_AT_ONCE, BACKOFF);
    let mut resync = interval_at(Instant::now() + RESYNC_INTERVAL, RESYNC_INTERVAL);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let changed = async {
            match &mut content {
                Some(content) => content.next().await,
                None => pending().await,
            }
        };
        // Streams, workers and the timer lose nothing when another branch wins.
        tokio::select! {
            Some(event) = quotas.next() => {
                for namespace in known.apply(event) {
                    workers.add(namespace);
                }
                if known.by_name.is_empty() {
                    content = None;
                } else if content.is_none() {
                    content = watch(&client).await;
                }
            }
            Some(event) = changed => {
                if let watcher::Event::Apply(object) | watcher::Event::Delete(object) = event
                    && known.has_quota(object.namespace())
                {
                    workers.add(object.namespace().to_owned());
                }
            }
            step = workers.next() => match step {
                Step::Begin(namespace) => {
                    let work = count_and_rest(client.clone(), namespace.clone());
                    workers.start(namespace, work);
                }
                Step::Finished(namespace, Ok(())) => workers.done(&namespace),
                Step::Finished(namespace, Err(error)) => {
                    tracing::debug!(namespace, %error, "quotas not counted, tried again");
                    workers.retry(&namespace);
                }
            },
            _ = resync.tick(), if !known.by_name.is_empty() => {
                for namespace in known.namespaces() {
                    workers.add(namespace);
                }
                if content.is_none() {
                    content = watch(&client).await;
                }
            }
        }
    }
}

/// Where there are quotas.
#[derive(Debug, Default)]
struct Known {
    /// The quotas, by namespace and name.
    by_name: HashSet<(String, String)>,
}

impl Known {
    /// Takes in what the watch tells; returns the namespaces to count.
    fn apply(&mut self, event: watcher::Event<ResourceQuota>) -> Vec<String> {
        let key = |quota: &ResourceQuota| (quota.namespace().unwrap_or_default(), quota.name_any());
        match event {
            watcher::Event::Apply(quota) | watcher::Event::InitApply(quota) => {
                let key = key(&quota);
                let namespace = key.0.clone();
                self.by_name.insert(key);
                vec![namespace]
            }
            watcher::Event::Delete(quota) => {
                self.by_name.remove(&key(&quota));
                Vec::new()
            }
            watcher::Event::Init => {
                self.by_name.clear();
                Vec::new()
            }
            watcher::Event::InitDone => Vec::new(),
        }
    }

    fn has_quota(&self, namespace: &str) -> bool {
        self.by_name.iter().any(|(known, _)| known == namespace)
    }

    fn namespaces(&self) -> BTreeSet<String> {
        self.by_name
            .iter()
            .map(|(known, _)| known.clone())
            .collect()
    }
}

/// Watches everything that a quota can count; none while the server's kinds are unknown.
async fn watch(client: &Client) -> Option<SelectAll<BoxStream<'static, watcher::Event<Thin>>>> {
    let catalogue = Catalogue::discover(client).await;
    let catalogue = catalogue
        .inspect_err(|error| tracing::warn!(%error, "the kinds of the server are unknown"))
        .ok()?;
    let client = thin::client(client);
    let kinds = catalogue.preferred.iter().filter(|kind| is_counted(kind));
    Some(select_all(kinds.map(|kind| {
        changes::<Thin>(client.clone(), &kind.resource, watcher::Config::default())
    })))
}

fn is_counted(kind: &Kind) -> bool {
    kind.namespaced && kind.is_deletable() && kind.resource.plural != "events"
}

async fn count_and_rest(client: Client, namespace: String) -> Result<(), kube::Error> {
    count(&client, &namespace).await?;
    sleep(REST).await;
    Ok(())
}

/// Counts what a namespace uses, and writes it into its quotas.
async fn count(client: &Client, namespace: &str) -> Result<(), kube::Error> {
    let catalogue = Catalogue::discover(client).await?;
    let path = format!("/api/v1/namespaces/{namespace}/resourcequotas");
    let quotas = every(client, &path).await?;
    let mut charges = Vec::new();
    for kind in catalogue.preferred.iter().filter(|kind| is_counted(kind)) {
        let (version, name) = (&kind.resource.api_version, &kind.resource.kind);
        if !quotas.iter().any(|quota| names(quota, kind)) {
            continue;
        }
        let Some(info) = kinds::served(version, name) else {
            continue;
        };
        let objects = every(client, &kind.path(namespace, "")).await?;
        charges.extend(objects.iter().map(|object| Charge::of(info, object)));
    }
    for mut quota in quotas {
        let used = Quota::read(&quota).used(charges.iter());
        let used = used.iter().map(|(name, amount)| (name, amount.to_string()));
        let used: BTreeMap<_, _> = used.collect();
        let fresh = json!({"hard": quota["spec"]["hard"], "used": used});
        if quota["status"] == fresh {
            continue;
        }
        quota["status"] = fresh;
        let name = quota["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{path}/{name}/status");
        unless(send(client, Method::PUT, &path, JSON, &quota).await, 404)?;
    }
    Ok(())
}

/// Says whether a quota limits something that objects of a kind use.
fn names(quota: &Value, kind: &Kind) -> bool {
    let (group, plural) = (kind.resource.group.as_str(), kind.resource.plural.as_str());
    let limits = quota["spec"]["hard"].as_object();
    limits.into_iter().flatten().any(|(name, _)| {
        let counted = name.strip_prefix("count/").map(|rest| {
            let (resource, of_group) = rest.split_once('.').unwrap_or((rest, ""));
            resource == plural && of_group == group
        });
        counted.unwrap_or_else(|| match (group, plural) {
            // Whatever is not named after another kind is something that pods use.
            ("", "pods") => true,
            ("", "persistentvolumeclaims") => {
                name == plural || name == "requests.storage" || name.contains(OF_CLASS)
            }
            ("", _) => name.split('.').next() == Some(plural),
            _ => false,
        })
    })
}

/// Lists all objects of a collection, page by page.
async fn every(client: &Client, path: &str) -> Result<Vec<Value>, kube::Error> {
    let mut objects = Vec::new();
    let mut token = String::new();
    loop {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("limit", &PAGE_OBJECTS.to_string())
            .append_pair("continue", &token)
            .finish();
        let request = Request::get(format!("{path}?{query}")).body(Vec::new());
        let request = request.map_err(kube::Error::HttpError)?;
        let mut page: Value = client.request(request).await?;
        if let Value::Array(items) = page["items"].take() {
            objects.extend(items);
        }
        match page["metadata"]["continue"].as_str() {
            Some(next) if !next.is_empty() => next.clone_into(&mut token),
            _ => return Ok(objects),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kind_is_read_when_a_quota_names_what_its_objects_use() {
        let plane = crate::ControlPlane::start(crate::ControlPlaneConfig::default()).await;
        let catalogue = Catalogue::discover(&plane.client("default")).await;
        let catalogue = catalogue.expect("the API answers");
        for (name, expected) in [
            ("configmaps", "configmaps"),
            ("services.nodeports", "services"),
            ("count/leases.coordination.k8s.io", "leases"),
            ("persistentvolumeclaims", "persistentvolumeclaims"),
            ("requests.storage", "persistentvolumeclaims"),
            (
                "a.b.storageclass.storage.k8s.io/requests.storage",
                "persistentvolumeclaims",
            ),
            (
                "a.storageclass.storage.k8s.io/persistentvolumeclaims",
                "persistentvolumeclaims",
            ),
        ] {
            let quota = json!({"spec": {"hard": {name: "1"}}});
            // Pods are read in any case but for a plain count.
            let kinds = catalogue.preferred.iter().filter(|kind| is_counted(kind));
            let read = kinds.filter(|kind| kind.resource.plural != "pods" && names(&quota, kind));
            let read: Vec<_> = read.map(|kind| kind.resource.plural.as_str()).collect();
            assert_eq!(read, [expected], "{name}");
        }
        plane.stop().await;
    }
}
