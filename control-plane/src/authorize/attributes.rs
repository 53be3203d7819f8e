//! What a request wants, in the words of authorization, whether or not it is served.

use http::{Method, request::Parts};

use crate::{caller::Caller, status::ApiError};

/// What a request wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attributes {
    /// Something of a resource.
    Resource(ResourceAttributes),
    /// Another path.
    Path {
        /// The method, in lower case.
        verb: String,
        path: String,
    },
}

/// What a request wants of a resource; parts that it does not have are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourceAttributes {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) name: String,
}

impl Attributes {
    /// Reads a request's path, method and query as the stock server does.
    pub(crate) fn of(head: &Parts) -> Attributes {
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        let segments: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return Attributes::path(&head.method, path),
        };
        let mut wanted = ResourceAttributes {
            group: group.to_owned(),
            version: version.to_owned(),
            ..ResourceAttributes::default()
        };
        wanted.place(rest);
        wanted.verb = verb(&head.method, &mut wanted.name, query);
        Attributes::Resource(wanted)
    }

    fn path(method: &Method, path: &str) -> Attributes {
        Attributes::Path {
            verb: method.as_str().to_ascii_lowercase(),
            path: path.to_owned(),
        }
    }

    /// Words the refusal; `reason` says more, if there is more to say.
    pub(crate) fn forbidden(&self, caller: &Caller, reason: &str) -> ApiError {
        let user = &caller.name;
        let mut why = match self {
            Attributes::Path { verb, path } => {
                format!("User {user:?} cannot {verb} path {path:?}")
            }
            Attributes::Resource(wanted) => {
                let ResourceAttributes { verb, group, .. } = wanted;
                let resource = wanted.full_resource();
                let place = match wanted.namespace.as_str() {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace {namespace:?}"),
                };
                format!(
                    "User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {place}"
                )
            }
        };
        if !reason.is_empty() {
            why = format!("{why}: {reason}");
        }
        match self {
            Attributes::Path { .. } => ApiError::forbidden("", "", "", &why),
            Attributes::Resource(wanted) => {
                ApiError::forbidden(&wanted.group, &wanted.resource, &wanted.name, &why)
            }
        }
    }
}

impl ResourceAttributes {
    /// Reads what stands behind the version.
    fn place(&mut self, segments: &[&str]) {
        let rest = match segments {
            // A namespace is in itself, as far as rules are concerned.
            ["namespaces", namespace, rest @ ..] => {
                self.namespace = (*namespace).to_owned();
                match rest {
                    [] | ["status" | "finalize", ..] => segments,
                    rest => rest,
                }
            }
            segments => segments,
        };
        let mut parts = rest.iter().map(|part| (*part).to_owned());
        let mut next = || parts.next().unwrap_or_default();
        (self.resource, self.name, self.subresource) = (next(), next(), next());
    }

    /// Returns `resource` or `resource/subresource`.
    pub(crate) fn full_resource(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            subresource => format!("{}/{subresource}", self.resource),
        }
    }
}

/// Returns the verb. A list or watch of one name by its field is a list or watch of that name.
fn verb(method: &Method, name: &mut String, query: &str) -> String {
    let plain = match method.as_str() {
        "POST" => "create",
        "GET" | "HEAD" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        // Nothing is served under another method, and no rule speaks of one.
        other => return other.to_ascii_lowercase(),
    };
    let mut watch = false;
    let mut selected = None;
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "watch" => watch = !matches!(&*value, "0" | "false"),
            "fieldSelector" => selected = only_name(&value),
            _ => (),
        }
    }
    let verb = match (plain, name.is_empty()) {
        ("get", _) if watch => "watch",
        ("get", true) => "list",
        ("delete", true) => "deletecollection",
        (plain, _) => plain,
    };
    if let ("list" | "watch" | "deletecollection", Some(selected)) = (verb, selected) {
        *name = selected;
    }
    verb.to_owned()
}

/// Returns the name that a field selector demands.
fn only_name(selector: &str) -> Option<String> {
    let mut terms = selector.split(',').map(str::trim);
    terms.find_map(|term| {
        let name = term.strip_prefix("metadata.name=")?;
        let name = name.strip_prefix('=').unwrap_or(name);
        (!name.is_empty()).then(|| name.to_owned())
    })
}
