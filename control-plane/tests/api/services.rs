//! Services and what is made for them: slices and Endpoints that follow pods, slices of Endpoints that
//! a person wrote, addresses of load balancers, and what every cluster has.

use std::time::Instant;

use coracle_control_plane::{
    ControlPlane, ControlPlaneConfig, OpenError, ServiceRanges, StartError,
};
use serde_json::{Value, json};

use crate::harness::{Harness, PATIENCE, check};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const PODS: &str = "/api/v1/namespaces/default/pods";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
/// When pods become ready, and cease to be.
const READY: &str = "2026-01-02T03:04:06Z";
const UNREADY: &str = "2026-01-02T03:04:05Z";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// Asks again until the answer is right.
async fn until(api: &Harness, path: &str, is_right: impl Fn(u16, &Value) -> bool) -> Value {
    let again = async {
        loop {
            let (code, answer) = api.send("GET", path, JSON, &Value::Null).await;
            if is_right(code, &answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    match tokio::time::timeout(PATIENCE, again).await {
        Ok(answer) => answer,
        Err(_) => {
            let (_, answer) = api.send("GET", path, JSON, &Value::Null).await;
            panic!("{path} is still {answer:#}");
        }
    }
}

async fn merge(api: &Harness, path: &str, patch: Value) {
    let (code, answer) = api.send("PATCH", path, MERGE, &patch).await;
    assert_eq!(code, 200, "{answer}");
}

async fn create(api: &Harness, path: &str, object: Value) -> Value {
    check(api, "POST", path, object, 201, json!({})).await
}

async fn delete(api: &Harness, path: &str) {
    check(api, "DELETE", path, Value::Null, 200, json!({})).await;
}

/// A node that pods can be on.
async fn node(api: &Harness, name: &str) {
    let labels = json!({"topology.kubernetes.io/zone": "here"});
    let node = json!({"metadata": {"name": name, "labels": labels}});
    create(api, "/api/v1/nodes", node).await;
}

/// A pod that runs, and is ready or not.
async fn pod(api: &Harness, name: &str, address: &str, ready: &str) {
    let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "node", "containers": [{"name": "c", "image": "r.io/a:1",
            "ports": [{"name": "http", "containerPort": 8080}]}]}});
    create(api, PODS, pod).await;
    turn(api, name, address, ready).await;
}

async fn turn(api: &Harness, name: &str, address: &str, ready: &str) {
    let since = if ready == "True" { READY } else { UNREADY };
    let condition = json!({"type": "Ready", "status": ready, "lastTransitionTime": since});
    let status = json!({"status": {"phase": "Running", "podIP": address,
        "podIPs": [{"ip": address}], "conditions": [condition]}});
    merge(api, &format!("{PODS}/{name}/status"), status).await;
}

async fn web(api: &Harness) {
    let service = json!({"metadata": {"name": "web", "labels": {"team": "a"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    create(api, SERVICES, service).await;
}

/// Address and readiness of each endpoint in the only slice of a Service.
fn shown(list: &Value) -> Option<Vec<(String, bool)>> {
    let [slice] = list["items"].as_array()?.as_slice() else {
        return None;
    };
    let endpoints = slice["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
    let mut shown: Vec<_> = endpoints
        .iter()
        .map(|endpoint| {
            let address = endpoint["addresses"][0].as_str().unwrap_or_default();
            let ready = endpoint["conditions"]["ready"] == true;
            (address.to_owned(), ready)
        })
        .collect();
    shown.sort();
    Some(shown)
}

/// Waits until the one slice of `web` shows these, and returns it.
async fn until_shown(api: &Harness, expected: &[(&str, bool)]) -> Value {
    let expected: Vec<_> = expected
        .iter()
        .map(|(address, ready)| ((*address).to_owned(), *ready))
        .collect();
    let path = format!("{SLICES}?labelSelector=kubernetes.io/service-name=web");
    let list = until(api, &path, |_, list| {
        shown(list).is_some_and(|shown| shown == expected)
    });
    list.await["items"][0].clone()
}

/// Waits until the Endpoints of `web` name these as ready and as not ready.
async fn until_named(api: &Harness, ready: &[&str], others: &[&str]) {
    let path = format!("{ENDPOINTS}/web");
    until(api, &path, |_, object| {
        let subset = &object["subsets"][0];
        let names = |field: &str| -> Vec<String> {
            let list = subset[field].as_array().map_or(&[][..], Vec::as_slice);
            list.iter()
                .filter_map(|one| one["ip"].as_str().map(str::to_owned))
                .collect()
        };
        object["kind"] == "Endpoints"
            && names("addresses") == ready
            && names("notReadyAddresses") == others
    })
    .await;
}

#[tokio::test]
async fn a_slice_follows_its_pods_and_its_service() {
    let api = Harness::start().await;
    node(&api, "node").await;
    web(&api).await;
    let empty = until_shown(&api, &[]).await;
    assert_eq!(empty["metadata"]["ownerReferences"][0]["name"], "web");
    assert_eq!(empty["metadata"]["labels"]["team"], "a");
    let name = empty["metadata"]["name"].as_str().unwrap_or_default();
    assert!(name.starts_with("web-") && name.len() > "web-".len());
    pod(&api, "p", "10.244.0.5", "False").await;
    until_shown(&api, &[("10.244.0.5", false)]).await;
    until_named(&api, &[], &["10.244.0.5"]).await;
    turn(&api, "p", "10.244.0.5", "True").await;
    let slice = until_shown(&api, &[("10.244.0.5", true)]).await;
    until_named(&api, &["10.244.0.5"], &[]).await;
    assert_eq!(
        slice["ports"],
        json!([{"name": "", "port": 8080, "protocol": "TCP"}])
    );
    let endpoint = &slice["endpoints"][0];
    assert_eq!(
        (&endpoint["nodeName"], &endpoint["zone"]),
        (&json!("node"), &json!("here"))
    );
    let annotations = &slice["metadata"]["annotations"];
    let trigger = "endpoints.kubernetes.io/last-change-trigger-time";
    assert_eq!(annotations[trigger], READY);
    pod(&api, "q", "10.244.0.6", "True").await;
    let both = [("10.244.0.5", true), ("10.244.0.6", true)];
    until_shown(&api, &both).await;
    until_named(&api, &["10.244.0.5", "10.244.0.6"], &[]).await;
    // A pod that loses its label is out, one that gets it back is in.
    let label = |value: Value| json!({"metadata": {"labels": {"app": value}}});
    merge(&api, &format!("{PODS}/p"), label(json!("other"))).await;
    until_shown(&api, &[("10.244.0.6", true)]).await;
    merge(&api, &format!("{PODS}/p"), label(json!("web"))).await;
    until_shown(&api, &both).await;
    // A pod that is going is not ready, but serves as long as it can.
    delete(&api, &format!("{PODS}/q")).await;
    let slice = until_shown(&api, &[("10.244.0.5", true), ("10.244.0.6", false)]).await;
    let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
    let leaving = endpoints
        .iter()
        .find(|one| one["addresses"][0] == "10.244.0.6");
    let conditions = json!({"ready": false, "serving": true, "terminating": true});
    assert_eq!(leaving.map(|one| &one["conditions"]), Some(&conditions));
    until_named(&api, &["10.244.0.5"], &[]).await;
    delete(&api, &format!("{PODS}/q?gracePeriodSeconds=0")).await;
    until_shown(&api, &[("10.244.0.5", true)]).await;
    change_service(&api).await;
    api.plane.stop().await;
}

/// Edits `web` while `p` runs, and deletes it.
async fn change_service(api: &Harness) {
    let only = format!("{SLICES}?labelSelector=kubernetes.io/service-name=web");
    let service = format!("{SERVICES}/web");
    let ports = json!({"spec": {"ports": [{"port": 80, "targetPort": 9090}]}});
    merge(api, &service, ports).await;
    until(api, &only, |_, list| {
        list["items"][0]["ports"][0]["port"] == 9090
    })
    .await;
    let distribution = json!({"spec": {"trafficDistribution": "PreferSameNode"}});
    merge(api, &service, distribution).await;
    let hints = json!({"forZones": [{"name": "here"}], "forNodes": [{"name": "node"}]});
    until(api, &only, |_, list| {
        list["items"][0]["endpoints"][0]["hints"] == hints
    })
    .await;
    merge(
        api,
        &service,
        json!({"metadata": {"labels": {"team": "b"}}}),
    )
    .await;
    until(api, &only, |_, list| {
        list["items"][0]["metadata"]["labels"]["team"] == "b"
    })
    .await;
    merge(
        api,
        &service,
        json!({"spec": {"selector": {"app": "none"}}}),
    )
    .await;
    until_shown(api, &[]).await;
    until_named(api, &[], &[]).await;
    delete(api, &service).await;
    until(api, &only, |_, list| list["items"] == json!([])).await;
    until(api, &format!("{ENDPOINTS}/web"), |code, _| code == 404).await;
}

#[tokio::test]
async fn a_service_that_looks_after_itself_is_left_alone() {
    let api = Harness::start().await;
    node(&api, "node").await;
    for (name, spec) in [
        ("bare", json!({"ports": [{"port": 80}]})),
        (
            "outside",
            json!({"type": "ExternalName", "externalName": "a.b"}),
        ),
    ] {
        let service = json!({"metadata": {"name": name}, "spec": spec});
        create(&api, SERVICES, service).await;
    }
    // By the time that this one is served, the others would have been.
    web(&api).await;
    until_named(&api, &[], &[]).await;
    let slice = until_shown(&api, &[]).await;
    let list = check(&api, "GET", SLICES, Value::Null, 200, json!({})).await;
    assert_eq!(list["items"], json!([slice]));
    api.plane.stop().await;
}

#[tokio::test]
async fn a_service_is_told_why_it_has_no_slices() {
    let api = Harness::start().await;
    let quota = json!({"metadata": {"name": "none"},
        "spec": {"hard": {"count/endpointslices.discovery.k8s.io": "0"}}});
    create(&api, "/api/v1/namespaces/default/resourcequotas", quota).await;
    web(&api).await;
    let events = "/api/v1/namespaces/default/events\
                  ?fieldSelector=reason=FailedToUpdateEndpointSlices";
    let events = until(&api, events, |_, list| list["items"][0].is_object()).await;
    let event = &events["items"][0];
    assert_eq!(event["involvedObject"]["name"], "web");
    let text = event["message"].as_str().unwrap_or_default();
    assert!(text.contains("exceeded quota"), "{text}");
    // It gets them once it may.
    delete(&api, "/api/v1/namespaces/default/resourcequotas/none").await;
    until_shown(&api, &[]).await;
    api.plane.stop().await;
}

#[tokio::test]
async fn endpoints_that_a_person_wrote_become_slices() {
    let api = Harness::start().await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    create(&api, SERVICES, service).await;
    let endpoints = json!({"metadata": {"name": "web", "labels": {"mine": "x"}}, "subsets": [
        {"addresses": [{"ip": "192.0.2.1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}],
            "ports": [{"port": 8080}]}]});
    create(&api, ENDPOINTS, endpoints).await;
    let slice = until_shown(&api, &[("192.0.2.1", true), ("192.0.2.2", false)]).await;
    let labels = &slice["metadata"]["labels"];
    let manager = &labels["endpointslice.kubernetes.io/managed-by"];
    assert_eq!(manager, "endpointslicemirroring-controller.k8s.io");
    assert_eq!(labels["mine"], "x");
    let change = json!({"subsets": [{"addresses": [{"ip": "192.0.2.3"}], "ports": [{"port": 1}]}]});
    merge(&api, &format!("{ENDPOINTS}/web"), change).await;
    let changed = until_shown(&api, &[("192.0.2.3", true)]).await;
    assert_eq!(changed["metadata"]["name"], slice["metadata"]["name"]);
    let skip = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    merge(
        &api,
        &format!("{ENDPOINTS}/web"),
        json!({"metadata": {"labels": skip}}),
    )
    .await;
    until(&api, SLICES, |_, list| list["items"] == json!([])).await;
    let skip = json!({"endpointslice.kubernetes.io/skip-mirror": null});
    merge(
        &api,
        &format!("{ENDPOINTS}/web"),
        json!({"metadata": {"labels": skip}}),
    )
    .await;
    until_shown(&api, &[("192.0.2.3", true)]).await;
    delete(&api, &format!("{SERVICES}/web")).await;
    until(&api, SLICES, |_, list| list["items"] == json!([])).await;
    until(&api, &format!("{ENDPOINTS}/web"), |code, _| code == 404).await;
    api.plane.stop().await;
}

#[tokio::test]
async fn load_balancers_get_addresses_of_the_pool() {
    let api = Harness::with(ControlPlaneConfig {
        load_balancer_pool: vec!["10.9.0.0/30".parse().expect("a network")],
        ..ControlPlaneConfig::default()
    })
    .await;
    let balancer = |name: &str, more: Value| {
        let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        json!({"metadata": {"name": name}, "spec": spec})
    };
    let address = |object: &Value| object["status"]["loadBalancer"]["ingress"].clone();
    let has = |ip: &str| json!([{"ip": ip, "ipMode": "VIP"}]);
    let path = |name: &str| format!("{SERVICES}/{name}");
    let wish = json!({"loadBalancerIP": "10.9.0.1"});
    create(&api, SERVICES, balancer("wishing", wish)).await;
    until(&api, &path("wishing"), |_, one| {
        address(one) == has("10.9.0.1")
    })
    .await;
    create(&api, SERVICES, balancer("second", json!({}))).await;
    until(&api, &path("second"), |_, one| {
        address(one) == has("10.9.0.2")
    })
    .await;
    create(&api, SERVICES, balancer("third", json!({}))).await;
    let classed = json!({"loadBalancerClass": "x.y/z"});
    create(&api, SERVICES, balancer("classed", classed)).await;
    let events = "/api/v1/namespaces/default/events\
                  ?fieldSelector=involvedObject.name=third,reason=SyncLoadBalancerFailed";
    let events = until(&api, events, |_, list| list["items"][0].is_object()).await;
    assert_eq!(events["items"][0]["type"], "Warning");
    // Who is no balancer any more gives his address to the one that waits.
    merge(
        &api,
        &path("second"),
        json!({"spec": {"type": "ClusterIP"}}),
    )
    .await;
    until(&api, &path("third"), |_, one| {
        address(one) == has("10.9.0.2")
    })
    .await;
    until(&api, &path("second"), |_, one| address(one).is_null()).await;
    merge(
        &api,
        &path("second"),
        json!({"spec": {"type": "LoadBalancer"}}),
    )
    .await;
    delete(&api, &path("wishing")).await;
    until(&api, &path("second"), |_, one| {
        address(one) == has("10.9.0.1")
    })
    .await;
    let classed = check(&api, "GET", &path("classed"), Value::Null, 200, json!({})).await;
    assert_eq!(address(&classed), Value::Null);
    api.plane.stop().await;
}

#[tokio::test]
async fn the_api_and_the_dns_of_the_cluster_are_services_with_endpoints() {
    let api = Harness::with(ControlPlaneConfig {
        api_endpoint: Some("10.244.0.1:6443".parse().expect("a place")),
        dns_endpoints: vec!["10.244.0.1:53".parse().expect("a place")],
        ..ControlPlaneConfig::default()
    })
    .await;
    let slice = format!("{SLICES}/kubernetes");
    let endpoints = format!("{ENDPOINTS}/kubernetes");
    let right = |object: &Value| object["endpoints"][0]["addresses"] == json!(["10.244.0.1"]);
    let found = until(&api, &slice, |_, found| right(found)).await;
    assert_eq!(
        found["ports"],
        json!([{"name": "https", "port": 6443, "protocol": "TCP"}])
    );
    until(&api, &endpoints, |code, _| code == 200).await;
    // What a person takes away comes back.
    delete(&api, &slice).await;
    delete(&api, &endpoints).await;
    until(&api, &slice, |_, found| right(found)).await;
    until(&api, &endpoints, |code, _| code == 200).await;
    let nothing = json!({"endpoints": []});
    merge(&api, &slice, nothing).await;
    until(&api, &slice, |_, found| right(found)).await;
    let dns = "/api/v1/namespaces/kube-system/services/kube-dns";
    let dns = until(&api, dns, |code, _| code == 200).await;
    assert_eq!(dns["spec"]["clusterIP"], "10.96.0.10");
    assert_eq!(dns["metadata"]["labels"], json!({"k8s-app": "kube-dns"}));
    let slices = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices\
                  ?labelSelector=kubernetes.io/service-name=kube-dns";
    until(&api, slices, |_, list| right(&list["items"][0])).await;
    // Nobody mirrors what is looked after already.
    let mirrored = format!(
        "{SLICES}?labelSelector=endpointslice.kubernetes.io/managed-by=\
         endpointslicemirroring-controller.k8s.io"
    );
    check(
        &api,
        "GET",
        &mirrored,
        Value::Null,
        200,
        json!({"items": []}),
    )
    .await;
    api.plane.stop().await;
}

#[tokio::test]
async fn without_a_place_the_api_has_no_endpoints_and_there_is_no_dns() {
    let api = Harness::start().await;
    web(&api).await;
    until_shown(&api, &[]).await;
    let dns = "/api/v1/namespaces/kube-system/services/kube-dns";
    for path in [&format!("{SLICES}/kubernetes"), dns] {
        check(&api, "GET", path, Value::Null, 404, json!({})).await;
    }
    api.plane.stop().await;
}

#[tokio::test]
async fn a_cluster_keeps_the_range_of_its_api() {
    let folder = tempfile::tempdir().expect("a folder");
    let in_range = |v4: &str, v6: Option<&str>| {
        let v6 = v6.map(|range| range.parse().expect("a range"));
        let ranges = ServiceRanges::new(v4.parse().expect("a range"), v6);
        ControlPlaneConfig {
            service_ranges: ranges.expect("in order"),
            ..ControlPlaneConfig::default()
        }
    };
    let open = async |config: ControlPlaneConfig| {
        let start = Instant::now();
        loop {
            let opened = ControlPlane::open(config.clone(), folder.path().to_owned()).await;
            match opened {
                Ok(plane) => {
                    plane.stop().await;
                    return Ok(());
                }
                // The one before is still letting go of the folder.
                Err(StartError::Store(OpenError::InUse { .. })) if start.elapsed() < PATIENCE => {
                    tokio::task::yield_now().await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    open(in_range("10.43.0.0/16", None))
        .await
        .expect("it begins");
    let why = open(in_range("10.96.0.0/16", None))
        .await
        .expect_err("refused");
    assert!(
        why.contains("is at `10.43.0.1` for pods, not in `10.96.0.0/16`"),
        "{why}"
    );
    // A second family comes and goes, and the range of the first may become smaller.
    for v6 in [Some("fd00:43::/112"), None] {
        open(in_range("10.43.0.0/17", v6))
            .await
            .expect("the same API");
    }
}
