use std::time::Duration;

use futures::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::logs::feed::FeedEnd;
use crate::logs::{LogFile, StdStream};

/// A log file that is put aside after a few lines.
struct Log {
    _folder: tempfile::TempDir,
    path: PathBuf,
    file: LogFile,
    second: i64,
}

impl Log {
    fn new(bytes_max: u64) -> Log {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c/0.log");
        Log {
            file: LogFile::bounded(path.clone(), bytes_max),
            _folder: folder,
            path,
            second: 0,
        }
    }

    /// Appends a line, a second after the one before; one that ends in `…` is cut there.
    fn add(&mut self, line: &str) {
        let at = Timestamp::from_second(self.second).unwrap();
        self.second += 1;
        let whole = !line.ends_with('…');
        let text = line.trim_end_matches('…');
        self.file
            .append(at, StdStream::Stdout, text.as_bytes(), whole);
        self.file.flush(at);
    }

    async fn reader(&self, query: LogQuery) -> LogReader {
        let feed = Some(self.file.feed().clone());
        LogReader::open(self.path.clone(), feed, query)
            .await
            .unwrap()
    }

    async fn read(&self, query: LogQuery) -> String {
        rest(Some(self.reader(query).await)).await
    }
}

/// Reads until there is no more.
async fn rest(mut reader: Option<LogReader>) -> String {
    let mut text = Vec::new();
    while let Some(open) = reader.take() {
        let Some((bytes, next)) = open.next().await else {
            break;
        };
        text.extend_from_slice(&bytes.unwrap());
        reader = next;
    }
    String::from_utf8(text).unwrap()
}

async fn check(log: &Log, query: LogQuery, expected: &str) {
    assert_eq!(log.read(query.clone()).await, expected, "{query:?}");
}

fn tail(lines: u64) -> LogQuery {
    LogQuery {
        tail: Some(lines),
        ..LogQuery::default()
    }
}

#[tokio::test]
async fn a_part_of_a_log_can_be_asked_for() {
    let mut log = Log::new(u64::MAX);
    check(&log, LogQuery::default(), "").await;
    for line in ["one", "tw…", "o", "", "three"] {
        log.add(line);
    }
    check(&log, LogQuery::default(), "one\ntwo\n\nthree\n").await;
    check(&log, tail(0), "").await;
    check(&log, tail(1), "three\n").await;
    check(&log, tail(3), "two\n\nthree\n").await;
    check(&log, tail(4), "one\ntwo\n\nthree\n").await;
    check(&log, tail(u64::MAX), "one\ntwo\n\nthree\n").await;
    let since = |second| LogQuery {
        since: Timestamp::from_second(second).ok(),
        ..LogQuery::default()
    };
    check(&log, since(3), "\nthree\n").await;
    check(&log, since(5), "").await;
    let timed = LogQuery {
        timestamps: true,
        tail: Some(3),
        ..LogQuery::default()
    };
    check(
        &log,
        timed,
        "1970-01-01T00:00:01.000000000Z two\n1970-01-01T00:00:03.000000000Z \n\
         1970-01-01T00:00:04.000000000Z three\n",
    )
    .await;
    let bytes = |bytes| LogQuery {
        bytes: Some(bytes),
        ..LogQuery::default()
    };
    check(&log, bytes(5), "one\nt").await;
    check(&log, bytes(1000), "one\ntwo\n\nthree\n").await;
    log.add("unfinished…");
    check(&log, tail(1), "unfinished").await;
    check(&log, tail(2), "three\nunfinished").await;
    let timed = LogQuery {
        timestamps: true,
        tail: Some(1),
        ..LogQuery::default()
    };
    check(&log, timed, "1970-01-01T00:00:05.000000000Z unfinished").await;
    check(&log, bytes(1000), "one\ntwo\n\nthree\nunfinished").await;
}

#[tokio::test]
async fn all_pieces_of_a_log_are_read_in_order() {
    let mut log = Log::new(200);
    for number in 0..100 {
        log.add(&format!("line {number:02}"));
    }
    let whole = log.read(LogQuery::default()).await;
    let lines: Vec<_> = whole.lines().collect();
    assert!(lines.len() > 10 && lines.len() < 100, "{}", lines.len());
    assert_eq!(lines.last(), Some(&"line 99"));
    assert!(lines.is_sorted());
    let last = lines[lines.len() - 10..].join("\n") + "\n";
    check(&log, tail(10), &last).await;
    check(&log, tail(1000), &whole).await;
}

#[tokio::test]
async fn a_follower_gets_lines_as_they_come_and_its_end() {
    let mut log = Log::new(200);
    let follow = LogQuery {
        follow: true,
        ..LogQuery::default()
    };
    let mut reader = Some(log.reader(follow).await);
    let end = FeedEnd(log.file.feed().clone());
    let mut found = String::new();
    for number in 0..50 {
        let mut next = Box::pin(reader.take().unwrap().next());
        assert!(
            next.as_mut().now_or_never().is_none(),
            "nothing is there yet"
        );
        log.add(&format!("line {number:02}"));
        let (bytes, again) = next.await.unwrap();
        found.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
        reader = again;
    }
    let expected: Vec<_> = (0..50)
        .map(|number| format!("line {number:02}\n"))
        .collect();
    assert_eq!(found, expected.concat());
    // The second line has no end of its own, and a file of its own.
    log.add("last");
    log.add(&format!("{}…", "x".repeat(150)));
    drop(end);
    assert_eq!(rest(reader).await, format!("last\n{}", "x".repeat(150)));
}

#[tokio::test]
async fn a_follower_keeps_what_was_put_aside_while_it_slept() {
    let mut log = Log::new(200);
    let follow = LogQuery {
        follow: true,
        tail: Some(0),
        ..LogQuery::default()
    };
    log.add("old");
    let reader = log.reader(follow).await;
    for number in 0..12 {
        log.add(&format!("line {number:02}"));
    }
    drop(FeedEnd(log.file.feed().clone()));
    let expected: Vec<_> = (0..12)
        .map(|number| format!("line {number:02}\n"))
        .collect();
    assert_eq!(rest(Some(reader)).await, expected.concat());
}

/// A thousand pieces go by; the reader holds a file that is long gone and goes on with what is left.
#[tokio::test]
async fn a_follower_that_is_far_too_slow_goes_on_with_what_is_left() {
    if coracle_tests::beyond_wine("wine gives no file the name of one that is open") {
        return;
    }
    let mut log = Log::new(100);
    log.add("first");
    let follow = LogQuery {
        follow: true,
        ..LogQuery::default()
    };
    let reader = log.reader(follow).await;
    for number in 0..1000 {
        log.add(&format!("line {number:03}"));
    }
    drop(FeedEnd(log.file.feed().clone()));
    let text = tokio::time::timeout(Duration::from_secs(60), rest(Some(reader)))
        .await
        .unwrap();
    assert!(
        text.starts_with("first\n") && text.ends_with("line 999\n"),
        "{text}"
    );
    assert!(text.lines().count() < 20);
}

#[tokio::test]
async fn what_is_no_log_is_skipped() {
    let log = Log::new(u64::MAX);
    std::fs::create_dir_all(log.path.parent().unwrap()).unwrap();
    let mut junk = vec![b'x'; 3 * BLOCK_BYTES];
    junk.extend_from_slice(b"\nno log\n1970 stdout X odd\n1970-01-01 stdout F text\nrest");
    std::fs::write(&log.path, junk).unwrap();
    check(&log, LogQuery::default(), "text\n").await;
    check(&log, tail(1), "").await;
    check(&log, tail(9), "text\n").await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The last lines are the end of all lines, wherever blocks and pieces are cut.
    #[test]
    fn a_tail_is_the_end_of_the_whole(
        lengths in prop::collection::vec(0_usize..16_000, 0..40),
        wanted in 0_u64..50,
        bytes_max in 20_000_u64..2_000_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut log = Log::new(bytes_max);
        for (number, length) in lengths.iter().enumerate() {
            log.add(&format!("{number}{}", "x".repeat(*length)));
        }
        let (whole, end) = runtime.block_on(async {
            (log.read(LogQuery::default()).await, log.read(tail(wanted)).await)
        });
        let lines: Vec<_> = whole.lines().collect();
        let skipped = lines.len().saturating_sub(usize::try_from(wanted).unwrap());
        let expected: Vec<_> = lines[skipped..].iter().map(|line| format!("{line}\n")).collect();
        prop_assert_eq!(end, expected.concat());
    }
}
