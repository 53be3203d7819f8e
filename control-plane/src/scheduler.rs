//! Gives pods without a node a node that has room for them.
//!
//! An ordinary client of the API: it watches pods and nodes, keeps the few facts that matter, and
//! answers with bindings. It would run unchanged beside a real API server. Pods that fit nowhere
//! are told so in their conditions and tried again when something changes.

mod cluster;
mod fit;
mod view;

use std::time::Duration;

use futures::{Stream, StreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::{
    Api, Client,
    api::{ApiResource, Patch, PatchParams, PostParams},
    runtime::watcher::{self, watcher},
};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use cluster::{Cluster, PodKey, Waiting};
use view::{NodeView, PodView};

/// The scheduler name of pods that are ours to place.
const SCHEDULER_NAME: &str = "default-scheduler";

/// How long a binding that failed for another reason than the pod's own waits.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The pause after a watch failed, so that a broken API is not asked in a tight loop.
const WATCH_RETRY_DELAY: Duration = Duration::from_millis(200);

/// Which waiting pods to try.
enum Wake {
    /// Only this one: nothing else has changed for the others.
    One(PodKey),
    /// All: room may have appeared.
    All,
    /// None.
    Nobody,
}

/// Runs until `stop`.
pub(crate) async fn run(client: Client, stop: CancellationToken) {
    let mut scheduler = Scheduler::new(client);
    // Every step of the loop leaves the scheduler consistent, so it can stop between any two.
    tokio::select! {
        () = scheduler.run() => {}
        () = stop.cancelled() => {}
    }
}

struct Scheduler {
    client: Client,
    cluster: Cluster,
    retry_at: Option<Instant>,
}

impl Scheduler {
    fn new(client: Client) -> Scheduler {
        Scheduler {
            client,
            cluster: Cluster::default(),
            retry_at: None,
        }
    }

    async fn run(&mut self) {
        let mut pods = events::<PodView>(Api::all_with(
            self.client.clone(),
            &ApiResource::erase::<Pod>(&()),
        ));
        let mut nodes = events::<NodeView>(Api::all_with(
            self.client.clone(),
            &ApiResource::erase::<Node>(&()),
        ));
        loop {
            let retry_at = self.retry_at;
            // Streams and the timer lose nothing when another branch wins. Nodes come first, so
            // that a pod is not judged by an older picture of them than need be.
            let wake = tokio::select! {
                biased;
                Some(event) = nodes.next() => self.cluster.on_node(event),
                Some(event) = pods.next() => self.cluster.on_pod(event),
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                    self.retry_at = None;
                    Wake::All
                }
                else => return,
            };
            // Before both lists are known, every verdict would be a guess.
            if !self.cluster.is_known() {
                continue;
            }
            match wake {
                Wake::One(key) => self.place(&key).await,
                Wake::All => {
                    for key in self.cluster.waiting_keys() {
                        self.place(&key).await;
                    }
                }
                Wake::Nobody => (),
            }
        }
    }

    async fn place(&mut self, key: &PodKey) {
        let Some(waiting) = self.cluster.waiting(key).cloned() else {
            return;
        };
        match fit::choose(&self.cluster, &waiting.demand) {
            Ok(node) => {
                let node = node.to_owned();
                // Counted before the answer, so that the next pod does not take the same room.
                self.cluster.assume(key, &node);
                match self.bind(key, &waiting, &node).await {
                    Ok(()) => self.announce_binding(key, &waiting, &node).await,
                    Err(error) => self.on_failed_binding(key, waiting, &error),
                }
            }
            Err(message) if waiting.told.as_ref() == Some(&message) => (),
            Err(message) => self.announce_failure(key, &waiting, message).await,
        }
    }

    fn on_failed_binding(&mut self, key: &PodKey, waiting: Waiting, error: &kube::Error) {
        match error {
            // Gone, deleted or placed by someone else: the watch tells what it is by now.
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => {
                self.cluster.forget(key);
            }
            error => {
                tracing::warn!(pod = %key, %error, "binding failed, it is tried again");
                self.cluster.wait_again(key, waiting);
                self.retry_at = Some(Instant::now() + RETRY_DELAY);
            }
        }
    }

    async fn bind(&self, key: &PodKey, waiting: &Waiting, node: &str) -> Result<(), kube::Error> {
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": waiting.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/binding",
            key.namespace, key.name
        );
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(binding.to_string().into_bytes())
            .expect("names in a stored key are valid in a path");
        self.client
            .request::<serde_json::Value>(request)
            .await
            .map(drop)
    }

    async fn announce_binding(&self, key: &PodKey, waiting: &Waiting, node: &str) {
        let message = format!(
            "Successfully assigned {}/{} to {node}",
            key.namespace, key.name
        );
        self.record(key, waiting, "Normal", "Scheduled", &message)
            .await;
    }

    async fn announce_failure(&mut self, key: &PodKey, waiting: &Waiting, message: String) {
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": now(),
        });
        let patch = json!({
            "metadata": {"uid": waiting.uid},
            "status": {"conditions": [condition]},
        });
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PatchParams::default();
        match pods
            .patch_status(&key.name, &params, &Patch::Strategic(patch))
            .await
        {
            Ok(_) => {
                self.record(key, waiting, "Warning", "FailedScheduling", &message)
                    .await;
                self.cluster.told(key, message);
            }
            // The pod is gone or another one by now; the watch will say so.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => (),
            Err(error) => {
                tracing::warn!(pod = %key, %error, "condition not written, it is tried again");
                self.retry_at = Some(Instant::now() + RETRY_DELAY);
            }
        }
    }

    /// Writes an event; one that cannot be written is only logged, as by every component.
    async fn record(&self, key: &PodKey, waiting: &Waiting, kind: &str, reason: &str, text: &str) {
        let now = now();
        let nanos = jiff::Timestamp::now().as_nanosecond();
        let event = json!({
            "metadata": {"name": format!("{}.{nanos:x}", key.name), "namespace": key.namespace},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": key.name,
                "namespace": key.namespace, "uid": waiting.uid},
            "reason": reason,
            "message": text,
            "type": kind,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": SCHEDULER_NAME},
            "reportingComponent": SCHEDULER_NAME,
        });
        let events: Api<Event> = Api::namespaced(self.client.clone(), &key.namespace);
        let event = serde_json::from_value(event).expect("the event above has the event's fields");
        if let Err(error) = events.create(&PostParams::default(), &event).await {
            tracing::debug!(pod = %key, %error, "event not written");
        }
    }
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Second).unwrap_or(now).to_string()
}

/// Watches all objects of a kind; failures are logged and the watch goes on.
fn events<K>(api: Api<K>) -> BoxStream<'static, watcher::Event<K>>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().any_semantic();
    good(watcher(api, config)).boxed()
}

fn good<K>(
    stream: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send,
) -> impl Stream<Item = watcher::Event<K>> + Send
where
    K: Send + 'static,
{
    stream.filter_map(|event| async {
        match event {
            Ok(event) => Some(event),
            Err(error) => {
                tracing::warn!(%error, "watch failed, it goes on");
                tokio::time::sleep(WATCH_RETRY_DELAY).await;
                None
            }
        }
    })
}
