//! What a deletion does to an object; pure, so that the protocol can be read and tested here.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::wish::Wish;
use crate::{
    kinds::{Dependents, Grace, KindInfo},
    request::Propagation,
};

/// The grace of a pod that gives none.
const POD_GRACE_SECONDS_DEFAULT: i64 = 30;

/// The longest grace that is kept: keeps the time of deletion representable.
const GRACE_SECONDS_MAX: i64 = 10 * 365 * 24 * 60 * 60;

/// Keeps an object until the garbage collector has deleted what it owns.
const FOREGROUND: &str = "foregroundDeletion";

/// Keeps an object until the garbage collector has freed what it owns.
const ORPHAN: &str = "orphan";

/// What a deletion does to an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It goes now.
    Remove,
    /// It is marked, or its mark is changed, and stays.
    Mark(Value),
    /// It stays as it is: an earlier deletion already asks for as much.
    Leave,
}

/// Decides what a deletion does.
pub(super) fn plan(info: &KindInfo, object: &Value, wish: &Wish, now: Timestamp) -> Step {
    let grace = match info.grace {
        Grace::Namespace => match namespace_step(info, object, wish, now) {
            Some(step) => return step,
            None => 0,
        },
        Grace::None => 0,
        Grace::Pod => pod_grace(object, wish),
    };
    let metadata = &object["metadata"];
    let finalizers = finalizers(info, object, wish);
    let marked = metadata["deletionTimestamp"].as_str().map(|_| {
        let grace = metadata["deletionGracePeriodSeconds"].as_i64();
        grace.unwrap_or(0)
    });
    match marked {
        _ if grace == 0 && finalizers.is_empty() => Step::Remove,
        None => {
            let mut marked = moved(object, now, grace);
            set_finalizers(&mut marked, finalizers);
            if let Some(generation) = marked["metadata"]["generation"].as_i64() {
                marked["metadata"]["generation"] = Value::from(generation.saturating_add(1));
            }
            Step::Mark(marked)
        }
        // A repeated deletion can only shorten the time; one without a wish changes nothing.
        Some(before) if grace < before && (wish.grace_seconds.is_some() || grace == 0) => {
            let deadline = metadata["deletionTimestamp"].as_str().unwrap_or_default();
            let deadline = deadline.parse().unwrap_or(now);
            let began = deadline - SignedDuration::from_secs(before);
            let mut marked = moved(object, began, grace);
            set_finalizers(&mut marked, finalizers);
            Step::Mark(marked)
        }
        // Whoever waits for finalizers may still change their mind about what the object owns.
        Some(0) if finalizers != current_finalizers(object) => {
            let mut marked = object.clone();
            set_finalizers(&mut marked, finalizers);
            Step::Mark(marked)
        }
        Some(_) => Step::Leave,
    }
}

/// Decides about a namespace whose content is still to be deleted; none if it may go.
fn namespace_step(info: &KindInfo, object: &Value, wish: &Wish, now: Timestamp) -> Option<Step> {
    if object["metadata"]["deletionTimestamp"].is_string() {
        return has_items(&object["spec"]["finalizers"]).then_some(Step::Leave);
    }
    let mut marked = object.clone();
    marked["metadata"]["deletionTimestamp"] = Value::from(now.to_string());
    marked["status"]["phase"] = Value::from("Terminating");
    set_finalizers(&mut marked, finalizers(info, object, wish));
    Some(Step::Mark(marked))
}

/// Returns how long the node agent may take; 0 when no agent runs the pod.
fn pod_grace(pod: &Value, wish: &Wish) -> i64 {
    let unassigned = pod["spec"]["nodeName"]
        .as_str()
        .unwrap_or_default()
        .is_empty();
    let ended = matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    if unassigned || ended {
        return 0;
    }
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
    match wish
        .grace_seconds
        .or(own)
        .unwrap_or(POD_GRACE_SECONDS_DEFAULT)
    {
        // Kubernetes reads a negative grace as one second.
        negative if negative < 0 => 1,
        grace => grace.min(GRACE_SECONDS_MAX),
    }
}

/// Returns the finalizers an object has from now on: its own, and what is wanted for its
/// dependents.
fn finalizers(info: &KindInfo, object: &Value, wish: &Wish) -> Vec<String> {
    let mut finalizers = current_finalizers(object);
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    let wanted = match (info.dependents, wish.propagation) {
        (Dependents::None, _) => return finalizers,
        (Dependents::Collected, Some(propagation)) => propagation,
        // Without a wish, the object's own finalizers say what is to become of its dependents.
        (Dependents::Collected, None) if has(ORPHAN) => Propagation::Orphan,
        (Dependents::Collected, None) if has(FOREGROUND) => Propagation::Foreground,
        (Dependents::Collected, None) => Propagation::Background,
    };
    let wanted = match wanted {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    finalizers.retain(|name| (name != ORPHAN && name != FOREGROUND) || Some(&**name) == wanted);
    if let Some(wanted) = wanted
        && !finalizers.iter().any(|finalizer| finalizer == wanted)
    {
        finalizers.push(wanted.to_owned());
    }
    finalizers
}

fn current_finalizers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["finalizers"].as_array();
    let names = list.into_iter().flatten().filter_map(Value::as_str);
    names.map(str::to_owned).collect()
}

fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    let Some(metadata) = object["metadata"].as_object_mut() else {
        return;
    };
    match finalizers.is_empty() {
        true => drop(metadata.remove("finalizers")),
        false => drop(metadata.insert("finalizers".to_owned(), Value::from(finalizers))),
    }
}

fn has_items(list: &Value) -> bool {
    list.as_array().is_some_and(|list| !list.is_empty())
}

fn moved(object: &Value, began: Timestamp, grace: i64) -> Value {
    let mut marked = object.clone();
    let deadline = began + SignedDuration::from_secs(grace);
    marked["metadata"]["deletionTimestamp"] = Value::from(deadline.to_string());
    marked["metadata"]["deletionGracePeriodSeconds"] = Value::from(grace);
    marked
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn check(pod: Value, grace: Option<i64>, expected: Result<(&str, i64), Step>) {
        let info = crate::kinds::served("v1", "Pod").expect("pods are served");
        let wish = Wish {
            grace_seconds: grace,
            ..Wish::default()
        };
        match (plan(info, &pod, &wish, NOW), expected) {
            (Step::Mark(marked), Ok((deadline, grace))) => {
                assert_eq!(marked["metadata"]["deletionTimestamp"], deadline);
                assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], grace);
            }
            (step, Err(expected)) => assert_eq!(step, expected),
            (step, Ok(_)) => panic!("{step:?}"),
        }
    }

    fn running() -> Value {
        json!({"metadata": {"generation": 1},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30},
            "status": {"phase": "Running"}})
    }

    fn deleting(grace: i64) -> Value {
        let mut pod = running();
        pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:30Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        pod
    }

    #[test]
    fn a_running_pod_is_given_its_grace() {
        check(running(), None, Ok(("1970-01-01T00:00:30Z", 30)));
        check(running(), Some(5), Ok(("1970-01-01T00:00:05Z", 5)));
        check(running(), Some(-7), Ok(("1970-01-01T00:00:01Z", 1)));
    }

    #[test]
    fn a_pod_that_nobody_runs_goes_at_once() {
        let mut pod = running();
        pod["spec"]["nodeName"] = json!("");
        check(pod, Some(30), Err(Step::Remove));
        for phase in ["Succeeded", "Failed"] {
            let mut pod = running();
            pod["status"]["phase"] = json!(phase);
            check(pod, None, Err(Step::Remove));
        }
    }

    #[test]
    fn grace_zero_removes_a_pod_whatever_its_state() {
        check(running(), Some(0), Err(Step::Remove));
        check(deleting(30), Some(0), Err(Step::Remove));
    }

    #[test]
    fn a_repeated_deletion_only_shortens() {
        check(deleting(30), None, Err(Step::Leave));
        check(deleting(30), Some(60), Err(Step::Leave));
        check(deleting(30), Some(10), Ok(("1970-01-01T00:00:10Z", 10)));
    }

    #[test]
    fn a_finalizer_keeps_the_pod() {
        let mut pod = running();
        pod["metadata"]["finalizers"] = json!(["a/b"]);
        check(pod.clone(), Some(0), Ok(("1970-01-01T00:00:00Z", 0)));
        pod["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:30Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        check(pod, Some(0), Err(Step::Leave));
    }

    fn check_finalizers(
        kind: &str,
        before: &[&str],
        propagation: Option<Propagation>,
        expected: Option<&[&str]>,
    ) {
        let info = crate::kinds::served("v1", kind).expect("the kind is served");
        let object = json!({"metadata": {"finalizers": before}});
        let wish = Wish {
            propagation,
            ..Wish::default()
        };
        let found = match plan(info, &object, &wish, NOW) {
            Step::Mark(marked) => Some(current_finalizers(&marked)),
            Step::Remove => None,
            Step::Leave => panic!("the object has not been deleted before"),
        };
        let expected = expected.map(|list| list.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(found, expected, "{kind} {before:?} {propagation:?}");
    }

    #[test]
    fn finalizers_say_what_becomes_of_dependents() {
        use Propagation::{Background, Foreground, Orphan};
        let map = "ConfigMap";
        check_finalizers(map, &[], None, None);
        check_finalizers(map, &[], Some(Background), None);
        check_finalizers(map, &[], Some(Foreground), Some(&[FOREGROUND]));
        check_finalizers(map, &["a/b"], Some(Orphan), Some(&["a/b", ORPHAN]));
        check_finalizers(map, &[ORPHAN, "a/b"], None, Some(&[ORPHAN, "a/b"]));
        check_finalizers(map, &[FOREGROUND], Some(Orphan), Some(&[ORPHAN]));
        check_finalizers(map, &[FOREGROUND], Some(Background), None);
        check_finalizers("Event", &[], Some(Foreground), None);
    }

    #[test]
    fn a_repeated_deletion_may_change_what_becomes_of_dependents() {
        let info = crate::kinds::served("v1", "ConfigMap").expect("config maps are served");
        let object = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:00:00Z",
            "deletionGracePeriodSeconds": 0, "finalizers": [FOREGROUND]}});
        let mut wish = Wish::default();
        assert_eq!(plan(info, &object, &wish, NOW), Step::Leave);
        wish.propagation = Some(Propagation::Orphan);
        let mut marked = object.clone();
        marked["metadata"]["finalizers"] = json!([ORPHAN]);
        assert_eq!(plan(info, &object, &wish, NOW), Step::Mark(marked));
    }

    #[test]
    fn a_namespace_waits_until_it_is_emptied() {
        let info = crate::kinds::served("v1", "Namespace").expect("namespaces are served");
        let wish = Wish::default();
        let mut object = json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}});
        let marked = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating"}});
        assert_eq!(plan(info, &object, &wish, NOW), Step::Mark(marked.clone()));
        assert_eq!(plan(info, &marked, &wish, NOW), Step::Leave);
        object["metadata"]["deletionTimestamp"] = marked["metadata"]["deletionTimestamp"].clone();
        object["spec"]["finalizers"] = json!([]);
        assert_eq!(plan(info, &object, &wish, NOW), Step::Remove);
    }
}
