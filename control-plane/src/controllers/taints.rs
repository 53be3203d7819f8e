//! Ends pods on nodes with a taint `NoExecute` that they do not tolerate, or no longer.
//!
//! How long a pod may stay depends on what the objects say, not on when this began: it counts from when
//! the taint was added or the pod was placed, whichever came later. So a restart does not grant the
//! time once more. A taint that does not say when it was added counts from when it is first seen.
//!
//! As long as no node has such a taint, nothing is watched but nodes.

mod book;

use std::time::Duration;

use futures::{StreamExt, future::pending, stream::BoxStream};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Client, api::ApiResource, runtime::watcher};
use serde_json::json;
use tokio::time::sleep;

use super::{
    events::{About, tell},
    queue::{Backoff, Step, Workers},
    requests::{JSON, STRATEGIC_PATCH, send, unless},
};
use crate::{changes::changes, moment};
use book::{Book, Key, NodeView, PodView, Target};

/// So many pods are ended at a time, as by the stock controller.
const AT_ONCE: usize = 8;

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    longest: Duration::from_secs(10),
};

/// The longest sleep before the next end of a stay: the clock may be set meanwhile, and timers stand
/// still while a machine is suspended.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Who speaks in events about pods.
const COMPONENT: &str = "taint-eviction-controller";

/// Runs until it is dropped.
pub(super) async fn run(client: Client) {
    let all = watcher::Config::default;
    let (node, pod) = (
        ApiResource::erase::<Node>(&()),
        ApiResource::erase::<Pod>(&()),
    );
    let mut nodes = changes::<NodeView>(client.clone(), &node, all());
    let mut pods: Option<BoxStream<'static, watcher::Event<PodView>>> = None;
    let mut book = Book::default();
    let mut workers: Workers<Key, Result<(), kube::Error>> = Workers::new(AT_ONCE, BACKOFF);
    loop {
        let news = async {
            match &mut pods {
                Some(pods) => pods.next().await,
                None => pending().await,
            }
        };
        // Streams, workers and the timer lose nothing when another branch wins.
        tokio::select! {
            Some(event) = nodes.next() => book.on_node(event, Timestamp::now()),
            Some(event) = news => book.on_pod(event),
            step = workers.next() => work(&client, &mut book, &mut workers, step),
            () = wait(book.next_end()) => (),
        }
        match book.has_taints() {
            true if pods.is_none() => pods = Some(changes(client.clone(), &pod, all())),
            false if pods.is_some() => {
                pods = None;
                book.forget_pods();
            }
            true | false => (),
        }
        for key in book.take_ended(Timestamp::now()) {
            workers.add(key);
        }
    }
}

async fn wait(end: Option<Timestamp>) {
    match end {
        Some(end) => {
            let left = end.duration_since(Timestamp::now());
            // It is negative where the time is over.
            let left = Duration::try_from(left).unwrap_or_default();
            sleep(left.min(SLEEP_MAX)).await;
        }
        None => pending().await,
    }
}

fn work(
    client: &Client,
    book: &mut Book,
    workers: &mut Workers<Key, Result<(), kube::Error>>,
    step: Step<Key, Result<(), kube::Error>>,
) {
    match step {
        // The taint may be gone by now, or the pod.
        Step::Begin(key) => match book.begin(&key, Timestamp::now()) {
            Some(target) => workers.start(key, evict(client.clone(), target)),
            None => workers.done(&key),
        },
        Step::Finished(key, Ok(())) => workers.done(&key),
        Step::Finished(key, Err(error)) => {
            let (namespace, name) = &key;
            tracing::debug!(namespace, name, %error, "pod not evicted, tried again");
            book.failed(&key);
            workers.retry(&key);
        }
    }
}

/// Tells a pod why it goes, and deletes it with its grace.
async fn evict(client: Client, target: Target) -> Result<(), kube::Error> {
    let (namespace, name) = &target.key;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let mut condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": moment::now(),
    });
    if let Some(generation) = target.generation {
        condition["observedGeneration"] = generation.into();
    }
    let body = json!({"metadata": {"uid": target.uid}, "status": {"conditions": [condition]}});
    let status = format!("{path}/status");
    let told = send(&client, Method::PATCH, &status, STRATEGIC_PATCH, &body).await;
    unless(told, 404)?;
    let body = json!({"preconditions": {"uid": target.uid}});
    unless(send(&client, Method::DELETE, &path, JSON, &body).await, 404)?;
    let about = About {
        kind: "Pod",
        namespace,
        name,
        uid: &target.uid,
    };
    let text = format!("Marking for deletion Pod {namespace}/{name}");
    tell(&client, COMPONENT, about, ("TaintManagerEviction", &text)).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Event;
    use kube::{
        Api,
        api::{ListParams, Patch, PatchParams, PostParams},
    };
    use serde_json::Value;

    use super::*;
    use crate::{ControlPlane, ControlPlaneConfig};

    /// The time in which everything here has happened on the slowest machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn create_pod(pods: &Api<Pod>, name: &str, tolerations: Value) {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": "n",
            "tolerations": tolerations, "containers": [{"name": "c", "image": "r.io/a:1"}]}});
        let pod = serde_json::from_value(pod).expect("the pod is well-formed");
        let created = pods.create(&PostParams::default(), &pod).await;
        created.expect("the pod is valid");
    }

    async fn ended(pods: &Api<Pod>, name: &str) -> Pod {
        let asked = async {
            loop {
                let pod = pods.get(name).await.expect("its node never ends it");
                if pod.metadata.deletion_timestamp.is_some() {
                    return pod;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        let ended = tokio::time::timeout(PATIENCE, asked).await;
        ended.unwrap_or_else(|_| panic!("{name} is not ended"))
    }

    #[tokio::test]
    async fn pods_leave_a_tainted_node_and_are_told_why() {
        let plane = ControlPlane::start(ControlPlaneConfig::default()).await;
        let client = plane.client("default");
        let (nodes, pods): (Api<Node>, Api<Pod>) = (
            Api::all(client.clone()),
            Api::default_namespaced(client.clone()),
        );
        let node = json!({"metadata": {"name": "n"}});
        let node = serde_json::from_value(node).expect("the node is well-formed");
        let created = nodes.create(&PostParams::default(), &node).await;
        created.expect("the node is valid");
        let exists = |key: &str, seconds: Option<i64>| {
            json!([{"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds}])
        };
        create_pod(&pods, "leaves", json!([])).await;
        create_pod(&pods, "lingers", exists("k", Some(1))).await;
        create_pod(&pods, "stays", exists("k", None)).await;
        let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}});
        let params = PatchParams::default();
        let tainted = nodes.patch("n", &params, &Patch::Merge(&taint)).await;
        tainted.expect("the taint is valid");
        let left = ended(&pods, "leaves").await;
        ended(&pods, "lingers").await;
        let stays = pods.get("stays").await.expect("it tolerates the taint");
        assert!(stays.metadata.deletion_timestamp.is_none());
        let conditions = left.status.unwrap_or_default().conditions;
        let conditions = conditions.unwrap_or_default();
        let told: Vec<_> = conditions
            .iter()
            .filter(|condition| condition.type_ == "DisruptionTarget")
            .map(|condition| (condition.reason.as_deref(), condition.message.as_deref()))
            .collect();
        let why = "Taint manager: deleting due to NoExecute taint";
        assert_eq!(told, [(Some("DeletionByTaintManager"), Some(why))]);
        // The event comes after the deletion.
        let said = async {
            let events: Api<Event> = Api::default_namespaced(client.clone());
            let only = ListParams::default().fields("reason=TaintManagerEviction");
            loop {
                let found = events.list(&only).await.expect("the API answers").items;
                let notes = found.iter().filter_map(|event| event.message.clone());
                let mut notes: Vec<_> = notes.collect();
                if notes.len() == 2 {
                    notes.sort();
                    return notes;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        let said = tokio::time::timeout(PATIENCE, said).await;
        let expected =
            ["leaves", "lingers"].map(|name| format!("Marking for deletion Pod default/{name}"));
        assert_eq!(said.expect("both are told of"), expected);
        plane.stop().await;
    }
}
