//! The seeded run: a hundred thousand histories on all cores, and the cases that were found before.
//!
//! The histories of a run follow from its seed alone, however many cores share them. They come in chunks, each
//! with a generator of its own that is seeded by the run's seed and the chunk's number.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use proptest::prelude::*;
use proptest::test_runner::{
    FileFailurePersistence, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
};

use super::generate::{happening, spec};
use super::*;

/// Histories of one run.
const HISTORIES: u64 = 100_000;

/// Names fewer, for an unoptimised build; `.ci/run` takes it away.
const FEWER: &str = "CORACLE_TEST_HISTORIES";

/// Names the seed of an earlier run, in decimal.
const SEED: &str = "CORACLE_TEST_SEED";

/// Histories that one generator makes.
const CHUNK: u64 = 500;

/// Most happenings of one history.
const HAPPENINGS_MAX: usize = 60;

/// Cases that failed once, by the seed that made them.
const FOUND: &str = "proptest-regressions/lifecycle/histories.txt";

type History = (PodSpecPlan, Vec<Happening>);

fn history() -> impl Strategy<Value = History> {
    (
        spec(),
        prop::collection::vec(happening(), 0..HAPPENINGS_MAX),
    )
}

/// Never two live instances of a container, no start after the end began, no early restart, no terminal phase
/// with a container alive, no terminal phase left, and always an end.
fn promises_hold((spec, happenings): History) -> Result<(), TestCaseError> {
    let mut world = World::new(spec);
    for happening in &happenings {
        let wake = world.advance();
        world.happen(happening, wake);
    }
    world.run_out();
    Ok(())
}

fn named(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

fn runner(seed: u64, chunk: u64, cases: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&chunk.to_le_bytes());
    let config = ProptestConfig {
        cases: u32::try_from(cases).expect("a chunk is small"),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

#[test]
fn promises_hold_in_every_history() {
    let count = named(FEWER).unwrap_or(HISTORIES);
    let seed = named(SEED).unwrap_or_else(|| RandomState::new().build_hasher().finish());
    println!("{count} histories, {SEED}={seed}");
    let next = AtomicU64::new(0);
    let work = || {
        let history = history();
        loop {
            let chunk = next.fetch_add(1, Ordering::Relaxed);
            let cases = count.saturating_sub(chunk.saturating_mul(CHUNK)).min(CHUNK);
            if cases == 0 {
                return None;
            }
            let mut runner = runner(seed, chunk, cases);
            if let Err(error) = runner.run(&history, promises_hold) {
                // The others have nothing to add.
                next.store(u64::MAX / CHUNK, Ordering::Relaxed);
                return Some((chunk, error));
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let found = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let ends = workers.into_iter().map(|worker| worker.join());
        ends.filter_map(|end| end.expect("a worker takes every failure in"))
            .next()
    });
    if let Some((chunk, TestError::Fail(reason, history))) = found {
        panic!("{SEED}={seed}, chunk {chunk}: {reason}\nthe shortest found: {history:#?}");
    }
    assert!(found.is_none(), "{found:?}");
}

#[test]
fn what_was_found_once_stays_mended() {
    let config = ProptestConfig {
        cases: 1,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(FOUND))),
        ..ProptestConfig::default()
    };
    let result = TestRunner::new(config).run(&history(), promises_hold);
    result.unwrap_or_else(|error| panic!("{error}"));
}
