//! Follows the pods through the API until all are at their end, and tells the user.

use std::pin::pin;
use std::sync::Arc;

use anyhow::{Context, bail};
use coracle_kubelet_shim::SeenPod;
use coracle_service_proxy::ServicePlace;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Event as KubeEvent;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;

use crate::console::Console;
use crate::exit::Exit;
use crate::services::Printed;

use super::tracker::{Note, Standing, Tracker};

/// Why following has come to its end.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The pods ended, or the user ended them.
    Ended(Exit),
    /// An image can never run here; the words say which and why.
    Refused(String),
}

impl Verdict {
    /// Turns a refusal into the error that the command ends with.
    ///
    /// # Errors
    ///
    /// Returns the refusal.
    pub(super) fn into_exit(self) -> anyhow::Result<Exit> {
        match self {
            Self::Ended(exit) => Ok(exit),
            Self::Refused(why) => bail!("{why}"),
        }
    }
}

/// Events that are told: warnings, and why containers are ended, which is none.
const TOLD_EVENTS: [&str; 2] = ["type=Warning", "reason=Killing"];

/// Watches all pods of a run, and what else is told about them.
pub(super) struct Follower {
    pods: Api<SeenPod>,
    events: Api<KubeEvent>,
    places: watch::Receiver<Arc<[ServicePlace]>>,
    console: Console,
}

/// Something that the API tells.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is not moved far"
)]
enum News {
    Pod(Event<SeenPod>),
    Told(Event<KubeEvent>),
    Places(Arc<[ServicePlace]>),
}

impl Follower {
    /// Watches through `client` and prints on `console`.
    pub(super) fn new(
        client: kube::Client,
        places: watch::Receiver<Arc<[ServicePlace]>>,
        console: Console,
    ) -> Self {
        Self {
            pods: Api::all(client.clone()),
            events: Api::all(client),
            places,
            console,
        }
    }

    /// Prints what happens until `expected` pods are at their end or one can never start.
    ///
    /// # Errors
    ///
    /// Fails when the watch ends, which the embedded API does only when it is stopped.
    pub(super) async fn until_finished(self, expected: usize) -> anyhow::Result<Verdict> {
        let mut tracker = Tracker::default();
        let pods = watcher::watcher(self.pods.clone(), watcher::Config::default());
        let events = TOLD_EVENTS.map(|fields| {
            let those = watcher::Config::default().fields(fields);
            watcher::watcher(self.events.clone(), those).boxed()
        });
        let events = futures::stream::select_all(events);
        let pods = pods.map_ok(News::Pod);
        let told = futures::stream::select(pods, events.map_ok(News::Told));
        let mut news = pin!(futures::stream::select(told, changes(self.places.clone())));
        let mut printed = Printed::default();
        while let Some(news) = news.try_next().await.context("failed to watch the pods")? {
            let notes = match news {
                News::Pod(Event::Apply(pod) | Event::InitApply(pod)) => tracker.observe(&pod.0),
                News::Pod(Event::Delete(pod)) => tracker.forget(&pod.0),
                News::Told(Event::Apply(event) | Event::InitApply(event)) => tracker.tell(&event),
                News::Places(places) => {
                    let news = printed.news(&places).into_iter();
                    let notes = news.map(|(url, owner)| Note::Address { url, owner });
                    self.print(&notes.collect::<Vec<_>>());
                    continue;
                }
                News::Pod(Event::Init | Event::InitDone) | News::Told(_) => continue,
            };
            self.print(&notes);
            match tracker.standing(expected) {
                Standing::Running => {}
                Standing::Finished(exit) => return Ok(Verdict::Ended(exit)),
                Standing::Refused(why) => return Ok(Verdict::Refused(why)),
            }
        }
        bail!("the watch of the pods ended")
    }

    fn print(&self, notes: &[Note]) {
        for note in notes {
            match note {
                Note::State(line) => self.console.progress(line),
                Note::Address { url, owner } => {
                    self.console.output(format!("{url}  {owner}\n").as_bytes());
                }
            }
        }
    }
}

/// Returns what a receiver shows, each time it is new. It never ends the stream it is part of: pods are
/// followed on when the proxy has ended.
fn changes(
    places: watch::Receiver<Arc<[ServicePlace]>>,
) -> impl Stream<Item = Result<News, watcher::Error>> {
    futures::stream::unfold(places, async |mut places| {
        if places.changed().await.is_err() {
            return None;
        }
        let now = Arc::clone(&places.borrow_and_update());
        Some((Ok(News::Places(now)), places))
    })
}
