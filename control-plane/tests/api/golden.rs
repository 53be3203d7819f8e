//! Requests and the answers that Kubernetes 1.36 gives to them, recorded in `tests/golden`.
//!
//! A file is a list of rows that are asked one after the other in a namespace of its own. `ask` is
//! the method and the path; instead of `PATCH` stands the sort of patch. `$rv` and `$uid` stand for
//! those of the object answered last. `until` repeats the request until the answer has something at
//! that place, or is missing (`/404`); `events` says how many events of a watch are read.
//!
//! `cargo xtask record-golden --server KUBECONFIG` asks a real cluster and writes the answers down.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use http::Request;
use http_body_util::BodyExt;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Map, Value, json};

use crate::harness::{Harness, PATIENCE};

/// Where the recorder finds the cluster.
const SERVER: &str = "CORACLE_GOLDEN_SERVER";

/// What a row has besides its question.
const ANSWER: &[&str] = &["code", "type", "warnings", "answer"];

const NAMESPACE: &str = "/api/v1/namespaces/golden";

/// Someone who asks, and what the last answer was about.
struct Asker {
    client: Client,
    revision: String,
    uid: String,
}

#[tokio::test]
async fn answers_are_those_of_kubernetes() {
    let mut faults = String::new();
    let mut rows = 0;
    for file in files() {
        let text = std::fs::read_to_string(&file).unwrap();
        let table: Vec<Map<String, Value>> = serde_saphyr::from_str(&text).unwrap();
        rows += table.len();
        match std::env::var_os(SERVER) {
            Some(server) => record(&file, &table, server.into()).await,
            None => replay(&file, &table, &mut faults).await,
        }
    }
    assert!(rows >= 250, "there are only {rows} rows");
    assert!(faults.is_empty(), "{faults}");
}

fn files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

async fn replay(file: &std::path::Path, table: &[Map<String, Value>], faults: &mut String) {
    let api = Harness::start().await;
    let mut asker = Asker::begin(api.plane.client("golden")).await;
    for (index, row) in table.iter().enumerate() {
        let found = asker.ask(row).await;
        let (mut wanted, mut known) = (BTreeMap::new(), BTreeMap::new());
        for field in ANSWER {
            flatten(field, row.get(*field).unwrap_or(&Value::Null), &mut wanted);
            flatten(field, &found[*field], &mut known);
        }
        if wanted == known {
            continue;
        }
        let file = file.file_name().unwrap().to_string_lossy();
        writeln!(faults, "{file} {index}: {}", row["ask"]).unwrap();
        for (path, value) in &wanted {
            match known.get(path) {
                Some(found) if found == value => (),
                found => writeln!(faults, "  {path}: {value:?} is {found:?}").unwrap(),
            }
        }
        for (path, value) in known.iter().filter(|(path, _)| !wanted.contains_key(*path)) {
            writeln!(faults, "  {path}: nothing is {value:?}").unwrap();
        }
    }
}

async fn record(file: &std::path::Path, table: &[Map<String, Value>], server: PathBuf) {
    let kubeconfig = Kubeconfig::read_from(server).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    let mut asker = Asker::begin(Client::try_from(config).unwrap()).await;
    let mut text = String::new();
    for row in table {
        let found = asker.ask(row).await;
        let asked = row
            .iter()
            .filter(|(field, _)| !ANSWER.contains(&field.as_str()));
        let mut row: Map<String, Value> = asked.map(|(k, v)| (k.clone(), v.clone())).collect();
        writeln!(text, "- ask: {}", row.remove("ask").unwrap()).unwrap();
        for (field, value) in row.iter().chain(found.as_object().unwrap()) {
            if !value.is_null() {
                writeln!(text, "  {field}: {value}").unwrap();
            }
        }
    }
    asker
        .get(&json!({"ask": format!("DELETE {NAMESPACE}")}))
        .await;
    asker
        .get(&json!({"ask": format!("GET {NAMESPACE}"), "until": "/404"}))
        .await;
    std::fs::write(file, text).unwrap();
}

impl Asker {
    /// Makes a namespace that is ready for pods.
    async fn begin(client: Client) -> Asker {
        let (revision, uid) = (String::new(), String::new());
        let mut asker = Asker {
            client,
            revision,
            uid,
        };
        let body = json!({"metadata": {"name": "golden"}});
        asker
            .get(&json!({"ask": "POST /api/v1/namespaces", "body": body}))
            .await;
        for path in ["serviceaccounts/default", "configmaps/kube-root-ca.crt"] {
            let ask = format!("GET {NAMESPACE}/{path}");
            asker.get(&json!({"ask": ask, "until": "/kind"})).await;
        }
        asker
    }

    async fn get(&mut self, row: &Value) -> Value {
        self.ask(row.as_object().unwrap()).await
    }

    /// Asks and returns what can be compared of the answer.
    async fn ask(&mut self, row: &Map<String, Value>) -> Value {
        let again = async {
            loop {
                let answer = self.once(row).await;
                let until = row.get("until").and_then(Value::as_str).unwrap_or_default();
                let there = answer["answer"].pointer(until).is_some();
                if there || (until == "/404" && answer["code"] == 404) {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        let answer = tokio::time::timeout(PATIENCE, again).await;
        let mut answer = answer.unwrap_or_else(|_| panic!("{} does not happen", row["ask"]));
        normalise("", &mut answer["answer"]);
        answer
    }

    async fn once(&mut self, row: &Map<String, Value>) -> Value {
        let filled = |text: &str| {
            text.replace("$rv", &self.revision)
                .replace("$uid", &self.uid)
        };
        let (method, path) = row["ask"].as_str().unwrap().split_once(' ').unwrap();
        let (method, media) = match method {
            "JSONPATCH" => ("PATCH", "application/json-patch+json"),
            "MERGE" => ("PATCH", "application/merge-patch+json"),
            "STRATEGIC" => ("PATCH", "application/strategic-merge-patch+json"),
            "APPLY" => ("PATCH", "application/apply-patch+yaml"),
            other => (other, "application/json"),
        };
        let body = match row.get("body") {
            None => String::new(),
            Some(Value::String(text)) => filled(text),
            Some(body) => filled(&body.to_string()),
        };
        let mut headers =
            BTreeMap::from([("user-agent", "golden"), ("accept", "application/json")]);
        if row.contains_key("body") {
            headers.insert("content-type", media);
        }
        let given = row
            .get("headers")
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        headers.extend(given.map(|(name, value)| (name.as_str(), value.as_str().unwrap())));
        let mut request = Request::builder().method(method).uri(filled(path));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Body::from(body.into_bytes())).unwrap();
        let response = self.client.send(request).await.unwrap();
        let (head, body) = response.into_parts();
        let events = row.get("events").and_then(Value::as_u64);
        let header = |name: &str| {
            let values = head.headers.get_all(name).iter();
            values
                .map(|value| value.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let text = read(body, events).await;
        let answer = match events {
            Some(_) => text
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap())
                .collect(),
            None => serde_json::from_str(&text).unwrap_or(Value::from(text)),
        };
        if answer["kind"] != "Status" && answer.get("items").is_none() {
            let text = |name: &str| answer["metadata"][name].as_str().map(str::to_owned);
            self.revision = text("resourceVersion").unwrap_or(self.revision.clone());
            self.uid = text("uid").unwrap_or(self.uid.clone());
        }
        let (media, warnings) = (header("content-type").join(", "), header("warning"));
        json!({
            "code": head.status.as_u16(),
            "type": Some(media).filter(|media| media != "application/json"),
            "warnings": Some(warnings).filter(|warnings| !warnings.is_empty()),
            "answer": answer,
        })
    }
}

/// Reads an answer, or so many events of a watch.
async fn read(mut body: Body, events: Option<u64>) -> String {
    let mut bytes = Vec::new();
    let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    while events.is_none_or(|events| lines(&bytes) < events) {
        let Some(frame) = body.frame().await else {
            break;
        };
        bytes.extend(frame.unwrap().into_data().unwrap_or_default());
    }
    String::from_utf8(bytes).unwrap()
}

fn flatten(path: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let below = |(name, value)| flatten(&format!("{path}/{name}"), value, found);
            fields.iter().for_each(below);
        }
        Value::Array(list) if !list.is_empty() => {
            let mut list: Vec<&Value> = list.iter().collect();
            // They stand by the second in which they wrote, which no run chooses.
            if path.ends_with("/managedFields") {
                let fields = ["operation", "manager", "subresource"];
                list.sort_by_key(|entry| fields.map(|field| entry[field].to_string()));
            }
            let below = |(index, value)| flatten(&format!("{path}/{index}"), value, found);
            list.into_iter().enumerate().for_each(below);
        }
        Value::Null if !path.contains('/') => (),
        value => drop(found.insert(path.to_owned(), value.clone())),
    }
}

/// Writes what is another each time as what it is.
fn normalise(name: &str, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("kind") == Some(&json!("Status")) {
                status(fields);
            }
            fields
                .iter_mut()
                .for_each(|(name, value)| normalise(name, value));
            let base = fields.get("generateName").and_then(Value::as_str);
            if let Some(base) = base.map(str::to_owned)
                && fields["name"]
                    .as_str()
                    .unwrap_or_default()
                    .starts_with(&base)
            {
                fields["name"] = json!(format!("{base}<random>"));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| normalise(name, value)),
        Value::Number(port) if matches!(name, "nodePort" | "healthCheckNodePort") => {
            if port.as_i64() >= Some(30_000) {
                *value = json!("<port>");
            }
        }
        Value::String(text) => match (name, text.as_str()) {
            ("resourceVersion", "" | "0") | (_, "") => (),
            ("resourceVersion", _) => "<revision>".clone_into(text),
            ("token" | "continue", _) => "<token>".clone_into(text),
            ("cells", age) if is_age(age) => "<age>".clone_into(text),
            // Differences that follow in further lines are worded in Go's names of fields.
            ("message", said) => *text = masked(said.lines().next().unwrap_or_default()),
            (_, said) => *text = masked(said),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => (),
    }
}

fn is_age(text: &str) -> bool {
    let seconds = text.strip_suffix('s');
    seconds.is_some_and(|seconds| seconds.parse::<u8>().is_ok())
}

/// Causes have no order, and some checks of Kubernetes find the same twice.
fn status(fields: &mut Map<String, Value>) {
    let Some(causes) = fields
        .get_mut("details")
        .and_then(|details| details.get_mut("causes"))
    else {
        return;
    };
    let causes = causes.as_array_mut().unwrap();
    causes.sort_by_key(Value::to_string);
    causes.dedup();
    let first = |field: &str| causes[0][field].as_str().unwrap_or_default().to_owned();
    let sentence = format!("{}: {}", first("field"), first("message"));
    // Several are a list of the same sentences, in the order that they do not have.
    let many = causes.len() > 1;
    let message = fields["message"].as_str().unwrap();
    let what = message.split(": ").next().unwrap();
    if many {
        fields["message"] = json!(what);
    } else if message.ends_with("]") {
        fields["message"] = json!(format!("{what}: {sentence}"));
    }
}

/// Masks identifiers, times and addresses in a text, word by word.
fn masked(text: &str) -> String {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || "-.:".contains(letter);
    let mut found = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end.max(first.len_utf8()));
        rest = behind;
        found.push_str(match word {
            word if uuid::Uuid::try_parse(word).is_ok() && word.len() == 36 => "<uid>",
            word if word.len() > 18 && word.parse::<jiff::Timestamp>().is_ok() => "<time>",
            word if word.starts_with("10.96.") => "<ip>",
            word => word,
        });
    }
    found
}
