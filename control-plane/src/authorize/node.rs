//! What a node may do: its own affairs, and what its pods need.
//!
//! A node is a user `system:node:<name>` in the group `system:nodes`. [`decide`] is asked before the
//! roles; [`admit`] looks at what a node writes and [`admit_part`] at what it deletes or touches.

use coracle_store::Range;
use serde_json::Value;

use super::{Attributes, Authorizer, Decision, ResourceAttributes};
use crate::{
    caller::Caller,
    identity::ISSUER,
    kinds::{self, KindInfo, Subresource, Verb},
    object::{self, ObjectStore},
    request::Call,
    status::ApiError,
};

const GROUP: &str = "system:nodes";
const PREFIX: &str = "system:node:";
const LEASES: &str = "kube-node-lease";

const READ: &[&str] = &["get", "list", "watch"];

/// What all nodes may do alike: group, resource, verbs.
const ALIKE: &[(&str, &str, &[&str])] = &[
    ("", "services", READ),
    ("", "endpoints", &["get"]),
    ("", "events", &["create", "patch", "update"]),
    ("events.k8s.io", "events", &["create", "patch", "update"]),
    ("authentication.k8s.io", "tokenreviews", &["create"]),
    ("authorization.k8s.io", "subjectaccessreviews", &["create"]),
    (
        "authorization.k8s.io",
        "localsubjectaccessreviews",
        &["create"],
    ),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        &["create", "get", "list", "watch"],
    ),
    ("node.k8s.io", "runtimeclasses", READ),
];

/// Labels of the system's own domains that a node may put on itself.
const OWN_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/instance-type",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Returns the name of the node that a caller is.
pub(super) fn name_of(caller: &Caller) -> Option<&str> {
    let name = caller.name.strip_prefix(PREFIX)?;
    caller.is_in(GROUP).then_some(name)
}

/// Decides for a node; nothing if the caller is none.
pub(super) fn decide(
    store: &ObjectStore,
    caller: &Caller,
    wanted: &Attributes,
) -> Option<Decision> {
    let node = name_of(caller)?;
    let Attributes::Resource(wanted) = wanted else {
        return Some(Decision::Refused(String::new()));
    };
    let refusal = match (wanted.group.as_str(), wanted.resource.as_str()) {
        ("", "secrets") => reads(store, node, wanted, references_secret),
        ("", "configmaps") => reads(store, node, wanted, references_config_map),
        ("", "serviceaccounts") => makes_token(store, node, wanted),
        ("", "nodes") => on_node(node, wanted),
        ("", "pods") => on_pod(store, node, wanted),
        ("coordination.k8s.io", "leases") => on_lease(node, wanted),
        (group, _) => {
            let full = wanted.full_resource();
            let known = ALIKE.iter().any(|(known, name, verbs)| {
                *known == group && *name == full && verbs.contains(&wanted.verb.as_str())
            });
            if known { Ok(()) } else { Err(String::new()) }
        }
    };
    Some(match refusal {
        Ok(()) => Decision::Allowed(String::new()),
        Err(why) => Decision::Refused(why),
    })
}

type Verdict = Result<(), String>;

fn refuse(why: impl Into<String>) -> Verdict {
    Err(why.into())
}

/// A node reads by name what one of its pods refers to.
fn reads(
    store: &ObjectStore,
    node: &str,
    wanted: &ResourceAttributes,
    refers: fn(&Value, &str) -> bool,
) -> Verdict {
    if !READ.contains(&wanted.verb.as_str()) {
        return refuse("can only read resources of this type");
    }
    if !wanted.subresource.is_empty() {
        return refuse("cannot read subresource");
    }
    if wanted.namespace.is_empty() {
        return refuse("can only read namespaced object of this type");
    }
    if wanted.name.is_empty() {
        return refuse("No Object name found");
    }
    related(store, node, &wanted.namespace, |pod| {
        refers(pod, &wanted.name)
    })
}

fn makes_token(store: &ObjectStore, node: &str, wanted: &ResourceAttributes) -> Verdict {
    if wanted.verb != "create" || wanted.name.is_empty() {
        return refuse("can only create tokens for individual service accounts");
    }
    if wanted.subresource != "token" {
        return refuse("can only create token subresource of serviceaccount");
    }
    related(store, node, &wanted.namespace, |pod| {
        pod["spec"]["serviceAccountName"] == *wanted.name
    })
}

fn on_node(node: &str, wanted: &ResourceAttributes) -> Verdict {
    match (wanted.subresource.as_str(), wanted.verb.as_str()) {
        // What is written is looked at when it is known.
        ("", "create" | "update" | "patch" | "delete") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if wanted.name == node => Ok(()),
        ("", "get" | "list" | "watch") if wanted.name.is_empty() => refuse(format!(
            "node '{node}' cannot read all nodes, only its own Node object"
        )),
        ("", "get" | "list" | "watch") => refuse(format!(
            "node '{node}' cannot read '{}', only its own Node object",
            wanted.name
        )),
        _ => refuse(""),
    }
}

fn on_pod(store: &ObjectStore, node: &str, wanted: &ResourceAttributes) -> Verdict {
    match (wanted.subresource.as_str(), wanted.verb.as_str()) {
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
            Ok(())
        }
        ("", "list" | "watch") if wanted.field("spec.nodeName") == Some(node) => Ok(()),
        ("", "get" | "list" | "watch") if !wanted.name.is_empty() => {
            related(store, node, &wanted.namespace, |pod| {
                pod["metadata"]["name"] == *wanted.name
            })
        }
        ("", "list" | "watch") => {
            refuse("can only list/watch pods with spec.nodeName field selector")
        }
        _ => refuse(""),
    }
}

fn on_lease(node: &str, wanted: &ResourceAttributes) -> Verdict {
    if !matches!(
        wanted.verb.as_str(),
        "get" | "create" | "update" | "patch" | "delete"
    ) {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if wanted.namespace != LEASES {
        return refuse(format!(
            "can only access leases in the {LEASES:?} system namespace"
        ));
    }
    // A new lease's name is in its body, and looked at there.
    if wanted.verb != "create" && wanted.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

/// Looks for a pod of this node in a namespace; only its own pods are parsed.
fn related(
    store: &ObjectStore,
    node: &str,
    namespace: &str,
    fits: impl Fn(&Value) -> bool,
) -> Verdict {
    let pods = kinds::served("v1", "Pod").expect("pods are in the table");
    let field = pods
        .fields
        .iter()
        .position(|field| field.name == "spec.nodeName");
    let prefix = object::prefix(pods, Some(namespace));
    let range = Range {
        prefix: &prefix,
        after: None,
        limit: None,
        at: None,
    };
    let own = store.range(&range, |record| {
        let bound = field.and_then(|field| record.index.fields.get(field));
        bound.is_some_and(|bound| **bound == *node)
    });
    let found = own.is_ok_and(|own| {
        own.records
            .iter()
            .any(|record| fits(&object::parse(record)))
    });
    match found && !namespace.is_empty() {
        true => Ok(()),
        false => refuse(format!(
            "no relationship found between node '{node}' and this object"
        )),
    }
}

/// The containers of a pod, of every sort.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .filter_map(|field| pod["spec"][field].as_array())
        .flatten()
}

/// The volumes of a pod, with the parts of projected ones.
fn volumes(pod: &Value) -> impl Iterator<Item = &Value> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.flat_map(|volume| {
        let parts = volume["projected"]["sources"].as_array();
        std::iter::once(volume).chain(parts.into_iter().flatten())
    })
}

fn from_environment(pod: &Value, list: &str, value: &str, name: &str) -> bool {
    containers(pod).any(|container| {
        let sources = container["envFrom"].as_array().into_iter().flatten();
        let variables = container["env"].as_array().into_iter().flatten();
        let mut whole = sources.map(|source| &source[list]["name"]);
        let mut single = variables.map(|variable| &variable["valueFrom"][value]["name"]);
        whole.any(|found| found == name) || single.any(|found| found == name)
    })
}

fn references_secret(pod: &Value, name: &str) -> bool {
    let pulls = pod["spec"]["imagePullSecrets"].as_array();
    pulls
        .into_iter()
        .flatten()
        .any(|secret| secret["name"] == name)
        || volumes(pod).any(|volume| {
            volume["secret"]["secretName"] == name || volume["secret"]["name"] == name
        })
        || from_environment(pod, "secretRef", "secretKeyRef", name)
}

fn references_config_map(pod: &Value, name: &str) -> bool {
    volumes(pod).any(|volume| volume["configMap"]["name"] == name)
        || from_environment(pod, "configMapRef", "configMapKeyRef", name)
}

/// Refuses what a node may not write; `old` is present on update.
pub(crate) fn admit(call: &Call, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
    let Some(node) = name_of(&call.caller) else {
        return Ok(());
    };
    let info = call.objects.info;
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    match (info.kind, call.objects.subresource) {
        ("Pod", None) => admit_pod(info, node, new),
        ("Node", None | Some(Subresource::Status)) => admit_node(info, node, old, new),
        ("Lease", _) if name != node => Err(refusal(
            info,
            name,
            "can only access node lease with the same name as the requesting node",
        )),
        _ => Ok(()),
    }
}

/// A node writes no pods but the mirrors of those that it has from elsewhere.
fn admit_pod(info: &KindInfo, node: &str, pod: &Value) -> Result<(), ApiError> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
        let why = format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \
                           {node:?} can only create mirror pods"
        );
        return Err(refusal(info, name, &why));
    }
    if pod["spec"]["nodeName"] != node {
        let why = format!("node {node:?} can only create pods with spec.nodeName set to itself");
        return Err(refusal(info, name, &why));
    }
    let account = pod["spec"]["serviceAccountName"]
        .as_str()
        .unwrap_or_default();
    if !account.is_empty() {
        let why = format!("node {node:?} can not create pods that reference a service account");
        return Err(refusal(info, name, &why));
    }
    let objects = ["secret", "configMap", "persistentVolumeClaim", "projected"];
    let refers = volumes(pod).any(|volume| objects.iter().any(|kind| !volume[*kind].is_null()));
    let from = containers(pod).any(|container| !container["envFrom"].is_null());
    if refers || from {
        let why = format!("node {node:?} can not create pods that reference other objects");
        return Err(refusal(info, name, &why));
    }
    Ok(())
}

fn admit_node(
    info: &KindInfo,
    node: &str,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), ApiError> {
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    if name != node {
        let why = format!("node {node:?} is not allowed to modify node {name:?}");
        return Err(refusal(info, name, &why));
    }
    let labels = changed_labels(old, new);
    let mut forbidden: Vec<_> = labels
        .into_iter()
        .filter(|label| !may_label(label))
        .collect();
    if !forbidden.is_empty() {
        forbidden.sort_unstable();
        let why = format!("is not allowed to modify labels: {}", forbidden.join(", "));
        return Err(refusal(info, name, &why));
    }
    let Some(old) = old else {
        return Ok(());
    };
    if old["spec"]["taints"] != new["spec"]["taints"] {
        let why = format!("node {node:?} is not allowed to modify taints");
        return Err(refusal(info, name, &why));
    }
    if old["metadata"]["ownerReferences"] != new["metadata"]["ownerReferences"] {
        let why = format!("node {node:?} is not allowed to modify ownerReferences");
        return Err(refusal(info, name, &why));
    }
    Ok(())
}

fn changed_labels(old: Option<&Value>, new: &Value) -> Vec<String> {
    let empty = serde_json::Map::new();
    let labels = |object: Option<&Value>| {
        let labels = object.and_then(|object| object["metadata"]["labels"].as_object());
        labels.unwrap_or(&empty).clone()
    };
    let (old, new) = (labels(old), labels(Some(new)));
    let changed = new
        .iter()
        .filter(|(key, value)| old.get(*key) != Some(value));
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    changed.map(|(key, _)| key).chain(gone).cloned().collect()
}

fn may_label(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else {
        return true;
    };
    let within = |zone: &str| {
        domain
            .strip_suffix(zone)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if within("kubelet.kubernetes.io") || within("node.kubernetes.io") {
        return true;
    }
    let system = within("kubernetes.io") || within("k8s.io");
    OWN_LABELS.contains(&label) || !system
}

/// Refuses what a node may not delete or touch of what is there.
pub(crate) fn admit_part(store: &ObjectStore, call: &Call) -> Result<(), ApiError> {
    let Some(node) = name_of(&call.caller) else {
        return Ok(());
    };
    let (info, name) = (
        call.objects.info,
        call.objects.name.as_deref().unwrap_or_default(),
    );
    match (info.kind, call.objects.subresource, call.verb) {
        ("Node", None, Verb::Delete) if name != node => {
            let why = format!("node {node:?} is not allowed to delete node {name:?}");
            Err(refusal(info, name, &why))
        }
        ("Pod", None, Verb::Delete)
        | ("Pod", Some(Subresource::Status | Subresource::Eviction), _) => {
            let key = object::key(info, call.objects.namespace.as_deref(), name);
            // Of a pod that is not there, the verb itself says so.
            let Some(record) = store.get(&key) else {
                return Ok(());
            };
            if object::parse(&record)["spec"]["nodeName"] == node {
                return Ok(());
            }
            let doing = match (call.objects.subresource, call.verb) {
                (None, _) => "delete pods",
                (Some(Subresource::Status), _) => "update pod status for pods",
                (Some(_), _) => "evict pods",
            };
            let why = format!("node {node:?} can only {doing} with spec.nodeName set to itself");
            Err(refusal(info, name, &why))
        }
        _ => Ok(()),
    }
}

/// Refuses a token that a node asks for and that is not for one of its pods.
pub(crate) fn admit_token(
    authorizer: &Authorizer,
    call: &Call,
    request: &Value,
) -> Result<(), ApiError> {
    let Some(node) = name_of(&call.caller) else {
        return Ok(());
    };
    let objects = &call.objects;
    let account = objects.name.as_deref().unwrap_or_default();
    let refuse = |why: &str| Err(refusal(objects.info, account, why));
    let bound = &request["spec"]["boundObjectRef"];
    let text = |field: &str| bound[field].as_str().unwrap_or_default();
    if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
        return refuse("node requested token not bound to a pod");
    }
    if text("uid").is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    let pods = kinds::served("v1", "Pod").expect("pods are in the table");
    let key = object::key(pods, objects.namespace.as_deref(), text("name"));
    let record = authorizer.store.get(&key);
    let record = record.ok_or_else(|| ApiError::not_found(pods, text("name")))?;
    if *record.index.uid != *text("uid") {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The \
             object might have been deleted and then recreated",
            text("uid")
        );
        return refuse(&why);
    }
    if record.index.field(pods, "spec.nodeName") != node {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    let audiences = request["spec"]["audiences"].as_array();
    let audience = match audiences.map_or(&[][..], Vec::as_slice) {
        [] => return Ok(()),
        [one] => one.as_str().unwrap_or_default(),
        _ => return refuse("node may only request 0 or 1 audiences"),
    };
    let pod = object::parse(&record);
    let mut mounted = volumes(&pod).map(|volume| &volume["serviceAccountToken"]);
    let named = mounted.any(|token| {
        let asked = token["audience"].as_str().unwrap_or_default();
        !token.is_null() && (asked == audience || asked.is_empty() && audience == ISSUER)
    });
    let wanted = Attributes::Resource(ResourceAttributes {
        verb: "request-serviceaccounts-token-audience".to_owned(),
        resource: audience.to_owned(),
        name: account.to_owned(),
        namespace: objects.namespace.clone().unwrap_or_default(),
        ..ResourceAttributes::default()
    });
    let allowed = authorizer.decide(&call.caller, &wanted);
    match named || matches!(allowed, Decision::Allowed(_)) {
        true => Ok(()),
        false => refuse(&format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request \
             service account tokens for this audience",
            call.caller.name
        )),
    }
}

fn refusal(info: &KindInfo, name: &str, why: &str) -> ApiError {
    ApiError::forbidden(info.group, info.plural, name, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_labels_itself_within_limits() {
        for (label, expected) in [
            ("role", true),
            ("coracle.dev/wasm", true),
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/anything", true),
            ("a.kubelet.kubernetes.io/x", true),
            ("node-restriction.kubernetes.io/x", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("xnode.kubernetes.io/y", false),
            ("k8s.io/x", false),
            ("notkubernetes.io/x", true),
        ] {
            assert_eq!(may_label(label), expected, "{label}");
        }
    }
}
