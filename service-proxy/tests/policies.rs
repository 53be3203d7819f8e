//! Policies against the embedded API: what is written there is who reaches whom.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use coracle_control_plane::{ControlPlane, ControlPlaneConfig};
use coracle_network::{Fabric, FabricConfig, PodIdentity, PodNetwork, PublishPlan};
use coracle_service_proxy::{Policies, PoliciesConfig};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// How long a condition may take to come true on a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked at.
const PAUSE: Duration = Duration::from_millis(5);

struct Site {
    _plane: ControlPlane,
    client: Client,
    fabric: Fabric,
    policies: Policies,
}

/// A pod in the API and in the fabric, that listens on port 80.
struct Member {
    network: PodNetwork,
}

impl Site {
    async fn start() -> Site {
        let plane = ControlPlane::start(ControlPlaneConfig::default()).await;
        let client = plane.client("default");
        let fabric = Fabric::new(FabricConfig {
            publish: PublishPlan::Nowhere,
            ..FabricConfig::default()
        });
        let fabric = fabric.expect("the default layout is valid");
        let policies = Policies::start(PoliciesConfig {
            client: client.clone(),
            fabric: fabric.clone(),
            node_name: Some("here".to_owned()),
        });
        Site {
            _plane: plane,
            client,
            fabric,
            policies,
        }
    }

    async fn namespace(&self, name: &str, team: &str) {
        let namespace = json!({"metadata": {"name": name, "labels": {"team": team}}});
        let api = Api::<Namespace>::all(self.client.clone());
        let namespace = serde_json::from_value(namespace).expect("a namespace");
        let created = api.create(&PostParams::default(), &namespace).await;
        created.expect("it is taken");
    }

    /// Makes a pod that has an address, and tells the API of it.
    async fn pod(&self, namespace: &str, name: &str, app: &str) -> Member {
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"nodeName": "here", "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "i",
                    "ports": [{"name": "http", "containerPort": 80}]}]},
        });
        let pod = serde_json::from_value(pod).expect("a pod");
        let pod = api.create(&PostParams::default(), &pod).await;
        let uid = pod.expect("it is taken").metadata.uid.expect("it has one");
        let network = self.fabric.attach(PodIdentity {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid,
            hostname: name.to_owned(),
            subdomain: None,
        });
        let network = network.expect("an address is free");
        serve(&network);
        let ip = network.ip().to_string();
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(&status));
        let patched = api.patch_status(name, &params, &patch).await;
        patched.expect("it is taken");
        Member { network }
    }

    async fn policy(&self, namespace: &str, name: &str, spec: Value) {
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name}, "spec": spec,
        });
        let api = Api::<NetworkPolicy>::namespaced(self.client.clone(), namespace);
        let params = PatchParams::apply("test").force();
        let applied = api.patch(name, &params, &Patch::Apply(&policy)).await;
        applied.expect("it is taken");
    }
}

/// Accepts connections on port 80.
fn serve(network: &PodNetwork) {
    let local = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80);
    let port = network.reserve_tcp(local).expect("the port is free");
    let listener = network.listen(port, 128).expect("it listens");
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
}

/// Tells whether a connection is made at once; one that is dropped hears nothing for minutes.
fn connects(from: &Member, to: &Member) -> bool {
    let to = SocketAddr::new(IpAddr::from(to.network.ip()), 80);
    let mut connecting = Box::pin(from.network.connect(None, to));
    let mut context = Context::from_waker(Waker::noop());
    match connecting.as_mut().poll(&mut context) {
        Poll::Ready(result) => {
            result.expect("it listens");
            true
        }
        Poll::Pending => false,
    }
}

/// Waits until connections are made, or not, as expected.
async fn until(expected: &[(&Member, &Member, bool)]) {
    let come_true = async {
        while expected
            .iter()
            .any(|(from, to, is_made)| connects(from, to) != *is_made)
        {
            tokio::time::sleep(PAUSE).await;
        }
    };
    let result = tokio::time::timeout(PATIENCE, come_true).await;
    let found = expected.iter().map(|(from, to, _)| connects(from, to));
    assert!(result.is_ok(), "found {:?}", found.collect::<Vec<_>>());
}

#[tokio::test]
async fn policies_pods_and_namespaces_of_the_api_say_who_reaches_whom() {
    let site = Site::start().await;
    site.namespace("shop", "a").await;
    site.namespace("other", "b").await;
    let web = site.pod("shop", "web", "web").await;
    let db = site.pod("shop", "db", "db").await;
    let guest = site.pod("other", "guest", "web").await;
    until(&[(&web, &db, true), (&guest, &db, true), (&db, &web, true)]).await;
    let of_db = json!({
        "podSelector": {"matchLabels": {"app": "db"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}],
            "ports": [{"port": "http"}]}],
    });
    site.policy("shop", "db", of_db.clone()).await;
    until(&[(&guest, &db, false), (&web, &db, true), (&db, &web, true)]).await;
    // A pod that comes later is let in as soon as its address is known.
    let second = site.pod("shop", "web-2", "web").await;
    until(&[(&second, &db, true)]).await;
    let mut wider = of_db;
    wider["ingress"][0]["from"][0]["namespaceSelector"] = json!({"matchLabels": {"team": "b"}});
    site.policy("shop", "db", wider).await;
    until(&[(&guest, &db, true), (&web, &db, false)]).await;
    let closed = json!({"podSelector": {}, "policyTypes": ["Egress"]});
    site.policy("other", "closed", closed).await;
    until(&[(&guest, &db, false), (&guest, &web, false)]).await;
    for (namespace, name) in [("shop", "db"), ("other", "closed")] {
        let api = Api::<NetworkPolicy>::namespaced(site.client.clone(), namespace);
        let deleted = api.delete(name, &DeleteParams::default()).await;
        deleted.expect("it was there");
    }
    until(&[(&guest, &db, true), (&web, &db, true)]).await;
    site.policies.stop().await;
}

/// What a policy that is not known yet forbids would be open otherwise.
#[tokio::test]
async fn while_the_api_does_not_answer_pods_reach_nobody() {
    type Answer = Result<http::Response<kube::client::Body>, std::convert::Infallible>;
    let silent = |_: http::Request<kube::client::Body>| Box::pin(std::future::pending::<Answer>());
    let client = Client::new(tower::service_fn(silent), "default");
    let fabric = Fabric::new(FabricConfig {
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    });
    let fabric = fabric.expect("the default layout is valid");
    let members = ["a", "b"].map(|name| {
        let network = fabric.attach(PodIdentity {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            hostname: name.to_owned(),
            subdomain: None,
        });
        let network = network.expect("an address is free");
        serve(&network);
        Member { network }
    });
    let [a, b] = &members;
    assert!(connects(a, b), "nobody follows policies yet");
    let policies = Policies::start(PoliciesConfig {
        client,
        fabric,
        node_name: None,
    });
    assert!(!connects(a, b) && !connects(b, a));
    let mut synced = Box::pin(policies.synced());
    let mut context = Context::from_waker(Waker::noop());
    assert!(synced.as_mut().poll(&mut context).is_pending());
    drop(synced);
    policies.stop().await;
    assert!(!connects(a, b), "what held stays in force");
}
