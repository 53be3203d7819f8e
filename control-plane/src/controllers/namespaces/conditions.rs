//! What a namespace says about its own deletion.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::NamespaceCondition, apimachinery::pkg::apis::meta::v1::Time};

/// What is left in a namespace, and what went wrong while it was emptied.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// How many objects are left, by resource and group.
    pub(super) resources: BTreeMap<(String, String), usize>,
    /// How many of them wait for whom.
    pub(super) finalizers: BTreeMap<String, usize>,
    /// Why objects could not be deleted or counted.
    pub(super) failures: Vec<String>,
    /// Why it is not known which kinds there are.
    pub(super) discovery_failure: Option<String>,
}

/// One condition: type, whether it is so, reason, message.
type Fact = (&'static str, bool, &'static str, String);

impl Remains {
    /// Says whether nothing is left and nothing is unknown.
    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.failures.is_empty() && self.discovery_failure.is_none()
    }

    /// Returns all conditions, in the order in which they are written.
    fn facts(&self) -> [Fact; 5] {
        [
            match &self.discovery_failure {
                Some(why) => (DISCOVERY, true, "DiscoveryFailed", why.clone()),
                None => fine(
                    DISCOVERY,
                    "ResourcesDiscovered",
                    "All resources successfully discovered",
                ),
            },
            fine(
                "NamespaceDeletionGroupVersionParsingFailure",
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            match self.failures.as_slice() {
                [] => fine(
                    CONTENT,
                    "ContentDeleted",
                    "All content successfully deleted, may be waiting on finalization",
                ),
                failures => {
                    let mut sorted = failures.to_vec();
                    sorted.sort();
                    let (count, list) = (sorted.len(), sorted.join(", "));
                    let text =
                        format!("Failed to delete all resource types, {count} remaining: {list}");
                    (CONTENT, true, "ContentDeletionFailed", text)
                }
            },
            match self.resources.is_empty() {
                true => fine(
                    REMAINING,
                    "ContentRemoved",
                    "All content successfully removed",
                ),
                false => {
                    let list = list(&self.resources, |((resource, group), count)| {
                        format!("{resource}.{group} has {count} resource instances")
                    });
                    let text = format!("Some resources are remaining: {list}");
                    (REMAINING, true, "SomeResourcesRemain", text)
                }
            },
            match self.finalizers.is_empty() {
                true => fine(
                    FINALIZERS,
                    "ContentHasNoFinalizers",
                    "All content-preserving finalizers finished",
                ),
                false => {
                    let list = list(&self.finalizers, |(name, count)| {
                        format!("{name} in {count} resource instances")
                    });
                    let text =
                        format!("Some content in the namespace has finalizers remaining: {list}");
                    (FINALIZERS, true, "SomeFinalizersRemain", text)
                }
            },
        ]
    }

    /// Brings the conditions up to date; says whether one has changed.
    pub(super) fn update(&self, conditions: &mut Vec<NamespaceCondition>, now: &Time) -> bool {
        let mut changed = false;
        for (kind, is_so, reason, message) in self.facts() {
            let status = if is_so { "True" } else { "False" };
            let fresh = NamespaceCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(now.clone()),
            };
            let old = conditions.iter_mut().find(|old| old.type_ == kind);
            match old {
                None => conditions.push(fresh),
                Some(old)
                    if (&old.status, &old.reason, &old.message)
                        == (&fresh.status, &fresh.reason, &fresh.message) =>
                {
                    continue;
                }
                Some(old) => {
                    let since = old.last_transition_time.take();
                    let same = old.status == fresh.status;
                    *old = fresh;
                    if same {
                        old.last_transition_time = since;
                    }
                }
            }
            changed = true;
        }
        changed
    }
}

const DISCOVERY: &str = "NamespaceDeletionDiscoveryFailure";
const CONTENT: &str = "NamespaceDeletionContentFailure";
const REMAINING: &str = "NamespaceContentRemaining";
const FINALIZERS: &str = "NamespaceFinalizersRemaining";

fn fine(kind: &'static str, reason: &'static str, message: &str) -> Fact {
    (kind, false, reason, message.to_owned())
}

fn list<K, V>(map: &BTreeMap<K, V>, write: impl Fn((&K, &V)) -> String) -> String {
    map.iter().map(write).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(remains: &Remains, expected: [&str; 5]) {
        let mut conditions = Vec::new();
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        assert!(remains.update(&mut conditions, &now));
        let found: Vec<_> = conditions
            .iter()
            .map(|condition| {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                let (reason, message) = (text(&condition.reason), text(&condition.message));
                format!("{} {reason}: {message}", condition.status)
            })
            .collect();
        assert_eq!(found, expected);
        assert!(!remains.update(&mut conditions, &now), "told twice");
    }

    #[test]
    fn conditions_are_worded_as_the_stock_controller_words_them() {
        let fine = [
            "False ResourcesDiscovered: All resources successfully discovered",
            "False ParsedGroupVersions: All legacy kube types successfully parsed",
            "False ContentDeleted: All content successfully deleted, may be waiting on \
             finalization",
            "False ContentRemoved: All content successfully removed",
            "False ContentHasNoFinalizers: All content-preserving finalizers finished",
        ];
        check(&Remains::default(), fine);
        let key = |resource: &str, group: &str| (resource.to_owned(), group.to_owned());
        let remains = Remains {
            resources: [
                (key("pods", ""), 2),
                (key("leases", "coordination.k8s.io"), 1),
            ]
            .into(),
            finalizers: [("a/b".to_owned(), 3)].into(),
            failures: vec!["y".to_owned(), "x".to_owned()],
            discovery_failure: Some("no answer".to_owned()),
        };
        let wrong = [
            "True DiscoveryFailed: no answer",
            fine[1],
            "True ContentDeletionFailed: Failed to delete all resource types, 2 remaining: x, y",
            "True SomeResourcesRemain: Some resources are remaining: leases.coordination.k8s.io \
             has 1 resource instances, pods. has 2 resource instances",
            "True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: \
             a/b in 3 resource instances",
        ];
        check(&remains, wrong);
    }
}
