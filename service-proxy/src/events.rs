//! Events about Services and the Node: what is not served and why, where `kubectl describe` shows it.
//!
//! Whoever tells never waits: one task writes, over a bounded queue.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::facts::{ServiceFacts, ServiceKey};

/// Events that wait to be written. More of them at once are news of one cause, and are dropped.
const QUEUE_MAX: usize = 512;

/// What speaks in these events.
const COMPONENT: &str = "coracle-service-proxy";

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A part of the Service is not served.
    NotServed,
    /// An address of the Service is reached at another one.
    Published,
    /// An address of the Service is not reached.
    NotPublished,
    /// The port for health checks cannot be listened on; kube-proxy's word.
    HealthCheck,
    /// The node has no descriptors left for connections.
    Exhausted,
}

/// What an event is about.
#[derive(Debug, Clone)]
pub(crate) struct About {
    kind: &'static str,
    /// Where the event is written.
    namespace: String,
    name: String,
    uid: Option<String>,
}

/// Tells events; clones share the queue.
#[derive(Debug, Clone)]
pub(crate) struct EventSink {
    sender: mpsc::Sender<Told>,
}

#[derive(Debug)]
struct Told {
    about: About,
    reason: Reason,
    message: String,
}

impl Reason {
    fn severity(self) -> &'static str {
        match self {
            Reason::Published => "Normal",
            Reason::NotServed | Reason::NotPublished | Reason::HealthCheck | Reason::Exhausted => {
                "Warning"
            }
        }
    }

    fn text(self) -> &'static str {
        match self {
            Reason::NotServed => "FailedToServe",
            Reason::Published => "Published",
            Reason::NotPublished => "FailedToPublish",
            Reason::HealthCheck => "FailedToStartServiceHealthcheck",
            Reason::Exhausted => "SocketsExhausted",
        }
    }
}

impl About {
    /// Returns the Service of these facts as what an event is about.
    pub(crate) fn service(facts: &ServiceFacts) -> About {
        let ServiceKey { namespace, name } = facts.key.clone();
        About {
            kind: "Service",
            namespace,
            name,
            uid: facts.uid.clone(),
        }
    }

    /// Returns a Node as what an event is about, in the way of a kubelet: by its name for its UID too, in the
    /// namespace `default`.
    pub(crate) fn node(name: &str) -> About {
        About {
            kind: "Node",
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: Some(name.to_owned()),
        }
    }
}

impl EventSink {
    /// Returns a sink whose events nobody writes, for tests and benchmarks.
    pub(crate) fn unheard() -> EventSink {
        EventSink {
            sender: mpsc::channel(QUEUE_MAX).0,
        }
    }

    /// Returns a sink and the queue of what it is told, as texts.
    #[cfg(test)]
    pub(crate) fn heard() -> (EventSink, impl FnMut() -> Option<String>) {
        let (sender, mut told) = mpsc::channel::<Told>(QUEUE_MAX);
        let next = move || {
            let Told {
                about,
                reason,
                message,
            } = told.try_recv().ok()?;
            Some(format!(
                "{} {}: {} {message}",
                about.kind,
                about.name,
                reason.text()
            ))
        };
        (EventSink { sender }, next)
    }

    /// Tells an event; drops it where too many wait.
    pub(crate) fn tell(&self, about: About, reason: Reason, message: String) {
        let About { kind, name, .. } = &about;
        tracing::debug!(
            kind,
            name,
            reason = reason.text(),
            message,
            "told as an event"
        );
        let told = Told {
            about,
            reason,
            message,
        };
        if self.sender.try_send(told).is_err() {
            tracing::warn!("events are dropped: the server takes them too slowly");
        }
    }
}

/// Makes a sink and the future that writes; it ends when every sink is gone.
pub(crate) fn channel(
    client: Client,
    host: String,
) -> (EventSink, impl Future<Output = ()> + Send) {
    let (sender, mut told) = mpsc::channel::<Told>(QUEUE_MAX);
    let writing = async move {
        while let Some(told) = told.recv().await {
            let api = Api::<Event>::namespaced(client.clone(), &told.about.namespace);
            let event = told.into_event(&host);
            if let Err(error) = api.create(&PostParams::default(), &event).await {
                tracing::warn!(%error, "failed to write an event");
            }
        }
    };
    (EventSink { sender }, writing)
}

impl Told {
    fn into_event(self, host: &str) -> Event {
        let About {
            kind,
            namespace,
            name,
            uid,
        } = self.about;
        // A Node is in no namespace; its events are.
        let of_object = (kind != "Node").then(|| namespace.clone());
        let now = jiff::Timestamp::now();
        let time = Time(now);
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some(kind.to_owned()),
                namespace: of_object,
                name: Some(name),
                uid,
                ..ObjectReference::default()
            },
            type_: Some(self.reason.severity().to_owned()),
            reason: Some(self.reason.text().to_owned()),
            message: Some(self.message),
            count: Some(1),
            first_timestamp: Some(time.clone()),
            last_timestamp: Some(time),
            source: Some(EventSource {
                component: Some(COMPONENT.to_owned()),
                host: Some(host.to_owned()),
            }),
            reporting_component: Some(COMPONENT.to_owned()),
            reporting_instance: Some(host.to_owned()),
            ..Event::default()
        }
    }
}
