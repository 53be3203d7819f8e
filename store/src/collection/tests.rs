//! Pages of the past, against the whole past computed anew.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const KEYS: &[&str] = &["/a/1", "/a/2", "/a/3", "/a/b/1", "/a/b/2", "/a/c"];
const PREFIXES: &[&str] = &["/a/", "/a/b/", "/a/c", "/a/d/"];

fn limits(history_events: usize) -> Limits {
    Limits {
        history_events,
        ..Limits::default()
    }
}

/// Makes a collection by writes: puts of keys, and deletions of those that are there.
fn written(steps: &[(usize, bool)], kept: usize) -> Collection<()> {
    let mut collection = Collection::new(Revision::from(0));
    for (number, (key, is_put)) in steps.iter().enumerate() {
        let key = KEYS[*key];
        let change = match (collection.get(key).is_some(), is_put) {
            (true, true) => Change::Updated,
            (false, true) => Change::Created,
            (true, false) => Change::Deleted,
            (false, false) => continue,
        };
        let record = Arc::new(Record {
            key: key.into(),
            revision: Revision::from(number as u64 + 1),
            value: Bytes::new(),
            index: (),
        });
        collection.apply(change, &record, &limits(kept));
    }
    collection
}

/// Computes the values at a revision: the current ones, with all later events taken back.
fn past(collection: &Collection<()>, at: Revision) -> BTreeMap<Arc<str>, Arc<Record<()>>> {
    let mut past = collection.current.clone();
    let later = collection.history.iter().rev();
    for event in later.take_while(|event| event.revision() > at) {
        match &event.before {
            Some(record) => past.insert(Arc::clone(&record.key), Arc::clone(record)),
            None => past.remove(&event.record.key),
        };
    }
    past
}

fn told(records: &[Arc<Record<()>>]) -> Vec<(&str, u64)> {
    let told = records.iter();
    told.map(|record| (&*record.key, record.revision.get()))
        .collect()
}

proptest! {
    #[test]
    fn a_page_of_the_past_is_a_part_of_the_whole_past(
        steps in proptest::collection::vec((0..KEYS.len(), proptest::bool::weighted(0.6)), 0..40),
        kept in 1..40usize,
        at in 0..41u64,
        prefix in 0..PREFIXES.len(),
        after in proptest::option::of(0..KEYS.len()),
        limit in proptest::option::of(0..4usize),
    ) {
        let collection = written(&steps, kept);
        let at = Revision::from(at);
        let range = Range {
            prefix: PREFIXES[prefix],
            after: after.map(|key| KEYS[key]),
            limit,
            at: Some(at),
        };
        let page = match collection.range(&range, at, |_| true) {
            Ok(page) => page,
            Err(RangeError::Compacted { oldest }) => {
                prop_assert!(at < oldest);
                return Ok(());
            }
            Err(error) => panic!("{error}"),
        };
        let whole = past(&collection, at);
        let expected = whole.values().filter(|record| {
            let is_behind = range.after.is_none_or(|after| &*record.key > after);
            is_behind && record.key.starts_with(range.prefix)
        });
        let expected = expected.cloned().collect::<Vec<_>>();
        let here = expected.len().min(limit.unwrap_or(usize::MAX));
        prop_assert_eq!(told(&page.records), told(&expected[..here]));
        prop_assert_eq!(page.remaining, expected.len() - here);
    }
}

/// Says how long a page of the past takes: run by hand, with `--nocapture`.
#[test]
fn a_page_of_a_large_past() {
    let mut collection = Collection::new(Revision::from(0));
    let record = |number: u64, revision| {
        Arc::new(Record {
            key: format!("/pods/default/pod-{number:06}").into(),
            revision: Revision::from(revision),
            value: Bytes::new(),
            index: (),
        })
    };
    for number in 0..100_000 {
        let record = record(number, number + 1);
        collection.apply(Change::Created, &record, &limits(1_000));
    }
    let at = Revision::from(100_000);
    for number in 0..500 {
        let record = record(number * 100, 100_001 + number);
        collection.apply(Change::Updated, &record, &limits(1_000));
    }
    let range = Range {
        prefix: "/pods/",
        after: Some("/pods/default/pod-099499"),
        limit: Some(500),
        at: Some(at),
    };
    let began = std::time::Instant::now();
    let page = collection.range(&range, at, |_| true).expect("kept");
    println!("the last page of 100,000: {:?}", began.elapsed());
    assert_eq!(page.records.len(), 500);
    assert!(page.records.iter().all(|record| record.revision <= at));
}
