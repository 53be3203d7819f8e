//! Measures what a hostile pod costs its neighbour: an open loop of requests against a handler, alone,
//! beside a spinning pod of half a processor, and beside one without limits.
//!
//! The figures are the median and the 99th percentile of each round. The three take turns in every round, so
//! that what the machine does meanwhile hits all of them. A latency counts from when the request was due,
//! not from when it could be sent.

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/runtime/guests.rs"]
mod guests;
#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/runtime/world.rs"]
mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_tests::{Figure, Figures, percentile, setting};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use world::{PORT, World};

/// 200 requests a second, as the goal says.
const PERIOD: Duration = Duration::from_millis(5);
const REQUESTS_PER_ROUND: u32 = 800;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n";

/// What runs beside the handler.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    HalfAProcessor,
    WithoutLimits,
}

const ALL: [Beside; 3] = [
    Beside::Nothing,
    Beside::HalfAProcessor,
    Beside::WithoutLimits,
];

impl Beside {
    fn name(self) -> &'static str {
        match self {
            Beside::Nothing => "alone",
            Beside::HalfAProcessor => "beside one of 500m",
            Beside::WithoutLimits => "beside one without limits",
        }
    }

    /// By how much it may lengthen the median, as `docs/performance.md` says.
    fn goal(self) -> Option<f64> {
        match self {
            Beside::Nothing => None,
            Beside::HalfAProcessor => Some(1.1),
            Beside::WithoutLimits => Some(2.0),
        }
    }

    fn is_there(self) -> bool {
        match self {
            Beside::Nothing => false,
            Beside::HalfAProcessor | Beside::WithoutLimits => true,
        }
    }
}

fn main() {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime starts")
        .block_on(compare());
}

async fn compare() {
    let world = Arc::new(World::new());
    let container = world.container(&guests::answers()).await;
    let address = SocketAddr::from((container.spec.network.ip(), PORT));
    let neighbour = container.start();
    let mut figures = Figures::begin("neighbour");
    let mut rounds = [const { Vec::new() }; ALL.len()];
    for _ in 0..setting("ROUNDS", 7) {
        for (beside, all) in ALL.into_iter().zip(&mut rounds) {
            all.push(round(&world, address, beside).await);
        }
    }
    let shares = [
        ("median of an answer", 0.5),
        ("99th percentile of an answer", 0.99),
    ];
    for (name, share) in shares {
        for (beside, rounds) in ALL.into_iter().zip(&rounds) {
            let found = rounds.iter().filter_map(|round| percentile(round, share));
            let figure = Figure::lower(name, beside.name(), "ms", found);
            let figure = match beside.is_there() {
                true => figure.against(Beside::Nothing.name()),
                false => figure,
            };
            figures.add(match beside.goal() {
                Some(goal) if share == 0.5 => figure.ratio_goal(goal),
                _ => figure,
            });
        }
    }
    figures.finish();
    neighbour.kill();
    world.runtime.shutdown().await;
}

/// One round of requests; returns their latencies in milliseconds.
async fn round(world: &Arc<World>, address: SocketAddr, beside: Beside) -> Vec<f64> {
    let hostile = match beside.is_there() {
        false => None,
        true => {
            let container = world.container(&guests::spins()).await;
            let container = container.with(|spec| {
                spec.limits.cpu_request_milli = 0;
                spec.limits.cpu_milli = match beside {
                    Beside::HalfAProcessor => Some(500),
                    Beside::Nothing | Beside::WithoutLimits => None,
                };
            });
            Some(container.start())
        }
    };
    let begun = Instant::now();
    let mut asking = JoinSet::new();
    for number in 0..REQUESTS_PER_ROUND {
        let due = begun + PERIOD * number;
        tokio::time::sleep_until(due.into()).await;
        let world = world.clone();
        asking.spawn(async move {
            ask(&world, address).await;
            due.elapsed().as_secs_f64() * 1e3
        });
    }
    let latencies = asking.join_all().await;
    if let Some(hostile) = hostile {
        hostile.kill();
        hostile.exited().await;
    }
    latencies
}

async fn ask(world: &World, address: SocketAddr) {
    let mut stream = world.fabric.dial(address).await.expect("it listens");
    stream.write_all(REQUEST).await.expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("it answers");
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
}
