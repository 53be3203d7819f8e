//! Volumes in memory: their layout, and how they follow what they are made from.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use coracle_control_plane::{ControlPlane, ControlPlaneConfig};
use coracle_runtime::fs::{
    Access, FileSystem, FileSystemSpec, LiveTree, Mount, MountSource, Tree, Upper, User,
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::layout::{self, LayoutError, Payload, Sources};
use super::*;
use crate::environment::{ObjectData, Objects};
use crate::node::Amounts;
use crate::spec::{HostPathPolicy, ObjectKind, PodSpecPlan, TokenPlan, VolumeSource, check_pod};
use crate::time::Clock;

/// Longest wait for anything; only a broken promise takes that long.
const PATIENCE: Duration = Duration::from_secs(30);

const AMOUNTS: Amounts = Amounts {
    cpu_milli: 2000,
    memory: 1 << 30,
    memory_least: 0,
    storage: 10 << 30,
    pods: 110,
};

fn plan(name: &str, volumes: Value) -> PodSpecPlan {
    let pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": "u-1",
            "labels": {"b": "two\nlines", "a": "say \"x\""}, "annotations": {"k": "v"}},
        "spec": {"volumes": volumes, "containers": [{"name": "c", "image": "i",
            "resources": {"limits": {"cpu": "1500m"}, "requests": {"ephemeral-storage": "3Mi"}}}]},
    });
    check_pod(
        &serde_json::from_value(pod).unwrap(),
        HostPathPolicy::Refuse,
    )
    .unwrap()
}

fn objects() -> Objects {
    let data = ObjectData {
        data: BTreeMap::from([
            ("a".to_owned(), Bytes::from_static(b"one")),
            ("b".to_owned(), Bytes::from_static(b"two")),
        ]),
        binary: BTreeMap::from([("c".to_owned(), Bytes::from_static(b"\xff"))]),
    };
    Objects::from([((ObjectKind::ConfigMap, "m".to_owned()), Arc::new(data))])
}

fn drawn(pod: &PodSpecPlan, gone: &[(ObjectKind, String)]) -> Result<Payload, LayoutError> {
    let VolumeSource::Files(volume) = &pod.volumes[0].source else {
        panic!("no files: {:?}", pod.volumes)
    };
    let token = TokenPlan {
        audience: None,
        lifetime: Duration::from_secs(3607),
    };
    let sources = Sources {
        pod,
        amounts: AMOUNTS,
        objects: &objects(),
        gone: &gone.iter().cloned().collect::<HashSet<_>>(),
        tokens: &HashMap::from([(token, Ok(Bytes::from_static(b"jwt")))]),
    };
    layout::payload(volume, &sources)
}

/// Mounts a tree at `/v` as a container would see it.
fn mounted(tree: LiveTree) -> Arc<FileSystem> {
    FileSystem::new(FileSystemSpec {
        root: Arc::new(Tree::empty()),
        upper: Upper::ReadOnly,
        mounts: vec![Mount {
            path: "/v".to_owned(),
            source: MountSource::Live(tree),
            sub_path: None,
            access: Access::ReadOnly,
            group: None,
        }],
        user: User::default(),
    })
    .unwrap()
}

/// Reads files of a pod's one volume.
fn check(volume: Value, expected: &[(&str, &[u8])]) {
    let pod = plan("p", json!([volume]));
    let files = drawn(&pod, &[]).unwrap();
    let tree = layout::tree(&files, SystemTime::UNIX_EPOCH).unwrap();
    let seen = mounted(LiveTree::new(tree));
    for (path, content) in expected {
        assert_eq!(seen.read_file(path).unwrap(), *content, "{path}");
    }
    let named = expected.iter().filter(|(path, _)| !path.contains(".."));
    assert_eq!(named.count(), files.len(), "{:?}", files.keys());
}

#[test]
fn every_key_is_a_file_behind_the_data_link() {
    check(
        json!({"name": "v", "configMap": {"name": "m"}}),
        &[
            ("/v/a", b"one"),
            ("/v/b", b"two"),
            ("/v/c", b"\xff"),
            ("/v/..data/a", b"one"),
        ],
    );
}

#[test]
fn items_choose_keys_and_paths() {
    let items = json!([{"key": "a", "path": "x/y"}, {"key": "b", "path": "x/z"}]);
    check(
        json!({"name": "v", "configMap": {"name": "m", "items": items}}),
        &[("/v/x/y", b"one"), ("/v/x/z", b"two")],
    );
}

/// Labels and annotations are quoted as Go's `%q` does, sorted, without a last newline.
#[test]
fn a_downward_volume_says_what_the_kubelet_says() {
    let field = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    let amount = |path: &str, resource: &str| {
        let reference = json!({"containerName": "c", "resource": resource});
        json!({"path": path, "resourceFieldRef": reference})
    };
    check(
        json!({"name": "v", "downwardAPI": {"items": [
            field("labels", "metadata.labels"), field("all/annotations", "metadata.annotations"),
            field("name", "metadata.name"), field("b", "metadata.labels['b']"),
            field("none", "metadata.annotations['none']"), amount("cpu", "limits.cpu"),
            amount("storage", "requests.ephemeral-storage"), amount("disk", "limits.ephemeral-storage"),
        ]}}),
        &[
            ("/v/labels", b"a=\"say \\\"x\\\"\"\nb=\"two\\nlines\""),
            ("/v/all/annotations", b"k=\"v\""),
            ("/v/name", b"p"),
            ("/v/b", b"two\nlines"),
            ("/v/none", b""),
            ("/v/cpu", b"2"),
            ("/v/storage", b"3145728"),
            ("/v/disk", b"10737418240"),
        ],
    );
}

/// A token is for the user whom all containers run as and for the group of the volumes, else for everybody.
#[test]
fn a_token_belongs_to_whom_the_pod_runs_as() {
    let token = json!({"serviceAccountToken": {"path": "x", "expirationSeconds": 3607}});
    let map = json!({"configMap": {"name": "m", "items": [{"key": "a", "path": "y"}]}});
    let volumes = json!([{"name": "v", "projected": {"sources": [token, map]}}]);
    let mut pod = plan("p", volumes);
    let seen = |pod: &PodSpecPlan| {
        let files = drawn(pod, &[]).unwrap();
        let token = (files["x"].mode, files["x"].owner);
        assert_eq!((files["y"].mode, files["y"].owner), (0o644, 0));
        token
    };
    assert_eq!(seen(&pod), (0o644, 0));
    pod.groups.of_volumes = Some(7);
    assert_eq!(seen(&pod), (0o600, 0));
    pod.groups.of_volumes = None;
    pod.containers[0].security.run_as_user = Some(5);
    assert_eq!(seen(&pod), (0o600, 5));
    let mut second = pod.containers[0].clone();
    second.security.run_as_user = Some(6);
    pod.containers.push(second);
    assert_eq!(seen(&pod), (0o644, 0));
}

#[test]
fn of_two_sources_with_one_path_the_later_wins() {
    let map = json!({"configMap": {"name": "m", "items": [{"key": "a", "path": "x"}]}});
    let token = json!({"serviceAccountToken": {"path": "x", "expirationSeconds": 3607}});
    let volume = |sources: Value| json!({"name": "v", "projected": {"sources": sources}});
    check(volume(json!([map, token])), &[("/v/x", b"jwt")]);
    check(volume(json!([token, map])), &[("/v/x", b"one")]);
}

#[test]
fn a_missing_key_or_object_is_told_unless_it_is_optional() {
    let error = |map: Value| {
        let pod = plan("p", json!([{"name": "v", "configMap": map}]));
        drawn(&pod, &[]).err().map(|error| error.to_string())
    };
    let items = json!([{"key": "gone", "path": "x"}]);
    for (map, expected) in [
        (
            json!({"name": "m", "items": items}),
            Some("configmap references non-existent config key: gone"),
        ),
        (json!({"name": "m", "items": items, "optional": true}), None),
        (
            json!({"name": "gone"}),
            Some("configmap \"gone\" not found"),
        ),
        (json!({"name": "gone", "optional": true}), None),
    ] {
        assert_eq!(error(map.clone()).as_deref(), expected, "{map}");
    }
}

/// Deletion of an optional object empties the volume, of a required one it keeps the old content.
#[test]
fn a_deleted_object_leaves_when_it_is_optional() {
    let gone = [(ObjectKind::ConfigMap, "m".to_owned())];
    for (optional, expected) in [(true, 0), (false, 3)] {
        let map = json!({"name": "m", "optional": optional});
        let pod = plan("p", json!([{"name": "v", "configMap": map}]));
        assert_eq!(drawn(&pod, &gone).unwrap().len(), expected);
    }
}

/// A control plane, the keeper at work, and what pods see.
struct World {
    control_plane: ControlPlane,
    source: ObjectSource,
    keeper: tokio::task::JoinHandle<()>,
}

impl World {
    async fn new() -> World {
        let control_plane = ControlPlane::start(ControlPlaneConfig::default()).await;
        let source = ObjectSource::new(control_plane.client("default"), Clock::system());
        World {
            control_plane,
            keeper: tokio::spawn(run(source.clone())),
            source,
        }
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.control_plane.client("default"), "default")
    }

    async fn make(&self, map: Value) {
        let map = serde_json::from_value(map).unwrap();
        self.maps()
            .create(&PostParams::default(), &map)
            .await
            .unwrap();
    }

    async fn change(&self, name: &str, patch: Value) {
        let patch = Patch::Merge(patch);
        self.maps()
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    async fn delete(&self, name: &str) {
        self.maps()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// Follows a pod's one volume.
    async fn follow(&self, volume: Value) -> Result<(Arc<PodFiles>, Arc<FileSystem>), String> {
        let pod = Arc::new(plan("p", json!([volume])));
        let followed = self.source.follow(&pod, AMOUNTS, Clock::system().now());
        let files = tokio::time::timeout(PATIENCE, followed).await.unwrap();
        let files = files.map_err(|error| crate::images::describe(&error.source))?;
        let tree = files.trees().remove(0).1;
        Ok((files, mounted(tree)))
    }

    async fn stop(self) {
        self.keeper.abort();
        self.control_plane.stop().await;
    }
}

/// Waits until a file says what is expected, `None` being no file.
async fn until(files: &FileSystem, path: &str, expected: Option<&str>) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = files.read_file(path).ok();
        if found.as_deref() == expected.map(str::as_bytes) {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{path} is {found:?}, not {expected:?}"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_volume_follows_its_object_without_a_restart() {
    let world = World::new().await;
    world
        .make(json!({"metadata": {"name": "m"}, "data": {"k": "1"}}))
        .await;
    let map = json!({"name": "v", "configMap": {"name": "m"}});
    let (first, seen) = world.follow(map.clone()).await.unwrap();
    until(&seen, "/v/k", Some("1")).await;
    world.change("m", json!({"data": {"k": "2"}})).await;
    // Whoever comes after a change sees it at once, whatever the watch knows.
    let (second, also) = world.follow(map).await.unwrap();
    assert_eq!(also.read_file("/v/k").unwrap(), "2");
    until(&seen, "/v/k", Some("2")).await;
    world
        .change("m", json!({"data": {"k": null, "new": "3"}}))
        .await;
    for files in [&seen, &also] {
        until(files, "/v/new", Some("3")).await;
        until(files, "/v/k", None).await;
    }
    assert_eq!(world.source.0.followed(), 1, "both share one watch");
    drop(first);
    assert_eq!(world.source.0.followed(), 1);
    drop(second);
    assert_eq!(world.source.0.followed(), 0, "nobody is left to tell");
    world.stop().await;
}

#[tokio::test]
async fn an_optional_object_comes_and_goes_and_a_required_one_stays() {
    let world = World::new().await;
    let volume = |name: &str, optional: bool| {
        let source = json!({"name": name, "optional": optional});
        json!({"name": "v", "projected": {"sources": [{"configMap": source},
            {"downwardAPI": {"items": [
                {"path": "l", "fieldRef": {"fieldPath": "metadata.labels['a']"}}]}}]}})
    };
    let missing = world.follow(volume("need", false)).await.err();
    assert_eq!(missing.as_deref(), Some("configmap \"need\" not found"));
    assert_eq!(world.source.0.followed(), 0);
    for name in ["need", "want"] {
        world
            .make(json!({"metadata": {"name": name}, "data": {"k": "1"}}))
            .await;
    }
    let (_kept, need) = world.follow(volume("need", false)).await.unwrap();
    let (files, want) = world.follow(volume("want", true)).await.unwrap();
    until(&want, "/v/k", Some("1")).await;
    world.delete("need").await;
    world.delete("want").await;
    until(&want, "/v/k", None).await;
    world
        .make(json!({"metadata": {"name": "want"}, "data": {"k": "2"}}))
        .await;
    until(&want, "/v/k", Some("2")).await;
    // Its deletion was seen before all this, and what else changes in its volume is still shown.
    assert_eq!(need.read_file("/v/k").unwrap(), "1");
    let mut pod = plan("p", json!([volume("want", true)]));
    pod.labels.insert("a".to_owned(), "new".to_owned());
    files.describe(&Arc::new(pod));
    assert_eq!(want.read_file("/v/l").unwrap(), "new");
    world.stop().await;
}

#[tokio::test]
async fn an_immutable_object_is_watched_no_longer_than_it_takes_to_read_it() {
    let world = World::new().await;
    let object =
        |value: &str| json!({"metadata": {"name": "m"}, "immutable": true, "data": {"k": value}});
    world.make(object("1")).await;
    let map = json!({"name": "v", "configMap": {"name": "m"}});
    let (_first, seen) = world.follow(map.clone()).await.unwrap();
    world.delete("m").await;
    world.make(object("2")).await;
    // The newcomer reads it and finds that it was made anew.
    let (_second, also) = world.follow(map).await.unwrap();
    assert_eq!(also.read_file("/v/k").unwrap(), "2");
    until(&seen, "/v/k", Some("2")).await;
    world.stop().await;
}

/// The whole of what a pod usually has at `/var/run/secrets/kubernetes.io/serviceaccount`.
#[tokio::test]
async fn a_token_is_bound_to_the_pod_and_its_failure_names_the_account() {
    let world = World::new().await;
    let secrets: Api<Secret> = Api::namespaced(world.control_plane.client("default"), "default");
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"p": "hidden"}});
    let secret = serde_json::from_value(secret).unwrap();
    secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pods: Api<k8s_openapi::api::core::v1::Pod> =
        Api::namespaced(world.control_plane.client("default"), "default");
    let pod = serde_json::from_value(pod).unwrap();
    let created = pods.create(&PostParams::default(), &pod).await.unwrap();
    let volume = json!([{"name": "v", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token"}}, {"secret": {"name": "s"}}]}}]);
    let mut plan = plan("p", volume);
    plan.key.uid = created.metadata.uid.as_deref().unwrap().into();
    let now = Clock::system().now();
    let files = world
        .source
        .follow(&Arc::new(plan.clone()), AMOUNTS, now)
        .await;
    let files = files.unwrap();
    let seen = mounted(files.trees().remove(0).1);
    let token = String::from_utf8(seen.read_file("/v/token").unwrap().to_vec()).unwrap();
    assert_eq!(token.split('.').count(), 3, "{token}");
    assert_eq!(seen.read_file("/v/p").unwrap(), "hidden");
    // Renewed, it is another one.
    let due = world.source.0.next_due().expect("a time to renew it");
    let hour = Duration::from_secs(3600);
    let left = due.saturating_duration_since(now.instant());
    assert!(
        left < hour * 8 / 10 + Duration::from_secs(1) && left > hour * 7 / 10,
        "{left:?}"
    );
    files.clone().renew(now.after(hour)).await;
    let renewed = String::from_utf8(seen.read_file("/v/token").unwrap().to_vec()).unwrap();
    assert_ne!(renewed, token);
    drop(files);
    assert_eq!(world.source.0.next_due(), None);
    plan.service_account = "nobody".to_owned();
    let refused = world
        .source
        .follow(&Arc::new(plan), AMOUNTS, now)
        .await
        .err();
    let refused = crate::images::describe(&refused.unwrap().source);
    assert_eq!(
        refused,
        "failed to fetch token: serviceaccounts \"nobody\" not found"
    );
    world.stop().await;
}
