//! The streams of a container's own program, for whoever attaches to them while it runs.

use std::sync::Arc;
use std::task::{Context, Poll};

use coracle_runtime::{Input, Output, Terminal};
use parking_lot::Mutex;

use super::{Discipline, Pipe};
use crate::logs::StdStream;
use crate::spec::{StdinPlan, StreamPlan};

/// Attached to one container at once; each may hold a pipe's worth of bytes for each stream.
const ATTACHED_MAX: usize = 16;

/// The streams of one instance, as the agent holds them.
pub(crate) struct Console {
    plan: StreamPlan,
    discipline: Discipline,
    stdin: Option<Arc<Pipe>>,
    stdout: Arc<Readers>,
    stderr: Arc<Readers>,
}

/// Those who read along on one stream.
#[derive(Default)]
struct Readers(Mutex<Vec<Arc<Pipe>>>);

/// A stream with readers along it. All take the same bytes, so the slowest makes the program wait.
struct Tee {
    stream: Arc<dyn Output>,
    readers: Arc<Readers>,
}

/// One who is attached; dropping it detaches.
pub(crate) struct Attached {
    console: Arc<Console>,
    pub(crate) stdout: Arc<Pipe>,
    pub(crate) stderr: Arc<Pipe>,
    has_stdin: bool,
}

impl Console {
    pub(crate) fn new(plan: StreamPlan, discipline: Discipline) -> Console {
        let stdin = match plan.stdin {
            StdinPlan::Closed => None,
            StdinPlan::Open | StdinPlan::Once => Some(match (plan.terminal, discipline) {
                (Terminal::Present, Discipline::Ours) => Pipe::of_lines(),
                (Terminal::Present, Discipline::Theirs) | (Terminal::Absent, _) => Pipe::default(),
            }),
        };
        Console {
            plan,
            discipline,
            stdin: stdin.map(Arc::new),
            stdout: Arc::default(),
            stderr: Arc::default(),
        }
    }

    /// Returns the program's input; nothing is one at its end.
    pub(crate) fn stdin(&self) -> Option<Arc<dyn Input>> {
        let stdin = self.stdin.clone()?;
        Some(stdin)
    }

    /// Returns the input that one who is attached may write to.
    pub(crate) fn keyboard(&self) -> Option<&Arc<Pipe>> {
        self.stdin.as_ref()
    }

    /// Who does the terminal's work, if the streams are one.
    pub(crate) fn terminal(&self) -> Option<Discipline> {
        match self.plan.terminal {
            Terminal::Present => Some(self.discipline),
            Terminal::Absent => None,
        }
    }

    /// Returns `stream` with the readers of one of the console's streams along it.
    pub(crate) fn along(&self, which: StdStream, stream: Arc<dyn Output>) -> Arc<dyn Output> {
        let readers = match which {
            StdStream::Stdout => self.stdout.clone(),
            StdStream::Stderr => self.stderr.clone(),
        };
        Arc::new(Tee { stream, readers })
    }

    /// Attaches to what is written from now on; nothing when too many are attached.
    pub(crate) fn attach(self: &Arc<Self>, has_stdin: bool) -> Option<Attached> {
        let (stdout, stderr) = (Arc::<Pipe>::default(), Arc::<Pipe>::default());
        if !self.stdout.add(&stdout) {
            return None;
        }
        self.stderr.add(&stderr);
        Some(Attached {
            console: self.clone(),
            stdout,
            stderr,
            has_stdin,
        })
    }
}

impl Attached {
    /// Notes that the one who is attached types nothing more, and says whether that ends the session: so it is, as
    /// with containerd, where the program's input stays open. Else one who only passes something in would wait for
    /// the program's end.
    pub(crate) fn end_input(&self) -> bool {
        let stdin = self.console.stdin.as_ref().filter(|_| self.has_stdin);
        match (self.console.plan.stdin, stdin) {
            (StdinPlan::Once, Some(stdin)) => {
                stdin.end();
                false
            }
            (StdinPlan::Open, Some(_)) => true,
            (StdinPlan::Closed | StdinPlan::Open | StdinPlan::Once, _) => false,
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.end_input();
        self.console.stdout.remove(&self.stdout);
        self.console.stderr.remove(&self.stderr);
    }
}

impl Readers {
    fn add(&self, pipe: &Arc<Pipe>) -> bool {
        let mut readers = self.0.lock();
        let has_room = readers.len() < ATTACHED_MAX;
        if has_room {
            readers.push(pipe.clone());
        }
        has_room
    }

    fn remove(&self, pipe: &Arc<Pipe>) {
        self.0.lock().retain(|one| !Arc::ptr_eq(one, pipe));
        // A program that waits for this reader goes on.
        pipe.abandon();
    }
}

impl Output for Tee {
    fn write(&self, bytes: &[u8]) -> usize {
        // Locked to the end, so that every reader gets what the stream takes, in the same order.
        let readers = self.readers.0.lock();
        let room = readers.iter().map(|pipe| pipe.room()).min();
        let room = room.unwrap_or(usize::MAX).min(bytes.len());
        if room == 0 {
            return 0;
        }
        let taken = self.stream.write(&bytes[..room]);
        for pipe in readers.iter() {
            pipe.write(&bytes[..taken]);
        }
        taken
    }

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let readers = self.readers.0.lock();
        for pipe in readers.iter() {
            std::task::ready!(Output::poll_ready(&**pipe, cx));
        }
        drop(readers);
        self.stream.poll_ready(cx)
    }
}

#[cfg(test)]
mod tests {
    use coracle_runtime::Chunk;

    use super::*;

    fn console(stdin: StdinPlan) -> Arc<Console> {
        let plan = StreamPlan {
            stdin,
            terminal: Terminal::Absent,
        };
        Arc::new(Console::new(plan, Discipline::Ours))
    }

    fn read(pipe: &Pipe) -> Vec<u8> {
        match pipe.read(usize::MAX) {
            Chunk::Data(bytes) => bytes.to_vec(),
            Chunk::NotYet | Chunk::End => Vec::new(),
        }
    }

    #[test]
    fn everyone_who_is_attached_gets_what_is_written_since() {
        let console = console(StdinPlan::Closed);
        let log = Arc::new(Pipe::default());
        let stdout = console.along(StdStream::Stdout, log.clone());
        assert_eq!(stdout.write(b"a"), 1);
        let first = console.attach(false).expect("a place");
        assert_eq!(stdout.write(b"b"), 1);
        let second = console.attach(false).expect("a place");
        assert_eq!(stdout.write(b"c"), 1);
        assert_eq!(read(&first.stdout), b"bc");
        assert_eq!(read(&second.stdout), b"c");
        assert_eq!(read(&first.stderr), b"");
        drop(first);
        assert_eq!(stdout.write(b"d"), 1);
        assert_eq!(read(&second.stdout), b"d");
        assert_eq!(read(&log), b"abcd");
    }

    #[test]
    fn the_slowest_reader_holds_the_program_back_until_it_leaves() {
        let console = console(StdinPlan::Closed);
        let log = Arc::new(Pipe::default());
        log.abandon();
        let stdout = console.along(StdStream::Stdout, log);
        let slow = console.attach(false).expect("a place");
        let much = vec![0; 1 << 20];
        let taken = stdout.write(&much);
        assert!(taken > 0 && taken < much.len());
        assert_eq!(stdout.write(&much), 0);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(stdout.poll_ready(&mut cx).is_pending());
        drop(slow);
        assert!(stdout.poll_ready(&mut cx).is_ready());
        assert_eq!(stdout.write(&much), much.len());
    }

    #[test]
    fn only_so_many_may_attach() {
        let console = console(StdinPlan::Closed);
        let mut attached: Vec<_> = (0..ATTACHED_MAX).map(|_| console.attach(false)).collect();
        assert!(attached.iter().all(Option::is_some));
        assert!(console.attach(false).is_none());
        attached.pop();
        assert!(console.attach(false).is_some());
    }

    #[test]
    fn input_closes_as_the_container_asks() {
        assert!(console(StdinPlan::Closed).stdin().is_none());
        for (plan, after) in [
            (StdinPlan::Open, Chunk::NotYet),
            (StdinPlan::Once, Chunk::End),
        ] {
            let console = console(plan);
            let stdin = console.stdin().expect("an input");
            assert_eq!(stdin.read(1), Chunk::NotYet);
            drop(console.attach(false));
            assert_eq!(stdin.read(1), Chunk::NotYet, "the first only read along");
            let attached = console.attach(true).expect("a place");
            assert_eq!(attached.end_input(), plan == StdinPlan::Open, "{plan:?}");
            drop(attached);
            assert_eq!(stdin.read(1), after, "{plan:?}");
        }
    }
}
