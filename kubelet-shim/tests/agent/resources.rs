//! What containers may use, what changes of it, and what happens to those that use more.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::guests;
use crate::pods::{is_over, is_running, run};
use crate::world::{Means, PATIENCE, World, container, phase, waiting_reason};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_running_container_follows_a_resize", || run(in_place())),
    ("a_container_restarts_for_what_its_policy_names", || {
        run(by_a_restart())
    }),
    ("a_resize_waits_for_room_and_gets_it", || run(deferred())),
    ("a_pod_for_which_there_is_no_room_is_rejected", || {
        run(no_room())
    }),
    ("a_pod_gets_the_room_of_one_that_left", || run(freed_room())),
    ("a_pod_that_keeps_too_much_on_the_disk_is_evicted", || {
        run(storage())
    }),
    ("a_volume_in_memory_is_shared_and_leaves_no_file", || {
        run(memory_volume())
    }),
    (
        "a_container_without_a_place_waits_says_so_and_starts_when_another_has_gone",
        || run(no_place()),
    ),
    (
        "a_pod_whose_volumes_take_the_nodes_memory_is_evicted_and_its_neighbours_are_not",
        || run(memory_pressure()),
    ),
];

fn resources(cpu: (u64, u64), memory: (&str, &str)) -> Value {
    json!({
        "requests": {"cpu": format!("{}m", cpu.0), "memory": memory.0},
        "limits": {"cpu": format!("{}m", cpu.1), "memory": memory.1},
    })
}

async fn resize(world: &World, pod: &str, resources: Value) {
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}});
    let params = PatchParams::default();
    world
        .api::<Pod>()
        .patch_subresource("resize", pod, &params, &Patch::Strategic(patch))
        .await
        .expect("a resize");
}

/// Waits until the container has these resources, as the node tells it.
async fn until_given(world: &World, pod: &str, wanted: &Value) -> Pod {
    look(world, pod, |found| {
        let given = container(found).and_then(|one| one.resources.as_ref());
        let is_given =
            given.is_some_and(|given| serde_json::to_value(given).expect("amounts") == *wanted);
        is_given.then(|| found.clone())
    })
    .await
}

async fn until_condition(world: &World, pod: &str, kind: &str) -> PodCondition {
    look(world, pod, |found| condition(found, kind)).await
}

/// Looks at a running pod until something is found in it.
async fn look<T>(world: &World, pod: &str, find: impl Fn(&Pod) -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = find(&world.until(pod, is_running).await) {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .expect("it is told in time")
}

fn condition(pod: &Pod, kind: &str) -> Option<PodCondition> {
    let status = pod.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|one| one.type_ == kind).cloned()
}

fn is_resized(pod: &Pod) -> bool {
    ["PodResizePending", "PodResizeInProgress"]
        .iter()
        .all(|kind| condition(pod, kind).is_none())
}

fn restarts(pod: &Pod) -> Option<i32> {
    container(pod).map(|one: &ContainerStatus| one.restart_count)
}

async fn in_place() {
    let mut world = World::new().await;
    let image = world.image("spins", &guests::says_and_spins("up"));
    let first = resources((50, 100), ("32Mi", "64Mi"));
    let spec = json!({"containers": [{"name": "main", "image": image, "resources": first}]});
    world.pod("p", spec).await;
    until_given(&world, "p", &first).await;
    // A container runs a moment before its guest has its memory.
    world.line().await;
    let second = resources((60, 200), ("64Mi", "128Mi"));
    resize(&world, "p", second.clone()).await;
    let pod = until_given(&world, "p", &second).await;
    assert_eq!(restarts(&pod), Some(0));
    let allocated = container(&pod).and_then(|one| one.allocated_resources.clone());
    assert_eq!(
        serde_json::to_value(allocated).expect("amounts"),
        second["requests"]
    );
    world.until("p", is_resized).await;
    let reasons = world.events("p", "ResizeCompleted").await;
    assert!(reasons.contains(&"ResizeStarted".to_owned()), "{reasons:?}");
    // Its memory is larger than that already.
    resize(&world, "p", resources((60, 200), ("1Ki", "1Ki"))).await;
    let condition = until_condition(&world, "p", "PodResizeInProgress").await;
    assert_eq!(condition.reason.as_deref(), Some("Error"));
    let message = condition.message.unwrap_or_default();
    assert!(
        message.contains("memory limit (1024) below current usage"),
        "{message}"
    );
    assert_eq!(condition.observed_generation, Some(3));
    world.events("p", "ResizeError").await;
    resize(&world, "p", resources((60, 200), ("1Ki", "32Mi"))).await;
    world.until("p", is_resized).await;
    resize(
        &world,
        "p",
        resources((9_000_000, 9_000_000), ("1Ki", "32Mi")),
    )
    .await;
    let condition = until_condition(&world, "p", "PodResizePending").await;
    assert_eq!(condition.reason.as_deref(), Some("Infeasible"));
    let message = condition.message.unwrap_or_default();
    let expected = "Node didn't have enough capacity: cpu, requested: 9000000, capacity: ";
    assert!(message.starts_with(expected), "{message}");
    resize(&world, "p", first.clone()).await;
    until_given(&world, "p", &first).await;
    let pod = world.until("p", is_resized).await;
    assert_eq!(restarts(&pod), Some(0));
    world.stop().await;
}

async fn by_a_restart() {
    let world = World::new().await;
    let image = world.image("spins", &guests::spins());
    let first = resources((50, 100), ("32Mi", "64Mi"));
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "main", "image": image, "resources": first, "resizePolicy": policy}]});
    world.pod("p", spec).await;
    until_given(&world, "p", &first).await;
    let second = resources((50, 200), ("32Mi", "64Mi"));
    resize(&world, "p", second.clone()).await;
    assert_eq!(restarts(&until_given(&world, "p", &second).await), Some(0));
    let third = resources((50, 200), ("32Mi", "128Mi"));
    resize(&world, "p", third.clone()).await;
    world
        .until("p", |pod| {
            restarts(pod) == Some(1) && is_running(pod) && is_resized(pod)
        })
        .await;
    until_given(&world, "p", &third).await;
    world
        .message("p", "Killing", "Container main resize requires restart")
        .await;
    world.stop().await;
}

/// The node's processors in thousandths.
fn capacity() -> u64 {
    let cores = std::thread::available_parallelism().expect("processors");
    u64::try_from(cores.get()).expect("a number") * 1000
}

async fn deferred() {
    let world = World::new().await;
    let image = world.image("spins", &guests::spins());
    let all = capacity();
    let pod = |cpu: u64| {
        json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": image,
            "resources": {"requests": {"cpu": format!("{cpu}m")}, "limits": {"cpu": format!("{all}m")}}}]})
    };
    world.pod("p", pod(all - 600)).await;
    world.pod("q", pod(300)).await;
    world.until("p", is_running).await;
    world.until("q", is_running).await;
    let wish = json!({"requests": {"cpu": format!("{}m", all - 200)}});
    resize(&world, "p", wish).await;
    let condition = until_condition(&world, "p", "PodResizePending").await;
    assert_eq!(condition.reason.as_deref(), Some("Deferred"));
    assert_eq!(
        condition.message.as_deref(),
        Some(&*format!(
            "Node didn't have enough resource: cpu, requested: {}, used: 300, capacity: {all}",
            all - 200
        ))
    );
    let pods = world.api::<Pod>();
    pods.delete("q", &DeleteParams::default())
        .await
        .expect("a deletion");
    let pod = world.until("p", is_resized).await;
    let allocated = container(&pod).and_then(|one| one.allocated_resources.clone());
    let cpu = allocated.and_then(|amounts| amounts.get("cpu").cloned());
    assert_eq!(cpu.map(|cpu| cpu.0), Some(format!("{}m", all - 200)));
    world.events("p", "ResizeDeferred").await;
    world.stop().await;
}

async fn no_room() {
    let world = World::new().await;
    let image = world.image("spins", &guests::spins());
    let wanted = capacity() + 1;
    // As a scheduler does that knows less than the node.
    let spec = json!({"nodeName": "node-1", "containers": [{"name": "main", "image": image,
        "resources": {"requests": {"cpu": format!("{wanted}m")}}}]});
    world.pod("p", spec).await;
    let pod = world.until("p", is_over).await;
    let status = pod.status.unwrap_or_default();
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    let message = format!(
        "Pod was rejected: Node didn't have enough resource: cpu, requested: {wanted}, used: 0, \
         capacity: {}",
        capacity()
    );
    assert_eq!(status.message, Some(message));
    world.stop().await;
}

/// The scheduler sends the next pod as soon as it hears of the end of the one before.
async fn freed_room() {
    let world = World::new().await;
    let image = world.image("spins", &guests::spins());
    let cpu = format!("{}m", capacity() * 3 / 4);
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "main",
        "image": image, "resources": {"requests": {"cpu": cpu}}}]});
    let names: Vec<String> = (0..6).map(|index| format!("p{index}")).collect();
    for name in &names {
        world.pod(name, spec.clone()).await;
    }
    let pods = world.api::<Pod>();
    let mut left = names;
    while !left.is_empty() {
        let looking = async {
            loop {
                for (index, name) in left.iter().enumerate() {
                    let pod = pods.get(name).await.expect("a pod");
                    assert!(!is_over(&pod), "{:#?}", pod.status);
                    if is_running(&pod) {
                        return index;
                    }
                }
                tokio::task::yield_now().await;
            }
        };
        let index = tokio::time::timeout(PATIENCE, looking).await;
        let name = left.remove(index.expect("one of them runs in time"));
        let deleted = pods.delete(&name, &DeleteParams::default()).await;
        deleted.expect("a deletion");
    }
    world.stop().await;
}

async fn storage() {
    let world = World::new().await;
    let content = "x".repeat(2048);
    let image = world.image("fills", &guests::writes("file", &content, "again"));
    let spec = json!({
        "containers": [{"name": "main", "image": image,
            "resources": {"limits": {"ephemeral-storage": "1Ki"}}}],
    });
    world.pod("p", spec).await;
    let pod = world.until("p", is_over).await;
    assert_eq!(phase(&pod), "Failed");
    let status = pod.status.unwrap_or_default();
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    let message = "Pod ephemeral local storage usage exceeds the total limit of containers 1Ki. ";
    assert_eq!(status.message.as_deref(), Some(message));
    world.stop().await;
}

async fn memory_volume() {
    let mut world = World::new().await;
    let writer = world.image(
        "writer",
        &guests::writes("scratch/env", "K='left behind'", "no"),
    );
    let reader = world.image("reader", &guests::shows_environment_and("scratch/env"));
    let mounts = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "first", "image": writer, "volumeMounts": mounts}],
        "containers": [{"name": "main", "image": reader, "volumeMounts": mounts}],
        "volumes": [{"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
    });
    world.pod("p", spec).await;
    let mut line = world.line().await;
    while !line.contains("left behind") {
        line = world.line().await;
    }
    world.until("p", is_over).await;
    assert!(
        !world.holds_file("env"),
        "a file of the volume is on the disk"
    );
    world.stop().await;
}

/// A container that fills a file in memory with so many bytes, and then spins.
fn filling(image: &str, bytes: u64, resources: Value) -> Value {
    let script =
        format!("head -c {bytes} /dev/zero > /scratch/f; echo full; while :; do sleep 1; done");
    json!({
        "containers": [{"name": "main", "image": image, "args": ["sh", "-c", script],
            "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}], "resources": resources}],
        "volumes": [{"name": "scratch", "emptyDir": {"medium": "Memory"}}],
    })
}

/// No container's end gives back what a volume holds, so the pod has to go; who uses what it asked for stays.
async fn memory_pressure() {
    let means = Means {
        memory: 64 << 20,
        ..Means::default()
    };
    let mut world = World::with(means).await;
    let image = world.sample("toolbox");
    let asked = json!({"requests": {"memory": "40Mi"}});
    world.pod("modest", filling(&image, 20 << 20, asked)).await;
    assert_eq!(world.line().await, "full");
    world
        .pod("small", filling(&image, 1 << 20, json!({})))
        .await;
    assert_eq!(world.line().await, "full");
    world
        .pod("greedy", filling(&image, 60 << 20, json!({})))
        .await;
    let pod = world.until("greedy", is_over).await;
    assert_eq!(phase(&pod), "Failed");
    let status = pod.status.clone().unwrap_or_default();
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    let message = status.message.unwrap_or_default();
    let expected = "The node was low on resource: memory. Threshold quantity: 4Mi, available: ";
    assert!(message.starts_with(expected), "{message}");
    world.message("greedy", "Evicted", &message).await;
    let disruption = condition(&pod, "DisruptionTarget").expect("a condition");
    assert_eq!(disruption.reason.as_deref(), Some("TerminationByKubelet"));
    for name in ["modest", "small"] {
        let pod = world.until(name, is_running).await;
        assert_eq!(restarts(&pod), Some(0), "{name}");
    }
    world.stop().await;
}

/// What code takes that is loaded into one engine, and what a small command takes, in mappings.
const CODE: u64 = 4;
const COMMAND: u64 = if cfg!(target_os = "linux") { 4 } else { 6 };

/// The limits of the machine end nobody who runs: who comes too late waits.
async fn no_place() {
    let all = CODE + 2 * COMMAND;
    let means = Means {
        mappings: Some(all),
        ..Means::default()
    };
    let world = World::with(means).await;
    let image = world.image("spins", &guests::spins());
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": image}],
    });
    for name in ["first", "second"] {
        world.pod(name, spec.clone()).await;
        world.until(name, is_running).await;
    }
    world.pod("late", spec).await;
    let pod = world
        .until("late", |pod| {
            waiting_reason(pod) == Some("CreateContainerError")
        })
        .await;
    assert_eq!(phase(&pod), "Pending");
    let state = container(&pod).and_then(|one| one.state.clone());
    let message = state.and_then(|state| state.waiting?.message);
    let expected = format!(
        "failed to make an instance: no room for another instance: vm.max_map_count allows {all} \
         memory mappings and {all} are taken: raise it, for example with `sysctl -w vm.max_map_count=1048576`"
    );
    assert_eq!(message, Some(expected.clone()));
    let event = format!("Error: {expected}");
    world.message("late", "Failed", &event).await;
    let pods = world.api::<Pod>();
    let deleted = pods.delete("first", &DeleteParams::default()).await;
    deleted.expect("a deletion");
    let pod = world.until("late", is_running).await;
    assert_eq!(restarts(&pod), Some(0));
    let pod = world.until("second", is_running).await;
    assert_eq!(restarts(&pod), Some(0), "nobody else is touched");
    world.stop().await;
}
