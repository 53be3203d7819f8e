//! Programs that are started in a container that runs.

use crate::guests::{self, preview1};
use crate::world::{PORT, Sink, Typed, World};
use coracle_runtime::{ExecSpec, Exit, ExitCause, Instance, StartError, Terminal};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The port that the sample `tcp-echo` listens on.
const ECHO_PORT: u16 = 7;

/// A program in a container, before its start.
struct Guest {
    spec: ExecSpec,
    stdout: Arc<Sink>,
}

async fn guest(world: &World, wasm: &[u8]) -> Guest {
    let stdout = Arc::new(Sink::default());
    let spec = ExecSpec {
        program: world.prepare(wasm).await,
        args: vec!["program".into()],
        env: Arc::default(),
        working_dir: "/".into(),
        stdin: None,
        stdout: stdout.clone(),
        stderr: stdout.clone(),
        terminal: Terminal::Absent,
    };
    Guest { spec, stdout }
}

/// A container that does nothing, and a world around it.
async fn sleeping() -> (World, Instance) {
    let world = World::new();
    let container = world.container(&guests::says_and_sleeps()).await;
    let stdout = container.stdout.clone();
    let host = container.start();
    // Its memory is all there then.
    while stdout.text().is_empty() {
        tokio::task::yield_now().await;
    }
    (world, host)
}

async fn run(world: &World, host: &Instance, wasm: &[u8]) -> Exit {
    let spec = guest(world, wasm).await.spec;
    let started = world.runtime.exec(host, spec).expect("it starts");
    started.exited().await
}

#[tokio::test]
async fn a_program_ends_with_its_own_code_and_the_container_lives() {
    let (world, host) = sleeping().await;
    for code in [0, 7] {
        let exit = run(&world, &host, &guests::exits(code)).await;
        assert_eq!((exit.code, exit.cause), (code, ExitCause::Exited));
    }
    let exit = run(&world, &host, &preview1("unreachable")).await;
    assert_eq!(exit.code, 134);
    assert_eq!(host.exit(), None);
    host.kill();
}

/// Copies its input to its output and exits 7.
fn cat() -> Vec<u8> {
    preview1(
        "(i32.store (i32.const 16) (i32.const 1024))
         (i32.store (i32.const 20) (i32.const 4096))
         (block $end (loop $again
            (drop (call $read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 64)))
            (br_if $end (i32.eqz (i32.load (i32.const 64))))
            (i32.store (i32.const 24) (i32.const 1024))
            (i32.store (i32.const 28) (i32.load (i32.const 64)))
            (drop (call $write (i32.const 1) (i32.const 24) (i32.const 1) (i32.const 68)))
            (br $again)))
         (call $exit (i32.const 7))",
    )
}

#[tokio::test]
async fn input_reaches_the_program_as_it_comes_and_ends() {
    let (world, host) = sleeping().await;
    let typed = Arc::new(Typed::default());
    let mut guest = guest(&world, &cat()).await;
    guest.spec.stdin = Some(typed.clone());
    let program = world.runtime.exec(&host, guest.spec).expect("it starts");
    for (line, so_far) in [("one\n", "one\n"), ("two\n", "one\ntwo\n")] {
        typed.say(line);
        while guest.stdout.text() != so_far {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(program.exit(), None);
    typed.say("three\n");
    typed.end();
    assert_eq!(program.exited().await.code, 7);
    assert_eq!(guest.stdout.text(), "one\ntwo\nthree\n");
    host.kill();
}

#[tokio::test]
async fn without_a_source_the_input_ends_at_once() {
    let (world, host) = sleeping().await;
    assert_eq!(run(&world, &host, &cat()).await.code, 7);
    host.kill();
    // The same for a container's own program.
    let exit = world.container(&cat()).await.start().exited().await;
    assert_eq!(exit.code, 7);
}

#[tokio::test]
async fn streams_are_a_terminal_when_they_are_said_to_be() {
    // Exits with the sum of the three streams' types: 2 is a character device.
    let kinds = preview1(
        "(drop (call $fdstat (i32.const 0) (i32.const 64)))
         (drop (call $fdstat (i32.const 1) (i32.const 96)))
         (drop (call $fdstat (i32.const 2) (i32.const 128)))
         (call $exit (i32.add (i32.load8_u (i32.const 64))
            (i32.add (i32.load8_u (i32.const 96)) (i32.load8_u (i32.const 128)))))",
    );
    let (world, host) = sleeping().await;
    for (terminal, code) in [(Terminal::Present, 6), (Terminal::Absent, 0)] {
        let mut spec = guest(&world, &kinds).await.spec;
        spec.terminal = terminal;
        let program = world.runtime.exec(&host, spec).expect("it starts");
        assert_eq!(program.exited().await.code, code, "{terminal:?}");
    }
    host.kill();
}

#[tokio::test]
async fn a_tight_loop_is_killed_or_interrupted_and_the_container_lives() {
    let (world, host) = sleeping().await;
    for (end, code) in [
        (Instance::kill as fn(&Instance), 137),
        (Instance::interrupt, 130),
        (Instance::stop, 143),
    ] {
        let spec = guest(&world, &guests::spins()).await.spec;
        let before = host.usage().memory;
        let program = world.runtime.exec(&host, spec).expect("it starts");
        while host.usage().memory < before + (64 << 10) {
            tokio::task::yield_now().await;
        }
        end(&program);
        assert_eq!(program.exited().await.code, code);
        assert!(host.usage().memory < before + (64 << 10));
    }
    assert_eq!(host.exit(), None);
    host.kill();
}

#[tokio::test]
async fn programs_end_with_their_container_and_none_starts_after_it() {
    let (world, host) = sleeping().await;
    let spin = guest(&world, &guests::spins()).await.spec;
    let sleep = guest(&world, &guests::sleeps()).await.spec;
    let late = guest(&world, &guests::exits(0)).await.spec;
    let spinning = world.runtime.exec(&host, spin).expect("it starts");
    let sleeping = world.runtime.exec(&host, sleep).expect("it starts");
    host.stop();
    assert_eq!(host.exited().await.code, 143);
    for program in [spinning, sleeping] {
        assert_eq!(program.exited().await.code, 137);
    }
    let refused = world.runtime.exec(&host, late);
    assert!(matches!(refused, Err(StartError::Ended)));
}

/// Grows by 16 MiB and runs `then`, or traps.
fn grows(then: &str) -> Vec<u8> {
    preview1(&format!(
        "(if (i32.eq (memory.grow (i32.const 256)) (i32.const -1)) (then unreachable)) {then}"
    ))
}

#[tokio::test]
async fn memory_is_charged_to_the_container() {
    let (world, host) = sleeping().await;
    let spec = guest(&world, &grows("(call $sleep_for_an_hour)"))
        .await
        .spec;
    let program = world.runtime.exec(&host, spec).expect("it starts");
    while host.usage().memory < 16 << 20 {
        tokio::task::yield_now().await;
    }
    program.kill();
    program.exited().await;
    assert!(host.usage().memory < 16 << 20);
    host.kill();
}

#[tokio::test]
async fn a_program_without_memory_dies_of_it_alone() {
    let world = World::new();
    let sleeping = world.container(&guests::sleeps()).await;
    let host = sleeping.with(|spec| spec.limits.memory = Some(4 << 20));
    let host = host.start();
    let exit = run(&world, &host, &grows("")).await;
    assert_eq!((exit.code, exit.cause), (137, ExitCause::OutOfMemory));
    // One that was refused nothing is not blamed for it.
    let exit = run(&world, &host, &guests::exits(3)).await;
    assert_eq!((exit.code, exit.cause), (3, ExitCause::Exited));
    assert_eq!(host.exit(), None);
    host.kill();
}

#[tokio::test]
async fn a_program_runs_beside_a_handler() {
    let world = World::new();
    let container = world.container(&guests::answers()).await;
    let network = container.spec.network.clone();
    let host = container.start();
    assert_eq!(run(&world, &host, &guests::exits(5)).await.code, 5);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    network
        .connect(None, address)
        .await
        .expect("it still listens");
    host.stop();
    assert_eq!(host.exited().await.code, 143);
}

#[tokio::test]
async fn a_program_listens_in_the_containers_network() {
    let world = World::new();
    let container = world.container(&guests::sleeps()).await;
    let network = container.spec.network.clone();
    let host = container.start();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples/tcp-echo");
    let echo = std::fs::read(format!("{folder}/tcp-echo.wasm")).expect("the sample is here");
    let spec = guest(&world, &echo).await.spec;
    let program = world.runtime.exec(&host, spec).expect("it starts");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ECHO_PORT));
    let mut stream = loop {
        match network.connect(None, address).await {
            Ok(stream) => break stream,
            Err(_not_yet) => tokio::task::yield_now().await,
        }
    };
    stream.write_all(b"ping\n").await.expect("it takes bytes");
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.expect("it answers");
    assert_eq!(&answer, b"ping\n");
    host.kill();
    assert_eq!(program.exited().await.code, 137);
}

#[tokio::test]
async fn what_is_no_command_is_refused() {
    let (world, host) = sleeping().await;
    let spec = guest(&world, &guests::answers()).await.spec;
    let refused = world.runtime.exec(&host, spec);
    assert!(matches!(refused, Err(StartError::NoCommand { .. })));
    host.kill();
}

#[tokio::test]
async fn shutting_down_ends_programs_too() {
    let (world, host) = sleeping().await;
    let spec = guest(&world, &guests::spins()).await.spec;
    let late = guest(&world, &guests::spins()).await.spec;
    let program = world.runtime.exec(&host, spec).expect("it starts");
    world.runtime.shutdown().await;
    assert_eq!(program.exit().map(|exit| exit.code), Some(137));
    let refused = world.runtime.exec(&host, late);
    assert!(matches!(refused, Err(StartError::ShuttingDown)));
}
