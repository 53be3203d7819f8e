//! Pods that were written a moment ago and wait for their next write, still parsed.
//!
//! A start is a create, a binding and a status, one soon after the other, and each would read what the one
//! before has encoded. Whoever changes such a pod takes it from here; what nobody takes is forgotten when
//! newer ones come.

use std::collections::VecDeque;

use coracle_store::Revision;
use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    kinds::KindInfo,
    object::{self, ObjectRecord},
};

/// So many are kept, some 20 KB each: as many as the scheduler and the agent write at once.
const KEPT_MAX: usize = 128;

/// The objects, by the revision that only they have.
#[derive(Debug, Default)]
pub(super) struct Recent {
    kept: Mutex<VecDeque<(Revision, Value)>>,
}

impl Recent {
    /// Returns the object behind a record, as [`object::load`] does.
    pub(super) fn load(&self, info: &KindInfo, record: &ObjectRecord) -> Value {
        self.take(record.revision)
            .unwrap_or_else(|| object::load(info, record))
    }

    fn take(&self, revision: Revision) -> Option<Value> {
        let mut kept = self.kept.lock();
        // The newest come last, and are asked for most.
        let place = kept.iter().rposition(|(at, _)| *at == revision)?;
        kept.remove(place).map(|(_, object)| object)
    }

    /// Keeps what was written at a revision, if it will be changed again soon.
    pub(super) fn keep(&self, info: &KindInfo, revision: Revision, mut object: Value) {
        let is_starting = info.kind == "Pod" && object["status"]["phase"] == "Pending";
        if !is_starting {
            return;
        }
        object["metadata"]["resourceVersion"] = Value::from(revision.to_string());
        let mut kept = self.kept.lock();
        let oldest = match kept.len() {
            KEPT_MAX.. => kept.pop_front(),
            _ => None,
        };
        kept.push_back((revision, object));
        drop(kept);
        // Where nobody waits for it.
        drop(oldest);
    }
}

#[cfg(test)]
mod tests {
    use coracle_store::{Expect, Limits};
    use serde_json::json;

    use super::*;
    use crate::{kinds::served, object::ObjectStore};

    fn pod(name: &str, phase: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "n", "uid": "u", "resourceVersion": "1",
                "generation": 1, "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
            "spec": {"containers": [{"name": "c", "resources": {}}], "priority": 0},
            "status": {"phase": phase, "conditions": [{"type": "a", "lastProbeTime": null}]}})
    }

    async fn written(store: &ObjectStore, object: &Value) -> std::sync::Arc<ObjectRecord> {
        let info = served("v1", "Pod").expect("pods are served");
        let name = object["metadata"]["name"].as_str().expect("it has a name");
        let key = object::key(info, Some("n"), name);
        let encoded = object::encode(info, object);
        let put = store.put(&key, Expect::Absent, |revision| encoded.render(revision));
        put.await.expect("the store takes it")
    }

    #[tokio::test]
    async fn what_is_kept_is_what_is_stored() {
        let (store, recent) = (ObjectStore::in_memory(Limits::default()), Recent::default());
        let info = served("v1", "Pod").expect("pods are served");
        for (phase, is_kept) in [("Pending", true), ("Running", false)] {
            let object = pod(phase, phase);
            let record = written(&store, &object).await;
            recent.keep(info, record.revision, object);
            let stored = object::load(info, &record);
            assert_eq!(recent.kept.lock().len(), usize::from(is_kept), "{phase}");
            assert_eq!(recent.load(info, &record), stored);
            // Taken once, it is read from the record.
            assert_eq!(recent.kept.lock().len(), 0);
            assert_eq!(recent.load(info, &record), stored);
        }
    }

    #[test]
    fn only_the_newest_are_kept() {
        let recent = Recent::default();
        let info = served("v1", "Pod").expect("pods are served");
        for revision in 1..=KEPT_MAX as u64 + 1 {
            recent.keep(info, Revision::from(revision), pod("p", "Pending"));
        }
        assert_eq!(recent.kept.lock().len(), KEPT_MAX);
        assert_eq!(recent.take(Revision::from(1)), None);
        let newest = recent.take(Revision::from(KEPT_MAX as u64 + 1));
        assert!(newest.is_some());
    }
}
