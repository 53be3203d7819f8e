//! A person at a terminal: `kubectl exec -it` and `attach -it` under a pseudo-terminal.
//!
//! As in `kubectl.rs`, `CORACLE_TEST_PEERS=1` switches these scenarios on. The pseudo-terminal is made by
//! `script`, of util-linux, and its size is set by `stty`; where there are none, there are no scenarios.

#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use coracle_tests::{Cluster, Coracle, Kubectl, StreamProtocol, repository};

/// How long anything may take; only a defect comes near it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A pod to look around in, and one whose own program has a terminal.
const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: quiet}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: quiet
    image: toolbox:1
    imagePullPolicy: Never
    command: [sh, -c, 'while true; do sleep 60; done']
---
apiVersion: v1
kind: Pod
metadata: {name: screen}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: screen
    image: toolbox:1
    imagePullPolicy: Never
    stdin: true
    tty: true
    command: [sh, -c, 'while read line; do echo \"heard $line\"; done; echo gone; sleep 600']
";

/// Somebody at a terminal in which a line of a shell runs.
struct Person {
    child: Child,
    keys: ChildStdin,
    screen: Receiver<Vec<u8>>,
    seen: String,
    read: usize,
}

impl Person {
    /// Sits down at a terminal of 31 rows and 97 columns.
    fn at(kubectl: &Kubectl, args: &str) -> Person {
        let words: Vec<&str> = args.split_whitespace().collect();
        let told = kubectl.command(&words);
        let program = told.get_program().to_string_lossy().into_owned();
        let line = format!("tty; stty rows 31 cols 97; {program} {args}; echo \"code=$?\"");
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        for (name, value) in told.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let mut child = command.spawn().expect("`script` is installed");
        let keys = child.stdin.take().expect("stdin is piped");
        let mut stdout = child.stdout.take().expect("stdout is piped");
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = stdout.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Person {
            child,
            keys,
            screen,
            seen: String::new(),
            read: 0,
        }
    }

    fn types(&mut self, keys: &str) {
        self.keys
            .write_all(keys.as_bytes())
            .expect("the terminal takes keys");
        self.keys.flush().expect("the terminal takes keys");
    }

    /// Waits until the screen shows `wanted` behind what was waited for before, and returns what came first.
    fn sees(&mut self, wanted: &str) -> String {
        let begin = Instant::now();
        loop {
            if let Some(at) = self.seen[self.read..].find(wanted) {
                let before = self.seen[self.read..self.read + at].to_owned();
                self.read += at + wanted.len();
                return before;
            }
            match self
                .screen
                .recv_timeout(PATIENCE.saturating_sub(begin.elapsed()))
            {
                Ok(bytes) => self.seen += &String::from_utf8_lossy(&bytes),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("{wanted:?} never came: {:?}", self.seen)
                }
            }
        }
    }

    /// The device that the person sits at.
    fn device(&mut self) -> String {
        self.sees("/dev/pts/");
        let number = self.sees("\n");
        format!("/dev/pts/{}", number.trim())
    }

    /// Waits for kubectl's exit code.
    fn code(&mut self) -> i32 {
        self.sees("code=");
        let code = self.sees("\n");
        code.trim().parse().expect("a code")
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn with_each_protocol(scenario: impl Fn(&Kubectl)) {
    if std::env::var_os("CORACLE_TEST_PEERS").is_none_or(|value| value != "1") {
        return;
    }
    let programs = Kubectl::programs();
    assert!(!programs.is_empty(), "`kubectl` is installed");
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let file = repository().join("samples/toolbox/toolbox.wasm");
    let file = file.to_str().expect("the folder's name is text");
    let built = coracle.finish(&["image", "build", file, "--tag", "toolbox:1"]);
    assert_eq!(built.code, Some(0), "{built:?}");
    let cluster = Cluster::start(&coracle);
    let first = Kubectl::new(&programs[0], cluster.kubeconfig());
    first.ok_with("apply -f -", PODS);
    first.ok("wait pod/quiet pod/screen --for=condition=Ready --timeout=240s");
    for protocol in [StreamProtocol::WebSocket, StreamProtocol::Spdy] {
        eprintln!("{protocol:?}");
        scenario(&Kubectl::new(&programs[0], cluster.kubeconfig()).speaking(protocol));
    }
    cluster.run.interrupt();
    assert_eq!(cluster.run.end().code, Some(0));
}

/// A shell knows the size of the terminal, `^C` ends what it runs with 130 and `^D` the shell with 0. A later size
/// reaches the node; a guest has no interface to be told by, and goes on.
#[test]
fn a_shell_in_a_terminal_knows_its_size_and_its_keys() {
    with_each_protocol(|kubectl| {
        let mut person = Person::at(kubectl, "exec -it quiet -- sh");
        let device = person.device();
        person.types("echo size=$LINES.$COLUMNS.\r");
        // The first is the line as it was typed.
        person.sees("size=31.97.");
        let resized = Command::new("stty")
            .args(["-F", &device, "rows", "40", "cols", "120"])
            .status();
        assert!(resized.expect("`stty` is installed").success());
        person.types("echo still $((20 + 22))\r");
        person.sees("still 42");
        // A line that is given up leaves the shell at its prompt.
        person.types("echo never\x03");
        person.types("echo after\r");
        person.sees("\nafter");
        // A program that runs is ended by the key, and the shell goes on.
        person.types("sleep 600\r");
        let ended = Instant::now() + PATIENCE;
        while !person.seen[person.read..].contains("was 130.") && Instant::now() < ended {
            // Typed while the program still starts, the key gives up a line of the shell instead.
            person.types("\x03");
            person.types("echo was $?.\r");
            if let Ok(bytes) = person.screen.recv_timeout(Duration::from_secs(1)) {
                person.seen += &String::from_utf8_lossy(&bytes);
            }
        }
        person.sees("was 130.");
        person.types("\x04");
        assert_eq!(person.code(), 0, "{:?}", person.seen);
    });
}

/// Who attaches to a program with a terminal is heard a line at a time, with an echo.
#[test]
fn a_program_with_a_terminal_is_attached_to() {
    with_each_protocol(|kubectl| {
        let mut person = Person::at(kubectl, "attach -it screen");
        person.device();
        let begin = Instant::now();
        // What is typed before the streams are joined may be lost with the terminal's mode.
        while !person.seen[person.read..].contains("heard ahoy") && begin.elapsed() < PATIENCE {
            person.types("ahoy\r");
            if let Ok(bytes) = person.screen.recv_timeout(Duration::from_secs(1)) {
                person.seen += &String::from_utf8_lossy(&bytes);
            }
        }
        person.sees("heard ahoy");
        // A letter is taken back before the line is given.
        person.types("therx\x7fe\r");
        person.sees("heard there");
    });
}
