//! The checks of roles and their bindings.

use serde_json::Value;

use super::{Field, NameRule, walk};
use crate::invalid::Causes;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Whether a role speaks for one namespace or for all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Namespace,
    Cluster,
}

/// Checks a role.
pub(crate) fn role(object: &Value, _old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| rules(root, Reach::Namespace));
}

/// Checks a cluster role.
pub(crate) fn cluster_role(object: &Value, _old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        rules(root, Reach::Cluster);
        let aggregated = root.child("aggregationRule");
        let selectors = aggregated.child("clusterRoleSelectors");
        if aggregated.is_set() && selectors.is_empty() {
            selectors.required(
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            );
        }
        for selector in selectors.items() {
            super::pod::label_selector(&selector);
        }
    });
}

/// Checks a role binding; the role it refers to stays.
pub(crate) fn role_binding(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| binding(root, old, Reach::Namespace));
}

/// Checks a cluster role binding; the role it refers to stays.
pub(crate) fn cluster_role_binding(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| binding(root, old, Reach::Cluster));
}

fn rules(root: &Field<'_, '_>, reach: Reach) {
    for rule in root.child("rules").items() {
        if rule.child("verbs").is_empty() {
            rule.child("verbs")
                .required("verbs must contain at least one value");
        }
        let [paths, groups, resources, names] =
            ["nonResourceURLs", "apiGroups", "resources", "resourceNames"]
                .map(|field| rule.child(field));
        if !paths.is_empty() {
            if reach == Reach::Namespace {
                paths.invalid("namespaced rules cannot apply to non-resource URLs");
            }
            if [&groups, &resources, &names]
                .iter()
                .any(|list| !list.is_empty())
            {
                paths.invalid("rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if groups.is_empty() {
            groups.required("resource rules must supply at least one api group");
        }
        if resources.is_empty() {
            resources.required("resource rules must supply at least one resource");
        }
        if !names.is_empty() && resources.items().count() > 1 {
            names.required("resource names cannot apply to multiple resources");
        }
    }
}

fn binding(root: &Field<'_, '_>, old: Option<&Value>, reach: Reach) {
    let role = root.child("roleRef");
    word(&role.child("apiGroup"), &[GROUP]);
    match reach {
        Reach::Namespace => word(&role.child("kind"), &["Role", "ClusterRole"]),
        Reach::Cluster => word(&role.child("kind"), &["ClusterRole"]),
    }
    role.child("name").name_required(NameRule::PathSegment);
    for subject in root.child("subjects").items() {
        self::subject(&subject, reach);
    }
    if old.is_some_and(|old| old["roleRef"] != *role.value) {
        role.invalid("cannot change roleRef");
    }
}

fn subject(subject: &Field<'_, '_>, reach: Reach) {
    let (name, group) = (subject.child("name"), subject.child("apiGroup"));
    name.present();
    match subject.child("kind").text() {
        "ServiceAccount" => {
            name.name_if_any(NameRule::Subdomain);
            if !group.is_empty() {
                group.not_supported(&[""]);
            }
            if reach == Reach::Cluster {
                subject.child("namespace").present();
            }
        }
        "User" | "Group" => {
            word(&group, &[GROUP]);
        }
        _ => word(&subject.child("kind"), &["ServiceAccount", "User", "Group"]),
    }
}

/// Demands a word; an absent one is shown as an empty one.
fn word(field: &Field<'_, '_>, known: &[&str]) {
    let shown = Value::from(field.text());
    field.with(&shown).one_of_if_set(known);
}
