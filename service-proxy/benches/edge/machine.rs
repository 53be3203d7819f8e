//! The machine: a namespace of our own, descriptors, and what the kernel says about processes.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::{env, fs};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const INSIDE: &str = "CORACLE_BENCH_NAMESPACE";

/// Runs this program again in a namespace of its own, where nobody else's connections and settings
/// are; where that cannot be, it goes on here and says so.
pub(crate) fn enter_namespace() {
    if env::var_os(INSIDE).is_some() {
        return;
    }
    let works = Command::new("unshare").args(["--net", "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        println!("no network namespace can be made: measured on the machine's loopback");
        return;
    }
    let prepare = format!("{PREPARE} && exec \"$@\"");
    let error = Command::new("unshare")
        .args(["--net", "sh", "-c", &prepare, "sh"])
        .args([env::current_exe().expect("this program has a path")])
        .args(env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    panic!("failed to run in a namespace: {error}");
}

/// What a fresh namespace needs: loopback, an address of a node, a range of Services that leads to this
/// machine, and ports enough for new connections.
pub(crate) const PREPARE: &str = "ip link set lo up && ip address add 192.0.2.1/32 dev lo \
    && ip route add 10.96.0.0/12 dev lo src 192.0.2.1 \
    && sysctl -qw net.ipv4.ip_local_port_range='10000 65000' net.ipv4.tcp_tw_reuse=1";

/// Tells whether we are in a namespace of our own.
pub(crate) fn is_in_namespace() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Allows as many descriptors as there may be; children inherit it.
pub(crate) fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may be the hard one");
}

/// Returns whether a program is on the path.
pub(crate) fn is_found(program: &str) -> bool {
    let tried = Command::new(program)
        .arg("-v")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tried.is_ok()
}

/// Returns the processor time of processes and their threads so far, in nanoseconds.
pub(crate) fn cpu_nanoseconds(pids: &[u32]) -> u64 {
    let tasks = pids.iter().flat_map(|pid| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        tasks.into_iter().flatten().flatten()
    });
    let times = tasks.filter_map(|task| {
        let told = fs::read_to_string(task.path().join("schedstat")).ok()?;
        told.split(' ').next()?.parse::<u64>().ok()
    });
    times.sum()
}

/// Returns the processor time of children that have ended, in nanoseconds.
pub(crate) fn ended_children_nanoseconds() -> u64 {
    // The fields after the name, which may hold anything: user and system time of waited-for children
    // are the 14th and 15th of them, in hundredths of a second.
    let told = fs::read_to_string("/proc/self/stat").expect("the kernel tells");
    let after = told.rsplit(')').next().expect("there is a name");
    let fields = after.split_whitespace().skip(13).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks * 10_000_000
}

/// Returns the memory of processes, shared pages divided among those who share them, in bytes.
pub(crate) fn memory_bytes(pids: &[u32]) -> u64 {
    let each = pids.iter().filter_map(|pid| {
        let told = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = told.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    each.sum::<u64>() * 1024
}
