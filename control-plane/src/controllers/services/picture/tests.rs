use serde_json::{Value, json};

use super::*;
use crate::controllers::services::seen::Facts;

fn seen<F: Facts>(object: Value) -> Seen<F> {
    serde_json::from_value(object).expect("the object is well-formed")
}

fn service(name: &str, selector: Value) -> Seen<ServiceFacts> {
    seen(
        json!({"metadata": {"namespace": "n", "name": name, "uid": name,
        "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"], "selector": selector,
            "ports": [{"port": 80}]}}),
    )
}

fn pod(name: &str, labels: Value, turned: &str) -> Seen<Option<PodFacts>> {
    seen(
        json!({"metadata": {"namespace": "n", "name": name, "uid": name, "labels": labels},
        "spec": {"nodeName": "node"},
        "status": {"podIPs": [{"ip": "10.0.0.1"}], "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": turned}]}}),
    )
}

/// One that has listed nothing but a node.
fn picture() -> Picture {
    let mut picture = Picture::default();
    picture.on_service(Event::Init);
    picture.on_service(Event::InitDone);
    picture.on_pod(Event::Init);
    picture.on_pod(Event::InitDone);
    picture.on_slice(Event::Init);
    picture.on_slice(Event::InitDone);
    picture.on_endpoints(Event::Init);
    picture.on_endpoints(Event::InitDone);
    picture.on_node(Event::Init);
    picture.on_node(Event::InitApply(seen(
        json!({"metadata": {"name": "node"}}),
    )));
    picture.on_node(Event::InitDone);
    assert!(picture.is_known());
    picture
}

fn names(tasks: Vec<Task>) -> Vec<String> {
    let mut names: Vec<_> = tasks
        .into_iter()
        .filter(|(duty, _)| *duty == Duty::Slices)
        .map(|(_, (_, name))| name.to_string())
        .collect();
    names.sort();
    names
}

fn key(name: &str) -> Key {
    ("n".into(), name.into())
}

const EARLY: &str = "2026-01-01T00:01:00Z";
const LATE: &str = "2026-01-01T00:02:00Z";

#[test]
fn a_pods_change_wakes_only_the_services_that_select_it() {
    let mut picture = picture();
    for (name, selector) in [
        ("a", json!({"app": "a"})),
        ("b", json!({"app": "b"})),
        ("none", Value::Null),
    ] {
        picture.on_service(Event::Apply(service(name, selector)));
    }
    let of = |labels: Value| Event::Apply(pod("p", labels, EARLY));
    assert_eq!(names(picture.on_pod(of(json!({"app": "a"})))), ["a"]);
    // The same again is no news.
    assert!(picture.on_pod(of(json!({"app": "a"}))).is_empty());
    assert_eq!(names(picture.on_pod(of(json!({"app": "b"})))), ["a", "b"]);
    assert!(
        picture.plan_slices(&key("a")).0.creates[0]
            .endpoints
            .is_empty()
    );
    assert_eq!(
        picture.plan_slices(&key("b")).0.creates[0].endpoints.len(),
        1
    );
    let gone = pod("p", json!({"app": "b"}), EARLY);
    assert_eq!(names(picture.on_pod(Event::Delete(gone))), ["b"]);
}

#[test]
fn a_change_of_the_selector_finds_the_pods() {
    let mut picture = picture();
    picture.on_pod(Event::Apply(pod("p", json!({"app": "b"}), EARLY)));
    for (selector, expected) in [("a", 0), ("b", 1), ("a", 0)] {
        let event = Event::Apply(service("s", json!({"app": selector})));
        assert_eq!(names(picture.on_service(event)), ["s"]);
        let plan = picture.plan_slices(&key("s")).0;
        assert_eq!(plan.creates[0].endpoints.len(), expected, "{selector}");
    }
    let same = Event::Apply(service("s", json!({"app": "a"})));
    assert!(picture.on_service(same).is_empty());
}

#[test]
fn a_node_that_becomes_known_lets_its_pods_in() {
    let mut picture = picture();
    let node = || seen(json!({"metadata": {"name": "node"}}));
    picture.on_node(Event::Delete(node()));
    picture.on_service(Event::Apply(service("s", json!({"app": "a"}))));
    picture.on_pod(Event::Apply(pod("p", json!({"app": "a"}), EARLY)));
    assert!(
        picture.plan_slices(&key("s")).0.creates[0]
            .endpoints
            .is_empty()
    );
    assert_eq!(names(picture.on_node(Event::Apply(node()))), ["s"]);
    assert_eq!(
        picture.plan_slices(&key("s")).0.creates[0].endpoints.len(),
        1
    );
    assert!(picture.on_node(Event::Apply(node())).is_empty());
}

#[test]
fn the_trigger_time_is_the_earliest_change_that_is_not_told() {
    let mut picture = picture();
    let time = |text: &str| Some(text.parse::<Timestamp>().expect("a time"));
    let labels = || json!({"app": "a"});
    picture.on_service(Event::Apply(service("s", labels())));
    assert_eq!(
        picture.plan_slices(&key("s")).1,
        time("2026-01-01T00:00:00Z")
    );
    assert_eq!(picture.plan_slices(&key("s")).1, None);
    picture.on_pod(Event::Apply(pod("p", labels(), LATE)));
    picture.on_pod(Event::Apply(pod("q", labels(), EARLY)));
    let (_, trigger) = picture.plan_slices(&key("s"));
    assert_eq!(trigger, time(EARLY));
    // What could not be written is still to be told.
    picture.fell_behind(&(Duty::Slices, key("s")), trigger);
    picture.on_pod(Event::Apply(pod("p", labels(), LATE)));
    assert_eq!(picture.plan_slices(&key("s")).1, time(EARLY));
    // A pod that goes is no change that is measured.
    picture.on_pod(Event::Delete(pod("p", labels(), LATE)));
    assert_eq!(picture.plan_slices(&key("s")).1, None);
}

#[test]
fn what_was_written_is_known_at_once_and_older_news_of_it_is_ignored() {
    let mut picture = picture();
    picture.on_service(Event::Apply(service("s", json!({"app": "a"}))));
    let mut slice = picture.plan_slices(&key("s")).0.creates.remove(0);
    let stored = |slice: &Slice, version: &str| {
        let mut object = slice.json("n", "s", None);
        object["metadata"]["name"] = json!("s-1");
        object["metadata"]["resourceVersion"] = json!(version);
        seen::<Slice>(object)
    };
    slice = stored(&slice, "10").facts;
    picture.wrote_slice(&key("s"), slice.clone());
    assert!(picture.plan_slices(&key("s")).0.is_empty());
    // The watch tells of it, and of an earlier state, which is no news.
    assert!(
        picture
            .on_slice(Event::Apply(stored(&slice, "10")))
            .is_empty()
    );
    let mut old = slice.clone();
    old.labels.insert("x".to_owned(), "y".to_owned());
    assert!(picture.on_slice(Event::Apply(stored(&old, "9"))).is_empty());
    assert!(picture.plan_slices(&key("s")).0.is_empty());
    let tasks = picture.on_slice(Event::Apply(stored(&old, "11")));
    assert_eq!(names(tasks), ["s"]);
    assert_eq!(picture.plan_slices(&key("s")).0.updates.len(), 1);
    let tasks = picture.on_slice(Event::Delete(stored(&old, "12")));
    assert_eq!(names(tasks), ["s"]);
    assert_eq!(picture.plan_slices(&key("s")).0.creates.len(), 1);
}

#[test]
fn what_a_new_list_does_not_name_is_gone() {
    let mut picture = picture();
    picture.on_service(Event::Apply(service("s", json!({"app": "a"}))));
    for name in ["p", "q"] {
        picture.on_pod(Event::Apply(pod(name, json!({"app": "a"}), EARLY)));
    }
    picture.on_pod(Event::Init);
    picture.on_pod(Event::InitApply(pod("q", json!({"app": "a"}), EARLY)));
    assert_eq!(names(picture.on_pod(Event::InitDone)), ["s"]);
    assert_eq!(
        picture.plan_slices(&key("s")).0.creates[0].endpoints.len(),
        1
    );
}

#[test]
fn endpoints_go_with_their_service() {
    let mut picture = picture();
    let endpoints = |labels: Value| {
        seen::<EndpointsFacts>(
            json!({"metadata": {"namespace": "n", "name": "s", "uid": "e",
            "resourceVersion": "1", "labels": labels}}),
        )
    };
    // Nobody's, but of our making: left over from a time when nobody looked.
    let ours = json!({"endpoints.kubernetes.io/managed-by": "endpoint-controller"});
    picture.on_endpoints(Event::Apply(endpoints(ours)));
    let step = picture.plan_endpoints(&key("s"));
    assert!(matches!(step, Some(EndpointsStep::Delete(_))));
    // A person's stay as long as their Service, and without one.
    picture.on_endpoints(Event::Delete(endpoints(json!({}))));
    picture.on_endpoints(Event::Apply(endpoints(json!({}))));
    assert!(picture.plan_endpoints(&key("s")).is_none());
    picture.on_service(Event::Apply(service("s", Value::Null)));
    assert!(picture.plan_endpoints(&key("s")).is_none());
    assert!(picture.is_mirrored(&key("s")));
    picture.on_service(Event::Delete(service("s", Value::Null)));
    let step = picture.plan_endpoints(&key("s"));
    assert!(matches!(step, Some(EndpointsStep::Delete(_))));
}

#[test]
fn nothing_is_kept_of_a_namespace_that_is_empty() {
    let mut picture = picture();
    let labels = || json!({"app": "a"});
    picture.on_service(Event::Apply(service("s", labels())));
    picture.on_pod(Event::Apply(pod("p", labels(), EARLY)));
    picture.on_service(Event::Delete(service("s", labels())));
    picture.on_pod(Event::Delete(pod("p", labels(), EARLY)));
    assert!(picture.namespaces.is_empty());
}
