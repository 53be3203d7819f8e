//! The machine's limits: who gets no instance is told why, and everybody else goes on.

use crate::guests;
use crate::world::World;
use coracle_runtime::{BindingLimit, PrepareError, StartError};

/// What code takes that is loaded into one engine.
const CODE: u64 = 4;
/// What a small command takes: where mappings are not counted, its data are always mapped.
const COMMAND: u64 = if cfg!(target_os = "linux") { 4 } else { 6 };

#[tokio::test]
async fn a_command_for_which_there_is_no_room_is_refused_and_starts_when_another_has_ended() {
    let world = World::with_mappings(CODE + 2 * COMMAND);
    let container = || async { world.container(&guests::sleeps()).await };
    let (first, second) = (container().await.start(), container().await.start());
    let refused = container().await.try_start();
    let Err(StartError::Full(full)) = refused else {
        panic!("a third one starts");
    };
    assert_eq!(full.limit, BindingLimit::MemoryMappings);
    assert!(
        full.to_string().contains("sysctl -w vm.max_map_count="),
        "{full}"
    );
    assert_eq!(world.runtime.capacity().free, 0);
    first.kill();
    first.exited().await;
    let third = container().await.start();
    assert!(second.exit().is_none() && third.exit().is_none());
}

/// Also where a program in a container would be one too many.
#[tokio::test]
async fn code_for_which_there_is_no_room_is_not_loaded() {
    let world = World::with_mappings(CODE - 1);
    let refused = crate::world::prepare(&world.runtime, &guests::sleeps()).await;
    assert!(
        matches!(refused, Err(PrepareError::Full { .. })),
        "{refused:?}"
    );
}

/// What the process maps is counted, so nothing else may run in it: the test starts itself alone.
#[cfg(target_os = "linux")]
const ALONE: &str = "CORACLE_TEST_ALONE";

#[cfg(target_os = "linux")]
#[test]
fn a_small_command_costs_four_mappings() {
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime
            .expect("a runtime for the test")
            .block_on(start_many_small_commands());
        return;
    }
    let ended = std::process::Command::new(std::env::current_exe().expect("the test has a path"))
        .args(["--exact", "places::a_small_command_costs_four_mappings"])
        .env(ALONE, "1")
        .output()
        .expect("the test starts");
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{told}");
    assert!(told.contains("1 passed"), "{told}");
}

#[cfg(target_os = "linux")]
async fn start_many_small_commands() {
    const MANY: usize = 300;
    let mappings = || {
        let maps = std::fs::read_to_string("/proc/self/maps");
        maps.expect("the kernel lists mappings").lines().count()
    };
    let world = World::new();
    let mut running = vec![world.container(&guests::says_and_sleeps()).await.start()];
    let before = mappings();
    let mut said = Vec::new();
    for _ in 0..MANY {
        let container = world.container(&guests::says_and_sleeps()).await;
        said.push(container.stdout.clone());
        running.push(container.start());
    }
    while said.iter().any(|stdout| stdout.text().is_empty()) {
        tokio::task::yield_now().await;
    }
    let after = mappings();
    // The allocator maps a little, too; five would be 300 more.
    assert!(
        after < before + MANY * 9 / 2,
        "{MANY} instances take {before}..{after} mappings"
    );
}
