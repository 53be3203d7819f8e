//! Deletes what nobody owns any more, and sees to it that owners go before or after what they own.
//!
//! The collector watches the metadata of every kind, and keeps of it a [graph](graph::Graph) of
//! owners and dependents. The graph only tells what to look at; before anything is deleted, the
//! object and its owners are asked for, by their names, and compared by their UIDs.

mod graph;
mod work;

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{SelectAll, select_all},
};
use kube::{Client, runtime::watcher};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{
    catalogue::{Catalogue, Kind},
    queue::{Backoff, Step, Workers},
    thin::{self, Thin},
};
use crate::changes::changes;
use graph::{Graph, Next, Uid};
use work::{Done, Failure};

/// So many objects are looked at at a time, as in the stock collector.
const OBJECTS_AT_ONCE: usize = 20;

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(5),
    longest: Duration::from_secs(60),
};

/// How often the server is asked which kinds it has.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(30);

const DISCOVERY_RETRY_DELAY: Duration = Duration::from_secs(1);

/// So many UIDs of owners that are gone are remembered, so that each is asked for once.
const ABSENT_MAX: usize = 1024;

type Changes = SelectAll<futures::stream::BoxStream<'static, (usize, watcher::Event<Thin>)>>;

/// Runs until it is dropped; begins anew, from lists, when the server's kinds change.
pub(super) async fn run(client: Client) {
    loop {
        match Catalogue::discover(&client).await {
            Ok(catalogue) => Collector::new(client.clone(), catalogue).run().await,
            Err(error) => {
                tracing::warn!(%error, "the kinds of the server are unknown, asked again");
                tokio::time::sleep(DISCOVERY_RETRY_DELAY).await;
            }
        }
    }
}

struct Collector {
    client: Client,
    catalogue: Arc<Catalogue>,
    graph: Graph,
    /// Owners that are known not to exist; a UID never comes back.
    absent: HashSet<Uid>,
    workers: Workers<Uid, Result<Done, Failure>>,
}

impl Collector {
    fn new(client: Client, catalogue: Catalogue) -> Collector {
        let catalogue = Arc::new(catalogue);
        Collector {
            client,
            graph: Graph::new(Arc::clone(&catalogue), watched),
            catalogue,
            absent: HashSet::new(),
            workers: Workers::new(OBJECTS_AT_ONCE, BACKOFF),
        }
    }

    /// Returns when the server has other kinds than before.
    async fn run(mut self) {
        let mut changes = self.watch();
        let mut discovery = interval_at(Instant::now() + DISCOVERY_INTERVAL, DISCOVERY_INTERVAL);
        discovery.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Before all lists are known, owners seem absent that are not.
            let ready = self.graph.is_ready();
            // Streams, workers and the timer lose nothing when another branch wins.
            tokio::select! {
                Some((kind, event)) = changes.next() => {
                    for key in self.graph.apply(kind, &event) {
                        self.workers.add(key);
                    }
                }
                step = self.workers.next(), if ready => self.work(step),
                _ = discovery.tick() => match Catalogue::discover(&self.client).await {
                    Ok(found) if found == *self.catalogue => (),
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, "kinds not compared, tried again later"),
                },
            }
        }
    }

    fn watch(&self) -> Changes {
        let client = thin::client(&self.client);
        let kinds = self.catalogue.preferred.iter().enumerate();
        let kinds = kinds.filter(|(_, kind)| watched(kind));
        select_all(kinds.map(|(index, kind)| {
            changes::<Thin>(client.clone(), &kind.resource, watcher::Config::default())
                .map(move |event| (index, event))
                .boxed()
        }))
    }

    fn work(&mut self, step: Step<Uid, Result<Done, Failure>>) {
        match step {
            Step::Begin(key) => self.begin(key),
            Step::Finished(key, Ok(done)) => {
                self.workers.done(&key);
                if self.absent.len() + done.absent.len() > ABSENT_MAX {
                    self.absent.clear();
                }
                self.absent.extend(done.absent);
                if done.is_gone {
                    for key in self.graph.remove(key) {
                        self.workers.add(key);
                    }
                }
            }
            Step::Finished(key, Err(error)) => {
                tracing::debug!(%error, "not settled, looked at again");
                self.workers.retry(&key);
            }
        }
    }

    fn begin(&mut self, key: Uid) {
        match self.graph.next(key, &self.absent) {
            Next::Nothing => self.workers.done(&key),
            Next::LookAt(dependents) => {
                self.workers.done(&key);
                for dependent in dependents {
                    self.workers.add(dependent);
                }
            }
            Next::Do(mut job) => {
                if self.workers.failures(&key) > 0 {
                    // It has been told before.
                    job.misplaced.clear();
                }
                let work = job.run(self.client.clone(), Arc::clone(&self.catalogue));
                self.workers.start(key, work);
            }
        }
    }
}

/// Events own nothing, and come and go faster than anything else.
fn watched(kind: &Kind) -> bool {
    kind.is_deletable() && kind.resource.plural != "events"
}
