//! What the follower does with news, one piece after the other.

use kube::core::error_boundary::InvalidObject;
use serde_json::{Value, json};

use super::*;
use crate::compile::Ground;

fn follower() -> (Follower, Arc<ServiceTable>) {
    let table = Arc::<ServiceTable>::default();
    let health = Arc::new(Health::default());
    let ground = Ground {
        service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
        node_ips: Vec::new(),
    };
    let outlets = Outlets {
        table: Arc::clone(&table),
        zone: None,
        edge: None,
        directory: Arc::default(),
        checks: HealthChecks::new(Vec::new(), Arc::clone(&health)),
        node_ports: None,
        health,
        metrics: Arc::new(Metrics::new(Arc::clone(&table), None)),
        events: EventSink::unheard(),
        synced: watch::channel(false).0,
    };
    let follower = Follower::new(Compiler::new(ground, None), outlets);
    (follower, table)
}

fn service(event: fn(DeserializeGuard<Service>) -> Event<DeserializeGuard<Service>>) -> News {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
    });
    News::Service(Box::new(event(guarded(service))))
}

fn slice(
    event: fn(DeserializeGuard<EndpointSlice>) -> Event<DeserializeGuard<EndpointSlice>>,
) -> News {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": "web-1",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": [{"addresses": ["10.244.0.2"]}],
    });
    News::Slice(Box::new(event(guarded(slice))))
}

fn guarded<K: serde::de::DeserializeOwned>(object: Value) -> DeserializeGuard<K> {
    DeserializeGuard(Ok(serde_json::from_value(object).expect("an object")))
}

fn broken<K>(name: &str) -> DeserializeGuard<K> {
    DeserializeGuard(Err(InvalidObject {
        error: "invalid type: string \"http\", expected i32".to_owned(),
        metadata: ObjectMeta {
            namespace: Some("default".to_owned()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
    }))
}

fn fronts(table: &ServiceTable) -> usize {
    table.fronts().iter().count()
}

fn endpoints(table: &ServiceTable) -> usize {
    let fronts = table.fronts();
    fronts
        .iter()
        .map(|(_, front)| front.service.routes().cluster.len())
        .sum()
}

/// A Service that seems to have no endpoints would refuse its clients.
#[tokio::test]
async fn nothing_is_routed_before_both_lists_are_there() {
    let (mut follower, table) = follower();
    let listed = [
        News::Service(Box::new(Event::Init)),
        service(Event::InitApply),
        News::Service(Box::new(Event::InitDone)),
    ];
    follower.deal(listed);
    assert_eq!((fronts(&table), follower.out.health.is_alive()), (0, false));
    let listed = [
        News::Slice(Box::new(Event::Init)),
        slice(Event::InitApply),
        News::Slice(Box::new(Event::InitDone)),
    ];
    follower.deal(listed);
    assert_eq!((fronts(&table), endpoints(&table)), (1, 1));
    assert!(follower.out.health.is_alive() && *follower.out.synced.borrow());
}

fn synced() -> (Follower, Arc<ServiceTable>) {
    let (mut follower, table) = follower();
    let listed = [
        News::Service(Box::new(Event::Init)),
        service(Event::InitApply),
        News::Service(Box::new(Event::InitDone)),
        News::Slice(Box::new(Event::Init)),
        slice(Event::InitApply),
        News::Slice(Box::new(Event::InitDone)),
    ];
    follower.deal(listed);
    (follower, table)
}

#[tokio::test]
async fn an_object_that_cannot_be_parsed_is_skipped_and_what_it_was_stays() {
    let (mut follower, table) = synced();
    let news = [
        News::Service(Box::new(Event::Apply(broken("web")))),
        News::Slice(Box::new(Event::Apply(broken("web-1")))),
        News::Slice(Box::new(Event::Apply(broken("other")))),
    ];
    follower.deal(news);
    assert_eq!((fronts(&table), endpoints(&table)), (1, 1));
    // In a new list, too.
    let news = [
        News::Slice(Box::new(Event::Init)),
        News::Slice(Box::new(Event::InitApply(broken("web-1")))),
        News::Slice(Box::new(Event::InitDone)),
    ];
    follower.deal(news);
    assert_eq!((fronts(&table), endpoints(&table)), (1, 1));
}

#[tokio::test]
async fn a_new_list_forgets_what_it_does_not_name() {
    let (mut follower, table) = synced();
    let news = [
        News::Slice(Box::new(Event::Init)),
        News::Slice(Box::new(Event::InitDone)),
    ];
    follower.deal(news);
    assert_eq!((fronts(&table), endpoints(&table)), (1, 0));
    let news = [
        News::Service(Box::new(Event::Init)),
        News::Service(Box::new(Event::InitDone)),
    ];
    follower.deal(news);
    assert_eq!(fronts(&table), 0);
}

/// While a list is being sent, what it has not named yet is still there.
#[tokio::test]
async fn a_list_that_is_not_complete_takes_nothing_away() {
    let (mut follower, table) = synced();
    follower.deal([News::Slice(Box::new(Event::Init))]);
    assert_eq!((fronts(&table), endpoints(&table)), (1, 1));
}

#[tokio::test]
async fn objects_that_are_deleted_are_not_routed() {
    let (mut follower, table) = synced();
    follower.deal([slice(Event::Delete)]);
    assert_eq!((fronts(&table), endpoints(&table)), (1, 0));
    follower.deal([service(Event::Delete)]);
    assert_eq!(fronts(&table), 0);
}

#[tokio::test]
async fn pods_reach_node_ports_at_addresses_that_come_later() {
    let (mut follower, table) = follower();
    let (here, node_ports) = watch::channel(Arc::<[IpAddr]>::default());
    follower.out.node_ports = Some(node_ports);
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.7",
            "ports": [{"port": 80, "nodePort": 30_080}]},
    });
    let news = [
        News::Service(Box::new(Event::Init)),
        News::Service(Box::new(Event::InitApply(guarded(service)))),
        News::Service(Box::new(Event::InitDone)),
        News::Slice(Box::new(Event::Init)),
        slice(Event::InitApply),
        News::Slice(Box::new(Event::InitDone)),
    ];
    let (stop, mut synced) = (CancellationToken::new(), follower.out.synced.subscribe());
    let news = futures::stream::iter(news).chain(futures::stream::pending());
    let following = tokio::spawn(follower.follow(news.boxed(), stop.clone()));
    synced.wait_for(|done| *done).await.expect("it follows");
    let at = "198.51.100.2:30080".parse().expect("an address");
    let is_reached = || {
        let fronts = table.fronts();
        fronts.find(coracle_network::Protocol::Tcp, at).is_some()
    };
    assert!(!is_reached());
    let now = ["127.0.0.1", "198.51.100.2"].map(|ip| ip.parse().expect("an address"));
    here.send_replace(Arc::new(now));
    while !is_reached() {
        tokio::task::yield_now().await;
    }
    here.send_replace(Arc::default());
    while is_reached() {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    following.await.expect("it ends");
}
