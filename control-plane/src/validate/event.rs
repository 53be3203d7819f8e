//! The checks of events, in both of their forms.

use serde_json::Value;

use super::{Field, walk};
use crate::invalid::Causes;

const WORD_BYTES_MAX: usize = 128;
const NOTE_BYTES_MAX: usize = 1024;

/// Where the form of `events.k8s.io` has what the core group's form has elsewhere.
struct Form {
    object: &'static str,
    controller: &'static str,
    message: &'static str,
}

const CORE: Form = Form {
    object: "involvedObject",
    controller: "reportingComponent",
    message: "message",
};

const EVENTS: Form = Form {
    object: "regarding",
    controller: "reportingController",
    message: "note",
};

/// Fields of an event that stay once it is written through `events.k8s.io`, with the names by
/// which Kubernetes complains: those of its own form of the object.
const FIXED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("reason", "reason"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

/// Checks an event of the core group.
pub(crate) fn core(object: &Value, _old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| common(root, &CORE));
}

/// Checks an event of `events.k8s.io`, about which Kubernetes is strict.
pub(crate) fn events(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        common(root, &EVENTS);
        match old {
            None => strict(root),
            Some(old) => {
                if *root.child("series").value != old["series"] {
                    series(root);
                }
                for (field, said) in FIXED {
                    let field_value = root.child(field).value;
                    if *field_value != old[*field] {
                        let at = root.child(said);
                        at.invalid_as(field_value, "field is immutable");
                    }
                }
            }
        }
    });
}

fn common(root: &Field<'_, '_>, form: &Form) {
    let object = root.child(form.object);
    let namespace = object.child("namespace").text();
    let own = root.child("metadata.namespace").text();
    let timed = root.child("eventTime").is_set();
    // Events about objects without a namespace live in `default`.
    let fits = match (namespace, timed) {
        ("", false) => matches!(own, "" | "default"),
        ("", true) => matches!(own, "default" | "kube-system"),
        (namespace, false) => namespace == own,
        (_, true) => true,
    };
    let nothing = Value::from("");
    if !fits {
        let at = root.child("involvedObject.namespace");
        at.invalid_as(&Value::from(namespace), "does not match event.namespace");
    }
    if !timed {
        return;
    }
    let controller = root.child("reportingController");
    let controller = controller.with(root.child(form.controller).value);
    controller.present();
    controller.qualified();
    for field in ["reportingInstance", "action", "reason"] {
        let word = root.child(field);
        word.present();
        if word.text().len() > WORD_BYTES_MAX {
            let detail = format!("can have at most {WORD_BYTES_MAX} characters");
            word.invalid_as(&nothing, &detail);
        }
    }
    if root.child(form.message).text().len() > NOTE_BYTES_MAX {
        let detail = format!("can have at most {NOTE_BYTES_MAX} characters");
        root.child("message").invalid_as(&nothing, &detail);
    }
}

fn strict(root: &Field<'_, '_>) {
    series(root);
    if !root.child("eventTime").is_set() {
        root.child("eventTime").required("");
    }
    let nothing = Value::from("");
    let kind = root.child("type");
    if !matches!(kind.text(), "Normal" | "Warning") {
        kind.invalid_as(&nothing, &format!("has invalid value: {}", kind.text()));
    }
    for (field, said) in [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("deprecatedSource", "source"),
    ] {
        let found = root.child(field);
        if !found.is_empty() && found.value != 0 {
            root.child(said).invalid_as(&nothing, "needs to be unset");
        }
    }
}

fn series(root: &Field<'_, '_>) {
    let series = root.child("series");
    if !series.is_set() {
        return;
    }
    if series.child("count").number().unwrap_or(0) < 2 {
        let count = series.child("count");
        count.invalid_as(&Value::from(""), "should be at least 2");
    }
    if !series.child("lastObservedTime").is_set() {
        series.child("lastObservedTime").required("");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(
        check: fn(&Value, Option<&Value>, &mut Causes),
        object: Value,
        old: Option<Value>,
        expected: &[&str],
    ) {
        let mut causes = Causes::default();
        check(&object, old.as_ref(), &mut causes);
        let found: Vec<_> = causes
            .into_vec()
            .iter()
            .map(|cause| cause.sentence())
            .collect();
        assert_eq!(found, expected, "{object}");
    }

    #[test]
    fn events_live_where_their_object_lives() {
        let of = |own: &str, object: Value| json!({"metadata": {"namespace": own}, "involvedObject": object});
        check(core, of("a", json!({"namespace": "a"})), None, &[]);
        check(core, of("default", json!({})), None, &[]);
        let elsewhere = |namespace: &str| {
            format!(
                "involvedObject.namespace: Invalid value: \"{namespace}\": does not match \
                 event.namespace"
            )
        };
        check(
            core,
            of("a", json!({"namespace": "b"})),
            None,
            &[&elsewhere("b")],
        );
        check(core, of("a", json!({})), None, &[&elsewhere("")]);
    }

    #[test]
    fn new_events_say_who_did_what() {
        let event = json!({"metadata": {"namespace": "default"}, "eventTime": "x",
            "regarding": {}, "reportingController": "c", "reportingInstance": "i", "action": "a",
            "reason": "r", "type": "Normal"});
        check(events, event.clone(), None, &[]);
        let mut changed = event.clone();
        changed["note"] = json!("n");
        check(
            events,
            changed,
            Some(event),
            &["message: Invalid value: \"n\": field is immutable"],
        );
        check(
            events,
            json!({"metadata": {"namespace": "default"}, "deprecatedCount": 1, "type": "x"}),
            None,
            &[
                "eventTime: Required value",
                "type: Invalid value: \"\": has invalid value: x",
                "count: Invalid value: \"\": needs to be unset",
            ],
        );
    }
}
