//! The threads that poll guests, and nothing else does.
//!
//! Two pools: *interactive*, and *batch* at a lower priority for tasks that compute. A task belongs
//! to one thread of a pool, whose reactor and timers it uses; a thread that has nothing to do takes
//! tasks from one that is behind. What a task uses is charged to its container's account.

use crate::account::Account;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle, Thread};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

mod courtesy;
mod cpu_clock;
mod late;
mod priority;
mod queue;
mod task;
mod ticker;
mod worker;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) use courtesy::give_way;
pub(crate) use late::{Late, put_off};
use task::{PoolKind, Task};
use ticker::Ticker;
use worker::Worker;

/// Threads for blocking file operations that each guest thread may start.
const BLOCKING_THREADS_MAX: usize = 64;

thread_local! {
    /// The pools and the interactive worker that this thread is, if it is one.
    static HERE: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// What the pools are made of.
pub(crate) struct PoolsConfig {
    /// Threads for guests that yield before their slice is over.
    pub(crate) interactive: usize,
    /// Threads for guests that compute.
    pub(crate) batch: usize,
    /// Called once a slice while guests are polled, to make the running ones yield.
    pub(crate) tick: Arc<dyn Fn() + Send + Sync>,
}

/// The guest threads. Dropping it ends them and every task.
pub(crate) struct Pools {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Why a task has no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum TaskEnd {
    /// It was ended from outside.
    #[error("the task was ended")]
    Aborted,
    /// It panicked.
    #[error("the task panicked: {0}")]
    Panicked(String),
}

/// A task on the guest threads: a future of its result. Dropping it leaves the task alone.
pub(crate) struct GuestTask<T> {
    task: Option<Arc<Task>>,
    result: oneshot::Receiver<Result<T, TaskEnd>>,
}

/// What the threads and everyone who wakes a task share.
struct Shared {
    interactive: Vec<Worker>,
    batch: Vec<Worker>,
    ticker: Arc<Ticker>,
    ticker_thread: OnceLock<Thread>,
    tasks: Mutex<HashMap<u64, Arc<Task>>>,
    next_id: AtomicU64,
    /// Set under the lock of `tasks`, so that no task is added after it.
    stopping: AtomicBool,
}

impl Pools {
    /// Starts the threads: at least one for each pool.
    pub(crate) fn new(config: PoolsConfig) -> io::Result<Self> {
        let workers = |pool, count: usize| -> Vec<Worker> {
            (0..count.max(1))
                .map(|index| Worker::new(pool, index))
                .collect()
        };
        let shared = Arc::new(Shared {
            interactive: workers(PoolKind::Interactive, config.interactive),
            batch: workers(PoolKind::Batch, config.batch),
            ticker: Arc::new(Ticker::new()),
            ticker_thread: OnceLock::new(),
            tasks: Mutex::default(),
            next_id: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        });
        // Made first: dropping it ends whatever threads there are when a later one fails.
        let pools = Self {
            shared,
            threads: Mutex::default(),
        };
        pools.start(config.tick)?;
        Ok(pools)
    }

    fn start(&self, tick: Arc<dyn Fn() + Send + Sync>) -> io::Result<()> {
        let shared = self.shared.clone();
        let ticker = thread::Builder::new()
            .name("guest-ticker".into())
            .spawn(move || {
                let ticker = shared.ticker.clone();
                ticker.run(|| {
                    tick();
                    shared.balance();
                });
            })?;
        self.shared
            .ticker_thread
            .get_or_init(|| ticker.thread().clone());
        self.threads.lock().push(ticker);
        for (pool, name) in [
            (PoolKind::Interactive, "guest-fast"),
            (PoolKind::Batch, "guest-batch"),
        ] {
            for index in 0..self.shared.workers(pool).len() {
                let (shared, runtime) = (self.shared.clone(), runtime()?);
                let thread = thread::Builder::new()
                    .name(format!("{name}-{index}"))
                    .spawn(move || be_worker(shared, pool, index, runtime))?;
                self.threads.lock().push(thread);
            }
        }
        Ok(())
    }

    /// Runs `future` on the guest threads, on `account`, to its end or until it is aborted. Spawned
    /// from a guest thread it stays on that thread, where its sockets are. After
    /// [`Pools::shutdown`] it is dropped at once.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        account: Arc<Account>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> GuestTask<T> {
        let (sender, result) = oneshot::channel();
        let future = async move {
            let result = AssertUnwindSafe(future).catch_unwind().await;
            // Nobody may be interested in the result.
            let _ = sender.send(result.map_err(|panic| {
                let text = panic_text(panic.as_ref());
                tracing::error!(text, "a guest task panicked");
                TaskEnd::Panicked(text)
            }));
        };
        let task = Shared::add(&self.shared, account, Box::pin(future));
        GuestTask { task, result }
    }

    /// Ends every task and every thread, and waits for them, unless called from one of them.
    pub(crate) fn shutdown(&self) {
        let tasks: Vec<Arc<Task>> = {
            let tasks = self.shared.tasks.lock();
            self.shared.stopping.store(true, Ordering::SeqCst);
            tasks.values().cloned().collect()
        };
        tasks.iter().for_each(Task::abort);
        drop(tasks);
        self.shared.wake_all();
        let threads = std::mem::take(&mut *self.threads.lock());
        let mut threads = threads.into_iter();
        // The clock must tick until the last guest has yielded, so it ends last.
        let ticker = threads.next();
        let ours = thread::current().id();
        let inside = threads
            .as_slice()
            .iter()
            .any(|thread| thread.thread().id() == ours);
        if !inside {
            threads.for_each(join);
        }
        self.shared.stop_ticker();
        if let (Some(ticker), false) = (ticker, inside) {
            join(ticker);
        }
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl<T> GuestTask<T> {
    /// Ends the task: its future is dropped on a guest thread, soon. Harmless when it has ended.
    pub(crate) fn abort(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl<T> Future for GuestTask<T> {
    type Output = Result<T, TaskEnd>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = std::task::ready!(Pin::new(&mut self.result).poll(cx));
        Poll::Ready(result.unwrap_or(Err(TaskEnd::Aborted)))
    }
}

impl Shared {
    fn add(
        this: &Arc<Self>,
        account: Arc<Account>,
        future: futures_util::future::BoxFuture<'static, ()>,
    ) -> Option<Arc<Task>> {
        let id = this.next_id.fetch_add(1, Ordering::Relaxed);
        let home = this.choose_home();
        let homes = [home, usize::try_from(id).unwrap_or(0) % this.batch.len()];
        let task = Task::new(id, homes, this.clone(), account, future);
        let mut tasks = this.tasks.lock();
        if this.stopping.load(Ordering::SeqCst) {
            drop(tasks);
            task.end();
            return None;
        }
        tasks.insert(id, task.clone());
        drop(tasks);
        this.interactive[home]
            .residents()
            .fetch_add(1, Ordering::Relaxed);
        this.enqueue(task.clone());
        Some(task)
    }

    /// This thread if it is an interactive worker, else the one with the fewest tasks.
    fn choose_home(self: &Arc<Self>) -> usize {
        match HERE.get() {
            Some((pools, index)) if pools == self.identity() => index,
            Some(_) | None => {
                let residents = |worker: &Worker| worker.residents().load(Ordering::Relaxed);
                let counted = self.interactive.iter().map(residents).enumerate();
                counted
                    .min_by_key(|(_, residents)| *residents)
                    .map_or(0, |(index, _)| index)
            }
        }
    }

    fn identity(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    fn workers(&self, pool: PoolKind) -> &[Worker] {
        match pool {
            PoolKind::Interactive => &self.interactive,
            PoolKind::Batch => &self.batch,
        }
    }

    fn home(&self, task: &Task) -> &Worker {
        let pool = task.pool();
        &self.workers(pool)[task.home(pool)]
    }

    fn enqueue(&self, task: Arc<Task>) {
        self.home(&task).push(task);
    }

    /// Lets a task that was woken wait for its thread. Where that sleeps and a guest thread woke the task
    /// that would take it up at once, it is polled there instead: waking a thread costs more than most
    /// polls, and what woke the task is in this thread's cache. An idle thread takes it if that was wrong,
    /// within two ticks.
    fn enqueue_woken(this: &Arc<Self>, task: Arc<Task>) {
        let home = this.home(&task);
        if task.pool() == PoolKind::Interactive
            && let Some((pools, index)) = HERE.get()
            && pools == this.identity()
        {
            let here = &this.interactive[index];
            if std::ptr::eq(home, here) || (home.is_idle() && here.is_prompt()) {
                courtesy::note_woken();
                return here.push(task);
            }
        }
        home.push(task);
    }

    fn enqueue_first(&self, task: Arc<Task>) {
        self.home(&task).push_first(task);
    }

    /// Drops the task's future and forgets it.
    fn end(&self, task: &Arc<Task>) {
        task.end();
        let mut tasks = self.tasks.lock();
        let known = tasks.remove(&task.id).is_some();
        let last = tasks.is_empty();
        drop(tasks);
        if known {
            let home = task.home(PoolKind::Interactive);
            self.interactive[home]
                .residents()
                .fetch_sub(1, Ordering::Relaxed);
        }
        if last && self.stopping.load(Ordering::SeqCst) {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        self.interactive
            .iter()
            .chain(&self.batch)
            .for_each(Worker::wake);
    }

    /// Tells whether no task is left and none will come.
    fn is_over(&self) -> bool {
        self.stopping.load(Ordering::SeqCst) && self.tasks.lock().is_empty()
    }

    fn enter(&self) {
        if let Some(thread) = self.ticker_thread.get() {
            self.ticker.enter(thread);
        }
    }

    fn leave(&self) {
        self.ticker.leave();
    }

    fn stop_ticker(&self) {
        if let Some(thread) = self.ticker_thread.get() {
            self.ticker.stop(thread);
        }
    }

    /// Once a tick: lets an idle thread of a pool help one that is behind.
    fn balance(&self) {
        for pool in [PoolKind::Interactive, PoolKind::Batch] {
            let workers = self.workers(pool);
            // Not `any`: every worker's count of polls must be read at every tick.
            let behind = workers.iter().filter(|worker| worker.is_behind()).count();
            workers
                .iter()
                .filter(|worker| behind > 0 && worker.invite())
                .take(behind)
                .count();
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
}

/// Is a guest thread.
fn be_worker(shared: Arc<Shared>, pool: PoolKind, index: usize, runtime: Runtime) {
    match pool {
        PoolKind::Interactive => HERE.set(Some((shared.identity(), index))),
        PoolKind::Batch => priority::lower(),
    }
    // As a task and not as the root, which would be woken by a system call each time. Guests yield
    // by themselves, so the reactor's own measure of how much one task may do does not apply.
    let serving = tokio::task::unconstrained(async move {
        shared.workers(pool)[index].serve(&shared).await;
    });
    let served = runtime.block_on(async { tokio::spawn(serving).await });
    if let Err(error) = served {
        tracing::error!(%error, "a guest thread has failed");
    }
    // Does not wait for file operations that the kernel has not finished.
    runtime.shutdown_background();
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a guest thread has panicked");
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic".to_owned())
}
