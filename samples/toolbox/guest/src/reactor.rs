//! Polls the futures of this instance, in rounds: all of them, until none gets further, then waits.
//!
//! There are few of them and what they wait for is checked cheaply, so nobody keeps track of who is to be
//! woken: a round polls all. What waits says for what in each round, and a step that may let another one
//! go on says [`progressed`], which begins another round at once.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::platform::{self, Source};

/// A future without its type.
pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;

/// What killed by `kill` ends with, as by SIGTERM.
const KILLED: i32 = 143;

/// A job in the background: its number and, once it has ended, its exit code.
pub(crate) struct Task {
    /// Its number, as in `$!`.
    pub(crate) id: u32,
    /// What it was started as.
    pub(crate) title: String,
    future: RefCell<Option<Boxed<i32>>>,
    outcome: Cell<Option<i32>>,
}

#[derive(Default)]
struct Reactor {
    progress: Cell<bool>,
    deadline: Cell<Option<Duration>>,
    sources: RefCell<Vec<Weak<Source>>>,
    tasks: RefCell<Vec<Rc<Task>>>,
    last_id: Cell<u32>,
}

thread_local! {
    static REACTOR: Reactor = Reactor::default();
}

/// Runs a future to its end, and the tasks it spawns as long as that takes.
pub(crate) fn run<T>(root: impl Future<Output = T>) -> T {
    let mut root = pin!(root);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        REACTOR.with(Reactor::begin_round);
        if let Poll::Ready(value) = root.as_mut().poll(&mut context) {
            REACTOR.with(|reactor| reactor.tasks.borrow_mut().clear());
            return value;
        }
        let tasks = REACTOR.with(|reactor| reactor.tasks.borrow().clone());
        for task in tasks {
            task.poll(&mut context);
        }
        REACTOR.with(Reactor::end_round);
    }
}

/// Says that something changed for which another future may be waiting.
pub(crate) fn progressed() {
    REACTOR.with(|reactor| reactor.progress.set(true));
}

/// Lets all others go on once.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|_| {
        progressed();
        if std::mem::replace(&mut yielded, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Waits until the clock shows `instant`.
pub(crate) async fn wait_until(instant: Duration) {
    poll_fn(|_| {
        if platform::now() >= instant {
            return Poll::Ready(());
        }
        REACTOR.with(|reactor| {
            let nearest = reactor.deadline.get().map_or(instant, |at| at.min(instant));
            reactor.deadline.set(Some(nearest));
        });
        Poll::Pending
    })
    .await;
}

/// Waits for a time.
pub(crate) async fn sleep(time: Duration) {
    wait_until(platform::now().saturating_add(time)).await;
}

/// Waits until a source of the outside world is ready.
pub(crate) async fn wait_for(source: &Rc<Source>) {
    poll_fn(|_| {
        if source.ready() {
            return Poll::Ready(());
        }
        // Weak: a stream must not be closed before what waits for it is gone.
        REACTOR.with(|reactor| reactor.sources.borrow_mut().push(Rc::downgrade(source)));
        Poll::Pending
    })
    .await;
}

/// Waits until `condition` gives something; whoever makes it do so says [`progressed`].
pub(crate) async fn wait_until_some<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    poll_fn(|_| condition().map_or(Poll::Pending, Poll::Ready)).await
}

/// Runs a future until it ends or `other` does, which is asked first.
pub(crate) async fn unless<T>(
    future: impl Future<Output = T>,
    other: impl Future<Output = ()>,
) -> Option<T> {
    let (mut future, mut other) = (pin!(future), pin!(other));
    poll_fn(|context| {
        if other.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// Runs all futures at once and returns what they give. Each is dropped when it ends.
pub(crate) async fn all<T>(futures: Vec<Boxed<T>>) -> Vec<T> {
    let mut running: Vec<Option<Boxed<T>>> = futures.into_iter().map(Some).collect();
    let mut values: Vec<Option<T>> = running.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (slot, value) in running.iter_mut().zip(&mut values) {
            if let Some(Poll::Ready(done)) = slot.as_mut().map(|f| f.as_mut().poll(context)) {
                (*slot, *value) = (None, Some(done));
                progressed();
            }
        }
        if running.iter().all(Option::is_none) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    values.into_iter().flatten().collect()
}

/// Starts a job in the background.
pub(crate) fn spawn(title: String, future: Boxed<i32>) -> Rc<Task> {
    REACTOR.with(|reactor| {
        // 1 is the shell.
        let id = reactor.last_id.get().max(1) + 1;
        reactor.last_id.set(id);
        let task = Rc::new(Task {
            id,
            title,
            future: RefCell::new(Some(future)),
            outcome: Cell::new(None),
        });
        reactor.tasks.borrow_mut().push(Rc::clone(&task));
        reactor.progress.set(true);
        task
    })
}

/// The jobs that have not ended.
pub(crate) fn tasks() -> Vec<Rc<Task>> {
    REACTOR.with(|reactor| reactor.tasks.borrow().clone())
}

impl Task {
    /// Its exit code, when it has ended.
    pub(crate) fn outcome(&self) -> Option<i32> {
        self.outcome.get()
    }

    /// Ends it as SIGTERM would.
    pub(crate) fn kill(&self) {
        if self.outcome.get().is_none() {
            self.end(KILLED);
            // It cannot be dropped while it runs itself: its next poll does that.
            if let Ok(mut future) = self.future.try_borrow_mut() {
                *future = None;
            }
        }
    }

    fn poll(&self, context: &mut Context<'_>) {
        let mut future = self.future.borrow_mut();
        let polled = future.as_mut().map(|future| future.as_mut().poll(context));
        if let Some(Poll::Ready(code)) = polled
            && self.outcome.get().is_none()
        {
            self.end(code);
        }
        if self.outcome.get().is_some() {
            *future = None;
        }
    }

    fn end(&self, code: i32) {
        self.outcome.set(Some(code));
        progressed();
    }
}

impl Reactor {
    fn begin_round(&self) {
        self.progress.set(false);
        self.deadline.set(None);
        self.sources.borrow_mut().clear();
    }

    fn end_round(&self) {
        self.tasks
            .borrow_mut()
            .retain(|task| task.outcome.get().is_none());
        if !self.progress.get() {
            let sources: Vec<Rc<Source>> = self
                .sources
                .borrow()
                .iter()
                .filter_map(Weak::upgrade)
                .collect();
            platform::block(&sources, self.deadline.get());
        }
    }
}
