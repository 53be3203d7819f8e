//! Trees: what a builder accepts, and what resolving in one means.

use std::io::Write;

use super::*;
use crate::fs::{FileExtent, FsError};

/// A path that could climb out of a tree or confuse its reader is refused whole.
#[test]
fn hostile_paths_are_refused() {
    let long_name = "n".repeat(256);
    let long_path = "p/".repeat(2049) + "x";
    for path in [
        "..", "../a", "a/../b", "a/..", "/", "/etc", "a//b", "a/", "./a", "a/./b", "a\0b",
        &long_name, &long_path,
    ] {
        let mut builder = TreeBuilder::new();
        let source = FileSource::Bytes(Bytes::new());
        let refused = [
            builder.dir(path, meta()).is_err(),
            builder.file(path, meta(), source).is_err(),
            builder.symlink(path, "x", meta()).is_err(),
            builder.hardlink(path, "x").is_err(),
        ];
        assert_eq!(refused, [true; 4], "{path:?}");
        assert_eq!(
            builder.build().entries(),
            1,
            "{path:?} left something behind"
        );
    }
    assert!(TreeBuilder::new().symlink("a", "", meta()).is_err());
    assert!(TreeBuilder::new().symlink("a", "x\0y", meta()).is_err());
    assert!(TreeBuilder::new().symlink("a", &long_path, meta()).is_err());
}

#[test]
fn contradictions_are_refused() {
    let mut builder = TreeBuilder::new();
    let source = || FileSource::Bytes(Bytes::new());
    builder.file("file", meta(), source()).unwrap();
    builder.symlink("link", "dir", meta()).unwrap();
    builder.file("dir/inside", meta(), source()).unwrap();
    let conflicts =
        |result: Result<&mut TreeBuilder, FsError>| matches!(result, Err(FsError::Conflict { .. }));
    assert!(
        conflicts(builder.file("file/below", meta(), source())),
        "a file as a folder"
    );
    assert!(
        conflicts(builder.file("link/below", meta(), source())),
        "a link as a folder"
    );
    assert!(
        conflicts(builder.dir("file", meta())),
        "a folder over a file"
    );
    assert!(
        conflicts(builder.file("dir", meta(), source())),
        "a file over a folder"
    );
    assert!(
        conflicts(builder.hardlink("other", "dir")),
        "a hard link to a folder"
    );
    assert!(
        conflicts(builder.hardlink("other", "nothing")),
        "a hard link to nothing"
    );
    assert!(
        conflicts(builder.file("", meta(), source())),
        "a file as the root"
    );
}

/// Projected volumes promise that the last of two sources wins.
#[test]
fn the_last_file_of_a_name_wins() {
    let view = View::read_only(
        tree(&[
            "a=1", "a=2", "b=old", "c==b", "b=new", "d=x", "d->a", "e=1", "e==e",
        ]),
        vec![],
    );
    assert_eq!(view.read("a"), Ok("2".into()));
    assert_eq!(view.read("b"), Ok("new".into()));
    assert_eq!(
        view.read("c"),
        Ok("old".into()),
        "the other name keeps its file"
    );
    assert_eq!(
        view.read("d"),
        Ok("2".into()),
        "a link may take a file's place"
    );
    assert_eq!(
        view.stat("e").unwrap().links,
        1,
        "a name linked to itself is one name"
    );
}

#[test]
fn missing_parents_are_made_up_and_described_later() {
    let view = View::read_only(tree(&["a/b/c=x", "a/"]), vec![]);
    assert_eq!(view.list("a"), Ok(vec!["b/".into()]));
    assert_eq!(view.stat("a").unwrap().times.modified, meta().mtime);
    assert_eq!(
        view.stat("a/b").unwrap().times.modified,
        SystemTime::UNIX_EPOCH
    );
}

#[test]
fn paths_resolve_inside_the_root() {
    let view = View::read_only(
        tree(&[
            "etc/hosts=hosts",
            "abs->/etc/hosts",
            "climb->../../../../etc/hosts",
            "etc/up->../dir",
            "dir/file=file",
            "dir/self->.",
            "loop1->loop2",
            "loop2->loop1",
            "dangling->nowhere",
            "slash->dir/",
            "toroot->/",
        ]),
        vec![],
    );
    let check = |path: &str, expected: Done<&str>| {
        assert_eq!(view.read(path), expected.map(str::to_owned), "{path}");
    };
    check("etc/hosts", Ok("hosts"));
    check("etc//hosts", Ok("hosts"));
    check("./etc/./hosts", Ok("hosts"));
    check("../../etc/hosts", Ok("hosts"));
    check("dir/../../etc/hosts", Ok("hosts"));
    check("abs", Ok("hosts"));
    check("climb", Ok("hosts"));
    check("etc/up/file", Ok("file"));
    check("dir/self/self/file", Ok("file"));
    check("slash/file", Ok("file"));
    check("toroot/toroot/abs", Ok("hosts"));
    check("loop1", Err(ErrorCode::Loop));
    check("dangling", Err(ErrorCode::NoEntry));
    check("etc/hosts/", Err(ErrorCode::NotDirectory));
    check("etc/hosts/.", Err(ErrorCode::NotDirectory));
    check("etc/hosts/x", Err(ErrorCode::NotDirectory));
    check("etc/hosts/..", Err(ErrorCode::NotDirectory));
    check("nowhere/x", Err(ErrorCode::NoEntry));
    check("nowhere/../etc/hosts", Err(ErrorCode::NoEntry));
    check("", Err(ErrorCode::NoEntry));
    check("/etc/hosts", Err(ErrorCode::NotPermitted));
    check("etc\0", Err(ErrorCode::Invalid));
    check(&"x".repeat(256), Err(ErrorCode::NameTooLong));
    check(&"x/".repeat(3000), Err(ErrorCode::NameTooLong));
    check("etc", Err(ErrorCode::IsDirectory));
    assert_eq!(
        view.dir("etc").unwrap().read("../dir/file"),
        Ok("file".into())
    );
    assert_eq!(
        view.dir("etc").unwrap().read("../../../abs"),
        Ok("hosts".into())
    );
    assert_eq!(view.read_link("dangling"), Ok("nowhere".into()));
    assert_eq!(view.read_link("etc"), Err(ErrorCode::Invalid));
}

/// A chain of links is followed as far as Linux follows one.
#[test]
fn forty_links_are_followed_and_no_more() {
    let mut entries = vec!["l0=end".to_owned()];
    entries.extend((1..=41).map(|n| format!("l{n}->l{}", n - 1)));
    let view = View::read_only(
        tree(&entries.iter().map(String::as_str).collect::<Vec<_>>()),
        vec![],
    );
    assert_eq!(view.read("l40"), Ok("end".into()));
    assert_eq!(view.read("l41"), Err(ErrorCode::Loop));
}

/// Layers are read where they lie, so an extent's borders must hold.
#[test]
fn an_extent_shows_its_part_of_the_layer_only() {
    let mut layer = tempfile::tempfile().unwrap();
    layer.write_all(b"before|content|after").unwrap();
    let extent = FileExtent {
        file: Arc::new(layer),
        offset: 7,
        len: 7,
    };
    let mut builder = TreeBuilder::new();
    builder
        .file("f", meta(), FileSource::Extent(extent))
        .unwrap();
    let view = View::read_only(builder.build(), vec![]);
    assert_eq!(view.read("f"), Ok("content".into()));
    assert_eq!(view.files.read_file("/f").unwrap(), "content");
    let file = view.file("f", How::read()).unwrap();
    let read = |offset, len| done(file.read(offset, len, Mode::Blocking)).unwrap();
    assert_eq!(read(5, 100), "nt");
    assert_eq!(read(7, 1), "");
    assert_eq!(read(u64::MAX, 1), "");
    assert!(
        matches!(file.read(0, 1, Mode::Inline), Err(Fault::Blocks)),
        "a disk is never awaited inline"
    );
}

#[test]
fn the_host_finds_a_program_as_the_container_would() {
    let view = View::read_only(
        tree(&["bin/app.wasm=code", "app->/bin/app.wasm", "dir/"]),
        vec![],
    );
    for path in ["/app", "app", "/bin/app.wasm", "/bin/../../app"] {
        assert_eq!(view.files.read_file(path).unwrap(), "code", "{path}");
    }
    assert!(matches!(
        view.files.open_extent("/app"),
        Ok(FileSource::Bytes(_))
    ));
    for path in ["/nothing", "/dir", "", "/app/x"] {
        assert!(view.files.read_file(path).is_err(), "{path}");
    }
}
