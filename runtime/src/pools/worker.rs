//! One thread of a pool: a reactor with timers, and the queue of guest tasks it polls.
//!
//! The queue is served by one task of the thread's own reactor, in turns: some polls, then the
//! reactor, so that guests that always have more to do cannot keep a neighbour's packet waiting.

use super::courtesy::{self, GivingWay};
use super::late::PutOff;
use super::queue::RunQueue;
use super::task::{Polled, PoolKind, Task};
use super::{Shared, cpu_clock};
use crate::account::SLICE;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Polls between two looks at the reactor, if they take [`TURN_MIN`] together; fewer if they take a slice.
const POLLS_PER_TURN: usize = 16;
/// Brief polls go on for so long without a look at the reactor. A look costs about a microsecond, so its
/// share is a fiftieth then.
const TURN_MIN: Duration = Duration::from_micros(50);
/// The most of them, since what is no poll, as the end of a task, is not timed.
const BRIEF_POLLS_PER_TURN: usize = 64;
/// How many must wait for a thread before one that has nothing to do takes some. A single one is
/// usually answered sooner where its data is.
const STEAL_WAITING_MIN: usize = 2;

/// What a thread shares with those who wake its tasks.
pub(super) struct Worker {
    pool: PoolKind,
    index: usize,
    queue: Mutex<RunQueue<Arc<Task>>>,
    /// The length of the queue, to look at without the lock.
    waiting: AtomicUsize,
    /// Tasks that live here.
    residents: AtomicUsize,
    /// Polls begun, to see from outside that one of them is long.
    polls: AtomicU64,
    polls_at_tick: AtomicU64,
    /// Whether the thread may take even a single waiting task from a sibling.
    invited: AtomicBool,
    idle: AtomicBool,
    /// Whether what the thread does now is over soon. Read by the thread itself, while it wakes others.
    prompt: AtomicBool,
    waker: AtomicWaker,
}

/// Tasks whose containers have used up their quota, by the time they may run again.
type Parked = BTreeMap<(Instant, u64), Arc<Task>>;

/// What the thread knows from one turn to the next.
#[derive(Default)]
struct Aside {
    parked: Parked,
    giving_way: GivingWay,
    put_off: PutOff,
    clock: CpuClock,
}

/// The processor time that the thread has used since some moment that is less than a slice before the poll for
/// which it matters.
///
/// It is not read before each poll, since reading it is a call of the system: what a long poll is charged by it
/// may be too much by what the thread used since, which is less than a slice.
#[derive(Default)]
struct CpuClock(Option<(Duration, Instant)>);

impl CpuClock {
    fn start(&mut self, now: Instant) {
        match self.0 {
            Some((_, since)) if now - since < SLICE => {}
            Some(_) | None => self.0 = cpu_clock::thread_time().map(|time| (time, now)),
        }
    }

    fn used(&self) -> Option<Duration> {
        cpu_clock::thread_time()?.checked_sub(self.0?.0)
    }
}

/// How a turn ended.
enum Turn {
    /// Others may wait.
    Full,
    /// Nobody waits any more.
    Empty,
}

impl Worker {
    pub(super) fn new(pool: PoolKind, index: usize) -> Self {
        Self {
            pool,
            index,
            queue: Mutex::new(RunQueue::new()),
            waiting: AtomicUsize::new(0),
            residents: AtomicUsize::new(0),
            polls: AtomicU64::new(0),
            polls_at_tick: AtomicU64::new(0),
            invited: AtomicBool::new(false),
            idle: AtomicBool::new(false),
            prompt: AtomicBool::new(true),
            waker: AtomicWaker::new(),
        }
    }

    pub(super) fn residents(&self) -> &AtomicUsize {
        &self.residents
    }

    /// Tells whether the thread sleeps, or waits for its reactor.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Ordering::SeqCst)
    }

    /// Tells the thread itself whether a task that it adds now is polled soon: nobody waits before it, and
    /// whoever is polled is likely to block soon.
    pub(super) fn is_prompt(&self) -> bool {
        self.prompt.load(Ordering::Relaxed) && self.waiting.load(Ordering::Relaxed) == 0
    }

    /// Lets a queued task wait for this thread.
    pub(super) fn push(&self, task: Arc<Task>) {
        let time = task.account.virtual_nanos();
        self.with_queue(|queue| queue.push(time, task));
        self.wake();
    }

    /// Lets a task be met before all others.
    pub(super) fn push_first(&self, task: Arc<Task>) {
        self.with_queue(|queue| queue.push_first(task));
        self.wake();
    }

    /// Wakes the thread if it has nothing to do.
    pub(super) fn wake(&self) {
        if self.idle.load(Ordering::SeqCst) && self.idle.swap(false, Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// Lets the thread take work from a sibling, if it has none itself.
    pub(super) fn invite(&self) -> bool {
        let idle = self.idle.load(Ordering::SeqCst);
        if idle {
            self.invited.store(true, Ordering::SeqCst);
            self.wake();
        }
        idle
    }

    /// Tells, once a tick, whether tasks wait here longer than they should.
    pub(super) fn is_behind(&self) -> bool {
        let polls = self.polls.load(Ordering::Relaxed);
        let stuck = self.polls_at_tick.swap(polls, Ordering::Relaxed) == polls;
        let waiting = self.waiting.load(Ordering::Relaxed);
        waiting >= STEAL_WAITING_MIN || (stuck && waiting > 0)
    }

    /// Is the thread's one task: serves the queue until the pools have ended.
    pub(super) async fn serve(&self, shared: &Shared) {
        let mut aside = Aside::default();
        loop {
            match self.turn(shared, &mut aside) {
                Turn::Full => tokio::task::yield_now().await,
                Turn::Empty if shared.is_over() => return,
                Turn::Empty => self.sleep(shared, &aside.parked).await,
            }
        }
    }

    fn turn(&self, shared: &Shared, aside: &mut Aside) -> Turn {
        let began = Instant::now();
        self.release(began, &mut aside.parked);
        let Some(mut task) = self.next(shared, aside) else {
            return Turn::Empty;
        };
        shared.enter();
        let mut now = began;
        let mut turn = Turn::Full;
        aside.put_off.begin_turn();
        for polls in 1.. {
            now = self.run(shared, task, now, aside);
            // Before the next task is taken out: it would be lost if the turn ended after that.
            let taken = now.duration_since(began);
            let most = match taken < TURN_MIN {
                true => BRIEF_POLLS_PER_TURN,
                false => POLLS_PER_TURN,
            };
            if polls >= most || taken >= SLICE {
                break;
            }
            task = match self.next(shared, aside) {
                Some(task) => task,
                None => {
                    turn = Turn::Empty;
                    break;
                }
            };
        }
        aside.put_off.end_turn(now);
        aside.giving_way.end_turn();
        shared.leave();
        turn
    }

    /// Polls one task and decides where it goes; returns the time.
    fn run(&self, shared: &Shared, task: Arc<Task>, now: Instant, aside: &mut Aside) -> Instant {
        if !task.begin() {
            return now;
        }
        self.take_home(shared, &task);
        if task.is_aborted() {
            shared.end(&task);
            return now;
        }
        if let Some(until) = task.account.parked_until(now) {
            task.put_back();
            // An abort may have come before that and left the task to us.
            if task.is_aborted() {
                self.push_first(task);
            } else {
                aside.parked.insert((until, task.id), task);
            }
            return now;
        }
        let now = aside.put_off.before_poll(&task.account, now);
        // Nobody else writes it.
        let polls = self.polls.load(Ordering::Relaxed);
        self.polls.store(polls.wrapping_add(1), Ordering::Relaxed);
        if task.account.has_quota() {
            aside.clock.start(now);
        }
        self.prompt.store(task.is_brief(), Ordering::Relaxed);
        courtesy::begin();
        let result = task.poll();
        self.prompt.store(true, Ordering::Relaxed);
        let ended = Instant::now();
        let mut used = ended.duration_since(now);
        if used > SLICE && task.account.has_quota() {
            used = used.min(aside.clock.used().unwrap_or(used));
        }
        task.account.charge(used, ended);
        aside.put_off.after_poll(&task.account, ended);
        let polled = match result {
            Poll::Ready(()) => Polled::Ended,
            Poll::Pending => task.after_poll(used),
        };
        match polled {
            Polled::Blocked if courtesy::gave_way() => aside.giving_way.add(task),
            Polled::Blocked => {}
            Polled::Again => shared.enqueue(task),
            Polled::Ended => shared.end(&task),
        }
        ended
    }

    /// Makes this thread the home of a task that it took from a sibling.
    fn take_home(&self, shared: &Shared, task: &Task) {
        if task.home(self.pool) == self.index {
            return;
        }
        let before = task.move_home(self.pool, self.index);
        if self.pool == PoolKind::Interactive {
            shared.workers(self.pool)[before]
                .residents
                .fetch_sub(1, Ordering::Relaxed);
            self.residents.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn next(&self, shared: &Shared, aside: &mut Aside) -> Option<Arc<Task>> {
        if let Some(task) = self.pop() {
            return Some(task);
        }
        aside.giving_way.end_all();
        self.pop().or_else(|| self.steal(shared))
    }

    fn pop(&self) -> Option<Arc<Task>> {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return None;
        }
        self.with_queue(|queue| queue.pop(|task| task.account.virtual_nanos()))
    }

    fn steal(&self, shared: &Shared) -> Option<Arc<Task>> {
        let invited =
            self.invited.load(Ordering::Relaxed) && self.invited.swap(false, Ordering::SeqCst);
        let least = if invited { 1 } else { STEAL_WAITING_MIN };
        let siblings = shared.workers(self.pool).iter();
        let waiting = |worker: &&Worker| worker.waiting.load(Ordering::Relaxed);
        let fullest = siblings
            .filter(|worker| worker.index != self.index)
            .max_by_key(waiting)?;
        if waiting(&fullest) < least {
            return None;
        }
        fullest.pop()
    }

    /// Brings back the tasks that may run again.
    fn release(&self, now: Instant, parked: &mut Parked) {
        while let Some(entry) = parked.first_entry() {
            if entry.key().0 > now {
                return;
            }
            self.push(entry.remove());
        }
    }

    /// Waits for a wake, an invitation, the end, or the first parked task.
    async fn sleep(&self, shared: &Shared, parked: &Parked) {
        let work = poll_fn(|cx| self.poll_work(cx, shared));
        match parked.first_key_value() {
            None => work.await,
            Some((&(until, _), _)) => {
                // Either may be dropped: both only say "look again".
                tokio::select! {
                    () = work => {}
                    () = tokio::time::sleep_until(until.into()) => {}
                }
            }
        }
        self.idle.store(false, Ordering::SeqCst);
    }

    fn poll_work(&self, cx: &mut Context<'_>, shared: &Shared) -> Poll<()> {
        self.waker.register(cx.waker());
        self.idle.store(true, Ordering::SeqCst);
        // Whoever came before the store did not see it; whoever comes after it wakes us.
        let work = self.waiting.load(Ordering::SeqCst) > 0
            || self.invited.load(Ordering::SeqCst)
            || shared.is_over();
        if work { Poll::Ready(()) } else { Poll::Pending }
    }

    fn with_queue<R>(&self, act: impl FnOnce(&mut RunQueue<Arc<Task>>) -> R) -> R {
        let mut queue = self.queue.lock();
        let result = act(&mut queue);
        self.waiting.store(queue.len(), Ordering::SeqCst);
        result
    }
}
