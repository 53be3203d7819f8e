//! Entries for the benchmark `edge`, for what is private: how soon news of an endpoint are routed.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_network::{Client, Decision, Front, FrontAddress, Protocol, ServiceTable};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::compile::{Compiler, Ground};
use crate::events::EventSink;
use crate::follower::{Follower, Outlets};
use crate::health::{Health, HealthChecks};
use crate::metrics::Metrics;
use crate::watch::News;

/// The most endpoints of a slice, as the controllers of Kubernetes allow.
const SLICE_ENDPOINTS: u32 = 1_000;

/// Services with their endpoints, as the proxy knows them.
pub struct Routing {
    follower: Follower,
    table: Arc<ServiceTable>,
}

/// Whether an endpoint takes connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It does not.
    Unready,
}

impl Routing {
    /// Returns as many Services, each with as many endpoints, all of them ready. At most 65,535
    /// Services. Needs a tokio runtime.
    pub fn new(services: u32, endpoints: u32) -> Routing {
        let table = Arc::<ServiceTable>::default();
        let health = Arc::<Health>::default();
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
        let mut routing = Routing { follower, table };
        routing.follower.deal([
            News::Service(Box::new(Event::Init)),
            News::Slice(Box::new(Event::Init)),
        ]);
        for number in 0..services {
            let service = News::Service(Box::new(Event::InitApply(service(number))));
            routing.follower.deal([service]);
            for first in (0..endpoints).step_by(SLICE_ENDPOINTS as usize) {
                let count = SLICE_ENDPOINTS.min(endpoints - first);
                let slice = slice(number, first, count, Readiness::Ready);
                let slice = News::Slice(Box::new(Event::InitApply(slice)));
                routing.follower.deal([slice]);
            }
        }
        routing.follower.deal([
            News::Service(Box::new(Event::InitDone)),
            News::Slice(Box::new(Event::InitDone)),
        ]);
        routing
    }

    /// Has the first slice of a Service arrive, of `count` endpoints of which the first is ready or not;
    /// returns how long it takes until connections are decided by it.
    ///
    /// # Panics
    ///
    /// When they are not.
    pub fn turn(&mut self, service: u32, count: u32, first: Readiness) -> Duration {
        let slice = slice(service, 0, count.min(SLICE_ENDPOINTS), first);
        let news = News::Slice(Box::new(Event::Apply(slice)));
        let before = self.front(service);
        let began = Instant::now();
        self.follower.deal([news]);
        let took = began.elapsed();
        let routed = before.service.routes();
        let first_at = (IpAddr::V4(endpoint_ip(service, 0)), 8_080).into();
        assert_eq!(routed.serves(first_at), first == Readiness::Ready);
        took
    }

    /// Decides a connection to a Service; returns whether there is an endpoint for it.
    pub fn decides(&self, service: u32) -> bool {
        let decision = self
            .front(service)
            .decide(Client::Node, Instant::now(), &[]);
        matches!(decision, Decision::Endpoint(..))
    }

    fn front(&self, service: u32) -> Front {
        let address = FrontAddress {
            ip: Some(IpAddr::V4(cluster_ip(service))),
            port: 80,
            protocol: Protocol::Tcp,
        };
        let fronts = self.table.fronts();
        let mut all = fronts.iter();
        let found = all.find(|(at, _)| **at == address);
        found.expect("it was made at the start").1.clone()
    }
}

fn cluster_ip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + service)
}

fn endpoint_ip(service: u32, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + service * 256 + number)
}

fn service(number: u32) -> DeserializeGuard<Service> {
    guarded(json!({
        "metadata": {"namespace": "default", "name": format!("service-{number}")},
        "spec": {"clusterIP": cluster_ip(number), "ports": [{"port": 80}]},
    }))
}

fn slice(
    service: u32,
    first: u32,
    count: u32,
    readiness: Readiness,
) -> DeserializeGuard<EndpointSlice> {
    let endpoints = (first..first + count).map(|number| {
        let is_ready = number > 0 || readiness == Readiness::Ready;
        json!({"addresses": [endpoint_ip(service, number)], "conditions": {"ready": is_ready}})
    });
    guarded(json!({
        "metadata": {"namespace": "default", "name": format!("service-{service}-{first}"),
            "labels": {"kubernetes.io/service-name": format!("service-{service}")}},
        "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    }))
}

fn guarded<K: DeserializeOwned>(object: Value) -> DeserializeGuard<K> {
    DeserializeGuard(Ok(serde_json::from_value(object).expect("an object")))
}
