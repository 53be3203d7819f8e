//! `coracle node` in a cluster: the one of `coracle up`, or the one that `CORACLE_TEST_KUBECONFIG` names,
//! so that our own API server is not the only judge.

use std::path::{Path, PathBuf};

use coracle_tests::{Cluster, Coracle, Run, repository};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, DeleteParams, LogParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{NamespaceResourceScope, Resource};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Config};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A cluster with a node of ours, and a namespace of the test's own.
struct Site {
    coracle: Coracle,
    cluster: Option<Cluster>,
    kubeconfig: PathBuf,
    client: Client,
    /// Names the namespace and the node.
    name: String,
}

impl Site {
    async fn new(purpose: &str) -> Site {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
        let (cluster, kubeconfig) = match std::env::var_os("CORACLE_TEST_KUBECONFIG") {
            Some(file) => (None, PathBuf::from(file)),
            None => {
                let cluster = Cluster::start(&coracle);
                let kubeconfig = cluster.kubeconfig().to_owned();
                (Some(cluster), kubeconfig)
            }
        };
        let client = Client::try_from(config(&kubeconfig).await).expect("a client");
        // A cluster that is there already may remember earlier runs.
        let name = format!("{purpose}-{}", std::process::id());
        let site = Site {
            coracle,
            cluster,
            kubeconfig,
            client,
            name,
        };
        let namespace = json!({"metadata": {"name": site.name}});
        site.create_all::<Namespace>(&namespace).await;
        for sample in ["hello-http", "batch"] {
            let file = repository().join(format!("samples/{sample}/{sample}.wasm"));
            let file = file.to_str().expect("the path is text");
            let image = format!("scenario.test/{sample}:1");
            let built = site.coracle.finish(&["image", "build", file, "-t", &image]);
            assert_eq!(built.code, Some(0), "{built:?}");
        }
        site
    }

    /// Starts the node and waits until the cluster has it.
    async fn join(&self) -> Run {
        let kubeconfig = self.kubeconfig.to_str().expect("the path is text");
        let run = self.coracle.start(
            &[
                "node",
                "--kubeconfig",
                kubeconfig,
                "--node-name",
                &self.name,
                "--node-ip",
                "127.0.0.1",
                "--listen",
                "127.0.0.1:0",
                "--pod-cidr",
                "10.199.0.0/16",
                // Machines that test are often short of it.
                "--eviction-hard",
                "nodefs.available<64Mi",
            ],
            "",
        );
        let nodes = Api::<Node>::all(self.client.clone());
        let ready = await_condition(nodes, &self.name, |node: Option<&Node>| {
            let conditions = node
                .and_then(|node| node.status.as_ref())
                .and_then(|status| status.conditions.as_ref());
            conditions
                .into_iter()
                .flatten()
                .any(|it| it.type_ == "Ready" && it.status == "True")
        });
        ready.await.expect("the node is watched");
        run
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    async fn create_all<K>(&self, object: &Value) -> K
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
    {
        create(&Api::all(self.client.clone()), object).await
    }

    /// Creates a pod of one container that only our node may run.
    async fn pod(&self, name: &str, image: &str, restart: &str) -> Pod {
        let pod = json!({
            "metadata": {"name": name},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": self.name},
                "automountServiceAccountToken": false,
                "restartPolicy": restart,
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "main",
                    "image": format!("scenario.test/{image}:1"),
                    "imagePullPolicy": "Never",
                    "env": [{"name": "STEPS", "value": "2"}],
                    "ports": [{"containerPort": 80}],
                }],
            },
        });
        // A new namespace's default account appears a moment later.
        let accounts = self.api::<ServiceAccount>();
        let there = await_condition(accounts, "default", |account: Option<&ServiceAccount>| {
            account.is_some()
        });
        there.await.expect("the accounts are watched");
        create(&self.api(), &pod).await
    }

    /// Waits until the pod's status is as wanted, and returns it.
    async fn wait(&self, name: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let api = self.api::<Pod>();
        let met = await_condition(api, name, |pod: Option<&Pod>| pod.is_some_and(&wanted));
        met.await
            .expect("the pods are watched")
            .expect("the pod is there")
    }

    /// Removes what the test made from a cluster that stays.
    async fn leave(self) {
        if self.cluster.is_none() {
            let params = DeleteParams::default();
            let nodes = Api::<Node>::all(self.client.clone());
            nodes.delete(&self.name, &params).await.expect("deleted");
            let namespaces = Api::<Namespace>::all(self.client.clone());
            namespaces
                .delete(&self.name, &params)
                .await
                .expect("deleted");
        }
    }
}

async fn config(kubeconfig: &Path) -> Config {
    let read = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .expect("the kubeconfig is complete")
}

async fn create<K>(api: &Api<K>, object: &Value) -> K
where
    K: Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object.clone()).expect("an object of its kind");
    let created = api.create(&PostParams::default(), &object).await;
    created.expect("the object is created")
}

fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|it| it.phase.as_deref())
        .unwrap_or_default()
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|it| it.container_statuses.as_ref());
    statuses
        .into_iter()
        .flatten()
        .map(|it| it.restart_count)
        .sum()
}

fn address(pod: &Pod) -> Option<String> {
    pod.status.as_ref()?.pod_ip.clone()
}

/// Pods run to their ends; a node that is killed comes back and has its pods again, with their
/// addresses, their containers counted as restarted; what is deleted is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_runs_pods_and_comes_back() {
    let site = Site::new("joins").await;
    let mut node = site.join().await;
    site.pod("batch", "batch", "Never").await;
    site.pod("first", "hello-http", "Always").await;
    site.pod("second", "hello-http", "Always").await;
    site.wait("batch", |pod| phase(pod) == "Succeeded").await;
    // The API server asks the node, as the Node object says where it is.
    let log = site.api::<Pod>().logs("batch", &LogParams::default()).await;
    let log = log.expect("the log can be read");
    assert!(log.contains("step 2 of 2"), "{log}");
    let is_running = |pod: &Pod| phase(pod) == "Running" && address(pod).is_some();
    let before = [
        address(&site.wait("first", is_running).await),
        address(&site.wait("second", is_running).await),
    ];
    assert_ne!(before[0], before[1]);
    node.kill();

    let back = site.join().await;
    let is_back = |pod: &Pod| is_running(pod) && restarts(pod) == 1;
    let after = [
        address(&site.wait("first", is_back).await),
        address(&site.wait("second", is_back).await),
    ];
    assert_eq!(before, after);
    let batch = site.api::<Pod>().get("batch").await.expect("it is kept");
    assert_eq!((phase(&batch), restarts(&batch)), ("Succeeded", 0));

    let first = site.api::<Pod>().get("first").await.expect("it is there");
    let uid = first.metadata.uid.expect("an object has a UID");
    let deleted = site
        .api::<Pod>()
        .delete("first", &DeleteParams::default())
        .await;
    deleted.expect("it may be deleted");
    let gone = await_condition(site.api::<Pod>(), "first", conditions::is_deleted(&uid));
    gone.await.expect("the pods are watched");
    back.interrupt();
    assert_eq!(back.end().code, Some(0));
    site.leave().await;
}

/// The kubelet API answers those whom the API server allows to ask, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn the_kubelet_api_asks_the_api_server_who_may_ask() {
    let site = Site::new("asks").await;
    let mut node = site.join().await;
    let address = node.wait_for("the kubelet API's address", |line| {
        line.split("https://127.0.0.1:")
            .nth(1)
            .filter(|_| line.starts_with("the kubelet API"))
            .map(|port| format!("https://127.0.0.1:{}", port.trim()))
    });
    site.pod("batch", "batch", "Never").await;
    site.wait("batch", |pod| phase(pod) == "Succeeded").await;
    for account in ["nobody", "reader"] {
        let account = json!({"metadata": {"name": account}});
        create::<ServiceAccount>(&site.api(), &account).await;
    }
    let role = json!({
        "metadata": {"name": site.name},
        "rules": [{"apiGroups": [""], "resources": ["nodes/proxy"], "verbs": ["get"]}],
    });
    site.create_all::<ClusterRole>(&role).await;
    let binding = json!({
        "metadata": {"name": site.name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": site.name},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": site.name}],
    });
    site.create_all::<ClusterRoleBinding>(&binding).await;

    let logs = format!("/containerLogs/{}/batch/main", site.name);
    let ask = async |token: Option<&str>, path: &str| {
        let mut config = Config::new(address.parse().expect("an address"));
        config.accept_invalid_certs = true;
        config.auth_info.token = token.map(|token| token.to_owned().into());
        let client = Client::try_from(config).expect("a client");
        let request = http::Request::get(path)
            .body(Vec::new())
            .expect("a request");
        client.request_text(request).await
    };
    let refused = |answer: kube::Result<String>| match answer {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(refused(ask(None, &logs).await), 401);
    assert_eq!(refused(ask(Some("forged"), &logs).await), 401);
    let nobody = token(&site, "nobody").await;
    assert_eq!(refused(ask(Some(&nobody), &logs).await), 403);
    let reader = token(&site, "reader").await;
    let text = ask(Some(&reader), &logs).await.expect("the reader may");
    assert!(text.contains("step 2 of 2"), "{text}");
    // Leave to read is not leave to run something.
    let exec = format!("/exec/{}/batch/main?command=id&output=1", site.name);
    assert_eq!(refused(ask(Some(&reader), &exec).await), 403);

    let params = DeleteParams::default();
    let roles = Api::<ClusterRole>::all(site.client.clone());
    roles.delete(&site.name, &params).await.expect("deleted");
    let bindings = Api::<ClusterRoleBinding>::all(site.client.clone());
    bindings.delete(&site.name, &params).await.expect("deleted");
    drop(node);
    site.leave().await;
}

async fn token(site: &Site, account: &str) -> String {
    let request: TokenRequest =
        serde_json::from_value(json!({"spec": {"audiences": []}})).expect("a request");
    let api = site.api::<ServiceAccount>();
    let answer = api
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .expect("the account gets a token");
    let status = answer.status.expect("the answer has a status");
    status.token.expect("the status has a token")
}

/// What cannot be joined is refused with words, exit code 125.
#[test]
fn what_cannot_be_joined_is_refused() {
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let missing = coracle.finish(&["node", "--kubeconfig", "no-such-file"]);
    assert_eq!(missing.code, Some(125));
    assert!(missing.stderr.contains("no-such-file"), "{missing:?}");

    // A port of our own that nobody listens on.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let file = coracle.data().join("leads-nowhere");
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}'}}}}]\n\
         users: [{{name: u, user: {{token: t}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
         current-context: x\n"
    );
    std::fs::write(&file, text).expect("the file is written");
    let nowhere = coracle.finish(&["node", "--kubeconfig", file.to_str().expect("text")]);
    assert_eq!(nowhere.code, Some(125));
    assert!(
        nowhere
            .stderr
            .contains(&format!("https://127.0.0.1:{port}")),
        "{nowhere:?}"
    );
    let named = coracle.finish(&[
        "node",
        "--kubeconfig",
        file.to_str().expect("text"),
        "--node-name",
        "Not_A_Name",
    ]);
    assert_eq!(named.code, Some(125));
    assert!(named.stderr.contains("Not_A_Name"), "{named:?}");
}
