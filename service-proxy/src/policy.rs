//! Enforces NetworkPolicies: follows them, and while there are any, pods and namespaces, and compiles
//! them into the rules of the fabric's pods.
//!
//! One long-running task: input: watches of NetworkPolicies, pods (labels, ports, addresses) and
//! namespaces (labels); output: the table of policies of the fabric. A pod has its rules by its UID
//! before its containers start: while news of policies is not in force, and until the pod itself has
//! been seen, its node waits for [`coracle_network::PolicyTable::in_force`]. Peers are known as soon as
//! the API tells their addresses.

use std::sync::Arc;

use coracle_network::Fabric;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod follow;
mod read;
mod selector;
mod state;
mod world;

use state::State;

/// What policies are enforced for.
#[derive(Clone)]
pub struct PoliciesConfig {
    /// The API that has them.
    pub client: Client,
    /// Whose pods.
    pub fabric: Fabric,
    /// The node, so that rules are kept for its own pods only; nothing where all pods are here.
    pub node_name: Option<String>,
}

/// The enforcement of policies.
#[derive(Debug)]
pub struct Policies {
    tasks: TaskTracker,
    stop: CancellationToken,
    synced: watch::Receiver<bool>,
}

impl Policies {
    /// Starts to follow policies. Until the first ones are known no pod reaches another one or the
    /// world, nor is it reached, except by the node: what an unknown policy forbids is never open.
    pub fn start(config: PoliciesConfig) -> Policies {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let table = Arc::clone(config.fabric.policies());
        table.hold();
        let (known, synced) = watch::channel(false);
        let state = State::new(table, config.node_name, known);
        let (client, stopped) = (config.client, stop.clone());
        tasks.spawn(async move {
            // Safe to cancel: the table is whole after every turn.
            let following = follow::follow(client, state);
            stopped.run_until_cancelled(following).await;
        });
        tasks.close();
        Policies {
            tasks,
            stop,
            synced,
        }
    }

    /// Waits until the policies that there were at the start are in force, which opens the pods.
    pub async fn synced(&self) {
        // It fails only once nothing is followed any more, and then nothing is to be waited for.
        drop(self.synced.clone().wait_for(|known| *known).await);
    }

    /// Stops. The rules of now stay in force.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Policies {
    /// Whoever does not wait for the end asks for it all the same.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
