//! The life of one started container, from its first task to its one exit.
//!
//! ```text
//! Running ──stop (handler)──▶ Draining ──last task gone──▶ Ended
//!    └──────last task gone, stop (command), kill──────────────▲
//! ```
//!
//! Programs that were started in the container beside its own (`exec`) have lives of their own, which
//! this one ends with itself.
//!
//! The life ends when the last of its guest tasks is dropped, whatever dropped it: so an exit is
//! published after the guest's memory is gone, and nothing has to wait for it.

use crate::account::Account;
use crate::fs::FileSystem;
use crate::pools::{GuestTask, Pools};
use crate::spec::{BelowUse, ContainerId, Exit, ExitCause, Limits, Usage};
use crate::store::Container;
use crate::termination::Closing;
use coracle_network::PodNetwork;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::SystemTime;
use tokio::sync::watch;

/// A started container. Clones are the same container; dropping them does not end it.
#[derive(Clone)]
pub struct Instance {
    life: Arc<Life>,
}

impl Instance {
    pub(crate) fn new(life: Arc<Life>) -> Self {
        Self { life }
    }

    pub(crate) fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// Waits until the container has ended. Cancelling the wait changes nothing.
    pub async fn exited(&self) -> Exit {
        self.life.exited().await
    }

    /// Returns how the container ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        match &*self.life.phase.borrow() {
            Phase::Ended(exit) => Some(exit.clone()),
            Phase::Running | Phase::Draining => None,
        }
    }

    /// Asks the container to end. A handler finishes what it is serving and exits 143. A command ends
    /// at once with 143, since WebAssembly has no signals, unless it imports our termination interface
    /// or its [`crate::OnStop`] leaves it its grace: then it ends by itself. Asking twice is harmless.
    pub fn stop(&self) {
        self.life.stop(Asked::Stop);
    }

    /// Asks the container to end as a person does at a terminal: like [`Instance::stop`], but a
    /// command exits 130.
    pub fn interrupt(&self) {
        self.life.stop(Asked::Interrupt);
    }

    /// Ends the container as the key at a terminal does that programs seldom listen to: as
    /// [`Instance::interrupt`], but a command exits 131.
    pub fn quit(&self) {
        self.life.stop(Asked::Quit);
    }

    /// Ends the container at once, also in a tight loop or a blocked host call: 137.
    pub fn kill(&self) {
        self.life.kill();
    }

    /// Changes what the container may use, from now on and without a restart.
    ///
    /// # Errors
    /// It uses more memory already than it then might; nothing has changed.
    pub fn resize(&self, limits: &Limits) -> Result<(), BelowUse> {
        self.life.account.resize(limits)
    }

    /// Returns when the container was started.
    pub fn started_at(&self) -> SystemTime {
        self.life.started_at
    }

    /// Returns what the container has used so far.
    pub fn usage(&self) -> Usage {
        let account = &self.life.account;
        Usage {
            cpu: account.cpu(),
            memory: account.memory(),
            memory_peak: account.memory_peak(),
        }
    }
}

/// What a request to end means for a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its tasks are ended.
    End,
    /// Its tasks are told, and end by themselves.
    Drain,
}

/// Where a container is in its life.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Nothing was asked of it.
    Running,
    /// It was asked to end and does so by itself.
    Draining,
    /// Its last task is gone.
    Ended(Exit),
}

/// How a container ended by itself.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) code: i32,
    pub(crate) cause: ExitCause,
}

impl Verdict {
    pub(crate) fn exited(code: i32) -> Self {
        Self {
            code,
            cause: ExitCause::Exited,
        }
    }

    pub(crate) fn stopped() -> Self {
        Self {
            code: ExitCause::STOPPED,
            cause: ExitCause::Stopped,
        }
    }

    fn interrupted() -> Self {
        Self {
            code: ExitCause::INTERRUPTED,
            cause: ExitCause::Stopped,
        }
    }

    fn quit() -> Self {
        Self {
            code: ExitCause::QUIT,
            cause: ExitCause::Stopped,
        }
    }

    fn out_of_memory() -> Self {
        Self {
            code: ExitCause::KILLED,
            cause: ExitCause::OutOfMemory,
        }
    }

    fn killed() -> Self {
        Self {
            code: ExitCause::KILLED,
            cause: ExitCause::Killed,
        }
    }
}

/// What every holder of a container shares.
pub(crate) struct Life {
    account: Arc<Account>,
    started_at: SystemTime,
    ending_by: Ending,
    phase: watch::Sender<Phase>,
    tasks: Mutex<Tasks>,
    visitors: Mutex<Visitors>,
    closing: Arc<Closing>,
}

/// What a container shares with programs that are started in it later.
#[derive(Clone)]
pub(crate) struct Lent {
    pub(crate) id: ContainerId,
    pub(crate) files: Arc<FileSystem>,
    pub(crate) network: PodNetwork,
    pub(crate) account: Arc<Account>,
}

/// Programs that run in the container beside its own.
struct Visitors {
    /// Nothing when the container has ended, so that its files and network end with it.
    lent: Option<Lent>,
    lives: Vec<Weak<Life>>,
}

/// The guest tasks of a container, to be ended from outside.
#[derive(Default)]
struct Tasks {
    asked: Option<Asked>,
    running: HashMap<u64, Option<GuestTask<()>>>,
    next: u64,
}

/// The strongest thing that was asked of a container from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Stop,
    Interrupt,
    Quit,
    Kill,
    /// The node's memory is used up.
    OutOfMemory,
}

impl Life {
    pub(crate) fn new(container: &Container, ending_by: Ending) -> Arc<Self> {
        let account = container.account.clone();
        let lent = Lent {
            id: container.spec.id.clone(),
            files: container.spec.files.clone(),
            network: container.spec.network.clone(),
            account: account.clone(),
        };
        let life = Arc::new(Self {
            account: account.clone(),
            started_at: SystemTime::now(),
            ending_by,
            phase: watch::Sender::new(Phase::Running),
            tasks: Mutex::default(),
            visitors: Mutex::new(Visitors {
                lent: Some(lent),
                lives: Vec::new(),
            }),
            closing: container.closing.clone(),
        });
        let ending = Arc::downgrade(&life);
        account.end_by(move || {
            if let Some(life) = ending.upgrade() {
                life.end(Asked::OutOfMemory);
            }
        });
        life
    }

    /// Returns what another program in this container runs with; nothing when it has ended.
    pub(crate) fn lend(&self) -> Option<Lent> {
        self.visitors.lock().lent.clone()
    }

    /// Ends `visitor` with this container, which may have ended already.
    pub(crate) fn adopt(&self, visitor: &Arc<Life>) {
        let mut visitors = self.visitors.lock();
        if visitors.lent.is_none() {
            drop(visitors);
            return visitor.kill();
        }
        visitors.lives.retain(|life| life.strong_count() > 0);
        visitors.lives.push(Arc::downgrade(visitor));
    }

    /// Returns a view of the phase, for tasks that drain.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(crate) async fn exited(&self) -> Exit {
        let mut phase = self.phase.subscribe();
        let ended = phase
            .wait_for(|phase| matches!(phase, Phase::Ended(_)))
            .await;
        match &*ended.expect("the life holds the sender") {
            Phase::Ended(exit) => exit.clone(),
            Phase::Running | Phase::Draining => unreachable!("waited for the end"),
        }
    }

    pub(crate) fn stop(&self, how: Asked) {
        let ending = {
            let mut tasks = self.tasks.lock();
            tasks.asked.get_or_insert(how);
            match self.ending_by {
                Ending::End => tasks.take(),
                Ending::Drain => Vec::new(),
            }
        };
        if self.ending_by == Ending::Drain {
            self.closing.ask();
            self.phase.send_if_modified(|phase| {
                let running = matches!(phase, Phase::Running);
                if running {
                    *phase = Phase::Draining;
                }
                running
            });
        }
        abort(&ending);
    }

    pub(crate) fn kill(&self) {
        self.end(Asked::Kill);
    }

    /// Ends every task; the first reason to end by force is the one that is told.
    fn end(&self, why: Asked) {
        let ending = {
            let mut tasks = self.tasks.lock();
            tasks.asked = match tasks.asked {
                forced @ Some(Asked::Kill | Asked::OutOfMemory) => forced,
                Some(Asked::Stop | Asked::Interrupt | Asked::Quit) | None => Some(why),
            };
            tasks.take()
        };
        abort(&ending);
    }

    /// Runs `task` on the guest threads, on this container's account, until it ends or the
    /// container is ended from outside. `end` must be dropped by the task as its last act.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        pools: &Pools,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = {
            let mut tasks = self.tasks.lock();
            let id = tasks.next;
            tasks.next += 1;
            tasks.running.insert(id, None);
            id
        };
        let listed = Listed {
            life: self.clone(),
            id,
        };
        let handle = pools.spawn(self.account.clone(), async move {
            let _listed = listed;
            task.await;
        });
        let mut tasks = self.tasks.lock();
        let ended = match (tasks.asked, self.ending_by) {
            (Some(Asked::Kill | Asked::OutOfMemory), _)
            | (Some(Asked::Stop | Asked::Interrupt | Asked::Quit), Ending::End) => true,
            (Some(Asked::Stop | Asked::Interrupt | Asked::Quit), Ending::Drain) | (None, _) => {
                false
            }
        };
        if ended {
            drop(tasks);
            handle.abort();
        } else if let Some(place) = tasks.running.get_mut(&id) {
            *place = Some(handle);
        }
    }

    fn finish(&self, verdict: Option<Verdict>) {
        let asked = self.tasks.lock().asked;
        let verdict = match (verdict, asked) {
            // A drained handler says "stopped" even if it was ended by force while it drained.
            (
                Some(Verdict {
                    cause: ExitCause::Stopped,
                    ..
                })
                | None,
                Some(forced @ (Asked::Kill | Asked::OutOfMemory)),
            ) => match forced {
                Asked::OutOfMemory => Verdict::out_of_memory(),
                Asked::Kill | Asked::Stop | Asked::Interrupt | Asked::Quit => Verdict::killed(),
            },
            // It failed for what it was ended for.
            (Some(verdict), Some(Asked::OutOfMemory)) if verdict.code != 0 => {
                Verdict::out_of_memory()
            }
            (Some(verdict), _) => verdict,
            (None, Some(Asked::Stop)) => Verdict::stopped(),
            (None, Some(Asked::Interrupt)) => Verdict::interrupted(),
            (None, Some(Asked::Quit)) => Verdict::quit(),
            (None, None) => Verdict {
                code: ExitCause::TRAPPED,
                cause: ExitCause::Trapped {
                    message: "a host function panicked".into(),
                },
            },
        };
        self.end_visitors();
        self.phase.send_replace(Phase::Ended(Exit {
            code: verdict.code,
            cause: verdict.cause,
            started_at: self.started_at,
            finished_at: SystemTime::now(),
        }));
    }
}

impl Life {
    fn end_visitors(&self) {
        let (lent, lives) = {
            let mut visitors = self.visitors.lock();
            (visitors.lent.take(), std::mem::take(&mut visitors.lives))
        };
        drop(lent);
        for life in lives.iter().filter_map(Weak::upgrade) {
            life.kill();
        }
    }
}

impl Tasks {
    fn take(&mut self) -> Vec<GuestTask<()>> {
        self.running.values_mut().filter_map(Option::take).collect()
    }
}

/// Ends tasks; never under the lock, since a task that ends takes it.
fn abort(tasks: &[GuestTask<()>]) {
    for task in tasks {
        task.abort();
    }
}

/// Takes a task off the list when it is gone.
struct Listed {
    life: Arc<Life>,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let gone = self.life.tasks.lock().running.remove(&self.id);
        drop(gone);
    }
}

/// The end of a container: published when the last clone of the `Arc` around it is dropped.
pub(crate) struct End {
    life: Arc<Life>,
    verdict: Mutex<Option<Verdict>>,
}

impl End {
    pub(crate) fn of(life: &Arc<Life>) -> Arc<Self> {
        Arc::new(Self {
            life: life.clone(),
            verdict: Mutex::default(),
        })
    }

    /// Says how the container ended by itself.
    pub(crate) fn say(&self, verdict: Verdict) {
        *self.verdict.lock() = Some(verdict);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let verdict = self.verdict.get_mut().take();
        self.life.finish(verdict);
    }
}
