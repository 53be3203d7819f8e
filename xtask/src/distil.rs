//! Distils the control plane's tables of types from Kubernetes' own documents and sources.
//!
//! The OpenAPI documents say which fields there are; the Go sources say how protobuf numbers them
//! and which of them tell an absent value from an empty one, which no document does.

mod check;
mod go;
mod served;
mod table;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::Value;

use crate::workspace::root;
use go::Sources;
use table::Table;

/// The version of Kubernetes whose documents are read, as the tables are named.
const VERSION: &str = "1.36";

/// The group version in whose document a type is found, and the type; from it everything that it
/// names is taken too, and its list if there is one. A kind more is a line more.
const ROOTS: &[(&str, &str)] = &[
    ("api/v1", "authentication.v1.TokenRequest"),
    ("api/v1", "core.v1.Binding"),
    ("api/v1", "core.v1.ConfigMap"),
    ("api/v1", "core.v1.Endpoints"),
    ("api/v1", "core.v1.Event"),
    ("api/v1", "core.v1.LimitRange"),
    ("api/v1", "core.v1.Namespace"),
    ("api/v1", "core.v1.Node"),
    ("api/v1", "core.v1.PersistentVolume"),
    ("api/v1", "core.v1.PersistentVolumeClaim"),
    ("api/v1", "core.v1.Pod"),
    ("api/v1", "core.v1.ResourceQuota"),
    ("api/v1", "core.v1.Secret"),
    ("api/v1", "core.v1.Service"),
    ("api/v1", "core.v1.ServiceAccount"),
    ("api/v1", "meta.v1.APIResourceList"),
    ("api/v1", "meta.v1.DeleteOptions"),
    ("api/v1", "meta.v1.Patch"),
    ("api/v1", "meta.v1.Status"),
    ("api/v1", "meta.v1.WatchEvent"),
    ("api/v1", "policy.v1.Eviction"),
    (
        "apis/authentication.k8s.io/v1",
        "authentication.v1.SelfSubjectReview",
    ),
    (
        "apis/authentication.k8s.io/v1",
        "authentication.v1.TokenReview",
    ),
    (
        "apis/authorization.k8s.io/v1",
        "authorization.v1.LocalSubjectAccessReview",
    ),
    (
        "apis/authorization.k8s.io/v1",
        "authorization.v1.SelfSubjectAccessReview",
    ),
    (
        "apis/authorization.k8s.io/v1",
        "authorization.v1.SelfSubjectRulesReview",
    ),
    (
        "apis/authorization.k8s.io/v1",
        "authorization.v1.SubjectAccessReview",
    ),
    (
        "apis/certificates.k8s.io/v1",
        "certificates.v1.CertificateSigningRequest",
    ),
    ("apis/coordination.k8s.io/v1", "coordination.v1.Lease"),
    ("apis/discovery.k8s.io/v1", "discovery.v1.EndpointSlice"),
    ("apis/events.k8s.io/v1", "events.v1.Event"),
    ("apis/networking.k8s.io/v1", "networking.v1.NetworkPolicy"),
    ("apis/node.k8s.io/v1", "node.v1.RuntimeClass"),
    ("apis/rbac.authorization.k8s.io/v1", "rbac.v1.ClusterRole"),
    (
        "apis/rbac.authorization.k8s.io/v1",
        "rbac.v1.ClusterRoleBinding",
    ),
    ("apis/rbac.authorization.k8s.io/v1", "rbac.v1.Role"),
    ("apis/rbac.authorization.k8s.io/v1", "rbac.v1.RoleBinding"),
    ("apis/scheduling.k8s.io/v1", "scheduling.v1.PriorityClass"),
    ("apis/storage.k8s.io/v1", "storage.v1.StorageClass"),
];

/// What to read.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The folder with `openapi-v3` and `discovery` of one Kubernetes version; to check a server also
    /// with `swagger.json`
    documents: PathBuf,
    /// The folder with the Go sources `api` and `apimachinery` of the same version
    sources: PathBuf,
    /// Writes nothing, but compares what the server at this address serves with the documents
    #[arg(long, value_name = "URL")]
    check: Option<String>,
}

/// Writes the tables anew, or compares a server with the documents.
///
/// # Errors
///
/// Fails when a document or source cannot be read, when the two disagree, or when the server
/// differs.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(server) = &options.check {
        return check::run(server, &options.documents);
    }
    let documents = Documents::read(&options.documents)?;
    let mut table = Table::new(Sources::new(&options.sources));
    for (document, root) in ROOTS {
        table.add(documents.schemas(document)?, root)?;
    }
    let control_plane = root().join("control-plane");
    let save = |folder: &str, name: &str, text: &str| {
        let path = control_plane
            .join(folder)
            .join(format!("{name}-{VERSION}.txt"));
        fs::write(&path, text).with_context(|| format!("failed to write `{}`", path.display()))
    };
    let parameters = served::parameters(&documents.0["api/v1"])?;
    save("src/schema", "kubernetes", &table.fields())?;
    save("src/schema", "descriptions", &table.descriptions())?;
    save("src/openapi", "parameters", &parameters)?;
    save(
        "tests/api",
        "resources",
        &served::resources(&options.documents)?,
    )
}

/// The OpenAPI documents by group version, as far as [`ROOTS`] names them.
struct Documents(BTreeMap<&'static str, Value>);

impl Documents {
    fn read(folder: &Path) -> anyhow::Result<Documents> {
        let mut documents = BTreeMap::new();
        for (document, _) in ROOTS {
            let path = folder.join("openapi-v3").join(self::document(document));
            if !documents.contains_key(document) {
                documents.insert(*document, json(&path)?);
            }
        }
        Ok(Documents(documents))
    }

    fn schemas(&self, document: &str) -> anyhow::Result<&Value> {
        let schemas = self.0[document].pointer("/components/schemas");
        schemas.with_context(|| format!("the document of `{document}` has no schemas"))
    }
}

/// Returns the file that holds the document of a group version.
fn document(version: &str) -> String {
    format!("{}_openapi.json", version.replace('/', "__"))
}

fn json(path: &Path) -> anyhow::Result<Value> {
    let reading = || format!("failed to read `{}`", path.display());
    let bytes = fs::read(path).with_context(reading)?;
    serde_json::from_slice(&bytes).with_context(reading)
}
