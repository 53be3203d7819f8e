//! Guests that mean harm. Each is bounded as the limits say, and none disturbs what runs beside it.
//!
//! [`check`] runs one of them in the same runtime as a well-behaved handler, and asks of every single one:
//! the neighbour answers while the guest is at work and afterwards, the guest ends as expected (or is ended
//! by `kill`), nothing stays charged to it, the descriptors of the process are as many as before, and the
//! guest threads are alive. Descriptors and threads are the process's, so the tests of this binary take turns.

use coracle_runtime::fs::{FileSystem, FileSystemSpec, Tree, Upper, User};
use coracle_runtime::{ExitCause, Instance, Output, SandboxSpec};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Mutex, MutexGuard};
use world::{Container, PORT, World};

#[expect(dead_code, reason = "the other tests use the rest")]
#[path = "../runtime/guests.rs"]
mod guests;
#[expect(dead_code, reason = "the other tests use the rest")]
#[path = "../runtime/world.rs"]
mod world;

mod computing;
#[cfg(target_os = "linux")]
mod descriptors;
mod files;
mod http;
mod interface;
mod network;
mod preview1;
mod streams;

/// Nothing here takes more than a moment; whatever is not done by then hangs.
const HANGS_AFTER: Duration = Duration::from_secs(120);
/// What the writable layer of a guest may take.
const LAYER_BYTES_MAX: u64 = 4 << 20;
/// Requests to the neighbour while the guest is at work, and once more when it is gone.
const REQUESTS: usize = 8;

/// Held by the test whose turn it is.
static TURN: Mutex<()> = Mutex::const_new(());

/// How a guest ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// By itself, with this code.
    Exits(i32),
    /// By a trap.
    Traps,
    /// For want of memory.
    OutOfMemory,
    /// Before it began.
    FailsToStart,
    /// Not before it is killed.
    GoesOn,
}

/// A world with a well-behaved handler in it.
struct Neighbourhood {
    world: World,
    neighbour: Instance,
    address: SocketAddr,
    /// Last, so that everything else is gone at the next one's turn.
    _turn: MutexGuard<'static, ()>,
}

impl Neighbourhood {
    async fn new() -> Self {
        let turn = TURN.lock().await;
        let world = World::new();
        let container = world.container(&guests::answers()).await;
        let address = SocketAddr::from((container.spec.network.ip(), PORT));
        let neighbour = container.start();
        let hood = Self {
            world,
            neighbour,
            address,
            _turn: turn,
        };
        // Whatever is made at the first request is there from now on.
        hood.neighbour_answers().await;
        hood
    }

    async fn neighbour_answers(&self) {
        for _ in 0..REQUESTS {
            let answer = ask(&self.world, self.address).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert_eq!(guests::body_of(&answer).as_deref(), Some("1"), "{answer}");
        }
    }

    /// A container that runs `wasm` with a writable root.
    async fn container(&self, wasm: &[u8], layer: &tempfile::TempDir) -> Container {
        let files = FileSystem::new(FileSystemSpec {
            root: Arc::new(Tree::empty()),
            upper: Upper::Writable {
                dir: layer.path().join("layer"),
                limit: LAYER_BYTES_MAX,
            },
            mounts: Vec::new(),
            user: User::default(),
        });
        let container = self.world.container(wasm).await;
        container.with(|spec| {
            spec.files = files.expect("an empty root");
            spec.stdout = Arc::new(Discards);
            spec.stderr = Arc::new(Discards);
        })
    }

    /// Asks what must be true when a guest is gone.
    async fn unharmed(self, hostile: Instance, descriptors: usize) {
        // What we held for it goes with whatever was under way.
        until(|| hostile.usage().memory == 0).await;
        drop(hostile);
        self.neighbour_answers().await;
        until(|| open_descriptors() <= descriptors).await;
        until(|| self.neighbour.usage().memory == 0).await;
        assert_eq!(self.neighbour.exit(), None);
        until(guest_threads_live).await;
        self.world.runtime.shutdown().await;
        let exit = self.neighbour.exited().await;
        assert_eq!((exit.code, exit.cause), (137, ExitCause::Killed));
    }
}

/// Sends one request on a connection of its own and returns all of the answer.
async fn ask(world: &World, address: SocketAddr) -> String {
    let mut stream = world.fabric.dial(address).await.expect("it listens");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n")
        .await
        .expect("it reads");
    let mut answer = Vec::new();
    // An answer that is broken off is for the caller to judge.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("the answer is text")
}

/// Runs `wasm` beside a well-behaved neighbour; see the module.
async fn check(wasm: &[u8], fate: Fate) {
    check_with(wasm, fate, |_, _| {}).await;
}

async fn check_with(
    wasm: &[u8],
    fate: Fate,
    change: impl FnOnce(&mut SandboxSpec, &Neighbourhood),
) {
    let hood = Neighbourhood::new().await;
    let checking = async {
        let layer = tempfile::tempdir().expect("a folder");
        let container = hood.container(wasm, &layer).await;
        let container = container.with(|spec| change(spec, &hood));
        let limit = container.spec.limits.memory.unwrap_or(u64::MAX);
        let descriptors = open_descriptors();
        let hostile = container.start();
        until(|| hostile.usage().memory_peak > 0 || hostile.exit().is_some()).await;
        hood.neighbour_answers().await;
        if fate == Fate::GoesOn {
            assert_eq!(hostile.exit(), None);
            hostile.kill();
        }
        let exit = hostile.exited().await;
        let found = match exit.cause {
            ExitCause::Exited => Fate::Exits(exit.code),
            ExitCause::Trapped { .. } if exit.code == 134 => Fate::Traps,
            ExitCause::OutOfMemory if exit.code == 137 => Fate::OutOfMemory,
            ExitCause::FailedToStart { .. } if exit.code == 128 => Fate::FailsToStart,
            ExitCause::Killed if exit.code == 137 => Fate::GoesOn,
            cause => panic!("{}: {cause:?}", exit.code),
        };
        assert_eq!(found, fate);
        assert!(hostile.usage().memory_peak <= limit);
        hood.unharmed(hostile, descriptors).await;
    };
    let done = tokio::time::timeout(HANGS_AFTER, checking).await;
    done.expect("the guest ends, and the neighbour answers");
}

/// Waits for a condition that comes true by what others do.
async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    let came = tokio::time::timeout(HANGS_AFTER, waiting).await;
    came.expect("what is waited for comes true");
}

/// Takes everything and keeps nothing.
struct Discards;

impl Output for Discards {
    fn write(&self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn poll_ready(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// How many files, sockets and pipes this process has open. What a test that waits for its turn has is the
/// same for all of them, so it does not count: an event counter, a poll set, a socket for signals.
#[cfg(target_os = "linux")]
fn open_descriptors() -> usize {
    let open: std::collections::BTreeSet<_> = std::fs::read_dir("/proc/self/fd")
        .expect("Linux tells")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .collect();
    open.len()
}

#[cfg(not(target_os = "linux"))]
fn open_descriptors() -> usize {
    0
}

/// Whether every guest thread is there. One that has not run yet does not have its name yet.
#[cfg(target_os = "linux")]
fn guest_threads_live() -> bool {
    let names: Vec<String> = std::fs::read_dir("/proc/self/task")
        .expect("Linux tells")
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .collect();
    let threads = [
        "guest-fast-0",
        "guest-fast-1",
        "guest-batch-0",
        "guest-ticker",
    ];
    threads
        .iter()
        .all(|thread| names.iter().any(|name| name.trim_end() == *thread))
}

#[cfg(not(target_os = "linux"))]
fn guest_threads_live() -> bool {
    true
}
