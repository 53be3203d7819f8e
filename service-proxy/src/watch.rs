//! What the API tells: Services, EndpointSlices and the node, as one stream that never ends by itself.
//!
//! An object that cannot be parsed is one item of the stream like any other, so that it cannot stop
//! the news of all others. A watch that breaks goes on after a pause, and what is routed stays.

use std::fmt::Debug;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

/// One piece of news.
pub(crate) enum News {
    /// About Services.
    Service(Box<Event<DeserializeGuard<Service>>>),
    /// About EndpointSlices.
    Slice(Box<Event<DeserializeGuard<EndpointSlice>>>),
    /// About the node.
    Node(Box<Event<DeserializeGuard<Node>>>),
}

/// Watches what routing depends on; without a node's name, no node.
pub(crate) fn news(client: &Client, node: Option<&str>) -> BoxStream<'static, News> {
    let all = watcher::Config::default;
    let services = Api::all(client.clone());
    let services = watched(services, all()).map(|event| News::Service(Box::new(event)));
    let slices = Api::all(client.clone());
    let slices = watched(slices, all()).map(|event| News::Slice(Box::new(event)));
    let mut streams = vec![services.boxed(), slices.boxed()];
    if let Some(node) = node {
        let only = all().fields(&format!("metadata.name={node}"));
        let nodes = watched(Api::all(client.clone()), only);
        streams.push(nodes.map(|event| News::Node(Box::new(event))).boxed());
    }
    stream::select_all(streams).boxed()
}

/// Watches a kind. What breaks is told and goes on.
pub(crate) fn watched<K>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
) -> BoxStream<'static, Event<DeserializeGuard<K>>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let kind = K::kind(&());
    let events = watcher(api, config).default_backoff();
    let events = events.filter_map(move |event| {
        let event = event.inspect_err(
            |error| tracing::warn!(%error, %kind, "a watch failed; it goes on after a pause"),
        );
        std::future::ready(event.ok())
    });
    events.boxed()
}
