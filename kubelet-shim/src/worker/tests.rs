//! What a worker tells the API, and what it has given back by then.

use std::sync::Arc;

use bytes::Bytes;
use coracle_network::{Fabric, FabricConfig};
use coracle_registry::{ImageStore, Quiet};
use coracle_runtime::{CompilerCommand, RuntimeConfig};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::agent::DeclaredPorts;
use crate::allocation::Demand;
use crate::identity_files::MachineResolver;
use crate::lifecycle::Ending;
use crate::logs::Look;
use crate::node::Amounts;
use crate::objects::ObjectSource;
use crate::spec::{HostPathPolicy, check_pod};

const AMOUNTS: Amounts = Amounts {
    cpu_milli: 2_000,
    memory: 1 << 30,
    memory_least: 0,
    storage: 1 << 30,
    pods: 10,
};

/// What a worker asked for: how, with what, and whether its pod's promise was given back before.
#[derive(Debug)]
struct Asked {
    method: Method,
    body: Value,
    has_given_back: bool,
}

/// A node without any image, and a server that takes everything.
struct World {
    node: Arc<Node>,
    asked: Arc<Mutex<Vec<Asked>>>,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::new(AMOUNTS);
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let client = server(ledger.room(), asked.clone());
        World {
            node: Arc::new(node(folder.path(), client, ledger)),
            asked,
            _folder: folder,
        }
    }

    /// Runs a pod that has most of the node to its end, and returns what was asked of the server meanwhile.
    async fn run(&self, pod: Value, intent: Intent) -> Vec<Asked> {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let plan = Arc::new(check_pod(&pod, HostPathPolicy::Refuse).expect("a plan"));
        let most = self.node.ledger.admit(&plan.key.uid, most());
        most.expect("the node is empty");
        let names = plan.containers.iter().map(|one| &*one.name);
        self.node.logs.open(&plan.key, names);
        let desired = Desired::new(plan.clone(), &pod, intent);
        let (_wish, desired) = watch::channel(desired);
        let worker = Worker::new(self.node.clone(), plan, pod.status.as_ref(), desired);
        worker.run().await;
        std::mem::take(&mut *self.asked.lock())
    }
}

fn most() -> Demand {
    Demand {
        cpu_milli: 1_500,
        memory: 0,
        storage: 0,
    }
}

fn server(room: watch::Receiver<u64>, asked: Arc<Mutex<Vec<Asked>>>) -> kube::Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let (room, asked) = (room.clone(), asked.clone());
        async move {
            let has_given_back = *room.borrow() > 0;
            let method = request.method().clone();
            let body = request.into_body().collect().await?.to_bytes();
            asked.lock().push(Asked {
                method,
                body: serde_json::from_slice(&body).unwrap_or_default(),
                has_given_back,
            });
            let done = json!({"apiVersion": "v1", "kind": "Status", "status": "Success"});
            let done = Full::new(Bytes::from(done.to_string()));
            Ok::<_, kube::Error>(Response::new(done))
        }
    });
    kube::Client::new(service, "default")
}

fn node(folder: &std::path::Path, client: kube::Client, ledger: Ledger) -> Node {
    let runtime = Runtime::new(RuntimeConfig {
        cache_dir: folder.join("code"),
        compiler: CompilerCommand {
            program: "none".into(),
            args: Vec::new(),
        },
        interactive_threads: 1,
        batch_threads: 1,
        memory_budget: 1 << 30,
        mappings_max: None,
    });
    let runtime = runtime.expect("a runtime");
    let fabric = Fabric::new(FabricConfig::default()).expect("a network");
    let store = ImageStore::open(&folder.join("images")).expect("a store");
    let clock = Clock::system();
    let (events, _) = crate::events::channel(client.clone(), "node".into(), clock.clone());
    let execs = Arc::<ExecBook>::default();
    let (prober, _) = Prober::new(fabric.clone());
    Node {
        site: Site {
            objects: ObjectSource::new(client.clone(), clock.clone()),
            client,
            fabric,
            data_dir: folder.into(),
            declared_ports: DeclaredPorts::Unpublished,
            cluster_domain: "cluster.local".into(),
            clock: clock.clone(),
            amounts: AMOUNTS,
            resolver: MachineResolver::new(),
        },
        clock,
        images: Images::new(store, Arc::new(Quiet)),
        evictor: Evictor::new(runtime.clone(), execs.clone()),
        runtime,
        output: None,
        events,
        logs: Arc::default(),
        metrics: Metrics::new("node", execs.clone()),
        execs,
        tools: Arc::new(Tools::new(None)),
        writes: Arc::new(Semaphore::new(1)),
        host_ips: NodeIps {
            main: [127, 0, 0, 1].into(),
            second: None,
        },
        at_stop: AtStop::PodsEnd,
        prober,
        ledger,
        storage: StorageMonitor::default(),
        folders: Arc::default(),
    }
}

fn pod(status: Value) -> Value {
    json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i",
            "resources": {"requests": {"cpu": "1500m"}}}]},
        "status": status,
    })
}

/// A pod that has run to its end, as an earlier agent left it.
fn ended() -> Value {
    pod(
        json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z",
        "podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]}),
    )
}

// The scheduler sends the next pod as soon as it learns of the end, and one that is refused then is refused for
// good.
#[tokio::test]
async fn what_a_pod_was_promised_is_given_back_before_its_end_is_told() {
    let world = World::new();
    let asked = world.run(ended(), Intent::Run).await;
    let told: Vec<&Asked> = asked
        .iter()
        .filter(|one| one.body["status"]["phase"] == "Succeeded")
        .collect();
    assert!(!told.is_empty(), "{asked:?}");
    assert!(told.iter().all(|one| one.has_given_back), "{asked:?}");
    let next = world.node.ledger.admit(&"next".into(), most());
    next.expect("there is room again");
}

#[tokio::test]
async fn what_a_pod_was_promised_is_given_back_before_its_object_goes() {
    let world = World::new();
    let ending = Ending {
        cause: EndCause::Deleted,
        grace: Duration::ZERO,
    };
    let asked = world.run(pod(json!({})), Intent::End(ending)).await;
    let gone = asked.iter().find(|one| one.method == Method::DELETE);
    let gone = gone.expect("its object is removed");
    assert!(gone.has_given_back, "{asked:?}");
}

// `kubectl get pod -o wide` shows where it was.
#[tokio::test]
async fn a_pod_that_has_ended_keeps_its_address() {
    let world = World::new();
    let asked = world.run(ended(), Intent::Run).await;
    let last = asked.last().expect("its end is told");
    assert_eq!(last.body["status"]["podIP"], "10.244.0.9", "{asked:?}");
    let ips = &last.body["status"]["podIPs"];
    assert_eq!(ips[1]["ip"], "10.244.0.9", "{asked:?}");
}

// Whoever typed `kubectl debug` and asks for the log is told why there is none.
#[tokio::test]
async fn the_log_of_an_ephemeral_container_that_is_not_started_is_waited_for() {
    let world = World::new();
    let mut pod = ended();
    pod["spec"]["ephemeralContainers"] =
        json!([{"name": "debug", "image": "i", "ports": [{"containerPort": 1}]}]);
    world.run(pod, Intent::Run).await;
    let found = world.node.logs.find("n", "p", "debug", Look::Present);
    let missing = found.map(drop).expect_err("it never started");
    let told = "container \"debug\" in pod \"p\" is waiting to start: CreateContainerConfigError";
    assert_eq!(missing.message("p", "debug"), told);
}
