//! Measures acknowledged creates per second: in memory, and durable with more and more writers.
//!
//! Beside them stands how often the same folder can be synced: one writer can never be faster.
//! The folder is the first argument that is one, else the system's folder for temporary files.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use coracle_store::{Expect, JournalLimits, Limits, Store, StoreConfig};

/// What a Pod weighs as JSON.
const VALUE_BYTES: usize = 4700;
const WRITERS: [usize; 4] = [1, 8, 64, 1024];
const RUN: Duration = Duration::from_secs(3);
const IN_MEMORY: usize = 100_000;

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
    runtime.block_on(in_memory());
    raw_syncs(&folder);
    for writers in WRITERS {
        let place = tempfile::tempdir_in(&folder).expect("the folder can be written to");
        runtime.block_on(durable(place.path(), writers));
    }
}

async fn in_memory() {
    let store: Store<()> = Store::in_memory(Limits::default());
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let begun = Instant::now();
    for number in 0..IN_MEMORY {
        create(&store, &format!("/pods/{number}"), &value).await;
    }
    let rate = IN_MEMORY as f64 / begun.elapsed().as_secs_f64();
    println!("in memory, 1 writer: {rate:.0} creates/s");
}

async fn create(store: &Store<()>, key: &str, value: &Bytes) {
    let value = value.clone();
    let written = store.put(key, Expect::Absent, |_| (value, ())).await;
    written.expect("a new key can be created");
}

fn raw_syncs(folder: &Path) {
    let place = tempfile::tempdir_in(folder).expect("the folder can be written to");
    let mut file = File::create(place.path().join("raw")).expect("a file can be made");
    let (begun, mut syncs) = (Instant::now(), 0_u32);
    while begun.elapsed() < RUN {
        file.write_all(&[b'x'; VALUE_BYTES]).expect("there is room");
        file.sync_data().expect("the file can be synced");
        syncs += 1;
    }
    let rate = f64::from(syncs) / begun.elapsed().as_secs_f64();
    println!("append of {VALUE_BYTES} bytes and fdatasync: {rate:.0}/s");
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

async fn durable(folder: &Path, writers: usize) {
    let store = open(folder);
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let begun = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let (store, value) = (store.clone(), value.clone());
        tokio::spawn(async move {
            let mut written = 0_u64;
            while begun.elapsed() < RUN {
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
    let (rate, syncs) = (written as f64 / elapsed, store.syncs());
    store.close().await;
    let closed = begun.elapsed().as_secs_f64() - elapsed;
    let reopening = Instant::now();
    let store = open(folder);
    let opened = reopening.elapsed().as_secs_f64();
    store.close().await;
    println!(
        "durable, {writers} writers: {rate:.0} creates/s, {:.0} syncs/s, {:.1} creates a sync; \
         closed in {closed:.2} s, opened in {opened:.2} s",
        syncs as f64 / elapsed,
        written as f64 / syncs as f64,
    );
}
