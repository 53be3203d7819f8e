use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use proptest::prelude::*;

use super::*;

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn pipe_with(limit: usize) -> (Pipe, Arc<Budget>) {
    let budget = Arc::new(Budget::new(limit));
    (Pipe::new(Arc::clone(&budget), &budget), budget)
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn write(pipe: &Pipe, bytes: &[u8]) -> io::Result<usize> {
    pipe.try_write(&[IoSlice::new(bytes)])
}

#[test]
fn an_idle_pipe_holds_no_buffer() {
    let (pipe, budget) = pipe_with(1 << 20);
    assert_eq!(budget.used(), 0);
    assert_eq!(write(&pipe, &[7; 1000]).expect("room"), 1000);
    assert!(budget.used() >= 1000);
    let mut into = [0; 2000];
    assert_eq!(pipe.try_read(&mut into).expect("bytes"), 1000);
    assert!(would_block(&pipe.try_read(&mut into)));
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_pipe_takes_its_limit_and_no_more() {
    let (pipe, budget) = pipe_with(1 << 20);
    assert_eq!(
        write(&pipe, &vec![1; 3 * PIPE_BYTES_MAX]).expect("room"),
        PIPE_BYTES_MAX
    );
    assert!(would_block(&write(&pipe, &[1])));
    assert_eq!(budget.used(), PIPE_BYTES_MAX);
    drop(pipe);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_used_up_budget_leaves_every_pipe_a_little() {
    let (pipe, budget) = pipe_with(0);
    assert_eq!(
        write(&pipe, &vec![1; PIPE_BYTES_MAX]).expect("room"),
        PIPE_BYTES_MIN
    );
    assert!(would_block(&write(&pipe, &[1])));
    assert_eq!(budget.used(), PIPE_BYTES_MIN);
}

#[test]
fn several_buffers_are_written_in_order() {
    let (pipe, _) = pipe_with(1 << 20);
    let parts = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cd")];
    assert_eq!(pipe.try_write(&parts).expect("room"), 4);
    let mut into = [0; 8];
    assert_eq!(pipe.try_read(&mut into).expect("bytes"), 4);
    assert_eq!(&into[..4], b"abcd");
}

#[test]
fn a_waiting_reader_is_woken_by_bytes_by_the_end_and_by_a_reset() {
    let events: [fn(&Pipe); 3] = [|pipe| drop(write(pipe, b"x")), Pipe::finish, Pipe::reset];
    for event in events {
        let (pipe, _) = pipe_with(1 << 20);
        let count = Arc::new(Count::default());
        let waker = Arc::clone(&count).into();
        assert!(
            pipe.poll_read_ready(&mut Context::from_waker(&waker))
                .is_pending()
        );
        event(&pipe);
        assert_eq!(count.get(), 1);
        assert!(
            pipe.poll_read_ready(&mut Context::from_waker(&waker))
                .is_ready()
        );
    }
}

#[test]
fn a_waiting_writer_is_woken_once_a_quarter_is_free() {
    let (pipe, _) = pipe_with(1 << 20);
    let count = Arc::new(Count::default());
    let waker = Arc::clone(&count).into();
    write(&pipe, &[0; PIPE_BYTES_MAX]).expect("room");
    assert!(
        pipe.poll_write_ready(&mut Context::from_waker(&waker))
            .is_pending()
    );
    let mut byte = [0; 1];
    pipe.try_read(&mut byte).expect("bytes");
    assert_eq!(count.get(), 0);
    pipe.try_read(&mut [0; WRITER_WAKE_BYTES]).expect("bytes");
    assert_eq!(count.get(), 1);
}

#[test]
fn a_waiting_writer_is_woken_when_the_reader_goes() {
    let (pipe, _) = pipe_with(1 << 20);
    let count = Arc::new(Count::default());
    let waker = Arc::clone(&count).into();
    write(&pipe, &[0; PIPE_BYTES_MAX]).expect("room");
    assert!(
        pipe.poll_write_ready(&mut Context::from_waker(&waker))
            .is_pending()
    );
    assert_eq!(pipe.leave(), Unread::Something);
    assert_eq!(count.get(), 1);
    assert_eq!(
        write(&pipe, b"x").map_err(|error| error.kind()),
        Err(io::ErrorKind::BrokenPipe)
    );
}

#[test]
fn what_arrived_before_a_reset_is_still_read() {
    let (pipe, _) = pipe_with(1 << 20);
    write(&pipe, b"last words").expect("room");
    pipe.reset();
    let mut into = [0; 32];
    assert_eq!(pipe.try_read(&mut into).expect("bytes"), 10);
    let kind = pipe.try_read(&mut into).map_err(|error| error.kind());
    assert_eq!(kind, Err(io::ErrorKind::ConnectionReset));
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize),
    Read(usize),
    Finish,
    Discard,
    Reset,
    Leave,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0usize..40_000).prop_map(Step::Write),
        20 => (0usize..40_000).prop_map(Step::Read),
        1 => Just(Step::Finish),
        1 => Just(Step::Discard),
        1 => Just(Step::Reset),
        1 => Just(Step::Leave),
    ]
}

/// What a pipe promises, as a queue and the two ends.
struct Model {
    queue: VecDeque<u8>,
    write_end: WriteEnd,
    read_end: ReadEnd,
    next: u8,
}

impl Model {
    fn fresh(&mut self, length: usize) -> Vec<u8> {
        (0..length)
            .map(|_| {
                self.next = self.next.wrapping_add(1);
                self.next
            })
            .collect()
    }

    fn check_write(&mut self, bytes: &[u8], result: &io::Result<usize>) {
        match (self.write_end, self.read_end, result) {
            (WriteEnd::Reset, _, Err(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
            (WriteEnd::Finished, _, Err(error)) | (WriteEnd::Open, ReadEnd::Gone, Err(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
            }
            (WriteEnd::Open, ReadEnd::Discarding, Ok(taken)) => assert_eq!(*taken, bytes.len()),
            (WriteEnd::Open, ReadEnd::Open, Ok(taken)) => {
                assert!(*taken > 0 || bytes.is_empty());
                self.queue.extend(&bytes[..*taken]);
                assert!(self.queue.len() <= PIPE_BYTES_MAX);
            }
            (WriteEnd::Open, ReadEnd::Open, Err(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                assert!(self.queue.len() >= PIPE_BYTES_MIN);
            }
            (write_end, read_end, result) => panic!("{write_end:?} {read_end:?} {result:?}"),
        }
    }

    fn check_read(&mut self, into: &[u8], result: &io::Result<usize>) {
        match result {
            Ok(0) => assert!(
                into.is_empty()
                    || self.read_end != ReadEnd::Open
                    || (self.queue.is_empty() && self.write_end == WriteEnd::Finished)
            ),
            Ok(taken) => {
                assert_eq!(*taken, into.len().min(self.queue.len()));
                assert!(
                    self.queue
                        .drain(..*taken)
                        .eq(into[..*taken].iter().copied())
                );
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                assert!(self.queue.is_empty() && self.write_end == WriteEnd::Open);
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                assert!(self.queue.is_empty() && self.write_end == WriteEnd::Reset);
            }
        }
    }

    fn apply(&mut self, pipe: &Pipe, step: &Step) {
        match step {
            Step::Write(length) => {
                let bytes = self.fresh(*length);
                let ready = is_ready(|cx| pipe.poll_write_ready(cx));
                let result = write(pipe, &bytes);
                assert!(bytes.is_empty() || ready != would_block(&result));
                self.check_write(&bytes, &result);
            }
            Step::Read(length) => {
                let mut into = vec![0; *length];
                let ready = is_ready(|cx| pipe.poll_read_ready(cx));
                let result = pipe.try_read(&mut into);
                assert!(into.is_empty() || ready != would_block(&result));
                self.check_read(&into, &result);
            }
            Step::Finish => {
                pipe.finish();
                if self.write_end == WriteEnd::Open {
                    self.write_end = WriteEnd::Finished;
                }
            }
            Step::Discard => {
                pipe.discard();
                if self.read_end == ReadEnd::Open {
                    self.read_end = ReadEnd::Discarding;
                }
                self.queue.clear();
            }
            Step::Reset => {
                pipe.reset();
                self.write_end = WriteEnd::Reset;
            }
            Step::Leave => {
                let unread = pipe.leave() == Unread::Something;
                assert_eq!(unread, !self.queue.is_empty());
                self.queue.clear();
                self.read_end = ReadEnd::Gone;
            }
        }
    }
}

fn is_ready(poll: impl FnOnce(&mut Context<'_>) -> Poll<()>) -> bool {
    poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

proptest! {
    /// Whatever the two ends do and whatever the budget, bytes arrive in order and once, readiness
    /// tells the truth, and the account is settled at the end.
    #[test]
    fn behaves_like_a_queue(
        limit in 0usize..200_000,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let (pipe, budget) = pipe_with(limit);
        let mut model = Model {
            queue: VecDeque::new(),
            write_end: WriteEnd::Open,
            read_end: ReadEnd::Open,
            next: 0,
        };
        for step in &steps {
            model.apply(&pipe, step);
            prop_assert!(budget.used() <= limit.max(PIPE_BYTES_MIN));
        }
        drop(pipe);
        prop_assert_eq!(budget.used(), 0);
    }
}
