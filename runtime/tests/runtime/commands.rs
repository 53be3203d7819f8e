//! What a command's end is called, and what ends it.

use crate::guests::{self, preview1};
use crate::world::World;
use coracle_runtime::{Exit, ExitCause, Limits, RunAs, StartError};
use std::sync::Arc;
use std::time::Duration;

/// Runs `wasm` to its end.
async fn run(wasm: &[u8]) -> Exit {
    World::new().container(wasm).await.start().exited().await
}

async fn check(wasm: Vec<u8>, code: i32) {
    let exit = run(&wasm).await;
    assert_eq!((exit.code, &exit.cause), (code, &ExitCause::Exited));
    assert!(exit.started_at <= exit.finished_at);
}

#[tokio::test]
async fn a_returning_module_exits_0() {
    check(preview1(""), 0).await;
}

// The public adapter turns every code but 0 into 1; ours keeps them.
#[tokio::test]
async fn the_code_of_proc_exit_is_kept() {
    check(guests::exits(0), 0).await;
    check(guests::exits(7), 7).await;
    check(guests::exits(255), 255).await;
}

#[tokio::test]
async fn the_result_of_run_becomes_0_or_1() {
    check(guests::command("i32.const 0"), 0).await;
    check(guests::command("i32.const 1"), 1).await;
}

#[tokio::test]
async fn a_component_may_exit_with_a_code() {
    check(
        guests::command("(call $exit_with_code (i32.const 9)) unreachable"),
        9,
    )
    .await;
    check(guests::command("(call $exit (i32.const 1)) unreachable"), 1).await;
}

#[tokio::test]
async fn a_trap_is_134_and_tells_what_and_where() {
    let world = World::new();
    let container = world.container(&preview1("unreachable")).await;
    let stderr = container.stderr.clone();
    let exit = container.start().exited().await;
    assert_eq!(exit.code, 134);
    let ExitCause::Trapped { message } = exit.cause else {
        panic!("{:?}", exit.cause)
    };
    assert!(
        message.starts_with("wasm trap: wasm `unreachable`"),
        "{message}"
    );
    assert!(message.contains("backtrace"), "{message}");
    assert_eq!(stderr.text(), format!("{message}\n"));
}

#[tokio::test]
async fn endless_recursion_is_a_trap() {
    let text = r#"(module (memory (export "memory") 1)
        (func $down (export "_start") (call $down) (call $down)))"#;
    let exit = run(&wat::parse_str(text).expect("valid")).await;
    assert_eq!(exit.code, 134);
    assert!(
        matches!(exit.cause, ExitCause::Trapped { .. }),
        "{:?}",
        exit.cause
    );
}

/// Grows by 16 MiB and traps unless that worked.
const GROWS: &str = "(if (i32.eq (memory.grow (i32.const 256)) (i32.const -1)) (then unreachable))";

fn four_mebibytes() -> Limits {
    Limits {
        memory: Some(4 << 20),
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_program_that_fails_after_refused_memory_was_out_of_memory() {
    let world = World::new();
    let container = world.container(&preview1(GROWS)).await;
    let exit = container
        .with(|spec| spec.limits = four_mebibytes())
        .start()
        .exited()
        .await;
    assert_eq!((exit.code, exit.cause), (137, ExitCause::OutOfMemory));
}

#[tokio::test]
async fn a_program_may_live_with_refused_memory() {
    let world = World::new();
    let container = world
        .container(&preview1("(drop (memory.grow (i32.const 256)))"))
        .await;
    let exit = container
        .with(|spec| spec.limits = four_mebibytes())
        .start()
        .exited()
        .await;
    assert_eq!((exit.code, exit.cause), (0, ExitCause::Exited));
}

#[tokio::test]
async fn a_program_that_begins_above_its_limit_is_out_of_memory() {
    let text = r#"(module (memory (export "memory") 256) (func (export "_start")))"#;
    let world = World::new();
    let container = world.container(&wat::parse_str(text).expect("valid")).await;
    let exit = container
        .with(|spec| spec.limits = four_mebibytes())
        .start()
        .exited()
        .await;
    assert_eq!((exit.code, exit.cause), (137, ExitCause::OutOfMemory));
}

#[tokio::test]
async fn memory_is_charged_while_a_program_lives() {
    let world = World::new();
    let instance = world.container(&preview1(GROWS)).await.start();
    assert_eq!(instance.exited().await.code, 0);
    let usage = instance.usage();
    assert_eq!(usage.memory, 0);
    assert!(usage.memory_peak >= 16 << 20, "{usage:?}");
    // The last slice is charged when its thread has left the guest, a moment after the exit.
    while instance.usage().cpu == Duration::ZERO {
        tokio::task::yield_now().await;
    }
}

/// Waits until the guest is at work, so that ending it is not ending its start.
async fn busy(instance: &coracle_runtime::Instance) {
    while instance.usage().memory == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_tight_loop_can_be_killed() {
    let world = World::new();
    let instance = world.container(&guests::spins()).await.start();
    busy(&instance).await;
    assert_eq!(instance.exit(), None);
    instance.kill();
    let exit = instance.exited().await;
    assert_eq!((exit.code, exit.cause), (137, ExitCause::Killed));
    assert_eq!(instance.usage().memory, 0);
}

#[tokio::test]
async fn a_blocked_host_call_can_be_killed() {
    let world = World::new();
    let instance = world.container(&guests::sleeps()).await.start();
    busy(&instance).await;
    instance.kill();
    assert_eq!(instance.exited().await.code, 137);
}

#[tokio::test]
async fn a_stopped_command_ends_at_once_with_143() {
    let world = World::new();
    for wasm in [guests::spins(), guests::sleeps()] {
        let instance = world.container(&wasm).await.start();
        instance.stop();
        instance.stop();
        let exit = instance.exited().await;
        assert_eq!((exit.code, exit.cause), (143, ExitCause::Stopped));
    }
}

#[tokio::test]
async fn ending_what_has_ended_changes_nothing() {
    let world = World::new();
    let instance = world.container(&guests::exits(7)).await.start();
    let exit = instance.exited().await;
    instance.kill();
    instance.stop();
    assert_eq!(instance.exit(), Some(exit));
}

#[tokio::test]
async fn a_tight_loop_that_waits_for_its_quota_can_be_killed() {
    let world = World::new();
    let container = world.container(&guests::spins()).await;
    let instance = container
        .with(|spec| spec.limits.cpu_milli = Some(1))
        .start();
    // A thousandth of a processor is one slice in a second: after the first it is parked.
    while instance.usage().cpu == Duration::ZERO {
        tokio::task::yield_now().await;
    }
    instance.kill();
    assert_eq!(instance.exited().await.code, 137);
}

#[tokio::test]
async fn a_spinning_neighbour_does_not_keep_others_from_ending() {
    let world = World::new();
    let mut spinners = Vec::new();
    for _ in 0..4 {
        spinners.push(world.container(&guests::spins()).await.start());
    }
    assert_eq!(
        world
            .container(&guests::exits(7))
            .await
            .start()
            .exited()
            .await
            .code,
        7
    );
    for spinner in spinners {
        spinner.kill();
        spinner.exited().await;
    }
}

#[tokio::test]
async fn output_is_complete_when_the_exit_is_known() {
    let world = World::new();
    let container = world.container(&guests::says_hello()).await;
    let stdout = container.stdout.clone();
    container.start().exited().await;
    assert_eq!(stdout.text(), "hello\n");
}

#[tokio::test]
async fn arguments_and_environment_reach_the_guest() {
    let counts = preview1(
        "(drop (call $args (i32.const 64) (i32.const 68)))
         (drop (call $environ (i32.const 72) (i32.const 76)))
         (call $exit (i32.add (i32.mul (i32.load (i32.const 64)) (i32.const 10))
            (i32.load (i32.const 72))))",
    );
    let world = World::new();
    let container = world.container(&counts).await.with(|spec| {
        spec.args = vec!["program".into(), "one".into(), "two".into()];
        spec.env = Arc::new([("A".into(), "1".into()), ("B".into(), "2".into())]);
    });
    assert_eq!(container.start().exited().await.code, 32);
}

#[tokio::test]
async fn a_handler_without_a_command_cannot_run_as_one() {
    let world = World::new();
    let container = world.container(&guests::answers()).await;
    let refused = container
        .with(|spec| spec.run_as = RunAs::Command)
        .try_start();
    assert!(matches!(refused, Err(StartError::NoCommand { .. })));
}

#[tokio::test]
async fn shutting_down_ends_everything_and_lets_nothing_start() {
    let world = World::new();
    let running = world.container(&guests::spins()).await.start();
    let late = world.container(&guests::spins()).await;
    world.runtime.shutdown().await;
    assert_eq!(running.exit().map(|exit| exit.code), Some(137));
    assert!(matches!(late.try_start(), Err(StartError::ShuttingDown)));
}
