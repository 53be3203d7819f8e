//! What the API tells about itself, beside what a stock server tells of the same resources.

use std::io::Read as _;

use coracle_control_plane::ApiBody;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use serde_json::{Map, Value, json};
use tower::ServiceExt;

use crate::harness::Harness;

/// The resources of a stock server; `[VERSION]` opens a version.
const RESOURCES: &str = include_str!("resources-1.36.txt");

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

struct Page {
    code: u16,
    headers: HeaderMap,
    text: String,
}

impl Page {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

async fn get(api: &Harness, path: &str, headers: &[(&str, &str)]) -> Page {
    let (head, bytes, code) = fetch(api, path, headers).await;
    Page {
        code,
        headers: head,
        text: String::from_utf8(bytes).unwrap(),
    }
}

async fn fetch(api: &Harness, path: &str, headers: &[(&str, &str)]) -> (HeaderMap, Vec<u8>, u16) {
    let mut request = Request::builder().uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::new()).unwrap();
    let response: Response<ApiBody> = api.plane.service().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (head.headers, bytes.to_vec(), head.status.as_u16())
}

/// The stock server's versions in its order, each with its resources as plain discovery lists them.
fn stock() -> Vec<(&'static str, Vec<Value>)> {
    let mut versions: Vec<(&str, Vec<Value>)> = Vec::new();
    for line in RESOURCES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        match line.strip_prefix('[') {
            Some(version) => versions.push((version.trim_end_matches(']'), Vec::new())),
            None => versions.last_mut().unwrap().1.push(resource(line)),
        }
    }
    versions
}

fn resource(line: &str) -> Value {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap();
    let (name, kind, scope, singular, verbs) = (word(), word(), word(), word(), word());
    let list = |words: &str| json!(words.split(',').collect::<Vec<_>>());
    let mut resource = json!({
        "name": name,
        "kind": kind,
        "namespaced": scope == "Namespaced",
        "singularName": if singular == "-" { "" } else { singular },
        "verbs": list(verbs),
    });
    for mark in words {
        match mark.split_once('=').unwrap() {
            ("of", of) => {
                let (group, version) = of.split_once('/').unwrap();
                resource["group"] = json!(group);
                resource["version"] = json!(version);
            }
            (name, words) => resource[name] = list(words),
        }
    }
    resource
}

/// Puts a version's resources together as aggregated discovery does.
fn aggregated(resources: &[Value]) -> Vec<Value> {
    let mut whole: Vec<Value> = Vec::new();
    for resource in resources {
        let word = |name: &str| {
            resource
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let kind = json!({
            "group": word("group"),
            "version": word("version"),
            "kind": word("kind"),
        });
        let verbs = &resource["verbs"];
        if let Some((_, part)) = word("name").split_once('/') {
            let part = json!({"subresource": part, "responseKind": kind, "verbs": verbs});
            let parts = whole.last_mut().unwrap().as_object_mut().unwrap();
            let parts = parts.entry("subresources").or_insert_with(|| json!([]));
            parts.as_array_mut().unwrap().push(part);
            continue;
        }
        let scope = if resource["namespaced"] == true {
            "Namespaced"
        } else {
            "Cluster"
        };
        let mut one = Map::new();
        one.insert("resource".to_owned(), resource["name"].clone());
        one.insert("responseKind".to_owned(), kind);
        one.insert("scope".to_owned(), json!(scope));
        one.insert(
            "singularResource".to_owned(),
            resource["singularName"].clone(),
        );
        one.insert("verbs".to_owned(), verbs.clone());
        for name in ["shortNames", "categories"] {
            one.extend(
                resource
                    .get(name)
                    .map(|words| (name.to_owned(), words.clone())),
            );
        }
        whole.push(Value::Object(one));
    }
    whole
}

/// Of the stock server's resources, those that are served; what is served beside them is a fault.
fn expected(served: &[Value], stock: &[Value]) -> Vec<Value> {
    let is_served = |resource: &&Value| served.iter().any(|one| one["name"] == resource["name"]);
    stock.iter().filter(is_served).cloned().collect()
}

/// Compares lists element by element, so that a failure shows the one that differs.
fn same(found: &[Value], expected: &[Value], at: &str) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected, "{at}");
    }
    assert_eq!(found.len(), expected.len(), "{at}");
}

#[tokio::test]
async fn plain_discovery_is_that_of_a_stock_server_for_served_kinds() {
    let api = Harness::start().await;
    let mut versions = vec!["v1".to_owned()];
    for group in get(&api, "/apis", &[]).await.json()["groups"]
        .as_array()
        .unwrap()
    {
        assert_eq!(group["preferredVersion"], group["versions"][0]);
        for version in group["versions"].as_array().unwrap() {
            versions.push(version["groupVersion"].as_str().unwrap().to_owned());
        }
    }
    let stock = stock();
    let order = stock.iter().map(|(version, _)| (*version).to_owned());
    let order: Vec<_> = order.filter(|version| versions.contains(version)).collect();
    assert_eq!(versions, order, "groups come by priority");
    for (version, resources) in &stock {
        if !order.contains(&(*version).to_owned()) {
            continue;
        }
        let root = if version.contains('/') { "apis" } else { "api" };
        let mut list = get(&api, &format!("/{root}/{version}"), &[]).await.json();
        assert_eq!(list["groupVersion"], *version);
        // The documents do not tell these; the golden tables have them.
        for resource in list["resources"].as_array_mut().unwrap() {
            resource
                .as_object_mut()
                .unwrap()
                .remove("storageVersionHash");
        }
        let served = list["resources"].as_array().unwrap();
        same(served, &expected(served, resources), version);
    }
}

#[tokio::test]
async fn aggregated_discovery_says_the_same() {
    let api = Harness::start().await;
    let stock = stock();
    for path in ["/api", "/apis"] {
        let page = get(&api, path, &[("accept", &format!("{V2},application/json"))]).await;
        assert_eq!(page.header("content-type"), V2);
        let document = page.json();
        assert_eq!(document["apiVersion"], "apidiscovery.k8s.io/v2");
        for item in document["items"].as_array().unwrap() {
            let group = item["metadata"]["name"].as_str();
            for found in item["versions"].as_array().unwrap() {
                let version = found["version"].as_str().unwrap();
                let name = group.map_or(version.to_owned(), |group| format!("{group}/{version}"));
                let root = if group.is_some() { "apis" } else { "api" };
                let plain = get(&api, &format!("/{root}/{name}"), &[]).await.json();
                let (_, resources) = stock.iter().find(|(known, _)| *known == name).unwrap();
                let served = expected(plain["resources"].as_array().unwrap(), resources);
                same(
                    found["resources"].as_array().unwrap(),
                    &aggregated(&served),
                    &name,
                );
                assert_eq!(found["freshness"], "Current");
            }
        }
        let known = [("accept", V2), ("if-none-match", page.header("etag"))];
        let again = get(&api, path, &known).await;
        assert_eq!((again.code, again.text.as_str()), (304, ""));
    }
    let beta = V2.replace("v=v2", "v=v2beta1");
    let page = get(&api, "/apis", &[("accept", &beta)]).await;
    assert_eq!(page.header("content-type"), beta);
    assert_eq!(page.json()["apiVersion"], "apidiscovery.k8s.io/v2beta1");
}

#[tokio::test]
async fn an_openapi_document_is_kept_under_its_hash() {
    let api = Harness::start().await;
    let index = get(&api, "/openapi/v3", &[]).await;
    let place = index.json()["paths"]["api/v1"]["serverRelativeURL"].clone();
    let place = place.as_str().unwrap();
    let page = get(&api, place, &[("accept", "application/json")]).await;
    assert_eq!(page.header("cache-control"), "public, immutable");
    let unhashed = get(&api, "/openapi/v3/api/v1", &[]).await;
    assert_eq!(
        (unhashed.header("cache-control"), &unhashed.text),
        ("public", &page.text)
    );
    let known = [("if-none-match", page.header("etag"))];
    assert_eq!(get(&api, "/openapi/v3/api/v1", &known).await.code, 304);
    let old = get(&api, "/openapi/v3/api/v1?hash=OLD", &[]).await;
    assert_eq!((old.code, old.header("location")), (301, place));
    let packed = [("accept-encoding", "gzip")];
    let (headers, bytes, _) = fetch(&api, place, &packed).await;
    assert_eq!(headers["content-encoding"], "gzip");
    assert!(bytes.len() * 3 < page.text.len());
    let binary = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
    assert_eq!(get(&api, place, &[("accept", binary)]).await.code, 406);
    assert_eq!(
        get(&api, "/openapi/v3/apis/nowhere/v1", &[]).await.code,
        404
    );
}

/// What kubectl asks for, with a sign in it that no media type may have.
const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

#[tokio::test]
async fn the_older_openapi_document_comes_as_json_and_as_protobuf() {
    let api = Harness::start().await;
    let page = get(&api, "/openapi/v2", &[]).await;
    assert_eq!(page.header("content-type"), "application/json");
    assert_eq!(page.header("cache-control"), "no-cache, private");
    let document = page.json();
    assert_eq!(document["swagger"], "2.0");
    let pod = json!({"group": "", "version": "v1", "kind": "Pod"});
    let definition = &document["definitions"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(definition["x-kubernetes-group-version-kind"], json!([pod]));
    // Clients up to 1.27 see from this that the server does dry runs and checks fields.
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], pod);
    let parameters = patch["parameters"].as_array().unwrap();
    for name in ["dryRun", "fieldValidation"] {
        assert!(parameters.iter().any(|one| one["name"] == name), "{name}");
    }

    let newer = GNOSTIC.replace('@', ".");
    for accept in [GNOSTIC, &newer] {
        let (headers, bytes, code) = fetch(&api, "/openapi/v2", &[("accept", accept)]).await;
        assert_eq!(
            (code, headers["content-type"].to_str().unwrap()),
            (200, &*newer)
        );
        assert!(bytes.starts_with(b"\x0a\x032.0"));
        assert_eq!(headers["etag"], page.headers["etag"]);
        let packed = [("accept", accept), ("accept-encoding", "gzip")];
        let (headers, packed, _) = fetch(&api, "/openapi/v2", &packed).await;
        assert_eq!(headers["content-encoding"], "gzip");
        assert_eq!(headers["vary"], "Accept, Accept-Encoding");
        assert!(packed.len() * 5 < bytes.len());
        let mut unpacked = Vec::new();
        let read = flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked);
        assert!(read.is_ok() && unpacked == bytes);
    }
    let known = [
        ("if-none-match", page.header("etag")),
        ("accept-encoding", "gzip"),
    ];
    let again = get(&api, "/openapi/v2", &known).await;
    assert_eq!((again.code, again.text.as_str()), (304, ""));
    assert!(!again.headers.contains_key("content-encoding"));
    // For people it is laid out, whatever they take.
    let person = [("user-agent", "curl/8"), ("accept-encoding", "gzip")];
    assert!(
        get(&api, "/openapi/v2", &person)
            .await
            .text
            .starts_with("{\n")
    );
    let other = get(&api, "/openapi/v2", &[("accept", "application/yaml")]).await;
    assert_eq!(other.code, 406);
}

#[tokio::test]
async fn openapi_documents_tell_kubectl_what_a_patch_takes_and_how_lists_merge() {
    let api = Harness::start().await;
    let document = get(&api, "/openapi/v3/api/v1", &[]).await.json();
    let item = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"];
    let patch = &item["patch"];
    let pod = json!({"group": "", "version": "v1", "kind": "Pod"});
    assert_eq!(patch["x-kubernetes-group-version-kind"], pod);
    let parameters = patch["parameters"].as_array().unwrap();
    let names: Vec<_> = parameters
        .iter()
        .map(|parameter| &parameter["name"])
        .collect();
    assert_eq!(
        names,
        ["dryRun", "fieldManager", "fieldValidation", "force"]
    );
    let schemas = &document["components"]["schemas"];
    let volumes = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
    let mut found = volumes.clone();
    let about = found
        .as_object_mut()
        .unwrap()
        .remove("description")
        .unwrap();
    assert!(
        about
            .as_str()
            .unwrap()
            .starts_with("List of volumes that can be mounted")
    );
    assert_eq!(
        found,
        json!({
            "type": "array",
            "items": {"$ref": "#/components/schemas/io.k8s.api.core.v1.Volume"},
            "x-kubernetes-list-map-keys": ["name"],
            "x-kubernetes-list-type": "map",
            "x-kubernetes-patch-merge-key": "name",
            "x-kubernetes-patch-strategy": "merge,retainKeys",
        })
    );
}

#[tokio::test]
async fn health_is_told_as_a_word_or_check_by_check() {
    let api = Harness::start().await;
    let check = async |path: &str, code: u16, text: &str| {
        let page = get(&api, path, &[]).await;
        assert_eq!((page.code, page.text.as_str()), (code, text), "{path}");
    };
    check("/readyz", 200, "ok").await;
    check("/livez/ping", 200, "ok").await;
    check("/livez?verbose", 200, "[+]ping ok\nlivez check passed\n").await;
    check(
        "/readyz?verbose&exclude=ping",
        200,
        "[+]shutdown ok\nreadyz check passed\n",
    )
    .await;
    assert_eq!(
        get(&api, "/healthz", &[]).await.header("content-type"),
        "text/plain; charset=utf-8"
    );
    assert_eq!(get(&api, "/healthz/etcd", &[]).await.code, 404);
    let service = api.plane.service();
    api.plane.stop().await;
    let request = Request::get("/readyz")
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 500);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let expected = "[+]ping ok\n[-]shutdown failed: reason withheld\nreadyz check failed\n";
    assert_eq!(body, expected);
}

#[tokio::test]
async fn the_versions_of_the_core_group_say_where_the_server_is() {
    let api = Harness::start().await;
    let versions = get(&api, "/api", &[("host", "127.0.0.1:6443")])
        .await
        .json();
    let address = json!({"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1:6443"});
    assert_eq!(versions["serverAddressByClientCIDRs"], json!([address]));
    let paths = get(&api, "/", &[]).await.json();
    let paths = paths["paths"].as_array().unwrap();
    for path in paths {
        assert_eq!(
            get(&api, path.as_str().unwrap(), &[]).await.code,
            200,
            "{path}"
        );
    }
    assert!(paths.contains(&json!("/apis/coordination.k8s.io/v1")));
}
