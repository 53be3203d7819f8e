//! What the API tells about itself: versions, groups, resources, health.
//!
//! Groups and versions come as a stock server orders them: by the priority of its groups.

mod aggregated;
mod health;
mod page;
mod plain;

use http::{Response, StatusCode, header, request::Parts};
use serde_json::{Value, json};

use crate::{
    identity,
    kinds::{self, KindInfo},
    openapi::{self, v2},
    request::Discovery,
    service::{ApiBody, gzip, pretty},
    status::ApiError,
    verbs::Machine,
};
use page::{Caching, Page};

/// The Kubernetes version whose API this is.
const MAJOR: &str = "1";
const MINOR: &str = "36";

/// The same as one word.
pub(crate) const VERSION: &str = "1.36";

/// The version before, which is as far back as clients may be.
const MINOR_BEFORE: &str = "35";

/// The groups of a stock server by falling priority; others follow by name.
const GROUPS: &[&str] = &[
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "storagemigration.k8s.io",
];

/// The paths beside those of groups and versions.
const OTHER_PATHS: &[&str] = &[
    "/.well-known/openid-configuration",
    "/api",
    "/apis",
    "/healthz",
    "/healthz/ping",
    "/livez",
    "/livez/ping",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/readyz/ping",
    "/readyz/shutdown",
    "/version",
];

/// A version of a group and the kinds served in it, in the order of their resources.
#[derive(Debug)]
pub(crate) struct GroupVersion {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kinds: Vec<&'static KindInfo>,
}

/// Answers for one of the documents.
pub(crate) async fn answer(
    document: &Discovery,
    machine: &Machine,
    head: &Parts,
) -> Result<Response<ApiBody>, ApiError> {
    let page = match document {
        Discovery::Paths => Page::json(&json!({"paths": paths()})),
        Discovery::Version => Page::json(&version(machine.build())),
        Discovery::Health { endpoint, check } => {
            health::page(*endpoint, check.as_deref(), machine, head)?
        }
        Discovery::CoreVersions => match page::form(head, page::Aggregation::Offered)? {
            page::Form::Plain => Page::json(&plain::core_versions(&address(head))),
            page::Form::Aggregated(version) => aggregated::page(version, core_group),
        },
        Discovery::Groups => match page::form(head, page::Aggregation::Offered)? {
            page::Form::Plain => Page::json(&plain::groups()),
            page::Form::Aggregated(version) => {
                aggregated::page(version, |found| !core_group(found))
            }
        },
        Discovery::Group(name) => {
            page::form(head, page::Aggregation::Absent)?;
            Page::json(&plain::group(name)?)
        }
        Discovery::Resources { group, version } => {
            page::form(head, page::Aggregation::Absent)?;
            Page::json(&plain::resources(group, version)?)
        }
        Discovery::TokenIssuer => Page::json(&identity::configuration()),
        Discovery::TokenKeys => Page::key_set(&machine.identity().tokens().key_set()),
        Discovery::OpenApiV2 => openapi_v2(head).await?,
        Discovery::OpenApi => {
            page::form(head, page::Aggregation::Absent)?;
            let index = openapi::index();
            Page::tagged(
                index.bytes,
                index.hash,
                "application/json",
                Caching::Checked,
            )
        }
        Discovery::OpenApiVersion { path } => {
            page::form(head, page::Aggregation::Absent)?;
            return openapi_version(path, head);
        }
    };
    Ok(page.respond(head))
}

/// Sends the document of all versions; it is written and unpacked beside the requests.
async fn openapi_v2(head: &Parts) -> Result<Page, ApiError> {
    let form = page::openapi_form(&head.headers)?;
    // The text is laid out for people before it could be compressed.
    let coding = match gzip::is_accepted(&head.headers) {
        true if !pretty::is_wanted(&head.headers, &head.uri) => v2::Coding::Gzip,
        _ => v2::Coding::Plain,
    };
    let document = tokio::task::spawn_blocking(move || v2::document(form, coding)).await;
    let document = document.map_err(|error| {
        ApiError::internal(format!("unable to write the OpenAPI document: {error}"))
    })?;
    Ok(Page::coded(document, form, coding))
}

/// Sends one version's document, or where it is found under the hash of its content.
fn openapi_version(path: &str, head: &Parts) -> Result<Response<ApiBody>, ApiError> {
    let (found, hash) = openapi::find(path).ok_or_else(ApiError::no_such_path)?;
    let query = head.uri.query().unwrap_or_default();
    let mut query = form_urlencoded::parse(query.as_bytes());
    let wanted = query.find(|(name, _)| name == "hash");
    let caching = match wanted {
        None => Caching::Checked,
        Some((_, wanted)) if wanted == hash => Caching::Forever,
        Some(_) => {
            let place = format!("/openapi/v3/{path}?hash={hash}");
            let mut response = Response::new(ApiBody::whole(bytes::Bytes::new()));
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            let place = place
                .parse()
                .expect("a path of a group and a hash is a header's value");
            response.headers_mut().insert(header::LOCATION, place);
            return Ok(response);
        }
    };
    let bytes = openapi::document(found);
    Ok(Page::tagged(bytes, hash.to_owned(), "application/json", caching).respond(head))
}

/// Returns every served version, the core one first.
pub(crate) fn versions() -> Vec<GroupVersion> {
    let mut versions: Vec<GroupVersion> = Vec::new();
    for info in kinds::all() {
        let same =
            |found: &&mut GroupVersion| (found.group, found.version) == (info.group, info.version);
        match versions.iter_mut().find(same) {
            Some(found) => found.kinds.push(info),
            None => versions.push(GroupVersion {
                group: info.group,
                version: info.version,
                kinds: vec![info],
            }),
        }
    }
    let rank = |group: &str| match group {
        "" => 0,
        group => {
            1 + GROUPS
                .iter()
                .position(|&known| known == group)
                .unwrap_or(GROUPS.len())
        }
    };
    versions.sort_by_key(|found| (rank(found.group), found.group));
    for found in &mut versions {
        found.kinds.sort_by_key(|info| info.plural);
    }
    versions
}

impl GroupVersion {
    /// Returns `group/version`, or only the version for the core group.
    pub(crate) fn name(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Returns the path below which its resources are.
    pub(crate) fn path(&self) -> String {
        match self.group {
            "" => format!("api/{}", self.version),
            group => format!("apis/{group}/{}", self.version),
        }
    }
}

fn core_group(found: &GroupVersion) -> bool {
    found.group.is_empty()
}

fn version(build: &str) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "emulationMajor": MAJOR,
        "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR,
        "minCompatibilityMinor": MINOR_BEFORE,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+coracle-{build}"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{architecture}", std::env::consts::OS),
    })
}

fn paths() -> Vec<String> {
    let mut paths: Vec<_> = OTHER_PATHS.iter().map(|&path| path.to_owned()).collect();
    for found in versions() {
        paths.push(format!("/{}", found.path()));
        paths.push(format!("/openapi/v3/{}", found.path()));
        if !core_group(&found) {
            paths.push(format!("/apis/{}", found.group));
        }
    }
    paths.sort();
    paths.dedup();
    paths
}

/// Returns where the client found this server.
fn address(head: &Parts) -> String {
    let host = head.headers.get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let host = host.or_else(|| head.uri.authority().map(|authority| authority.as_str()));
    host.unwrap_or_default().to_owned()
}
