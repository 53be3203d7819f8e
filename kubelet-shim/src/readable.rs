//! Watches that one unreadable object does not end.
//!
//! Objects are read straight into the wanted type. One that does not fit it would make the list that
//! it stands in unreadable, and the node would hear of no object of the kind any more. So from the
//! first such object on, a watch reads each object by itself, which costs a copy of it: what does not
//! fit is told of once and passed over, everything else goes on.

use std::collections::HashMap;
use std::fmt::Debug;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

/// So many unreadable objects are remembered, so that each is told of once. With more of them, the log
/// repeats itself rather than the memory growing.
const TOLD_MAX: usize = 1024;

/// What a watch says.
#[derive(Debug)]
pub(crate) enum News<K> {
    Event(Event<K>),
    /// There is such an object, new, changed or listed, and nothing else is known of it.
    Unread(Box<ObjectMeta>),
}

type Events<K> = BoxStream<'static, Result<Event<K>, watcher::Error>>;

/// How the objects of a watch are read.
enum Reading<K> {
    /// Straight into their type. Left for good when an object does not fit.
    Whole(Events<K>, Option<(Client, watcher::Config)>),
    /// Each by itself.
    Guarded(Events<DeserializeGuard<K>>, Told),
}

/// By namespace and name, what did not fit.
#[derive(Debug, Default)]
struct Told(HashMap<[String; 2], String>);

/// Watches all objects of a kind that `config` selects. Failures are returned, and the watch goes on
/// after a while.
pub(crate) fn watch<K>(
    client: Client,
    config: watcher::Config,
) -> BoxStream<'static, Result<News<K>, watcher::Error>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher(Api::<K>::all(client.clone()), config.clone()).default_backoff();
    let reading = Reading::Whole(events.boxed(), Some((client, config)));
    let news = stream::unfold(reading, |mut reading| async {
        let news = next(&mut reading).await?;
        Some((news, reading))
    });
    news.boxed()
}

async fn next<K>(reading: &mut Reading<K>) -> Option<Result<News<K>, watcher::Error>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    loop {
        let (error, again) = match reading {
            Reading::Whole(events, again) => match events.next().await? {
                Ok(event) => return Some(Ok(News::Event(event))),
                Err(error) => (error, again),
            },
            Reading::Guarded(events, told) => match events.next().await? {
                Ok(event) => match told.read(event) {
                    Some(news) => return Some(Ok(news)),
                    None => continue,
                },
                Err(error) => return Some(Err(error)),
            },
        };
        let Some((client, config)) = again.take_if(|_| is_unreadable(&error)) else {
            return Some(Err(error));
        };
        tracing::debug!(kind = %K::kind(&()), %error, "from here on, objects are read one by one");
        let api = Api::<DeserializeGuard<K>>::all(client);
        let events = watcher(api, config).default_backoff().boxed();
        *reading = Reading::Guarded(events, Told::default());
    }
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

impl Told {
    fn read<K>(&mut self, event: Event<DeserializeGuard<K>>) -> Option<News<K>>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let (guarded, as_event): (_, fn(K) -> Event<K>) = match event {
            Event::Init => return Some(News::Event(Event::Init)),
            Event::InitDone => return Some(News::Event(Event::InitDone)),
            Event::InitApply(object) => (object, Event::InitApply),
            Event::Apply(object) => (object, Event::Apply),
            Event::Delete(DeserializeGuard(object)) => {
                let object = match object {
                    Ok(object) => object,
                    // Whose it was is all that a deletion has to tell.
                    Err(invalid) => bare(&invalid.metadata)?,
                };
                self.0.remove(&key(object.meta()));
                return Some(News::Event(Event::Delete(object)));
            }
        };
        match guarded.0 {
            Ok(object) => {
                self.0.remove(&key(object.meta()));
                Some(News::Event(as_event(object)))
            }
            Err(invalid) => {
                self.tell(&K::kind(&()), &invalid);
                Some(News::Unread(Box::new(invalid.metadata)))
            }
        }
    }

    /// Logs what is wrong with an object, unless that is known.
    fn tell(&mut self, kind: &str, invalid: &InvalidObject) {
        let InvalidObject { error, metadata } = invalid;
        let key = key(metadata);
        if self.0.get(&key) == Some(error) {
            return;
        }
        if self.0.len() >= TOLD_MAX {
            self.0.clear();
        }
        let [namespace, name] = &key;
        tracing::warn!(
            kind,
            namespace,
            name,
            error,
            "object cannot be read, it is passed over"
        );
        self.0.insert(key, error.clone());
    }
}

fn key(metadata: &ObjectMeta) -> [String; 2] {
    [&metadata.namespace, &metadata.name].map(|text| text.clone().unwrap_or_default())
}

/// Makes an object of which only the metadata is known, if its type has no more that it must have.
fn bare<K: DeserializeOwned>(metadata: &ObjectMeta) -> Option<K> {
    serde_json::from_value(json!({"metadata": metadata, "spec": {}})).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use k8s_openapi::api::core::v1::Pod;
    use kube::client::Body;
    use serde_json::Value;

    use super::*;

    /// A server with one list, and one watch that says these events and nothing more.
    fn server(list: &Value, events: &[Value]) -> Client {
        let list = list.to_string();
        let events: Vec<String> = events.iter().map(|event| format!("{event}\n")).collect();
        let events = Arc::new(Mutex::new(events));
        let service = tower::service_fn(move |request: Request<Body>| {
            let query = request.uri().query().unwrap_or_default();
            let lines: BoxStream<'static, String> = match query.contains("watch") {
                false => stream::iter([list.clone()]).boxed(),
                true => {
                    let events = std::mem::take(&mut *events.lock().expect("nobody panics"));
                    stream::iter(events).chain(stream::pending()).boxed()
                }
            };
            let frames = lines.map(|line| Ok::<_, std::io::Error>(Frame::data(Bytes::from(line))));
            let response = Response::new(StreamBody::new(frames));
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        Client::new(service, "default")
    }

    fn pod(name: &str, version: &str, containers: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "n", "name": name, "uid": name, "resourceVersion": version},
            "spec": {"containers": containers}})
    }

    fn shown(news: &News<Pod>) -> String {
        let name = |metadata: &ObjectMeta| metadata.name.clone().unwrap_or_default();
        match news {
            News::Event(Event::Init) => "begin".to_owned(),
            News::Event(Event::InitDone) => "end".to_owned(),
            News::Event(Event::InitApply(pod)) => format!("listed {}", name(&pod.metadata)),
            News::Event(Event::Apply(pod)) => format!("changed {}", name(&pod.metadata)),
            News::Event(Event::Delete(pod)) => format!("deleted {}", name(&pod.metadata)),
            News::Unread(metadata) => format!("unread {}", name(metadata)),
        }
    }

    // One such pod would otherwise leave the node without any.
    #[tokio::test]
    async fn an_unreadable_pod_is_passed_over_and_the_others_are_not() {
        let (good, bad) = (json!([{"name": "c"}]), json!("none"));
        let list = json!({"apiVersion": "v1", "kind": "PodList",
            "metadata": {"resourceVersion": "9"},
            "items": [pod("a", "1", &good), pod("b", "2", &bad), pod("c", "3", &good)]});
        let event = |kind: &str, object: Value| json!({"type": kind, "object": object});
        let events = [
            event("MODIFIED", pod("c", "10", &bad)),
            event("MODIFIED", pod("a", "11", &good)),
            event("DELETED", pod("b", "12", &bad)),
        ];
        let mut news = watch::<Pod>(server(&list, &events), watcher::Config::default());
        for expected in [
            "begin",
            // It begins anew, to read object by object.
            "begin",
            "listed a",
            "unread b",
            "listed c",
            "end",
            "unread c",
            "changed a",
            "deleted b",
        ] {
            let next = tokio::time::timeout(Duration::from_secs(60), news.next()).await;
            let next = next.expect("something happens").expect("a watch goes on");
            assert_eq!(shown(&next.expect("the server answers")), expected);
        }
    }
}
