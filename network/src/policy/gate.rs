//! Where pods wait before they start: until the policies that are known are in force for them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Whom policies are in force for, and who waits for that.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<Doings>);

#[derive(Debug, Default)]
struct Doings {
    standing: Standing,
    /// By the pod's UID. Who waits is told to look again.
    waiting: HashMap<String, Vec<oneshot::Sender<()>>>,
}

/// How far whoever follows policies has come.
#[derive(Debug, Default)]
enum Standing {
    /// There is no policy, or nobody follows any: all pods pass. Left when one comes.
    #[default]
    Open,
    /// Policies have come, changed or gone and the rules are of before: nobody passes. Left when all
    /// is compiled.
    Behind,
    /// Policies are in force for the pods with these UIDs, which pass, whether one selects them or not.
    Judged(HashSet<String>),
}

impl Doings {
    fn passes(&self, uid: &str) -> bool {
        match &self.standing {
            Standing::Open => true,
            Standing::Behind => false,
            Standing::Judged(pods) => pods.contains(uid),
        }
    }
}

impl Gate {
    pub(super) fn fall_behind(&self) {
        self.0.lock().standing = Standing::Behind;
    }

    pub(super) fn settle(&self, judged: Option<HashSet<String>>) {
        let mut doings = self.0.lock();
        doings.standing = judged.map_or(Standing::Open, Standing::Judged);
        // Dropping their senders makes all look again, and forgets who waits no more.
        doings.waiting.clear();
    }

    pub(super) fn judged(&self, uid: &str) {
        let mut doings = self.0.lock();
        if let Standing::Judged(pods) = &mut doings.standing {
            pods.insert(uid.to_owned());
            doings.waiting.remove(uid);
        }
    }

    pub(super) fn forget(&self, uid: &str) {
        if let Standing::Judged(pods) = &mut self.0.lock().standing {
            pods.remove(uid);
        }
    }

    /// Waits until a pod passes, or for so long; tells whether it does.
    pub(super) async fn passed(&self, uid: &str, patience: Duration) -> bool {
        if self.0.lock().passes(uid) {
            return true;
        }
        let passing = async {
            while let Some(news) = self.look(uid) {
                // It fails always: a sender is only ever dropped.
                drop(news.await);
            }
        };
        let passed = tokio::time::timeout(patience, passing).await.is_ok();
        if !passed {
            self.0.lock().waiting.remove(uid);
        }
        passed
    }

    /// Returns what to wait for before looking again; nothing where the pod passes.
    fn look(&self, uid: &str) -> Option<oneshot::Receiver<()>> {
        let mut doings = self.0.lock();
        if doings.passes(uid) {
            return None;
        }
        let (sender, news) = oneshot::channel();
        let waiting = doings.waiting.entry(uid.to_owned());
        waiting.or_default().push(sender);
        Some(news)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Tells whether a pod passes at once.
    fn passes(gate: &Gate, uid: &str) -> bool {
        gate.look(uid).is_none()
    }

    #[test]
    fn without_policies_nobody_waits() {
        let gate = Gate::default();
        assert_eq!(gate.passed("a", PATIENCE).now_or_never(), Some(true));
        gate.fall_behind();
        assert!(!passes(&gate, "a"));
        gate.settle(None);
        assert!(passes(&gate, "a"));
    }

    #[tokio::test]
    async fn a_pod_waits_for_its_own_judgement() {
        let gate = Gate::default();
        gate.fall_behind();
        let mut waiting = Box::pin(gate.passed("a", PATIENCE));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        gate.judged("a");
        assert_eq!(
            waiting.as_mut().now_or_never(),
            None,
            "nothing is compiled yet"
        );
        gate.settle(Some(HashSet::from(["b".to_owned()])));
        assert!(passes(&gate, "b"));
        assert_eq!(waiting.as_mut().now_or_never(), None);
        gate.judged("c");
        assert_eq!(waiting.as_mut().now_or_never(), None);
        gate.judged("a");
        assert!(waiting.await);
        gate.forget("a");
        assert!(!passes(&gate, "a"));
        gate.fall_behind();
        assert!(!passes(&gate, "b"), "its rules are of before");
    }

    /// A follower that cannot reach the API must not keep pods from starting.
    #[tokio::test]
    async fn patience_ends_and_leaves_nothing() {
        let gate = Gate::default();
        gate.fall_behind();
        assert!(!gate.passed("a", Duration::ZERO).await);
        assert!(gate.0.lock().waiting.is_empty());
    }
}
