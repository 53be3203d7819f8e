//! Questions about access and identity.

use std::collections::BTreeMap;

use coracle_control_plane::Caller;
use serde_json::{Value, json};

use crate::harness::{Harness, contains};

const ACCESS: &str = "/apis/authorization.k8s.io/v1";
const IDENTITY: &str = "/apis/authentication.k8s.io/v1";

fn jane() -> Caller {
    Caller {
        name: "jane".to_owned(),
        uid: "u-1".to_owned(),
        groups: vec!["dev".to_owned(), "system:authenticated".to_owned()],
        extra: BTreeMap::from([("team".to_owned(), vec!["blue".to_owned()])]),
    }
}

fn root() -> Caller {
    Caller {
        name: "root".to_owned(),
        uid: String::new(),
        groups: vec!["system:masters".to_owned()],
        extra: BTreeMap::new(),
    }
}

async fn ask(api: &Harness, caller: &Caller, path: &str, spec: Value) -> (u16, Value) {
    api.send_as(caller, "POST", path, json!({"spec": spec}))
        .await
}

#[tokio::test]
async fn access_is_answered_as_it_would_be_decided() {
    let api = Harness::start().await;
    let binding = json!({"metadata": {"name": "devs"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "Group", "name": "dev", "apiGroup": "rbac.authorization.k8s.io"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let (code, answer) = api
        .send("POST", bindings, "application/json", &binding)
        .await;
    assert_eq!(code, 201, "{answer}");
    let reason = "RBAC: allowed by RoleBinding \"devs/default\" of ClusterRole \"view\" to Group \
                  \"dev\"";
    let pods = |namespace: &str, verb: &str| json!({"resourceAttributes": {"namespace": namespace, "verb": verb, "resource": "pods"}});
    let own = format!("{ACCESS}/selfsubjectaccessreviews");
    for (spec, expected) in [
        (
            pods("default", "list"),
            json!({"allowed": true, "reason": reason}),
        ),
        (pods("default", "create"), json!({"allowed": false})),
        (pods("kube-system", "list"), json!({"allowed": false})),
        (
            json!({"nonResourceAttributes": {"path": "/healthz", "verb": "get"}}),
            json!({"allowed": true}),
        ),
        (
            json!({"nonResourceAttributes": {"path": "/metrics", "verb": "get"}}),
            json!({"allowed": false}),
        ),
    ] {
        let (code, answer) = ask(&api, &jane(), &own, spec).await;
        assert_eq!(code, 201, "{answer}");
        contains(&answer["status"], &expected, "status");
    }
    let named = format!("{ACCESS}/subjectaccessreviews");
    let mut spec = pods("default", "list");
    spec["user"] = json!("someone");
    spec["groups"] = json!(["dev"]);
    let (code, answer) = ask(&api, &root(), &named, spec.clone()).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
    let (code, _) = ask(&api, &jane(), &named, spec.clone()).await;
    assert_eq!(code, 403, "asking about others needs permission");
    let local = format!("{ACCESS}/namespaces/default/localsubjectaccessreviews");
    let (code, answer) = ask(&api, &root(), &local, spec.clone()).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
    let elsewhere = format!("{ACCESS}/namespaces/kube-system/localsubjectaccessreviews");
    let (code, answer) = ask(&api, &root(), &elsewhere, spec).await;
    let words = "LocalSubjectAccessReview.authorization.k8s.io \"\" is invalid: \
                 spec.resourceAttributes.namespace: Invalid value: \"default\": must match \
                 metadata.namespace";
    assert_eq!((code, answer["message"].as_str()), (422, Some(words)));
}

#[tokio::test]
async fn questions_that_make_no_sense_are_refused() {
    let api = Harness::start().await;
    let own = format!("{ACCESS}/selfsubjectaccessreviews");
    let both = json!({"resourceAttributes": {"verb": "get"},
        "nonResourceAttributes": {"path": "/", "verb": "get"}});
    let named = format!("{ACCESS}/subjectaccessreviews");
    for (path, spec, code) in [
        (own.as_str(), json!({}), 422),
        (&own, both, 422),
        (&named, json!({"resourceAttributes": {"verb": "get"}}), 422),
        (&format!("{ACCESS}/selfsubjectrulesreviews"), json!({}), 400),
        (&format!("{IDENTITY}/tokenreviews"), json!({}), 400),
    ] {
        let (found, answer) = ask(&api, &root(), path, spec).await;
        assert_eq!(found, code, "{path}: {answer}");
    }
    let (code, _) = api.send("GET", &own, "", &Value::Null).await;
    assert_eq!(code, 405, "there is nothing to read");
}

#[tokio::test]
async fn rules_and_identity_are_told() {
    let api = Harness::start().await;
    let rules = format!("{ACCESS}/selfsubjectrulesreviews");
    let (code, answer) = ask(&api, &jane(), &rules, json!({"namespace": "default"})).await;
    assert_eq!(code, 201, "{answer}");
    let resources = answer["status"]["resourceRules"].as_array().unwrap();
    assert!(
        resources
            .iter()
            .any(|rule| rule["resources"] == json!(["selfsubjectreviews"]))
    );
    let paths = answer["status"]["nonResourceRules"].as_array().unwrap();
    let health = |rule: &&Value| {
        rule["nonResourceURLs"]
            .as_array()
            .unwrap()
            .contains(&json!("/healthz"))
    };
    assert!(paths.iter().any(|rule| health(&rule)));
    let who = format!("{IDENTITY}/selfsubjectreviews");
    let (code, answer) = api.send_as(&jane(), "POST", &who, json!({})).await;
    let expected = json!({"username": "jane", "uid": "u-1",
        "groups": ["dev", "system:authenticated"], "extra": {"team": ["blue"]}});
    assert_eq!((code, &answer["status"]["userInfo"]), (201, &expected));
}

#[tokio::test]
async fn tokens_are_bound_to_what_they_were_made_for() {
    let api = Harness::start().await;
    let send = async |method: &str, path: &str, body: Value| {
        api.send(method, path, "application/json", &body).await
    };
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    send("POST", accounts, json!({"metadata": {"name": "robot"}})).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    send("POST", secrets, json!({"metadata": {"name": "s"}})).await;
    let path = format!("{accounts}/robot/token");
    let bound = |kind: &str, name: &str, uid: &str| {
        json!({"spec": {"audiences": ["vault"], "boundObjectRef":
            {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}}})
    };
    for (body, code, words) in [
        (
            bound("ConfigMap", "c", ""),
            400,
            "cannot bind token to object of type /v1, Kind=ConfigMap",
        ),
        (bound("Pod", "p", ""), 404, "pods \"p\" not found"),
        (
            bound("Secret", "s", "other"),
            409,
            "does not match the UID in record",
        ),
        (
            json!({"spec": {"expirationSeconds": 599}}),
            422,
            "may not specify a duration less than 10 minutes",
        ),
        (
            json!({"spec": {"expirationSeconds": 1_i64 << 33}}),
            422,
            "larger than 2^32 seconds",
        ),
    ] {
        let (found, answer) = send("POST", &path, body).await;
        assert_eq!(found, code, "{answer}");
        assert!(
            answer["message"].as_str().unwrap().contains(words),
            "{answer}"
        );
    }
    let (code, _) = send("POST", &format!("{accounts}/nobody/token"), json!({})).await;
    assert_eq!(code, 404);
    let (code, answer) = send("POST", &path, bound("Secret", "s", "")).await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].clone();
    let reviews = format!("{IDENTITY}/tokenreviews");
    let review = async |audience: &str| {
        let spec = json!({"token": token, "audiences": [audience]});
        let (code, answer) = ask(&api, &root(), &reviews, spec).await;
        assert_eq!(code, 201, "{answer}");
        answer["status"].clone()
    };
    let status = review("vault").await;
    contains(
        &status,
        &json!({"authenticated": true, "audiences": ["vault"],
            "user": {"username": "system:serviceaccount:default:robot"}}),
        "status",
    );
    assert_eq!(review("elsewhere").await["authenticated"], Value::Null);
    send("DELETE", &format!("{secrets}/s"), Value::Null).await;
    assert_eq!(
        review("vault").await["error"],
        "service account token has been invalidated"
    );
}
