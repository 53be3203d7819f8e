//! Watches that never end, whatever the server sends.
//!
//! Objects are read straight into the wanted type. One that does not fit it would make the list that
//! it stands in unreadable, and with it every news of its kind. So from the first such object on, a
//! watch reads each object by itself, which costs a copy of it: what does not fit is passed over and
//! told of once, everything else goes on as before.
//!
//! An object that is passed over stays known as it was until the next list; its deletion is noticed.

use std::{collections::HashMap, fmt::Debug, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::{
    Api, Client, Resource,
    core::{DeserializeGuard, ObjectMeta, error_boundary::InvalidObject},
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::json;

/// The pause after a watch failed, so that a broken API is not asked in a tight loop.
const WATCH_RETRY_DELAY: Duration = Duration::from_millis(200);

/// So many unreadable objects are remembered, so that each is told of once. With more of them, the log
/// repeats itself rather than the memory growing.
const TOLD_MAX: usize = 1024;

type News<K> = BoxStream<'static, Result<Event<K>, watcher::Error>>;

/// Watches all objects of a kind that `config` selects; failures are logged and the watch goes on.
pub(crate) fn changes<K>(
    client: Client,
    kind: &K::DynamicType,
    config: watcher::Config,
) -> BoxStream<'static, Event<K>>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Clone + Send + Sync,
{
    let config = config.any_semantic();
    let api: Api<K> = Api::all_with(client.clone(), kind);
    let follower = Follower {
        news: Reading::Whole(watcher(api, config.clone()).boxed()),
        again: Some((client, config)),
        kind: kind.clone(),
        told: Told::default(),
    };
    let events = stream::unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Some((event, follower))
    });
    events.boxed()
}

/// How the objects of a watch are read.
enum Reading<K: Resource> {
    /// Straight into their type. Left for good when an object does not fit.
    Whole(News<K>),
    /// Each by itself.
    Guarded(News<DeserializeGuard<K>>),
}

struct Follower<K: Resource> {
    news: Reading<K>,
    /// What a watch of the other sort is made of.
    again: Option<(Client, watcher::Config)>,
    kind: K::DynamicType,
    told: Told,
}

/// What has been said about objects that cannot be read.
#[derive(Debug, Default)]
struct Told {
    /// By namespace and name, what did not fit.
    known: HashMap<(String, String), String>,
}

impl<K> Follower<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Clone + Send + Sync,
{
    /// Cancel-safe: nothing is taken from the watch but what is returned.
    async fn next(&mut self) -> Option<Event<K>> {
        loop {
            let error = match &mut self.news {
                Reading::Whole(news) => match news.next().await? {
                    Ok(event) => return Some(event),
                    Err(error) => error,
                },
                Reading::Guarded(news) => match news.next().await? {
                    Ok(event) => match self.read(event) {
                        Some(event) => return Some(event),
                        None => continue,
                    },
                    Err(error) => error,
                },
            };
            let kind = K::kind(&self.kind);
            match self.again.take_if(|_| is_unreadable(&error)) {
                Some((client, config)) => {
                    tracing::debug!(%kind, %error, "from here on, objects are read one by one");
                    let api = Api::all_with(client, &self.kind);
                    self.news = Reading::Guarded(watcher(api, config).boxed());
                }
                None => {
                    tracing::warn!(%kind, %error, "watch failed, it goes on");
                    tokio::time::sleep(WATCH_RETRY_DELAY).await;
                }
            }
        }
    }

    fn read(&mut self, event: Event<DeserializeGuard<K>>) -> Option<Event<K>> {
        let (guarded, as_event): (_, fn(K) -> Event<K>) = match event {
            Event::Init => return Some(Event::Init),
            Event::InitDone => return Some(Event::InitDone),
            Event::InitApply(object) => (object, Event::InitApply),
            Event::Apply(object) => (object, Event::Apply),
            Event::Delete(DeserializeGuard(Ok(object))) => {
                self.told.forget(object.meta());
                return Some(Event::Delete(object));
            }
            Event::Delete(DeserializeGuard(Err(invalid))) => {
                self.told.forget(&invalid.metadata);
                return bare(&invalid.metadata).map(Event::Delete);
            }
        };
        match guarded.0 {
            Ok(object) => {
                self.told.forget(object.meta());
                Some(as_event(object))
            }
            Err(invalid) => {
                if self.told.is_news(&invalid) {
                    let InvalidObject { error, metadata } = &invalid;
                    tracing::warn!(
                        kind = %K::kind(&self.kind),
                        namespace = metadata.namespace,
                        name = metadata.name,
                        error,
                        "object cannot be read, it is passed over"
                    );
                }
                None
            }
        }
    }
}

impl Told {
    /// Takes note of an unreadable object; says whether that was unknown.
    fn is_news(&mut self, invalid: &InvalidObject) -> bool {
        let key = key(&invalid.metadata);
        if self.known.get(&key) == Some(&invalid.error) {
            return false;
        }
        if self.known.len() >= TOLD_MAX {
            self.known.clear();
        }
        self.known.insert(key, invalid.error.clone());
        true
    }

    fn forget(&mut self, metadata: &ObjectMeta) {
        if !self.known.is_empty() {
            self.known.remove(&key(metadata));
        }
    }
}

fn key(metadata: &ObjectMeta) -> (String, String) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    (text(&metadata.namespace), text(&metadata.name))
}

/// Says whether a watch failed because of what an object is like, so that it would fail again.
fn is_unreadable(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchFailed(error) | WatchStartFailed(error) => {
            matches!(error, kube::Error::SerdeError(_))
        }
        _ => false,
    }
}

/// Makes an object of which only the metadata is known, if its type has no more that it must have.
fn bare<K: DeserializeOwned>(metadata: &ObjectMeta) -> Option<K> {
    serde_json::from_value(json!({"metadata": metadata, "spec": {}})).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use futures::FutureExt;
    use http::{Request, Response};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use k8s_openapi::api::core::v1::Pod;
    use kube::client::Body;
    use serde_json::Value;
    use tokio::sync::mpsc;

    use super::*;

    /// So many events are under way in a test.
    const EVENTS_MAX: usize = 16;

    /// A server whose list is given and whose one watch says what it is told to.
    fn server(list: &Value) -> (Client, mpsc::Sender<Value>) {
        let (events, said) = mpsc::channel::<Value>(EVENTS_MAX);
        let said = Arc::new(Mutex::new(Some(said)));
        let list = list.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let watches = request
                .uri()
                .query()
                .is_some_and(|query| query.contains("watch"));
            let said = watches
                .then(|| said.lock().expect("nobody panics").take())
                .flatten();
            let lines: BoxStream<'static, String> = match (watches, said) {
                (false, _) => stream::iter([list.to_string()]).boxed(),
                (true, Some(said)) => stream::unfold(said, |mut said| async {
                    let line = format!("{}\n", said.recv().await?);
                    Some((line, said))
                })
                .boxed(),
                // Only one watch is answered; others wait for ever.
                (true, None) => stream::pending().boxed(),
            };
            let frames = lines.map(|line| Ok::<_, std::io::Error>(Frame::data(Bytes::from(line))));
            let body = StreamBody::new(frames);
            async move { Ok::<_, std::convert::Infallible>(Response::new(body)) }
        });
        (Client::new(service, "default"), events)
    }

    fn pod(name: &str, version: &str, containers: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "n", "name": name, "resourceVersion": version},
            "spec": {"containers": containers}})
    }

    fn list(pods: &[Value]) -> Value {
        json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "9"},
            "items": pods})
    }

    async fn told(events: &mut BoxStream<'static, Event<Pod>>) -> String {
        let event = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
        let name = |pod: &Pod| pod.metadata.name.clone().expect("pods here have names");
        match event.expect("something happens").expect("a watch goes on") {
            Event::Init => "begin".to_owned(),
            Event::InitDone => "end".to_owned(),
            Event::InitApply(pod) => format!("listed {}", name(&pod)),
            Event::Apply(pod) => format!("changed {}", name(&pod)),
            Event::Delete(pod) => format!("deleted {}", name(&pod)),
        }
    }

    async fn check(events: &mut BoxStream<'static, Event<Pod>>, expected: &[&str]) {
        for expected in expected {
            assert_eq!(told(events).await, *expected);
        }
    }

    #[tokio::test]
    async fn an_unreadable_object_in_a_list_is_passed_over_and_the_rest_is_not() {
        let good = json!([{"name": "c"}]);
        let bad = json!("none");
        let (client, _said) = server(&list(&[
            pod("a", "1", &good),
            pod("b", "2", &bad),
            pod("c", "3", &good),
        ]));
        let mut events = changes::<Pod>(client, &(), watcher::Config::default());
        // The list is begun twice: once to find out, once to read object by object.
        check(
            &mut events,
            &["begin", "begin", "listed a", "listed c", "end"],
        )
        .await;
        assert!(events.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn an_unreadable_change_is_passed_over_and_its_deletion_is_not() {
        let good = json!([{"name": "c"}]);
        let bad = json!({"none": 1});
        let (client, said) = server(&list(&[pod("b", "1", &bad)]));
        let mut events = changes::<Pod>(client, &(), watcher::Config::default());
        check(&mut events, &["begin", "begin", "end"]).await;
        for (kind, object) in [
            ("MODIFIED", pod("b", "10", &bad)),
            ("ADDED", pod("d", "11", &good)),
            ("DELETED", pod("b", "12", &bad)),
            ("MODIFIED", pod("d", "13", &bad)),
            ("MODIFIED", pod("d", "14", &good)),
        ] {
            let event = json!({"type": kind, "object": object});
            said.send(event).await.expect("the watch listens");
        }
        check(&mut events, &["changed d", "deleted b", "changed d"]).await;
    }

    #[test]
    fn each_unreadable_object_is_told_of_once() {
        let mut told = Told::default();
        let invalid = |name: &str, error: &str| InvalidObject {
            error: error.to_owned(),
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
        };
        assert!(told.is_news(&invalid("a", "x")));
        assert!(!told.is_news(&invalid("a", "x")));
        assert!(told.is_news(&invalid("b", "x")));
        assert!(told.is_news(&invalid("a", "y")));
        told.forget(&invalid("a", "y").metadata);
        assert!(told.is_news(&invalid("a", "y")));
        for number in 0..2 * TOLD_MAX {
            told.is_news(&invalid(&number.to_string(), "x"));
        }
        assert!(told.known.len() <= TOLD_MAX);
    }
}
