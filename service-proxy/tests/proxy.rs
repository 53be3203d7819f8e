//! The proxy against the embedded API: what is written there is what pods reach.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use coracle_control_plane::{ControlPlane, ControlPlaneConfig};
use coracle_network::{
    Answer, Fabric, FabricConfig, PodIdentity, PodNetwork, PublishPlan, Question, RecordKind,
};
use coracle_service_proxy::edge::{EdgeConfig, EdgePlan};
use coracle_service_proxy::{PodRanges, Proxy, ProxyConfig};
use k8s_openapi::api::core::v1::{Event, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a condition may take to come true on a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

struct Site {
    plane: ControlPlane,
    client: kube::Client,
    fabric: Fabric,
    proxy: Proxy,
}

impl Site {
    async fn start() -> Site {
        let plane = ControlPlane::start(ControlPlaneConfig::default()).await;
        let client = plane.client("default");
        let fabric = Fabric::new(FabricConfig {
            publish: PublishPlan::Nowhere,
            ..FabricConfig::default()
        });
        let fabric = fabric.expect("a fabric");
        let proxy = Proxy::start(ProxyConfig {
            pod_ranges: PodRanges::OfNodes,
            client: client.clone(),
            node_name: Some("here".to_owned()),
            host: "here".to_owned(),
            node_ips: vec![IpAddr::V4(fabric.node_ip())],
            service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
            fabric: Some(fabric.clone()),
            edge: Some(EdgeConfig {
                plan: EdgePlan::Nowhere,
                ..EdgeConfig::default()
            }),
            health_check_ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            healthz: Some("127.0.0.1:0".parse().expect("an address")),
            metrics: Some("127.0.0.1:0".parse().expect("an address")),
        });
        let proxy = proxy.expect("a proxy");
        proxy.synced().await;
        Site {
            plane,
            client,
            fabric,
            proxy,
        }
    }

    fn pod(&self, name: &str) -> PodNetwork {
        let identity = PodIdentity {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            hostname: name.to_owned(),
            subdomain: None,
        };
        self.fabric.attach(identity).expect("an address")
    }

    /// Listens in a pod and answers every connection with its name.
    fn server(&self, name: &'static str, port: u16) -> PodNetwork {
        let pod = self.pod(name);
        let local = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let held = pod.reserve_tcp(local).expect("a port");
        let listener = pod.listen(held, 16).expect("a listener");
        tokio::spawn(async move {
            while let Ok(mut stream) = listener.accept().await {
                stream.write_all(name.as_bytes()).await.expect("a reader");
            }
        });
        pod
    }

    async fn service(&self, spec: Value) -> Service {
        let service = json!({"metadata": {"name": "web"}, "spec": spec});
        let service = serde_json::from_value(service).expect("a Service");
        let api = Api::<Service>::default_namespaced(self.client.clone());
        api.create(&PostParams::default(), &service)
            .await
            .expect("it is taken")
    }

    async fn slice(&self, endpoints: Value) {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-by-hand", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints,
        });
        let api = Api::<EndpointSlice>::default_namespaced(self.client.clone());
        let params = PatchParams::apply("test").force();
        api.patch("web-by-hand", &params, &Patch::Apply(&slice))
            .await
            .expect("it is taken");
    }

    async fn stop(self) {
        self.proxy.stop(Duration::ZERO).await;
        self.plane.stop().await;
    }
}

fn cluster_ip(service: &Service, port: u16) -> SocketAddr {
    let ip = service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_ref());
    let ip = ip.and_then(|ip| ip.parse().ok()).expect("a cluster IP");
    SocketAddr::new(ip, port)
}

/// Says who answers a connection of a pod, or why nobody does.
async fn ask(pod: &PodNetwork, to: SocketAddr) -> String {
    let mut stream = match pod.connect(None, to).await {
        Ok(stream) => stream,
        Err(error) => return format!("{error:?}"),
    };
    let mut answer = String::new();
    match stream.read_to_string(&mut answer).await {
        Ok(_) => answer,
        Err(error) => error.to_string(),
    }
}

async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_true().await {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "it did not come true: {what}");
}

fn http() -> Value {
    json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_reaches_the_endpoints_of_a_service_as_their_slice_says() {
    let site = Site::start().await;
    let (client, one, two) = (
        site.pod("client"),
        site.server("one", 8080),
        site.server("two", 8080),
    );
    let to = cluster_ip(&site.service(http()).await, 80);
    until("without endpoints it is refused", async || {
        ask(&client, to).await == "ConnectionRefused"
    })
    .await;
    site.slice(json!([{"addresses": [one.ip().to_string()]}]))
        .await;
    until("the first endpoint answers", async || {
        ask(&client, to).await == "one"
    })
    .await;
    site.slice(json!([
        {"addresses": [one.ip().to_string()], "conditions": {"ready": false}},
        {"addresses": [two.ip().to_string()]},
    ]))
    .await;
    until("readiness moves it", async || {
        ask(&client, to).await == "two"
    })
    .await;
    let services = Api::<Service>::default_namespaced(site.client.clone());
    services
        .delete("web", &DeleteParams::default())
        .await
        .expect("it is there");
    until("it is gone", async || {
        ask(&client, to).await == "ConnectionRefused"
    })
    .await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_follow_services() {
    let site = Site::start().await;
    let zone = site.fabric.zone();
    let ask = || {
        zone.answer(&Question::new(
            "web.default.svc.cluster.local",
            RecordKind::A,
        ))
    };
    assert_eq!(ask(), Answer::NoSuchName);
    site.service(http()).await;
    until("it has a name", async || {
        matches!(ask(), Answer::Records(_))
    })
    .await;
    let services = Api::<Service>::default_namespaced(site.client.clone());
    services
        .delete("web", &DeleteParams::default())
        .await
        .expect("it is there");
    until("its name is gone", async || ask() == Answer::NoSuchName).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_served_is_told_in_an_event() {
    let site = Site::start().await;
    let ports = json!({"ports": [{"name": "s", "port": 36412, "protocol": "SCTP"}]});
    site.service(ports).await;
    let events = Api::<Event>::default_namespaced(site.client.clone());
    until("an event tells it", async || {
        let all = events.list(&ListParams::default()).await.expect("a list");
        all.items.iter().any(|event| {
            event.reason.as_deref() == Some("FailedToServe")
                && event.involved_object.name.as_deref() == Some("web")
                && event
                    .message
                    .as_deref()
                    .is_some_and(|text| text.contains("SCTP"))
        })
    })
    .await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_answered() {
    let site = Site::start().await;
    site.service(http()).await;
    let health = site.proxy.healthz_address().expect("an address");
    let metrics = site.proxy.metrics_address().expect("an address");
    for path in ["/healthz", "/livez"] {
        let answer = get(health, path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(get(health, "/other").await.starts_with("HTTP/1.1 404"));
    until("the Service has figures", async || {
        let shown = get(metrics, "/metrics").await;
        shown.contains(r#"coracle_service_connections_total{namespace="default",service="web""#)
            && shown.contains("kubeproxy_sync_proxy_rules_duration_seconds_count")
            && shown.contains("coracle_edge_accepted_connections_total 0")
    })
    .await;
    site.stop().await;
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("a port");
    let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}
