//! (taints, tolerations) → how long each pod may stay. Pure.

use std::collections::{BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{PodCondition, Taint, Toleration},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    core::{NotUsed, Object},
    runtime::watcher::Event,
};
use serde::{Deserialize, Serialize};

use super::super::listed::Listed;

const NO_EXECUTE: &str = "NoExecute";

/// Namespace and name of a pod.
pub(super) type Key = (String, String);

pub(super) type NodeView = Object<NodeSpec, NotUsed>;
pub(super) type PodView = Object<PodSpec, PodStatus>;

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct NodeSpec {
    taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    node_name: String,
    tolerations: Vec<Toleration>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct PodStatus {
    conditions: Vec<PodCondition>,
}

/// A pod that is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) generation: Option<i64>,
}

/// Which nodes have taints that end pods, and which pods there are then.
#[derive(Debug, Default)]
pub(super) struct Book {
    nodes: Listed<String, NodeFacts>,
    /// Of nodes that have any.
    marks: HashMap<String, Vec<Mark>>,
    pods: Listed<Key, PodFacts>,
    /// When stays end, in order and by pod. Invariant: both hold the same.
    ends: BTreeSet<(Timestamp, Key)>,
    end_of: HashMap<Key, Timestamp>,
}

#[derive(Clone, Debug)]
struct NodeFacts {
    name: String,
    /// Those that end pods.
    taints: Vec<Taint>,
}

/// A taint that ends pods.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    key: String,
    value: String,
    since: Timestamp,
}

#[derive(Clone, Debug)]
struct PodFacts {
    target: Target,
    node: String,
    tolerations: Vec<Toleration>,
    /// When it got its node.
    placed: Timestamp,
    is_deleting: bool,
    /// Whether it is being deleted by us, which the watch may tell only later.
    has_begun: bool,
}

/// How long a pod may stay where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    Forever,
    Until(Timestamp),
    /// It goes at once.
    Not,
}

impl Book {
    pub(super) fn on_node(&mut self, event: Event<NodeView>, now: Timestamp) {
        let event = reduced(event, NodeFacts::from);
        for name in self.nodes.apply(event, |node| node.name.clone()) {
            self.mark(&name, now);
        }
    }

    pub(super) fn on_pod(&mut self, event: Event<PodView>) {
        let known = &self.pods.all;
        let event = reduced(event, |pod| {
            let mut pod = PodFacts::from(pod);
            let before = known.get(&pod.target.key);
            pod.has_begun = before
                .is_some_and(|before| before.has_begun && before.target.uid == pod.target.uid);
            pod
        });
        for key in self.pods.apply(event, |pod| pod.target.key.clone()) {
            self.weigh(&key);
        }
    }

    /// Says whether there is a node that pods may have to leave.
    pub(super) fn has_taints(&self) -> bool {
        !self.marks.is_empty()
    }

    pub(super) fn forget_pods(&mut self) {
        self.pods = Listed::default();
        self.ends.clear();
        self.end_of.clear();
    }

    /// Returns when the next stay ends.
    pub(super) fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// Takes the pods whose stay has ended; each comes once, until something about it changes.
    pub(super) fn take_ended(&mut self, now: Timestamp) -> Vec<Key> {
        let mut ended = Vec::new();
        while self.next_end().is_some_and(|end| end <= now)
            && let Some((_, key)) = self.ends.pop_first()
        {
            self.end_of.remove(&key);
            ended.push(key);
        }
        ended
    }

    /// Returns whom to end if it is still so that the pod has to go.
    pub(super) fn begin(&mut self, key: &Key, now: Timestamp) -> Option<Target> {
        self.end(key).filter(|end| *end <= now)?;
        let pod = self.pods.all.get_mut(key).filter(|pod| !pod.has_begun)?;
        pod.has_begun = true;
        Some(pod.target.clone())
    }

    /// The pod could not be ended.
    pub(super) fn failed(&mut self, key: &Key) {
        if let Some(pod) = self.pods.all.get_mut(key) {
            pod.has_begun = false;
        }
    }

    /// Notes the taints of a node; one that was there before keeps its time.
    fn mark(&mut self, name: &str, now: Timestamp) {
        let before = self.marks.remove(name).unwrap_or_default();
        let taints = self.nodes.all.get(name).map(|node| node.taints.as_slice());
        let taints = taints.unwrap_or_default().iter();
        let marks = taints.map(|taint| Mark::of(taint, &before, now));
        let marks: Vec<_> = marks.collect();
        let has_changed = marks != before;
        if !marks.is_empty() {
            self.marks.insert(name.to_owned(), marks);
        }
        if has_changed {
            let pods = self.pods.all.iter();
            let there = pods.filter(|(_, pod)| pod.node == name);
            let there: Vec<Key> = there.map(|(key, _)| key.clone()).collect();
            for key in &there {
                self.weigh(key);
            }
        }
    }

    /// Notes when the stay of a pod ends.
    fn weigh(&mut self, key: &Key) {
        if let Some(end) = self.end_of.remove(key) {
            self.ends.remove(&(end, key.clone()));
        }
        if let Some(end) = self.end(key) {
            self.end_of.insert(key.clone(), end);
            self.ends.insert((end, key.clone()));
        }
    }

    fn end(&self, key: &Key) -> Option<Timestamp> {
        let pod = self.pods.all.get(key).filter(|pod| !pod.is_deleting)?;
        match stay(pod, self.marks.get(&pod.node)?) {
            Stay::Forever => None,
            Stay::Until(end) => Some(end),
            Stay::Not => Some(Timestamp::MIN),
        }
    }
}

impl Mark {
    fn of(taint: &Taint, before: &[Mark], now: Timestamp) -> Mark {
        let known = before.iter().find(|mark| mark.key == taint.key);
        let first_seen = known.map_or(now, |mark| mark.since);
        let added = taint.time_added.as_ref().map(|time| time.0);
        Mark {
            key: taint.key.clone(),
            value: taint.value.clone().unwrap_or_default(),
            // Whose clock is ahead does not grant more time.
            since: added.filter(|added| *added <= now).unwrap_or(first_seen),
        }
    }
}

/// Decides as the stock server does: of several tolerations of a taint the first counts, and of several
/// taints the one whose time is over first.
fn stay(pod: &PodFacts, marks: &[Mark]) -> Stay {
    let mut end = None;
    for mark in marks {
        let mut tolerations = pod.tolerations.iter();
        let Some(toleration) = tolerations.find(|one| tolerates(one, mark)) else {
            return Stay::Not;
        };
        let Some(seconds) = toleration.toleration_seconds else {
            continue;
        };
        let stay = SignedDuration::from_secs(seconds.max(0));
        let since = mark.since.max(pod.placed);
        let own = since.checked_add(stay).unwrap_or(Timestamp::MAX);
        end = Some(end.map_or(own, |end| own.min(end)));
    }
    end.map_or(Stay::Forever, Stay::Until)
}

fn tolerates(toleration: &Toleration, mark: &Mark) -> bool {
    let text = |field: &'_ Option<String>| field.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    let exists = toleration.operator.as_deref() == Some("Exists");
    let same_key = match key.as_str() {
        "" => exists,
        key => key == mark.key,
    };
    let same_effect = effect.is_empty() || effect == NO_EXECUTE;
    same_key && same_effect && (exists || text(&toleration.value) == mark.value)
}

impl From<NodeView> for NodeFacts {
    fn from(node: NodeView) -> NodeFacts {
        let taints = node.spec.taints.into_iter();
        NodeFacts {
            name: node.metadata.name.unwrap_or_default(),
            taints: taints.filter(|taint| taint.effect == NO_EXECUTE).collect(),
        }
    }
}

impl From<PodView> for PodFacts {
    fn from(pod: PodView) -> PodFacts {
        let conditions = pod.status.unwrap_or_default().conditions;
        let placed = placed(&pod.metadata, &conditions);
        let meta = pod.metadata;
        PodFacts {
            target: Target {
                key: (
                    meta.namespace.unwrap_or_default(),
                    meta.name.unwrap_or_default(),
                ),
                uid: meta.uid.unwrap_or_default(),
                generation: meta.generation,
            },
            node: pod.spec.node_name,
            tolerations: pod.spec.tolerations,
            placed,
            is_deleting: meta.deletion_timestamp.is_some(),
            has_begun: false,
        }
    }
}

/// Returns when a pod got its node; who names it by himself does so when he creates the pod.
fn placed(meta: &ObjectMeta, conditions: &[PodCondition]) -> Timestamp {
    let mut conditions = conditions.iter();
    let scheduled = conditions.find(|one| one.type_ == "PodScheduled" && one.status == "True");
    let scheduled = scheduled.and_then(|one| one.last_transition_time.as_ref());
    let placed = scheduled.or(meta.creation_timestamp.as_ref());
    placed.map(|time| time.0).unwrap_or_default()
}

fn reduced<V, F>(event: Event<V>, reduce: impl FnOnce(V) -> F) -> Event<F> {
    match event {
        Event::Apply(object) => Event::Apply(reduce(object)),
        Event::InitApply(object) => Event::InitApply(reduce(object)),
        Event::Delete(object) => Event::Delete(reduce(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A second after the first of these tests' time.
    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("the time is in range")
    }

    fn node(taints: Value) -> NodeView {
        let node = json!({"metadata": {"name": "n"}, "spec": {"taints": taints}});
        serde_json::from_value(node).expect("the node is well-formed")
    }

    fn pod(name: &str, placed: i64, tolerations: Value) -> PodView {
        let pod = json!({
            "metadata": {"namespace": "s", "name": name, "uid": name,
                "creationTimestamp": at(-1000).to_string()},
            "spec": {"nodeName": "n", "tolerations": tolerations},
            "status": {"conditions": [{"type": "PodScheduled", "status": "True",
                "lastTransitionTime": at(placed).to_string()}]},
        });
        serde_json::from_value(pod).expect("the pod is well-formed")
    }

    fn key(name: &str) -> Key {
        ("s".to_owned(), name.to_owned())
    }

    fn taint(key: &str, added: Option<i64>) -> Value {
        let added = added.map(|second| at(second).to_string());
        json!({"key": key, "value": "v", "effect": "NoExecute", "timeAdded": added})
    }

    #[test]
    // tidy: table, because each line is a pod's tolerations and how long they let it stay
    fn tolerations_say_how_long_a_pod_stays() {
        let mark = |key: &str, since: i64| Mark {
            key: key.to_owned(),
            value: "v".to_owned(),
            since: at(since),
        };
        let one = &[mark("a", 10)][..];
        let two = &[mark("a", 10), mark("b", 20)][..];
        let until = |second: i64| Stay::Until(at(second));
        let any = json!({"operator": "Exists"});
        let all_of = |key: &str| json!({"key": key, "operator": "Exists"});
        let valued = |value: &str| json!({"key": "a", "value": value});
        let bounded = |key: &str, seconds: i64| {
            json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds})
        };
        let others = json!({"operator": "Exists", "effect": "NoSchedule"});
        let equal = json!({"key": "a", "operator": "Equal", "value": "v"});
        for (marks, placed, tolerations, expected) in [
            (one, 0, json!([]), Stay::Not),
            (one, 0, json!([any]), Stay::Forever),
            (two, 0, json!([any]), Stay::Forever),
            (one, 0, json!([others]), Stay::Not),
            (one, 0, json!([all_of("a")]), Stay::Forever),
            (one, 0, json!([all_of("b")]), Stay::Not),
            (two, 0, json!([all_of("a")]), Stay::Not),
            (one, 0, json!([equal]), Stay::Forever),
            (one, 0, json!([valued("v")]), Stay::Forever),
            (one, 0, json!([valued("w")]), Stay::Not),
            (one, 0, json!([bounded("a", 300)]), until(310)),
            // Its time begins when it comes to the node.
            (one, 50, json!([bounded("a", 300)]), until(350)),
            (two, 0, json!([bounded("a", 300)]), Stay::Not),
            (
                two,
                0,
                json!([bounded("a", 30), bounded("b", 5)]),
                until(25),
            ),
            (two, 0, json!([bounded("b", 5), bounded("a", 9)]), until(19)),
            (two, 0, json!([bounded("a", 30), all_of("b")]), until(40)),
            // Of several the first counts.
            (one, 0, json!([bounded("", 7), any]), until(17)),
            (one, 0, json!([any, bounded("", 7)]), Stay::Forever),
            (one, 0, json!([bounded("a", 0)]), until(10)),
            (one, 0, json!([bounded("a", -1)]), until(10)),
            (
                one,
                0,
                json!([bounded("a", i64::MAX)]),
                Stay::Until(Timestamp::MAX),
            ),
        ] {
            let pod = PodFacts::from(pod("p", placed, tolerations.clone()));
            assert_eq!(stay(&pod, marks), expected, "{marks:?} {tolerations}");
        }
    }

    #[test]
    fn a_taint_counts_from_when_it_was_added_or_else_seen() {
        let mut book = Book::default();
        let check = |book: &Book, expected: &[(&str, i64)]| {
            let marks = book.marks.get("n").into_iter().flatten();
            let found: Vec<_> = marks.map(|mark| (mark.key.as_str(), mark.since)).collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(key, since)| (*key, at(*since)))
                .collect();
            assert_eq!(found, expected);
        };
        book.on_node(
            Event::Apply(node(json!([taint("a", None), taint("b", Some(3))]))),
            at(5),
        );
        check(&book, &[("a", 5), ("b", 3)]);
        // What is written about the node otherwise changes nothing.
        let three = json!([taint("a", None), taint("b", Some(3)), taint("c", Some(99))]);
        book.on_node(Event::Apply(node(three)), at(8));
        check(&book, &[("a", 5), ("b", 3), ("c", 8)]);
        book.on_node(
            Event::Apply(node(json!([{"key": "a", "effect": "NoSchedule"}]))),
            at(9),
        );
        assert!(!book.has_taints());
        book.on_node(Event::Apply(node(json!([taint("a", None)]))), at(11));
        check(&book, &[("a", 11)]);
        book.on_node(Event::Delete(node(json!([]))), at(12));
        assert!(!book.has_taints());
    }

    #[test]
    fn a_pod_goes_when_its_time_is_over_and_only_once() {
        let mut book = Book::default();
        let minute =
            json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]);
        book.on_node(Event::Apply(node(json!([taint("a", None)]))), at(0));
        book.on_pod(Event::Apply(pod("now", -5, json!([]))));
        book.on_pod(Event::Apply(pod("later", -5, minute.clone())));
        book.on_pod(Event::Apply(pod(
            "never",
            -5,
            json!([{"operator": "Exists"}]),
        )));
        assert_eq!(book.take_ended(at(1)), [key("now")]);
        assert!(book.take_ended(at(1)).is_empty());
        let target = book.begin(&key("now"), at(1)).expect("it has to go");
        assert_eq!((&target.key, target.uid.as_str()), (&key("now"), "now"));
        // The condition that tells why it goes wakes it once more.
        book.on_pod(Event::Apply(pod("now", -5, json!([]))));
        assert_eq!(book.take_ended(at(1)), [key("now")]);
        assert_eq!(book.begin(&key("now"), at(1)), None);
        book.failed(&key("now"));
        assert!(book.begin(&key("now"), at(2)).is_some());
        assert_eq!(book.next_end(), Some(at(60)));
        assert!(book.take_ended(at(59)).is_empty());
        assert_eq!(book.take_ended(at(60)), [key("later")]);
        let mut deleted = pod("later", -5, minute);
        deleted.metadata.deletion_timestamp = deleted.metadata.creation_timestamp.clone();
        book.on_pod(Event::Apply(deleted));
        assert_eq!(book.next_end(), None);
        assert_eq!(book.begin(&key("later"), at(61)), None);
    }

    #[test]
    fn a_pod_stays_when_the_need_to_go_ends_before() {
        let minute =
            json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]);
        let mut book = Book::default();
        let tainted = || node(json!([taint("a", None)]));
        book.on_node(Event::Apply(tainted()), at(0));
        book.on_pod(Event::Apply(pod("p", -5, minute.clone())));
        assert_eq!(book.next_end(), Some(at(60)));
        book.on_node(Event::Apply(node(json!([]))), at(30));
        assert_eq!(book.next_end(), None);
        assert_eq!(book.begin(&key("p"), at(90)), None);
        // A new taint counts anew.
        book.on_node(Event::Apply(tainted()), at(40));
        assert_eq!(book.next_end(), Some(at(100)));
        // Tolerations can be added.
        book.on_pod(Event::Apply(pod("p", -5, json!([{"operator": "Exists"}]))));
        assert_eq!(book.next_end(), None);
        book.on_pod(Event::Apply(pod("p", -5, minute)));
        book.on_pod(Event::Delete(pod("p", -5, json!([]))));
        assert_eq!(book.next_end(), None);
        assert!(book.end_of.is_empty());
    }
}
