//! Objects of any kind, reduced to the metadata that controllers look at.
//!
//! Everything else, also in the metadata, is skipped while it is read and never kept: managed
//! fields and annotations are most of an object's metadata, and nobody here needs them.

use std::borrow::Cow;

use http::{HeaderValue, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::{
    Client,
    api::ApiResource,
    client::Body,
    core::{DynamicResourceScope, Resource},
};
use serde::Deserialize;

/// An object's metadata as far as controllers look at it.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Wire")]
pub(super) struct Thin {
    pub(super) metadata: ObjectMeta,
}

/// What a list of metadata, and a watch of it, are asked for with; older servers send it all.
const LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
                    application/json;q=0.9";
const WATCH: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,\
                     application/json;q=0.9";

/// Returns a client whose lists and watches are answered with metadata only.
pub(super) fn client(client: &Client) -> Client {
    let inner = client.clone();
    let service = tower::service_fn(move |mut request: http::Request<Body>| {
        let inner = inner.clone();
        let query = request.uri().query().unwrap_or_default();
        let watches = query.split('&').any(|pair| pair == "watch=true");
        let accept = HeaderValue::from_static(if watches { WATCH } else { LIST });
        request.headers_mut().insert(header::ACCEPT, accept);
        async move { inner.send(request).await }
    });
    Client::new(service, client.default_namespace())
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    metadata: WireMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl From<Wire> for Thin {
    fn from(wire: Wire) -> Thin {
        let meta = wire.metadata;
        Thin {
            metadata: ObjectMeta {
                name: meta.name,
                namespace: meta.namespace,
                uid: meta.uid,
                resource_version: meta.resource_version,
                deletion_timestamp: meta.deletion_timestamp,
                finalizers: meta.finalizers,
                owner_references: meta.owner_references,
                ..ObjectMeta::default()
            },
        }
    }
}

impl Thin {
    pub(super) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    pub(super) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(super) fn owners(&self) -> &[OwnerReference] {
        self.metadata
            .owner_references
            .as_deref()
            .unwrap_or_default()
    }

    pub(super) fn finalizers(&self) -> &[String] {
        self.metadata.finalizers.as_deref().unwrap_or_default()
    }

    pub(super) fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers().iter().any(|finalizer| finalizer == name)
    }

    pub(super) fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

impl Resource for Thin {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(kind: &ApiResource) -> Cow<'_, str> {
        kind.kind.as_str().into()
    }

    fn group(kind: &ApiResource) -> Cow<'_, str> {
        kind.group.as_str().into()
    }

    fn version(kind: &ApiResource) -> Cow<'_, str> {
        kind.version.as_str().into()
    }

    fn api_version(kind: &ApiResource) -> Cow<'_, str> {
        kind.api_version.as_str().into()
    }

    fn plural(kind: &ApiResource) -> Cow<'_, str> {
        kind.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
