//! Label selectors, as NetworkPolicies use them (`apimachinery/pkg/labels`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// The labels of an object.
pub(crate) type Labels = BTreeMap<String, String>;

/// A selector; without requirements it selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
}

/// Why a selector cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown operator `{0}` of a label selector")]
pub(crate) struct UnknownOperator(String);

impl Selector {
    /// Reads a selector.
    pub(crate) fn read(selector: &LabelSelector) -> Result<Selector, UnknownOperator> {
        let labels = selector.match_labels.iter().flatten();
        let equal = labels.map(|(key, value)| Requirement::In(key.clone(), vec![value.clone()]));
        let mut requirements: Vec<_> = equal.collect();
        for expression in selector.match_expressions.iter().flatten() {
            let key = expression.key.clone();
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(match expression.operator.as_str() {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::DoesNotExist(key),
                other => return Err(UnknownOperator(other.to_owned())),
            });
        }
        // Equal selectors share one set of addresses, however they are written.
        requirements.sort();
        requirements.dedup();
        Ok(Selector { requirements })
    }

    /// Tells whether an object with these labels is selected.
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Requirement::In(key, values) => {
                labels.get(key).is_some_and(|value| values.contains(value))
            }
            Requirement::NotIn(key, values) => {
                labels.get(key).is_none_or(|value| !values.contains(value))
            }
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(selector: Value) -> Result<Selector, UnknownOperator> {
        Selector::read(&serde_json::from_value(selector).expect("a selector"))
    }

    #[test]
    fn a_selector_selects_what_meets_all_its_requirements() {
        let labels = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<Labels>()
        };
        let web = labels(&[("app", "web"), ("tier", "front")]);
        let none = labels(&[]);
        let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (selector, of_web, of_none) in [
            (json!({}), true, true),
            (json!({"matchLabels": {"app": "web"}}), true, false),
            (json!({"matchLabels": {"app": "db"}}), false, false),
            (
                json!({"matchLabels": {"app": "web", "tier": "back"}}),
                false,
                false,
            ),
            (expression("app", "In", &["db", "web"]), true, false),
            (expression("app", "NotIn", &["db"]), true, true),
            (expression("app", "NotIn", &["web"]), false, true),
            (expression("tier", "Exists", &[]), true, false),
            (expression("tier", "DoesNotExist", &[]), false, true),
        ] {
            let read = read(selector.clone()).expect("a good selector");
            assert_eq!(read.selects(&web), of_web, "{selector}");
            assert_eq!(read.selects(&none), of_none, "{selector}");
        }
        let unknown = read(expression("a", "Near", &[]));
        assert_eq!(unknown, Err(UnknownOperator("Near".to_owned())));
    }
}
