//! The operations on resources, path by path.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{parameters, types::reference};
use crate::{
    discovery::GroupVersion,
    kinds::{KindInfo, Scope, Subresource, Verb},
    verbs::SHOWN_WHEN_REMOVED,
};

/// What bodies and answers are written in.
const MEDIA: &[&str] = &[
    "application/json",
    "application/vnd.kubernetes.protobuf",
    "application/yaml",
];

/// What a watch is written in.
const STREAMS: &[&str] = &[
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// Returns every path of a version with its operations.
pub(super) fn of(found: &GroupVersion) -> BTreeMap<String, Value> {
    let mut paths = BTreeMap::new();
    let root = format!("/{}", found.path());
    paths.insert(format!("{root}/"), resources(found));
    for info in &found.kinds {
        let place = Place {
            info,
            tag: tag(found),
            words: words(found),
        };
        place.describe(&root, &mut paths);
    }
    paths
}

/// A kind and how its version is called in names of operations.
struct Place<'a> {
    info: &'a KindInfo,
    tag: String,
    words: String,
}

/// How the objects of a path are called in names of operations.
#[derive(Clone, Copy)]
enum Reach {
    /// `Pod`: cluster-wide kinds.
    Cluster,
    /// `NamespacedPod`.
    Namespace,
    /// `PodForAllNamespaces`.
    AllNamespaces,
}

impl Place<'_> {
    fn describe(&self, root: &str, paths: &mut BTreeMap<String, Value>) {
        let plural = self.info.plural;
        let (reach, all) = match self.info.scope {
            Scope::Cluster => (Reach::Cluster, format!("{root}/{plural}")),
            Scope::Namespaced => (
                Reach::Namespace,
                format!("{root}/namespaces/{{namespace}}/{plural}"),
            ),
        };
        let named = format!("{all}/{{name}}");
        let mut add = |path: String, own: Vec<Value>, operations: Vec<Operation>| {
            if !operations.is_empty() {
                paths.insert(path, item(own, operations));
            }
        };
        let namespace = || match reach {
            Reach::Namespace => vec![parameters::namespace()],
            Reach::Cluster | Reach::AllNamespaces => Vec::new(),
        };
        let name = |kind: &str| [vec![parameters::name(kind)], namespace()].concat();
        if matches!(reach, Reach::Namespace) {
            let lists = self.operations(&[Verb::List], Reach::AllNamespaces);
            add(format!("{root}/{plural}"), Vec::new(), lists);
        }
        let on_all = [Verb::DeleteCollection, Verb::List, Verb::Create];
        add(all, namespace(), self.operations(&on_all, reach));
        let on_one = [Verb::Delete, Verb::Get, Verb::Patch, Verb::Update];
        add(
            named.clone(),
            name(self.info.kind),
            self.operations(&on_one, reach),
        );
        for &part in self.info.subresources {
            if part == Subresource::Proxy {
                let path = format!("{named}/proxy");
                let own = name(part.options_kind(self.info.kind).unwrap_or_default());
                add(path.clone(), own.clone(), self.passed_on(reach, ""));
                let own = [own, vec![parameters::rest()]].concat();
                add(
                    format!("{path}/{{path}}"),
                    own,
                    self.passed_on(reach, "WithPath"),
                );
                continue;
            }
            let operations = part.verbs().iter().map(|&verb| {
                self.connection(part, verb)
                    .unwrap_or_else(|| self.part(part, verb, reach))
            });
            let kind = part.body_kind().map(|(_, _, kind)| kind);
            let kind = kind
                .or(part.options_kind(self.info.kind))
                .unwrap_or(self.info.kind);
            add(
                format!("{named}/{}", part.as_str()),
                name(kind),
                operations.collect(),
            );
        }
    }

    fn operations(&self, verbs: &[Verb], reach: Reach) -> Vec<Operation> {
        let served = verbs.iter().filter(|verb| self.info.verbs.contains(verb));
        served.map(|&verb| self.operation(verb, reach)).collect()
    }

    /// Describes what a verb does with whole objects.
    fn operation(&self, verb: Verb, reach: Reach) -> Operation {
        let (info, kind) = (self.info, self.info.kind);
        let about = match verb {
            Verb::Create => format!("create {}", one(kind)),
            Verb::Delete => format!("delete {}", one(kind)),
            Verb::DeleteCollection => format!("delete collection of {kind}"),
            Verb::Get => format!("read the specified {kind}"),
            Verb::List | Verb::Watch => format!("list or watch objects of kind {kind}"),
            Verb::Patch => format!("partially update the specified {kind}"),
            Verb::Update => format!("replace the specified {kind}"),
        };
        let answered = match verb {
            Verb::Delete if SHOWN_WHEN_REMOVED.contains(&info.plural) => info.schema.to_owned(),
            Verb::Delete | Verb::DeleteCollection => "meta.v1.Status".to_owned(),
            Verb::List | Verb::Watch => format!("{}List", info.schema),
            Verb::Create | Verb::Get | Verb::Patch | Verb::Update => info.schema.to_owned(),
        };
        let collection = if verb == Verb::DeleteCollection {
            "Collection"
        } else {
            ""
        };
        let objects = match reach {
            Reach::Cluster => kind.to_owned(),
            Reach::Namespace => format!("Namespaced{kind}"),
            Reach::AllNamespaces => format!("{kind}ForAllNamespaces"),
        };
        let id = format!("{}{}{collection}{objects}", word(verb), self.words);
        let body = body(verb, info.schema);
        let kind = (info.group, info.version, info.kind);
        self.assemble(verb, (about, id), (body, answers(verb, &answered)), kind)
    }

    /// Describes what a verb does with a part of an object.
    fn part(&self, part: Subresource, verb: Verb, reach: Reach) -> Operation {
        let (name, of) = (part.as_str(), self.info.kind);
        let about = match verb {
            Verb::Create => format!("create {name} of {}", one(of)),
            Verb::Get => format!("read {name} of the specified {of}"),
            Verb::Patch => format!("partially update {name} of the specified {of}"),
            Verb::Update => format!("replace {name} of the specified {of}"),
            Verb::Delete | Verb::DeleteCollection | Verb::List | Verb::Watch => {
                unreachable!("no part has the verb `{}`", verb.as_str())
            }
        };
        let namespaced = if matches!(reach, Reach::Namespace) {
            "Namespaced"
        } else {
            ""
        };
        let id = format!(
            "{}{}{namespaced}{of}{}",
            word(verb),
            self.words,
            capital(name)
        );
        let own = (self.info.group, self.info.version, self.info.kind);
        let (group, version, kind) = part.body_kind().unwrap_or(own);
        let schema = match part.body_kind() {
            Some(_) => format!("{}.{version}.{kind}", package(group)),
            None => self.info.schema.to_owned(),
        };
        let answers = match part {
            Subresource::Log => json!({
                "200": {
                    "description": "OK",
                    "content": {"text/plain": {"schema": {"type": "string"}}},
                },
                "401": {"description": "Unauthorized"},
            }),
            _ => answers(verb, &schema),
        };
        let texts = (about, id);
        let mut operation = self.assemble(
            verb,
            texts,
            (body(verb, &schema), answers),
            (group, version, kind),
        );
        if part == Subresource::Log {
            operation.parameters = parameters::of_log();
        }
        operation
    }

    /// Describes how a connection to a node is asked for; nothing for other parts.
    fn connection(&self, part: Subresource, verb: Verb) -> Option<Operation> {
        part.options_kind(self.info.kind)?;
        let method = if verb == Verb::Create { "post" } else { "get" };
        Some(self.connect(part, method, Reach::Namespace, ""))
    }

    /// Describes the requests that are passed on.
    fn passed_on(&self, reach: Reach, suffix: &str) -> Vec<Operation> {
        const METHODS: [&str; 7] = ["delete", "get", "head", "options", "patch", "post", "put"];
        let methods = METHODS.into_iter();
        methods
            .map(|method| self.connect(Subresource::Proxy, method, reach, suffix))
            .collect()
    }

    fn connect(
        &self,
        part: Subresource,
        method: &'static str,
        reach: Reach,
        suffix: &str,
    ) -> Operation {
        let (kind, name) = (part.options_kind(self.info.kind), part.as_str());
        let namespaced = match reach {
            Reach::Namespace => "Namespaced",
            Reach::Cluster | Reach::AllNamespaces => "",
        };
        let id = format!(
            "connect{}{}{namespaced}{}{}{suffix}",
            self.words,
            capital(method),
            self.info.kind,
            capital(name)
        );
        let described = json!({
            "description": format!(
                "connect {} requests to {name} of {}",
                method.to_uppercase(),
                self.info.kind
            ),
            "operationId": id,
            "tags": [self.tag],
            "responses": {
                "200": {
                    "description": "OK",
                    "content": {"*/*": {"schema": {"type": "string"}}},
                },
                "401": {"description": "Unauthorized"},
            },
            "x-kubernetes-action": "connect",
            "x-kubernetes-group-version-kind":
                {"group": "", "version": self.info.version, "kind": kind},
        });
        Operation {
            method,
            parameters: parameters::of_connection(part).unwrap_or_default(),
            described,
        }
    }

    fn assemble(
        &self,
        verb: Verb,
        (about, id): (String, String),
        (body, answers): (Option<Value>, Value),
        (group, version, kind): (&str, &str, &str),
    ) -> Operation {
        let (method, action) = match verb {
            Verb::Create => ("post", "post"),
            Verb::Delete => ("delete", "delete"),
            Verb::DeleteCollection => ("delete", "deletecollection"),
            Verb::Get => ("get", "get"),
            Verb::List | Verb::Watch => ("get", "list"),
            Verb::Patch => ("patch", "patch"),
            Verb::Update => ("put", "put"),
        };
        let mut described = json!({
            "description": about,
            "operationId": id,
            "tags": [self.tag],
            "responses": answers,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind":
                {"group": group, "version": version, "kind": kind},
        });
        if let Some(body) = body {
            described["requestBody"] = body;
        }
        Operation {
            method,
            parameters: parameters::of(verb),
            described,
        }
    }
}

/// An operation, its query parameters still apart.
struct Operation {
    method: &'static str,
    parameters: &'static [&'static str],
    described: Value,
}

/// Puts the operations of a path together; what all of them take is told once.
fn item(own: Vec<Value>, operations: Vec<Operation>) -> Value {
    let shared: Vec<&str> = match operations.as_slice() {
        [first, rest @ ..] => {
            let everywhere = |key: &&str| {
                rest.iter()
                    .all(|operation| operation.parameters.contains(key))
            };
            first
                .parameters
                .iter()
                .copied()
                .filter(everywhere)
                .collect()
        }
        [] => Vec::new(),
    };
    let queries = shared.iter().map(|key| parameters::query(key));
    let mut common: Vec<_> = own.into_iter().chain(queries).collect();
    // A connection is no answer that could be laid out.
    if operations
        .iter()
        .any(|operation| operation.described["x-kubernetes-action"] != "connect")
    {
        common.push(parameters::query("pretty"));
    }
    common.sort_by_key(|parameter| parameter["name"].to_string());
    let mut item = json!({"parameters": common});
    for Operation {
        method,
        parameters,
        mut described,
    } in operations
    {
        let own = parameters.iter().filter(|key| !shared.contains(key));
        let own: Vec<_> = own.map(|key| parameters::query(key)).collect();
        if !own.is_empty() {
            described["parameters"] = Value::Array(own);
        }
        item[method] = described;
    }
    item
}

/// Describes the list of a version's resources.
fn resources(found: &GroupVersion) -> Value {
    json!({"get": {
        "description": "get available resources",
        "operationId": format!("get{}APIResources", words(found)),
        "tags": [tag(found)],
        "responses": {
            "200": {
                "description": "OK",
                "content": content(MEDIA.iter(), "meta.v1.APIResourceList"),
            },
            "401": {"description": "Unauthorized"},
        },
    }})
}

fn body(verb: Verb, schema: &str) -> Option<Value> {
    let any = |name: &str| json!({"*/*": {"schema": reference(name)}});
    match verb {
        Verb::Create | Verb::Update => Some(json!({"content": any(schema), "required": true})),
        Verb::Delete | Verb::DeleteCollection => {
            Some(json!({"content": any("meta.v1.DeleteOptions")}))
        }
        Verb::Patch => {
            let content = content(PATCHES.iter(), "meta.v1.Patch");
            Some(json!({"content": content, "required": true}))
        }
        Verb::Get | Verb::List | Verb::Watch => None,
    }
}

fn answers(verb: Verb, schema: &str) -> Value {
    let codes: &[(&str, &str)] = match verb {
        Verb::Create => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
        Verb::Delete => &[("200", "OK"), ("202", "Accepted")],
        Verb::Patch | Verb::Update => &[("200", "OK"), ("201", "Created")],
        Verb::DeleteCollection | Verb::Get | Verb::List | Verb::Watch => &[("200", "OK")],
    };
    let streams = if verb == Verb::List { STREAMS } else { &[] };
    let mut answers = json!({"401": {"description": "Unauthorized"}});
    for (code, about) in codes {
        let content = content(MEDIA.iter().chain(streams), schema);
        answers[*code] = json!({"description": about, "content": content});
    }
    answers
}

/// Says that a schema comes in each of these media types.
fn content<'a>(media: impl Iterator<Item = &'a &'static str>, schema: &str) -> Value {
    let entry = |media: &&str| ((*media).to_owned(), json!({"schema": reference(schema)}));
    Value::Object(media.map(entry).collect())
}

fn word(verb: Verb) -> &'static str {
    match verb {
        Verb::Create => "create",
        Verb::Delete | Verb::DeleteCollection => "delete",
        Verb::Get => "read",
        Verb::List | Verb::Watch => "list",
        Verb::Patch => "patch",
        Verb::Update => "replace",
    }
}

/// Returns the kind with its article; a plural has none.
fn one(kind: &str) -> String {
    match kind.chars().next() {
        _ if kind.ends_with('s') && !kind.ends_with("ss") => kind.to_owned(),
        Some('A' | 'E' | 'I' | 'O' | 'U') => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}

/// Returns `CoreV1`, `RbacAuthorizationV1` and so on.
fn words(found: &GroupVersion) -> String {
    let group = package_words(found.group);
    format!("{}{}", group.concat(), capital(found.version))
}

/// Returns `core_v1`, `rbacAuthorization_v1` and so on.
fn tag(found: &GroupVersion) -> String {
    let mut words = package_words(found.group);
    if let Some(first) = words.first_mut() {
        *first = first.to_lowercase();
    }
    format!("{}_{}", words.concat(), found.version)
}

fn package_words(group: &str) -> Vec<String> {
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    let group = if group.is_empty() { "core" } else { group };
    group.split('.').map(capital).collect()
}

/// Returns the package of a group's types in the table.
fn package(group: &str) -> &str {
    match group {
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_of_parts_are_in_the_table() {
        for info in crate::kinds::all() {
            for (group, version, kind) in
                info.subresources.iter().filter_map(|part| part.body_kind())
            {
                let name = format!("{}.{version}.{kind}", package(group));
                assert!(crate::schema::schema().find(&name).is_some(), "{name}");
            }
        }
    }
}
