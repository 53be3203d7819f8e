//! The limits a compiler child lives under.

/// How much nicer than its parent a child is (Unix).
#[cfg(unix)]
const NICENESS: i32 = 10;

/// Prepares `command` so that the child has a low priority, where the system decides that at the
/// start of a process.
#[cfg(windows)]
pub(super) fn low_priority(command: &mut tokio::process::Command) {
    /// `BELOW_NORMAL_PRIORITY_CLASS` of the Windows API.
    const BELOW_NORMAL: u32 = 0x4000;
    command.creation_flags(BELOW_NORMAL);
}

/// On Unix a child lowers its own priority, see [`apply`].
#[cfg(unix)]
pub(super) fn low_priority(_command: &mut tokio::process::Command) {}

/// Limits the calling process. A limit that the system refuses to set is no reason to fail: the
/// parent still watches the clock.
#[cfg(unix)]
#[expect(
    unsafe_code,
    reason = "the system calls have no safe form in the standard library"
)]
pub(super) fn apply(memory_max_bytes: u64, cpu_max_seconds: u64) {
    let lower = |resource, value: u64| {
        let limit = libc::rlimit {
            rlim_cur: value as libc::rlim_t,
            rlim_max: value as libc::rlim_t,
        };
        // SAFETY: `limit` is a valid `rlimit` that outlives the call, which only reads it.
        unsafe { libc::setrlimit(resource, &raw const limit) };
    };
    lower(libc::RLIMIT_AS, memory_max_bytes);
    // Every thread's time counts, so a process on all processors may take the parent's deadline
    // once for each of them.
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    lower(libc::RLIMIT_CPU, cpu_max_seconds.saturating_mul(threads));
    lower(libc::RLIMIT_CORE, 0);
    // SAFETY: `nice` takes a number and touches no memory of ours.
    unsafe { libc::nice(NICENESS) };
}

/// Windows offers a process no limit on itself without a job object; the parent's deadline and
/// the size limit of the input remain.
#[cfg(windows)]
pub(super) fn apply(_memory_max_bytes: u64, _cpu_max_seconds: u64) {}
