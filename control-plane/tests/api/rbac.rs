//! What callers may do, by the roles they hold.

use coracle_control_plane::Caller;
use serde_json::{Value, json};

use crate::harness::Harness;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const JSON: &str = "application/json";

pub(crate) fn user(name: &str, groups: &[&str]) -> Caller {
    Caller {
        name: name.to_owned(),
        uid: String::new(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        extra: Default::default(),
    }
}

async fn create(api: &Harness, path: &str, object: Value) {
    let (code, answer) = api.send("POST", path, JSON, &object).await;
    assert_eq!(code, 201, "{path}: {answer}");
}

/// Gives a user `verbs` on pods in `default`.
pub(crate) async fn grant(api: &Harness, name: &str, rules: Value) {
    let path = format!("{RBAC}/namespaces/default");
    let role = json!({"metadata": {"name": name}, "rules": rules});
    create(api, &format!("{path}/roles"), role).await;
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}],
    });
    create(api, &format!("{path}/rolebindings"), binding).await;
}

#[tokio::test]
async fn a_user_does_what_a_role_permits_and_nothing_else() {
    let api = Harness::start().await;
    let jane = user("jane", &["system:authenticated"]);
    let pods = "/api/v1/namespaces/default/pods";
    let (code, answer) = api.send_as(&jane, "GET", pods, Value::Null).await;
    let refusal = "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" \
                   in the namespace \"default\"";
    assert_eq!((code, answer["message"].as_str()), (403, Some(refusal)));
    assert_eq!(answer["reason"], "Forbidden");
    assert_eq!(answer["details"], json!({"kind": "pods"}));
    grant(
        &api,
        "jane",
        json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]),
    )
    .await;
    for (method, path, expected, words) in [
        ("GET", pods.to_owned(), 200, ""),
        ("GET", format!("{pods}/x"), 404, "pods \"x\" not found"),
        (
            "GET",
            format!("{pods}?watch=1"),
            403,
            "pods is forbidden: User \"jane\" cannot watch resource \"pods\" in API group \"\" in \
             the namespace \"default\"",
        ),
        (
            "DELETE",
            format!("{pods}/x"),
            403,
            "pods \"x\" is forbidden: User \"jane\" cannot delete resource \"pods\" in API group \
             \"\" in the namespace \"default\"",
        ),
        (
            "GET",
            "/api/v1/nodes".to_owned(),
            403,
            "nodes is forbidden: User \"jane\" cannot list resource \"nodes\" in API group \"\" at \
             the cluster scope",
        ),
        (
            "GET",
            "/metrics".to_owned(),
            403,
            "forbidden: User \"jane\" cannot get path \"/metrics\"",
        ),
        ("GET", "/apis".to_owned(), 200, ""),
    ] {
        let (code, answer) = api.send_as(&jane, method, &path, Value::Null).await;
        assert_eq!(code, expected, "{method} {path}: {answer}");
        assert_eq!(answer["message"].as_str().unwrap_or_default(), words);
    }
    let binding = format!("{RBAC}/namespaces/default/rolebindings/jane");
    api.send("DELETE", &binding, JSON, &Value::Null).await;
    let (code, _) = api.send_as(&jane, "GET", pods, Value::Null).await;
    assert_eq!(code, 403, "a binding that is gone gives nothing");
}

#[tokio::test]
async fn everyone_may_see_health_and_version_and_nothing_else() {
    let api = Harness::start().await;
    let nobody = user("system:anonymous", &["system:unauthenticated"]);
    for (path, expected) in [
        ("/healthz", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/version", 200),
        ("/api", 403),
        ("/apis", 403),
        ("/openapi/v3", 403),
        ("/api/v1/namespaces", 403),
        ("/api/v1/nonsense", 403),
    ] {
        let response = api.response_as(&nobody, "GET", path, Value::Null).await;
        assert_eq!(response.status().as_u16(), expected, "{path}");
    }
}

#[tokio::test]
async fn a_binding_to_a_role_that_is_missing_says_so() {
    let api = Harness::start().await;
    let binding = json!({
        "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "gone"},
        "subjects": [{"kind": "Group", "name": "dev", "apiGroup": "rbac.authorization.k8s.io"}],
    });
    create(&api, &format!("{RBAC}/clusterrolebindings"), binding).await;
    let dev = user("joe", &["dev"]);
    let (code, answer) = api.send_as(&dev, "GET", "/api/v1/nodes", Value::Null).await;
    let words = "nodes is forbidden: User \"joe\" cannot list resource \"nodes\" in API group \"\" \
                 at the cluster scope: RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not \
                 found";
    assert_eq!((code, answer["message"].as_str()), (403, Some(words)));
}

#[tokio::test]
async fn nobody_grants_more_than_he_has() {
    let api = Harness::start().await;
    let own = json!([
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
        {"verbs": ["create", "get", "update"], "apiGroups": ["rbac.authorization.k8s.io"],
            "resources": ["roles", "rolebindings"]},
    ]);
    grant(&api, "jane", own).await;
    let jane = user("jane", &["dev", "system:authenticated"]);
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = |name: &str, verbs: &[&str]| {
        json!({"metadata": {"name": name},
            "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods", "secrets"]}]})
    };
    let (code, answer) = api
        .send_as(&jane, "POST", &roles, role("big", &["get", "list"]))
        .await;
    let words = "roles.rbac.authorization.k8s.io \"big\" is forbidden: user \"jane\" (groups=[\"dev\" \
                 \"system:authenticated\"]) is attempting to grant RBAC permissions not currently \
                 held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}\n\
                 {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}";
    assert_eq!((code, answer["message"].as_str()), (403, Some(words)));
    let small = json!({"metadata": {"name": "small"},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    let (code, answer) = api.send_as(&jane, "POST", &roles, small).await;
    assert_eq!(code, 201, "{answer}");
    create(&api, &roles, role("big", &["get", "list"])).await;
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let binding = |kind: &str, role: &str| {
        json!({"metadata": {"name": format!("b-{role}")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"kind": "User", "name": "joe",
                "apiGroup": "rbac.authorization.k8s.io"}]})
    };
    for (kind, role, expected) in [
        ("Role", "small", 201),
        ("Role", "big", 403),
        ("ClusterRole", "cluster-admin", 403),
        ("Role", "gone", 404),
    ] {
        let body = binding(kind, role);
        let (code, answer) = api.send_as(&jane, "POST", &bindings, body).await;
        assert_eq!(code, expected, "{role}: {answer}");
    }
    let bind = json!([{"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["roles"], "resourceNames": ["big"]}]);
    let path = format!("{RBAC}/namespaces/default/roles/jane");
    let (_, mut role) = api.send("GET", &path, JSON, &Value::Null).await;
    let rules = role["rules"].as_array_mut().unwrap();
    rules.extend(bind.as_array().unwrap().clone());
    let (code, answer) = api.send("PUT", &path, JSON, &role).await;
    assert_eq!(code, 200, "{answer}");
    let (code, answer) = api
        .send_as(&jane, "POST", &bindings, binding("Role", "big"))
        .await;
    assert_eq!(code, 201, "whoever may bind needs no more: {answer}");
}

#[tokio::test]
async fn acting_as_someone_else_needs_permission() {
    let api = Harness::start().await;
    let root = user("root", &["system:masters"]);
    let headers = |pairs: &[(&str, &str)]| {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect::<Vec<_>>()
    };
    let nodes = "/api/v1/nodes";
    let as_jane = headers(&[("Impersonate-User", "jane"), ("Impersonate-Group", "dev")]);
    let (code, answer) = api.send_acting(&root, "GET", nodes, &as_jane).await;
    assert_eq!(code, 403);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("User \"jane\" cannot list")
    );
    let as_master = headers(&[
        ("Impersonate-User", "jane"),
        ("Impersonate-Group", "system:masters"),
    ]);
    let (code, _) = api.send_acting(&root, "GET", nodes, &as_master).await;
    assert_eq!(code, 200);
    let joe = user("joe", &["system:authenticated"]);
    for (pairs, words) in [
        (
            vec![("Impersonate-User", "jane")],
            "users \"jane\" is forbidden: User \"joe\" cannot impersonate resource \"users\" in API \
             group \"\" at the cluster scope",
        ),
        (
            vec![("Impersonate-User", "system:serviceaccount:a:b")],
            "serviceaccounts \"b\" is forbidden: User \"joe\" cannot impersonate resource \
             \"serviceaccounts\" in API group \"\" in the namespace \"a\"",
        ),
    ] {
        let (code, answer) = api.send_acting(&joe, "GET", nodes, &headers(&pairs)).await;
        assert_eq!((code, answer["message"].as_str()), (403, Some(words)));
    }
    let group_only = headers(&[("Impersonate-Group", "dev")]);
    let (code, _) = api.send_acting(&root, "GET", nodes, &group_only).await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn an_aggregated_role_follows_the_roles_it_gathers() {
    let api = Harness::start().await;
    let role = json!({
        "metadata": {"name": "more-view",
            "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"verbs": ["get"], "apiGroups": ["example.dev"], "resources": ["boats"]}],
    });
    create(&api, &format!("{RBAC}/clusterroles"), role).await;
    for name in ["view", "edit", "admin"] {
        let path = format!("{RBAC}/clusterroles/{name}");
        api.until(&path, |role| {
            let rules = role["rules"].as_array();
            let mut rules = rules.into_iter().flatten();
            rules.any(|rule| rule["apiGroups"] == json!(["example.dev"]))
        })
        .await;
    }
}

#[tokio::test]
async fn a_node_sees_its_own_affairs() {
    let api = Harness::start().await;
    let node = |name: &str| json!({"metadata": {"name": name}});
    let one = user("system:node:one", &["system:nodes", "system:authenticated"]);
    let (code, answer) = api
        .send_as(&one, "POST", "/api/v1/nodes", node("one"))
        .await;
    assert_eq!(code, 201, "{answer}");
    let (code, answer) = api
        .send_as(&one, "POST", "/api/v1/nodes", node("two"))
        .await;
    assert_eq!(code, 403, "{answer}");
    let pods = "/api/v1/namespaces/default/pods";
    for (name, secret) in [("one", "mine"), ("two", "theirs")] {
        let pod = json!({
            "metadata": {"name": name},
            "spec": {"nodeName": name, "containers": [{"name": "c", "image": "i"}],
                "automountServiceAccountToken": false,
                "volumes": [{"name": "v", "secret": {"secretName": secret}}]},
        });
        let secret = json!({"metadata": {"name": secret}});
        create(&api, "/api/v1/namespaces/default/secrets", secret).await;
        create(&api, pods, pod).await;
    }
    for (method, path, expected) in [
        ("GET", "/api/v1/namespaces/default/secrets/mine", 200),
        ("GET", "/api/v1/namespaces/default/secrets/theirs", 403),
        ("GET", "/api/v1/namespaces/default/secrets", 403),
        ("GET", "/api/v1/secrets", 403),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Done", 200),
        ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dtwo", 403),
        ("GET", "/api/v1/pods", 403),
        ("GET", "/api/v1/nodes/one", 200),
        ("GET", "/api/v1/nodes/two", 403),
        (
            "GET",
            "/api/v1/nodes?fieldSelector=metadata.name%3Done",
            200,
        ),
        ("GET", "/api/v1/services", 200),
        ("GET", "/apis/discovery.k8s.io/v1/endpointslices", 403),
        ("DELETE", "/api/v1/namespaces/default/pods/two", 403),
        (
            "DELETE",
            "/api/v1/namespaces/default/pods/one?gracePeriodSeconds=0",
            200,
        ),
        (
            "GET",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/two",
            403,
        ),
        (
            "GET",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/one",
            404,
        ),
    ] {
        let (code, answer) = api.send_as(&one, method, path, Value::Null).await;
        assert_eq!(code, expected, "{method} {path}: {answer}");
    }
    let patch = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
    let merge = "application/merge-patch+json";
    let path = "/api/v1/nodes/one";
    let (code, answer) = api.send_media(&one, "PATCH", path, merge, patch).await;
    assert_eq!(code, 403, "{answer}");
}

/// A token lets whoever has it act as its account, so a node gets only those its pods need.
#[tokio::test]
async fn a_node_gets_tokens_for_its_own_pods_alone() {
    let api = Harness::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    create(&api, accounts, json!({"metadata": {"name": "robot"}})).await;
    let mut uids = Vec::new();
    for node in ["one", "two"] {
        let pod = json!({
            "metadata": {"name": node},
            "spec": {"nodeName": node, "serviceAccountName": "robot",
                "containers": [{"name": "c", "image": "i"}],
                "volumes": [{"name": "t", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "t", "audience": "vault"}}]}}]},
        });
        let pods = "/api/v1/namespaces/default/pods";
        let (code, pod) = api.send("POST", pods, JSON, &pod).await;
        assert_eq!(code, 201, "{pod}");
        uids.push(pod["metadata"]["uid"].clone());
    }
    let one = user("system:node:one", &["system:nodes", "system:authenticated"]);
    let bound = |name: &str, uid: &Value, audience: &str| {
        json!({"spec": {"audiences": [audience], "boundObjectRef":
            {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}}})
    };
    let path = format!("{accounts}/robot/token");
    for (body, code, words) in [
        (bound("one", &uids[0], "vault"), 201, ""),
        (json!({}), 403, "node requested token not bound to a pod"),
        (bound("one", &json!(""), "vault"), 403, "without a uid"),
        (
            bound("two", &uids[1], "vault"),
            403,
            "scheduled on a different node",
        ),
        (
            bound("one", &uids[0], "bank"),
            403,
            "audience \"bank\" not found in pod spec volume",
        ),
    ] {
        let (found, answer) = api.send_as(&one, "POST", &path, body).await;
        assert_eq!(found, code, "{answer}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{answer}");
    }
    let three = user("system:node:three", &["system:nodes"]);
    let body = bound("one", &uids[0], "vault");
    let (code, _) = api.send_as(&three, "POST", &path, body).await;
    assert_eq!(code, 403);
}

/// A PUT of a lease that is not there creates it, which the right to change leases does not cover.
#[tokio::test]
async fn a_change_that_creates_needs_the_right_to_create() {
    let api = Harness::start().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": "a"}});
    create(&api, leases, lease("there")).await;
    let rule = |verbs: &[&str]| json!([{"verbs": verbs, "apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}]);
    grant(&api, "changer", rule(&["update"])).await;
    grant(&api, "maker", rule(&["create", "update"])).await;
    for (name, lease_name, code) in [
        // He may, and is told that changes of leases name a revision.
        ("changer", "there", 422),
        ("changer", "new", 403),
        ("maker", "new", 201),
    ] {
        let path = format!("{leases}/{lease_name}");
        let user = user(name, &["system:authenticated"]);
        let (found, answer) = api.send_as(&user, "PUT", &path, lease(lease_name)).await;
        assert_eq!(found, code, "{name} {lease_name}: {answer}");
    }
}
