//! ConfigMaps and Secrets by name: one request each, and what is kept of an answer.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;

use crate::environment::{ObjectData, Objects};
use crate::spec::{ObjectKind, ObjectRef};

/// Why an object could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {} `{name}`", kind.lower())]
pub(crate) struct FetchError {
    pub(super) kind: ObjectKind,
    pub(super) name: String,
    #[source]
    pub(super) source: kube::Error,
}

/// One version of an object.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) version: u64,
    pub(super) mutability: Mutability,
    pub(super) data: Arc<ObjectData>,
}

/// Whether an object may change before it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutability {
    Mutable,
    /// `immutable: true`
    Immutable,
}

/// Fetches the objects that exist among those wanted.
pub(crate) async fn fetch(
    client: &kube::Client,
    namespace: &str,
    wanted: impl IntoIterator<Item = &ObjectRef>,
) -> Result<Objects, FetchError> {
    let fetches = wanted.into_iter().map(async |object| {
        let found = fetch_one(client, namespace, object.kind, &object.name).await?;
        Ok(found.map(|found| ((object.kind, object.name.clone()), found.data)))
    });
    let found = try_join_all(fetches).await?;
    Ok(found.into_iter().flatten().collect())
}

/// Fetches one object, nothing when it does not exist.
pub(super) async fn fetch_one(
    client: &kube::Client,
    namespace: &str,
    kind: ObjectKind,
    name: &str,
) -> Result<Option<Found>, FetchError> {
    let client = client.clone();
    let found = match kind {
        ObjectKind::ConfigMap => {
            let api = Api::<ConfigMap>::namespaced(client, namespace);
            let found = api.get_opt(name).await;
            found.map(|found| found.map(Found::from))
        }
        ObjectKind::Secret => {
            let api = Api::<Secret>::namespaced(client, namespace);
            let found = api.get_opt(name).await;
            found.map(|found| found.map(Found::from))
        }
    };
    found.map_err(|source| FetchError {
        kind,
        name: name.to_owned(),
        source,
    })
}

impl Found {
    fn new(metadata: &ObjectMeta, immutable: Option<bool>, data: ObjectData) -> Found {
        Found {
            version: version(metadata),
            mutability: match immutable {
                Some(true) => Mutability::Immutable,
                Some(false) | None => Mutability::Mutable,
            },
            data: Arc::new(data),
        }
    }
}

/// Versions of one object are numbers that grow, as Kubernetes promises since 1.35.
pub(super) fn version(metadata: &ObjectMeta) -> u64 {
    let version = metadata.resource_version.as_deref();
    version.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl From<ConfigMap> for Found {
    fn from(map: ConfigMap) -> Found {
        let text = map.data.into_iter().flatten();
        let binary = map.binary_data.into_iter().flatten();
        let data = ObjectData {
            data: text.map(|(k, v)| (k, Bytes::from(v))).collect(),
            binary: binary.map(|(k, v)| (k, Bytes::from(v.0))).collect(),
        };
        Found::new(&map.metadata, map.immutable, data)
    }
}

impl From<Secret> for Found {
    fn from(secret: Secret) -> Found {
        let values = secret.data.into_iter().flatten();
        let data = ObjectData {
            data: values.map(|(k, v)| (k, Bytes::from(v.0))).collect(),
            ..ObjectData::default()
        };
        Found::new(&secret.metadata, secret.immutable, data)
    }
}
