use std::fs;
use std::path::Path;

use coracle_registry::{
    BuildForm, BuildSpec, EntryKind, Image, ImageContent, ImageForm, Quiet, Reference, StoreError,
};
use serde_json::json;

use crate::images::*;
use crate::server::{Registry, digest_of};

/// Writes an image of the registry as an OCI image layout.
pub(crate) fn write_layout(folder: &Path, registry: &Registry, manifest: &str) {
    let bytes = registry.stored_manifest(manifest);
    let document: serde_json::Value = serde_json::from_slice(&bytes).expect("json");
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a folder");
    let put = |digest: &str, bytes: &[u8]| {
        fs::write(blobs.join(&digest["sha256:".len()..]), bytes).expect("a file");
    };
    put(manifest, &bytes);
    let layers = document["layers"].as_array().expect("layers").iter();
    for descriptor in layers.chain([&document["config"]]) {
        let digest = descriptor["digest"].as_str().expect("a digest");
        put(digest, &registry.stored(digest).expect("a blob"));
    }
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST,
        "digest": manifest, "size": bytes.len(),
        "annotations": {"org.opencontainers.image.ref.name": "v7"}}]});
    fs::write(folder.join("index.json"), index.to_string()).expect("a file");
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("a file");
}

/// Returns a folder as a tar, as `skopeo copy oci-archive:` makes it.
fn tar_of(folder: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", folder).expect("a folder");
    tar.into_inner().expect("memory")
}

fn module_at(place: &Place, content: &[u8]) -> std::path::PathBuf {
    let path = place.dir.path().join("hello.wasm");
    fs::write(&path, wasm(content)).expect("a file");
    path
}

fn build(place: &Place, name: &str, form: BuildForm) -> Image {
    let module = module_at(place, b"hello");
    let spec = BuildSpec {
        reference: name.parse().expect("a reference"),
        module,
        form,
    };
    let built = place.store.build(&spec, &NoForbidden);
    built.unwrap_or_else(|error| panic!("{}", told(&error)))
}

#[tokio::test]
async fn a_layout_is_loaded_from_a_folder_and_from_an_archive() {
    let (registry, place) = (Registry::start().await, Place::new());
    let made = prepare(&registry, &[tar(&[("app.wasm", &wasm(b"x"))])]);
    let (digest, _) = made.publish(&registry, "v1");
    let folder = place.dir.path().join("My_Layout");
    write_layout(&folder, &registry, &digest);
    let archive = place.dir.path().join("layout.tar");
    fs::write(&archive, tar_of(&folder)).expect("a file");
    for (path, name) in [
        (&folder, "coracle.local/my-layout:v7"),
        (&archive, "coracle.local/layout:v7"),
    ] {
        let loaded = place.store.load(path, None, &NoForbidden, &Quiet);
        let loaded = loaded.unwrap_or_else(|error| panic!("{}", told(&error)));
        assert_eq!(
            (loaded[0].reference.to_string().as_str(), &loaded[0].digest),
            (name, &digest)
        );
    }
    let named: Reference = "r.io/a:v1".parse().expect("a reference");
    let loaded = place
        .store
        .load(&archive, Some(&named), &NoForbidden, &Quiet)
        .expect("an image");
    assert_eq!(loaded[0].reference, named);
    assert!(place.store.find(&named).expect("a store").is_some());
}

#[test]
fn what_docker_save_writes_is_loaded() {
    let place = Place::new();
    let layer = tar(&[("app.wasm", &wasm(b"x"))]);
    let config = json!({"architecture": "wasm", "os": "wasi", "config": {"Cmd": ["/app.wasm"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(&layer)]}})
    .to_string();
    let saved = json!([{"Config": "c.json", "RepoTags": ["team/app:v1", "app:v2"], "Layers": ["l/layer.tar"]}]);
    let saved = saved.to_string();
    let bytes = tar(&[
        ("c.json", config.as_bytes()),
        ("l/layer.tar", &layer),
        ("manifest.json", saved.as_bytes()),
    ]);
    let path = place.dir.path().join("saved.tar");
    fs::write(&path, bytes).expect("a file");
    let loaded = place.store.load(&path, None, &NoForbidden, &Quiet);
    let loaded = loaded.unwrap_or_else(|error| panic!("{}", told(&error)));
    let names = loaded.iter().map(|image| image.reference.to_string());
    let names: Vec<String> = names.collect();
    assert_eq!(names, ["docker.io/team/app:v1", "docker.io/library/app:v2"]);
}

/// Returns the output of `docker save` for images of one module each, called by tags.
fn saved(images: &[(&str, &[u8])]) -> Vec<u8> {
    let mut files = Vec::new();
    let mut entries = Vec::new();
    for (at, (tag, content)) in images.iter().enumerate() {
        let layer = tar(&[("app.wasm", &wasm(content))]);
        let config = json!({"architecture": "wasm", "os": "wasi",
            "config": {"Cmd": ["/app.wasm"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(&layer)]}});
        let (place, settings) = (format!("{at}.tar"), format!("{at}.json"));
        entries.push(json!({"Config": settings, "RepoTags": [tag], "Layers": [place]}));
        files.push((settings, config.to_string().into_bytes()));
        files.push((place, layer));
    }
    let entries = serde_json::Value::from(entries).to_string();
    files.push(("manifest.json".to_owned(), entries.into_bytes()));
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    tar(&files)
}

/// A digest in a pod's image is there so that nothing else can be run in its place.
#[tokio::test]
async fn no_image_is_given_a_digest_that_is_not_its_own() {
    let (registry, place) = (Registry::start().await, Place::new());
    let digest = digest_of(b"something else");
    let pinned: Reference = format!("r.io/a@{digest}").parse().expect("a reference");
    let module = module_at(&place, b"hello");
    let spec = BuildSpec {
        reference: pinned.clone(),
        module: module.clone(),
        form: BuildForm::Artifact,
    };
    let error = place.store.build(&spec, &NoForbidden).expect_err("refused");
    assert!(told(&error).contains("under a digest"), "{}", told(&error));

    let archive = place.dir.path().join("saved.tar");
    fs::write(&archive, saved(&[("r.io/a:v1", b"x")])).expect("a file");
    let error = place
        .store
        .load(&archive, Some(&pinned), &NoForbidden, &Quiet)
        .expect_err("refused");
    assert!(told(&error).contains("under a digest"), "{}", told(&error));

    fs::write(&archive, saved(&[(&pinned.to_string(), b"x")])).expect("a file");
    let error = place.store.load(&archive, None, &NoForbidden, &Quiet);
    let line = told(&error.expect_err("refused"));
    assert!(
        line.contains(&format!("`{digest}` was asked for")),
        "{line}"
    );
    assert_eq!(place.content(), Vec::<String>::new());

    // Another name in its place is as good as any, and so is the digest that the image has.
    let named: Reference = "r.io/a:v1".parse().expect("a reference");
    place
        .store
        .load(&archive, Some(&named), &NoForbidden, &Quiet)
        .expect("loaded");
    let layout = place.dir.path().join("layout");
    let made = prepare(&registry, &[tar(&[("app.wasm", &wasm(b"x"))])]);
    let (own, _) = made.publish(&registry, "v1");
    write_layout(&layout, &registry, &own);
    let index = fs::read_to_string(layout.join("index.json")).expect("readable");
    let index = index.replace("\"v7\"", &format!("\"r.io/a@{own}\""));
    fs::write(layout.join("index.json"), index).expect("a file");
    let loaded = place.store.load(&layout, None, &NoForbidden, &Quiet);
    let loaded = loaded.unwrap_or_else(|error| panic!("{}", told(&error)));
    assert_eq!(loaded[0].reference.to_string(), format!("r.io/a@{own}"));
}

/// Earlier versions wrote such records.
#[test]
fn a_record_whose_name_has_another_digest_counts_as_absent_and_can_be_removed() {
    let place = Place::new();
    drop(build(&place, "r.io/a:v1", BuildForm::Artifact));
    let digest = digest_of(b"something else");
    let pinned = format!("r.io/a@{digest}");
    let names = place.dir.path().join("names");
    let honest = fs::read_dir(&names).expect("a folder").next();
    let record = fs::read_to_string(honest.expect("one").expect("readable").path());
    let record = record.expect("readable").replace("r.io/a:v1", &pinned);
    let file = digest_of(pinned.as_bytes()).replace("sha256:", "") + ".json";
    fs::write(names.join(file), record).expect("a file");
    let pinned: Reference = pinned.parse().expect("a reference");
    assert!(place.store.find(&pinned).expect("a store").is_none());
    place.store.remove(&pinned).expect("removed");
    assert_eq!(place.store.list().expect("a list").len(), 1);
}

#[test]
fn an_archive_is_loaded_however_it_is_compressed() {
    let place = Place::new();
    let bytes = saved(&[("r.io/a:v1", b"1"), ("r.io/b:v1", b"2")]);
    let zstd = zstd::stream::encode_all(&bytes[..], 1).expect("memory");
    for (name, packed) in [("saved.tar.gz", gzip(&bytes)), ("saved.tar.zst", zstd)] {
        let path = place.dir.path().join(name);
        fs::write(&path, &packed).expect("a file");
        let loaded = place.store.load(&path, None, &NoForbidden, &Quiet);
        let loaded = loaded.unwrap_or_else(|error| panic!("{}", told(&error)));
        assert_eq!(loaded.len(), 2);
        drop(loaded);
        for name in ["r.io/a:v1", "r.io/b:v1"] {
            let name = name.parse().expect("a reference");
            place.store.remove(&name).expect("removed");
        }
        assert_eq!(place.content(), Vec::<String>::new());

        fs::write(&path, &packed[..packed.len() / 2]).expect("a file");
        let error = place.store.load(&path, None, &NoForbidden, &Quiet);
        let line = told(&error.expect_err("refused"));
        assert!(line.contains("cannot be uncompressed"), "{line}");
        assert_eq!(place.content(), Vec::<String>::new());
    }
}

/// `docker save … | coracle image load -`
#[test]
fn an_archive_is_loaded_from_a_stream() {
    let place = Place::new();
    let bytes = saved(&[("r.io/a:v1", b"1")]);
    let zstd = zstd::stream::encode_all(&bytes[..], 1).expect("memory");
    let name = "r.io/a:v1".parse().expect("a reference");
    for archive in [&bytes, &gzip(&bytes), &zstd] {
        let load = |mut archive: &[u8]| {
            let store = &place.store;
            store.load_stream(&mut archive, None, &NoForbidden, &Quiet)
        };
        let loaded = load(archive).unwrap_or_else(|error| panic!("{}", told(&error)));
        assert_eq!(loaded[0].reference, name);
        drop(loaded);
        place.store.remove(&name).expect("removed");
        assert_eq!(place.content(), Vec::<String>::new());
        for part in [&archive[..archive.len() / 2], &[]] {
            let line = told(&load(part).expect_err("refused"));
            assert!(line.starts_with("`-` is n"), "{line}");
            assert_eq!(place.content(), Vec::<String>::new());
        }
    }
}

/// A terminal would obey them.
#[test]
fn what_is_no_archive_is_refused_without_its_bytes() {
    let place = Place::new();
    let path = place.dir.path().join("noise");
    for bytes in [noise(2048), vec![0x1b; 2048]] {
        fs::write(&path, bytes).expect("a file");
        let error = place.store.load(&path, None, &NoForbidden, &Quiet);
        let line = told(&error.expect_err("refused"));
        assert!(line.contains("is not an archive of images"), "{line}");
        assert!(line.is_ascii() && !line.contains('\u{1b}'), "{line:?}");
    }
}

#[test]
fn one_name_is_not_given_to_two_images() {
    let place = Place::new();
    let path = place.dir.path().join("saved.tar");
    let name: Reference = "r.io/c:v1".parse().expect("a reference");
    let load = |images: &[(&str, &[u8])]| {
        fs::write(&path, saved(images)).expect("a file");
        place.store.load(&path, Some(&name), &NoForbidden, &Quiet)
    };
    let error = load(&[("r.io/a:v1", b"1"), ("r.io/b:v1", b"2")]).expect_err("refused");
    assert!(told(&error).contains("holds 2 images"), "{}", told(&error));
    assert_eq!(place.content(), Vec::<String>::new());
    // Two names of one image are another thing.
    let loaded = load(&[("r.io/a:v1", b"1"), ("r.io/b:v1", b"1")]).expect("loaded");
    assert_eq!((loaded.len(), &loaded[0].reference), (1, &name));
}

#[tokio::test]
async fn a_damaged_or_incomplete_layout_is_refused_by_name_and_nothing_stays() {
    let (registry, place) = (Registry::start().await, Place::new());
    let made = prepare(&registry, &[tar(&[("app.wasm", &wasm(b"x"))])]);
    let (digest, _) = made.publish(&registry, "v1");
    let layer = &made.digests[0]["sha256:".len()..];
    let check = |change: &dyn Fn(&Path), expected: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        write_layout(folder.path(), &registry, &digest);
        change(folder.path());
        let error = place.store.load(folder.path(), None, &NoForbidden, &Quiet);
        let line = told(&error.expect_err("refused"));
        assert!(line.contains(expected), "{line}");
        assert_eq!(place.content(), Vec::<String>::new(), "{line}");
    };
    let blob = |folder: &Path| folder.join("blobs/sha256").join(layer);
    check(
        &|folder| fs::remove_file(blob(folder)).expect("removed"),
        "the archive does not hold it",
    );
    check(
        &|folder| fs::write(blob(folder), b"!").expect("written"),
        &format!("layer `{}`", made.digests[0]),
    );
    let manifest = digest["sha256:".len()..].to_owned();
    check(
        &|folder| fs::write(folder.join("blobs/sha256").join(&manifest), b"{}").expect("written"),
        &format!("`{digest}` was asked for"),
    );
    check(
        &|folder| fs::remove_file(folder.join("index.json")).expect("removed"),
        "neither an OCI image layout",
    );
}

#[test]
fn equal_input_gives_equal_digests() {
    let (one, two) = (Place::new(), Place::new());
    let form = |place: &Place| {
        let folder = place.dir.path().join("www");
        fs::create_dir_all(folder.join("b")).expect("a folder");
        for name in ["z", "a", "b/c"] {
            fs::write(folder.join(name), name).expect("a file");
        }
        let form = ImageForm {
            folders: vec![folder],
            env: vec!["A=1".to_owned()],
            working_dir: "/b".to_owned(),
            ..ImageForm::default()
        };
        BuildForm::Image(Box::new(form))
    };
    let digests = [&one, &two].map(|place| build(place, "r.io/a:v1", form(place)).digest);
    assert_eq!(digests[0], digests[1]);
    let artifacts = [&one, &two].map(|place| build(place, "r.io/b:v1", BuildForm::Artifact).digest);
    assert_eq!(artifacts[0], artifacts[1]);
    let image = one
        .store
        .find(&"r.io/a:v1".parse().expect("a reference"))
        .expect("a store");
    let image = image.expect("an image");
    let ImageContent::Root(root) = &image.content else {
        panic!("{image:?}")
    };
    let paths: Vec<&str> = root.entries().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, ["a", "b", "b/c", "hello.wasm", "z"]);
    assert_eq!(image.config.program(), Some("/hello.wasm"));
    assert_eq!(image.config.working_dir, "/b");
}

#[test]
fn what_would_not_run_is_not_built_and_nothing_stays() {
    let place = Place::new();
    let module = module_at(&place, b"forbidden");
    let reference: Reference = "r.io/a:v1".parse().expect("a reference");
    let folder = place.dir.path().join("empty");
    fs::create_dir(&folder).expect("a folder");
    let image = ImageForm {
        folders: vec![folder],
        ..ImageForm::default()
    };
    for form in [BuildForm::Artifact, BuildForm::Image(Box::new(image))] {
        let spec = BuildSpec {
            reference: reference.clone(),
            module: module.clone(),
            form,
        };
        let error = place.store.build(&spec, &NoForbidden).expect_err("refused");
        assert!(
            told(&error).contains("import `forbidden` is not offered"),
            "{}",
            told(&error)
        );
        assert_eq!(place.content(), Vec::<String>::new());
    }
    fs::write(&module, "#!/bin/sh").expect("a file");
    let error = place
        .store
        .pack(&module, "a", &NoForbidden)
        .expect_err("refused");
    assert!(told(&error).contains("is not Wasm"), "{}", told(&error));
    let error = place
        .store
        .pack(&module.with_extension("no"), "a", &NoForbidden);
    assert!(told(&error.expect_err("no such file")).contains("hello.no"));
}

#[tokio::test]
async fn a_packed_file_is_found_by_its_content_and_never_asked_for() {
    let place = Place::new();
    let module = module_at(&place, b"v1");
    let name = place
        .store
        .pack(&module, "Hello_World", &NoForbidden)
        .expect("packed");
    assert!(
        name.to_string()
            .starts_with("coracle.local/hello-world@sha256:"),
        "{name}"
    );
    assert_eq!(
        place
            .store
            .pack(&module, "Hello_World", &NoForbidden)
            .expect("packed"),
        name
    );
    let found = place.store.find(&name).expect("a store").expect("an image");
    assert_eq!(name.digest(), Some(found.digest.as_str()));
    place
        .store
        .pull(&name, &place.options())
        .await
        .expect("it is here");
    drop(found);
    place.store.remove(&name).expect("removed");
    let error = place
        .store
        .pull(&name, &place.options())
        .await
        .expect_err("gone");
    assert!(told(&error).contains("is not in the store any more"));
}

#[tokio::test]
async fn removing_an_image_keeps_what_others_need() {
    let (registry, place) = (Registry::start().await, Place::new());
    let shared = tar(&[("app.wasm", &wasm(b"x"))]);
    let names = ["a:v1", "b:v1"].map(|name| reference(&registry, name));
    prepare(&registry, &[shared.clone(), tar(&[("one", b"1")])]).publish(&registry, "v1");
    place
        .store
        .pull(&names[0], &place.options())
        .await
        .expect("an image");
    prepare(&registry, &[shared, tar(&[("two", b"2")])]).publish(&registry, "v1");
    place
        .store
        .pull(&names[1], &place.options())
        .await
        .expect("an image");
    assert_eq!(place.store.list().expect("a list").len(), 2);

    let removed = place.store.remove(&names[0]).expect("removed");
    assert!(removed.deleted.is_some());
    let kept = open(place.dir.path().to_owned())
        .find(&names[1])
        .expect("a store");
    let ImageContent::Root(root) = &kept.as_ref().expect("an image").content else {
        panic!()
    };
    for entry in root.entries() {
        let EntryKind::File(extent) = &entry.kind else {
            continue;
        };
        assert!(extent.layer.exists());
    }
    assert_eq!(root.find("one"), None);
    drop(kept);
    place.store.remove(&names[1]).expect("removed");
    assert_eq!(place.content(), Vec::<String>::new());
    let error = place.store.remove(&names[1]).expect_err("gone");
    assert!(matches!(error, StoreError::NotFound { .. }));
}

/// A run in another process holds the image; taking its files would break its next restart.
#[test]
fn an_image_in_use_is_not_removed() {
    let place = Place::new();
    let name = "r.io/a:v1";
    let built = build(&place, name, BuildForm::Artifact);
    let other_process = open(place.dir.path().to_owned());
    let reference: Reference = name.parse().expect("a reference");
    let error = other_process.remove(&reference).expect_err("in use");
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    // A second name may go, since the first still holds the image.
    build(&place, "r.io/b:v1", BuildForm::Artifact);
    let second = other_process.remove(&"r.io/b:v1".parse().expect("a reference"));
    assert_eq!(second.expect("removed").deleted, None);
    drop(built);
    assert!(
        other_process
            .remove(&reference)
            .expect("removed")
            .deleted
            .is_some()
    );
}

#[test]
fn an_image_that_lost_its_name_goes_when_nobody_uses_it() {
    let place = Place::new();
    let name = "r.io/a:v1";
    let old = build(&place, name, BuildForm::Artifact);
    let ImageContent::Module(file) = old.content.clone() else {
        panic!("{old:?}")
    };
    let module = module_at(&place, b"newer");
    let reference: Reference = name.parse().expect("a reference");
    let spec = BuildSpec {
        reference,
        module,
        form: BuildForm::Artifact,
    };
    place.store.build(&spec, &NoForbidden).expect("built");
    assert!(file.path.exists(), "it is in use");
    drop(old);
    fs::write(place.dir.path().join("tmp/left-by-a-killed-process"), b"").expect("a file");
    drop(open(place.dir.path().to_owned()));
    assert!(!file.path.exists(), "nobody uses it");
    assert!(
        place
            .store
            .find(&spec.reference)
            .expect("a store")
            .is_some()
    );
}

#[test]
fn a_part_that_was_lost_makes_the_image_absent_and_not_wrong() {
    let place = Place::new();
    let built = build(&place, "r.io/a:v1", BuildForm::Artifact);
    let ImageContent::Module(file) = &built.content else {
        panic!("{built:?}")
    };
    fs::write(&file.path, b"").expect("a file cut short, as after a power cut");
    assert!(
        place
            .store
            .find(&built.reference)
            .expect("a store")
            .is_none()
    );
    let again = build(&place, "r.io/a:v1", BuildForm::Artifact);
    assert!(
        place
            .store
            .find(&again.reference)
            .expect("a store")
            .is_some()
    );
}

#[test]
fn an_image_is_listed_and_described_by_its_names() {
    let place = Place::new();
    let built = build(&place, "r.io/a:v1", BuildForm::Artifact);
    build(&place, "r.io/b:v1", BuildForm::Artifact);
    let listed = place.store.list().expect("a list");
    let names: Vec<&str> = listed
        .iter()
        .map(|image| image.reference.as_str())
        .collect();
    assert_eq!(names, ["r.io/a:v1", "r.io/b:v1"]);
    assert_eq!(
        (listed[0].kind.as_str(), &listed[0].digest),
        ("module", &built.digest)
    );
    let shown = place
        .store
        .inspect(&built.reference)
        .expect("a description");
    assert_eq!(shown.names.len(), 2);
    assert_eq!(shown.manifest["layers"][0]["mediaType"], "application/wasm");
    assert_eq!(shown.content, [digest_of(&wasm(b"hello"))]);
}
