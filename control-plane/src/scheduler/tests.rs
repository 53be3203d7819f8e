//! The scheduler as a client of a server that sends what it likes.

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;

/// So many bindings are under way in a test.
const BINDINGS_MAX: usize = 16;

/// A server with these pods and one node, where nothing changes. Returns the paths of bindings.
fn server(pods: &Value) -> (Client, mpsc::Receiver<String>) {
    let (told, bindings) = mpsc::channel(BINDINGS_MAX);
    let node = json!({"metadata": {"name": "node", "resourceVersion": "1"}, "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}]}});
    let list = |items: Value| json!({"metadata": {"resourceVersion": "9"}, "items": items});
    let pods = list(pods.clone());
    let nodes = list(json!([node]));
    let namespaces = list(json!([{"metadata": {"name": "n", "resourceVersion": "1"}, "spec": {}}]));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (path, method) = (request.uri().path().to_owned(), request.method());
        let query = request.uri().query().unwrap_or_default();
        let answer = match (method, path.as_str()) {
            (&Method::GET, _) if query.contains("watch") => None,
            (&Method::GET, "/api/v1/pods") => Some(pods.to_string()),
            (&Method::GET, "/api/v1/nodes") => Some(nodes.to_string()),
            (&Method::GET, "/api/v1/namespaces") => Some(namespaces.to_string()),
            _ => Some(json!({"kind": "Status", "status": "Success"}).to_string()),
        };
        let told = told.clone();
        async move {
            if path.ends_with("/binding") {
                told.send(path).await.expect("the test listens");
            }
            let lines = match answer {
                Some(answer) => stream::iter([answer]).boxed(),
                None => stream::pending().boxed(),
            };
            let frames = lines.map(|line| Ok::<_, std::io::Error>(Frame::data(Bytes::from(line))));
            Ok::<_, std::convert::Infallible>(Response::new(StreamBody::new(frames)))
        }
    });
    (Client::new(service, "default"), bindings)
}

// Without a pod source there would be no scheduling at all, for the sake of one pod.
#[tokio::test]
async fn a_pod_that_cannot_be_read_keeps_no_other_from_its_node() {
    let pod = |name: &str, spec: Value| {
        json!({"metadata": {"namespace": "n", "name": name, "uid": name, "resourceVersion": "1"},
            "spec": spec})
    };
    let pods = json!([
        pod("first", json!({"containers": [{}]})),
        pod("bad", json!({"containers": [{}], "priority": "high"})),
        pod("last", json!({"containers": [{}]})),
    ]);
    let (client, mut bindings) = server(&pods);
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(client, FirstNode::Unknown, stop.clone()));
    let mut bound = Vec::new();
    for _ in 0..2 {
        let binding = tokio::time::timeout(Duration::from_secs(60), bindings.recv()).await;
        bound.push(binding.expect("pods are bound").expect("the server lives"));
    }
    bound.sort();
    let path = |name: &str| format!("/api/v1/namespaces/n/pods/{name}/binding");
    assert_eq!(bound, [path("first"), path("last")]);
    stop.cancel();
    running.await.expect("the scheduler ends by itself");
}

/// A scheduler that knows of one pod, and has read the list of nodes, which is empty.
fn without_node(first: FirstNode) -> Scheduler {
    let (client, _) = server(&json!([]));
    let mut scheduler = Scheduler::new(client, first);
    let _ = scheduler.cluster.on_namespace(Event::Init);
    let _ = scheduler.cluster.on_namespace(Event::InitDone);
    let _ = scheduler.cluster.on_node(Event::Init);
    let _ = scheduler.cluster.on_node(Event::InitDone);
    let pod = json!({"metadata": {"namespace": "n", "name": "p", "uid": "p", "resourceVersion": "1"},
        "spec": {"containers": [{}], "schedulerName": SCHEDULER_NAME}});
    let pod = serde_json::from_value(pod).expect("a pod");
    scheduler.on_pod_event(Event::Init);
    scheduler.on_pod_event(Event::InitApply(pod));
    scheduler.on_pod_event(Event::InitDone);
    scheduler
}

// A manifest's pods come before the agent that makes the node known.
#[tokio::test]
async fn pods_wait_for_the_first_node_before_they_are_refused() {
    let mut scheduler = without_node(FirstNode::Follows);
    assert!(!scheduler.try_some(), "nothing can be tried now");
    assert!(scheduler.writes.is_empty(), "the pod waits");
    let node = |ready: &str| {
        let node = json!({"metadata": {"name": "node"}, "spec": {},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": ready}]}});
        Event::Apply(serde_json::from_value(node).expect("a node"))
    };
    let _ = scheduler.cluster.on_node(node("False"));
    assert!(!scheduler.try_some(), "a node that joins is not ready yet");
    assert!(scheduler.writes.is_empty(), "the pod still waits");
    let _ = scheduler.cluster.on_node(node("True"));
    scheduler.try_some();
    assert_eq!(scheduler.writes.len(), 1, "it is placed");
    assert_eq!(scheduler.cluster.placed_keys().count(), 1);
    assert_eq!(scheduler.first_node, None, "nobody waits for a second one");

    let mut late = without_node(FirstNode::Follows);
    late.first_node = Some(Instant::now());
    for mut scheduler in [late, without_node(FirstNode::Unknown)] {
        scheduler.try_some();
        assert_eq!(
            scheduler.writes.len(),
            1,
            "it is told that there is no node"
        );
        assert_eq!(scheduler.first_node, None);
    }
}
