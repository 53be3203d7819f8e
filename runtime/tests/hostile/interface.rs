//! Guests that break the rules of their interface: wrong pointers, wrong handles, too many resources.

use super::preview1::{CALLS, call, program};
use super::{Fate, Neighbourhood, check, open_descriptors, until};
use crate::guests;
use coracle_runtime::ExitCause;

/// Calls the function that is as far into [`CALLS`] as there are arguments.
fn calls_one(narrow: u32, wide: u64) -> Vec<u8> {
    let calls: String = CALLS
        .iter()
        .enumerate()
        .map(|(index, (name, params))| {
            let call = call(name, params, narrow, wide);
            let call = match *name {
                "proc_exit" => call,
                _ => format!("(drop {call})"),
            };
            format!("(if (i32.eq (i32.load (i32.const 64)) (i32.const {index})) (then {call}))")
        })
        .collect();
    program(&format!(
        "(drop (call $args_sizes_get (i32.const 64) (i32.const 68))) {calls}"
    ))
}

/// Runs `wasm` once for every function of preview 1, beside a neighbour.
async fn check_every_call(wasm: Vec<u8>) {
    let hood = Neighbourhood::new().await;
    let layer = tempfile::tempdir().expect("a folder");
    let template = hood.container(&wasm, &layer).await;
    drop(template);
    for (index, (name, _)) in CALLS.iter().enumerate() {
        let container = hood.container(&wasm, &layer).await;
        let container = container.with(|spec| spec.args = vec!["x".into(); index]);
        let instance = container.start();
        let exit = instance.exited().await;
        assert!(
            matches!(exit.cause, ExitCause::Exited | ExitCause::Trapped { .. }),
            "{name}: {exit:?}"
        );
        assert_eq!(instance.usage().memory, 0, "{name}");
    }
    let descriptors = open_descriptors();
    let last = hood.container(&guests::exits(0), &layer).await.start();
    until(|| last.exit().is_some()).await;
    hood.unharmed(last, descriptors).await;
}

#[tokio::test]
async fn one_passes_pointers_out_of_bounds_to_every_call() {
    check_every_call(calls_one(0xffff_fff0, u64::MAX)).await;
}

#[tokio::test]
async fn one_passes_nothing_but_zeros_to_every_call() {
    check_every_call(calls_one(0, 0)).await;
}

#[tokio::test]
async fn one_passes_descriptors_that_it_does_not_have() {
    // No call on a descriptor may succeed; one that does exits with its place in the list.
    let calls: String = CALLS
        .iter()
        .enumerate()
        .filter(|(_, (name, _))| name.starts_with("fd_"))
        .map(|(index, (name, params))| {
            format!(
                "(if (i32.eqz {}) (then (call $proc_exit (i32.const {})) unreachable))",
                call(name, params, 4_000, 0),
                100 + index
            )
        })
        .collect();
    check(
        &program(&format!("{calls} (call $proc_exit (i32.const 7))")),
        Fate::Exits(7),
    )
    .await;
}

/// A command with streams and clocks whose `run` is `body`.
fn command(body: &str) -> Vec<u8> {
    guests::component(
        r"package test:handles;
        world guest {
            import wasi:io/poll@0.2.0;
            import wasi:io/streams@0.2.0;
            import wasi:cli/stdout@0.2.0;
            import wasi:clocks/monotonic-clock@0.2.0;
            export wasi:cli/run@0.2.0;
        }
        package wasi:io@0.2.0 {
            interface error { resource error; }
            interface poll {
                resource pollable { block: func(); }
                poll: func(in: list<borrow<pollable>>) -> list<u32>;
            }
            interface streams {
                use error.{error};
                use poll.{pollable};
                variant stream-error { last-operation-failed(error), closed }
                resource output-stream {
                    subscribe: func() -> pollable;
                    write: func(contents: list<u8>) -> result<_, stream-error>;
                }
            }
        }
        package wasi:clocks@0.2.0 {
            interface monotonic-clock {
                use wasi:io/poll@0.2.0.{pollable};
                subscribe-duration: func(when: u64) -> pollable;
            }
        }
        package wasi:cli@0.2.0 {
            interface stdout {
                use wasi:io/streams@0.2.0.{output-stream};
                get-stdout: func() -> output-stream;
            }
            interface run { run: func() -> result; }
        }",
        &format!(
            r#"(module
                (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
                (import "wasi:io/poll@0.2.0" "[resource-drop]pollable"
                    (func $drop_pollable (param i32)))
                (import "wasi:io/poll@0.2.0" "poll" (func $poll (param i32 i32 i32)))
                (import "wasi:io/streams@0.2.0" "[method]output-stream.subscribe"
                    (func $subscribe (param i32) (result i32)))
                (import "wasi:io/streams@0.2.0" "[method]output-stream.write"
                    (func $write (param i32 i32 i32 i32)))
                (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream"
                    (func $drop_stream (param i32)))
                (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
                (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration"
                    (func $after (param i64) (result i32)))
                (memory (export "memory") 1024)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                    (i32.const 0x1000000))
                (func (export "wasi:cli/run@0.2.0#run") (result i32)
                    (local $n i32) (local $one i32) (local $two i32)
                    {body} (i32.const 0)))"#
        ),
    )
}

#[tokio::test]
async fn one_drops_a_resource_twice() {
    let drops = command(
        "(local.set $one (call $stdout))
         (call $drop_stream (local.get $one))
         (call $drop_stream (local.get $one))",
    );
    check(&drops, Fate::Traps).await;
}

#[tokio::test]
async fn one_drops_a_stream_before_what_waits_for_it() {
    let drops = command(
        "(local.set $one (call $stdout))
         (local.set $two (call $subscribe (local.get $one)))
         (call $drop_stream (local.get $one))
         (call $block (local.get $two))",
    );
    check(&drops, Fate::Traps).await;
}

#[tokio::test]
async fn one_passes_handles_that_it_does_not_have() {
    check(&command("(call $block (i32.const 12345))"), Fate::Traps).await;
    check(&command("(call $block (i32.const -1))"), Fate::Traps).await;
}

#[tokio::test]
async fn one_passes_a_handle_of_another_kind() {
    check(&command("(call $block (call $stdout))"), Fate::Traps).await;
}

#[tokio::test]
async fn one_writes_more_than_it_was_permitted() {
    let writes =
        command("(call $write (call $stdout) (i32.const 0) (i32.const 0x3000000) (i32.const 64))");
    check(&writes, Fate::Traps).await;
}

#[tokio::test]
async fn one_makes_pollables_without_end() {
    let makes = command("(loop $again (drop (call $after (i64.const -1))) (br $again))");
    check(&makes, Fate::Traps).await;
}

#[tokio::test]
async fn one_waits_on_thousands_of_pollables() {
    let waits = command(
        "(loop $again
            (i32.store (i32.shl (local.get $n) (i32.const 2)) (call $after (i64.const -1)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const 4096))))
         (call $poll (i32.const 0) (i32.const 4096) (i32.const 0x800000))",
    );
    check(&waits, Fate::GoesOn).await;
}

#[tokio::test]
async fn one_looks_at_thousands_of_pollables_in_a_loop() {
    let looks = command(
        "(loop $again
            (i32.store (i32.shl (local.get $n) (i32.const 2)) (call $after (i64.const 0)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const 4096))))
         (loop $for_ever
            (call $poll (i32.const 0) (i32.const 4096) (i32.const 0x800000))
            (br $for_ever))",
    );
    check(&looks, Fate::GoesOn).await;
}
