//! A store in a real folder: restarts, the lock, sealed values, and a process that is killed.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use coracle_store::{
    Expect, JournalLimits, Limits, OpenError, Range, Revision, Store, StoreConfig, WriteError,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// Names the folder to the process that is killed.
const FOLDER_VARIABLE: &str = "CORACLE_STORE_TEST_FOLDER";
const KILLS: u64 = 20;

fn config(folder: &Path) -> StoreConfig {
    StoreConfig {
        folder: folder.to_owned(),
        limits: Limits::default(),
        // Small segments: checkpoints happen all the time.
        journal: JournalLimits {
            segment_bytes: 64 << 10,
            segment_age: Duration::from_secs(300),
        },
        sealed: |key| key.starts_with("/secrets/"),
    }
}

/// The index of a value is the number it begins with.
fn number(_: &str, value: &Bytes) -> Result<u64, std::num::ParseIntError> {
    let text = String::from_utf8_lossy(value);
    text.split(' ').next().unwrap_or_default().parse()
}

fn open(folder: &Path) -> Result<Store<u64>, OpenError> {
    Store::open(config(folder), number)
}

fn value(number: u64, size: usize) -> (Bytes, u64) {
    (format!("{number} {}", "x".repeat(size)).into(), number)
}

async fn put(store: &Store<u64>, key: &str, number: u64, size: usize) -> Revision {
    let expect = match store.get(key) {
        Some(record) => Expect::At(record.revision),
        None => Expect::Absent,
    };
    let written = store.put(key, expect, |_| value(number, size)).await;
    written.unwrap().revision
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// The values take every way: journal only, one copy, both copies, files of large values.
#[test]
fn what_was_written_is_there_after_every_restart() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let mut newest = Revision::default();
        for round in 0..6_u64 {
            let store = open(folder.path()).unwrap();
            assert!(store.revision() >= newest);
            for key in 0..20_u64 {
                let name = format!("/pods/default/{key}");
                let found = store.get(&name).map(|record| record.index);
                assert_eq!(found, round.checked_sub(1).map(|last| last * 100 + key));
                put(&store, &name, round * 100 + key, 3000 << (key % 7)).await;
            }
            let gone = store
                .put("/pods/default/gone", Expect::Absent, |_| value(1, 1))
                .await;
            let at = Expect::At(gone.unwrap().revision);
            newest = store
                .delete("/pods/default/gone", at, |_| value(1, 1))
                .await
                .unwrap()
                .revision;
            store.close().await;
        }
        let store = open(folder.path()).unwrap();
        assert_eq!(store.revision(), newest);
        let range = Range {
            prefix: "/pods/",
            after: None,
            limit: None,
            at: None,
        };
        assert_eq!(store.range(&range, |_| true).unwrap().records.len(), 20);
        store.close().await;
    });
    let first = folder.path().join("journal-00000000000000000001");
    assert!(!first.exists(), "the journal is cut behind both copies");
}

#[test]
fn a_folder_belongs_to_one_store_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open(folder.path()).unwrap();
        let second = open(folder.path()).unwrap_err();
        let told = second.to_string();
        assert!(matches!(second, OpenError::InUse { .. }), "{told}");
        assert!(told.contains(&*folder.path().to_string_lossy()), "{told}");
        if cfg!(unix) {
            assert!(told.ends_with(&format!("is in use by process {}", std::process::id())));
        }
        let other = store.clone();
        store.close().await;
        let late = other.put("/a/x", Expect::Absent, |_| value(1, 1)).await;
        assert_eq!(late.unwrap_err(), WriteError::Closed);
        open(folder.path()).unwrap().close().await;
    });
}

#[test]
fn no_file_of_the_folder_holds_the_value_of_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let holds = |needle: &str| {
        files(folder.path()).iter().any(|path| {
            let bytes = fs::read(path).unwrap();
            bytes
                .windows(needle.len())
                .any(|part| part == needle.as_bytes())
        })
    };
    block_on(async {
        for round in 0..3_u64 {
            let store = open(folder.path()).unwrap();
            for (key, text) in [
                ("/secrets/default/s", "secret-text"),
                ("/pods/default/p", "plain-text"),
            ] {
                let expect = if round == 0 {
                    Expect::Absent
                } else {
                    Expect::Present
                };
                let content = || (Bytes::from(format!("{round} {text}")), round);
                store.put(key, expect, |_| content()).await.unwrap();
            }
            // Looked at in the journal, then in the copies.
            assert!(!holds("secret-text"));
            store.close().await;
            assert!(!holds("secret-text"));
            assert!(holds("plain-text"), "the search finds what is there");
        }
        let store = open(folder.path()).unwrap();
        let secret = store.get("/secrets/default/s").unwrap();
        assert_eq!(&secret.value[..], b"2 secret-text");
        store.close().await;
    });
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let key = fs::metadata(folder.path().join("store.key")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_value_its_owner_does_not_understand_is_named() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open(folder.path()).unwrap();
        let text = || (Bytes::from_static(b"no number"), 0);
        store
            .put("/a/odd", Expect::Absent, |_| text())
            .await
            .unwrap();
        store.close().await;
    });
    let told = open(folder.path()).unwrap_err().to_string();
    assert_eq!(told, "failed to read the value of `/a/odd`");
}

/// More writers than the queue holds: some wait at the door.
#[test]
fn many_writers_share_few_syncs() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open(folder.path()).unwrap();
        let names: Vec<String> = (0..6000).map(|n| format!("/a/{n}")).collect();
        let writes = names
            .iter()
            .map(|name| store.put(name, Expect::Absent, |_| value(1, 100)));
        let mut writes: Vec<_> = writes.map(Box::pin).collect();
        let mut done = 0;
        // All are sent before the first is waited for.
        std::future::poll_fn(|context| {
            writes.retain_mut(|write| match write.as_mut().poll(context) {
                std::task::Poll::Ready(written) => {
                    written.unwrap();
                    done += 1;
                    false
                }
                std::task::Poll::Pending => true,
            });
            match writes.is_empty() {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
        drop(writes);
        assert_eq!(done, 6000);
        assert!(store.syncs() < 500, "{} syncs", store.syncs());
        store.close().await;
    });
}

#[test]
fn neither_a_dropped_future_nor_a_dropped_store_takes_a_write_back() {
    let folder = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open(folder.path()).unwrap();
        let mut write = Box::pin(store.put("/a/x", Expect::Absent, |_| value(1, 1)));
        let sent = std::future::poll_fn(|context| {
            std::task::Poll::Ready(write.as_mut().poll(context).map(drop))
        });
        assert!(sent.await.is_pending());
        drop(write);
        drop(store);
        // The folder is given free as soon as the threads have ended.
        let store = loop {
            match open(folder.path()) {
                Err(OpenError::InUse { .. }) => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        assert_eq!(store.get("/a/x").unwrap().index, 1);
        store.close().await;
    });
}

/// The process that is killed: eight writers that tell what was acknowledged.
#[test]
fn the_process_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else {
        return;
    };
    let store = open(Path::new(&folder)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let writers = (0..8_u64).map(|writer| {
        let store = store.clone();
        runtime.spawn(async move {
            for turn in 0_u64.. {
                let key = match turn % 3 {
                    0 => format!("/secrets/{writer}/{}", turn % 11),
                    _ => format!("/pods/{writer}/{}", turn % 7),
                };
                let next = store.get(&key).map_or(0, |record| record.index) + 1;
                let at = put(&store, &key, next, 20 << (turn % 9)).await;
                println!("\nack {at} {key} {next}");
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    runtime.block_on(async {
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

/// What a process told before it was killed: the newest revision, and the number of each key.
fn run_and_kill(folder: &Path, acknowledgements: usize) -> (u64, HashMap<String, u64>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_is_killed", "--nocapture"])
        .env(FOLDER_VARIABLE, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut newest, mut told) = (0, HashMap::new());
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = 0;
    // After the kill, what the pipe still holds was acknowledged as well.
    for line in lines.map_while(Result::ok) {
        let mut words = line.split(' ');
        if words.next() != Some("ack") {
            continue;
        }
        let words: Vec<&str> = words.collect();
        // The last line may be cut.
        if let [at, key, number] = words[..] {
            newest = newest.max(at.parse().unwrap());
            let number: u64 = number.parse().unwrap();
            let known = told.entry(key.to_owned()).or_insert(0);
            *known = number.max(*known);
        }
        seen += 1;
        if seen == acknowledgements {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    (newest, told)
}

#[test]
fn a_killed_process_loses_nothing_that_it_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = SmallRng::seed_from_u64(7);
    let mut all = HashMap::new();
    for round in 0..KILLS {
        let acknowledgements = random.random_range(1..1500);
        let (newest, told) = run_and_kill(folder.path(), acknowledgements);
        assert!(!told.is_empty());
        all.extend(told);
        let store = open(folder.path()).unwrap();
        assert!(store.revision().get() >= newest, "round {round}");
        for (key, number) in &all {
            let found = store.get(key).map(|record| record.index);
            assert!(
                found >= Some(*number),
                "round {round}: `{key}` is {found:?}, not {number}"
            );
        }
        block_on(store.close());
    }
}
