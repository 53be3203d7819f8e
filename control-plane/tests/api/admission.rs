//! What the server adds to objects and demands of them beyond their own form.

use serde_json::{Value, json};

use crate::harness::{Harness, check};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const PRIORITIES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
const RUNTIMES: &str = "/apis/node.k8s.io/v1/runtimeclasses";
const RANGES: &str = "/api/v1/namespaces/default/limitranges";

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}

fn forbidden(message: &str) -> Value {
    json!({"kind": "Status", "reason": "Forbidden", "message": message})
}

#[tokio::test]
async fn a_pod_gets_an_account_a_priority_and_patience() {
    let api = Harness::start().await;
    let patience = |key: &str| {
        json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": 300})
    };
    let expected = json!({"spec": {
        "serviceAccountName": "default",
        "serviceAccount": "default",
        "priority": 0,
        "preemptionPolicy": "PreemptLowerPriority",
        "tolerations": [patience("not-ready"), patience("unreachable")],
    }});
    check(&api, "POST", PODS, pod("a", json!({})), 201, expected).await;
}

#[tokio::test]
// tidy: table, because each step is a pod and what becomes of it
async fn what_a_pod_names_has_to_exist() {
    let api = Harness::start().await;
    for (spec, message) in [
        (
            json!({"serviceAccountName": "robot"}),
            "pods \"a\" is forbidden: error looking up service account default/robot: \
             serviceaccount \"robot\" not found",
        ),
        (
            json!({"priorityClassName": "high"}),
            "pods \"a\" is forbidden: no PriorityClass with name high was found",
        ),
        (
            json!({"priority": 5}),
            "pods \"a\" is forbidden: the integer value of priority (5) must not be provided in pod \
             spec; priority admission controller computed 0 from the given PriorityClass name",
        ),
        (
            json!({"runtimeClassName": "kata"}),
            "pods \"a\" is forbidden: pod rejected: RuntimeClass \"kata\" not found",
        ),
        (
            json!({"overhead": {"cpu": "1"}}),
            "pods \"a\" is forbidden: pod rejected: Pod Overhead set without corresponding \
             RuntimeClass defined Overhead",
        ),
    ] {
        check(&api, "POST", PODS, pod("a", spec), 403, forbidden(message)).await;
    }
    let robot = json!({"metadata": {"name": "robot"}, "imagePullSecrets": [{"name": "key"}]});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    check(&api, "POST", accounts, robot, 201, json!({})).await;
    let high = json!({"metadata": {"name": "high"}, "value": 7});
    check(
        &api,
        "POST",
        PRIORITIES,
        high,
        201,
        json!({"generation": null}),
    )
    .await;
    let kata = json!({"metadata": {"name": "kata"}, "handler": "kata",
        "overhead": {"podFixed": {"cpu": "100m"}},
        "scheduling": {"nodeSelector": {"kata": "yes"}}});
    check(&api, "POST", RUNTIMES, kata, 201, json!({})).await;
    let spec = json!({"serviceAccountName": "robot", "priorityClassName": "high",
        "runtimeClassName": "kata"});
    let expected = json!({"spec": {"imagePullSecrets": [{"name": "key"}], "priority": 7,
        "overhead": {"cpu": "100m"}, "nodeSelector": {"kata": "yes"}}});
    check(&api, "POST", PODS, pod("a", spec), 201, expected).await;
}

#[tokio::test]
async fn one_priority_class_is_the_default() {
    let api = Harness::start().await;
    let class = |name: &str| json!({"metadata": {"name": name}, "value": 3, "globalDefault": true});
    check(&api, "POST", PRIORITIES, class("usual"), 201, json!({})).await;
    let message = "priorityclasses.scheduling.k8s.io \"other\" is forbidden: PriorityClass usual is \
                   already marked as default. Only one default can exist";
    check(
        &api,
        "POST",
        PRIORITIES,
        class("other"),
        403,
        forbidden(message),
    )
    .await;
    let expected = json!({"spec": {"priorityClassName": "usual", "priority": 3}});
    check(&api, "POST", PODS, pod("a", json!({})), 201, expected).await;
}

#[tokio::test]
async fn ranges_of_limits_complete_and_refuse() {
    let api = Harness::start().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "500m"}}]}});
    check(&api, "POST", RANGES, range, 201, json!({})).await;
    let expected = json!({
        "metadata": {"annotations": {"kubernetes.io/limit-ranger":
            "LimitRanger plugin set: cpu request for container c; cpu limit for container c"}},
        "spec": {"containers": [{"resources": {"limits": {"cpu": "500m"},
            "requests": {"cpu": "500m"}}}]},
        "status": {"qosClass": "Burstable"},
    });
    check(&api, "POST", PODS, pod("a", json!({})), 201, expected).await;
    let greedy = json!({"containers": [{"name": "c", "image": "i",
        "resources": {"limits": {"cpu": "2"}}}]});
    let message = "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2";
    check(
        &api,
        "POST",
        PODS,
        pod("b", greedy),
        403,
        forbidden(message),
    )
    .await;
}

#[tokio::test]
async fn a_nodes_taints_follow_its_conditions() {
    let api = Harness::start().await;
    let taint = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
    let node = json!({"metadata": {"name": "n"}});
    let expected = json!({"spec": {"taints": taint}});
    check(&api, "POST", "/api/v1/nodes", node, 201, expected).await;
    let merge = "application/merge-patch+json";
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let (code, node) = api
        .send("PATCH", "/api/v1/nodes/n/status", merge, &ready)
        .await;
    assert_eq!(
        (code, &node["spec"]["taints"]),
        (200, &Value::Null),
        "{node}"
    );
    let cordon = json!({"spec": {"unschedulable": true}});
    let (code, node) = api.send("PATCH", "/api/v1/nodes/n", merge, &cordon).await;
    let key = &node["spec"]["taints"][0]["key"];
    assert_eq!(
        (code, key),
        (200, &json!("node.kubernetes.io/unschedulable")),
        "{node}"
    );
}

#[tokio::test]
async fn a_service_gets_an_address_and_keeps_it() {
    let api = Harness::start().await;
    let web = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    let expected = json!({"spec": {"type": "ClusterIP", "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}]},
        "status": {"loadBalancer": {}}});
    let made = check(&api, "POST", SERVICES, web.clone(), 201, expected).await;
    let address = made["spec"]["clusterIP"].clone();
    assert!(address.as_str().unwrap().starts_with("10.96."), "{made}");
    assert_eq!(made["spec"]["clusterIPs"], json!([address]));
    let path = format!("{SERVICES}/web");
    let same = json!({"spec": {"clusterIP": address}});
    check(&api, "PUT", &path, web.clone(), 200, same).await;
    let mut moved = web.clone();
    moved["spec"]["clusterIP"] = json!("10.96.0.200");
    let expected = json!({"reason": "Invalid", "details": {"causes": [{
        "reason": "FieldValueInvalid", "field": "spec.clusterIPs[0]",
        "message": "Invalid value: [\"10.96.0.200\"]: may not change once set"}]}});
    check(&api, "PUT", &path, moved, 422, expected).await;
    let mut rival = web.clone();
    rival["metadata"]["name"] = json!("rival");
    rival["spec"]["clusterIP"] = address.clone();
    let text = address.as_str().unwrap();
    let expected = json!({"message": format!("Service \"rival\" is invalid: spec.clusterIPs: \
        Invalid value: [{address}]: failed to allocate IP {text}: provided IP is already allocated")});
    check(&api, "POST", SERVICES, rival.clone(), 422, expected).await;
    check(&api, "DELETE", &path, Value::Null, 200, json!({})).await;
    let expected = json!({"spec": {"clusterIP": address}});
    check(&api, "POST", SERVICES, rival, 201, expected).await;
}

#[tokio::test]
async fn node_ports_come_with_the_type_and_go_with_it() {
    let api = Harness::start().await;
    let of = |name: &str, kind: &str, port: Value| json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [port]}});
    let made = of("a", "NodePort", json!({"port": 80}));
    let made = check(&api, "POST", SERVICES, made, 201, json!({})).await;
    let port = made["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30_086..=32_767).contains(&port), "{made}");
    let rival = of("b", "NodePort", json!({"port": 80, "nodePort": port}));
    let message = format!(
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: {port}: provided port is \
         already allocated"
    );
    check(
        &api,
        "POST",
        SERVICES,
        rival.clone(),
        422,
        json!({"message": message}),
    )
    .await;
    let inside = of("a", "ClusterIP", json!({"port": 80}));
    let path = format!("{SERVICES}/a");
    let made = check(&api, "PUT", &path, inside, 200, json!({})).await;
    assert_eq!(made["spec"]["ports"][0].get("nodePort"), None, "{made}");
    check(&api, "POST", SERVICES, rival, 201, json!({})).await;
}

/// Two requests that come at the same time never get the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn addresses_are_given_once() {
    let api = std::sync::Arc::new(Harness::start().await);
    let many = (0..200).map(|index| {
        let api = std::sync::Arc::clone(&api);
        tokio::spawn(async move {
            let service = json!({"metadata": {"name": format!("s{index}")},
                "spec": {"type": "NodePort", "ports": [{"port": 1}]}});
            let (code, made) = api
                .send("POST", SERVICES, "application/json", &service)
                .await;
            assert_eq!(code, 201, "{made}");
            let spec = &made["spec"];
            (
                spec["clusterIP"].to_string(),
                spec["ports"][0]["nodePort"].to_string(),
            )
        })
    });
    let (mut addresses, mut ports) = (std::collections::HashSet::new(), Default::default());
    let mut seen = |address, port, ports: &mut std::collections::HashSet<String>| {
        assert!(addresses.insert(address) && ports.insert(port));
    };
    for made in many.collect::<Vec<_>>() {
        let (address, port) = made.await.unwrap();
        seen(address, port, &mut ports);
    }
    assert_eq!(ports.len(), 200);
}
