//! What the system tells about a process, for benchmarks.

use std::time::Duration;

/// Returns a process's resident memory in bytes; 0 where the system does not tell it in `/proc`.
pub fn resident_bytes(id: u32) -> u64 {
    status(id, "VmRSS:") * 1024
}

/// Returns the part of a process's resident memory that is no file's, in bytes: what it holds itself; 0
/// where the system does not tell it in `/proc`.
pub fn own_bytes(id: u32) -> u64 {
    status(id, "RssAnon:") * 1024
}

/// Returns how many threads a process has; 0 where the system does not tell it in `/proc`.
pub fn threads(id: u32) -> u64 {
    status(id, "Threads:")
}

/// Returns how many memory mappings a process has; 0 where the system does not tell it in `/proc`.
pub fn mappings(id: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{id}/maps")).unwrap_or_default();
    maps.lines().count()
}

/// The number of a line of `/proc/PID/status`.
fn status(id: u32, label: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(label));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// Returns a process's CPU time; 0 where the system does not tell it in `/proc`.
pub fn cpu_time(id: u32) -> Duration {
    time_of(id, 11)
}

/// Returns the CPU time of a process's children that have ended and were waited for; 0 where the system
/// does not tell it in `/proc`.
pub fn children_time(id: u32) -> Duration {
    time_of(id, 13)
}

/// The sum of the time in user and system mode, which stand from `first` on behind the name.
fn time_of(id: u32, first: usize) -> Duration {
    // In ticks of a hundredth of a second, which Linux promises to programs whatever it uses itself.
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u64 = fields
        .skip(first)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// Returns how many descriptors a process has open; 0 where the system does not tell it in `/proc`.
pub fn descriptors(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count)
}
