use super::*;
use crate::services::ServicePort;
use crate::{
    Endpoint, Fabric, FabricConfig, PodIdentity, PodNetwork, PublishPlan, Routes, ServicePortName,
};

fn fabric() -> Fabric {
    let config = FabricConfig {
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    };
    Fabric::new(config).expect("the default layout is valid")
}

fn attach(fabric: &Fabric, name: &str) -> PodNetwork {
    let identity = PodIdentity {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: name.to_owned(),
        hostname: name.to_owned(),
        subdomain: None,
    };
    fabric.attach(identity).expect("an address is free")
}

const SHORT: Patience = Patience {
    total: Duration::from_millis(40),
    endpoint: Duration::from_millis(10),
};

async fn connect_to(pod: &PodNetwork, decision: Decision) -> Result<Stream, NetError> {
    let to = SocketAddr::from(([10, 96, 0, 10], 80));
    let begun = Instant::now();
    connect(pod.pod(), None, to, decision, begun, SHORT).await
}

/// A client cannot tell a dropped packet from one that was lost.
#[tokio::test]
async fn a_dropped_connection_times_out_and_not_before() {
    let fabric = fabric();
    let pod = attach(&fabric, "a");
    let begun = Instant::now();
    let result = connect_to(&pod, Decision::Drop).await;
    assert!(matches!(result, Err(NetError::TimedOut)));
    assert!(begun.elapsed() >= SHORT.total);
}

#[tokio::test]
async fn an_endpoint_whose_backlog_stays_full_is_given_up() {
    let fabric = fabric();
    let (a, full) = (attach(&fabric, "a"), attach(&fabric, "full"));
    let at = SocketAddr::from((full.ip(), 8080));
    let port = full.reserve_tcp(at).expect("free");
    let _stuck = full.listen(port, 1).expect("reserved");
    let _queued = a.connect(None, at).await.expect("a place");
    let name = ServicePortName {
        namespace: String::new(),
        service: String::new(),
        port: String::new(),
        protocol: Protocol::Tcp,
    };
    let service = Arc::new(ServicePort::new(name, None));
    let endpoint = Endpoint::new(at);
    service.set_routes(Routes {
        cluster: [Arc::clone(&endpoint)].into_iter().collect(),
        ..Routes::default()
    });
    let decision = Decision::Endpoint(service, endpoint);
    let result = connect_to(&a, decision).await;
    // There is no other one, so its own failure is the answer.
    assert!(matches!(result, Err(NetError::TimedOut)), "{result:?}");
}
