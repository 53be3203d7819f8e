//! Which logs of this node's pods can be read now: what the pods' workers tell the kubelet API.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, PodStatus};
use parking_lot::Mutex;

use super::feed::Feed;
use crate::spec::PodKey;

/// The readable logs of all pods, by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct LogBook(Mutex<HashMap<PodName, Page>>);

/// Namespace and name.
type PodName = (Arc<str>, Arc<str>);

/// One pod's logs. A name that is used again has the page of its newest pod.
#[derive(Debug)]
struct Page {
    uid: Arc<str>,
    containers: Vec<Entry>,
}

/// One container's logs.
#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    present: Result<u32, Missing>,
    previous: Option<u32>,
    /// Of the newest attempt that was begun here.
    feed: Option<(u32, Arc<Feed>)>,
}

/// Which of a container's logs is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// That of the instance that runs or ran last.
    Present,
    /// That of the instance before.
    Previous,
}

/// Why there is no log to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No such pod is on this node.
    Pod,
    /// The pod has no such container.
    Container,
    /// Nothing is known of the container: the pod was refused.
    Status,
    /// No instance was ever started, for this reason.
    Waiting(Arc<str>),
    /// The pod ended before an instance was started.
    Ended,
    /// No instance came before.
    Previous,
}

/// A log that can be read.
#[derive(Clone, Debug)]
pub(crate) struct Readable {
    pub(crate) pod: PodKey,
    pub(crate) attempt: u32,
    /// Absent when nothing more is written to it.
    pub(crate) feed: Option<Arc<Feed>>,
}

impl Missing {
    /// Returns what a kubelet says.
    pub(crate) fn message(&self, pod: &str, container: &str) -> String {
        let subject = || format!("container \"{container}\" in pod \"{pod}\"");
        match self {
            Missing::Pod => format!("pod \"{pod}\" does not exist"),
            Missing::Container => format!("container \"{container}\" not found in pod \"{pod}\""),
            Missing::Status => format!("{} is not available", subject()),
            Missing::Ended => format!("{} is terminated", subject()),
            Missing::Previous => format!("previous terminated {} not found", subject()),
            Missing::Waiting(reason) => {
                let reason = match &**reason {
                    "ErrImagePull" => "image can't be pulled",
                    "ImagePullBackOff" => "trying and failing to pull image",
                    other => other,
                };
                format!("{} is waiting to start: {reason}", subject())
            }
        }
    }
}

impl LogBook {
    /// Opens the page of a pod with these containers.
    pub(crate) fn open<'a>(&self, key: &PodKey, containers: impl Iterator<Item = &'a str>) {
        let page = Page {
            uid: key.uid.clone(),
            containers: containers.map(Entry::new).collect(),
        };
        let name = (key.namespace.clone(), key.name.clone());
        self.0.lock().insert(name, page);
    }

    /// Adds the containers that are not on a pod's page yet.
    pub(crate) fn extend<'a>(&self, key: &PodKey, containers: impl Iterator<Item = &'a str>) {
        self.change(key, |entries| {
            for name in containers {
                if !entries.iter().any(|one| *one.name == *name) {
                    entries.push(Entry::new(name));
                }
            }
        });
    }

    /// Notes what a pod's status says about its containers.
    pub(crate) fn note(&self, key: &PodKey, status: &PodStatus) {
        let inits = status.init_container_statuses.iter().flatten();
        let late = status.ephemeral_container_statuses.iter().flatten();
        let all = inits.chain(status.container_statuses.iter().flatten());
        let all = all.chain(late);
        self.change(key, |entries| {
            for status in all {
                if let Some(entry) = entries.iter_mut().find(|one| *one.name == *status.name) {
                    entry.present = present(status);
                    entry.previous = ended_attempt(status.last_state.as_ref());
                }
            }
        });
    }

    /// Notes the feed of an instance that is about to start.
    pub(crate) fn attach(&self, key: &PodKey, container: &str, attempt: u32, feed: Arc<Feed>) {
        self.change(key, |entries| {
            if let Some(entry) = entries.iter_mut().find(|one| *one.name == *container) {
                entry.feed = Some((attempt, feed));
            }
        });
    }

    /// Closes the page of a pod that is gone.
    pub(crate) fn close(&self, key: &PodKey) {
        let name = (key.namespace.clone(), key.name.clone());
        let mut pages = self.0.lock();
        if pages.get(&name).is_some_and(|page| page.uid == key.uid) {
            pages.remove(&name);
        }
    }

    /// Finds the newest pod of a name.
    pub(crate) fn pod(&self, namespace: &str, pod: &str) -> Option<PodKey> {
        let (namespace, name): (Arc<str>, Arc<str>) = (namespace.into(), pod.into());
        let pages = self.0.lock();
        let page = pages.get(&(namespace.clone(), name.clone()))?;
        Some(PodKey {
            namespace,
            name,
            uid: page.uid.clone(),
        })
    }

    /// Finds a log.
    ///
    /// # Errors
    ///
    /// Fails with the reason why there is none.
    pub(crate) fn find(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        look: Look,
    ) -> Result<Readable, Missing> {
        let (namespace, name): (Arc<str>, Arc<str>) = (namespace.into(), pod.into());
        let pages = self.0.lock();
        let page = pages.get(&(namespace.clone(), name.clone()));
        let page = page.ok_or(Missing::Pod)?;
        let entry = page.containers.iter().find(|one| *one.name == *container);
        let entry = entry.ok_or(Missing::Container)?;
        let attempt = match (look, &entry.present, entry.previous) {
            (_, Err(Missing::Status), _) => return Err(Missing::Status),
            (Look::Previous, _, previous) => previous.ok_or(Missing::Previous)?,
            (Look::Present, Ok(attempt), _) => *attempt,
            (Look::Present, Err(_), Some(previous)) => previous,
            (Look::Present, Err(missing), None) => return Err(missing.clone()),
        };
        let feed = entry.feed.as_ref().filter(|(of, _)| *of == attempt);
        Ok(Readable {
            pod: PodKey {
                namespace,
                name,
                uid: page.uid.clone(),
            },
            attempt,
            feed: feed.map(|(_, feed)| feed.clone()),
        })
    }

    fn change(&self, key: &PodKey, change: impl FnOnce(&mut Vec<Entry>)) {
        let name = (key.namespace.clone(), key.name.clone());
        if let Some(page) = self.0.lock().get_mut(&name)
            && page.uid == key.uid
        {
            change(&mut page.containers);
        }
    }
}

impl Entry {
    fn new(name: &str) -> Entry {
        Entry {
            name: name.into(),
            present: Err(Missing::Status),
            previous: None,
            feed: None,
        }
    }
}

/// Returns the instance whose log is shown, by the kubelet's rules.
fn present(status: &ContainerStatus) -> Result<u32, Missing> {
    let Some(state) = &status.state else {
        return Err(Missing::Status);
    };
    if state.running.is_some() {
        let id = status.container_id.as_deref();
        return id.and_then(attempt).ok_or(Missing::Status);
    }
    if state.terminated.is_some() {
        return ended_attempt(Some(state)).ok_or(Missing::Ended);
    }
    let waiting = state.waiting.as_ref();
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
    Err(Missing::Waiting(reason.unwrap_or_default().into()))
}

fn ended_attempt(state: Option<&ContainerState>) -> Option<u32> {
    attempt(state?.terminated.as_ref()?.container_id.as_deref()?)
}

/// Reads the number of a log out of a container's ID, which ends in the count of its instances.
fn attempt(id: &str) -> Option<u32> {
    let (_, count) = id.rsplit_once('.')?;
    count.parse::<u32>().ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(status: Value, look: Look, expected: Result<u32, &str>) {
        let book = LogBook::default();
        let key = PodKey {
            namespace: "d".into(),
            name: "p".into(),
            uid: "u".into(),
        };
        book.open(&key, ["c", "other"].into_iter());
        let status: ContainerStatus = serde_json::from_value(status).expect("a status");
        let status = PodStatus {
            container_statuses: Some(vec![status]),
            ..PodStatus::default()
        };
        book.note(&key, &status);
        let found = book.find("d", "p", "c", look);
        let found = found
            .map(|log| log.attempt)
            .map_err(|missing| missing.message("p", "c"));
        assert_eq!(found, expected.map_err(str::to_owned), "{status:?}");
    }

    fn container(state: Value, last: Value) -> Value {
        json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "containerID": "coracle://u.c.3", "state": state, "lastState": last})
    }

    #[test]
    fn the_log_is_chosen_as_a_kubelet_does() {
        let ended = |id: &str| json!({"terminated": {"exitCode": 0, "containerID": id}});
        let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
        let none = || json!({});
        for (state, last, look, expected) in [
            (json!({"running": {}}), none(), Look::Present, Ok(2)),
            (
                json!({"running": {}}),
                none(),
                Look::Previous,
                Err("previous terminated container \"c\" in pod \"p\" not found"),
            ),
            (
                json!({"running": {}}),
                ended("coracle://u.c.2"),
                Look::Previous,
                Ok(1),
            ),
            (ended("coracle://u.c.3"), none(), Look::Present, Ok(2)),
            (
                waiting("CrashLoopBackOff"),
                ended("coracle://u.c.3"),
                Look::Present,
                Ok(2),
            ),
            (
                waiting("ContainerCreating"),
                none(),
                Look::Present,
                Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating"),
            ),
            (
                waiting("ImagePullBackOff"),
                none(),
                Look::Present,
                Err(
                    "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull \
                     image",
                ),
            ),
            (
                json!({"terminated": {"exitCode": 137}}),
                none(),
                Look::Present,
                Err("container \"c\" in pod \"p\" is terminated"),
            ),
        ] {
            check(container(state, last), look, expected);
        }
    }

    #[test]
    fn what_is_not_here_is_said_to_be_missing() {
        let book = LogBook::default();
        let key = |uid: &str| PodKey {
            namespace: "d".into(),
            name: "p".into(),
            uid: uid.into(),
        };
        let find = |container| book.find("d", "p", container, Look::Present).map(drop);
        assert_eq!(find("c"), Err(Missing::Pod));
        book.open(&key("u"), ["c"].into_iter());
        assert_eq!(find("x"), Err(Missing::Container));
        assert_eq!(find("c"), Err(Missing::Status));
        // The name is used again before the old pod's end was noticed.
        book.open(&key("v"), ["c"].into_iter());
        book.close(&key("u"));
        assert_eq!(find("c"), Err(Missing::Status));
        book.close(&key("v"));
        assert_eq!(find("c"), Err(Missing::Pod));
    }
}
