//! What a request asks for: its path, method and query, read once and checked.

use std::{collections::HashMap, str::FromStr};

use http::Method;
use serde_json::Value;

use crate::{
    caller::Caller,
    invalid::Causes,
    kinds::{self, KindInfo, Scope, Subresource, Verb, by_plural},
    kubelets::{CONNECT_PARAMETERS, PARAMETERS},
    selector::Selector,
    status::ApiError,
    view::{Include, View},
};

/// Parameters that are lists: a program with its arguments, and ports.
const REPEATED: &[&str] = &["command", "ports"];

/// Where a path leads.
#[derive(Debug)]
pub(crate) enum Target {
    /// Versions, groups and resources, by their path.
    Discovery(Discovery),
    /// Objects of a kind.
    Objects(Objects),
}

/// A document about the API itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// All paths.
    Paths,
    Version,
    Health {
        endpoint: HealthEndpoint,
        /// One of the checks; all of them if there is none.
        check: Option<String>,
    },
    CoreVersions,
    Groups,
    Group(String),
    Resources {
        group: String,
        version: String,
    },
    /// Who issues tokens, and how they are checked.
    TokenIssuer,
    /// The keys by which tokens are checked.
    TokenKeys,
    /// The OpenAPI document of all versions, in the older form.
    OpenApiV2,
    /// The list of OpenAPI documents.
    OpenApi,
    /// The OpenAPI document of `api/v1`, `apis/apps/v1` and so on.
    OpenApiVersion {
        path: String,
    },
}

/// How well is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HealthEndpoint {
    Healthz,
    Livez,
    Readyz,
}

/// One object, or all of a kind in one or all namespaces.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) info: &'static KindInfo,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<Subresource>,
    /// Whether the path is an old one that always means a watch: `/api/v1/watch/pods`.
    pub(crate) watched: bool,
}

/// One request about objects, with who asks and how the answer shall look.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) objects: Objects,
    pub(crate) verb: Verb,
    pub(crate) options: Options,
    pub(crate) caller: Caller,
    /// What the client calls itself, as its `User-Agent` says.
    pub(crate) agent: String,
    pub(crate) view: View,
}

/// The query parameters, as far as they are honoured.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) watch: bool,
    pub(crate) label_selector: Option<String>,
    pub(crate) field_selector: Option<String>,
    pub(crate) limit: Option<usize>,
    pub(crate) continue_token: Option<String>,
    pub(crate) resource_version: Option<u64>,
    pub(crate) version_match: Option<VersionMatch>,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) persistence: Persistence,
    pub(crate) field_validation: FieldValidation,
    pub(crate) grace_seconds: Option<i64>,
    /// What becomes of dependents, as written; a deletion reads it together with its body.
    pub(crate) propagation: Option<String>,
    pub(crate) orphan_dependents: Option<bool>,
    /// The name under which changed fields are owned.
    pub(crate) field_manager: Option<String>,
    /// Whether an apply takes fields that others own, if the request says so.
    pub(crate) force: Option<bool>,
    /// What a table shows beside its cells.
    pub(crate) include: Include,
    /// What of a log is asked for, as written.
    pub(crate) log: Vec<(&'static str, String)>,
    /// What is asked for of a connection to a node, as written; some of it several times.
    pub(crate) connect: Vec<(&'static str, String)>,
    /// What is wrong with the options of writes; reads do not mind.
    unsupported: Causes,
}

/// Which revision a list may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    Exact,
    NotOlderThan,
}

/// Whether a write is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Persistence {
    #[default]
    Kept,
    DryRun,
}

/// What a deletion does with the objects that the deleted one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
    /// They stay, without an owner.
    Orphan,
}

/// What happens to unknown and duplicate fields, which are dropped in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl Target {
    /// Reads a path, in which letters may be written as `%41`.
    pub(crate) fn parse(path: &str) -> Result<Target, ApiError> {
        let path = decoded(path)?;
        let path = path.strip_suffix('/').unwrap_or(&path);
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let discovery = match segments.as_slice() {
            [] => Discovery::Paths,
            ["version"] => Discovery::Version,
            ["healthz", rest @ ..] => health(HealthEndpoint::Healthz, rest)?,
            ["livez", rest @ ..] => health(HealthEndpoint::Livez, rest)?,
            ["readyz", rest @ ..] => health(HealthEndpoint::Readyz, rest)?,
            [".well-known", "openid-configuration"] => Discovery::TokenIssuer,
            ["openid", "v1", "jwks"] => Discovery::TokenKeys,
            ["openapi", "v2"] => Discovery::OpenApiV2,
            ["openapi", "v3"] => Discovery::OpenApi,
            ["openapi", "v3", rest @ ..] => Discovery::OpenApiVersion {
                path: rest.join("/"),
            },
            ["api"] => Discovery::CoreVersions,
            ["apis"] => Discovery::Groups,
            ["apis", group] => Discovery::Group((*group).to_owned()),
            ["api", version] => Discovery::Resources {
                group: String::new(),
                version: (*version).to_owned(),
            },
            ["apis", group, version] => Discovery::Resources {
                group: (*group).to_owned(),
                version: (*version).to_owned(),
            },
            ["api", version, "watch", rest @ ..] => return Objects::watched("", version, rest),
            ["apis", group, version, "watch", rest @ ..] => {
                return Objects::watched(group, version, rest);
            }
            ["api", version, rest @ ..] => return Objects::parse("", version, rest),
            ["apis", group, version, rest @ ..] => return Objects::parse(group, version, rest),
            _ => return Err(ApiError::no_such_path()),
        };
        Ok(Target::Discovery(discovery))
    }
}

/// What a stock server has beside our kinds in the versions that are served here.
const STOCK_RESOURCES: &[(&str, &str, &[&str])] = &[
    (
        "",
        "v1",
        &[
            "bindings",
            "componentstatuses",
            "podtemplates",
            "replicationcontrollers",
        ],
    ),
    (
        "networking.k8s.io",
        "v1",
        &["ingressclasses", "ingresses", "ipaddresses", "servicecidrs"],
    ),
    (
        "storage.k8s.io",
        "v1",
        &[
            "csidrivers",
            "csinodes",
            "csistoragecapacities",
            "volumeattachments",
            "volumeattributesclasses",
        ],
    ),
];

/// Names a resource that a stock server has, or that is in a version that is not served at all; others
/// a stock server does not know either.
fn missing_resource(group: &str, version: &str, plural: &str) -> ApiError {
    let known = |info: &KindInfo| (info.group, info.version) == (group, version);
    let is_served = group.is_empty() || kinds::all().any(known);
    let mut stock = STOCK_RESOURCES.iter();
    let is_stock = stock.any(|(of_group, of_version, plurals)| {
        (*of_group, *of_version) == (group, version) && plurals.contains(&plural)
    });
    if is_served && !is_stock {
        return ApiError::no_such_path();
    }
    let place = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    ApiError::not_served(&format!("`{plural}` of `{place}`"))
}

/// Names a part that a stock server has; others it does not know either.
fn missing_part(plural: &str, part: &str) -> ApiError {
    match (plural, part) {
        ("pods", "resize") => ApiError::not_served(&format!("`{plural}/{part}`")),
        _ => ApiError::no_such_path(),
    }
}

fn health(endpoint: HealthEndpoint, rest: &[&str]) -> Result<Discovery, ApiError> {
    let check = match rest {
        [] => None,
        [check] => Some((*check).to_owned()),
        _ => return Err(ApiError::no_such_path()),
    };
    Ok(Discovery::Health { endpoint, check })
}

impl Objects {
    fn parse(group: &str, version: &str, segments: &[&str]) -> Result<Target, ApiError> {
        let (namespace, rest) = match segments {
            // `namespaces/x` is the namespace itself, `namespaces/x/status` a part of it.
            ["namespaces", namespace, rest @ ..]
                if !rest.is_empty() && rest != ["status"] && rest != ["finalize"] =>
            {
                (Some(*namespace), rest)
            }
            _ => (None, segments),
        };
        let (plural, name, part) = match rest {
            [plural] => (plural, None, None),
            [plural, name] => (plural, Some(*name), None),
            [plural, name, part] => (plural, Some(*name), Some(*part)),
            // What stands behind it, whoever is asked understands.
            [plural, name, "proxy", ..] => (plural, Some(*name), Some("proxy")),
            _ => return Err(ApiError::no_such_path()),
        };
        let info = by_plural(group, version, plural);
        let info = info.ok_or_else(|| missing_resource(group, version, plural))?;
        let fits = match info.scope {
            Scope::Namespaced => namespace.is_some() || name.is_none(),
            Scope::Cluster => namespace.is_none(),
        };
        let subresource = match part {
            None => None,
            Some(part) => Some(
                info.subresources
                    .iter()
                    .copied()
                    .find(|subresource| subresource.as_str() == part)
                    .ok_or_else(|| missing_part(plural, part))?,
            ),
        };
        if !fits || namespace == Some("") || name == Some("") {
            return Err(ApiError::no_such_path());
        }
        let (namespace, name) = (namespace.map(str::to_owned), name.map(str::to_owned));
        Ok(Target::Objects(Objects {
            info,
            namespace,
            name,
            subresource,
            watched: false,
        }))
    }

    fn watched(group: &str, version: &str, segments: &[&str]) -> Result<Target, ApiError> {
        match Objects::parse(group, version, segments)? {
            Target::Objects(objects) if objects.subresource.is_none() => {
                Ok(Target::Objects(Objects {
                    watched: true,
                    ..objects
                }))
            }
            Target::Objects(_) | Target::Discovery(_) => Err(ApiError::no_such_path()),
        }
    }

    /// Finds out what the method asks for here; what the kind does not offer is refused.
    pub(crate) fn verb(&self, method: &Method, options: &Options) -> Result<Verb, ApiError> {
        let named = self.name.is_some();
        let whole = self.subresource.is_none();
        let verb = match method.as_str() {
            // `watch` is a parameter of lists: with a name it says nothing.
            "GET" if self.watched || (whole && !named && options.watch) => Verb::Watch,
            _ if self.watched => return Err(ApiError::method_not_allowed()),
            "GET" if named => Verb::Get,
            "GET" => Verb::List,
            // Objects are created where they are listed, in one namespace.
            "POST" if !whole || (!named && self.places_objects()) => Verb::Create,
            "PUT" if named => Verb::Update,
            "PATCH" if named => Verb::Patch,
            "DELETE" if named => Verb::Delete,
            "DELETE" if self.places_objects() => Verb::DeleteCollection,
            _ => return Err(ApiError::method_not_allowed()),
        };
        let served = self.subresource.map_or(self.info.verbs, Subresource::verbs);
        match served.contains(&verb) {
            true => Ok(verb),
            false => Err(ApiError::method_not_allowed()),
        }
    }

    /// Says whether a connection to a node is asked for.
    pub(crate) fn is_connected(&self) -> bool {
        self.subresource.is_some_and(Subresource::is_connection)
    }

    /// Says whether the request is for what the object stands for.
    pub(crate) fn is_passed_on(&self) -> bool {
        self.subresource == Some(Subresource::Proxy)
    }

    fn places_objects(&self) -> bool {
        self.info.scope == Scope::Cluster || self.namespace.is_some()
    }

    /// Reads the selectors; a name in the path selects that one.
    pub(crate) fn selector(&self, options: &Options) -> Result<Selector, ApiError> {
        let (labels, fields) = (&options.label_selector, &options.field_selector);
        let selector = Selector::parse(self.info, labels.as_deref(), fields.as_deref())?;
        Ok(match &self.name {
            Some(name) => selector.named(name),
            None => selector,
        })
    }
}

impl Options {
    /// Reads the query; parameters that only change the writing, such as `pretty`, are skipped.
    pub(crate) fn parse(query: &str) -> Result<Options, ApiError> {
        let mut options = Options::default();
        let mut given = HashMap::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            options.set(&name, &value)?;
            if REPEATED.contains(&&*name) {
                continue;
            }
            // Whoever checks a request must not read another value than whoever serves it.
            match given.insert(name.clone(), value.clone()) {
                Some(other) if other != value => {
                    let message = format!("query parameter `{name}` has two values");
                    return Err(ApiError::bad_request(message));
                }
                Some(_) | None => (),
            }
        }
        Ok(options)
    }

    /// Refuses a write whose options are not those of any version of Kubernetes.
    pub(crate) fn check_write(&self, verb: Verb) -> Result<(), ApiError> {
        let kind = match verb {
            Verb::Create => "CreateOptions",
            Verb::Update => "UpdateOptions",
            Verb::Patch => "PatchOptions",
            Verb::Delete | Verb::DeleteCollection => "DeleteOptions",
            Verb::Get | Verb::List | Verb::Watch => return Ok(()),
        };
        match self.unsupported.is_empty() {
            true => Ok(()),
            false => Err(ApiError::invalid_options(kind, self.unsupported.clone())),
        }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), ApiError> {
        match name {
            "watch" => self.watch = flag(name, value)?,
            "labelSelector" => self.label_selector = Some(value.to_owned()),
            "fieldSelector" => self.field_selector = Some(value.to_owned()),
            "limit" => {
                let limit = usize::try_from(number::<i64>(value)?).unwrap_or_default();
                self.limit = Some(limit).filter(|&limit| limit > 0);
            }
            "continue" if !value.is_empty() => self.continue_token = Some(value.to_owned()),
            "resourceVersion" if !value.is_empty() => {
                self.resource_version = Some(revision(value)?);
            }
            "resourceVersionMatch" => self.version_match = version_match(value)?,
            "timeoutSeconds" => self.timeout_seconds = Some(number(value)?),
            "allowWatchBookmarks" => self.bookmarks = flag(name, value)?,
            "sendInitialEvents" => self.send_initial_events = Some(flag(name, value)?),
            "dryRun" => match value {
                "" => (),
                "All" => self.persistence = Persistence::DryRun,
                _ => {
                    let value = Value::from(vec![value]);
                    self.unsupported.not_supported(name, &value, &["All"]);
                }
            },
            "fieldValidation" => match value {
                "" | "Warn" => self.field_validation = FieldValidation::Warn,
                "Ignore" => self.field_validation = FieldValidation::Ignore,
                "Strict" => self.field_validation = FieldValidation::Strict,
                _ => {
                    let known = ["", "Ignore", "Strict", "Warn"];
                    self.unsupported
                        .not_supported(name, &Value::from(value), &known);
                }
            },
            "gracePeriodSeconds" => self.grace_seconds = Some(number(value)?),
            "propagationPolicy" if !value.is_empty() => self.propagation = Some(value.to_owned()),
            "orphanDependents" => self.orphan_dependents = Some(flag(name, value)?),
            "fieldManager" if !value.is_empty() => self.field_manager = Some(value.to_owned()),
            "force" => self.force = Some(flag(name, value)?),
            "includeObject" => self.include = include(value)?,
            _ => {
                let known = CONNECT_PARAMETERS.iter().find(|known| **known == name);
                if let Some(known) = known {
                    self.connect.push((known, value.to_owned()));
                }
                let mut known = PARAMETERS.iter().filter(|known| **known == name);
                // A parameter that is given twice counts as it is given first.
                if let Some(known) = known.next()
                    && !self.log.iter().any(|(given, _)| given == known)
                {
                    self.log.push((known, value.to_owned()));
                }
            }
        }
        Ok(())
    }
}

fn flag(name: &str, value: &str) -> Result<bool, ApiError> {
    match value {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(unreadable(name, value)),
    }
}

/// Reads a number; the failure is that of the stock server's library.
fn number<T: FromStr>(value: &str) -> Result<T, ApiError> {
    value.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "strconv.ParseInt: parsing \"{value}\": invalid syntax"
        ))
    })
}

fn revision(value: &str) -> Result<u64, ApiError> {
    value.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: \"{value}\": \
             strconv.ParseUint: parsing \"{value}\": invalid syntax"
        ))
    })
}

fn version_match(value: &str) -> Result<Option<VersionMatch>, ApiError> {
    match value {
        "" => Ok(None),
        "Exact" => Ok(Some(VersionMatch::Exact)),
        "NotOlderThan" => Ok(Some(VersionMatch::NotOlderThan)),
        _ => {
            let mut causes = Causes::default();
            let known = ["Exact", "NotOlderThan", ""];
            causes.not_supported("resourceVersionMatch", &Value::from(value), &known);
            Err(ApiError::invalid_list_options(causes))
        }
    }
}

fn include(value: &str) -> Result<Include, ApiError> {
    match value {
        "None" => Ok(Include::Nothing),
        "" | "Metadata" => Ok(Include::Metadata),
        "Object" => Ok(Include::Object),
        _ => Err(ApiError::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: \"{value}\": \
             must be 'Metadata', 'Object', 'None', or empty"
        ))),
    }
}

/// Reads the letters that are written as `%41`; what is then no text is no path.
pub(crate) fn decoded(path: &str) -> Result<String, ApiError> {
    let refuse = || ApiError::bad_request(format!("invalid URL escape in the path \"{path}\""));
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2).ok_or_else(refuse)?;
        let digit = |index: usize| char::from(digits[index]).to_digit(16);
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(refuse());
        };
        bytes.push((high * 16 + low) as u8);
        rest = behind;
    }
    String::from_utf8(bytes).map_err(|_| refuse())
}

fn unreadable(name: &str, value: &str) -> ApiError {
    ApiError::bad_request(format!(
        "invalid value `{value}` of query parameter `{name}`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, path: &str, query: &str, expected: Result<&str, u16>) {
        let found = Options::parse(query).and_then(|options| match Target::parse(path)? {
            Target::Discovery(document) => Ok(format!("{document:?}")),
            Target::Objects(objects) => {
                let method = Method::from_bytes(method.as_bytes()).expect("a method");
                let action = objects.verb(&method, &options)?.as_str();
                let part = |part: &Option<String>| part.clone().unwrap_or_default();
                let subresource = objects.subresource.map_or("", Subresource::as_str);
                let (namespace, name) = (part(&objects.namespace), part(&objects.name));
                Ok(format!(
                    "{action} {} {namespace}/{name} {subresource}",
                    objects.info.plural
                ))
            }
        });
        let found = found.map_err(|error| error.code.as_u16());
        assert_eq!(
            found,
            expected.map(str::to_owned),
            "{method} {path}?{query}"
        );
    }

    #[test]
    fn paths_and_methods_become_actions() {
        for (method, path, query, expected) in [
            ("GET", "/api/v1/pods", "", "list pods / "),
            ("GET", "/api/v1/pods", "watch=true", "watch pods / "),
            (
                "GET",
                "/api/v1/namespaces/a/pods",
                "watch=0",
                "list pods a/ ",
            ),
            ("GET", "/api/v1/namespaces/a/pods/b", "", "get pods a/b "),
            ("GET", "/api/v1/namespaces/a", "", "get namespaces /a "),
            (
                "PATCH",
                "/api/v1/namespaces/a/status",
                "",
                "patch namespaces /a status",
            ),
            (
                "POST",
                "/api/v1/namespaces/a/pods/b/binding",
                "",
                "create pods a/b binding",
            ),
            ("DELETE", "/api/v1/nodes", "", "deletecollection nodes / "),
            (
                "GET",
                "/api/v1/namespaces/a/pods/b/exec",
                "command=ls&command=-l&stdout=1",
                "get pods a/b exec",
            ),
            (
                "POST",
                "/api/v1/namespaces/a/pods/b/portforward",
                "ports=1&ports=2",
                "create pods a/b portforward",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/services/http:b:80/proxy/c/d/",
                "e",
                "get services a/http:b:80 proxy",
            ),
            (
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/b",
                "",
                "update leases a/b ",
            ),
            (
                "GET",
                "/api/v1",
                "",
                "Resources { group: \"\", version: \"v1\" }",
            ),
            (
                "GET",
                "/readyz",
                "",
                "Health { endpoint: Readyz, check: None }",
            ),
            ("GET", "/", "", "Paths"),
        ] {
            check(method, path, query, Ok(expected));
        }
    }

    #[test]
    fn old_and_escaped_paths_are_read() {
        for (path, query, expected) in [
            ("/api/v1/watch/pods", "", "watch pods / "),
            ("/api/v1/watch/namespaces/a/pods/b", "", "watch pods a/b "),
            ("/api/v1/watch/namespaces/a", "", "watch namespaces /a "),
            ("/api/v1/p%6Fds", "limit=-1&limit=-1", "list pods / "),
            ("/api/v1/namespaces%2fa/pods/b%3a", "", "get pods a/b: "),
        ] {
            check("GET", path, query, Ok(expected));
        }
    }

    #[test]
    fn what_a_stock_server_has_is_refused_by_name() {
        let bare = "the server could not find the requested resource";
        for (path, named) in [
            (
                "/api/v1/replicationcontrollers",
                "`replicationcontrollers` of `v1`",
            ),
            (
                "/api/v1/namespaces/a/podtemplates/b",
                "`podtemplates` of `v1`",
            ),
            ("/api/v1/componentstatuses", "`componentstatuses` of `v1`"),
            ("/api/v1/namespaces/a/bindings", "`bindings` of `v1`"),
            (
                "/apis/networking.k8s.io/v1/namespaces/a/ingresses",
                "`ingresses` of `networking.k8s.io/v1`",
            ),
            (
                "/apis/storage.k8s.io/v1/csinodes/n",
                "`csinodes` of `storage.k8s.io/v1`",
            ),
            ("/apis/apps/v1/deployments", "`deployments` of `apps/v1`"),
            ("/api/v1/ingresses", ""),
            ("/api/v2/replicationcontrollers", ""),
            ("/api/v1/frobs", ""),
            ("/apis/storage.k8s.io/v1/frobs", ""),
        ] {
            let expected = match named {
                "" => bare.to_owned(),
                named => format!("{bare}: {named} is not served here"),
            };
            let error = Target::parse(path).expect_err(path);
            assert_eq!(error.message, expected, "{path}");
        }
    }

    /// A kind that comes to be served is no longer named as one that is not.
    #[test]
    fn stock_resources_are_of_served_versions_and_not_served() {
        for (group, version, plurals) in STOCK_RESOURCES {
            let in_version = |info: &KindInfo| (info.group, info.version) == (*group, *version);
            assert!(kinds::all().any(in_version), "{group}/{version}");
            for plural in *plurals {
                assert!(by_plural(group, version, plural).is_none(), "{plural}");
            }
        }
    }

    #[test]
    fn what_is_not_served_is_refused() {
        for (method, path, query, code) in [
            ("GET", "/api/v1/replicationcontrollers", "", 404),
            ("GET", "/api/v1/pods/x", "", 404),
            ("GET", "/api/v1/namespaces/a/nodes", "", 404),
            ("POST", "/api/v1/namespaces/a/pods/b/log", "", 405),
            ("PUT", "/api/v1/namespaces/a/pods/b/exec", "", 405),
            ("GET", "/api/v1/namespaces/a/pods/b/exec/c", "", 404),
            ("GET", "/api/v1/namespaces/a/configmaps/b/proxy", "", 404),
            ("GET", "/api/v1/namespaces/a/configmaps/b/proxy/c", "", 404),
            ("GET", "/api/v1/namespaces/a/pods/b/status/c", "", 404),
            ("POST", "/api/v1/pods", "", 405),
            ("DELETE", "/api/v1/namespaces", "", 405),
            ("DELETE", "/api/v1/pods", "", 405),
            ("GET", "/api/v1/namespaces/a/pods/b/binding", "", 405),
            ("BREW", "/api/v1/nodes", "", 405),
            ("GET", "/api/v1/pods", "limit=x", 400),
            ("GET", "/api/v1/pods", "limit=1&limit=2", 400),
            ("GET", "/api/v1/pods", "resourceVersion=-1", 400),
            ("GET", "/api/v1/pods", "resourceVersionMatch=Any", 422),
            ("GET", "/api/v1/pods%", "", 400),
            ("GET", "/api/v1/pods%zz", "", 400),
            ("GET", "/api/v1/pods%ff", "", 400),
            ("GET", "/api//v1/pods", "", 404),
            ("GET", "/api/v1/watch", "", 404),
            ("GET", "/api/v1/watch/watch/pods", "", 404),
            ("GET", "/api/v1/watch/namespaces/a/pods/b/status", "", 404),
            ("DELETE", "/api/v1/watch/nodes/a", "", 405),
            ("HEAD", "/api/v1/pods", "", 405),
            ("OPTIONS", "/api/v1/pods", "", 405),
            ("GET", "/nowhere", "", 404),
            ("GET", "/readyz/ping/x", "", 404),
        ] {
            check(method, path, query, Err(code));
        }
    }
}
