//! The deadline of a request's head, as hyper asks for it: a new one for each request.
//!
//! Registering a timer and taking it back costs more than the rest of a kept connection's bookkeeping, and
//! hardly ever does one go off. So a connection has one timer: it stands for all deadlines that follow one
//! another, and is set anew only when it goes off too early for the one that is waited for.

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// The timer of one connection.
#[derive(Clone, Default)]
pub(super) struct HeadTimer {
    alarm: Arc<Alarm>,
}

/// Set for some deadline, not always the one that is waited for.
type Alarm = Mutex<Option<Pin<Box<tokio::time::Sleep>>>>;

/// The wait for one deadline.
struct Wait {
    alarm: Arc<Alarm>,
    deadline: Instant,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Wait {
            alarm: self.alarm.clone(),
            deadline,
        })
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        *sleep = self.sleep_until(deadline);
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline.into();
        let mut alarm = self.alarm.lock();
        let alarm = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if alarm.deadline() > deadline {
            alarm.as_mut().reset(deadline);
        }
        loop {
            ready!(alarm.as_mut().poll(cx));
            if alarm.deadline() >= deadline {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const HOUR: Duration = Duration::from_secs(3_600);

    async fn is_over(wait: &mut Pin<Box<dyn Sleep>>) -> bool {
        poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx).is_ready())).await
    }

    #[tokio::test]
    async fn each_deadline_is_met_and_none_early() {
        let timer = HeadTimer::default();
        let start = timer.now();
        let mut far = timer.sleep_until(start + HOUR);
        assert!(!is_over(&mut far).await);
        // The alarm stands behind this one.
        timer.sleep_until(start).await;
        // It has gone off, which is too early for this one.
        let mut far = timer.sleep_until(start + HOUR);
        assert!(!is_over(&mut far).await);
        timer.sleep(Duration::ZERO).await;
        timer.reset(&mut far, start);
        far.await;
    }
}
