//! `coracle up` keeps what it has acknowledged.

use std::collections::BTreeSet;
use std::path::Path;

use coracle_tests::{Cluster, Coracle};
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use serde_json::json;

/// How often the process is killed. The store's own tests simulate ten thousand power cuts.
const KILLS: u64 = 12;

/// Writers at once, so that a kill meets groups of writes.
const WRITERS: usize = 16;

/// More writes than a round lasts for.
const WRITES_MAX: u64 = 100_000;

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
    while let Some(written) = writes.next().await {
        let Some(name) = written else { continue };
        acknowledged.insert(name);
        if acknowledged.len() as u64 == kill_after {
            cluster.run.kill();
        }
        writes.extend(numbers.next().map(create));
    }
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

/// Returns the files below a folder that hold a text, plain or in base64.
fn files_with(folder: &Path, text: &str) -> Vec<String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let encoded = STANDARD.encode(text);
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // A file may go while the folder is read: the process is at work.
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap_or_default();
            let holds = |text: &str| {
                bytes
                    .windows(text.len())
                    .any(|part| part == text.as_bytes())
            };
            if holds(text) || holds(&encoded) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

/// Ends a cluster in order where that can be asked for; elsewhere it is killed.
fn end(cluster: Cluster) {
    #[cfg(unix)]
    {
        cluster.run.interrupt();
        let ended = cluster.run.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(!ended.stderr.contains("ERROR"), "{ended:?}");
    }
    #[cfg(not(unix))]
    drop(cluster);
}
