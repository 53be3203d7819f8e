//! Volumes: layout, keys and refusals.

use std::collections::BTreeMap;

use bytes::Bytes;
use coracle_runtime::fs::{FileSystem, FileSystemSpec, Tree, Upper};

use super::*;
use crate::environment::{ObjectData, Objects};
use crate::spec::{KeyItem, ObjectRef, ObjectVolume};

fn volume(items: &[(&str, &str)], optional: bool) -> ObjectVolume {
    let item = |(key, path): &(&str, &str)| KeyItem {
        key: (*key).to_owned(),
        path: (*path).to_owned(),
        mode: None,
    };
    let object = ObjectRef {
        kind: ObjectKind::ConfigMap,
        name: "m".to_owned(),
        optional,
    };
    ObjectVolume {
        object,
        items: items.iter().map(item).collect(),
        default_mode: 0o644,
    }
}

fn objects() -> Objects {
    let data = ObjectData {
        data: BTreeMap::from([
            ("a".to_owned(), Bytes::from_static(b"one")),
            ("b".to_owned(), Bytes::from_static(b"two")),
        ]),
        binary: BTreeMap::from([("c".to_owned(), Bytes::from_static(b"\xff"))]),
    };
    Objects::from([((ObjectKind::ConfigMap, "m".to_owned()), data)])
}

/// Mounts the volume at `/v` and reads files as a container would.
fn check(volume: &ObjectVolume, expected: &[(&str, &[u8])]) {
    let tree = object_tree(volume, &objects(), SystemTime::UNIX_EPOCH).unwrap();
    let files = FileSystem::new(FileSystemSpec {
        root: Arc::new(Tree::empty()),
        upper: Upper::ReadOnly,
        mounts: vec![Mount {
            path: "/v".to_owned(),
            source: MountSource::Live(LiveTree::new(tree)),
            sub_path: None,
            access: Access::ReadOnly,
        }],
    })
    .unwrap();
    for (path, content) in expected {
        assert_eq!(files.read_file(path).unwrap(), *content, "{path}");
    }
}

#[test]
fn every_key_is_a_file_behind_the_data_link() {
    let expected: [(&str, &[u8]); 4] = [
        ("/v/a", b"one"),
        ("/v/b", b"two"),
        ("/v/c", b"\xff"),
        ("/v/..data/a", b"one"),
    ];
    check(&volume(&[], false), &expected);
}

#[test]
fn items_choose_keys_and_paths() {
    check(
        &volume(&[("a", "x/y"), ("b", "x/z")], false),
        &[("/v/x/y", b"one"), ("/v/x/z", b"two")],
    );
}

#[test]
fn a_missing_key_or_object_is_told_unless_it_is_optional() {
    let error =
        |volume: &ObjectVolume| object_tree(volume, &objects(), SystemTime::UNIX_EPOCH).err();
    let text = error(&volume(&[("gone", "x")], false)).unwrap().to_string();
    assert_eq!(text, "configmap references non-existent config key: gone");
    assert!(error(&volume(&[("gone", "x")], true)).is_none());
    let mut absent = volume(&[], false);
    absent.object.name = "gone".to_owned();
    assert_eq!(
        error(&absent).unwrap().to_string(),
        "configmap \"gone\" not found"
    );
    absent.object.optional = true;
    assert!(error(&absent).is_none());
}

#[test]
fn a_host_path_must_be_what_its_type_says() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let check = |path: &Path, check, is_fine: bool| {
        assert_eq!(
            host_path(path.to_owned(), check).is_ok(),
            is_fine,
            "{check:?}"
        );
    };
    check(&file, HostPathCheck::File, false);
    check(&file, HostPathCheck::FileOrCreate, true);
    check(&file, HostPathCheck::FileOrCreate, true);
    check(&file, HostPathCheck::File, true);
    check(&file, HostPathCheck::Directory, false);
    check(folder.path(), HostPathCheck::Directory, true);
    check(folder.path(), HostPathCheck::File, false);
    check(
        &folder.path().join("new/deep"),
        HostPathCheck::Directory,
        false,
    );
    check(
        &folder.path().join("new/deep"),
        HostPathCheck::DirectoryOrCreate,
        true,
    );
    check(&folder.path().join("none"), HostPathCheck::Unchecked, false);
}

#[test]
fn a_sub_path_expression_is_complete_and_stays_inside() {
    let variables = [
        ("POD".to_owned(), "p".to_owned()),
        ("UP".to_owned(), "..".to_owned()),
    ];
    for (expression, expected) in [
        ("logs/$(POD)", Some("logs/p")),
        ("$(GONE)", None),
        ("$(UP)/x", None),
        ("/$(POD)", None),
        ("", None),
    ] {
        assert_eq!(
            expanded(expression, &variables).as_deref(),
            expected,
            "{expression}"
        );
    }
}
