//! The roles and bindings that every cluster begins with, as far as they make sense here, and how
//! they are kept up: what an administrator adds stays, what he takes away comes back unless he says
//! `rbac.authorization.kubernetes.io/autoupdate: "false"`.

use serde_json::{Value, json};

use super::aggregation::{aggregate, aggregates};

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const VERSION: &str = "rbac.authorization.k8s.io/v1";
const RBAC: &str = "rbac.authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
const COORDINATION: &str = "coordination.k8s.io";

const READ: &[&str] = &["get", "list", "watch"];
const LIST: &[&str] = &["list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const READ_WRITE: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const EVENTS: &[&str] = &["create", "patch", "update"];

/// A rule about resources, or about paths.
enum Seed {
    Resources(
        &'static [&'static str],
        &'static str,
        &'static [&'static str],
    ),
    Named(
        &'static [&'static str],
        &'static str,
        &'static str,
        &'static str,
    ),
    Paths(&'static [&'static str]),
}

use Seed::{Named, Paths, Resources};

/// Cluster roles with the rules they have by themselves.
// tidy: table
const ROLES: &[(&str, &[Seed])] = &[
    (
        "system:discovery",
        &[Paths(&[
            "/api",
            "/api/*",
            "/apis",
            "/apis/*",
            "/healthz",
            "/livez",
            "/openapi",
            "/openapi/*",
            "/readyz",
            "/version",
            "/version/",
        ])],
    ),
    (
        "system:public-info-viewer",
        &[Paths(&[
            "/healthz",
            "/livez",
            "/readyz",
            "/version",
            "/version/",
        ])],
    ),
    (
        "system:monitoring",
        &[Paths(&[
            "/healthz",
            "/healthz/*",
            "/livez",
            "/livez/*",
            "/metrics",
            "/metrics/slis",
            "/readyz",
            "/readyz/*",
        ])],
    ),
    (
        "system:service-account-issuer-discovery",
        &[Paths(&[
            "/.well-known/openid-configuration",
            "/.well-known/openid-configuration/",
            "/openid/v1/jwks",
            "/openid/v1/jwks/",
        ])],
    ),
    (
        "system:basic-user",
        &[
            Resources(
                &["create"],
                AUTHORIZATION,
                &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            ),
            Resources(&["create"], AUTHENTICATION, &["selfsubjectreviews"]),
        ],
    ),
    (
        "system:auth-delegator",
        &[
            Resources(&["create"], AUTHENTICATION, &["tokenreviews"]),
            Resources(&["create"], AUTHORIZATION, &["subjectaccessreviews"]),
        ],
    ),
    (
        "system:node-bootstrapper",
        &[Resources(
            &["create", "get", "list", "watch"],
            CERTIFICATES,
            &["certificatesigningrequests"],
        )],
    ),
    (
        "system:node-proxier",
        &[
            Resources(LIST, "", &["services", "endpoints"]),
            Resources(READ, "", &["nodes"]),
            Resources(EVENTS, "", &["events"]),
            Resources(EVENTS, "events.k8s.io", &["events"]),
            Resources(LIST, "discovery.k8s.io", &["endpointslices"]),
        ],
    ),
    (
        "system:kube-scheduler",
        &[
            Resources(EVENTS, "", &["events"]),
            Resources(EVENTS, "events.k8s.io", &["events"]),
            Resources(&["create"], COORDINATION, &["leases"]),
            Named(
                &["get", "list", "update", "watch"],
                COORDINATION,
                "leases",
                "kube-scheduler",
            ),
            Resources(READ, "", &["nodes"]),
            Resources(&["delete", "get", "list", "watch"], "", &["pods"]),
            Resources(&["create"], "", &["bindings", "pods/binding"]),
            Resources(&["patch", "update"], "", &["pods/status"]),
            Resources(READ, "", &["replicationcontrollers", "services"]),
            Resources(READ, "apps", &["replicasets", "statefulsets"]),
            Resources(READ, "policy", &["poddisruptionbudgets"]),
            Resources(
                READ,
                "",
                &["namespaces", "persistentvolumeclaims", "persistentvolumes"],
            ),
            Resources(&["create"], AUTHENTICATION, &["tokenreviews"]),
            Resources(&["create"], AUTHORIZATION, &["subjectaccessreviews"]),
        ],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[Resources(
            &["create"],
            CERTIFICATES,
            &["certificatesigningrequests/nodeclient"],
        )],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[Resources(
            &["create"],
            CERTIFICATES,
            &["certificatesigningrequests/selfnodeclient"],
        )],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[Named(
            &["approve"],
            CERTIFICATES,
            "signers",
            "kubernetes.io/kube-apiserver-client",
        )],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[Named(
            &["approve"],
            CERTIFICATES,
            "signers",
            "kubernetes.io/kube-apiserver-client-kubelet",
        )],
    ),
    (
        "system:certificates.k8s.io:kubelet-serving-approver",
        &[Named(
            &["approve"],
            CERTIFICATES,
            "signers",
            "kubernetes.io/kubelet-serving",
        )],
    ),
];

/// Cluster roles that are gathered into `view`, `edit` and `admin`.
// tidy: table
const PARTS: &[(&str, &[Seed])] = &[
    (
        "view",
        &[
            Resources(
                READ,
                "",
                &[
                    "bindings",
                    "configmaps",
                    "endpoints",
                    "events",
                    "limitranges",
                    "namespaces",
                    "namespaces/status",
                    "persistentvolumeclaims",
                    "persistentvolumeclaims/status",
                    "pods",
                    "pods/log",
                    "pods/status",
                    "replicationcontrollers",
                    "replicationcontrollers/scale",
                    "replicationcontrollers/status",
                    "resourcequotas",
                    "resourcequotas/status",
                    "serviceaccounts",
                    "services",
                    "services/status",
                ],
            ),
            Resources(READ, "events.k8s.io", &["events"]),
            Resources(READ, "discovery.k8s.io", &["endpointslices"]),
            Resources(
                READ,
                "apps",
                &[
                    "controllerrevisions",
                    "daemonsets",
                    "daemonsets/status",
                    "deployments",
                    "deployments/scale",
                    "deployments/status",
                    "replicasets",
                    "replicasets/scale",
                    "replicasets/status",
                    "statefulsets",
                    "statefulsets/scale",
                    "statefulsets/status",
                ],
            ),
            Resources(
                READ,
                "autoscaling",
                &[
                    "horizontalpodautoscalers",
                    "horizontalpodautoscalers/status",
                ],
            ),
            Resources(
                READ,
                "batch",
                &["cronjobs", "cronjobs/status", "jobs", "jobs/status"],
            ),
            Resources(
                READ,
                "policy",
                &["poddisruptionbudgets", "poddisruptionbudgets/status"],
            ),
            Resources(
                READ,
                "networking.k8s.io",
                &["ingresses", "ingresses/status", "networkpolicies"],
            ),
        ],
    ),
    (
        "edit",
        &[
            Resources(
                READ,
                "",
                &[
                    "pods/attach",
                    "pods/exec",
                    "pods/portforward",
                    "pods/proxy",
                    "secrets",
                    "services/proxy",
                ],
            ),
            Resources(&["impersonate"], "", &["serviceaccounts"]),
            Resources(
                WRITE,
                "",
                &[
                    "pods",
                    "pods/attach",
                    "pods/exec",
                    "pods/portforward",
                    "pods/proxy",
                ],
            ),
            Resources(&["create"], "", &["pods/eviction", "serviceaccounts/token"]),
            Resources(
                WRITE,
                "",
                &[
                    "configmaps",
                    "events",
                    "persistentvolumeclaims",
                    "replicationcontrollers",
                    "replicationcontrollers/scale",
                    "secrets",
                    "serviceaccounts",
                    "services",
                    "services/proxy",
                ],
            ),
            Resources(WRITE, "events.k8s.io", &["events"]),
            Resources(
                WRITE,
                "apps",
                &[
                    "daemonsets",
                    "deployments",
                    "deployments/rollback",
                    "deployments/scale",
                    "replicasets",
                    "replicasets/scale",
                    "statefulsets",
                    "statefulsets/scale",
                ],
            ),
            Resources(WRITE, "autoscaling", &["horizontalpodautoscalers"]),
            Resources(WRITE, "batch", &["cronjobs", "jobs"]),
            Resources(WRITE, "policy", &["poddisruptionbudgets"]),
            Resources(
                WRITE,
                "networking.k8s.io",
                &["ingresses", "networkpolicies"],
            ),
            Resources(READ_WRITE, COORDINATION, &["leases"]),
        ],
    ),
    (
        "admin",
        &[
            Resources(&["create"], AUTHORIZATION, &["localsubjectaccessreviews"]),
            Resources(READ_WRITE, RBAC, &["rolebindings", "roles"]),
        ],
    ),
];

/// Roles with the users (`User`) and groups (`Group`) that hold them everywhere.
const BINDINGS: &[(&str, &[(&str, &str)])] = &[
    ("cluster-admin", &[("Group", "system:masters")]),
    ("system:basic-user", &[("Group", "system:authenticated")]),
    ("system:discovery", &[("Group", "system:authenticated")]),
    (
        "system:kube-scheduler",
        &[("User", "system:kube-scheduler")],
    ),
    ("system:monitoring", &[("Group", "system:monitoring")]),
    ("system:node-proxier", &[("User", "system:kube-proxy")]),
    (
        "system:public-info-viewer",
        &[
            ("Group", "system:authenticated"),
            ("Group", "system:unauthenticated"),
        ],
    ),
    (
        "system:service-account-issuer-discovery",
        &[("Group", "system:serviceaccounts")],
    ),
];

/// Returns the cluster roles and cluster role bindings to begin with.
pub(crate) fn bootstrap() -> Vec<Value> {
    let own = ROLES.iter().map(|(name, rules)| role(name, rules));
    let mut roles: Vec<Value> = own.collect();
    roles.push(everything());
    for (part, rules) in PARTS {
        let mut role = role(&format!("system:aggregate-to-{part}"), rules);
        role["metadata"]["labels"][aggregate_label(part)] = json!("true");
        roles.push(role);
    }
    // Each is in the next: who may edit may view.
    for (name, next) in [
        ("view", Some("edit")),
        ("edit", Some("admin")),
        ("admin", None),
    ] {
        let mut role = role(name, &[]);
        let label = aggregate_label(name);
        role["aggregationRule"] =
            json!({"clusterRoleSelectors": [{"matchLabels": {(label): "true"}}]});
        if let Some(next) = next {
            role["metadata"]["labels"][aggregate_label(next)] = json!("true");
        }
        let rules = aggregate(&role, roles.iter());
        role["rules"] = Value::Array(rules);
        roles.push(role);
    }
    let bindings = BINDINGS
        .iter()
        .map(|(name, subjects)| binding(name, subjects));
    roles.into_iter().chain(bindings).collect()
}

fn aggregate_label(part: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{part}")
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {(AUTOUPDATE): "true"},
    })
}

fn role(name: &str, rules: &[Seed]) -> Value {
    json!({
        "apiVersion": VERSION,
        "kind": "ClusterRole",
        "metadata": metadata(name),
        "rules": rules.iter().map(Seed::to_json).collect::<Vec<_>>(),
    })
}

fn everything() -> Value {
    let mut role = role("cluster-admin", &[]);
    role["rules"] = json!([
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
        {"verbs": ["*"], "nonResourceURLs": ["*"]},
    ]);
    role
}

fn binding(role: &str, subjects: &[(&str, &str)]) -> Value {
    let subject =
        |(kind, name): &(&str, &str)| json!({"kind": kind, "name": name, "apiGroup": RBAC});
    json!({
        "apiVersion": VERSION,
        "kind": "ClusterRoleBinding",
        "metadata": metadata(role),
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": subjects.iter().map(subject).collect::<Vec<_>>(),
    })
}

impl Seed {
    fn to_json(&self) -> Value {
        match self {
            Resources(verbs, group, resources) => {
                json!({"verbs": verbs, "apiGroups": [group], "resources": resources})
            }
            Named(verbs, group, resource, name) => json!({
                "verbs": verbs,
                "apiGroups": [group],
                "resources": [resource],
                "resourceNames": [name],
            }),
            Paths(paths) => json!({"verbs": ["get"], "nonResourceURLs": paths}),
        }
    }
}

/// Returns what must become of an object that is there, if anything must.
pub(crate) fn reconcile(found: &Value, wanted: &Value) -> Option<Value> {
    if found["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return None;
    }
    let mut fresh = found.clone();
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            if fresh["metadata"][field][key].is_null() {
                fresh["metadata"][field][key] = value.clone();
            }
        }
    }
    let list = match wanted["kind"].as_str() {
        Some("ClusterRoleBinding") => "subjects",
        _ if aggregates(wanted) => "",
        _ => "rules",
    };
    if list.is_empty() {
        fresh["aggregationRule"] = wanted["aggregationRule"].clone();
    } else {
        let mut items = fresh[list].as_array().cloned().unwrap_or_default();
        for item in wanted[list].as_array().into_iter().flatten() {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
        fresh[list] = Value::Array(items);
    }
    (fresh != *found).then_some(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Value {
        let objects = bootstrap();
        let found = objects
            .iter()
            .find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == name);
        found.expect("the role is there").clone()
    }

    #[test]
    fn who_may_administer_may_edit_and_who_may_edit_may_view() {
        let rules = |name: &str| named(name)["rules"].as_array().unwrap().clone();
        let (view, edit, admin) = (rules("view"), rules("edit"), rules("admin"));
        assert!(view.iter().all(|rule| edit.contains(rule)));
        assert!(edit.iter().all(|rule| admin.contains(rule)));
        assert!(view.len() < edit.len() && edit.len() < admin.len());
    }

    #[test]
    fn what_is_missing_comes_back_and_what_was_added_stays() {
        let wanted = named("system:basic-user");
        assert_eq!(reconcile(&wanted, &wanted), None);
        let mut found = wanted.clone();
        let extra = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        found["rules"] = json!([extra]);
        let fresh = reconcile(&found, &wanted).expect("a rule is missing");
        let rules = fresh["rules"].as_array().unwrap();
        assert_eq!(rules.len(), 3);
        assert!(rules.contains(&extra));
        found["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(reconcile(&found, &wanted), None);
    }
}
