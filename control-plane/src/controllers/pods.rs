//! Deletes pods that nobody would end: on nodes that are gone, never placed, or long over.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use http::Method;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client,
    api::{ApiResource, ListParams},
    core::Object,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    requests::{JSON, STRATEGIC_PATCH, send, unless},
    thin::{self, Thin},
};
use crate::moment::now;

/// How often all pods are looked through, as by the stock controller.
const INTERVAL: Duration = Duration::from_secs(20);

/// How long a node has to be missing before its pods are taken for lost.
const QUARANTINE: Duration = Duration::from_secs(40);

/// So many pods that are over are kept for people to look at.
const ENDED_MAX: usize = 12_500;

/// So many pods are read with one request.
const PAGE_OBJECTS: u32 = 500;

type PodView = Object<Spec, Status>;

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Status {
    phase: String,
}

/// What is known of a pod.
#[derive(Clone, Debug)]
struct Known {
    namespace: String,
    name: String,
    uid: String,
    node: String,
    has_ended: bool,
    is_deleting: bool,
    created: jiff::Timestamp,
}

/// Why a pod is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Its node is gone.
    Orphaned,
    /// It was deleted before it had a node, so no node agent ends it.
    Unplaced,
    /// It is over, like many others.
    Ended,
}

/// The nodes that pods name and nobody knows, and since when.
#[derive(Debug, Default)]
struct Quarantine {
    since: HashMap<String, Instant>,
}

/// Runs until it is dropped.
pub(super) async fn run(client: Client) {
    let mut quarantine = Quarantine::default();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = collect(&client, &mut quarantine).await {
            tracing::warn!(%error, "pods not looked through, tried again later");
        }
    }
}

async fn collect(client: &Client, quarantine: &mut Quarantine) -> Result<(), kube::Error> {
    let pods = pods(client).await?;
    if pods.is_empty() {
        return Ok(());
    }
    // Nodes come second: the node of a pod that is seen was there before the pod was bound.
    let nodes = nodes(client).await?;
    let lost = quarantine.lost(&pods, &nodes, Instant::now());
    for (pod, cause) in plan(&pods, &lost, ENDED_MAX) {
        if let Err(error) = delete(client, pod, cause).await {
            let (namespace, name) = (&pod.namespace, &pod.name);
            tracing::warn!(namespace, name, %error, "pod not deleted, tried again later");
        }
    }
    Ok(())
}

async fn nodes(client: &Client) -> Result<HashSet<String>, kube::Error> {
    let kind = ApiResource::erase::<Node>(&());
    let api: Api<Thin> = Api::all_with(thin::client(client), &kind);
    let nodes = api.list(&ListParams::default()).await?;
    Ok(nodes
        .items
        .iter()
        .map(|node| node.name().to_owned())
        .collect())
}

async fn pods(client: &Client) -> Result<Vec<Known>, kube::Error> {
    let kind = ApiResource::erase::<Pod>(&());
    let api: Api<PodView> = Api::all_with(client.clone(), &kind);
    let mut parameters = ListParams::default().limit(PAGE_OBJECTS);
    let mut pods = Vec::new();
    loop {
        let page = api.list(&parameters).await?;
        pods.extend(page.items.into_iter().map(Known::from));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(pods),
        }
    }
}

impl From<PodView> for Known {
    fn from(pod: PodView) -> Known {
        let meta = pod.metadata;
        let phase = pod.status.unwrap_or_default().phase;
        Known {
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            node: pod.spec.node_name,
            has_ended: matches!(phase.as_str(), "Succeeded" | "Failed"),
            is_deleting: meta.deletion_timestamp.is_some(),
            created: meta
                .creation_timestamp
                .map(|time| time.0)
                .unwrap_or_default(),
        }
    }
}

impl Quarantine {
    /// Returns the nodes that pods name and that have been missing for long.
    fn lost(&mut self, pods: &[Known], nodes: &HashSet<String>, now: Instant) -> HashSet<String> {
        let named: HashSet<&str> = pods.iter().map(|pod| pod.node.as_str()).collect();
        self.since
            .retain(|node, _| named.contains(node.as_str()) && !nodes.contains(node));
        for node in named {
            if !node.is_empty() && !nodes.contains(node) {
                self.since.entry(node.to_owned()).or_insert(now);
            }
        }
        let over = |since: &Instant| now.duration_since(*since) >= QUARANTINE;
        let lost = self.since.iter().filter(|(_, since)| over(since));
        lost.map(|(node, _)| node.clone()).collect()
    }
}

/// Decides which pods go, and why.
fn plan<'p>(
    pods: &'p [Known],
    lost: &HashSet<String>,
    ended_max: usize,
) -> Vec<(&'p Known, Cause)> {
    let mut ended = Vec::new();
    let mut steps = Vec::new();
    for pod in pods {
        if lost.contains(&pod.node) {
            steps.push((pod, Cause::Orphaned));
        } else if pod.is_deleting && pod.node.is_empty() {
            steps.push((pod, Cause::Unplaced));
        } else if pod.has_ended && !pod.is_deleting {
            ended.push(pod);
        }
    }
    ended.sort_by_key(|pod| pod.created);
    ended.truncate(ended.len().saturating_sub(ended_max));
    steps.extend(ended.into_iter().map(|pod| (pod, Cause::Ended)));
    steps
}

async fn delete(client: &Client, pod: &Known, cause: Cause) -> Result<(), kube::Error> {
    let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
    if !pod.has_ended {
        let status = format!("{path}/status");
        let body = json!({"metadata": {"uid": pod.uid}, "status": failed(cause)});
        let told = send(client, Method::PATCH, &status, STRATEGIC_PATCH, &body).await;
        unless(told, 404)?;
    }
    let body = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}});
    let deleted = send(client, Method::DELETE, &path, JSON, &body).await;
    unless(unless(deleted, 404), 409)
}

fn failed(cause: Cause) -> Value {
    match cause {
        Cause::Orphaned => {
            json!({"phase": "Failed", "conditions": [{
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
                "lastTransitionTime": now(),
            }]})
        }
        Cause::Unplaced | Cause::Ended => json!({"phase": "Failed"}),
    }
}

#[cfg(test)]
mod tests {
    use kube::api::PostParams;

    use super::*;
    use crate::{ControlPlane, ControlPlaneConfig};

    fn pod(name: &str, node: &str) -> Known {
        Known {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            node: node.to_owned(),
            has_ended: false,
            is_deleting: false,
            created: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn check(pods: &[Known], lost: &[&str], ended_max: usize, expected: &[(&str, Cause)]) {
        let lost = lost.iter().map(|&node| node.to_owned()).collect();
        let found = plan(pods, &lost, ended_max);
        let found: Vec<_> = found
            .into_iter()
            .map(|(pod, cause)| (pod.name.as_str(), cause))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_node_is_lost_when_it_has_been_missing_for_long() {
        let mut quarantine = Quarantine::default();
        let pods = [pod("a", "gone"), pod("b", "here"), pod("c", "")];
        let nodes: HashSet<_> = ["here".to_owned()].into();
        let none = HashSet::new();
        let begun = Instant::now();
        assert_eq!(quarantine.lost(&pods, &nodes, begun), none);
        let before = begun + QUARANTINE - Duration::from_secs(1);
        assert_eq!(quarantine.lost(&pods, &nodes, before), none);
        // A node that comes back begins anew.
        let both = ["here".to_owned(), "gone".to_owned()].into();
        assert_eq!(quarantine.lost(&pods, &both, before), none);
        assert_eq!(quarantine.lost(&pods, &nodes, begun + QUARANTINE), none);
        let gone = ["gone".to_owned()].into();
        assert_eq!(quarantine.lost(&pods, &nodes, begun + 2 * QUARANTINE), gone);
    }

    #[test]
    fn pods_go_when_nobody_would_end_them() {
        let unplaced = Known {
            is_deleting: true,
            ..pod("c", "")
        };
        let pods = [pod("a", "lost"), pod("b", "n"), unplaced, pod("d", "")];
        let expected = [("a", Cause::Orphaned), ("c", Cause::Unplaced)];
        check(&pods, &["lost"], 0, &expected);
    }

    #[test]
    fn of_many_ended_pods_the_oldest_go() {
        let ended = |name: &str, second: i64| Known {
            has_ended: true,
            created: jiff::Timestamp::from_second(second).expect("the time is in range"),
            ..pod(name, "n")
        };
        let pods = [ended("a", 3), ended("b", 1), ended("c", 2), pod("d", "n")];
        check(&pods, &[], 2, &[("b", Cause::Ended)]);
        check(&pods, &[], 3, &[]);
    }

    #[tokio::test]
    async fn pods_of_a_node_that_is_gone_fail_and_go() {
        let plane = ControlPlane::start(ControlPlaneConfig::default()).await;
        let client = plane.client("default");
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        for (name, node) in [("a", "gone"), ("b", "away")] {
            let pod = json!({"metadata": {"name": name, "finalizers": ["x.y/z"]},
                "spec": {"nodeName": node, "containers": [{"name": "c", "image": "r.io/a:1"}]}});
            let pod = serde_json::from_value(pod).expect("the pod is well-formed");
            let created = pods.create(&PostParams::default(), &pod).await;
            created.expect("the pod is valid");
        }
        let mut quarantine = Quarantine::default();
        let long_ago = Instant::now().checked_sub(QUARANTINE);
        let long_ago = long_ago.expect("the machine has run for a while");
        quarantine.since.insert("gone".to_owned(), long_ago);
        collect(&client, &mut quarantine)
            .await
            .expect("the API answers");
        let lost = pods.get("a").await.expect("a finalizer keeps the pod");
        assert!(lost.metadata.deletion_timestamp.is_some());
        let status = lost.status.unwrap_or_default();
        assert_eq!(status.phase.as_deref(), Some("Failed"));
        let conditions = status.conditions.unwrap_or_default();
        let reasons = conditions
            .iter()
            .filter_map(|condition| condition.reason.as_deref());
        let reasons: Vec<_> = reasons.collect();
        assert_eq!(reasons, ["DeletionByPodGC"]);
        let waits = pods.get("b").await.expect("its node may come back");
        assert!(waits.metadata.deletion_timestamp.is_none());
        plane.stop().await;
    }
}
