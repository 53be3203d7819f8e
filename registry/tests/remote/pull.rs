use coracle_registry::{Credentials, EntryKind, FailureClass, Image, ImageContent, PullError};
use serde_json::json;

use crate::images::*;
use crate::server::{Fault, Registry, digest_of};

async fn pull(place: &Place, registry: &Registry, name: &str) -> Result<Image, PullError> {
    place
        .store
        .pull(&reference(registry, name), &place.options())
        .await
}

/// Pulls an image that must be refused for good, and returns the reason.
async fn refused(place: &Place, registry: &Registry, name: &str) -> String {
    let error = pull(place, registry, name)
        .await
        .expect_err("the image is refused");
    assert_eq!(error.class(), FailureClass::Final, "{}", told(&error));
    assert_eq!(
        place.content(),
        Vec::<String>::new(),
        "something stays after {}",
        told(&error)
    );
    told(&error)
}

/// Every way in which registries hold a bare module.
#[tokio::test]
async fn an_artifact_of_every_known_type_becomes_a_module() {
    let (registry, place) = (Registry::start().await, Place::new());
    let types = [
        ("application/vnd.wasm.config.v0+json", "application/wasm"),
        (
            "application/vnd.wasm.config.v1+json",
            "application/vnd.wasm.content.layer.v1+wasm",
        ),
        (
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
        ),
        (
            "application/vnd.oci.empty.v1+json",
            "application/vnd.module.wasm.content.layer.v1+wasm",
        ),
        (
            "application/vnd.fermyon.spin.application.v1+config",
            "application/vnd.wasm.content.layer.v1+wasm",
        ),
    ];
    for (at, types) in types.into_iter().enumerate() {
        let (name, module) = (format!("app:{at}"), wasm(name_of(at).as_bytes()));
        let digest = typed_artifact(&registry, &at.to_string(), module.clone(), types);
        let image = pull(&place, &registry, &name)
            .await
            .unwrap_or_else(|error| panic!("{}", told(&error)));
        let ImageContent::Module(file) = &image.content else {
            panic!("{image:?}")
        };
        assert_eq!(file.digest, digest);
        assert_eq!(std::fs::read(&file.path).expect("the module"), module);
    }
}

fn name_of(at: usize) -> String {
    format!("module {at}")
}

#[tokio::test]
async fn an_image_becomes_a_root_with_its_settings() {
    let (registry, place) = (Registry::start().await, Place::new());
    let module = wasm(b"app");
    let lower = tar(&[("etc/a", b"1"), ("etc/b", b"2"), ("app.wasm", &module)]);
    let upper = tar(&[("etc/.wh.a", b""), ("etc/c", b"333")]);
    prepare(&registry, &[lower, upper]).publish(&registry, "v1");
    let image = pull(&place, &registry, "app:v1").await.expect("an image");
    assert_eq!(image.config.program(), Some("/app.wasm"));
    assert_eq!(image.config.cmd, ["serve"]);
    assert_eq!(image.config.env, [("A".to_owned(), "b=c".to_owned())]);
    let ImageContent::Root(root) = &image.content else {
        panic!("{image:?}")
    };
    let paths: Vec<&str> = root.entries().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, ["app.wasm", "etc", "etc/b", "etc/c"]);
    assert_eq!(
        root.find("/app.wasm").and_then(|entry| entry.wasm.clone()),
        Some(digest_of(&module))
    );
    let EntryKind::File(extent) = &root.find("etc/c").expect("a file").kind else {
        panic!()
    };
    let layer = std::fs::read(&extent.layer).expect("the layer");
    assert_eq!(
        &layer[extent.offset as usize..][..extent.len as usize],
        b"333"
    );
}

/// `IfNotPresent` and `Never` must work with the registry unplugged.
#[tokio::test]
async fn what_is_here_is_found_without_a_request() {
    let (registry, place) = (Registry::start().await, Place::new());
    artifact(&registry, "v1", wasm(b"x"));
    let image = pull(&place, &registry, "app:v1").await.expect("an image");
    registry.requests();
    let other_process = open(place.dir.path().to_owned());
    let found = other_process
        .find(&reference(&registry, "app:v1"))
        .expect("a store");
    assert_eq!(found.map(|found| found.digest), Some(image.digest.clone()));
    let by_digest = format!("app@{}", image.digest);
    pull(&place, &registry, &by_digest).await.expect("an image");
    assert!(
        other_process
            .find(&reference(&registry, "app:v2"))
            .expect("a store")
            .is_none()
    );
    assert_eq!(registry.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn pulling_an_unchanged_tag_again_asks_once_and_fetches_nothing() {
    let (registry, place) = (Registry::start().await, Place::new());
    artifact(&registry, "v1", wasm(b"x"));
    let first = pull(&place, &registry, "app:v1").await.expect("an image");
    registry.requests();
    let again = pull(&place, &registry, "app:v1").await.expect("an image");
    assert_eq!(again.digest, first.digest);
    assert_eq!(registry.requests(), ["HEAD /v2/app/manifests/v1"]);
    artifact(&registry, "v1", wasm(b"moved"));
    let moved = pull(&place, &registry, "app:v1").await.expect("an image");
    assert_ne!(moved.digest, first.digest);
}

/// Ten pods of one image start together; the registry must see one of them.
#[tokio::test]
async fn many_pulls_of_one_image_fetch_it_once() {
    let (registry, place) = (Registry::start().await, Place::new());
    let tars = [
        tar(&[("app.wasm", &wasm(b"x"))]),
        tar(&[("big", &noise(300_000))]),
    ];
    let made = prepare(&registry, &tars);
    made.publish(&registry, "v1");
    let other_process = Place {
        store: open(place.dir.path().to_owned()),
        ..Place::new()
    };
    let pulls = (0..10).map(|at| {
        let place = if at % 2 == 0 { &place } else { &other_process };
        pull(place, &registry, "app:v1")
    });
    for pulled in futures::future::join_all(pulls).await {
        pulled.unwrap_or_else(|error| panic!("{}", told(&error)));
    }
    let requests = registry.requests();
    for digest in &made.digests {
        let path = format!("GET /v2/app/blobs/{digest}");
        assert_eq!(
            requests.iter().filter(|request| **request == path).count(),
            1,
            "{requests:?}"
        );
    }
}

/// A long download over a bad line must not begin again each time.
#[tokio::test]
async fn a_broken_download_resumes_where_it_broke() {
    for no_range in [false, true] {
        let (registry, place) = (Registry::start().await, Place::new());
        let tars = [tar(&[
            ("app.wasm", &wasm(b"x")),
            ("big", &noise(2_000_000)),
        ])];
        let made = prepare(&registry, &tars);
        made.publish(&registry, "v1");
        for after in [0, 100_000, 700_000, 1] {
            registry.fault(Fault::Cut {
                digest: made.digests[0].clone(),
                after,
            });
        }
        if no_range {
            registry.fault(Fault::NoRange);
        }
        pull(&place, &registry, "app:v1")
            .await
            .unwrap_or_else(|error| panic!("{}", told(&error)));
        let retries = place.watcher.retries.lock().expect("no panic").clone();
        assert!(
            !retries.is_empty()
                && retries
                    .iter()
                    .all(|what| what.contains("cannot be reached")),
            "{retries:?}"
        );
        let size = made.layers[0]["size"].as_u64().expect("a size");
        assert_eq!(
            *place.watcher.bytes.lock().expect("no panic"),
            size + config_size(&made)
        );
    }
}

fn config_size(made: &Made) -> u64 {
    serde_json::to_vec(&made.config).expect("json").len() as u64
}

#[tokio::test]
async fn a_registry_that_is_not_well_is_asked_again_and_then_given_up_for_now() {
    let (registry, place) = (Registry::start().await, Place::new());
    artifact(&registry, "v1", wasm(b"x"));
    registry.fault(Fault::Status {
        path: "/manifests/",
        status: 503,
        times: 2,
    });
    pull(&place, &registry, "app:v1")
        .await
        .expect("the third answer is good");
    assert_eq!(place.watcher.retries.lock().expect("no panic").len(), 2);
    artifact(&registry, "v2", wasm(b"y"));
    registry.fault(Fault::Status {
        path: "/blobs/",
        status: 500,
        times: 99,
    });
    let error = pull(&place, &registry, "app:v2")
        .await
        .expect_err("it stays away");
    assert_eq!(error.class(), FailureClass::Retry);
    assert!(
        told(&error).contains("answers 500: not now"),
        "{}",
        told(&error)
    );
    registry.mend();
    pull(&place, &registry, "app:v2").await.expect("an image");
}

#[tokio::test]
async fn an_unreachable_registry_is_worth_trying_again() {
    let registry = Registry::start().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let gone = Registry {
        address: listener.local_addr().expect("an address").to_string(),
        ..registry
    };
    drop(listener);
    let error = pull(&Place::new(), &gone, "app:v1")
        .await
        .expect_err("nobody listens");
    assert_eq!(error.class(), FailureClass::Retry, "{}", told(&error));
}

#[tokio::test]
async fn what_the_registry_does_not_have_is_final_and_named() {
    let (registry, place) = (Registry::start().await, Place::new());
    let line = refused(&place, &registry, "app:v9").await;
    assert!(line.contains("has no `app:v9`"), "{line}");
    let digest = artifact(&registry, "v1", wasm(b"x"));
    registry.fault(Fault::Status {
        path: "/blobs/",
        status: 404,
        times: 99,
    });
    let line = refused(&place, &registry, "app:v1").await;
    assert!(line.contains("has no `sha256:"), "{line} {digest}");
}

#[tokio::test]
async fn a_registry_that_wants_a_token_gets_one() {
    let (registry, place) = (Registry::start().await, Place::new());
    registry.fault(Fault::Bearer);
    let tars = [tar(&[("app.wasm", &wasm(b"x"))])];
    prepare(&registry, &tars).publish(&registry, "v1");
    pull(&place, &registry, "app:v1")
        .await
        .unwrap_or_else(|error| panic!("{}", told(&error)));
}

#[tokio::test]
async fn a_registry_that_wants_a_password_gets_the_right_one_or_the_refusal_is_final() {
    let (registry, place) = (Registry::start().await, Place::new());
    registry.fault(Fault::Basic);
    artifact(&registry, "v1", wasm(b"x"));
    let line = refused(&place, &registry, "app:v1").await;
    assert!(
        line.contains("refuses access to `app` without credentials"),
        "{line}"
    );
    let mut options = place.options();
    options.credentials = Some(Credentials::parse("user:wrong").expect("credentials"));
    let error = place
        .store
        .pull(&reference(&registry, "app:v1"), &options)
        .await;
    let error = error.expect_err("the password is wrong");
    assert!(
        !told(&error).contains("without credentials"),
        "{}",
        told(&error)
    );
    options.credentials = Some(Credentials::parse("user:secret").expect("credentials"));
    let pulled = place
        .store
        .pull(&reference(&registry, "app:v1"), &options)
        .await;
    pulled.unwrap_or_else(|error| panic!("{}", told(&error)));
}

#[tokio::test]
async fn lies_about_digests_and_sizes_are_refused_and_nothing_stays() {
    let (registry, place) = (Registry::start().await, Place::new());
    let digest = artifact(&registry, "v1", wasm(b"honest"));
    registry.fault(Fault::Lie {
        digest: digest.clone(),
        bytes: wasm(b"forged"),
    });
    let line = refused(&place, &registry, "app:v1").await;
    assert!(
        line.contains(&format!("layer `{digest}`")) && line.contains("app:v1"),
        "{line}"
    );
    registry.mend();

    registry.fault(Fault::Lie {
        digest: digest.clone(),
        bytes: wasm(b"honest and more"),
    });
    let line = refused(&place, &registry, "app:v1").await;
    assert!(line.contains("bytes where the manifest says 14"), "{line}");
    registry.mend();

    registry.fault(Fault::Short {
        digest: digest.clone(),
        len: 9,
    });
    let line = refused(&place, &registry, "app:v1").await;
    assert!(
        line.contains("it has 9 bytes") || line.contains("416"),
        "{line}"
    );
    // Of a whole blob the library says it first: other bytes, and fewer.
    registry.fault(Fault::NoRange);
    let line = refused(&place, &registry, "app:v1").await;
    assert!(line.contains("it has 9 bytes"), "{line}");
    let retries = place.watcher.retries.lock().expect("no panic").clone();
    assert_eq!(retries, Vec::<String>::new());
    registry.mend();

    let forged = json!({"schemaVersion": 2}).to_string().into_bytes();
    let wanted = digest_of(b"something else");
    registry.lie_about_manifest(&wanted, OCI_MANIFEST, forged);
    let line = refused(&place, &registry, &format!("app@{wanted}")).await;
    assert!(
        line.contains(&format!("`{wanted}` was asked for")),
        "{line}"
    );
}

#[tokio::test]
async fn a_layer_that_is_not_the_one_of_the_configuration_is_refused() {
    let (registry, place) = (Registry::start().await, Place::new());
    let mut made = prepare(&registry, &[tar(&[("app.wasm", &wasm(b"x"))])]);
    made.config["rootfs"]["diff_ids"][0] = json!(digest_of(b"another"));
    made.publish(&registry, "v1");
    let line = refused(&place, &registry, "app:v1").await;
    assert!(line.contains("where the configuration says"), "{line}");
    made.config["rootfs"]["diff_ids"] = json!([]);
    made.publish(&registry, "v2");
    let line = refused(&place, &registry, "app:v2").await;
    assert!(
        line.contains("it names 0 layers and the manifest 1"),
        "{line}"
    );
}

/// Each of these would write outside a folder if anything were unpacked to one.
#[tokio::test]
async fn a_hostile_layer_is_refused_by_image_and_layer() {
    let (registry, place) = (Registry::start().await, Place::new());
    for (at, (name, reason)) in [
        ("../evil", "climbs out with `..`"),
        ("a/../../evil", "climbs out with `..`"),
        ("/etc/passwd", "has an absolute name"),
        ("app.wasm/below", "goes through `app.wasm`"),
        (".wh...", "climbs out"),
    ]
    .into_iter()
    .enumerate()
    {
        let tars = [tar(&[("app.wasm", &wasm(b"x"))]), tar(&[(name, b"!")])];
        let made = prepare(&registry, &tars);
        made.publish(&registry, &format!("v{at}"));
        let line = refused(&place, &registry, &format!("app:v{at}")).await;
        let layer = format!("layer `{}`", made.digests[1]);
        assert!(
            line.contains(reason) && line.contains(&layer),
            "`{name}`: {line}"
        );
        assert!(line.contains(&format!("app:v{at}")), "{line}");
    }
}

#[tokio::test]
async fn a_truncated_or_damaged_layer_is_refused() {
    let (registry, place) = (Registry::start().await, Place::new());
    let whole = tar(&[("app.wasm", &wasm(&noise(5000)))]);
    let mut made = prepare(&registry, std::slice::from_ref(&whole));
    // A gzip stream that ends early, and says so in an honest descriptor.
    let mut packed = gzip(&whole);
    packed.truncate(packed.len() - 200);
    made.layers[0]["size"] = json!(packed.len());
    made.layers[0]["digest"] = json!(registry.blob(packed));
    made.publish(&registry, "v1");
    let line = refused(&place, &registry, "app:v1").await;
    assert!(line.contains("cannot be uncompressed"), "{line}");
    // A tar that ends inside an entry.
    let cut = whole[..1024].to_vec();
    prepare(&registry, &[cut]).publish(&registry, "v2");
    let line = refused(&place, &registry, "app:v2").await;
    assert!(line.contains("ends inside an entry"), "{line}");
}

/// The sum over all layers counts: two bombs of half the size are one bomb.
#[tokio::test]
async fn a_bomb_is_refused_while_it_grows() {
    let (registry, place) = (Registry::start().await, Place::new());
    let mut made = prepare(&registry, &[tar(&[("app.wasm", &wasm(b"x"))])]);
    made.layers[0]["size"] = json!(5u64 << 30);
    made.publish(&registry, "v1");
    let line = refused(&place, &registry, "app:v1").await;
    assert!(line.contains("grows beyond 4294967296 bytes"), "{line}");
}

#[tokio::test]
async fn an_index_gives_its_wasm_image_and_a_linux_one_is_refused_by_name() {
    let (registry, place) = (Registry::start().await, Place::new());
    let made = prepare(&registry, &[tar(&[("app.wasm", &wasm(b"x"))])]);
    let (digest, size) = made.publish(&registry, "inner");
    let entry = |os: &str, architecture: &str| {
        json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": size,
            "platform": {"os": os, "architecture": architecture}})
    };
    let publish = |tag: &str, manifests: serde_json::Value| {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        registry.manifest(tag, OCI_INDEX, serde_json::to_vec(&index).expect("json"))
    };
    for os in ["wasi", "wasip1", "wasip2"] {
        publish(os, json!([entry("linux", "amd64"), entry(os, "wasm")]));
        let image = pull(&place, &registry, &format!("app:{os}"))
            .await
            .expect("an image");
        assert_eq!(image.digest, digest);
    }
    let other = Place::new();
    publish(
        "linux",
        json!([
            entry("linux", "amd64"),
            entry("linux", "arm64"),
            entry("unknown", "unknown")
        ]),
    );
    let line = refused(&other, &registry, "app:linux").await;
    assert!(
        line.contains("is a Linux (`linux/amd64`), Linux (`linux/arm64`) image"),
        "{line}"
    );
    let mut marked = entry("linux", "amd64");
    marked["annotations"] = json!({"run.oci.handler": "wasm"});
    publish("marked", json!([entry("linux", "arm64"), marked]));
    pull(&other, &registry, "app:marked")
        .await
        .expect("an image");
}

#[tokio::test]
async fn an_image_of_linux_programs_is_refused_before_its_layers_travel() {
    let (registry, place) = (Registry::start().await, Place::new());
    let mut made = prepare(&registry, &[tar(&[("bin/sh", b"\x7fELF")])]);
    made.config["os"] = json!("linux");
    made.config["architecture"] = json!("amd64");
    made.config["config"] = json!({"Entrypoint": ["/bin/sh"]});
    made.publish(&registry, "v1");
    let line = refused(&place, &registry, "app:v1").await;
    assert!(
        line.contains("it is a Linux (`linux/amd64`) image; only Wasm images run here"),
        "{line}"
    );
    let path = format!("GET /v2/app/blobs/{}", made.digests[0]);
    assert!(!registry.requests().contains(&path));
}

#[tokio::test]
async fn a_program_that_cannot_run_is_refused_on_arrival() {
    let (registry, place) = (Registry::start().await, Place::new());
    artifact(&registry, "judged", wasm(b"forbidden"));
    let line = refused(&place, &registry, "app:judged").await;
    assert!(line.contains("import `forbidden` is not offered"), "{line}");
    artifact(&registry, "text", b"#!/bin/sh".to_vec());
    let line = refused(&place, &registry, "app:text").await;
    assert!(line.contains("is not Wasm"), "{line}");
    prepare(&registry, &[tar(&[("other", b"")])]).publish(&registry, "missing");
    let line = refused(&place, &registry, "app:missing").await;
    assert!(
        line.contains("its program `/app.wasm` is not a file in the image"),
        "{line}"
    );
    // A tool that no pod may ever start does not stop the image.
    let tars = [tar(&[
        ("app.wasm", &wasm(b"x")),
        ("tool.wasm", &wasm(b"forbidden")),
    ])];
    prepare(&registry, &tars).publish(&registry, "tool");
    pull(&place, &registry, "app:tool").await.expect("an image");
}

#[tokio::test]
async fn a_manifest_that_is_too_large_or_contradicts_itself_is_refused() {
    let (registry, place) = (Registry::start().await, Place::new());
    registry.manifest("large", OCI_MANIFEST, vec![b' '; (4 << 20) + 1]);
    let line = refused(&place, &registry, "app:large").await;
    assert!(line.contains("too large"), "{line}");
    let both = json!({"schemaVersion": 2, "manifests": [], "layers": []}).to_string();
    registry.manifest("both", OCI_MANIFEST, both.into_bytes());
    let line = refused(&place, &registry, "app:both").await;
    assert!(line.contains("an index and a manifest at once"), "{line}");
    registry.manifest("text", OCI_MANIFEST, b"<html>".to_vec());
    assert!(
        refused(&place, &registry, "app:text")
            .await
            .contains("its manifest is not valid")
    );
}

/// A pod that is deleted while its image travels must leave nothing behind.
#[tokio::test]
async fn a_pull_that_is_dropped_leaves_nothing() {
    let (registry, place) = (Registry::start().await, Place::new());
    let digest = artifact(&registry, "v1", wasm(&noise(100_000)));
    registry.fault(Fault::Cut {
        digest,
        after: 50_000,
    });
    {
        let (name, options) = (reference(&registry, "app:v1"), place.options());
        let mut pulling = std::pin::pin!(place.store.pull(&name, &options));
        // Until the module has begun to arrive.
        while *place.watcher.bytes.lock().expect("no panic") < 40_000 {
            let polled = futures::poll!(pulling.as_mut());
            assert!(polled.is_pending());
            tokio::task::yield_now().await;
        }
    }
    // The worker notices the closed channel in its own time; opening sweeps what is left.
    while !place.content().is_empty() {
        drop(open(place.dir.path().to_owned()));
        tokio::task::yield_now().await;
    }
}
