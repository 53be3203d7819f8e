//! Warnings that controllers write about objects, for people to find in `kubectl describe`.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

/// The longest text of an event, as the server lets in.
const NOTE_BYTES_MAX: usize = 1024;

/// What a warning is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    /// `v1`, all kinds that are warned about here are of that version.
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) uid: &'a str,
}

/// Writes a warning; one that cannot be written is only logged, as by every component.
pub(super) async fn warn(
    client: &Client,
    component: &str,
    about: About<'_>,
    (reason, text): (&str, &str),
) {
    if let Err(error) = try_warn(client, component, about, (reason, text)).await {
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
async fn try_warn(
    client: &Client,
    component: &str,
    about: About<'_>,
    (reason, text): (&str, &str),
) -> Result<(), kube::Error> {
    let mut hasher = DefaultHasher::new();
    (about.kind, about.uid, reason, text).hash(&mut hasher);
    let name = format!("{}.{:016x}", about.name, hasher.finish());
    let now = jiff::Timestamp::now();
    let now = now.round(jiff::Unit::Second).unwrap_or(now).to_string();
    let text = &text[..text.floor_char_boundary(NOTE_BYTES_MAX)];
    let event = json!({
        "metadata": {"name": &name, "namespace": about.namespace},
        "involvedObject": {"apiVersion": "v1", "kind": about.kind, "name": about.name,
            "namespace": about.namespace, "uid": about.uid},
        "reason": reason,
        "message": text,
        "type": "Warning",
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
