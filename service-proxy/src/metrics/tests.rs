//! What a scrape shows.

use coracle_network::{Front, FrontAddress, FrontKind, Fronts, Routes};
use http_body_util::BodyExt;

use super::*;

fn table() -> Arc<ServiceTable> {
    let name = ServicePortName {
        namespace: "default".to_owned(),
        service: "web".to_owned(),
        port: "http".to_owned(),
        protocol: Protocol::Tcp,
    };
    let endpoint = Endpoint::new("10.244.0.2:8080".parse().expect("an address"));
    endpoint.counters().count(true, Duration::from_millis(250));
    endpoint.counters().sent_bytes.store(11, Ordering::Relaxed);
    let mut fronts = Fronts::default();
    // One port behind two addresses, and one of the other family of the same name.
    for (ip, family) in [("10.96.0.7", 0), ("203.0.113.5", 0), ("fd00::7", 1)] {
        let port = Arc::new(ServicePort::new(name.clone(), None));
        port.counters()
            .balanced
            .store(3 + family, Ordering::Relaxed);
        port.set_routes(Routes {
            cluster: [Arc::clone(&endpoint)].into(),
            local: [Arc::clone(&endpoint)].into(),
            ..Routes::default()
        });
        let address = FrontAddress {
            ip: Some(ip.parse().expect("an address")),
            port: 80,
            protocol: Protocol::Tcp,
        };
        let front = Front {
            service: port,
            kind: FrontKind::ClusterIp,
            source_ranges: None,
        };
        fronts.insert(address, front);
    }
    let table = ServiceTable::default();
    table.set_fronts(fronts);
    Arc::new(table)
}

async fn scrape(metrics: &Metrics) -> String {
    let body = metrics
        .answer()
        .into_body()
        .collect()
        .await
        .expect("a body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

#[tokio::test]
async fn each_service_and_endpoint_is_shown_once_with_its_sums() {
    let metrics = Metrics::new(table(), None);
    let shown = scrape(&metrics).await;
    let labels = r#"namespace="default",service="web",port="http",protocol="TCP""#;
    let endpoint = format!(r#"{labels},endpoint="10.244.0.2:8080""#);
    for line in [
        format!("coracle_service_connections_total{{{labels}}} 10"),
        format!("coracle_endpoint_connections_total{{{endpoint}}} 1"),
        format!("coracle_endpoint_sent_bytes_total{{{endpoint}}} 11"),
        format!("coracle_endpoint_connect_seconds_total{{{endpoint}}} 0.25"),
    ] {
        let count = shown.lines().filter(|shown| **shown == line).count();
        assert_eq!(count, 1, "`{line}` in\n{shown}");
    }
}

#[tokio::test]
async fn the_proxys_own_figures_have_kube_proxys_names() {
    let metrics = Metrics::new(Arc::default(), None);
    metrics.service_changed();
    metrics.slice_changed(Some(Timestamp::now()));
    metrics.synced(Duration::from_micros(30));
    metrics.asked("/healthz", StatusCode::OK);
    let shown = scrape(&metrics).await;
    for start in [
        "kubeproxy_sync_proxy_rules_duration_seconds_count 1",
        "kubeproxy_network_programming_duration_seconds_count 1",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 1",
        "kubeproxy_sync_proxy_rules_service_changes_total 1",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds ",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds ",
        r#"kubeproxy_proxy_healthz_total{code="200"} 1"#,
    ] {
        let found = shown.lines().any(|line| line.starts_with(start));
        assert!(found, "`{start}` in\n{shown}");
    }
}
