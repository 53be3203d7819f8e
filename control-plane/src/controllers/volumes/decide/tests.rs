//! One table per rule of binding.

use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::*;
use crate::controllers::volumes::book::Key;

fn book(claims: &[Value], volumes: &[Value], classes: &[Value]) -> Book {
    let mut book = Book::default();
    book.on_claim(Event::Init);
    book.on_volume(Event::Init);
    for claim in claims {
        book.on_claim(Event::InitApply(
            serde_json::from_value(claim.clone()).unwrap(),
        ));
    }
    for volume in volumes {
        book.on_volume(Event::InitApply(
            serde_json::from_value(volume.clone()).unwrap(),
        ));
    }
    book.on_class(Event::Init);
    for class in classes {
        book.on_class(Event::InitApply(
            serde_json::from_value(class.clone()).unwrap(),
        ));
    }
    book.on_claim(Event::InitDone);
    book.on_volume(Event::InitDone);
    book.on_class(Event::InitDone);
    book
}

fn local() -> LocalVolumes {
    LocalVolumes {
        folder: PathBuf::from("/data/claims"),
        node: "here".to_owned(),
    }
}

fn a_claim(change: Value) -> Value {
    let mut claim = json!({
        "metadata": {"namespace": "n", "name": "c", "uid": "u"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "k",
            "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"},
    });
    json_patch::merge(&mut claim, &change);
    claim
}

fn a_volume(name: &str, size: &str, change: Value) -> Value {
    let mut volume = json!({
        "metadata": {"name": name, "uid": name},
        "spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "storageClassName": "k",
            "capacity": {"storage": size}, "hostPath": {"path": "/srv"}},
        "status": {"phase": "Available"},
    });
    json_patch::merge(&mut volume, &change);
    volume
}

fn a_class(provisioner: &str, mode: &str) -> Value {
    json!({"metadata": {"name": "k"}, "provisioner": provisioner, "reclaimPolicy": "Delete",
        "volumeBindingMode": mode})
}

fn of_claim(mut book: Book) -> Option<Act> {
    let key = Key::Claim(("n".to_owned(), "c".to_owned()));
    book.decide(&key, Some(&local()))
}

fn of_volume(mut book: Book) -> Option<Act> {
    book.decide(&Key::Volume("v".to_owned()), Some(&local()))
}

/// The paths that are written, or the reason of the event, or what else is done.
fn words(act: Option<Act>) -> Vec<String> {
    match act {
        None => Vec::new(),
        Some(Act::Patch(change)) => change.parts.into_iter().map(|part| part.path).collect(),
        Some(Act::Tell(note)) => vec![note.reason.to_owned()],
        Some(Act::Create(volume)) => {
            vec![format!("create {}", volume["spec"]["hostPath"]["path"])]
        }
        Some(Act::Unprotect { name, .. }) => vec![format!("unprotect {name}")],
        Some(Act::Reclaim { name, folder, .. }) => vec![format!("reclaim {name} {folder:?}")],
    }
}

fn whole(volume: &str) -> Vec<String> {
    let claim = "/api/v1/namespaces/n/persistentvolumeclaims/c";
    let volume = format!("/api/v1/persistentvolumes/{volume}");
    vec![
        volume.clone(),
        format!("{volume}/status"),
        claim.to_owned(),
        format!("{claim}/status"),
    ]
}

#[test]
fn a_claim_gets_the_smallest_volume_that_does() {
    let big = a_volume("big", "5Gi", json!({}));
    let small = a_volume("small", "500Mi", json!({}));
    let fit = a_volume("fit", "2Gi", json!({}));
    let volumes = [big, small, fit];
    let claims = [a_claim(json!({}))];
    assert_eq!(words(of_claim(book(&claims, &volumes, &[]))), whole("fit"));
}

#[test]
fn a_volume_of_another_kind_does_not_do() {
    for (what, change) in [
        ("class", json!({"spec": {"storageClassName": "other"}})),
        ("mode", json!({"spec": {"volumeMode": "Block"}})),
        ("access", json!({"spec": {"accessModes": ["ReadOnlyMany"]}})),
        (
            "taken",
            json!({"spec": {"claimRef": {"namespace": "n", "name": "d", "uid": "x"}}}),
        ),
        ("released", json!({"status": {"phase": "Released"}})),
        (
            "leaving",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        ),
    ] {
        let claims = [a_claim(json!({}))];
        let volumes = [a_volume("v", "2Gi", change)];
        let found = words(of_claim(book(&claims, &volumes, &[])));
        assert_eq!(
            found,
            ["ProvisioningFailed"],
            "{what}: its class is not there"
        );
    }
    let selector = json!({"spec": {"selector": {"matchLabels": {"disk": "fast"}}}});
    let labelled = json!({"metadata": {"labels": {"disk": "fast"}}});
    let claims = [a_claim(selector)];
    let volumes = [
        a_volume("u", "1Gi", json!({})),
        a_volume("v", "2Gi", labelled),
    ];
    assert_eq!(words(of_claim(book(&claims, &volumes, &[]))), whole("v"));
}

#[test]
fn who_is_named_is_bound_whatever_its_size() {
    let kept = json!({"spec": {"claimRef": {"namespace": "n", "name": "c"}}});
    let claims = [a_claim(json!({}))];
    let volumes = [a_volume("v", "1Mi", kept)];
    assert_eq!(words(of_claim(book(&claims, &volumes, &[]))), whole("v"));
    let claims = [a_claim(json!({"spec": {"volumeName": "v"}}))];
    let volumes = [a_volume("v", "1Mi", json!({}))];
    assert_eq!(words(of_claim(book(&claims, &volumes, &[]))), whole("v"));
    let claims = [a_claim(json!({"spec": {"volumeName": "gone"}}))];
    assert_eq!(words(of_claim(book(&claims, &[], &[]))), ["FailedBinding"]);
}

#[test]
fn a_bound_pair_needs_nothing_and_a_half_written_one_the_rest() {
    let done = json!({"spec": {"volumeName": "v"}, "status": {"phase": "Bound"},
        "metadata": {"annotations": {BIND_COMPLETED: "yes"}}});
    let kept = json!({"spec": {"claimRef": {"namespace": "n", "name": "c", "uid": "u"}},
        "status": {"phase": "Bound"}});
    let (claims, volumes) = ([a_claim(done)], [a_volume("v", "1Gi", kept.clone())]);
    assert_eq!(words(of_claim(book(&claims, &volumes, &[]))), [""; 0]);
    assert_eq!(words(of_volume(book(&claims, &volumes, &[]))), [""; 0]);
    let claims = [a_claim(json!({}))];
    assert_eq!(
        words(of_claim(book(&claims, &volumes, &[]))),
        whole("v")[2..]
    );
}

#[test]
fn a_folder_is_as_large_as_its_claim_asks() {
    let claim_status = "/api/v1/namespaces/n/persistentvolumeclaims/c/status";
    let volume_itself = "/api/v1/persistentvolumes/v";
    let check = |asked: &str, said: &str, has: &str, made_by: Option<&str>, expected: &[&str]| {
        let claim = a_claim(json!({"spec": {"volumeName": "v",
                "resources": {"requests": {"storage": asked}}},
            "status": {"phase": "Bound", "capacity": {"storage": said}},
            "metadata": {"annotations": {BIND_COMPLETED: "yes"}}}));
        let kept = json!({"spec": {"claimRef": {"namespace": "n", "name": "c", "uid": "u"}},
            "status": {"phase": "Bound"}, "metadata": {"annotations": {PROVISIONED_BY: made_by}}});
        let act = of_claim(book(&[claim], &[a_volume("v", has, kept)], &[]));
        if let Some(Act::Patch(change)) = &act {
            for part in &change.parts {
                let text = part.body.to_string();
                assert!(
                    text.contains(&format!(r#""capacity":{{"storage":"{asked}"}}"#)),
                    "{text}"
                );
            }
        }
        assert_eq!(words(act), expected, "{asked} {said} {has} {made_by:?}");
    };
    let ours = Some(PROVISIONER);
    check("1Gi", "1Gi", "1Gi", ours, &[]);
    check("2Gi", "1Gi", "1Gi", ours, &[volume_itself, claim_status]);
    check("2Gi", "1Gi", "2Gi", ours, &[claim_status]);
    check("1Gi", "5Gi", "5Gi", ours, &[]);
    check("2Gi", "1Gi", "1Gi", Some("else.where/x"), &[]);
    check("2Gi", "1Gi", "1Gi", None, &[]);
}

#[test]
fn without_a_volume_the_class_decides() {
    let check = |provisioner: &str, mode: &str, change: Value, expected: &str| {
        let classes = [a_class(provisioner, mode)];
        let found = words(of_claim(book(&[a_claim(change)], &[], &classes)));
        assert_eq!(found, [expected], "{provisioner} {mode}");
    };
    let ours = "coracle.dev/local-path";
    let folder = std::path::Path::new("/data/claims").join("pvc-u");
    let made = &format!("create {:?}", folder.to_string_lossy());
    check(ours, "Immediate", json!({}), made);
    check(
        ours,
        "WaitForFirstConsumer",
        json!({}),
        "WaitForFirstConsumer",
    );
    let selected = json!({"metadata": {"annotations": {SELECTED_NODE: "here"}}});
    check(ours, "WaitForFirstConsumer", selected, made);
    let block = json!({"spec": {"volumeMode": "Block"}});
    check(ours, "Immediate", block, "ProvisioningFailed");
    check(NO_PROVISIONER, "Immediate", json!({}), "FailedBinding");
    let claim = "/api/v1/namespaces/n/persistentvolumeclaims/c";
    check("else.where/x", "Immediate", json!({}), claim);
    let asked = json!({"metadata": {"annotations": {STORAGE_PROVISIONER: "else.where/x"}}});
    check("else.where/x", "Immediate", asked, "ExternalProvisioning");
    let none = a_claim(json!({"spec": {"storageClassName": ""}}));
    assert_eq!(words(of_claim(book(&[none], &[], &[]))), ["FailedBinding"]);
}

#[test]
fn a_thing_is_said_once() {
    let key = Key::Claim(("n".to_owned(), "c".to_owned()));
    let none = a_claim(json!({"spec": {"storageClassName": ""}}));
    let mut book = book(&[none], &[], &[]);
    assert_eq!(words(book.decide(&key, None)), ["FailedBinding"]);
    assert_eq!(words(book.decide(&key, None)), [""; 0]);
}

#[test]
fn a_volume_whose_claim_is_gone_is_released_and_then_as_it_says() {
    let kept = |change: Value| {
        let mut spec = json!({"spec": {"claimRef": {"namespace": "n", "name": "c", "uid": "old"}}});
        json_patch::merge(&mut spec, &change);
        a_volume("v", "1Gi", spec)
    };
    let bound = kept(json!({"status": {"phase": "Bound"}}));
    let released = of_volume(book(&[a_claim(json!({}))], &[bound], &[]));
    assert_eq!(words(released), ["/api/v1/persistentvolumes/v/status"]);
    let check = |policy: &str, path: &str, made_by: Option<&str>, expected: &[&str]| {
        let change = json!({"status": {"phase": "Released"},
            "metadata": {"annotations": {PROVISIONED_BY: made_by}},
            "spec": {"persistentVolumeReclaimPolicy": policy, "hostPath": {"path": path}}});
        let found = words(of_volume(book(&[], &[kept(change)], &[])));
        assert_eq!(found, expected, "{policy} {path} {made_by:?}");
    };
    let ours = Some(PROVISIONER);
    check("Retain", "/data/claims/v", ours, &[]);
    let gone = "reclaim v Some(\"/data/claims/v\")";
    check("Delete", "/data/claims/v", ours, &[gone]);
    check("Delete", "/etc", ours, &["reclaim v None"]);
    check("Delete", "/srv", Some("else.where/x"), &[]);
    let failed = ["/api/v1/persistentvolumes/v/status"];
    check("Delete", "/srv", None, &failed);
    check("Recycle", "/srv", None, &failed);
}

#[test]
fn what_is_being_deleted_is_let_go_when_nobody_holds_it() {
    let leaving = |finalizer: &str| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer]}});
    let claims = [a_claim(leaving(CLAIM_PROTECTION))];
    assert_eq!(words(of_claim(book(&claims, &[], &[]))), ["unprotect c"]);
    let claims = [a_claim(leaving("else.where/x"))];
    assert_eq!(words(of_claim(book(&claims, &[], &[]))), [""; 0]);
    let volumes = [a_volume("v", "1Gi", leaving(VOLUME_PROTECTION))];
    assert_eq!(
        words(of_volume(book(&[], &volumes, &[]))),
        ["/api/v1/persistentvolumes/v"]
    );
    let mut held = leaving(VOLUME_PROTECTION);
    held["spec"] = json!({"claimRef": {"namespace": "n", "name": "c", "uid": "u"}});
    let volumes = [a_volume("v", "1Gi", held)];
    let claims = [a_claim(json!({"spec": {"volumeName": "v"}}))];
    assert_eq!(words(of_volume(book(&claims, &volumes, &[]))), [""; 0]);
}
