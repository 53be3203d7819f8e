//! The one task that follows objects for all pods of the node: watches and the timer of tokens.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll, abortable};
use futures::{FutureExt, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::book::{Book, News, ObjectKey, ObjectSource};
use super::fetch::{Found, version};
use super::files::Change;
use crate::images::describe;
use crate::spec::ObjectKind;

/// Pods whose tokens are renewed at once.
const RENEWALS_MAX: usize = 8;

/// Pods that are told of a change before others may run on this thread.
const TOLD_AT_ONCE: usize = 64;

/// Follows objects and Services and renews tokens for as long as it is polled.
pub(crate) async fn run(source: ObjectSource) {
    let book = source.0;
    let services = book.services.clone().follow(book.client().clone());
    tokio::join!(services, keep(book));
}

async fn keep(book: Arc<Book>) {
    let mut watches: SelectAll<BoxStream<'static, (ObjectKey, News)>> = SelectAll::new();
    let mut renewals: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    loop {
        for key in book.take_wanted() {
            let (watch, abort) = abortable(watch(&book, key.clone()));
            book.watched(&key, abort);
            watches.push(watch.boxed());
        }
        let may_renew = renewals.len() < RENEWALS_MAX;
        let due = book.next_due().filter(|_| may_renew);
        let timer = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Safe to cancel: a told change stays told until it is taken.
            () = book.stirred.notified() => {}
            // Safe to cancel: an event is taken out only when it is returned.
            Some((key, news)) = watches.next() => tell(&book, &key, news).await,
            // Safe to cancel: a finished renewal is taken out only when it is returned.
            Some(()) = renewals.next() => {}
            // Safe to cancel: the book names the moment anew.
            () = timer => {
                let now = book.clock.now();
                while renewals.len() < RENEWALS_MAX && let Some(files) = book.take_due(now.instant()) {
                    renewals.push(files.renew(now).boxed());
                }
            }
        }
    }
}

async fn tell(book: &Book, key: &ObjectKey, news: News) {
    let Some((users, change)) = book.hear(key, news) else {
        return;
    };
    for (told, user) in users.into_iter().enumerate() {
        if let Some(files) = user.upgrade() {
            files.take(&key.object, change.clone());
        }
        if told % TOLD_AT_ONCE == TOLD_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
    }
}

fn watch(book: &Book, key: ObjectKey) -> BoxStream<'static, (ObjectKey, News)> {
    match key.object.0 {
        ObjectKind::ConfigMap => watch_kind::<ConfigMap>(book.client().clone(), key),
        ObjectKind::Secret => watch_kind::<Secret>(book.client().clone(), key),
    }
}

fn watch_kind<K>(client: kube::Client, key: ObjectKey) -> BoxStream<'static, (ObjectKey, News)>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned,
    K: std::fmt::Debug + Send + 'static,
    Found: From<K>,
{
    let api = Api::<K>::namespaced(client, &key.namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", key.object.1));
    let events = watcher(api, only).default_backoff();
    events.map(move |event| (key.clone(), news(event))).boxed()
}

fn news<K: Resource<DynamicType = ()>>(event: Result<Event<K>, watcher::Error>) -> News
where
    Found: From<K>,
{
    match event {
        Ok(Event::Init) => News::ListBegins,
        Ok(Event::InitApply(object)) => News::Listed(Change::Present(object.into())),
        Ok(Event::InitDone) => News::ListEnds,
        Ok(Event::Apply(object)) => News::Changed(Change::Present(object.into())),
        Ok(Event::Delete(object)) => News::Changed(Change::Absent(Some(version(object.meta())))),
        Err(error) => News::Changed(Change::Failed(describe(&error))),
    }
}
