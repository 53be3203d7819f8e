//! Informers of two client libraries follow an hour's worth of changes, are cut off again and again,
//! and miss nothing.
//!
//! One is `kube`'s; the other the official Python client's, which is not on every machine:
//! `CORACLE_TEST_PEERS=1` switches it on, with `CORACLE_TEST_PYTHONPATH` naming where it is installed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use coracle_tests::{Cluster, Coracle, repository};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::{Client, Config, ResourceExt};
use serde_json::json;

/// One write a second for an hour, made as fast as they are taken.
const WRITES: u64 = 3_600;

/// Objects that are written in turn.
const OBJECTS: u64 = 60;

/// After so many writes an object is deleted and created anew.
const LIFE: u64 = 20;

/// All connections are cut each time so many writes were done.
const WRITES_PER_CUT: u64 = 150;

const NAMESPACE: &str = "default";

/// A relay on loopback whose connections can be cut.
struct Relay {
    address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let open = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&open);
        // The thread ends with the process: a listener of std cannot be woken.
        std::thread::spawn(move || {
            for inner in listener.incoming().flatten() {
                let Ok(outer) = TcpStream::connect(to) else {
                    continue;
                };
                for (mut from, mut into) in [(&inner, &outer), (&outer, &inner)].map(|(a, b)| {
                    (
                        a.try_clone().expect("a copy"),
                        b.try_clone().expect("a copy"),
                    )
                }) {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut into);
                        let _ = into.shutdown(std::net::Shutdown::Both);
                    });
                }
                kept.lock().expect("no panic holds it").push(inner);
            }
        });
        Self { address, open }
    }

    fn cut(&self) {
        for stream in self.open.lock().expect("no panic holds it").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Writes a kubeconfig that leads through the relay; returns it with the server's own address.
fn through_relay(kubeconfig: &Path) -> (Relay, PathBuf) {
    let text = std::fs::read_to_string(kubeconfig).expect("a kubeconfig");
    let (_, rest) = text
        .split_once("server: https://")
        .expect("it names the server");
    let server = rest
        .lines()
        .next()
        .unwrap_or_default()
        .trim_matches('"')
        .to_owned();
    let relay = Relay::start(server.parse().expect("an address"));
    let path = kubeconfig.with_extension("relayed");
    std::fs::write(&path, text.replace(&server, &relay.address.to_string())).expect("written");
    (relay, path)
}

async fn client(kubeconfig: &Path) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .expect("the kubeconfig is complete");
    Client::try_from(config).expect("a client")
}

/// Counts every object's number up, deletes some and creates them anew, and cuts connections.
async fn churn(maps: &Api<ConfigMap>, relay: &Relay) {
    let mut numbers = BTreeMap::new();
    for write in 0..WRITES {
        let name = format!("m{}", write % OBJECTS);
        let number: &mut u64 = numbers.entry(name.clone()).or_default();
        *number += 1;
        if number.is_multiple_of(LIFE) {
            maps.delete(&name, &DeleteParams::default())
                .await
                .expect("deleted");
        }
        if *number == 1 || number.is_multiple_of(LIFE) {
            let map = json!({"metadata": {"name": name}, "data": {"number": number.to_string()}});
            let map = serde_json::from_value(map).expect("a ConfigMap");
            maps.create(&PostParams::default(), &map)
                .await
                .expect("created");
        } else {
            let patch = Patch::Merge(json!({"data": {"number": number.to_string()}}));
            maps.patch(&name, &PatchParams::default(), &patch)
                .await
                .expect("patched");
        }
        if write % WRITES_PER_CUT == WRITES_PER_CUT - 1 {
            relay.cut();
        }
    }
    let end = serde_json::from_value(json!({"metadata": {"name": "end"}})).expect("a ConfigMap");
    maps.create(&PostParams::default(), &end)
        .await
        .expect("created");
}

/// Follows until the end; returns the objects as an informer would keep them.
async fn follow(maps: Api<ConfigMap>) -> BTreeMap<String, String> {
    let mut cache = BTreeMap::new();
    let mut numbers: BTreeMap<String, u64> = BTreeMap::new();
    let number = |map: &ConfigMap| map.data.as_ref()?.get("number")?.parse::<u64>().ok();
    let mut events = std::pin::pin!(watcher::watcher(maps, watcher::Config::default()));
    while let Some(event) = events.next().await {
        match event {
            // A cut connection; the watcher goes on by itself.
            Err(_) => {}
            Ok(Event::Init | Event::InitDone) => {}
            Ok(Event::InitApply(map) | Event::Apply(map)) => {
                let name = map.name_any();
                cache.insert(name.clone(), map.resource_version().unwrap_or_default());
                if name == "end" {
                    break;
                }
                if let Some(number) = number(&map)
                    && let Some(before) = numbers.insert(name.clone(), number)
                {
                    assert_eq!(number, before + 1, "{name}");
                }
            }
            Ok(Event::Delete(map)) => {
                cache.remove(&map.name_any());
            }
        }
    }
    cache
}

/// Starts the Python informer, if it is asked for, and waits until it follows.
fn python(kubeconfig: &Path) -> Option<std::process::Child> {
    if std::env::var_os("CORACLE_TEST_PEERS").is_none_or(|value| value != "1") {
        return None;
    }
    let path = std::env::var_os("CORACLE_TEST_PYTHONPATH").expect("names the client library");
    let mut child = Command::new("python3")
        .arg(repository().join("tests/scenarios/informer.py"))
        .arg(kubeconfig)
        .arg(NAMESPACE)
        .env("PYTHONPATH", path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("`python3` is installed");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut stdout = BufReader::new(stdout);
    stdout
        .read_line(&mut line)
        .expect("the informer says that it follows");
    assert_eq!(line, "following\n");
    // The rest is printed at its end; a thread keeps the pipe empty and shows it.
    std::thread::spawn(move || {
        stdout
            .lines()
            .map_while(Result::ok)
            .for_each(|line| println!("{line}"))
    });
    Some(child)
}

#[tokio::test(flavor = "multi_thread")]
async fn informers_miss_nothing_of_an_hour() {
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let cluster = Cluster::start(&coracle);
    let (relay, relayed) = through_relay(cluster.kubeconfig());
    let direct: Api<ConfigMap> = Api::namespaced(client(cluster.kubeconfig()).await, NAMESPACE);
    let cut: Api<ConfigMap> = Api::namespaced(client(&relayed).await, NAMESPACE);
    let python = python(&relayed);
    let following = tokio::spawn(follow(cut));
    churn(&direct, &relay).await;
    let cache = following.await.expect("no event was missed");
    let list = direct.list(&ListParams::default()).await.expect("a list");
    let listed: BTreeMap<_, _> = list
        .items
        .iter()
        .map(|map| (map.name_any(), map.resource_version().unwrap_or_default()))
        .collect();
    assert_eq!(cache, listed);
    if let Some(mut python) = python {
        let status = python.wait().expect("the informer ends");
        assert!(status.success(), "the informer in Python missed something");
    }
}
