//! The pools with real threads. Orders and shares are tested in `queue` and `account`, without any.

use super::*;
use crate::account::{NodeBudget, PodAccount, SLICE};
use crate::spec::{ContainerId, Limits, PodLimits};
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Far longer than anything here takes; a test that meets it has failed.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Fixture {
    pub(crate) pools: Pools,
    ticks: Arc<AtomicUsize>,
}

pub(crate) fn fixture(interactive: usize, batch: usize) -> Fixture {
    let ticks = Arc::new(AtomicUsize::new(0));
    let counter = ticks.clone();
    let tick = Arc::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let pools = Pools::new(PoolsConfig {
        interactive,
        batch,
        tick,
    })
    .expect("threads");
    Fixture { pools, ticks }
}

pub(crate) fn account(cpu_milli: Option<u64>) -> Arc<Account> {
    let id = ContainerId {
        namespace: "default".into(),
        pod: "p".into(),
        container: "c".into(),
    };
    let limits = Limits {
        memory: None,
        memory_request: 0,
        cpu_milli,
        cpu_request_milli: 100,
    };
    Arc::new(Account::new(
        &id,
        &limits,
        PodAccount::new(PodLimits::default(), Arc::new(NodeBudget::new(u64::MAX))),
    ))
}

pub(crate) fn wait<T>(task: GuestTask<T>) -> Result<T, TaskEnd> {
    let timed = async { tokio::time::timeout(DEADLINE, task).await };
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("runtime");
    runtime.block_on(timed).expect("the task ends in time")
}

/// Computes as a guest does that is interrupted after each slice, until `until` says so.
async fn spin(mut until: impl FnMut() -> bool) {
    while !until() {
        let began = Instant::now();
        while began.elapsed() < SLICE {
            std::hint::spin_loop();
        }
        yield_once().await;
    }
}

async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn thread_name() -> String {
    thread::current().name().unwrap_or_default().to_owned()
}

#[test]
fn a_task_gives_its_result_and_is_charged() {
    let Fixture { pools, .. } = fixture(1, 1);
    let account = account(None);
    let mut slices = 0;
    let spinning = spin(move || {
        slices += 1;
        slices > 3
    });
    let task = pools.spawn(account.clone(), async {
        spinning.await;
        7
    });
    assert_eq!(wait(task), Ok(7));
    assert!(account.cpu() >= SLICE * 3, "{:?}", account.cpu());
}

/// More than fit into one turn, each of them short.
#[test]
fn no_task_of_a_crowd_is_lost() {
    let Fixture { pools, .. } = fixture(2, 1);
    let crowd = (0..200).map(|_| {
        pools.spawn(account(None), async {
            for _ in 0..50 {
                yield_once().await;
            }
        })
    });
    for task in crowd.collect::<Vec<_>>() {
        assert_eq!(wait(task), Ok(()));
    }
}

#[test]
fn a_panic_ends_its_task_only() {
    let Fixture { pools, .. } = fixture(1, 1);
    let task = pools.spawn(account(None), async { panic!("broken") });
    assert_eq!(wait::<()>(task), Err(TaskEnd::Panicked("broken".into())));
    assert_eq!(wait(pools.spawn(account(None), async { 1 })), Ok(1));
}

#[test]
fn a_spinner_moves_to_the_batch_threads_and_returns_when_it_blocks() {
    let Fixture { pools, .. } = fixture(1, 1);
    let task = pools.spawn(account(None), async {
        let first = thread_name();
        spin(|| thread_name().starts_with("guest-batch")).await;
        let spinning = thread_name();
        tokio::time::sleep(SLICE).await;
        (first, spinning, thread_name())
    });
    let names = wait(task).expect("result");
    let expected = (
        "guest-fast-0".into(),
        "guest-batch-0".into(),
        "guest-fast-0".into(),
    );
    assert_eq!(names, expected);
}

#[test]
fn a_yielding_task_is_ended_from_outside_and_its_future_dropped() {
    struct SaysWhenDropped(mpsc::Sender<()>);
    impl Drop for SaysWhenDropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let Fixture { pools, .. } = fixture(1, 1);
    let (dropped, was_dropped) = mpsc::channel();
    let (started, has_started) = mpsc::channel();
    let guard = SaysWhenDropped(dropped);
    let task = pools.spawn(account(None), async move {
        let _guard = guard;
        let _ = started.send(());
        spin(|| false).await;
    });
    has_started.recv_timeout(DEADLINE).expect("the task starts");
    task.abort();
    task.abort();
    assert_eq!(wait(task), Err(TaskEnd::Aborted));
    was_dropped
        .recv_timeout(DEADLINE)
        .expect("the future is dropped");
}

#[test]
fn a_blocked_task_can_be_ended() {
    let Fixture { pools, .. } = fixture(2, 1);
    let task = pools.spawn(account(None), std::future::pending::<()>());
    task.abort();
    assert_eq!(wait(task), Err(TaskEnd::Aborted));
}

#[test]
fn a_task_may_end_itself() {
    let Fixture { pools, .. } = fixture(1, 1);
    let (sender, receiver) = oneshot::channel::<Arc<GuestTask<()>>>();
    let task = Arc::new(pools.spawn(account(None), async move {
        let own = receiver.await.expect("the handle is sent");
        own.abort();
        std::future::pending::<()>().await;
    }));
    let sent = sender.send(task.clone());
    assert!(sent.is_ok());
    let gone = async {
        while Arc::strong_count(&task) > 1 {
            tokio::task::yield_now().await;
        }
    };
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("runtime");
    let gone = runtime.block_on(async { tokio::time::timeout(DEADLINE, gone).await });
    gone.expect("the future with its handle is dropped");
}

#[test]
fn a_dropped_handle_leaves_its_task_alone() {
    let Fixture { pools, .. } = fixture(1, 1);
    let (sender, receiver) = mpsc::channel();
    drop(pools.spawn(account(None), async move {
        tokio::time::sleep(SLICE).await;
        let _ = sender.send(7);
    }));
    assert_eq!(receiver.recv_timeout(DEADLINE), Ok(7));
}

/// One thread for both: the neighbour must be polled between the spinner's slices.
#[test]
fn a_neighbour_of_spinners_stays_responsive() {
    let Fixture { pools, .. } = fixture(1, 1);
    let spinners: Vec<_> = (0..4)
        .map(|_| pools.spawn(account(None), spin(|| false)))
        .collect();
    let neighbour = pools.spawn(account(None), async {
        let began = Instant::now();
        for _ in 0..50 {
            tokio::time::sleep(SLICE).await;
        }
        began.elapsed()
    });
    let elapsed = wait(neighbour).expect("result");
    spinners.iter().for_each(GuestTask::abort);
    // 50 timers of 1 ms: about 120 ms alone. Behind four spinners in one queue it would be 300.
    assert!(elapsed < DEADLINE / 4, "{elapsed:?}");
}

#[test]
fn a_container_over_its_quota_is_parked_and_can_be_ended_meanwhile() {
    let Fixture { pools, .. } = fixture(1, 1);
    let account = account(Some(10));
    let (over, is_over) = mpsc::channel();
    let metered = account.clone();
    let task = pools.spawn(account.clone(), async move {
        let began = Instant::now();
        spin(|| began.elapsed() > SLICE * 40).await;
        let _ = over.send((began.elapsed(), metered.cpu()));
        spin(|| false).await;
    });
    let (elapsed, used) = is_over.recv_timeout(DEADLINE).expect("the task runs");
    // One period's worth (1 ms), what refilled since, and at most a few slices of debt.
    let fair = SLICE + elapsed / 100;
    assert!(
        used < elapsed / 2 && used < fair + SLICE * 20,
        "{used:?} of {elapsed:?}"
    );
    task.abort();
    assert_eq!(wait(task), Err(TaskEnd::Aborted));
}

#[test]
fn tasks_of_one_thread_are_helped_by_an_idle_one() {
    let Fixture { pools, .. } = fixture(2, 1);
    let pools = Arc::new(pools);
    let inner = pools.clone();
    let helped = Arc::new(AtomicBool::new(false));
    let outer = helped.clone();
    let task = pools.spawn(account(None), async move {
        let home = thread_name();
        for _ in 0..8 {
            let (helped, home) = (helped.clone(), home.clone());
            inner.spawn(account(None), async move {
                if thread_name() != home {
                    helped.store(true, Ordering::SeqCst);
                }
            });
        }
        // Never yields: without help nobody else would be polled here.
        let began = Instant::now();
        while !helped.load(Ordering::SeqCst) && began.elapsed() < DEADLINE {
            std::hint::spin_loop();
        }
    });
    assert_eq!(wait(task), Ok(()));
    assert!(outer.load(Ordering::SeqCst));
}

/// Two tasks that answer each other: the second says on which thread each word found it.
fn conversation(pools: &Pools) -> (Words, GuestTask<()>) {
    let (ask, mut asked) = tokio::sync::mpsc::channel::<()>(1);
    let (answer, answered) = tokio::sync::mpsc::channel(1);
    let second = pools.spawn(account(None), async move {
        while asked.recv().await.is_some() {
            let _ = answer.send(thread_name()).await;
        }
    });
    (Words { ask, answered }, second)
}

struct Words {
    ask: tokio::sync::mpsc::Sender<()>,
    answered: tokio::sync::mpsc::Receiver<String>,
}

impl Words {
    /// Talks until an answer came from this thread; false if none did.
    async fn meet(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            self.ask.send(()).await.expect("the other one listens");
            let there = self.answered.recv().await.expect("the other one answers");
            if there == thread_name() {
                return true;
            }
        }
        false
    }
}

/// Two guests that talk to each other would wake a thread for each word.
#[test]
fn tasks_that_answer_each_other_come_to_share_a_thread() {
    let Fixture { pools, .. } = fixture(2, 1);
    let (mut words, second) = conversation(&pools);
    let first = pools.spawn(account(None), async move { words.meet().await });
    assert_eq!(wait(first), Ok(true));
    assert_eq!(wait(second), Ok(()));
}

/// Whoever wakes a task and computes on has taken a thread that it does not give: another one helps.
#[test]
fn a_task_that_was_kept_on_a_busy_thread_is_helped_by_an_idle_one() {
    let Fixture { pools, .. } = fixture(2, 1);
    let (mut words, second) = conversation(&pools);
    let first = pools.spawn(account(None), async move {
        let met = words.meet().await;
        words.ask.send(()).await.expect("the other one listens");
        // Never yields, so that only another thread can answer.
        let began = Instant::now();
        let mut answer = words.answered.try_recv();
        while answer.is_err() && began.elapsed() < DEADLINE {
            std::hint::spin_loop();
            answer = words.answered.try_recv();
        }
        met && answer.is_ok_and(|there| there != thread_name())
    });
    assert_eq!(wait(first), Ok(true));
    assert_eq!(wait(second), Ok(()));
}

/// Waits as a guest does that reads for an answer; tells whether it might.
async fn gives_way() -> bool {
    let mut gave_way = false;
    std::future::poll_fn(|_| {
        if gave_way || !give_way() {
            return Poll::Ready(gave_way);
        }
        gave_way = true;
        Poll::Pending
    })
    .await
}

#[test]
fn who_gives_way_finds_what_those_it_woke_have_brought() {
    let Fixture { pools, .. } = fixture(1, 1);
    let (ask, mut asked) = tokio::sync::mpsc::channel::<()>(1);
    let brought = Arc::new(AtomicUsize::new(0));
    let answers = brought.clone();
    // Wakes nobody: the one that gave way goes on because nobody else has anything to do.
    let second = pools.spawn(account(None), async move {
        while asked.recv().await.is_some() {
            answers.fetch_add(1, Ordering::SeqCst);
        }
    });
    let first = pools.spawn(account(None), async move {
        for round in 1..=100 {
            ask.send(()).await.expect("the other one listens");
            if !gives_way().await || brought.load(Ordering::SeqCst) != round {
                return false;
            }
        }
        true
    });
    assert_eq!(wait(first), Ok(true));
    assert_eq!(wait(second), Ok(()));
}

#[test]
fn who_woke_nobody_may_not_give_way() {
    let Fixture { pools, .. } = fixture(1, 1);
    let (ask, mut asked) = tokio::sync::mpsc::channel::<()>(1);
    let second = pools.spawn(account(None), async move {
        while asked.recv().await.is_some() {}
    });
    let first = pools.spawn(account(None), async move {
        let before = gives_way().await;
        ask.send(()).await.expect("the other one listens");
        // Once for each who was woken, and not in a later poll.
        let at_once = gives_way().await;
        let again = gives_way().await;
        ask.send(()).await.expect("the other one listens");
        yield_once().await;
        [before, at_once, again, gives_way().await]
    });
    assert_eq!(wait(first), Ok([false, true, false, false]));
    assert_eq!(wait(second), Ok(()));
    assert!(!give_way(), "a thread that polls no guests");
}

/// Otherwise two that talk without end would keep waiting whoever gave way to one of them.
#[test]
fn who_gives_way_waits_for_a_turn_at_most() {
    let Fixture { pools, .. } = fixture(1, 1);
    let (mut words, second) = conversation(&pools);
    let (call, called) = oneshot::channel::<()>();
    let over = Arc::new(AtomicBool::new(false));
    let heard = over.clone();
    let talks = pools.spawn(account(None), async move {
        called.await.expect("it is called");
        let began = Instant::now();
        while !heard.load(Ordering::SeqCst) && began.elapsed() < DEADLINE {
            words.ask.send(()).await.expect("the other one listens");
            words.answered.recv().await.expect("the other one answers");
        }
        heard.load(Ordering::SeqCst)
    });
    let first = pools.spawn(account(None), async move {
        call.send(()).expect("it waits");
        let gave_way = gives_way().await;
        over.store(true, Ordering::SeqCst);
        gave_way
    });
    assert_eq!(wait(first), Ok(true));
    assert_eq!(wait(talks), Ok(true));
    assert_eq!(wait(second), Ok(()));
}

#[test]
fn the_clock_ticks_only_while_somebody_is_polled() {
    let Fixture { pools, ticks } = fixture(1, 1);
    let counter = ticks.clone();
    let task = pools.spawn(account(None), async move {
        let began = Instant::now();
        while counter.load(Ordering::SeqCst) < 3 && began.elapsed() < DEADLINE {
            std::hint::spin_loop();
        }
        // Blocked for long enough that a clock that runs on would be seen.
        let before = counter.load(Ordering::SeqCst);
        tokio::time::sleep(SLICE * 30).await;
        (before, counter.load(Ordering::SeqCst))
    });
    let (before, after) = wait(task).expect("result");
    assert!(before >= 3 && after <= before + 2, "{before} then {after}");
}

#[test]
fn shutting_down_ends_every_task_and_takes_no_more() {
    let Fixture { pools, .. } = fixture(2, 2);
    let spinner = pools.spawn(account(None), spin(|| false));
    let blocked = pools.spawn(account(None), std::future::pending::<()>());
    let parked = pools.spawn(account(Some(1)), spin(|| false));
    pools.shutdown();
    pools.shutdown();
    assert_eq!(wait(spinner), Err(TaskEnd::Aborted));
    assert_eq!(wait(blocked), Err(TaskEnd::Aborted));
    assert_eq!(wait(parked), Err(TaskEnd::Aborted));
    assert_eq!(
        wait(pools.spawn(account(None), async {})),
        Err(TaskEnd::Aborted)
    );
    assert_eq!(
        Arc::strong_count(&pools.shared),
        1,
        "no task is left behind"
    );
}
