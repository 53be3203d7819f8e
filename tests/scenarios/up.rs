//! `coracle up` keeps what it has acknowledged.

use std::collections::BTreeSet;
use std::time::Duration;

use coracle_tests::{Cluster, Coracle, files_with, repository};
use futures::AsyncBufReadExt;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{Api, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::conditions::is_pod_running;
use kube::runtime::wait::await_condition;
use kube::{Client, Config, ResourceExt};
use serde_json::json;

/// How often the process is killed. The store's own tests simulate ten thousand power cuts.
const KILLS: u64 = 12;

/// Writers at once, so that a kill meets groups of writes.
const WRITERS: usize = 16;

/// More writes than a round lasts for.
const WRITES_MAX: u64 = 100_000;

/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a write of before the kill may be without an answer: wine does not always tell that a
/// connection of a killed process is gone.
const LAST_WORDS: Duration = Duration::from_secs(5);

async fn client(cluster: &Cluster) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .expect("the kubeconfig is complete");
    Client::try_from(config).expect("a client")
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"name": name}}))
        .expect("a ConfigMap")
}

/// Writes until the process is gone; returns the names that were acknowledged.
async fn write_until_killed(cluster: &mut Cluster, round: u64) -> BTreeSet<String> {
    let maps: Api<ConfigMap> = Api::default_namespaced(client(cluster).await);
    let create = |number: u64| {
        let maps = maps.clone();
        async move {
            let name = format!("r{round}-{number}");
            let created = maps
                .create(&PostParams::default(), &config_map(&name))
                .await;
            created.is_ok().then_some(name)
        }
    };
    // The point of the kill differs from round to round; any point must do.
    let kill_after = 40 + round * 37 % 400;
    let mut numbers = 0..WRITES_MAX;
    let mut writes: FuturesUnordered<_> = numbers.by_ref().take(WRITERS).map(create).collect();
    let mut acknowledged = BTreeSet::new();
    let mut patience = PATIENCE;
    while let Ok(Some(written)) = tokio::time::timeout(patience, writes.next()).await {
        let Some(name) = written else { continue };
        acknowledged.insert(name);
        if acknowledged.len() as u64 == kill_after {
            cluster.run.kill();
            patience = LAST_WORDS;
        }
        writes.extend(numbers.next().map(create));
    }
    assert_eq!(patience, LAST_WORDS, "the process was killed");
    acknowledged
}

/// A process that is killed while it writes loses nothing that it has acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_nothing_acknowledged() {
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let mut acknowledged = BTreeSet::new();
    for round in 0..KILLS {
        let mut cluster = Cluster::start(&coracle);
        let maps: Api<ConfigMap> = Api::default_namespaced(client(&cluster).await);
        let list = maps.list(&ListParams::default()).await.expect("a list");
        let found: BTreeSet<_> = list.items.iter().map(ResourceExt::name_any).collect();
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "round {round} lost {lost:?}");
        for map in list
            .items
            .iter()
            .filter(|map| map.name_any().starts_with('r'))
        {
            let data = map.data.as_ref().expect("the data is there");
            assert_eq!(data.get("name"), Some(&map.name_any()));
        }
        acknowledged.extend(write_until_killed(&mut cluster, round).await);
    }
}

/// An orderly end and a new start keep objects, their versions and the identity of the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_objects_and_credentials() {
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let first = Cluster::start(&coracle);
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&first).await);
    let created = maps
        .create(&PostParams::default(), &config_map("kept"))
        .await
        .expect("created");
    let authority = std::fs::read_to_string(first.kubeconfig()).expect("a kubeconfig");
    end(first);
    let second = Cluster::start(&coracle);
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&second).await);
    let found = maps.get("kept").await.expect("still there");
    assert_eq!(found, created);
    let line = |text: &str| {
        let line = text
            .lines()
            .find(|line| line.contains("certificate-authority-data"));
        line.expect("a kubeconfig names its authority").to_owned()
    };
    let now = std::fs::read_to_string(second.kubeconfig()).expect("a kubeconfig");
    assert_eq!(line(&authority), line(&now));
    end(second);
}

/// A second process on the same folder says who is there, and ends.
#[test]
fn a_second_up_says_that_one_is_running() {
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let first = Cluster::start(&coracle);
    let second = coracle.finish(&["up", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.code, Some(125), "{second:?}");
    let folder = coracle.data().display().to_string();
    assert!(second.stderr.contains(&folder), "{second:?}");
    assert!(
        second.stderr.contains(&first.run.id().to_string()),
        "{second:?}"
    );
    end(first);
}

/// The value of a Secret is in no file, also after a kill.
#[tokio::test(flavor = "multi_thread")]
async fn the_values_of_secrets_are_in_no_file() {
    const PLAIN: &str = "the-captain-keeps-this-to-himself";
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let mut cluster = Cluster::start(&coracle);
    let secrets: Api<Secret> = Api::default_namespaced(client(&cluster).await);
    let secret = json!({"metadata": {"name": "quiet"}, "stringData": {"p": PLAIN}});
    let secret = serde_json::from_value(secret).expect("a Secret");
    secrets
        .create(&PostParams::default(), &secret)
        .await
        .expect("created");
    assert_eq!(files_with(coracle.data(), PLAIN), Vec::<String>::new());
    cluster.run.kill();
    drop(cluster);
    assert_eq!(files_with(coracle.data(), PLAIN), Vec::<String>::new());
    let cluster = Cluster::start(&coracle);
    let secrets: Api<Secret> = Api::default_namespaced(client(&cluster).await);
    let found = secrets.get("quiet").await.expect("still there");
    let value = found
        .data
        .and_then(|mut data| data.remove("p"))
        .expect("the value");
    assert_eq!(value.0, PLAIN.as_bytes());
    end(cluster);
    assert_eq!(files_with(coracle.data(), PLAIN), Vec::<String>::new());
}

/// Waits for a line of a pod's log.
async fn until_said(pods: &Api<Pod>, name: &str, line: &str) {
    let follow = LogParams {
        follow: true,
        ..LogParams::default()
    };
    let running = await_condition(pods.clone(), name, is_pod_running());
    running.await.expect("a watch");
    let log = pods.log_stream(name, &follow).await.expect("a log");
    let mut lines = log.lines();
    while let Some(said) = lines.next().await {
        if said.expect("a line") == line {
            return;
        }
    }
    panic!("the log has ended without `{line}`");
}

/// The same while a pod uses it in every way there is, and of the token the pod has.
#[tokio::test(flavor = "multi_thread")]
async fn the_secrets_of_a_running_pod_are_in_no_file() {
    const PLAIN: [&str; 2] = ["the-helmsman-keeps-this", "and-this-is-its-successor"];
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let component = repository().join("samples/config-and-secrets/config-and-secrets.wasm");
    let component = component.to_str().expect("the folder's name is text");
    let built = coracle.finish(&["image", "build", component, "--tag", "app:1"]);
    assert_eq!(built.code, Some(0), "{built:?}");
    let mut cluster = Cluster::start(&coracle);
    let client = client(&cluster).await;
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let secret =
        json!({"metadata": {"name": "s"}, "stringData": {"password": PLAIN[0], "greeting": "1"}});
    let secret = serde_json::from_value(secret).expect("a Secret");
    let fresh = PostParams::default();
    secrets.create(&fresh, &secret).await.expect("created");
    let password = json!({"secretKeyRef": {"name": "s", "key": "password"}});
    let labels =
        json!({"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]});
    let pod = json!({"metadata": {"name": "p"}, "spec": {
    "containers": [{
        "name": "c", "image": "app:1", "imagePullPolicy": "Never",
        "env": [{"name": "PASSWORD", "valueFrom": password}],
        "envFrom": [{"prefix": "ALL_", "secretRef": {"name": "s"}}],
        "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "whole", "mountPath": "/whole"},
            {"name": "whole", "mountPath": "/part", "subPath": "password"}],
    }],
    "volumes": [
        {"name": "config", "projected": {"sources": [{"secret": {"name": "s"}}, {"downwardAPI": labels}]}},
        {"name": "whole", "secret": {"secretName": "s"}},
    ]}});
    let pod = serde_json::from_value(pod).expect("a Pod");
    pods.create(&fresh, &pod).await.expect("created");
    until_said(&pods, "p", "greeting: 1").await;
    let patch = json!({"stringData": {"password": PLAIN[1], "greeting": "2"}});
    let patch = Patch::Merge(patch);
    secrets
        .patch("s", &PatchParams::default(), &patch)
        .await
        .expect("changed");
    until_said(&pods, "p", "greeting: 2").await;
    // All tokens of the cluster begin alike.
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec::default()),
        ..TokenRequest::default()
    };
    let token = accounts
        .create_token_request("default", &fresh, &request)
        .await;
    let token = token
        .expect("a token")
        .status
        .and_then(|status| status.token);
    let begin = token.and_then(|token| token.split('.').next().map(str::to_owned));
    let begin = begin.expect("a head");
    let check = || {
        for secret in [PLAIN[0], PLAIN[1], &begin] {
            assert_eq!(files_with(coracle.data(), secret), Vec::<String>::new());
        }
    };
    check();
    cluster.run.kill();
    check();
    drop(cluster);
    end(Cluster::start(&coracle));
    check();
}

/// Ends a cluster in order.
fn end(cluster: Cluster) {
    cluster.run.interrupt();
    let ended = cluster.run.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stderr.contains("ERROR"), "{ended:?}");
}
