//! The processor time of the calling thread.
//!
//! A poll is timed by the wall clock, which is cheap. On a machine that is short of processors that
//! charges a guest for the time in which its thread was not running; where a quota depends on it, the
//! thread's own clock tells the two apart.

use std::time::Duration;

/// Returns the processor time that the calling thread has used, where the system tells.
pub(super) fn thread_time() -> Option<Duration> {
    platform::thread_time()
}

#[cfg(unix)]
mod platform {
    use std::time::Duration;

    #[expect(
        unsafe_code,
        reason = "the standard library has no clock of a thread's own time"
    )]
    pub(super) fn thread_time() -> Option<Duration> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the pointer is to a live value of the right type, which the call only writes to.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        if result != 0 {
            return None;
        }
        let seconds = u64::try_from(time.tv_sec).ok()?;
        let nanos = u32::try_from(time.tv_nsec).ok()?;
        Some(Duration::new(seconds, nanos))
    }
}

#[cfg(not(unix))]
mod platform {
    use std::time::Duration;

    pub(super) fn thread_time() -> Option<Duration> {
        None
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Otherwise a container beside busy neighbours would get a fraction of its quota.
    #[test]
    fn time_in_which_the_thread_does_not_run_does_not_count() {
        let (wall, before) = (Instant::now(), thread_time().expect("a clock"));
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let _ = receiver.recv_timeout(Duration::from_millis(50));
        drop(sender);
        let used = thread_time().expect("a clock") - before;
        assert!(used < wall.elapsed() / 2, "{used:?}");
    }
}
