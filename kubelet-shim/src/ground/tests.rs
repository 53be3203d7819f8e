//! Host paths and sub-path expressions.

use super::*;

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
}

// Container runtimes make the folder that a bind mount is to come from.
#[test]
fn a_host_path_without_a_type_is_made_when_nothing_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/deep");
    let mount = |path: &Path| host_path(path.to_owned(), HostPathCheck::Unchecked);
    assert!(matches!(mount(&path), Ok(MountSource::HostDir(_))));
    assert!(path.is_dir());
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(matches!(mount(&file), Ok(MountSource::HostFile(_))));
    assert_eq!(fs::read(&file).unwrap(), b"x", "what is there stays");
}

#[test]
fn a_host_path_that_is_missing_is_told_by_its_type() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none");
    for (check, wanted) in [
        (HostPathCheck::Directory, "a directory"),
        (HostPathCheck::File, "a file"),
    ] {
        let Err(error) = host_path(path.clone(), check) else {
            panic!("mounted: {check:?}");
        };
        let path = path.display();
        let told = format!("hostPath type check failed: {path} is not {wanted}");
        assert_eq!(error.to_string(), told);
    }
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
