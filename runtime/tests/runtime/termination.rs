//! What a request to end means for a command that can be told, or has its grace.

use crate::guests::{self, preview1};
use crate::world::{Sink, Typed, World};
use coracle_runtime::{ExitCause, Instance, OnStop, RunAs};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Waits until the guest has written something.
async fn at_work(stdout: &Sink) {
    while stdout.text().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_command_that_imports_the_interface_is_told_and_keeps_its_code() {
    let world = World::new();
    let container = world.container(&guests::is_told()).await;
    let stdout = container.stdout.clone();
    let instance = container.start();
    at_work(&stdout).await;
    assert_eq!(instance.exit(), None);
    instance.stop();
    instance.stop();
    let exit = instance.exited().await;
    assert_eq!((exit.code, exit.cause), (41, ExitCause::Exited));
}

#[tokio::test]
async fn a_module_for_preview_1_can_be_told_too() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
        (import "coracle:lifecycle/termination@0.1.0" "subscribe" (func $subscribe (result i32)))
        (import "coracle:lifecycle/termination@0.1.0" "requested" (func $requested (result i32)))
        (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\08\00\00\00\06\00\00\00hello\0a")
        (func (export "_start") (local $asked i32)
            (local.set $asked (call $subscribe))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))
            (call $block (local.get $asked))
            (call $exit (i32.add (i32.const 40) (call $requested)))))"#;
    let world = World::new();
    let container = world.container(&wat::parse_str(text).expect("valid")).await;
    let stdout = container.stdout.clone();
    let instance = container.start();
    at_work(&stdout).await;
    instance.stop();
    assert_eq!(instance.exited().await.code, 41);
}

#[tokio::test]
async fn the_samples_are_told_and_finish() {
    let world = World::new();
    for name in ["graceful.wasm", "graceful-c.wasm"] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples/graceful");
        let wasm = std::fs::read(format!("{folder}/{name}")).expect("the sample is here");
        let container = world.container(&wasm).await;
        let stdout = container.stdout.clone();
        let instance = container.start();
        at_work(&stdout).await;
        instance.stop();
        assert_eq!(instance.exited().await.code, 0, "{name}");
        assert!(stdout.text().contains("asked to end"), "{name}");
    }
}

#[tokio::test]
async fn a_command_that_is_told_can_still_be_killed() {
    let world = World::new();
    let container = world.container(&guests::is_told()).await;
    let stdout = container.stdout.clone();
    let instance = container.start();
    at_work(&stdout).await;
    instance.kill();
    assert_eq!(instance.exited().await.code, 137);
}

/// Says hello, reads its input to the end and exits 7.
fn reads() -> Vec<u8> {
    preview1(
        "(drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))
         (i32.store (i32.const 16) (i32.const 1024))
         (i32.store (i32.const 20) (i32.const 4096))
         (loop $again
            (drop (call $read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 64)))
            (br_if $again (i32.load (i32.const 64))))
         (call $exit (i32.const 7))",
    )
}

async fn reading(on_stop: OnStop) -> Instance {
    let world = World::new();
    let container = world.container(&reads()).await.with(|spec| {
        spec.stdin = Some(Arc::new(Typed::default()));
        spec.on_stop = on_stop;
    });
    let stdout = container.stdout.clone();
    let instance = container.start();
    at_work(&stdout).await;
    instance.stop();
    let code = instance.exited().await.code;
    let expected = match on_stop {
        OnStop::AtOnce => 143,
        OnStop::Grace => 7,
    };
    assert_eq!(code, expected, "{on_stop:?}");
    instance
}

#[tokio::test]
async fn with_its_grace_a_command_finds_the_end_of_its_input() {
    reading(OnStop::AtOnce).await;
    reading(OnStop::Grace).await;
}

#[tokio::test]
async fn with_its_grace_a_command_gets_no_more_connections_and_no_error() {
    let world = World::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples/tcp-echo");
    let echo = std::fs::read(format!("{folder}/tcp-echo.wasm")).expect("the sample is here");
    let container = world.container(&echo).await.with(|spec| {
        spec.on_stop = OnStop::Grace;
        spec.run_as = RunAs::Command;
    });
    let network = container.spec.network.clone();
    let stdout = container.stdout.clone();
    let instance = container.start();
    at_work(&stdout).await;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7));
    drop(network.connect(None, address).await.expect("it listens"));
    instance.stop();
    // Refused as soon as the guest's thread has let the listener go.
    while network.connect(None, address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(instance.exit(), None, "the guest waits and fails nothing");
    instance.kill();
    assert_eq!(instance.exited().await.code, 137);
}
