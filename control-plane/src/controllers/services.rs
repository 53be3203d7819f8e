//! Tells for every Service which pods are its endpoints: EndpointSlices, and Endpoints for those who
//! still read them (contract F.5).
//!
//! One task follows Services, pods, nodes and what was made, and keeps the few facts that matter. A
//! change of a pod wakes only the Services that select it, and what they need is planned at once, in
//! memory, when nothing of the same Service is being written; else when that is done. So a pod that
//! becomes ready is told of without delay, and a burst of changes is a few writes.

pub(super) mod balancers;
pub(super) mod fixed;

mod endpoints;
mod mirror;
mod picture;
mod pod;
mod seen;
mod selectors;
mod service;
mod slice;
mod slices;
mod write;

use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::{Client, runtime::watcher};

use self::{
    endpoints::EndpointsFacts,
    picture::{Duty, Picture, Task},
    pod::{NodeFacts, PodFacts},
    seen::Seen,
    service::ServiceFacts,
    slice::Slice,
    write::Written,
};
use super::queue::{Backoff, Step, Workers};
use crate::changes::changes;

/// Enough to share one durable write of the store, few enough to leave the API to others.
const TASKS_AT_ONCE: usize = 64;

/// What a plan was made from is often old for a moment after someone else has written.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(5),
    longest: Duration::from_secs(30),
};

/// What came of a task.
enum Outcome {
    Slices(Written<Slice>, Option<Timestamp>),
    Endpoints(Written<EndpointsFacts>, Option<Timestamp>),
    Mirror(Result<(), kube::Error>),
}

struct Controller {
    client: Client,
    picture: Picture,
    workers: Workers<Task, Outcome>,
}

/// Runs until it is dropped.
pub(super) async fn run(client: Client) {
    let all = watcher::Config::default;
    let mut services = changes::<Seen<ServiceFacts>>(client.clone(), &(), all());
    let mut pods = changes::<Seen<Option<PodFacts>>>(client.clone(), &(), all());
    let mut nodes = changes::<Seen<NodeFacts>>(client.clone(), &(), all());
    let mut slices = changes::<Seen<Slice>>(client.clone(), &(), all());
    let mut endpoints = changes::<Seen<EndpointsFacts>>(client.clone(), &(), all());
    let mut controller = Controller {
        client,
        picture: Picture::default(),
        workers: Workers::new(TASKS_AT_ONCE, BACKOFF),
    };
    loop {
        let (picture, workers) = (&mut controller.picture, &mut controller.workers);
        let is_known = picture.is_known();
        // Neither streams nor workers lose anything when another branch wins.
        let tasks = tokio::select! {
            Some(event) = services.next() => picture.on_service(event),
            Some(event) = pods.next() => picture.on_pod(event),
            Some(event) = nodes.next() => picture.on_node(event),
            Some(event) = slices.next() => picture.on_slice(event),
            Some(event) = endpoints.next() => picture.on_endpoints(event),
            step = workers.next(), if is_known => {
                match step {
                    Step::Begin(task) => controller.begin(task),
                    Step::Finished(task, outcome) => controller.finish(&task, outcome),
                }
                Vec::new()
            }
            else => return,
        };
        for task in tasks {
            controller.workers.add(task);
        }
    }
}

impl Controller {
    /// Plans, and writes if there is anything to write.
    fn begin(&mut self, task: Task) {
        let (duty, key) = task.clone();
        let client = self.client.clone();
        match duty {
            Duty::Slices => {
                let (plan, trigger) = self.picture.plan_slices(&key);
                if plan.is_empty() {
                    return self.workers.done(&task);
                }
                let uid = self.picture.uid(&key);
                self.workers.start(task, async move {
                    let written = write::slices(&client, &key, plan, trigger).await;
                    if let Some(error) = &written.failure {
                        write::complain(&client, &key, uid, duty, error).await;
                    }
                    Outcome::Slices(written, trigger)
                });
            }
            Duty::Endpoints => {
                let Some(step) = self.picture.plan_endpoints(&key) else {
                    return self.workers.done(&task);
                };
                let (uid, trigger) = (self.picture.uid(&key), step.trigger());
                self.workers.start(task, async move {
                    let written = write::endpoints(&client, &key, step).await;
                    if let Some(error) = &written.failure {
                        write::complain(&client, &key, uid, duty, error).await;
                    }
                    Outcome::Endpoints(written, trigger)
                });
            }
            Duty::Mirror => {
                let is_mirrored = self.picture.is_mirrored(&key);
                self.workers.start(task, async move {
                    Outcome::Mirror(write::mirror(&client, &key, is_mirrored).await)
                });
            }
        }
    }

    fn finish(&mut self, task: &Task, outcome: Outcome) {
        let (_, key) = task;
        let (failure, trigger) = match outcome {
            Outcome::Slices(written, trigger) => {
                for slice in written.is {
                    self.picture.wrote_slice(key, slice);
                }
                for name in &written.is_gone {
                    self.picture.lost_slice(key, name);
                }
                (written.failure, trigger)
            }
            Outcome::Endpoints(written, trigger) => {
                for facts in written.is {
                    self.picture.wrote_endpoints(key, facts);
                }
                if !written.is_gone.is_empty() {
                    self.picture.lost_endpoints(key);
                }
                (written.failure, trigger)
            }
            Outcome::Mirror(result) => (result.err(), None),
        };
        let Some(error) = failure else {
            return self.workers.done(task);
        };
        let (duty, (namespace, service)) = task;
        if write::is_outrun(&error) {
            tracing::debug!(?duty, %namespace, %service, %error, "has changed meanwhile");
        } else {
            tracing::warn!(?duty, %namespace, %service, %error, "not written, tried again");
        }
        self.picture.fell_behind(task, trigger);
        self.workers.retry(task);
    }
}
