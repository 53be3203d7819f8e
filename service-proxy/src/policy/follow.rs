//! Follows policies, and pods and namespaces while there is a policy.

use std::fmt::Debug;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::core::{ApiResource, DeserializeGuard};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::read::{PodFacts, Policy, WirePod, namespace_labels};
use super::selector::Labels;
use super::state::{Change, Key, State};

/// How long news of policies and namespaces are gathered before all is compiled anew: a whole
/// application's policies come at once.
const COMPILE_DELAY: Duration = Duration::from_millis(20);

/// What is watched only while there is a policy.
struct World {
    pods: BoxStream<'static, Event<DeserializeGuard<WirePod>>>,
    namespaces: BoxStream<'static, Event<DeserializeGuard<Namespace>>>,
}

/// What a turn of the loop is about.
enum News {
    Policy(Event<DeserializeGuard<NetworkPolicy>>),
    Pod(Event<DeserializeGuard<WirePod>>),
    Namespace(Event<DeserializeGuard<Namespace>>),
    Compile,
    /// The watches never end by themselves.
    End,
}

/// Follows until it is dropped.
pub(crate) async fn follow(client: Client, mut state: State) {
    let policies = Api::<DeserializeGuard<NetworkPolicy>>::all(client.clone());
    let mut policies = watched("NetworkPolicy", policies);
    let mut world: Option<World> = None;
    let mut compile_at = None;
    loop {
        match (state.needs_pods(), &world) {
            (true, None) => world = Some(World::watched(&client)),
            (false, Some(_)) => world = None,
            (true, Some(_)) | (false, None) => {}
        }
        match (state.is_stale(), compile_at) {
            (true, None) => {
                // Pods wait for the first time.
                let delay = match state.is_open() {
                    true => COMPILE_DELAY,
                    false => Duration::ZERO,
                };
                compile_at = Some(tokio::time::Instant::now() + delay);
            }
            (false, Some(_)) => compile_at = None,
            (true, Some(_)) | (false, None) => {}
        }
        match next(&mut policies, world.as_mut(), compile_at).await {
            News::Policy(event) => {
                if let Some(change) = change(event, read_policy) {
                    state.policy(change);
                }
            }
            News::Pod(event) => {
                if let Some(change) = change(event, |pod| Some(PodFacts::read(pod))) {
                    state.pod(change);
                }
            }
            News::Namespace(event) => {
                if let Some(change) = change(event, |one| Some(namespace_labels(one))) {
                    state.namespace(named(change));
                }
            }
            News::Compile => {
                compile_at = None;
                state.compile();
            }
            News::End => return,
        }
    }
}

/// Waits for news. Every branch is safe to cancel: streams give nothing before they are ready. Policies
/// come first: a pod that was made after a policy must not be judged without it. Pods are last, as they
/// are many and must not keep what is compiled waiting.
async fn next(
    policies: &mut BoxStream<'static, Event<DeserializeGuard<NetworkPolicy>>>,
    world: Option<&mut World>,
    compile_at: Option<tokio::time::Instant>,
) -> News {
    let (pods, namespaces) = match world {
        Some(world) => (
            world
                .pods
                .next()
                .map(|event| event.map(News::Pod))
                .left_future(),
            world
                .namespaces
                .next()
                .map(|event| event.map(News::Namespace))
                .left_future(),
        ),
        None => (
            std::future::pending().right_future(),
            std::future::pending().right_future(),
        ),
    };
    let compile = async {
        match compile_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    let news = tokio::select! {
        biased;
        event = policies.next() => event.map(News::Policy),
        () = compile => Some(News::Compile),
        event = namespaces => event,
        event = pods => event,
    };
    news.unwrap_or(News::End)
}

impl World {
    fn watched(client: &Client) -> World {
        let pod = ApiResource::erase::<Pod>(&());
        let pods = Api::<DeserializeGuard<WirePod>>::all_with(client.clone(), &pod);
        let namespaces = Api::<DeserializeGuard<Namespace>>::all(client.clone());
        World {
            pods: watched("Pod", pods),
            namespaces: watched("Namespace", namespaces),
        }
    }
}

/// Watches all objects of a kind. A watch that breaks goes on after a pause, and what holds stays.
fn watched<K>(
    kind: &'static str,
    api: Api<DeserializeGuard<K>>,
) -> BoxStream<'static, Event<DeserializeGuard<K>>>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Clone + Debug,
{
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let events = events.filter_map(move |event| {
        let event = event.inspect_err(
            |error| tracing::warn!(%error, kind, "a watch failed; it goes on after a pause"),
        );
        std::future::ready(event.ok())
    });
    events.boxed()
}

/// Returns what an event changes; nothing about an object that cannot be read, which stays as it was.
fn change<K, V>(
    event: Event<DeserializeGuard<K>>,
    read: impl FnOnce(K) -> Option<V>,
) -> Option<Change<Key, V>>
where
    K: Resource,
{
    let read = |object: DeserializeGuard<K>| {
        let key = key(&object);
        match object.0 {
            Ok(object) => Some((key, read(object)?)),
            Err(error) => {
                let (namespace, name) = key;
                tracing::warn!(%namespace, %name, %error, "an object cannot be read");
                None
            }
        }
    };
    Some(match event {
        Event::Init => Change::Begins,
        Event::InitApply(object) => {
            let (key, value) = read(object)?;
            Change::Listed(key, value)
        }
        Event::InitDone => Change::Complete,
        Event::Apply(object) => {
            let (key, value) = read(object)?;
            Change::Applied(key, value)
        }
        Event::Delete(object) => Change::Gone(key(&object)),
    })
}

fn key<K: Resource>(object: &DeserializeGuard<K>) -> Key {
    let meta = match &object.0 {
        Ok(object) => object.meta(),
        Err(error) => &error.metadata,
    };
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

/// Namespaces are in none.
fn named(change: Change<Key, Labels>) -> Change<String, Labels> {
    match change {
        Change::Begins => Change::Begins,
        Change::Listed((_, name), labels) => Change::Listed(name, labels),
        Change::Complete => Change::Complete,
        Change::Applied((_, name), labels) => Change::Applied(name, labels),
        Change::Gone((_, name)) => Change::Gone(name),
    }
}

fn read_policy(policy: NetworkPolicy) -> Option<Policy> {
    let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
    match Policy::read(&policy) {
        Ok((policy, refused)) => {
            for error in refused {
                tracing::warn!(
                    %namespace, %name, %error,
                    "a rule of a network policy cannot be read and admits nothing"
                );
            }
            Some(policy)
        }
        Err(error) => {
            tracing::warn!(%namespace, %name, %error, "a network policy cannot be read");
            None
        }
    }
}
