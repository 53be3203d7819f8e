//! The store against a model: a map, and a list of everything that ever happened.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::collections::BTreeMap;

use bytes::Bytes;
use coracle_store::{
    Change, Event, Expect, JournalLimits, Limits, Range, RangeError, Revision, Store, StoreConfig,
    WatchError, WriteError,
};
use proptest::prelude::*;

/// What a test does to the store.
#[derive(Clone, Debug)]
enum Step {
    Put {
        key: usize,
        value: u8,
        expect: Wanted,
    },
    Delete {
        key: usize,
        expect: Wanted,
    },
    Read {
        prefix: usize,
        back: u64,
        limit: Option<usize>,
    },
    Watch {
        prefix: usize,
        back: u64,
    },
    Drain {
        watcher: usize,
    },
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    Absent,
    Present,
    Current,
    Stale,
}

const KEYS: &[&str] = &["/a/x", "/a/y/1", "/a/y/2", "/b/x", "/b/y"];
const PREFIXES: &[&str] = &["/a/", "/a/y/", "/b/", "/c/"];

fn step() -> impl Strategy<Value = Step> {
    let wanted = prop_oneof![
        Just(Wanted::Absent),
        Just(Wanted::Present),
        Just(Wanted::Current),
        Just(Wanted::Stale)
    ];
    let key = 0..KEYS.len();
    let prefix = 0..PREFIXES.len();
    prop_oneof![
        4 => (key.clone(), any::<u8>(), wanted.clone())
            .prop_map(|(key, value, expect)| Step::Put { key, value, expect }),
        2 => (key, wanted).prop_map(|(key, expect)| Step::Delete { key, expect }),
        2 => (prefix.clone(), 0..12_u64, proptest::option::of(0..3_usize))
            .prop_map(|(prefix, back, limit)| Step::Read { prefix, back, limit }),
        1 => (prefix, 0..12_u64).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        2 => (0..4_usize).prop_map(|watcher| Step::Drain { watcher }),
    ]
}

type State = BTreeMap<String, (u64, u8)>;

/// Everything that happened: the change, and the whole state after it.
#[derive(Default)]
struct Model {
    history: Vec<(u64, Change, String, u8, State)>,
}

impl Model {
    fn now(&self) -> State {
        self.history
            .last()
            .map(|(.., state)| state.clone())
            .unwrap_or_default()
    }

    fn at(&self, revision: u64) -> State {
        let past = self.history.iter().rev().find(|(at, ..)| *at <= revision);
        past.map(|(.., state)| state.clone()).unwrap_or_default()
    }

    fn after(&self, revision: u64, prefix: &str) -> Vec<(u64, Change, String, u8)> {
        let later = self
            .history
            .iter()
            .filter(|(at, _, key, ..)| *at > revision && key.starts_with(prefix));
        later
            .map(|(at, change, key, value, _)| (*at, *change, key.clone(), *value))
            .collect()
    }
}

fn seen(event: &Event<u64>) -> (u64, Change, String, u8) {
    let record = &event.record;
    assert_eq!(
        record.index,
        record.revision.get(),
        "the index is made for the same revision"
    );
    (
        record.revision.get(),
        event.change,
        record.key.to_string(),
        record.value[0],
    )
}

fn expect(wanted: Wanted, found: Option<u64>, newest: u64) -> (Expect, Result<(), WriteError>) {
    let changed = |found: u64| WriteError::Changed {
        found: Revision::from(found),
    };
    match (wanted, found) {
        (Wanted::Absent, None) => (Expect::Absent, Ok(())),
        (Wanted::Absent, Some(_)) => (Expect::Absent, Err(WriteError::Exists)),
        (Wanted::Present, Some(_)) => (Expect::Present, Ok(())),
        (Wanted::Present, None) => (Expect::Present, Err(WriteError::Missing)),
        (Wanted::Current, Some(at)) => (Expect::At(Revision::from(at)), Ok(())),
        (Wanted::Stale, Some(at)) => (Expect::At(Revision::from(newest + 1)), Err(changed(at))),
        (_, None) => (Expect::At(Revision::from(newest)), Err(WriteError::Missing)),
    }
}

async fn run(steps: Vec<Step>, limits: Limits) {
    run_on(&Store::in_memory(limits), steps).await;
}

async fn run_on(store: &Store<u64>, steps: Vec<Step>) {
    let mut model = Model::default();
    let mut watchers = Vec::new();
    for step in steps {
        let newest = store.revision().get();
        match step {
            Step::Put { key, value, expect } => {
                put(store, &mut model, (KEYS[key], value), expect).await
            }
            Step::Delete { key, expect } => delete(store, &mut model, KEYS[key], expect).await,
            Step::Read {
                prefix,
                back,
                limit,
            } => {
                read(
                    store,
                    &model,
                    PREFIXES[prefix],
                    newest.saturating_sub(back).max(1),
                    limit,
                );
            }
            Step::Watch { prefix, back } => {
                let after = newest.saturating_sub(back).max(1);
                match store.watch(PREFIXES[prefix], Revision::from(after)) {
                    Ok(watcher) => watchers.push((watcher, PREFIXES[prefix], after)),
                    Err(WatchError::Compacted { oldest }) => assert!(oldest.get() > after),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Drain { watcher } if watcher < watchers.len() => {
                let (mut watcher, prefix, after) = watchers.remove(watcher);
                let wanted = model.after(after, prefix);
                let mut found = Vec::new();
                while found.len() < wanted.len() {
                    match watcher.next_batch().await {
                        Ok(batch) => found.extend(batch.iter().map(seen)),
                        Err(WatchError::Compacted { oldest }) => {
                            // It is told so only if something it has not seen may be lost.
                            assert!(oldest.get() > watcher.seen().get());
                            break;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                assert_eq!(found, wanted[..found.len()]);
                if found.len() == wanted.len() {
                    watchers.push((watcher, prefix, store.revision().get()));
                }
            }
            Step::Drain { .. } => (),
        }
    }
}

async fn put(store: &Store<u64>, model: &mut Model, (key, value): (&str, u8), wanted: Wanted) {
    let newest = store.revision().get();
    let mut state = model.now();
    let found = state.get(key).map(|(at, _)| *at);
    let (expect, verdict) = expect(wanted, found, newest);
    let render = |at: Revision| (Bytes::from(vec![value]), at.get());
    let written = store.put(key, expect, render).await;
    assert_eq!(written.map(drop), verdict);
    if verdict.is_ok() {
        let change = found.map_or(Change::Created, |_| Change::Updated);
        state.insert(key.to_owned(), (newest + 1, value));
        let entry = (newest + 1, change, key.to_owned(), value, state);
        model.history.push(entry);
    }
}

async fn delete(store: &Store<u64>, model: &mut Model, key: &str, wanted: Wanted) {
    let newest = store.revision().get();
    let mut state = model.now();
    let found = state.get(key).map(|(at, _)| *at);
    let (expect, mut verdict) = expect(wanted, found, newest);
    if found.is_none() && verdict.is_ok() {
        verdict = Err(WriteError::Missing);
    }
    let render = |at: Revision| (Bytes::from_static(b"\0"), at.get());
    let written = store.delete(key, expect, render).await;
    assert_eq!(written.map(drop), verdict);
    if verdict.is_ok() {
        state.remove(key);
        let entry = (newest + 1, Change::Deleted, key.to_owned(), 0, state);
        model.history.push(entry);
    }
}

fn read(store: &Store<u64>, model: &Model, prefix: &str, at: u64, limit: Option<usize>) {
    let revision = Some(Revision::from(at));
    let range = Range {
        prefix,
        after: None,
        limit,
        at: revision,
    };
    let state = model.at(at);
    let wanted: Vec<_> = state
        .iter()
        .filter(|(key, _)| key.starts_with(prefix))
        .map(|(key, (at, value))| (key.clone(), *at, *value))
        .collect();
    let mut found = Vec::new();
    match store.range(&range, |_| true) {
        Ok(first) => {
            let records = first.records.iter();
            found.extend(records.map(|r| (r.key.to_string(), r.revision.get(), r.value[0])));
            let shown = limit.map_or(wanted.len(), |limit| limit.min(wanted.len()));
            assert_eq!(found, wanted[..shown]);
            assert_eq!(first.remaining, wanted.len() - shown);
            if let Some((last, ..)) = found.last() {
                let rest = Range {
                    after: Some(last),
                    limit: None,
                    ..range
                };
                let rest = store.range(&rest, |_| true).unwrap();
                let records = rest.records.iter();
                let rest: Vec<_> = records
                    .map(|r| (r.key.to_string(), r.revision.get(), r.value[0]))
                    .collect();
                assert_eq!(rest, wanted[shown..]);
            }
        }
        Err(RangeError::Compacted { oldest }) => assert!(oldest.get() > at),
        Err(error) => panic!("{error}"),
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future);
}

/// Opens an empty store in a folder.
fn durable(folder: &std::path::Path) -> Store<u64> {
    let config = StoreConfig {
        folder: folder.to_owned(),
        limits: Limits::default(),
        journal: JournalLimits::default(),
        sealed: |key| key.starts_with("/b/"),
    };
    let index = |_: &str, _: &Bytes| Ok::<u64, std::io::Error>(0);
    Store::open(config, index).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn a_durable_store_behaves_like_one_in_memory(steps in proptest::collection::vec(step(), 0..60)) {
        let folder = tempfile::tempdir().unwrap();
        block_on(async {
            let store = durable(folder.path());
            run_on(&store, steps).await;
            store.close().await;
        });
    }
}

proptest! {
    #[test]
    fn the_store_behaves_like_a_map_with_a_memory(steps in proptest::collection::vec(step(), 0..120)) {
        block_on(run(steps, Limits::default()));
    }

    #[test]
    fn a_short_history_refuses_rather_than_lies(steps in proptest::collection::vec(step(), 0..120)) {
        block_on(run(steps, Limits { history_events: 3, history_bytes: 1 << 20 }));
    }

    #[test]
    fn history_is_bounded_by_bytes_too(steps in proptest::collection::vec(step(), 0..120)) {
        block_on(run(steps, Limits { history_events: 1000, history_bytes: 1024 }));
    }
}

#[test]
fn a_watcher_is_woken_by_what_it_watches_and_stays_current_otherwise() {
    block_on(async {
        let store: Store<u64> = Store::in_memory(Limits {
            history_events: 2,
            ..Limits::default()
        });
        let render = |at: Revision| (Bytes::from_static(b"v"), at.get());
        let mut watcher = store.watch("/a/x", store.revision()).unwrap();
        let waiting = tokio::task::unconstrained(watcher.next_batch());
        let writing = async {
            for _ in 0..10 {
                let key = "/a/other";
                let expect = if store.get(key).is_some() {
                    Expect::Present
                } else {
                    Expect::Absent
                };
                store.put(key, expect, render).await.unwrap();
            }
            store.put("/a/x", Expect::Absent, render).await.unwrap();
        };
        // Many more events than the history holds pass by; none of them concerns the watcher.
        let (batch, ()) = tokio::join!(waiting, writing);
        assert_eq!(batch.unwrap().len(), 1);
        assert_eq!(watcher.seen(), store.revision());
    });
}

#[test]
fn the_future_cannot_be_read_or_watched() {
    let store: Store<u64> = Store::in_memory(Limits::default());
    let (newest, future) = (store.revision(), Revision::from(99));
    let range = Range {
        prefix: "/a/",
        after: None,
        limit: None,
        at: Some(future),
    };
    assert_eq!(
        store.range(&range, |_| true).unwrap_err(),
        RangeError::Future { newest }
    );
    assert_eq!(
        store.watch("/a/", future).unwrap_err(),
        WatchError::Future { newest }
    );
}
