//! Events are deleted when nobody has written them for an hour.
//!
//! The server does this itself, as the stock one does, and not a client: there may be many
//! thousands, and each would cost it two requests.

use std::{borrow::Cow, sync::Arc, time::Duration};

use coracle_store::{Expect, Range};
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::super::Machine;
use crate::{
    kinds::{self, KindInfo},
    object::{self, ObjectRecord},
};

/// How long events are kept, as by the stock server.
const EVENT_TTL: SignedDuration = SignedDuration::from_hours(1);

/// Expired events are deleted together, not each at its own second.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// So many events are read before others have their turn.
const BATCH_EVENTS: usize = 256;

/// So many are deleted at a time, for a durable store to write them together.
const DELETIONS_AT_ONCE: usize = 32;

/// The times in an event.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Times<'e> {
    #[serde(borrow)]
    metadata: Creation<'e>,
    first_timestamp: Option<Cow<'e, str>>,
    last_timestamp: Option<Cow<'e, str>>,
    event_time: Option<Cow<'e, str>>,
    series: Option<Series<'e>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Creation<'e> {
    creation_timestamp: Option<Cow<'e, str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Series<'e> {
    last_observed_time: Option<Cow<'e, str>>,
}

/// Deletes events as they expire, until `stop`.
pub(crate) async fn expire_events(machine: Arc<Machine>, stop: CancellationToken) {
    loop {
        let now = machine.now();
        // Each step of a sweep is one deletion, so it can end between any two.
        let next = tokio::select! {
            next = machine.sweep_events(now) => next,
            () = stop.cancelled() => return,
        };
        let wait = Duration::try_from(next.duration_since(now)).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(wait.max(SWEEP_INTERVAL)) => (),
            () = stop.cancelled() => return,
        }
    }
}

impl Machine {
    /// Deletes the events that have expired; returns when the next one may expire.
    async fn sweep_events(&self, now: Timestamp) -> Timestamp {
        let info = kinds::served("v1", "Event").expect("events are in the table");
        let prefix = object::prefix(info, None);
        let mut next = now + EVENT_TTL;
        let mut after: Option<Arc<str>> = None;
        loop {
            let range = Range {
                prefix: &prefix,
                after: after.as_deref(),
                limit: Some(BATCH_EVENTS),
                at: None,
            };
            let Ok(page) = self.store.range(&range, |_| true) else {
                return next;
            };
            let mut expired = Vec::new();
            for record in &page.records {
                let expiry = last_written(&record.value, now) + EVENT_TTL;
                match expiry <= now {
                    true => expired.push(Arc::clone(record)),
                    false => next = next.min(expiry),
                }
            }
            stream::iter(expired)
                .for_each_concurrent(DELETIONS_AT_ONCE, |record| self.expire(info, record))
                .await;
            match page.records.last() {
                Some(last) if page.remaining > 0 => after = Some(Arc::clone(&last.key)),
                _ => return next,
            }
            tokio::task::yield_now().await;
        }
    }

    async fn expire(&self, info: &KindInfo, record: Arc<ObjectRecord>) {
        let object = object::parse(&record);
        // If it is written meanwhile, it has another hour.
        let expect = Expect::At(record.revision);
        if let Err(error) = self.remove(info, &record.key, expect, &object).await {
            tracing::debug!(key = %record.key, %error, "event not expired");
        }
    }
}

/// Returns when an event was last written, as far as it says; times to come do not count.
fn last_written(encoded: &[u8], now: Timestamp) -> Timestamp {
    let times: Times<'_> = serde_json::from_slice(encoded).unwrap_or_default();
    let series = times.series.and_then(|series| series.last_observed_time);
    [
        times.metadata.creation_timestamp,
        times.first_timestamp,
        times.last_timestamp,
        times.event_time,
        series,
    ]
    .into_iter()
    .flatten()
    .filter_map(|time| time.parse::<Timestamp>().ok())
    .filter(|time| *time <= now)
    .max()
    .unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{control_plane::ControlPlaneConfig, object::ObjectStore};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn check(event: Value, expected: &str) {
        let now = "2026-01-01T12:00:00Z"
            .parse()
            .expect("the time is well-formed");
        let found = last_written(event.to_string().as_bytes(), now);
        assert_eq!(found.to_string(), expected, "{event}");
    }

    #[test]
    fn an_event_is_as_old_as_its_latest_time() {
        let created = json!({"creationTimestamp": "2026-01-01T10:00:00Z"});
        check(json!({"metadata": created}), "2026-01-01T10:00:00Z");
        let last = json!({"metadata": created, "lastTimestamp": "2026-01-01T11:00:00Z"});
        check(last, "2026-01-01T11:00:00Z");
        let series = json!({"metadata": created, "eventTime": "2026-01-01T10:00:00.5Z",
            "series": {"count": 2, "lastObservedTime": "2026-01-01T11:30:00.000001Z"}});
        check(series, "2026-01-01T11:30:00.000001Z");
        // Nobody keeps an event for ever by dating it ahead.
        let ahead = json!({"metadata": created, "lastTimestamp": "9999-01-01T00:00:00Z"});
        check(ahead, "2026-01-01T10:00:00Z");
    }

    #[tokio::test]
    async fn expired_events_go_and_others_stay() {
        let config = ControlPlaneConfig::default();
        let store = ObjectStore::in_memory(config.history);
        let machine = Machine::new(store, config, || NOW);
        machine
            .seed("/api/v1/namespaces", &json!({"metadata": {"name": "a"}}))
            .await;
        let later = "1970-01-01T00:30:00Z";
        for (name, last) in [("old", None), ("new", Some(later))] {
            let event = json!({"metadata": {"name": name, "namespace": "a"},
                "involvedObject": {"namespace": "a"}, "lastTimestamp": last});
            machine.seed("/api/v1/namespaces/a/events", &event).await;
        }
        let names = || {
            let range = Range {
                prefix: "/events/",
                after: None,
                limit: None,
                at: None,
            };
            let page = machine.store.range(&range, |_| true).expect("now is kept");
            page.records
                .iter()
                .map(|record| record.key.to_string())
                .collect::<Vec<_>>()
        };
        let hour = NOW + EVENT_TTL;
        assert_eq!(machine.sweep_events(NOW).await, hour);
        assert_eq!(names(), ["/events/a/new", "/events/a/old"]);
        let half_later = hour + SignedDuration::from_mins(30);
        assert_eq!(machine.sweep_events(hour).await, half_later);
        assert_eq!(names(), ["/events/a/new"]);
        machine.sweep_events(half_later).await;
        assert_eq!(names(), Vec::<String>::new());
    }
}
