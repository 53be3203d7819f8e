//! Host operations that block a thread, and the count of those that nobody waits for any more.
//!
//! Everything a guest calls can be cancelled by dropping its task, with one exception: a file
//! operation that the kernel has begun (`read`, `write`, `fsync`, `open` on a slow or dead disk).
//! Its guest ends at once; the operation is abandoned: it keeps its thread of the blocking pool
//! until the kernel returns, its result is thrown away, and it is counted here meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Abandoned operations of this process that have not returned yet.
static ABANDONED: AtomicU64 = AtomicU64::new(0);

const RUNNING: u8 = 0;
const FINISHED: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Returns how many abandoned operations have not returned yet.
pub(crate) fn abandoned() -> u64 {
    ABANDONED.load(Ordering::Relaxed)
}

/// Runs `operation` on the blocking pool of the calling runtime.
///
/// Dropping the future abandons an operation that has begun and forgets one that has not.
///
/// # Errors
/// The operation panicked, or the runtime is shutting down.
pub(crate) async fn run<T: Send + 'static>(
    operation: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let state = Arc::new(AtomicU8::new(RUNNING));
    let watch = Waiting {
        state: state.clone(),
    };
    // Made here and not inside: an operation that never begins drops it too.
    let finishing = Finishing { state };
    let task = tokio::task::spawn_blocking(move || {
        let end = finishing;
        let result = operation();
        drop(end);
        result
    });
    let result = task.await.map_err(io::Error::other);
    drop(watch);
    result
}

/// Held by whoever waits for an operation.
struct Waiting {
    state: Arc<AtomicU8>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let given_up =
            self.state
                .compare_exchange(RUNNING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
        if given_up.is_ok() {
            ABANDONED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Held by the operation; dropped also when it panics, or never begins.
struct Finishing {
    state: Arc<AtomicU8>,
}

impl Drop for Finishing {
    fn drop(&mut self) {
        if self.state.swap(FINISHED, Ordering::AcqRel) == GIVEN_UP {
            ABANDONED.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn an_operation_whose_caller_is_gone_is_counted_until_it_returns() {
        let (release, wait) = mpsc::channel::<()>();
        let (began, begun) = tokio::sync::oneshot::channel();
        let before = abandoned();
        let task = tokio::spawn(run(move || {
            began.send(()).expect("the test waits for this");
            wait.recv().expect("the test releases the operation");
        }));
        begun.await.expect("the operation begins");
        task.abort();
        assert!(task.await.expect_err("the caller was ended").is_cancelled());
        assert_eq!(abandoned(), before + 1);
        release.send(()).expect("the operation still waits");
        while abandoned() != before {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_finished_operation_is_not_counted() {
        assert_eq!(run(|| 7).await.expect("it cannot fail"), 7);
    }
}
