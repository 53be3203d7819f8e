//! Reads manifests: files, a folder's own files, or standard input, into Kubernetes objects.

mod json;

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};

/// The largest manifest that is read, in bytes. The API server's own limit for a request is 3 MiB; a
/// file may hold thousands of documents.
const MANIFEST_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The most documents in one file, enough for ten thousand pods with their configuration.
const DOCUMENTS_MAX: usize = 50_000;
/// The most YAML nodes in one file: room for `DOCUMENTS_MAX` pods of ordinary size.
const NODES_MAX: usize = 20_000_000;

/// The file endings that count in a folder, as for `kubectl apply -f DIR`.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Where a document was read from, for messages and for paths that are relative to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// What was typed, or the file found in a folder that was typed; `-` for standard input.
    name: String,
    /// The folder that relative paths start from.
    folder: PathBuf,
    /// The document's place in its file, from 1.
    document: usize,
}

impl Origin {
    /// Returns the folder that relative paths of this document start from.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.document > 1 {
            write!(f, "{} (document {})", self.name, self.document)
        } else {
            f.write_str(&self.name)
        }
    }
}

/// One Kubernetes object as it was written, with the fields that every object has already checked.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// Where it was read from.
    pub(crate) origin: Origin,
    /// `apiVersion`.
    pub(crate) api_version: String,
    /// `kind`.
    pub(crate) kind: String,
    /// `metadata.name`, or `metadata.generateName` with a trailing `*`, for messages.
    pub(crate) name: String,
    /// `metadata.namespace`, or `default`; meaningless for kinds without a namespace.
    pub(crate) namespace: String,
    /// The whole object.
    pub(crate) value: Value,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}` in {}", self.kind, self.name, self.origin)
    }
}

/// Reads every object of the files, folders and `-` in `sources`, in that order.
///
/// # Errors
///
/// Fails on the first source that cannot be read or holds anything but Kubernetes objects, naming the
/// file and the document.
pub(crate) fn read(sources: &[PathBuf]) -> anyhow::Result<Vec<Object>> {
    let mut objects = Vec::new();
    for source in sources {
        if source.as_os_str() == "-" {
            let text = read_text(std::io::stdin().lock(), "standard input")?;
            let here = std::env::current_dir().context("failed to find the current folder")?;
            parse("-", &here, &text, &mut objects)?;
        } else if source.is_dir() {
            for file in manifests_of(source)? {
                read_file(&file, &mut objects)?;
            }
        } else {
            read_file(source, &mut objects)?;
        }
    }
    ensure!(
        !objects.is_empty(),
        "no Kubernetes object in {}",
        names(sources)
    );
    Ok(objects)
}

/// Lists the manifests that lie in `folder` itself, by name.
fn manifests_of(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let unreadable = || format!("failed to list the folder `{}`", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let known = path
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| EXTENSIONS.contains(&extension));
        if known && path.is_file() {
            files.push(path);
        }
    }
    ensure!(
        !files.is_empty(),
        "no `*.yaml`, `*.yml` or `*.json` in the folder `{}` (its sub-folders are not read)",
        folder.display()
    );
    files.sort();
    Ok(files)
}

fn read_file(path: &Path, objects: &mut Vec<Object>) -> anyhow::Result<()> {
    let name = path.display().to_string();
    let file = fs::File::open(path).with_context(|| format!("failed to open `{name}`"))?;
    let text = read_text(file, &name)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    parse(&name, folder, &text, objects)
}

fn read_text(source: impl Read, name: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    source
        .take(MANIFEST_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("failed to read `{name}` as UTF-8 text"))?;
    ensure!(
        text.len() as u64 <= MANIFEST_BYTES_MAX,
        "`{name}` is larger than 256 MiB"
    );
    Ok(text)
}

/// Parses the documents of one file and appends their objects; a `List` is replaced by its items.
fn parse(name: &str, folder: &Path, text: &str, objects: &mut Vec<Object>) -> anyhow::Result<()> {
    let documents = documents(text).with_context(|| format!("failed to parse `{name}`"))?;
    for (index, document) in documents.into_iter().enumerate() {
        let origin = Origin {
            name: name.to_owned(),
            folder: folder.to_owned(),
            document: index + 1,
        };
        append(origin, document, objects)?;
    }
    Ok(())
}

/// Splits text into documents: JSON values one after another, or YAML documents.
fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') {
        let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text)
            .into_iter::<json::Document>()
            .map(|document| document.map(|json::Document(value)| value))
            .collect();
        match values {
            Ok(values) => return Ok(values),
            // It is JSON, and YAML has no better words for it.
            Err(error) if error.is_data() => return Err(error.into()),
            Err(_) => {}
        }
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: DOCUMENTS_MAX,
            max_nodes: NODES_MAX,
            max_events: NODES_MAX * 2,
        },
        // `defaultMode: 0644` means octal to kubectl, whose parser follows YAML 1.1 here.
        legacy_octal_numbers: true,
        // An error tells its place, and none of the lines around: they may be those of a Secret.
        with_snippet: false,
    };
    let values: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)?;
    Ok(values
        .into_iter()
        .filter(|value| !value.is_null())
        .collect())
}

/// Appends a document's object. The items of a list of one kind need not say again what they are, as for
/// kubectl.
fn append(origin: Origin, document: Value, objects: &mut Vec<Object>) -> anyhow::Result<()> {
    let Value::Object(fields) = document else {
        bail!(
            "{origin} is no Kubernetes object, but {}",
            describe(&document)
        );
    };
    let api_version = text_of(&fields, "apiVersion", &origin)?;
    let kind = text_of(&fields, "kind", &origin)?;
    if let Some(item_kind) = kind.strip_suffix("List") {
        let items = match fields.get("items") {
            Some(Value::Array(items)) => items.clone(),
            _ => bail!("the `{kind}` in {origin} has no `items`"),
        };
        return items.into_iter().try_for_each(|mut item| {
            if let (false, Value::Object(fields)) = (item_kind.is_empty(), &mut item) {
                let of_list = [("apiVersion", api_version.as_str()), ("kind", item_kind)];
                for (field, word) in of_list {
                    fields.entry(field).or_insert_with(|| word.into());
                }
            }
            append(origin.clone(), item, objects)
        });
    }
    let (name, namespace) = identity(&fields, &kind, &origin)?;
    objects.push(Object {
        origin,
        api_version,
        kind,
        name,
        namespace,
        value: Value::Object(fields),
    });
    Ok(())
}

/// Returns name (or the name's given beginning) and namespace of an object.
fn identity(
    fields: &Map<String, Value>,
    kind: &str,
    origin: &Origin,
) -> anyhow::Result<(String, String)> {
    let metadata = fields.get("metadata").and_then(Value::as_object);
    let field = |name: &str| -> anyhow::Result<Option<String>> {
        match metadata.and_then(|metadata| metadata.get(name)) {
            None | Some(Value::Null) => Ok(None),
            // To the API an empty name is none.
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => {
                bail!(
                    "`metadata.{name}` of the {kind} in {origin} is {}, not a string",
                    describe(other)
                )
            }
        }
    };
    let name = match (field("name")?, field("generateName")?) {
        (Some(name), _) => name,
        (None, Some(prefix)) => format!("{prefix}*"),
        (None, None) => bail!("the {kind} in {origin} has no `metadata.name`"),
    };
    Ok((
        name,
        field("namespace")?.unwrap_or_else(|| "default".to_owned()),
    ))
}

fn text_of(fields: &Map<String, Value>, name: &str, origin: &Origin) -> anyhow::Result<String> {
    match fields.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(other) => bail!("`{name}` in {origin} is {}, not a string", describe(other)),
        None => bail!("{origin} is no Kubernetes object: it has no `{name}`"),
    }
}

/// Says in a word or two what a value is, for messages.
fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn names(sources: &[PathBuf]) -> String {
    let names: Vec<_> = sources
        .iter()
        .map(|source| format!("`{}`", source.display()))
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Parses `text` and returns `kind/name@namespace` of each object, or the whole error.
    fn check(text: &str, expected: Result<&[&str], &str>) {
        let mut objects = Vec::new();
        let outcome = parse("test.yaml", Path::new("."), text, &mut objects);
        let found: Vec<String> = objects
            .iter()
            .map(|object| format!("{}/{}@{}", object.kind, object.name, object.namespace))
            .collect();
        match (outcome, expected) {
            (Ok(()), Ok(expected)) => assert_eq!(found, expected, "in {text}"),
            (Err(error), Err(expected)) => {
                let error = format!("{error:#}");
                assert!(error.contains(expected), "`{error}` lacks `{expected}`");
            }
            (outcome, expected) => panic!("{text}: {outcome:?}, expected {expected:?}"),
        }
    }

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";

    #[test]
    fn documents_of_yaml_and_json_become_objects_in_their_order() {
        check(POD, Ok(&["Pod/a@default"]));
        check(
            &format!("---\n{POD}---\n# nothing\n---\n{POD}"),
            Ok(&["Pod/a@default", "Pod/a@default"]),
        );
        check(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"n"}}
               {"apiVersion":"v1","kind":"Secret","metadata":{"generateName":"s-"}}"#,
            Ok(&["Pod/a@n", "Secret/s-*@default"]),
        );
        check(
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n",
            Ok(&["Pod/a@default"]),
        );
    }

    #[test]
    fn the_items_of_a_list_of_one_kind_are_of_that_kind() {
        check(
            "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n- {apiVersion: v1, kind: Pod, \
             metadata: {name: b}}\n",
            Ok(&["Pod/a@default", "Pod/b@default"]),
        );
        check("apiVersion: v1\nkind: PodList\n", Err("no `items`"));
        check(
            "apiVersion: v1\nkind: List\nitems:\n- metadata: {name: a}\n",
            Err("no `apiVersion`"),
        );
    }

    /// Of two values under one key, one would be dropped.
    #[test]
    fn a_key_that_comes_twice_is_refused_in_yaml_and_json() {
        check(
            "apiVersion: v1\nkind: Pod\nkind: Pod\nmetadata: {name: a}",
            Err("duplicate"),
        );
        check(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}
               {"apiVersion":"v1","kind":"Pod","metadata":{"name":"b","name":"c"}}"#,
            Err("duplicate key `metadata.name` at line 2 column"),
        );
        // What begins like JSON and is none is YAML.
        check(
            "{apiVersion: v1, kind: Pod, metadata: {name: a}}",
            Ok(&["Pod/a@default"]),
        );
    }

    #[test]
    fn what_a_damaged_secret_holds_is_not_shown() {
        let text = "apiVersion: v1\nkind: Secret\nstringData:\n  password: hunter2\n\tuser: x\n";
        let refusal = documents(text).expect_err("it is no YAML");
        let refusal = format!("{refusal:#}");
        assert!(!refusal.contains("hunter2"), "{refusal}");
        assert!(refusal.contains("line 4"), "{refusal}");
    }

    #[test]
    fn what_is_no_object_is_refused_with_the_file_and_what_it_lacks() {
        check(
            "just text",
            Err("test.yaml is no Kubernetes object, but a string"),
        );
        check("kind: Pod\nmetadata: {name: a}\n", Err("no `apiVersion`"));
        check("apiVersion: v1\nkind: Pod\n", Err("no `metadata.name`"));
        check(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: 3}\n",
            Err("a number, not a string"),
        );
        check("a: [", Err("failed to parse `test.yaml`"));
        check(&format!("{POD}---\n- 1\n"), Err("(document 2)"));
    }

    /// kubectl reads modes as YAML 1.1 does; a mode of 644 decimal would open files to everyone.
    #[test]
    fn an_octal_number_keeps_its_meaning() {
        let values = documents("mode: 0644").expect("YAML");
        assert_eq!(values[0]["mode"], 420);
    }

    /// The expansion of nested aliases grows without bound; a manifest must not take the machine down.
    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let alias = format!("*a{},", level - 1).repeat(10);
            text.push_str(&format!("a{level}: &a{level} [{alias}]\n"));
        }
        assert!(documents(&text).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_is_parsed_or_refused_without_a_panic(text in "\\PC{0,200}") {
            let mut objects = Vec::new();
            let _ = parse("test.yaml", Path::new("."), &text, &mut objects);
        }
    }
}
