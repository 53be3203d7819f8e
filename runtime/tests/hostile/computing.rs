//! Guests that compute, recurse, grow and trap.

use super::preview1::{module, program};
use super::{Fate, check, check_with};
use crate::guests;
use coracle_runtime::{ExitCause, Limits, QosClass, SandboxSpec};

fn limited(bytes: u64) -> impl FnOnce(&mut SandboxSpec, &super::Neighbourhood) {
    move |spec, _| {
        spec.limits = Limits {
            memory: Some(bytes),
            ..Limits::default()
        };
    }
}

#[tokio::test]
async fn one_spins_in_a_tight_loop() {
    check(&program("(loop $again (br $again))"), Fate::GoesOn).await;
}

#[tokio::test]
async fn one_spins_under_a_small_quota() {
    let quota = |spec: &mut SandboxSpec, _: &_| spec.limits.cpu_milli = Some(10);
    check_with(&program("(loop $again (br $again))"), Fate::GoesOn, quota).await;
}

#[tokio::test]
async fn one_grows_its_memory_to_the_limit_and_fails() {
    let grows = program(
        "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
         unreachable",
    );
    check_with(&grows, Fate::OutOfMemory, limited(64 << 20)).await;
}

#[tokio::test]
async fn one_asks_for_memory_in_a_loop_that_it_does_not_get() {
    let grows = program("(loop $again (drop (memory.grow (i32.const 1))) (br $again))");
    check_with(&grows, Fate::GoesOn, limited(16 << 20)).await;
}

#[tokio::test]
async fn one_grows_a_table_to_the_limit_and_fails() {
    let grows = module(
        "(memory (export \"memory\") 1) (table $t 1 funcref)",
        "(loop $again (br_if $again (i32.ne
            (table.grow $t (ref.null func) (i32.const 1024)) (i32.const -1))))
         unreachable",
    );
    check_with(&grows, Fate::OutOfMemory, limited(16 << 20)).await;
}

/// A component with `count` memories of so many pages.
fn memories(count: usize, pages: usize) -> Vec<u8> {
    let instances = "(core instance (instantiate $big))".repeat(count);
    let text = format!(
        r#"(component
            (core module $big (memory {pages}))
            (core module $main (func (export "run") (result i32) i32.const 0))
            {instances}
            (core instance $i (instantiate $main))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $exported (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $exported)))"#
    );
    wat::parse_str(text).expect("valid")
}

// An empty memory is charged nothing, but takes address space and mappings from everybody.
#[tokio::test]
async fn one_has_very_many_memories_of_no_size() {
    check(&memories(900, 0), Fate::FailsToStart).await;
}

/// Grows by a mebibyte until it gets no more, and waits.
const HOARDS: &str = "
    (loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))";

// Each may have 4 GiB by itself, which is all that the node has.
#[tokio::test]
async fn some_use_up_the_memory_of_the_node() {
    let hood = super::Neighbourhood::new().await;
    let layer = tempfile::tempdir().expect("a folder");
    let hoards = program(&format!(
        "{HOARDS} (call $must (call $sched_yield)) (loop $l (br $l))"
    ));
    let descriptors = super::open_descriptors();
    let mut hostile = Vec::new();
    for _ in 0..3 {
        let container = hood.container(&hoards, &layer).await;
        let container = container.with(|spec| {
            spec.limits = Limits::default();
            spec.pod = hood.world.pod_account(QosClass::BestEffort);
        });
        hostile.push(container.start());
    }
    // Of three that together want thrice the node, two have to go.
    let ended = || hostile.iter().filter(|one| one.exit().is_some()).count();
    super::until(|| ended() >= 1).await;
    hood.neighbour_answers().await;
    for one in &hostile {
        if one.exit().is_none() {
            one.kill();
        }
        let exit = one.exited().await;
        assert_eq!(exit.code, 137);
        assert!(matches!(
            exit.cause,
            ExitCause::OutOfMemory | ExitCause::Killed
        ));
        assert_eq!(one.usage().memory, 0);
    }
    let last = hostile.pop().expect("there are three");
    hostile.clear();
    hood.unharmed(last, descriptors).await;
}

#[tokio::test]
async fn one_has_many_memories() {
    let wasm = memories(80, 1024);
    check_with(&wasm, Fate::OutOfMemory, limited(512 << 20)).await;
    // They are more than the node has, too.
    check(&wasm, Fate::OutOfMemory).await;
}

#[tokio::test]
async fn one_recurses_to_the_end() {
    let down = module(
        "(memory (export \"memory\") 1)
         (func $down (param i64) (call $down (local.get 0)) (call $down (local.get 0)))",
        "(call $down (i64.const 0))",
    );
    check(&down, Fate::Traps).await;
}

// A host call at the very end of the guest's stack must find room for itself.
#[tokio::test]
async fn one_recurses_with_a_host_call_at_every_depth() {
    let down = module(
        "(memory (export \"memory\") 1)
         (func $down
            (drop (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 64)))
            (call $down)
            (drop (call $random_get (i32.const 64) (i32.const 8))))",
        "(call $down)",
    );
    check(&down, Fate::Traps).await;
}

#[tokio::test]
async fn one_traps_in_its_start_function() {
    let traps = module(
        "(memory (export \"memory\") 1) (func $first unreachable) (start $first)",
        "",
    );
    check(&traps, Fate::Traps).await;
}

#[tokio::test]
async fn one_spins_in_its_start_function() {
    let spins = module(
        "(memory (export \"memory\") 1) (func $first (loop $again (br $again))) (start $first)",
        "",
    );
    check(&spins, Fate::GoesOn).await;
}

#[tokio::test]
async fn one_divides_by_zero() {
    let divides = program("(drop (i32.div_u (i32.const 1) (i32.load (i32.const 0))))");
    check(&divides, Fate::Traps).await;
}

/// A component that asks for its arguments, for which the host calls `cabi_realloc`: `body`.
fn reallocates(body: &str) -> Vec<u8> {
    guests::component(
        r"package test:callback;
        world guest {
            import wasi:cli/environment@0.2.0;
            export wasi:cli/run@0.2.0;
        }
        package wasi:cli@0.2.0 {
            interface environment { get-arguments: func() -> list<string>; }
            interface run { run: func() -> result; }
        }",
        &format!(
            r#"(module
                (import "wasi:cli/environment@0.2.0" "get-arguments" (func $arguments (param i32)))
                (memory (export "memory") 1)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) {body})
                (func (export "wasi:cli/run@0.2.0#run") (result i32)
                    (call $arguments (i32.const 64)) (i32.const 0)))"#
        ),
    )
}

#[tokio::test]
async fn one_traps_in_a_callback_of_the_host() {
    check(&reallocates("unreachable"), Fate::Traps).await;
}

#[tokio::test]
async fn one_gives_the_host_memory_that_it_has_not() {
    check(&reallocates("(i32.const 0x7ffffff0)"), Fate::Traps).await;
}

#[tokio::test]
async fn one_calls_the_host_from_a_callback_of_the_host() {
    let calls = reallocates("(call $arguments (i32.const 64)) (i32.const 128)");
    check(&calls, Fate::Traps).await;
}

#[tokio::test]
async fn one_spins_in_a_callback_of_the_host() {
    check(
        &reallocates("(loop $again (br $again)) unreachable"),
        Fate::GoesOn,
    )
    .await;
}

#[tokio::test]
async fn one_has_huge_arguments() {
    let asks = program(
        "(call $must (call $args_sizes_get (i32.const 64) (i32.const 68)))
         (call $must (call $args_get (i32.const 1024) (i32.const 2048)))",
    );
    let huge = |spec: &mut SandboxSpec, _: &_| {
        spec.args = vec!["x".repeat(1 << 20); 16];
        spec.env = [("NAME".to_owned(), "x".repeat(1 << 20))].into();
    };
    check_with(&asks, Fate::Traps, huge).await;
}

// The container goes on while it has more programs run than it could hold at once.
#[tokio::test]
async fn one_is_made_to_run_programs_in_a_loop() {
    use coracle_runtime::{ExecSpec, Terminal};
    use std::sync::Arc;
    let hood = super::Neighbourhood::new().await;
    let layer = tempfile::tempdir().expect("a folder");
    let exits = hood.world.prepare(&guests::exits(7)).await;
    let container = hood.container(&guests::sleeps(), &layer).await;
    let descriptors = super::open_descriptors();
    let host = container.start();
    super::until(|| host.usage().memory > 0).await;
    for round in 0..200 {
        let visit = ExecSpec {
            program: exits.clone(),
            args: vec!["exits".into()],
            env: Arc::default(),
            working_dir: "/".into(),
            stdin: None,
            stdout: Arc::new(super::Discards),
            stderr: Arc::new(super::Discards),
            terminal: Terminal::Absent,
        };
        let visitor = hood.world.runtime.exec(&host, visit).expect("it starts");
        if round % 20 == 0 {
            hood.neighbour_answers().await;
        }
        assert_eq!(visitor.exited().await.code, 7);
    }
    host.kill();
    assert_eq!(host.exited().await.code, 137);
    hood.unharmed(host, descriptors).await;
}
