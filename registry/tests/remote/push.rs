use std::sync::Arc;

use coracle_registry::{
    BuildForm, BuildSpec, Credentials, FailureClass, ImageContent, PushOptions, Quiet,
};

use crate::images::*;
use crate::server::{Fault, Registry};

fn options() -> PushOptions {
    PushOptions {
        credentials: None,
        progress: Arc::new(Quiet),
    }
}

#[tokio::test]
async fn a_built_artifact_arrives_elsewhere_under_the_same_digest() {
    let (registry, place) = (Registry::start().await, Place::new());
    registry.fault(Fault::Bearer);
    let module = place.dir.path().join("hello.wasm");
    std::fs::write(&module, wasm(&noise(600_000))).expect("a file");
    let name = reference(&registry, "team/hello:v1");
    let spec = BuildSpec {
        reference: name.clone(),
        module,
        form: BuildForm::Artifact,
    };
    let built = place.store.build(&spec, &NoForbidden).expect("an image");
    let digest = place.store.push(&name, &options()).await;
    assert_eq!(
        digest.unwrap_or_else(|error| panic!("{}", told(&error))),
        built.digest
    );
    let elsewhere = Place::new();
    let pulled = elsewhere
        .store
        .pull(&name, &elsewhere.options())
        .await
        .expect("an image");
    assert_eq!(pulled.digest, built.digest);
}

/// Compressed layers rest uncompressed; what is pushed must still be one consistent image.
#[tokio::test]
async fn a_pulled_image_can_be_pushed_to_another_registry() {
    let (origin, place) = (Registry::start().await, Place::new());
    prepare(&origin, &[tar(&[("app.wasm", &wasm(b"x"))])]).publish(&origin, "v1");
    let name = reference(&origin, "app:v1");
    let pulled = place
        .store
        .pull(&name, &place.options())
        .await
        .expect("an image");
    // To its own registry it goes back as it came.
    assert_eq!(
        place.store.push(&name, &options()).await.expect("pushed"),
        pulled.digest
    );

    let target = Registry::start().await;
    let layout = place.dir.path().join("layout");
    crate::local::write_layout(&layout, &origin, &pulled.digest);
    let moved = reference(&target, "moved/app:v1");
    place
        .store
        .load(&layout, Some(&moved), &NoForbidden, &Quiet)
        .expect("loaded");
    let digest = place.store.push(&moved, &options()).await;
    let digest = digest.unwrap_or_else(|error| panic!("{}", told(&error)));
    assert_ne!(digest, pulled.digest);
    let elsewhere = Place::new();
    let arrived = elsewhere.store.pull(&moved, &elsewhere.options()).await;
    let arrived = arrived.unwrap_or_else(|error| panic!("{}", told(&error)));
    let (ImageContent::Root(before), ImageContent::Root(after)) =
        (&pulled.content, &arrived.content)
    else {
        panic!("both are images with a root")
    };
    assert_eq!(before.digest(), after.digest());
}

#[tokio::test]
async fn what_has_no_tag_or_is_not_here_is_not_pushed() {
    let (registry, place) = (Registry::start().await, Place::new());
    let digest = format!("sha256:{}", "a".repeat(64));
    for (name, expected) in [
        (format!("{}/app@{digest}", registry.address), "has no tag"),
        (format!("{}/app:v1", registry.address), "there is no image"),
        ("coracle.local/app:v1".to_owned(), "name of this machine"),
    ] {
        let name = name.parse().expect("a reference");
        let error = place
            .store
            .push(&name, &options())
            .await
            .expect_err("not pushed");
        assert!(told(&error).contains(expected), "{}", told(&error));
    }
    assert_eq!(registry.requests(), Vec::<String>::new());
}

/// What a wrong password does not open, it does not open at the fifth attempt either.
#[tokio::test]
async fn a_push_that_the_registry_does_not_let_in_is_refused_at_once() {
    let (registry, place) = (Registry::start().await, Place::new());
    let module = place.dir.path().join("hello.wasm");
    std::fs::write(&module, wasm(b"x")).expect("a file");
    let name = reference(&registry, "team/hello:v1");
    let spec = BuildSpec {
        reference: name.clone(),
        module,
        form: BuildForm::Artifact,
    };
    place.store.build(&spec, &NoForbidden).expect("an image");
    let options = PushOptions {
        credentials: Some(Credentials::parse("user:wrong").expect("credentials")),
        progress: place.watcher.clone(),
    };
    let check = async |fault: Fault, class: FailureClass, expected: &str| {
        registry.fault(fault);
        let error = place.store.push(&name, &options).await;
        let error = error.expect_err("refused");
        let line = told(&error);
        assert_eq!(error.class(), class, "{line}");
        assert!(line.contains(expected), "{line}");
        registry.mend();
        std::mem::take(&mut *place.watcher.retries.lock().expect("no panic")).len()
    };
    let status = |status| Fault::Status {
        path: "/blobs/",
        status,
        times: 99,
    };
    let denied = "refuses access to `team/hello`";
    assert_eq!(check(Fault::Basic, FailureClass::Final, denied).await, 0);
    assert_eq!(check(status(403), FailureClass::Final, denied).await, 0);
    let other = "answers 410";
    assert_eq!(check(status(410), FailureClass::Final, other).await, 0);
    // A registry that is not well may be so later.
    let unwell = "answers 503";
    assert_eq!(check(status(503), FailureClass::Retry, unwell).await, 2);
}
