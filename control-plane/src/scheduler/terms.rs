//! Requirements on labels, and the terms of node and pod affinity made of them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

pub(super) type Labels = BTreeMap<String, String>;

/// One requirement on a label or field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Test {
    In(BTreeSet<String>),
    /// Also true when the label is missing.
    NotIn(BTreeSet<String>),
    Exists,
    Missing,
    Above(i64),
    Below(i64),
    /// An operator that is none, or a bound that is no number: nothing satisfies it.
    Never,
}

/// A selector of labels: all requirements hold. Without any, everything is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Selector(Vec<Requirement>);

/// One term of a node's selection: labels and fields must all match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct NodeTerm {
    labels: Selector,
    /// Requirements on `metadata.name`, the only field there is.
    fields: Selector,
}

/// One term of pod affinity: which pods, and in which part of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PodTerm {
    pub(super) topology_key: String,
    /// None selects no pod.
    selector: Option<Selector>,
    namespaces: BTreeSet<String>,
    namespace_selector: Option<Selector>,
}

/// A pod as affinity sees it.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) namespace: &'a str,
    pub(super) labels: &'a Labels,
}

/// The labels of each namespace.
pub(super) type Namespaces = BTreeMap<String, Labels>;

impl Requirement {
    fn new(key: &str, operator: &str, values: Option<&Vec<String>>) -> Requirement {
        let values: &[String] = values.map_or(&[], Vec::as_slice);
        let set = || values.iter().cloned().collect();
        let bound = || match values {
            [only] => only.parse().ok(),
            _ => None,
        };
        let test = match operator {
            "In" => Test::In(set()),
            "NotIn" => Test::NotIn(set()),
            "Exists" => Test::Exists,
            "DoesNotExist" => Test::Missing,
            "Gt" => bound().map_or(Test::Never, Test::Above),
            "Lt" => bound().map_or(Test::Never, Test::Below),
            _ => Test::Never,
        };
        let key = key.to_owned();
        Requirement { key, test }
    }

    fn of_node(requirement: &NodeSelectorRequirement) -> Requirement {
        let values = requirement.values.as_ref();
        Requirement::new(&requirement.key, &requirement.operator, values)
    }

    fn accepts(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::In(known) => value.is_some_and(|value| known.contains(value)),
            Test::NotIn(known) => value.is_none_or(|value| !known.contains(value)),
            Test::Exists => value.is_some(),
            Test::Missing => value.is_none(),
            Test::Above(bound) => number().is_some_and(|number| number > *bound),
            Test::Below(bound) => number().is_some_and(|number| number < *bound),
            Test::Never => false,
        }
    }
}

impl Selector {
    pub(super) fn of(selector: &LabelSelector) -> Selector {
        let labels = selector.match_labels.iter().flatten();
        let equal = labels.map(|(key, value)| Selector::one(key, Test::In, value));
        let more = selector.match_expressions.iter().flatten();
        let more = more.map(|one| Requirement::new(&one.key, &one.operator, one.values.as_ref()));
        Selector(equal.chain(more).collect())
    }

    fn one(key: &str, test: fn(BTreeSet<String>) -> Test, value: &str) -> Requirement {
        Requirement {
            key: key.to_owned(),
            test: test(BTreeSet::from([value.to_owned()])),
        }
    }

    /// Adds that the values of these labels are the pod's own; keys the pod lacks are skipped.
    ///
    /// A stock server has done so already, which makes this a repetition.
    pub(super) fn with_own(mut self, keys: Option<&Vec<String>>, own: &Labels) -> Selector {
        self.add_own(keys, own, Test::In);
        self
    }

    fn add_own(
        &mut self,
        keys: Option<&Vec<String>>,
        own: &Labels,
        test: fn(BTreeSet<String>) -> Test,
    ) {
        for key in keys.into_iter().flatten() {
            if let Some(value) = own.get(key) {
                self.0.push(Selector::one(key, test, value));
            }
        }
    }

    pub(super) fn matches(&self, labels: &Labels) -> bool {
        let value = |key: &String| labels.get(key).map(String::as_str);
        self.0.iter().all(|one| one.accepts(value(&one.key)))
    }
}

impl NodeTerm {
    pub(super) fn of(term: &NodeSelectorTerm) -> NodeTerm {
        let read = |list: &Option<Vec<NodeSelectorRequirement>>| {
            Selector(list.iter().flatten().map(Requirement::of_node).collect())
        };
        NodeTerm {
            labels: read(&term.match_expressions),
            fields: read(&term.match_fields),
        }
    }

    /// Says whether a node is selected; a term without requirements selects none.
    pub(super) fn matches(&self, name: &str, labels: &Labels) -> bool {
        if self.labels.0.is_empty() && self.fields.0.is_empty() {
            return false;
        }
        let field = |key: &str| (key == "metadata.name").then_some(name);
        let fields = &self.fields.0;
        fields.iter().all(|one| one.accepts(field(&one.key))) && self.labels.matches(labels)
    }

    /// Returns the node names that the fields alone leave over, if they name any.
    pub(super) fn names(&self) -> Option<BTreeSet<&str>> {
        let mut left: Option<BTreeSet<&str>> = None;
        for one in &self.fields.0 {
            if let ("metadata.name", Test::In(names)) = (one.key.as_str(), &one.test) {
                let names = names.iter().map(String::as_str).collect();
                left = Some(match left {
                    Some(before) => before.intersection(&names).copied().collect(),
                    None => names,
                });
            }
        }
        left
    }
}

impl PodTerm {
    /// Reads a term of a pod with these labels.
    pub(super) fn of(term: &PodAffinityTerm, own: &Labels) -> PodTerm {
        let selector = term.label_selector.as_ref().map(|selector| {
            let mut selector = Selector::of(selector).with_own(term.match_label_keys.as_ref(), own);
            selector.add_own(term.mismatch_label_keys.as_ref(), own, Test::NotIn);
            selector
        });
        PodTerm {
            topology_key: term.topology_key.clone(),
            selector,
            namespaces: term.namespaces.iter().flatten().cloned().collect(),
            namespace_selector: term.namespace_selector.as_ref().map(Selector::of),
        }
    }

    /// Says whether a term of a pod in namespace `home` is about `subject`.
    pub(super) fn selects(&self, home: &str, subject: Subject<'_>, all: &Namespaces) -> bool {
        let Some(selector) = &self.selector else {
            return false;
        };
        let nothing = Labels::new();
        let of_namespace = || all.get(subject.namespace).unwrap_or(&nothing);
        let near = if self.namespaces.is_empty() && self.namespace_selector.is_none() {
            subject.namespace == home
        } else {
            self.namespaces.contains(subject.namespace)
                || self
                    .namespace_selector
                    .as_ref()
                    .is_some_and(|selector| selector.matches(of_namespace()))
        };
        near && selector.matches(subject.labels)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn labels(value: Value) -> Labels {
        serde_json::from_value(value).expect("labels")
    }

    fn check_node(term: Value, expected: bool) {
        let parsed = NodeTerm::of(&serde_json::from_value(term.clone()).expect("a term"));
        let node = labels(json!({"zone": "a", "cores": "8", "empty": ""}));
        assert_eq!(parsed.matches("n1", &node), expected, "{term}");
    }

    #[test]
    fn node_terms_select_as_kubernetes_does() {
        let one = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (term, expected) in [
            (one("zone", "In", &["a", "b"]), true),
            (one("zone", "In", &["b"]), false),
            (one("other", "In", &["b"]), false),
            (one("zone", "NotIn", &["b"]), true),
            (one("zone", "NotIn", &["a"]), false),
            (one("other", "NotIn", &["a"]), true),
            (one("empty", "Exists", &[]), true),
            (one("other", "Exists", &[]), false),
            (one("other", "DoesNotExist", &[]), true),
            (one("zone", "DoesNotExist", &[]), false),
            (one("cores", "Gt", &["7"]), true),
            (one("cores", "Gt", &["8"]), false),
            (one("cores", "Lt", &["9"]), true),
            (one("zone", "Lt", &["9"]), false),
            (one("cores", "Gt", &["x"]), false),
            (one("cores", "Gt", &["1", "2"]), false),
            (one("zone", "Near", &["a"]), false),
            (json!({}), false),
            (
                json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}),
                true,
            ),
            (
                json!({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "zone", "operator": "Exists"}],
                    "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}),
                false,
            ),
        ] {
            check_node(term, expected);
        }
    }

    fn check_pod(term: Value, expected: bool) {
        let mut whole = term.clone();
        whole["topologyKey"] = json!("zone");
        let own = labels(json!({"app": "web", "hash": "1"}));
        let parsed = PodTerm::of(&serde_json::from_value(whole).expect("a term"), &own);
        let namespaces = Namespaces::from([("far".to_owned(), labels(json!({"team": "x"})))]);
        let other = labels(json!({"app": "web", "hash": "2"}));
        let subject = Subject {
            namespace: "far",
            labels: &other,
        };
        assert_eq!(
            parsed.selects("home", subject, &namespaces),
            expected,
            "{term}"
        );
    }

    #[test]
    fn pod_terms_select_in_their_namespaces() {
        let web = || json!({"matchLabels": {"app": "web"}});
        for (term, expected) in [
            (json!({"labelSelector": web()}), false),
            (json!({"labelSelector": web(), "namespaces": ["far"]}), true),
            (json!({"labelSelector": web(), "namespaces": ["x"]}), false),
            (json!({"labelSelector": {}, "namespaces": ["far"]}), true),
            (json!({"namespaces": ["far"]}), false),
            (
                json!({"labelSelector": web(), "namespaceSelector": {}}),
                true,
            ),
            (
                json!({"labelSelector": web(),
                    "namespaceSelector": {"matchLabels": {"team": "x"}}}),
                true,
            ),
            (
                json!({"labelSelector": web(),
                    "namespaceSelector": {"matchLabels": {"team": "y"}}}),
                false,
            ),
            (
                json!({"labelSelector": web(), "namespaces": ["far"], "matchLabelKeys": ["hash"]}),
                false,
            ),
            (
                json!({"labelSelector": web(), "namespaces": ["far"],
                    "mismatchLabelKeys": ["hash", "absent"]}),
                true,
            ),
        ] {
            check_pod(term, expected);
        }
    }
}
