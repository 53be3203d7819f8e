//! What a request wants, in the words of authorization, whether or not it is served.

use http::{Method, request::Parts};

use crate::{
    caller::Caller,
    kinds::Subresource,
    request::{self, Objects},
    status::ApiError,
};

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
    /// What a field selector demands of a list or watch.
    pub(crate) fields: Vec<(String, String)>,
}

/// What tells whether a read is a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    /// The path says so.
    ByPath,
    /// The query may.
    ByQuery,
}

impl Attributes {
    /// Reads a request's path, method and query as the stock server does.
    pub(crate) fn of(head: &Parts) -> Result<Attributes, ApiError> {
        // What is checked must be what is served.
        let path = request::decoded(head.uri.path())?;
        let query = head.uri.query().unwrap_or_default();
        let segments: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return Ok(Attributes::path(&head.method, &path)),
        };
        // `/api/v1/watch/pods` is an old way to ask for a watch.
        let (watched, rest) = match rest {
            ["watch", rest @ ..] if !rest.is_empty() => (Watched::ByPath, rest),
            rest => (Watched::ByQuery, rest),
        };
        let mut wanted = ResourceAttributes {
            group: group.to_owned(),
            version: version.to_owned(),
            ..ResourceAttributes::default()
        };
        wanted.place(rest);
        wanted.act(&head.method, query, watched);
        Ok(Attributes::Resource(wanted))
    }

    /// Words the creation of a part of an object.
    pub(crate) fn creation(objects: &Objects) -> Attributes {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Attributes::Resource(ResourceAttributes {
            verb: "create".to_owned(),
            group: objects.info.group.to_owned(),
            version: objects.info.version.to_owned(),
            namespace: text(&objects.namespace),
            resource: objects.info.plural.to_owned(),
            subresource: objects
                .subresource
                .map_or("", Subresource::as_str)
                .to_owned(),
            name: text(&objects.name),
            fields: Vec::new(),
        })
    }

    /// Returns the namespace in which rules may permit this, empty for the cluster.
    pub(super) fn namespace(&self) -> &str {
        match self {
            Attributes::Resource(wanted) => &wanted.namespace,
            Attributes::Path { .. } => "",
        }
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

    /// Finds out the verb. A list or watch of one name by its field is one of that name.
    fn act(&mut self, method: &Method, query: &str, watched: Watched) {
        let plain = match method.as_str() {
            "POST" => "create",
            "GET" | "HEAD" => "get",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            // Nothing is served under another method, and no rule speaks of one.
            other => {
                self.verb = other.to_ascii_lowercase();
                return;
            }
        };
        let mut watch = watched == Watched::ByPath;
        let mut fields = Vec::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "watch" if watched == Watched::ByQuery => {
                    watch = !matches!(&*value, "0" | "false");
                }
                "fieldSelector" => fields = equalities(&value),
                _ => (),
            }
        }
        let verb = match (plain, self.name.is_empty()) {
            // With a name the parameter says nothing, in the path it does.
            ("get", named) if watch && (named || watched == Watched::ByPath) => "watch",
            ("get", true) => "list",
            ("delete", true) => "deletecollection",
            (plain, _) => plain,
        };
        self.verb = verb.to_owned();
        if matches!(verb, "list" | "watch" | "deletecollection") {
            self.fields = fields;
            if let (true, Some(name)) = (self.name.is_empty(), self.field("metadata.name")) {
                self.name = name.to_owned();
            }
        }
    }

    /// Returns what a field selector demands of a field.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields.find_map(|(field, value)| (field == name).then_some(value.as_str()))
    }

    /// Returns `resource` or `resource/subresource`.
    pub(crate) fn full_resource(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            subresource => format!("{}/{subresource}", self.resource),
        }
    }
}

/// Reads what a field selector demands to be equal.
fn equalities(selector: &str) -> Vec<(String, String)> {
    let terms = selector.split(',').map(str::trim);
    let pairs = terms.filter_map(|term| {
        let (field, value) = term.split_once('=')?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!field.ends_with('!') && !value.is_empty()).then(|| (field.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn requests_are_worded_as_rules_word_them() {
        for (request, expected) in [
            ("GET /api/v1/pods", "list pods \"\"  "),
            ("GET /api/v1/pods?watch=1", "watch pods \"\"  "),
            (
                "GET /api/v1/namespaces/a/pods/b/log",
                "get pods/log \"\" a b",
            ),
            ("POST /api/v1/namespaces/a/pods", "create pods \"\" a "),
            (
                "DELETE /api/v1/namespaces/a/pods",
                "deletecollection pods \"\" a ",
            ),
            ("GET /api/v1/namespaces/a", "get namespaces \"\" a a"),
            (
                "PUT /api/v1/namespaces/a/finalize",
                "update namespaces/finalize \"\" a a",
            ),
            (
                "PATCH /apis/apps/v1/namespaces/a/deployments/b/scale",
                "patch deployments/scale \"apps\" a b",
            ),
            (
                "GET /api/v1/nodes?fieldSelector=metadata.name%3Dn",
                "list nodes \"\"  n",
            ),
            ("GET /api/v1/unknown/x", "get unknown \"\"  x"),
            ("GET /apis/apps/v1", "get /apis/apps/v1"),
            ("POST /metrics", "post /metrics"),
            // What is checked as another request than it is served as would get past the rules.
            (
                "GET /api/v1/namespaces/a/s%65crets/b",
                "get secrets \"\" a b",
            ),
            ("GET /api/v1/namespaces/a%2Fsecrets", "list secrets \"\" a "),
            (
                "GET /api/v1/watch/namespaces/a/pods/b?watch=0",
                "watch pods \"\" a b",
            ),
            ("GET /api/v1/w%61tch/nodes", "watch nodes \"\"  "),
        ] {
            let (method, uri) = request.split_once(' ').unwrap();
            let built = Request::builder().method(method).uri(uri).body(()).unwrap();
            let found = match Attributes::of(&built.into_parts().0).unwrap() {
                Attributes::Path { verb, path } => format!("{verb} {path}"),
                Attributes::Resource(wanted) => format!(
                    "{} {} {:?} {} {}",
                    wanted.verb,
                    wanted.full_resource(),
                    wanted.group,
                    wanted.namespace,
                    wanted.name
                ),
            };
            assert_eq!(found, expected, "{request}");
        }
    }
}
