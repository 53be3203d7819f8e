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
