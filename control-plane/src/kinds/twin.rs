//! Kinds that are another view of objects that rest as those of a kind of their own.
//!
//! There is one: `events.k8s.io` shows the events of the core group under other names.

use serde_json::Value;

use super::{KindInfo, by_plural};

/// How a view differs from what is stored.
#[derive(Debug)]
pub(crate) struct Twin {
    /// Group, version and plural of the kind as which the objects are stored.
    stored: (&'static str, &'static str, &'static str),
    /// Fields of the object itself that have two names: the stored one and the view's.
    names: &'static [(&'static str, &'static str)],
    /// Fields that the view leaves out where the stored form has an empty text.
    if_any: &'static [&'static str],
}

/// The events of `events.k8s.io`.
pub(super) static EVENTS: Twin = Twin {
    stored: ("", "v1", "events"),
    names: &[
        ("involvedObject", "regarding"),
        ("message", "note"),
        ("reportingComponent", "reportingController"),
        ("source", "deprecatedSource"),
        ("firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp"),
        ("count", "deprecatedCount"),
    ],
    if_any: &["reportingController", "reportingInstance"],
};

impl Twin {
    /// Returns the kind as which the objects are stored.
    pub(crate) fn stored(&self) -> &'static KindInfo {
        let (group, version, plural) = self.stored;
        by_plural(group, version, plural).expect("a view is of a kind in the table")
    }

    /// Turns an object of the view into the stored form.
    pub(crate) fn store(&self, object: &Value) -> Value {
        let names = self.names.iter().map(|(stored, shown)| (*shown, *stored));
        rename(object, names, self.stored())
    }

    /// Turns a stored object into one of the view, which is of this kind.
    pub(crate) fn show(&self, object: &Value, info: &KindInfo) -> Value {
        let mut shown = rename(object, self.names.iter().copied(), info);
        if let Some(fields) = shown.as_object_mut() {
            let said = |name: &str, value: &Value| value != "" || !self.if_any.contains(&name);
            fields.retain(|name, value| said(name, value));
        }
        shown
    }
}

impl KindInfo {
    /// Returns the kind as which objects of this one are stored: mostly itself.
    pub(crate) fn stored(&self) -> &KindInfo {
        match self.twin {
            Some(twin) => twin.stored(),
            None => self,
        }
    }
}

fn rename<'n>(
    object: &Value,
    names: impl Iterator<Item = (&'n str, &'n str)>,
    info: &KindInfo,
) -> Value {
    let mut renamed = object.clone();
    let Some(fields) = renamed.as_object_mut() else {
        return renamed;
    };
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
    fields.insert("kind".to_owned(), Value::from(info.kind));
    fields.insert("apiVersion".to_owned(), Value::from(info.api_version()));
    renamed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_has_two_forms() {
        let stored = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"},
            "involvedObject": {"name": "p"}, "message": "m", "reportingComponent": "c",
            "source": {"component": "c"}, "count": 2, "firstTimestamp": "t", "lastTimestamp": "u",
            "series": {"count": 3}, "type": "Normal", "reason": "r", "action": "a"});
        let shown = json!({"kind": "Event", "apiVersion": "events.k8s.io/v1",
            "metadata": {"name": "e"}, "regarding": {"name": "p"}, "note": "m",
            "reportingController": "c", "deprecatedSource": {"component": "c"},
            "deprecatedCount": 2, "deprecatedFirstTimestamp": "t", "deprecatedLastTimestamp": "u",
            "series": {"count": 3}, "type": "Normal", "reason": "r", "action": "a"});
        let info = super::super::served("events.k8s.io/v1", "Event").expect("served");
        assert_eq!(EVENTS.show(&stored, info), shown);
        assert_eq!(EVENTS.store(&shown), stored);
    }

    #[test]
    fn selectors_find_the_same_fields_in_both_forms() {
        let info = super::super::served("events.k8s.io/v1", "Event").expect("served");
        for (shown, stored) in info.fields.iter().zip(EVENTS.stored().fields) {
            assert_eq!(shown.pointer, stored.pointer, "{}", shown.name);
        }
    }
}
