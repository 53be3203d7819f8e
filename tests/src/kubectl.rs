//! Stock kubectl against a Coracle that serves its API.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{Coracle, Run};

/// A cluster of one node that was started with `coracle up`, and where its credentials are.
pub struct Cluster {
    /// The process.
    pub run: Run,
    kubeconfig: PathBuf,
}

/// One program kubectl with the credentials of a cluster and a home folder of its own.
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: TempDir,
    streams: StreamProtocol,
}

/// What kubectl speaks when it executes, attaches and forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamProtocol {
    /// What it prefers.
    WebSocket,
    /// What older ones speak.
    Spdy,
}

/// What kubectl left behind.
#[derive(Debug)]
pub struct Told {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Cluster {
    /// Starts `coracle up` on a free port and waits until it says that it is ready.
    ///
    /// # Panics
    ///
    /// Panics when the cluster does not become ready.
    pub fn start(coracle: &Coracle) -> Self {
        Self::start_with(coracle, &[])
    }

    /// Does the same with further arguments.
    ///
    /// # Panics
    ///
    /// Panics like [`Cluster::start`].
    pub fn start_with(coracle: &Coracle, more: &[&str]) -> Self {
        let kubeconfig = coracle.data().join("kubeconfig-of-the-scenario");
        let file = kubeconfig.to_str().expect("the folder's name is text");
        let args = ["up", "--listen", "127.0.0.1:0", "--write-kubeconfig", file];
        let mut run = coracle.start(&[&args, more].concat(), "");
        run.wait_for("what to type next", |line| {
            line.contains("kubectl").then_some(())
        });
        Self { run, kubeconfig }
    }

    /// Returns the file with the credentials.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

impl Kubectl {
    /// Returns every kubectl of this machine: the one on the path, and newer ones beside it.
    pub fn programs() -> Vec<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .map(|folder| folder.join("kubectl"))
            .find(|program| program.is_file());
        let Some(first) = found else {
            return Vec::new();
        };
        let real = first.canonicalize().unwrap_or_else(|_| first.clone());
        let newer = real.with_file_name("kubectl.1.33");
        let newer = newer.is_file().then_some(newer);
        std::iter::once(first).chain(newer).collect()
    }

    /// Uses `program` with the credentials in `kubeconfig`.
    ///
    /// # Panics
    ///
    /// Panics when there is no temporary folder.
    pub fn new(program: &Path, kubeconfig: &Path) -> Self {
        Self {
            program: program.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            home: TempDir::new().expect("a temporary folder"),
            streams: StreamProtocol::WebSocket,
        }
    }

    /// Makes it speak another protocol.
    pub fn speaking(self, streams: StreamProtocol) -> Self {
        Self { streams, ..self }
    }

    /// Returns the command with its surroundings set, for tests that follow its output.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let web_sockets = match self.streams {
            StreamProtocol::WebSocket => "true",
            StreamProtocol::Spdy => "false",
        };
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.home.path())
            .env("KUBECTL_EXTERNAL_DIFF", "diff -u")
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", web_sockets)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", web_sockets)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it to its end, with `input` as its standard input.
    ///
    /// # Panics
    ///
    /// Panics when it cannot be started.
    pub fn tell<S: AsRef<OsStr>>(&self, args: &[S], input: &str) -> Told {
        let mut child = self.command(args).spawn().expect("kubectl starts");
        feed(&mut child, input);
        let output = child.wait_with_output().expect("kubectl ends");
        Told {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a line of words that must succeed, and returns what it printed.
    ///
    /// # Panics
    ///
    /// Panics with everything it printed when it fails.
    pub fn ok(&self, line: &str) -> String {
        self.ok_with(line, "")
    }

    /// Does the same with `input` as its standard input.
    ///
    /// # Panics
    ///
    /// Panics like [`Kubectl::ok`].
    pub fn ok_with(&self, line: &str, input: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let told = self.tell(&words, input);
        assert_eq!(told.code, 0, "kubectl {line}: {told:?}");
        told.stdout
    }

    /// Runs a line of words that must fail, and returns what it said about that.
    ///
    /// # Panics
    ///
    /// Panics when it succeeds.
    pub fn fails(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let told = self.tell(&words, "");
        assert_ne!(told.code, 0, "kubectl {line}: {told:?}");
        told.stderr
    }
}

fn feed(child: &mut Child, input: &str) {
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_owned();
    // A program that needs no input closes its end; that is its right.
    std::thread::spawn(move || stdin.write_all(input.as_bytes()));
}
