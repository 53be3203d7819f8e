//! Lists: pages, revisions, selectors, and which options contradict each other.

use serde_json::{Value, json};

use crate::harness::{Harness, check};

/// A kind of which no controller makes any.
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

async fn create(api: &Harness, name: &str) -> u64 {
    let body = json!({"metadata": {"name": name, "labels": {"app": name}}});
    revision(&check(api, "POST", SECRETS, body, 201, json!({})).await)
}

async fn change(api: &Harness, name: &str, value: &str) {
    let patch = json!({"metadata": {"annotations": {"k": value}}});
    let path = format!("{SECRETS}/{name}");
    let media = "application/merge-patch+json";
    let (code, answer) = api.send("PATCH", &path, media, &patch).await;
    assert_eq!(code, 200, "{answer}");
}

async fn list(api: &Harness, query: &str) -> Value {
    let path = format!("{SECRETS}?{query}");
    check(api, "GET", &path, Value::Null, 200, json!({})).await
}

async fn refuse(api: &Harness, query: &str, code: u16, message: &str) -> Value {
    let path = format!("{SECRETS}?{query}");
    check(
        api,
        "GET",
        &path,
        Value::Null,
        code,
        json!({"message": message}),
    )
    .await
}

fn revision(object: &Value) -> u64 {
    let revision = object["metadata"]["resourceVersion"].as_str().unwrap();
    revision.parse().unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn pages_show_the_revision_of_the_first_one() {
    let api = Harness::start().await;
    for name in ["a", "b", "c"] {
        create(&api, name).await;
    }
    let first = list(&api, "limit=2").await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    create(&api, "d").await;
    change(&api, "c", "later").await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = list(&api, &format!("limit=2&continue={token}&resourceVersion=0")).await;
    assert_eq!(names(&rest), ["c"]);
    assert_eq!(rest["items"][0]["metadata"]["annotations"], Value::Null);
    assert_eq!(revision(&rest), revision(&first));
    assert_eq!(rest["metadata"]["continue"], Value::Null);
    let selected = list(&api, "limit=1&labelSelector=app").await;
    assert_eq!(selected["metadata"]["remainingItemCount"], Value::Null);
    assert!(selected["metadata"]["continue"].is_string());
}

#[tokio::test]
async fn an_expired_page_comes_with_a_token_that_goes_on() {
    let api = Harness::with_history(4).await;
    for name in ["a", "b", "c"] {
        create(&api, name).await;
    }
    let first = list(&api, "limit=2").await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    for turn in 0..8 {
        change(&api, "c", &turn.to_string()).await;
    }
    let message = "The provided continue parameter is too old to display a consistent list \
                   result. You can start a new list without the continue parameter, or use the \
                   continue token in this response to retrieve the remainder of the results. \
                   Continuing with the provided token results in an inconsistent list - objects \
                   that were created, modified, or deleted between the time the first chunk was \
                   returned and now may show up in the list.";
    let gone = refuse(&api, &format!("limit=2&continue={token}"), 410, message).await;
    assert_eq!(gone["reason"], "Expired");
    let fresh = gone["metadata"]["continue"].as_str().unwrap();
    let rest = list(&api, &format!("limit=2&continue={fresh}")).await;
    assert_eq!(names(&rest), ["c"]);
    assert_eq!(rest["items"][0]["metadata"]["annotations"]["k"], "7");
}

#[tokio::test]
async fn revisions_choose_what_a_list_shows() {
    let api = Harness::start().await;
    let first = create(&api, "a").await;
    let second = create(&api, "b").await;
    for (query, expected) in [
        (String::new(), vec!["a", "b"]),
        ("resourceVersion=0".to_owned(), vec!["a", "b"]),
        (format!("resourceVersion={first}"), vec!["a", "b"]),
        (
            format!("resourceVersion={first}&resourceVersionMatch=NotOlderThan&limit=5"),
            vec!["a", "b"],
        ),
        (
            format!("resourceVersion={first}&resourceVersionMatch=Exact"),
            vec!["a"],
        ),
        // Pages were exact before there was a way to say so.
        (format!("resourceVersion={first}&limit=5"), vec!["a"]),
        ("resourceVersion=0&limit=1".to_owned(), vec!["a"]),
    ] {
        assert_eq!(names(&list(&api, &query).await), expected, "{query}");
    }
    for query in [
        "",
        "resourceVersionMatch=Exact",
        "resourceVersionMatch=NotOlderThan",
    ] {
        let wanted = second + 1;
        let query = format!("resourceVersion={wanted}&{query}");
        let message = format!("Timeout: Too large resource version: {wanted}, current: {second}");
        let status = refuse(&api, &query, 504, &message).await;
        assert_eq!(status["reason"], "Timeout");
        let cause = &status["details"]["causes"][0]["reason"];
        assert_eq!(cause, "ResourceVersionTooLarge");
    }
}

#[tokio::test]
async fn a_revision_that_is_no_longer_kept_is_expired() {
    let api = Harness::with_history(4).await;
    let first = create(&api, "a").await;
    for turn in 0..8 {
        change(&api, "a", &turn.to_string()).await;
    }
    let message = "The resourceVersion for the provided list is too old.";
    for query in ["resourceVersionMatch=Exact", "limit=1"] {
        let query = format!("resourceVersion={first}&{query}");
        let status = refuse(&api, &query, 410, message).await;
        assert_eq!(status["reason"], "Expired");
    }
}

#[tokio::test]
async fn options_that_contradict_each_other_are_named() {
    let api = Harness::start().await;
    create(&api, "a").await;
    create(&api, "b").await;
    let first = list(&api, "limit=1").await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let invalid = "ListOptions.meta.k8s.io \"\" is invalid: ";
    let field = "resourceVersionMatch: Forbidden: resourceVersionMatch";
    for (query, message) in [
        (
            "resourceVersionMatch=Exact".to_owned(),
            format!("{field} is forbidden unless resourceVersion is provided"),
        ),
        (
            "resourceVersion=0&resourceVersionMatch=Exact".to_owned(),
            format!("{field} \"exact\" is forbidden for resourceVersion \"0\""),
        ),
        (
            format!("continue={token}&resourceVersionMatch=Exact"),
            format!(
                "[{field} is forbidden unless resourceVersion is provided, {field} is forbidden \
                 when continue is provided]"
            ),
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Any".to_owned(),
            "resourceVersionMatch: Unsupported value: \"Any\": supported values: \"Exact\", \
             \"NotOlderThan\", \"\""
                .to_owned(),
        ),
        (
            "sendInitialEvents=true".to_owned(),
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list".to_owned(),
        ),
    ] {
        let status = refuse(&api, &query, 422, &format!("{invalid}{message}")).await;
        assert_eq!(status["reason"], "Invalid");
        assert_eq!(status["details"]["kind"], "ListOptions");
    }
    let query = format!("continue={token}&resourceVersion=1");
    let message = "specifying resource version is not allowed when using continue";
    refuse(&api, &query, 400, message).await;
}

#[tokio::test]
async fn tokens_that_are_none_are_refused() {
    let api = Harness::start().await;
    let pods = "/api/v1/namespaces/kube-system/configmaps";
    for name in ["a", "b"] {
        let body = json!({"metadata": {"name": name}});
        check(&api, "POST", pods, body, 201, json!({})).await;
    }
    let path = format!("{pods}?limit=1");
    let other = check(&api, "GET", &path, Value::Null, 200, json!({})).await;
    let token_of_another_list = other["metadata"]["continue"].as_str().unwrap();
    for token in ["x", "%FF", "AAAA", token_of_another_list] {
        let message = "invalid continue token: continue key is not valid";
        refuse(&api, &format!("continue={token}"), 400, message).await;
    }
}

#[tokio::test]
async fn what_cannot_be_read_in_the_query_is_refused() {
    let api = Harness::start().await;
    for (query, message) in [
        ("limit=x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
        (
            "resourceVersion=x",
            "invalid resource version: resourceVersion: Invalid value: \"x\": strconv.ParseUint: \
             parsing \"x\": invalid syntax",
        ),
        (
            "labelSelector=a%20b",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
        (
            "fieldSelector=spec.x%3D1",
            "field label not supported: spec.x",
        ),
        (
            "fieldSelector=a",
            "invalid selector: 'a'; can't understand 'a'",
        ),
        ("limit=1&limit=2", "query parameter `limit` has two values"),
    ] {
        refuse(&api, query, 400, message).await;
    }
}

#[tokio::test]
async fn the_list_of_an_empty_kind_has_items() {
    let api = Harness::start().await;
    let list = list(&api, "").await;
    assert_eq!(list["items"], json!([]));
    assert_eq!(list["kind"], "SecretList");
}
