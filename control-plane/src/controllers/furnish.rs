//! Gives every namespace what each of them has: the service account `default`, and the
//! certificates by which pods know the API, in `kube-root-ca.crt`.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
    runtime::watcher,
};

use super::{
    queue::{Backoff, Step, Workers},
    requests::{has_code, takes_nothing_in},
};
use crate::changes::changes;

/// The name of the service account that pods have if they name none.
pub(crate) const DEFAULT_ACCOUNT: &str = "default";

/// The ConfigMap with the certificates by which pods know the API, and its key.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
pub(crate) const ROOT_CA_FILE: &str = "ca.crt";

/// Tells people what the certificates are for.
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
     endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
     guaranteed across distributions of Kubernetes clusters.",
);

const NAMESPACES_AT_ONCE: usize = 8;

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(5),
    longest: Duration::from_secs(60),
};

/// Runs until it is dropped.
pub(super) async fn run(client: Client, root_ca: String) {
    let only = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let all = watcher::Config::default();
    let mut namespaces = changes::<Namespace>(client.clone(), &(), all);
    let mut accounts = changes::<ServiceAccount>(client.clone(), &(), only(DEFAULT_ACCOUNT));
    let mut maps = changes::<ConfigMap>(client.clone(), &(), only(ROOT_CA));
    let mut workers: Workers<String, _> = Workers::new(NAMESPACES_AT_ONCE, BACKOFF);
    loop {
        // Neither streams nor workers lose anything when another branch wins.
        let touched = tokio::select! {
            Some(event) = namespaces.next() => object(event).map(|object| object.name_any()),
            Some(event) = accounts.next() => object(event).and_then(|object| object.namespace()),
            Some(event) = maps.next() => {
                object(event).and_then(|object| object.namespace())
            }
            step = workers.next() => {
                match step {
                    Step::Begin(name) => {
                        let work = furnish(client.clone(), name.clone(), root_ca.clone());
                        workers.start(name, work);
                    }
                    Step::Finished(name, Ok(())) => workers.done(&name),
                    Step::Finished(name, Err(error)) => {
                        tracing::debug!(namespace = name, %error, "not furnished, tried again");
                        workers.retry(&name);
                    }
                }
                None
            }
            else => return,
        };
        if let Some(namespace) = touched {
            workers.add(namespace);
        }
    }
}

fn object<K>(event: watcher::Event<K>) -> Option<K> {
    match event {
        watcher::Event::Apply(object)
        | watcher::Event::InitApply(object)
        | watcher::Event::Delete(object) => Some(object),
        watcher::Event::Init | watcher::Event::InitDone => None,
    }
}

async fn furnish(client: Client, name: String, root_ca: String) -> Result<(), kube::Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = namespaces.get_opt(&name).await?;
    if namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
        return Ok(());
    }
    // Pods wait for the account and then mount the certificates, so these come first.
    ensure_root_ca(&client, &name, root_ca).await?;
    ensure_account(&client, &name).await
}

async fn ensure_account(client: &Client, namespace: &str) -> Result<(), kube::Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    if accounts.get_opt(DEFAULT_ACCOUNT).await?.is_some() {
        return Ok(());
    }
    let account = ServiceAccount {
        metadata: named(DEFAULT_ACCOUNT),
        ..ServiceAccount::default()
    };
    settle(accounts.create(&PostParams::default(), &account).await)
}

async fn ensure_root_ca(
    client: &Client,
    namespace: &str,
    root_ca: String,
) -> Result<(), kube::Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let data = root_ca_data(root_ca);
    let (key, text) = DESCRIPTION;
    let parameters = PostParams::default();
    match maps.get_opt(ROOT_CA).await? {
        Some(map)
            if map.data.as_ref() == Some(&data)
                && map
                    .annotations()
                    .get(key)
                    .is_some_and(|found| found == text) =>
        {
            Ok(())
        }
        Some(mut map) => {
            map.data = Some(data);
            map.binary_data = None;
            map.annotations_mut()
                .insert(key.to_owned(), text.to_owned());
            maps.replace(ROOT_CA, &parameters, &map).await.map(drop)
        }
        None => {
            let map = root_ca_map(data);
            settle(maps.create(&parameters, &map).await)
        }
    }
}

fn root_ca_data(root_ca: String) -> BTreeMap<String, String> {
    BTreeMap::from([(ROOT_CA_FILE.to_owned(), root_ca)])
}

fn root_ca_map(data: BTreeMap<String, String>) -> ConfigMap {
    let (key, text) = DESCRIPTION;
    let mut map = ConfigMap {
        metadata: named(ROOT_CA),
        data: Some(data),
        ..ConfigMap::default()
    };
    map.annotations_mut()
        .insert(key.to_owned(), text.to_owned());
    map
}

/// Returns the ConfigMap with the certificates, for the namespace that pods come to first.
pub(crate) fn first_root_ca(root_ca: String) -> ConfigMap {
    root_ca_map(root_ca_data(root_ca))
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

/// A namespace that is gone or going takes nothing in; what is there already needs nothing.
fn settle<K>(created: Result<K, kube::Error>) -> Result<(), kube::Error> {
    match created {
        Ok(_) => Ok(()),
        Err(error) if has_code(&error, 409) || takes_nothing_in(&error) => Ok(()),
        Err(error) => Err(error),
    }
}
