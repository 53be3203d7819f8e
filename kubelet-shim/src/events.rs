//! Events about pods: bounded in number, repeated ones counted instead of added (contract B.14).
//!
//! Workers hand events to one writer task over a bounded channel and never wait for it; when it does not
//! keep up, events are dropped and the number is logged, since an event is news and not state.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::acknowledged;
use crate::spec::PodKey;
use crate::status::whole_seconds;
use crate::time::{Clock, Moment};

/// Events that wait for the writer: a burst of a thousand pods with four events each.
const QUEUE_MAX: usize = 4096;

/// Events that are written together, and so made durable together: what comes while so many are under way.
const TOGETHER_MAX: usize = 64;

/// Events of one pod before its rate is limited, as client-go's spam filter has it.
const BURST_MAX: u32 = 25;

/// One more event is allowed per this, once the burst is used up.
const REFILL_EVERY: Duration = Duration::from_secs(300);

/// Recent events of a pod that a new one is compared with.
const RECENT_MAX: usize = 16;

/// Whether an event is news or trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// Hands events to the writer.
#[derive(Clone)]
pub(crate) struct EventSink {
    sender: mpsc::Sender<Write>,
    dropped: Arc<AtomicU64>,
    node: Arc<str>,
    clock: Clock,
}

/// The events of one pod.
pub(crate) struct PodEvents {
    sink: EventSink,
    key: PodKey,
    state: Mutex<State>,
}

struct State {
    recent: VecDeque<Recent>,
    tokens: u32,
    refilled: Moment,
}

struct Recent {
    reason: &'static str,
    message: String,
    field_path: Option<String>,
    name: String,
    count: i32,
}

/// What is to be written about a pod.
struct Write {
    /// The pod's identifier: what is told of one pod keeps its order.
    uid: Arc<str>,
    what: What,
}

enum What {
    Create(Box<Event>),
    Repeat {
        namespace: Arc<str>,
        name: String,
        count: i32,
        last: Time,
    },
}

/// Makes a sink and the future that writes; it ends when every sink is gone.
pub(crate) fn channel(
    client: kube::Client,
    node: Arc<str>,
    clock: Clock,
) -> (EventSink, impl Future<Output = ()> + Send) {
    let (sender, writes) = mpsc::channel(QUEUE_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let sink = EventSink {
        sender,
        dropped: dropped.clone(),
        node,
        clock,
    };
    (sink, write_all(client, writes, dropped))
}

async fn write_all(
    client: kube::Client,
    mut writes: mpsc::Receiver<Write>,
    dropped: Arc<AtomicU64>,
) {
    let mut next = Vec::with_capacity(TOGETHER_MAX);
    while writes.recv_many(&mut next, TOGETHER_MAX).await > 0 {
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(
                lost,
                "events were dropped because the server took them too slowly"
            );
        }
        let mut pods: HashMap<Arc<str>, Vec<What>> = HashMap::new();
        for Write { uid, what } in next.drain(..) {
            pods.entry(uid).or_default().push(what);
        }
        let pods = pods.into_values().map(|all| write_of_pod(&client, all));
        join_all(pods).await;
    }
}

async fn write_of_pod(client: &kube::Client, all: Vec<What>) {
    for what in all {
        if let Err(error) = write(client, what).await {
            tracing::debug!(%error, "failed to write an event");
        }
    }
}

async fn write(client: &kube::Client, what: What) -> Result<(), kube::Error> {
    match what {
        What::Create(event) => {
            let namespace = event.metadata.namespace.clone().unwrap_or_default();
            let api = Api::<Event>::namespaced(client.clone(), &namespace);
            acknowledged::create(&api, &event).await
        }
        What::Repeat {
            namespace,
            name,
            count,
            last,
        } => {
            let api = Api::<Event>::namespaced(client.clone(), &namespace);
            let patch = serde_json::json!({"count": count, "lastTimestamp": last});
            acknowledged::merge(&api, &name, &patch).await
        }
    }
}

impl PodEvents {
    pub(crate) fn new(sink: EventSink, key: PodKey) -> PodEvents {
        let refilled = sink.clock.now();
        let state = State {
            recent: VecDeque::new(),
            tokens: BURST_MAX,
            refilled,
        };
        PodEvents {
            sink,
            key,
            state: Mutex::new(state),
        }
    }

    /// Reports something about the pod, or about one container when a field path is given.
    pub(crate) fn emit(
        &self,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
        field_path: Option<String>,
    ) {
        let message = message.into();
        let now = self.sink.clock.now();
        let mut state = self.state.lock();
        if !state.take_token(now) {
            return;
        }
        let at = Time(whole_seconds(now.wall()));
        let known = state
            .recent
            .iter_mut()
            .find(|r| r.reason == reason && r.message == message && r.field_path == field_path);
        if let Some(known) = known {
            known.count = known.count.saturating_add(1);
            let (name, count) = (known.name.clone(), known.count);
            let namespace = self.key.namespace.clone();
            self.send(What::Repeat {
                namespace,
                name,
                count,
                last: at,
            });
            return;
        }
        let nanos = now.wall().as_nanosecond();
        let name = format!("{}.{nanos:x}{:02x}", self.key.name, state.recent.len());
        let news = Recent {
            reason,
            message,
            field_path,
            name,
            count: 1,
        };
        let event = self.event(severity, &news, at);
        self.send(What::Create(Box::new(event)));
        if state.recent.len() == RECENT_MAX {
            state.recent.pop_front();
        }
        state.recent.push_back(news);
    }

    fn send(&self, what: What) {
        let uid = self.key.uid.clone();
        self.sink.send(Write { uid, what });
    }

    fn event(&self, severity: Severity, news: &Recent, at: Time) -> Event {
        let type_ = match severity {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        };
        Event {
            metadata: ObjectMeta {
                name: Some(news.name.clone()),
                namespace: Some(self.key.namespace.to_string()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(self.key.name.to_string()),
                namespace: Some(self.key.namespace.to_string()),
                uid: Some(self.key.uid.to_string()),
                field_path: news.field_path.clone(),
                ..ObjectReference::default()
            },
            reason: Some(news.reason.to_owned()),
            message: Some(news.message.clone()),
            type_: Some(type_.to_owned()),
            count: Some(1),
            first_timestamp: Some(at.clone()),
            last_timestamp: Some(at),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.sink.node.to_string()),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.sink.node.to_string()),
            ..Event::default()
        }
    }
}

impl State {
    fn take_token(&mut self, now: Moment) -> bool {
        let refills = now.since(self.refilled).as_secs() / REFILL_EVERY.as_secs();
        if let Ok(refills @ 1..) = u32::try_from(refills) {
            self.tokens = self.tokens.saturating_add(refills).min(BURST_MAX);
            self.refilled = now;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

impl EventSink {
    fn send(&self, write: Write) {
        if self.sender.try_send(write).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use tokio::sync::Barrier;

    use super::*;

    /// The pods of a burst.
    const PODS: usize = 3;

    fn events_of(sink: &EventSink, pod: &str) -> PodEvents {
        let key = PodKey {
            namespace: "n".into(),
            name: pod.into(),
            uid: pod.into(),
        };
        PodEvents::new(sink.clone(), key)
    }

    /// Returns what is told of one pod in a word, such as `a created Pulled`.
    fn word(method: &http::Method, body: &serde_json::Value) -> String {
        match body["count"].as_i64() {
            Some(count) if method == http::Method::PATCH => format!("again {count}"),
            _ => body["reason"].as_str().unwrap_or_default().to_owned(),
        }
    }

    // A write is made durable with those beside it: one after the other, a burst's events took longer than
    // its pods, and each cost a sync.
    #[tokio::test]
    async fn events_of_several_pods_are_written_at_once_and_those_of_one_in_order() {
        let together = Arc::new(Barrier::new(PODS));
        let told = Arc::<Mutex<HashMap<String, Vec<String>>>>::default();
        let heard = told.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (together, heard) = (together.clone(), heard.clone());
            async move {
                // Only when every pod's is under way, any goes on.
                together.wait().await;
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let body = serde_json::from_slice(&body).expect("a body is JSON");
                let name = head.uri.path().rsplit('/').next().unwrap_or_default();
                let name = body_name(&body).unwrap_or_else(|| name.to_owned());
                let pod = name.split('.').next().unwrap_or_default().to_owned();
                let mut heard = heard.lock();
                heard
                    .entry(pod)
                    .or_default()
                    .push(word(&head.method, &body));
                Ok::<_, kube::Error>(Response::new(Body::from(b"{}".to_vec())))
            }
        });
        let client = kube::Client::new(service, "default");
        let (sink, writer) = channel(client, "node".into(), Clock::system());
        let pods: Vec<_> = (0..PODS)
            .map(|pod| events_of(&sink, &format!("p{pod}")))
            .collect();
        for reason in ["Pulled", "Created", "Started", "Started"] {
            for pod in &pods {
                pod.emit(Severity::Normal, reason, "it is so", None);
            }
        }
        drop((pods, sink));
        let written = tokio::time::timeout(Duration::from_secs(60), writer);
        written
            .await
            .expect("no event waits for one of another pod");
        let told = told.lock();
        assert_eq!(told.len(), PODS);
        for words in told.values() {
            assert_eq!(words[..], ["Pulled", "Created", "Started", "again 2"]);
        }
    }

    fn body_name(body: &serde_json::Value) -> Option<String> {
        Some(body["metadata"]["name"].as_str()?.to_owned())
    }
}
