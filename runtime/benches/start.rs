//! Measures what an instance costs: a command from its start to its end, and a handler's fresh instance for
//! each request, both in one process without a kernel socket. The program is compiled and loaded before.
//!
//! Processor time is that of the whole process, so what the guest's threads and the reactor spend is in it.
//! `CORACLE_BENCH_ROUNDS` (7).

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/runtime/guests.rs"]
mod guests;
#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/runtime/world.rs"]
mod world;

use std::net::SocketAddr;
use std::time::Instant;

use coracle_network::Stream;
use coracle_runtime::{Instances, SandboxSpec};
use coracle_tests::{Figure, Figures, cpu_time, setting};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use world::{Container, PORT, World};

/// Enough that processor time, told in hundredths of a second, is known to some percent.
const COMMANDS: usize = 2_000;
const REQUESTS: usize = 20_000;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: pod\r\n\r\n";
/// How a head ends.
const HEAD_END: &[u8] = b"\r\n\r\n";
/// What a head says if the body comes in chunks: its guest gave its thread back while it answered.
const CHUNKED: &[u8] = b"transfer-encoding: chunked";
/// What follows a body in chunks.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// Microseconds of each round, by the clock and of processors.
#[derive(Default)]
struct Spent {
    clock: Vec<f64>,
    processor: Vec<f64>,
}

fn main() {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime starts")
        .block_on(measure());
}

async fn measure() {
    let world = World::new();
    let mut figures = Figures::begin("start");
    let command = guests::exits(0);
    let (mut fresh_stream, _fresh) = serve(&world, |_| {}).await;
    let reuse = |spec: &mut SandboxSpec| spec.handler.instances = Instances::Reuse;
    let (mut reused_stream, _reused) = serve(&world, reuse).await;
    let [mut commands, mut fresh, mut reused] = [(); 3].map(|()| Spent::default());
    // The first of each loads and warms up.
    run_commands(&world, &command, 1).await;
    for _ in 0..setting("ROUNDS", 7) {
        commands
            .take(COMMANDS, run_commands(&world, &command, COMMANDS))
            .await;
        fresh.take(REQUESTS, ask(&mut fresh_stream, REQUESTS)).await;
        reused
            .take(REQUESTS, ask(&mut reused_stream, REQUESTS))
            .await;
    }
    let all = [
        ("a command, from its start to its end", &commands),
        ("a request to a fresh instance, in process", &fresh),
        ("a request to a reused instance, in process", &reused),
    ];
    for (name, spent) in all {
        let processor = spent.processor.iter().copied();
        figures.add(Figure::lower(name, "processor time", "µs", processor));
        figures.add(Figure::lower(
            name,
            "time",
            "µs",
            spent.clock.iter().copied(),
        ));
    }
    figures.finish();
    world.runtime.shutdown().await;
}

impl Spent {
    async fn take(&mut self, count: usize, work: impl Future<Output = ()>) {
        let id = std::process::id();
        let (begun, cpu) = (Instant::now(), cpu_time(id));
        work.await;
        let (clock, cpu) = (begun.elapsed(), cpu_time(id).saturating_sub(cpu));
        let each = |spent: std::time::Duration| spent.as_secs_f64() * 1e6 / count as f64;
        self.clock.push(each(clock));
        self.processor.push(each(cpu));
    }
}

async fn run_commands(world: &World, wasm: &[u8], count: usize) {
    for _ in 0..count {
        let instance = world.container(wasm).await.start();
        instance.exited().await;
    }
}

async fn serve(
    world: &World,
    change: impl FnOnce(&mut SandboxSpec),
) -> (Stream, coracle_runtime::Instance) {
    let container: Container = world.container(&guests::answers()).await.with(change);
    let address = SocketAddr::from((container.spec.network.ip(), PORT));
    let instance = container.start();
    let mut stream = world.fabric.dial(address).await.expect("it listens");
    ask(&mut stream, 100).await;
    (stream, instance)
}

/// Asks on one connection, one request after the other.
async fn ask(stream: &mut Stream, count: usize) {
    let mut answer = Vec::new();
    for _ in 0..count {
        stream.write_all(REQUEST).await.expect("it reads");
        answer.clear();
        while !is_whole(&answer) {
            let read = stream.read_buf(&mut answer).await.expect("it answers");
            assert_ne!(read, 0, "the handler has closed the connection");
        }
    }
}

/// Tells whether an answer with a body of one byte is there.
fn is_whole(answer: &[u8]) -> bool {
    let is_chunked = answer.windows(CHUNKED.len()).any(|part| part == CHUNKED);
    match answer {
        _ if is_chunked => answer.ends_with(LAST_CHUNK),
        [head @ .., _body] => head.ends_with(HEAD_END),
        [] => false,
    }
}
