//! Measures acknowledged creates: in memory, and durable with more and more writers, in turn within each
//! round. Beside them stands how often the same folder can be synced: one writer can never be faster.
//!
//! The folder is the first argument that is one, else the system's folder for temporary files.
//! `CORACLE_BENCH_ROUNDS` (5), `CORACLE_BENCH_SECONDS` (1) for a sample.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use coracle_store::{Expect, JournalLimits, Limits, Store, StoreConfig};
use coracle_tests::{Figure, Figures, cpu_time, setting};

/// What a Pod weighs as JSON.
const VALUE_BYTES: usize = 4700;
const WRITERS: [(usize, &str); 4] = [
    (1, "durable, 1 writer"),
    (8, "durable, 8 writers"),
    (64, "durable, 64 writers"),
    (1024, "durable, 1,024 writers"),
];
const IN_MEMORY: usize = 100_000;
const MEMORY: &str = "in memory, 1 writer";
const SYNCS: &str = "the folder: append and fdatasync";

/// What was found of one kind of writing, a value a round.
#[derive(Default)]
struct Found {
    creates: Vec<f64>,
    /// Microseconds of processors for a create.
    processor: Vec<f64>,
    together: Vec<f64>,
    /// Microseconds for each create that was there, to open the store again.
    opened: Vec<f64>,
}

fn main() {
    let folder = std::env::args()
        .skip(1)
        .map(PathBuf::from)
        .find(|path| path.is_dir());
    let folder = folder.unwrap_or_else(std::env::temp_dir);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("a runtime starts");
    let mut figures = Figures::begin("durable");
    let mut memory = Found::default();
    let mut durable = [(); WRITERS.len()].map(|()| Found::default());
    let mut syncs = Vec::new();
    for _ in 0..setting("ROUNDS", 5) {
        runtime.block_on(in_memory(&mut memory));
        syncs.push(raw_syncs(&folder));
        for ((writers, _), found) in WRITERS.iter().zip(&mut durable) {
            let place = tempfile::tempdir_in(&folder).expect("the folder can be written to");
            runtime.block_on(write_durably(place.path(), *writers, found));
        }
    }
    let names = [MEMORY]
        .into_iter()
        .chain(WRITERS.iter().map(|(_, name)| *name));
    let all: Vec<_> = names.zip([memory].into_iter().chain(durable)).collect();
    tell(all, syncs, &mut figures);
    figures.finish();
}

fn tell(all: Vec<(&str, Found)>, syncs: Vec<f64>, figures: &mut Figures) {
    for (name, found) in &all {
        let spent = found.processor.iter().copied();
        figures.add(Figure::lower(
            "processor time of a create",
            *name,
            "µs",
            spent,
        ));
    }
    figures.add(Figure::higher("creates", SYNCS, "1/s", syncs).peer());
    for (name, found) in &all {
        let figure = Figure::higher("creates", *name, "1/s", found.creates.iter().copied());
        figures.add(figure.against(SYNCS));
    }
    for (name, found) in &all {
        let together = found.together.iter().copied();
        figures.add(Figure::higher("creates a sync", *name, "", together));
    }
    // Of a few hundred values only the fixed part would be seen.
    if let Some((name, found)) = all.into_iter().next_back() {
        let what = "opening again, for each create that was there";
        figures.add(Figure::lower(what, name, "µs", found.opened));
    }
}

async fn in_memory(found: &mut Found) {
    let store: Store<()> = Store::in_memory(Limits::default());
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let id = std::process::id();
    let (begun, cpu) = (Instant::now(), cpu_time(id));
    for number in 0..IN_MEMORY {
        create(&store, &format!("/pods/{number}"), &value).await;
    }
    let spent = cpu_time(id).saturating_sub(cpu).as_secs_f64();
    let count = IN_MEMORY as f64;
    found.creates.push(count / begun.elapsed().as_secs_f64());
    found.processor.push(spent * 1e6 / count);
}

async fn create(store: &Store<()>, key: &str, value: &Bytes) {
    let value = value.clone();
    let written = store.put(key, Expect::Absent, |_| (value, ())).await;
    written.expect("a new key can be created");
}

/// Returns how often a second the folder takes a value more for certain.
fn raw_syncs(folder: &Path) -> f64 {
    let place = tempfile::tempdir_in(folder).expect("the folder can be written to");
    let mut file = File::create(place.path().join("raw")).expect("a file can be made");
    let (begun, mut syncs) = (Instant::now(), 0_u32);
    while begun.elapsed() < sample() {
        file.write_all(&[b'x'; VALUE_BYTES]).expect("there is room");
        file.sync_data().expect("the file can be synced");
        syncs += 1;
    }
    f64::from(syncs) / begun.elapsed().as_secs_f64()
}

fn sample() -> Duration {
    Duration::from_secs(setting("SECONDS", 1) as u64)
}

fn open(folder: &Path) -> Store<()> {
    let config = StoreConfig {
        folder: folder.to_owned(),
        limits: Limits::default(),
        journal: JournalLimits::default(),
        sealed: |_| false,
    };
    let index = |_: &str, _: &Bytes| Ok::<(), std::io::Error>(());
    Store::open(config, index).expect("the store opens")
}

async fn write_durably(folder: &Path, writers: usize, found: &mut Found) {
    let store = open(folder);
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let id = std::process::id();
    let (begun, cpu, time) = (Instant::now(), cpu_time(id), sample());
    let tasks = (0..writers).map(|writer| {
        let (store, value) = (store.clone(), value.clone());
        tokio::spawn(async move {
            let mut written = 0_u64;
            while begun.elapsed() < time {
                create(&store, &format!("/pods/{writer}/{written}"), &value).await;
                written += 1;
            }
            written
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut written = 0;
    for task in tasks {
        written += task.await.expect("a writer ends");
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let spent = cpu_time(id).saturating_sub(cpu).as_secs_f64();
    let (written, syncs) = (written as f64, store.syncs());
    store.close().await;
    let reopening = Instant::now();
    let store = open(folder);
    let opened = reopening.elapsed().as_secs_f64();
    store.close().await;
    found.creates.push(written / elapsed);
    found.processor.push(spent * 1e6 / written);
    found.together.push(written / syncs as f64);
    found.opened.push(opened * 1e6 / written);
}
