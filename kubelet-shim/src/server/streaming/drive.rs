//! The life of an upgraded connection: what is read, what is written and the work in between, as one
//! future. Dropping it ends everything at once.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How often a client is pinged. A write that fails tells that it is gone, also while nothing of it
/// is read because a stream's reader is slow.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long a connection may last without a reason.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long it may carry no bytes of any stream.
    idle: Duration,
    /// How long a client may go on sending after everything was written to it. What it sends is
    /// thrown away, so that its system does not discard what it has not read yet.
    linger: Duration,
}

/// The limits of every connection: the kubelet's idle time (contract E.4), and a moment to leave.
pub(super) const LIMITS: Limits = Limits {
    idle: Duration::from_secs(4 * 60 * 60),
    linger: Duration::from_secs(5),
};

/// When bytes of a stream last passed.
pub(super) struct Activity {
    limits: Limits,
    latest: Mutex<Instant>,
}

impl Activity {
    pub(super) fn new(limits: Limits) -> Activity {
        Activity {
            limits,
            latest: Mutex::new(Instant::now()),
        }
    }

    pub(super) fn note(&self) {
        *self.latest.lock() = Instant::now();
    }

    /// Returns when nothing has passed for too long.
    async fn ceased(&self) {
        loop {
            let end = *self.latest.lock() + self.limits.idle;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Runs a connection's three parts.
///
/// `read` returns when the client is gone: then the work is dropped. When `work` is done `write` goes
/// on until the queue it reads is empty, which takes as long as the client takes to read it.
pub(super) async fn drive(
    activity: &Activity,
    read: impl Future<Output = ()>,
    write: impl Future<Output = io::Result<()>>,
    work: impl Future<Output = ()>,
) {
    let (mut read, mut write) = (pin!(read), pin!(write));
    let mut ceased = pin!(activity.ceased());
    {
        let work = pin!(work);
        tokio::select! {
            () = work => (),
            () = &mut read => return,
            written = &mut write => return note(written),
            () = &mut ceased => return,
        }
    }
    // The work and with it all outputs are gone: the queue ends.
    tokio::select! {
        written = &mut write => note(written),
        () = &mut read => return,
        () = &mut ceased => return,
    }
    // Whoever has had enough closes; whoever has not may take so long.
    let _ = tokio::time::timeout(activity.limits.linger, read).await;
}

fn note(written: io::Result<()>) {
    if let Err(error) = written {
        tracing::debug!(%error, "a client of a stream is gone");
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;

    use super::*;

    fn activity(idle: Duration, linger: Duration) -> Activity {
        Activity::new(Limits { idle, linger })
    }

    const SOON: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_connection_without_bytes_ends() {
        drive(
            &activity(SOON, Duration::MAX),
            pending(),
            pending(),
            pending(),
        )
        .await;
    }

    /// The byte passes while the first idle time lasts. Where the machine stood still for all of it, the
    /// test says nothing and is done again with a longer one.
    #[tokio::test]
    async fn the_idle_time_begins_again_with_every_byte() {
        let mut idle = Duration::from_millis(20);
        loop {
            let begun = Instant::now();
            let activity = activity(idle, SOON);
            let passed = Mutex::new(None);
            let work = async {
                tokio::time::sleep(idle / 2).await;
                let before = Instant::now();
                activity.note();
                *passed.lock() = Some((before, Instant::now()));
                pending().await
            };
            drive(&activity, pending(), pending(), work).await;
            let passed = *passed.lock();
            if let Some((before, after)) = passed
                && after < begun + idle
            {
                assert!(before + idle <= Instant::now());
                return;
            }
            assert!(begun.elapsed() >= idle);
            idle *= 2;
        }
    }

    #[tokio::test]
    async fn the_work_ends_with_its_client() {
        let (alive, ended) = oneshot::channel::<()>();
        let work = async move {
            let _alive = alive;
            pending().await
        };
        drive(&activity(LIMITS.idle, SOON), async {}, pending(), work).await;
        assert!(ended.await.is_err());
    }

    #[tokio::test]
    async fn what_is_queued_is_written_before_the_end() {
        let mut is_written = false;
        let write = async {
            tokio::task::yield_now().await;
            is_written = true;
            Ok(())
        };
        // The client stays: it has its moment to leave, and no more.
        drive(&activity(LIMITS.idle, SOON), pending(), write, async {}).await;
        assert!(is_written);
    }
}
