//! The real binary as a child process, with its lines at hand as they come.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a condition may take before a scenario fails; only a defect comes near it.
const DEADLINE: Duration = Duration::from_secs(120);

/// The binary with a data folder of its own.
pub struct Coracle {
    binary: PathBuf,
    data: TempDir,
}

impl Coracle {
    /// Uses the binary at `path`, which a scenario has from `env!("CARGO_BIN_EXE_coracle")`.
    ///
    /// # Panics
    ///
    /// Panics when there is no temporary folder.
    pub fn new(path: &str) -> Self {
        Self {
            binary: path.into(),
            data: TempDir::new().expect("a temporary folder"),
        }
    }

    /// Returns the data folder.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// Starts the binary with arguments and, as its standard input, `input`.
    ///
    /// # Panics
    ///
    /// Panics when the process cannot be started.
    pub fn start<S: AsRef<OsStr>>(&self, args: &[S], input: &str) -> Run {
        let mut command = Command::new(&self.binary);
        #[cfg(windows)]
        std::os::windows::process::CommandExt::creation_flags(
            &mut command,
            crate::console::OWN_CONSOLE,
        );
        let mut child = command
            .args(args)
            .env("CORACLE_DATA_DIR", self.data.path())
            .env_remove("CORACLE_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let input = input.to_owned();
        // A program that refuses early closes its end; that is its right.
        std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let (sender, lines) = channel();
        forward(
            child.stdout.take().expect("stdout is piped"),
            Source::Stdout,
            sender.clone(),
        );
        forward(
            child.stderr.take().expect("stderr is piped"),
            Source::Stderr,
            sender,
        );
        Run {
            child,
            lines,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    /// Runs the binary to its end.
    pub fn finish<S: AsRef<OsStr>>(&self, args: &[S]) -> Ended {
        self.start(args, "").end()
    }

    /// Runs the binary with standard input to its end.
    pub fn finish_with<S: AsRef<OsStr>>(&self, args: &[S], input: &str) -> Ended {
        self.start(args, input).end()
    }
}

/// A process that is under way. It is killed when it is dropped.
pub struct Run {
    child: Child,
    lines: Receiver<(Source, String)>,
    stdout: Vec<String>,
    stderr: Vec<String>,
}

/// What a process left behind.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Stdout,
    Stderr,
}

impl Run {
    /// Waits for a line on stdout for which `wanted` returns something, and returns that.
    ///
    /// # Panics
    ///
    /// Panics with everything printed so far when the process ends or the deadline passes first.
    pub fn wait_for<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        self.wait_in(Source::Stdout, what, wanted)
    }

    /// Does the same for a line on stderr.
    ///
    /// # Panics
    ///
    /// Panics like [`Run::wait_for`].
    pub fn wait_for_progress<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        self.wait_in(Source::Stderr, what, wanted)
    }

    /// Waits for the line with an address that begins with `scheme`, and returns it.
    pub fn wait_for_address(&mut self, scheme: &str) -> String {
        let prefix = format!("{scheme}://");
        self.wait_for("an address", |line| {
            line.starts_with(&prefix)
                .then(|| line.split(' ').next().unwrap_or(line).to_owned())
        })
    }

    /// Waits for the next line with an address that begins with `scheme`, and returns that.
    ///
    /// # Panics
    ///
    /// Panics like [`Run::wait_for`].
    pub fn next_address(&mut self, scheme: &str) -> String {
        let prefix = format!("{scheme}://");
        let begin = Instant::now();
        while let Some((from, line)) = self.receive(begin) {
            if from == Source::Stdout && line.starts_with(&prefix) {
                return line.split(' ').next().unwrap_or(&line).to_owned();
            }
        }
        panic!(
            "the process ended before an address came\n{}",
            self.transcript()
        );
    }

    /// Returns the process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Presses Ctrl-C on the process's console.
    ///
    /// # Panics
    ///
    /// Panics when the process is gone.
    #[cfg(windows)]
    pub fn interrupt(&self) {
        crate::console::press_ctrl_c(self.child.id()).expect("the process is there");
    }

    /// Sends SIGINT, as Ctrl-C does.
    ///
    /// # Panics
    ///
    /// Panics when the process is gone.
    #[cfg(unix)]
    pub fn interrupt(&self) {
        let id = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(
            id.expect("a process has an id"),
            rustix::process::Signal::INT,
        )
        .expect("the process is there");
    }

    /// Kills the process at once, as a power cut or the kernel would.
    ///
    /// # Panics
    ///
    /// Panics when it cannot be waited for.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("the process can be waited for");
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    ///
    /// Panics when it does not end within the deadline.
    pub fn end(mut self) -> Ended {
        let begin = Instant::now();
        while self.receive(begin).is_some() {}
        let status: ExitStatus = self.child.wait().expect("the process can be waited for");
        Ended {
            code: status.code(),
            stdout: self.stdout.join("\n"),
            stderr: self.stderr.join("\n"),
        }
    }

    fn wait_in<T>(&mut self, source: Source, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let seen = match source {
            Source::Stdout => &self.stdout,
            Source::Stderr => &self.stderr,
        };
        if let Some(found) = seen.iter().find_map(|line| wanted(line)) {
            return found;
        }
        let begin = Instant::now();
        while let Some((from, line)) = self.receive(begin) {
            if from == source
                && let Some(found) = wanted(&line)
            {
                return found;
            }
        }
        panic!(
            "the process ended before {what} came\n{}",
            self.transcript()
        );
    }

    /// Receives one line; `None` when both streams are at their end.
    fn receive(&mut self, begin: Instant) -> Option<(Source, String)> {
        match self
            .lines
            .recv_timeout(DEADLINE.saturating_sub(begin.elapsed()))
        {
            Ok((source, line)) => {
                match source {
                    Source::Stdout => self.stdout.push(line.clone()),
                    Source::Stderr => self.stderr.push(line.clone()),
                }
                Some((source, line))
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing more came\n{}", self.transcript()),
        }
    }

    fn transcript(&self) -> String {
        format!(
            "stdout:\n{}\nstderr:\n{}",
            self.stdout.join("\n"),
            self.stderr.join("\n")
        )
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(stream: impl Read + Send + 'static, source: Source, lines: Sender<(Source, String)>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while reader
            .read_until(b'\n', &mut bytes)
            .is_ok_and(|count| count > 0)
        {
            let line = String::from_utf8_lossy(&bytes)
                .trim_end_matches(['\n', '\r'])
                .to_owned();
            if lines.send((source, line)).is_err() {
                return;
            }
            bytes.clear();
        }
    });
}
