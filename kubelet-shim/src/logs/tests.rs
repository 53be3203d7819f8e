use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::file::{LOG_FILES_MAX, LogFile};
use super::*;
use crate::time::Hand;

fn key() -> PodKey {
    PodKey {
        namespace: "default".into(),
        name: "p".into(),
        uid: "u".into(),
    }
}

fn log(path: PathBuf, forward: Option<mpsc::Sender<OutputLine>>) -> (ContainerLog, Hand) {
    let (clock, hand) = Clock::manual("2026-01-02T03:04:05Z".parse().unwrap());
    let log = ContainerLog::new(path, key(), "c".into(), clock, forward);
    (log, hand)
}

#[test]
fn lines_are_written_as_container_runtimes_write_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c/0.log");
    let (log, hand) = log(path.clone(), None);
    let (out, err) = (log.stream(StdStream::Stdout), log.stream(StdStream::Stderr));
    assert_eq!(out.write(b"hello\nwor"), 9);
    hand.advance(Duration::from_millis(1500));
    assert_eq!(err.write(b"oh\n"), 3);
    assert_eq!(out.write(b"ld\nrest"), 7);
    drop(out);
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(
        text,
        "2026-01-02T03:04:05.000000000Z stdout F hello\n\
         2026-01-02T03:04:06.500000000Z stderr F oh\n\
         2026-01-02T03:04:06.500000000Z stdout F world\n\
         2026-01-02T03:04:06.500000000Z stdout P rest\n"
    );
    assert_eq!(log.tail(), "hello\noh\nworld\nrest");
}

#[test]
fn a_line_longer_than_the_bound_is_cut_and_marked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let (log, _) = log(path.clone(), None);
    let out = log.stream(StdStream::Stdout);
    let long = vec![b'x'; LINE_BYTES_MAX + 10];
    assert_eq!(out.write(&long), long.len());
    assert_eq!(out.write(b"\n"), 1);
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains(" stdout P xxx"));
    assert!(lines[1].ends_with(" stdout F xxxxxxxxxx"));
    assert!(log.tail().len() <= TAIL_BYTES_MAX + LINE_BYTES_MAX / 1024);
}

/// What a test prints last is compared byte by byte, and the kubelet keeps exactly so much.
#[test]
fn a_termination_message_has_the_last_bytes_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    for (name, written) in [
        ("none", String::new()),
        ("unfinished", "DONE".to_owned()),
        ("finished", "DONE\n".to_owned()),
        ("long", "x".repeat(2 * LINE_BYTES_MAX + 3)),
        ("lines", "0123456\n".repeat(100)),
        (
            "long lines",
            format!("{}\n", "0123456789".repeat(30)).repeat(10),
        ),
        ("last", format!("{}\n{}", "x".repeat(3000), "end")),
    ] {
        let (log, _) = log(folder.path().join(name).join("0.log"), None);
        let out = log.stream(StdStream::Stdout);
        assert_eq!(out.write(written.as_bytes()), written.len());
        drop(out);
        let mut lines: Vec<_> = written.split_inclusive('\n').collect();
        lines.drain(..lines.len().saturating_sub(TAIL_LINES_MAX));
        let expected = lines.concat();
        let start = expected.len().saturating_sub(TAIL_BYTES_MAX);
        assert_eq!(log.tail(), expected[start..], "{name}");
    }
}

/// Whoever listens prints lines, so the last one is a line like all others.
#[tokio::test]
async fn a_listener_gets_the_last_line_without_a_line_feed() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, mut lines) = mpsc::channel(4);
    let (log, _) = log(folder.path().join("0.log"), Some(sender));
    let out = log.stream(StdStream::Stdout);
    assert_eq!(out.write(b"one\nDONE"), 8);
    drop(out);
    drop(log);
    let mut found = Vec::new();
    while let Some(line) = lines.recv().await {
        found.push(line.line);
    }
    assert_eq!(found, ["one", "DONE"]);
}

#[tokio::test]
async fn a_listener_that_stops_reading_makes_the_guest_wait_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, mut lines) = mpsc::channel(2);
    let (log, _) = log(folder.path().join("0.log"), Some(sender));
    let out = log.stream(StdStream::Stdout);
    assert_eq!(out.write(b"1\n2\n3\n4\n"), 4, "two lines fit");
    assert_eq!(out.write(b"3\n4\n"), 0);
    let waiting = tokio::spawn({
        let out = out.clone();
        async move { std::future::poll_fn(|cx| out.poll_ready(cx)).await }
    });
    assert_eq!(&lines.recv().await.unwrap().line[..], b"1");
    waiting.await.unwrap();
    assert_eq!(out.write(b"3\n4\n"), 2);
    assert_eq!(&lines.recv().await.unwrap().line[..], b"2");
    assert_eq!(&lines.recv().await.unwrap().line[..], b"3");
    drop(lines);
    assert_eq!(
        out.write(b"4\n5\n"),
        4,
        "without a listener the file alone is written"
    );
}

#[test]
fn a_log_is_cut_into_a_bounded_number_of_pieces() {
    for lines_at_once in [1, 3, 100] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut file = LogFile::bounded(path.clone(), 200);
        let at = Timestamp::UNIX_EPOCH;
        for number in 0..100 {
            let line = format!("line {number:03}");
            file.append(at, StdStream::Stdout, line.as_bytes(), true);
            if (number + 1) % lines_at_once == 0 {
                file.flush(at);
            }
        }
        file.flush(at);
        drop(file);
        let mut sizes = Vec::new();
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            sizes.push(entry.unwrap().metadata().unwrap().len());
        }
        assert_eq!(sizes.len(), LOG_FILES_MAX as usize);
        assert!(sizes.iter().all(|size| *size <= 200), "{sizes:?}");
        // Four lines of 49 bytes fit into each, and none is lost before the oldest piece goes.
        let pieces = (0..LOG_FILES_MAX).rev();
        let texts = pieces.map(|index| std::fs::read_to_string(super::file::piece(&path, index)));
        let text: String = texts.map(Result::unwrap).collect();
        let kept = text.lines().map(|line| line.rsplit(' ').next().unwrap());
        assert_eq!(
            kept.collect::<Vec<_>>(),
            (80..100)
                .map(|number| format!("{number:03}"))
                .collect::<Vec<_>>(),
            "{lines_at_once} at once"
        );
        remove_attempt(&path);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn lines_that_wait_are_written_when_they_are_many() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let mut file = LogFile::new(path.clone());
    let at = Timestamp::UNIX_EPOCH;
    file.append(at, StdStream::Stdout, b"x", true);
    assert!(!path.exists());
    // Empty lines are what a guest makes the most of with the bytes that it may write at once.
    for _ in 0..64 * 1024 {
        file.append(at, StdStream::Stdout, b"", true);
    }
    assert!(std::fs::metadata(&path).unwrap().len() > 2 << 20);
    file.flush(at);
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().count(), 64 * 1024 + 1);
}

/// Ten thousand containers that once wrote a line must not have as many descriptors.
#[test]
fn more_logs_than_may_be_open_are_all_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |number| folder.path().join(format!("{number}.log"));
    let many = super::shelf::OPEN_LOGS_MAX + 50;
    let mut files: Vec<_> = (0..many).map(|n| LogFile::new(path(n))).collect();
    for round in ["one", "two"] {
        for file in &mut files {
            let at = Timestamp::UNIX_EPOCH;
            file.append(at, StdStream::Stdout, round.as_bytes(), true);
            file.flush(at);
        }
    }
    #[cfg(target_os = "linux")]
    {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let ours = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        let count = ours.filter(|file| file.starts_with(folder.path())).count();
        assert!(count <= super::shelf::OPEN_LOGS_MAX, "{count} are open");
    }
    for number in 0..many {
        let text = std::fs::read_to_string(path(number)).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}

proptest! {
    /// Whatever pieces a guest writes in, the file holds its bytes in order.
    #[test]
    fn no_byte_is_lost_or_moved(pieces in prop::collection::vec("[a-z\n]{0,40}", 0..20)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let clock = Clock::system();
        let log = ContainerLog::new(path.clone(), key(), "c".into(), clock, None);
        let out = log.stream(StdStream::Stdout);
        for piece in &pieces {
            prop_assert_eq!(out.write(piece.as_bytes()), piece.len());
        }
        drop(out);
        let written = std::fs::read_to_string(path).unwrap_or_default();
        let found: Vec<_> =
            written.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap_or_default()).collect();
        let whole = pieces.concat();
        let expected: Vec<_> = whole.lines().collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_file_that_cannot_be_put_aside_is_written_on_and_put_aside_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let piece = |index: u32| folder.path().join(format!("0.log.{index}"));
    let mut file = LogFile::bounded(path.clone(), 100);
    let mut at: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    let mut line = |seconds: i64, text: &str| {
        at += jiff::SignedDuration::from_secs(seconds);
        file.append(at, StdStream::Stdout, text.as_bytes(), true);
        file.flush(at);
    };
    let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    // Folders that are not empty are where the pieces belong.
    for index in 1..LOG_FILES_MAX {
        std::fs::create_dir_all(piece(index).join("x")).unwrap();
    }
    for number in 0..4 {
        line(0, &format!("line {number}"));
    }
    assert_eq!(text(&path).lines().count(), 4, "nothing is lost");
    for _ in 0..20 {
        line(0, "more");
    }
    let held = std::fs::metadata(&path).unwrap().len();
    assert!((400..=500).contains(&held), "as much as all pieces: {held}");
    for index in 1..LOG_FILES_MAX {
        std::fs::remove_dir_all(piece(index)).unwrap();
    }
    line(9, "too early");
    assert!(!piece(1).exists());
    line(1, "again");
    assert_eq!(text(&path).lines().count(), 1);
    assert!(text(&path).ends_with("again\n"));
    assert!(text(&piece(1)).contains("line 0"));
}

#[test]
fn a_rotation_that_was_left_half_way_loses_no_piece_when_it_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let piece = |index: u32| folder.path().join(format!("0.log.{index}"));
    std::fs::write(&path, vec![b'x'; 100]).unwrap();
    for index in [1, 3, 4] {
        std::fs::write(piece(index), index.to_string()).unwrap();
    }
    let mut file = LogFile::bounded(path.clone(), 100);
    let at = "2026-01-02T03:04:05Z".parse().unwrap();
    for _ in 0..2 {
        file.append(at, StdStream::Stdout, b"y", true);
        file.flush(at);
    }
    let held: Vec<_> = (2..LOG_FILES_MAX)
        .map(|index| std::fs::read_to_string(piece(index)).unwrap())
        .collect();
    assert_eq!(held, ["1", "3", "4"]);
}
