//! The load: by wrk requests on connections that are kept and a connection for each request; long
//! answers by a client of our own, for wrk reads 8 KiB at a time, which takes it longer than anybody
//! needs to send them. And idle connections, for what one costs.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fmt};

use coracle_tests::{Wrk, setting};

use super::contenders::{Contender, Kind};
use super::machine;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Test {
    /// Requests on 32 connections that are kept.
    Requests,
    /// A connection for each request, 32 at once.
    Connections,
    /// 64 MiB for each request, 2 at once; counted in gigabytes.
    Bulk,
}

/// One sample.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Operations, or gigabytes.
    pub(crate) operations: f64,
    pub(crate) seconds: f64,
    /// Processor time of the contender alone.
    pub(crate) own_seconds: f64,
    /// Of all who took part.
    pub(crate) whole_seconds: f64,
    /// Of the longest of a hundred answers, in microseconds.
    pub(crate) p99: f64,
}

/// Connections of the client of long answers.
const BULK_CONNECTIONS: usize = 2;

/// Bytes it reads at once.
const BULK_READ_BYTES: usize = 256 * 1024;

impl Test {
    pub(crate) const ALL: [Test; 3] = [Test::Requests, Test::Connections, Test::Bulk];

    /// Tells whether its client is there.
    pub(crate) fn can_run(self) -> bool {
        match self {
            Test::Requests | Test::Connections => machine::is_found("wrk"),
            Test::Bulk => true,
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Test::Requests => "requests on kept connections",
            Test::Connections => "a connection for each request",
            Test::Bulk => "bulk, in GB",
        })
    }
}

/// Takes one sample; nothing where the test is not for the contender, or the client failed, which is
/// said.
pub(crate) fn measure(contender: &Contender, test: Test) -> Option<Sample> {
    if (contender.kind, test) == (Kind::Handler, Test::Bulk) {
        return None;
    }
    let own = || machine::cpu_nanoseconds(&contender.own);
    let backend = || machine::cpu_nanoseconds(&contender.backend);
    let before = (own(), backend(), machine::ended_children_nanoseconds());
    let told = Wrk::of(&mut client(contender, test));
    let own = own() - before.0;
    let others = backend() - before.1 + machine::ended_children_nanoseconds() - before.2;
    let Some(told) = told else {
        println!("{}, {test}: the client says nothing", contender.name);
        return None;
    };
    if told.errors > 0 {
        println!("{}, {test}: {} errors", contender.name, told.errors);
    }
    Some(Sample {
        operations: match test {
            Test::Bulk => told.bytes / 1e9,
            Test::Requests | Test::Connections => told.requests,
        },
        seconds: told.seconds,
        own_seconds: own as f64 / 1e9,
        whole_seconds: (own + others) as f64 / 1e9,
        p99: told.p99,
    })
}

/// Returns the client of a test, in the contender's namespace.
fn client(contender: &Contender, test: Test) -> Command {
    let seconds = setting("SECONDS", 1);
    let own = || env::current_exe().expect("this program has a path");
    let program = match test {
        Test::Requests | Test::Connections => OsString::from("wrk"),
        Test::Bulk => own().into_os_string(),
    };
    let mut client = match contender.namespace {
        None => Command::new(program),
        Some(pid) => {
            let mut enter = Command::new("nsenter");
            enter.arg(format!("--net=/proc/{pid}/ns/net")).arg(program);
            enter
        }
    };
    let url = format!("http://{}/", contender.at);
    let wrk = ["-t1", "--latency", "-c32", &format!("-d{seconds}s"), &url];
    match test {
        Test::Requests => client.args(wrk),
        Test::Connections => client.args(wrk).args(["-H", "Connection: close"]),
        Test::Bulk => client.args(["read-bulk", &contender.at.to_string(), &seconds.to_string()]),
    };
    client
}

/// Reads long answers from an address for some seconds, on a thread for each connection, and says how
/// much it was as wrk does.
pub(crate) fn read_bulk(mut arguments: impl Iterator<Item = String>) {
    let at = arguments.next().and_then(|at| at.parse().ok());
    let at: SocketAddr = at.expect("an address");
    let seconds = arguments.next().and_then(|seconds| seconds.parse().ok());
    let time = Duration::from_secs(seconds.expect("seconds"));
    let began = Instant::now();
    let readers = (0..BULK_CONNECTIONS).map(|_| {
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(at).expect("it listens");
            let mut buffer = vec![0; BULK_READ_BYTES];
            let (mut read, mut left) = (0, 0);
            while began.elapsed() < time {
                if left == 0 {
                    let asked = stream.write_all(b"GET /bulk HTTP/1.1\r\nHost: bench\r\n\r\n");
                    asked.expect("it reads");
                    left = super::serve::bulk_answer_bytes();
                }
                let most = buffer.len().min(left);
                let bytes = stream.read(&mut buffer[..most]).expect("it answers");
                assert!(bytes > 0, "it answers whole");
                left -= bytes;
                read += bytes as u64;
            }
            read
        })
    });
    let readers = readers.collect::<Vec<_>>();
    let read: u64 = readers
        .into_iter()
        .map(|reader| reader.join().expect("it reads"))
        .sum();
    let took = began.elapsed().as_secs_f64();
    println!("  0 requests in {took}s, {read}B read\n  50%  0s\n  99%  0s");
}

/// Returns what an idle connection costs a contender in bytes of user memory; `None` of the kernel.
pub(crate) fn idle_memory(contender: &Contender) -> Option<f64> {
    if contender.own.is_empty() {
        return None;
    }
    let count = setting("IDLE", 2_000);
    let before = machine::memory_bytes(&contender.own);
    let connections = (0..count).map(|_| TcpStream::connect(contender.at));
    let connections = connections.filter_map(Result::ok).collect::<Vec<_>>();
    // Nothing tells when the last is accepted; memory stands still when it is.
    let mut now = machine::memory_bytes(&contender.own);
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let next = machine::memory_bytes(&contender.own);
        if next == now {
            break;
        }
        now = next;
    }
    let held = connections.len();
    (held > 0).then(|| now.saturating_sub(before) as f64 / held as f64)
}
