//! The answers that load balancers read, as kube-proxy gives them.

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn key() -> ServiceKey {
    ServiceKey {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
    }
}

async fn body(answer: Response<Full<Bytes>>) -> Value {
    let body = answer.into_body().collect().await.expect("a body");
    serde_json::from_slice(&body.to_bytes()).expect("JSON")
}

#[tokio::test]
async fn a_node_is_asked_for_by_its_ready_endpoints() {
    for (local, is_healthy, code) in [(2, true, 200), (0, true, 503), (2, false, 503)] {
        let answer = service_answer(&key(), local, is_healthy);
        assert_eq!(answer.status().as_u16(), code, "for {local} {is_healthy}");
        let weight = answer.headers().get(WEIGHT_HEADER).expect("a weight");
        assert_eq!(weight.to_str().ok(), Some(local.to_string().as_str()));
        let expected = json!({
            "service": {"namespace": "default", "name": "web"},
            "localEndpoints": local,
            "serviceProxyHealthy": is_healthy,
        });
        assert_eq!(body(answer).await, expected);
    }
}

#[test]
fn a_node_that_leaves_lives_on_and_is_not_sent_to() {
    let health = Health::default();
    let codes = |health: &Health| {
        let code = |path| health.answer(path).map(|answer| answer.status().as_u16());
        [code("/healthz"), code("/livez"), code("/metrics")]
    };
    assert_eq!(codes(&health), [Some(503), Some(503), None]);
    health.updated();
    assert_eq!(codes(&health), [Some(200), Some(200), None]);
    health.set_leaving(true);
    assert_eq!(codes(&health), [Some(503), Some(200), None]);
}

#[tokio::test]
async fn a_port_follows_its_service() {
    let health = Arc::new(Health::default());
    health.updated();
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    let mut checks = HealthChecks::new(vec!["127.0.0.1".parse().expect("an address")], health);
    let asked = |local| Some(LocalHealth { port, local });
    let refused = checks.set(&key(), asked(1)).expect_err("the port is taken");
    assert!(refused.contains(&format!("127.0.0.1:{port}")), "{refused}");
    checks.set(&key(), None).expect("it is closed");
    drop(free);
    checks.set(&key(), asked(1)).expect("the port is free");
    assert!(ask(port).await.starts_with("HTTP/1.1 200"));
    checks.set(&key(), asked(0)).expect("it is open");
    assert!(ask(port).await.starts_with("HTTP/1.1 503"));
    checks.stop().await;
    let gone = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
    assert!(gone.is_err(), "nothing listens");
}

#[tokio::test]
async fn a_port_moves_with_the_addresses_of_the_node() {
    if cfg!(target_os = "macos") {
        // Only 127.0.0.1 exists there.
        return;
    }
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    // Addresses that no other test has, so that nobody takes the port meanwhile.
    let health = Arc::new(Health::default());
    health.updated();
    let free = std::net::TcpListener::bind("127.200.7.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let mut checks = HealthChecks::new(vec![ip("127.200.7.1")], health);
    let asked = Some(LocalHealth { port, local: 1 });
    checks.set(&key(), asked).expect("the port is free");
    assert_eq!(
        checks.listen_at(&[ip("127.200.7.1"), ip("127.200.7.2")]),
        []
    );
    for at in ["127.200.7.1", "127.200.7.2"] {
        assert!(ask_at(at, port).await.starts_with("HTTP/1.1 200"), "{at}");
    }
    assert_eq!(checks.listen_at(&[ip("127.200.7.3")]), []);
    assert!(
        ask_at("127.200.7.3", port)
            .await
            .starts_with("HTTP/1.1 200")
    );
    // It is closed by its task, soon.
    while tokio::net::TcpStream::connect(("127.200.7.2", port))
        .await
        .is_ok()
    {
        tokio::task::yield_now().await;
    }
    let _taken = std::net::TcpListener::bind(("127.200.7.4", port)).expect("a port");
    let failed = checks.listen_at(&[ip("127.200.7.4")]);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].1.contains("127.200.7.4"), "{failed:?}");
    checks.stop().await;
}

async fn ask(port: u16) -> String {
    ask_at("127.0.0.1", port).await
}

async fn ask_at(ip: &str, port: u16) -> String {
    let mut stream = tokio::net::TcpStream::connect((ip, port))
        .await
        .expect("a port");
    let request = b"GET / HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}
