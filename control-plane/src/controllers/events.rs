//! Events that controllers write about objects, for people to find in `kubectl describe`.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::moment::now;

/// The longest text of an event, as the server lets in.
const NOTE_BYTES_MAX: usize = 1024;

/// What an event is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    /// `v1`, all kinds that are told about here are of that version.
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) uid: &'a str,
}

/// What an event says.
#[derive(Clone, Copy, Debug)]
struct Note<'a> {
    /// `Normal` or `Warning`.
    kind: &'a str,
    reason: &'a str,
    text: &'a str,
}

/// Writes a warning; one that cannot be written is only logged, as by every component.
pub(super) async fn warn(
    client: &Client,
    component: &str,
    about: About<'_>,
    (reason, text): (&str, &str),
) {
    let kind = "Warning";
    write(client, component, about, Note { kind, reason, text }).await;
}

/// Writes what happens as it should; as with a warning, nobody waits for it.
pub(super) async fn tell(
    client: &Client,
    component: &str,
    about: About<'_>,
    (reason, text): (&str, &str),
) {
    let kind = "Normal";
    write(client, component, about, Note { kind, reason, text }).await;
}

async fn write(client: &Client, component: &str, about: About<'_>, note: Note<'_>) {
    if let Err(error) = try_write(client, component, about, note).await {
        let reason = note.reason;
        let About {
            kind,
            namespace,
            name,
            ..
        } = about;
        tracing::debug!(kind, namespace, name, reason, %error, "event not written");
    }
}

/// The same text about the same object is one event that is counted.
async fn try_write(
    client: &Client,
    component: &str,
    about: About<'_>,
    note: Note<'_>,
) -> Result<(), kube::Error> {
    let Note { kind, reason, text } = note;
    let mut hasher = DefaultHasher::new();
    (about.kind, about.uid, reason, text).hash(&mut hasher);
    let name = format!("{}.{:016x}", about.name, hasher.finish());
    let now = now();
    let text = &text[..text.floor_char_boundary(NOTE_BYTES_MAX)];
    let event = json!({
        "metadata": {"name": &name, "namespace": about.namespace},
        "involvedObject": {"apiVersion": "v1", "kind": about.kind, "name": about.name,
            "namespace": about.namespace, "uid": about.uid},
        "reason": reason,
        "message": text,
        "type": kind,
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": component},
        "reportingComponent": component,
    });
    let events: Api<Event> = Api::namespaced(client.clone(), about.namespace);
    let event = serde_json::from_value(event).expect("the event above has the event's fields");
    match events.create(&PostParams::default(), &event).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => (),
        Err(error) => return Err(error),
    }
    let told = events.get(&name).await?;
    let count = told.count.unwrap_or(1).saturating_add(1);
    let again = Patch::Merge(json!({"count": count, "lastTimestamp": now}));
    let params = PatchParams::default();
    events.patch(&name, &params, &again).await.map(drop)
}
