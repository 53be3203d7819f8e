//! The writable layer: copying up, hiding, renaming, limits.

use std::fs;

use super::*;
use crate::fs::node::NewTimes;

fn image() -> Tree {
    tree(&[
        "dir/file=lower",
        "dir/sub/deep=deep",
        "link->dir/file",
        "one=shared",
        "dir/two==one",
    ])
}

fn with_image() -> (tempfile::TempDir, View) {
    let dir = tempfile::tempdir().unwrap();
    let view = View::writable(image(), dir.path(), vec![]);
    (dir, view)
}

#[test]
fn nothing_reaches_the_host_before_the_first_byte_is_written() {
    let (dir, view) = with_image();
    view.make_dir("new").unwrap();
    view.write("new/empty", "").unwrap();
    view.rename("dir", "moved").unwrap();
    view.unlink("moved/file").unwrap();
    assert!(!dir.path().join("upper").exists());
    view.write("new/full", "x").unwrap();
    assert_eq!(fs::read_dir(dir.path().join("upper")).unwrap().count(), 1);
    drop(view);
    assert!(
        !dir.path().join("upper").exists(),
        "numbered files end with their container"
    );
}

/// Open files are the file, not a copy of a moment: what one descriptor writes another reads.
#[test]
fn a_file_opened_before_it_was_copied_up_sees_the_change() {
    let (_dir, view) = with_image();
    let before = view.file("dir/file", How::read()).unwrap();
    view.append("dir/file", "+upper").unwrap();
    assert_eq!(content(&before), Ok("lower+upper".into()));
    assert_eq!(view.read("link"), Ok("lower+upper".into()));
}

#[test]
fn hard_links_of_the_image_stay_one_file() {
    let (_dir, view) = with_image();
    assert_eq!(view.stat("one").unwrap().links, 2);
    view.append("one", "!").unwrap();
    assert_eq!(view.read("dir/two"), Ok("shared!".into()));
    view.unlink("one").unwrap();
    assert_eq!(view.read("dir/two"), Ok("shared!".into()));
    assert_eq!(view.stat("dir/two").unwrap().links, 1);
}

#[test]
fn another_container_sees_none_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = Arc::new(image());
    let view = |name: &str| {
        let upper = Upper::Writable {
            dir: dir.path().join(name),
            limit: u64::MAX,
        };
        let spec = FileSystemSpec {
            root: Arc::clone(&root),
            upper,
            mounts: vec![],
            user: User::default(),
        };
        let files = FileSystem::new(spec).unwrap();
        View {
            root: files.root(),
            files,
        }
    };
    let (a, b) = (view("a"), view("b"));
    a.write("dir/file", "mine").unwrap();
    a.unlink("link").unwrap();
    assert_eq!(b.read("link"), Ok("lower".into()));
}

#[test]
fn an_open_file_outlives_its_name() {
    let (dir, view) = with_image();
    view.write("new", "text").unwrap();
    let (old, new) = (
        view.file("dir/file", How::read()).unwrap(),
        view.file("new", writing()).unwrap(),
    );
    view.unlink("dir/file").unwrap();
    view.unlink("new").unwrap();
    view.write("new", "other").unwrap();
    assert_eq!(content(&old), Ok("lower".into()));
    done(new.write(WriteAt::End, b"+", Mode::Blocking)).unwrap();
    assert_eq!(content(&new), Ok("text+".into()));
    assert_eq!(done(new.stat(Mode::Blocking)).unwrap().links, 0);
    drop(new);
    assert_eq!(
        fs::read_dir(dir.path().join("upper")).unwrap().count(),
        1,
        "its data is gone"
    );
    assert_eq!(view.read("new"), Ok("other".into()));
}

/// Without a mark an open descriptor of a removed folder would show the image's files again.
#[test]
fn a_removed_folder_stays_empty_for_who_holds_it() {
    let (_dir, view) = with_image();
    let sub = view.dir("dir/sub").unwrap();
    view.unlink("dir/sub/deep").unwrap();
    view.remove_dir("dir/sub").unwrap();
    view.make_dir("dir/sub").unwrap();
    assert_eq!(sub.read("deep"), Err(ErrorCode::NoEntry));
    assert_eq!(sub.write("new", "x"), Err(ErrorCode::NoEntry));
    assert_eq!(view.list("dir/sub"), Ok(vec![]));
}

#[test]
fn a_folder_held_open_is_followed_through_renames() {
    let (_dir, view) = with_image();
    let sub = view.dir("dir/sub").unwrap();
    view.make_dir("new").unwrap();
    view.rename("dir/sub", "new/place").unwrap();
    sub.write("more", "x").unwrap();
    assert_eq!(
        view.list("new/place"),
        Ok(vec!["deep".into(), "more".into()])
    );
    assert_eq!(sub.list(".."), Ok(vec!["place/".into()]));
    assert_eq!(
        view.rename("new", "new/place/below"),
        Err(ErrorCode::Invalid)
    );
    assert_eq!(
        sub.rename("../../new", "x"),
        Err(ErrorCode::Invalid),
        "found through `..` too"
    );
}

#[test]
fn the_byte_limit_is_kept_and_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let upper = Upper::Writable {
        dir: dir.path().join("upper"),
        limit: 2000,
    };
    let view = View::new(tree(&["big=0123456789", "small=x"]), upper, vec![]);
    view.write("a", &"x".repeat(1000)).unwrap();
    let full = view.used();
    assert_eq!(
        view.append("a", &"x".repeat(1000)),
        Err(ErrorCode::InsufficientSpace)
    );
    assert_eq!(view.stat("a").unwrap().size, 1000);
    let file = view.file("a", writing()).unwrap();
    assert_eq!(
        done(file.set_len(1 << 60, Mode::Blocking)),
        Err(ErrorCode::InsufficientSpace)
    );
    let far = file.write(WriteAt::Offset(u64::MAX - 1), b"xx", Mode::Blocking);
    assert_eq!(done(far), Err(ErrorCode::FileTooLarge));
    assert_eq!(
        done(file.write(WriteAt::Offset(1 << 50), b"x", Mode::Blocking)),
        Err(ErrorCode::InsufficientSpace)
    );
    assert_eq!(view.used(), full);
    done(file.set_len(500, Mode::Blocking)).unwrap();
    assert_eq!(view.used(), full - 500);
    view.append("big", "+").unwrap();
    assert_eq!(view.used(), full - 500 + 11);
    drop(file);
    view.unlink("a").unwrap();
    view.unlink("big").unwrap();
    assert_eq!(view.used(), 0);
}

/// Entries without data cost memory of the agent, so they count too.
#[test]
fn empty_files_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let upper = Upper::Writable {
        dir: dir.path().join("upper"),
        limit: 10_000,
    };
    let view = View::new(Tree::empty(), upper, vec![]);
    let made = (0..1000)
        .take_while(|n| view.make_dir(&n.to_string()).is_ok())
        .count();
    assert!((30..40).contains(&made), "{made}");
    assert_eq!(view.write("file", ""), Err(ErrorCode::InsufficientSpace));
    assert_eq!(
        view.symlink("target", "link"),
        Err(ErrorCode::InsufficientSpace)
    );
    for n in 0..made {
        view.remove_dir(&n.to_string()).unwrap();
    }
    assert_eq!(view.used(), 0);
}

#[test]
fn a_read_only_root_refuses_every_change() {
    let view = View::read_only(image(), vec![]);
    let read_only = Err(ErrorCode::ReadOnly);
    assert_eq!(view.write("dir/file", "x"), read_only);
    assert_eq!(view.write("new", "x"), read_only);
    assert_eq!(view.append("dir/file", "x"), read_only);
    assert_eq!(view.make_dir("new"), read_only);
    assert_eq!(view.remove_dir("dir/sub"), read_only);
    assert_eq!(view.unlink("link"), read_only);
    assert_eq!(view.rename("link", "new"), read_only);
    assert_eq!(view.link("one", "new"), read_only);
    assert_eq!(view.symlink("one", "new"), read_only);
    let times = NewTimes {
        accessed: None,
        modified: Some(SystemTime::now()),
    };
    assert_eq!(
        done(view.files.set_times(&view.root, times, Mode::Blocking)),
        read_only
    );
    let file = view.file("dir/file", How::read()).unwrap();
    assert_eq!(done(file.set_times(times, Mode::Blocking)), read_only);
    assert_eq!(
        done(file.write(WriteAt::End, b"x", Mode::Blocking)),
        Err(ErrorCode::BadDescriptor)
    );
    assert_eq!(view.read("link"), Ok("lower".into()));
}

#[test]
fn identity_and_times_survive_copying_up() {
    let (_dir, view) = with_image();
    let identity = || {
        let (node, _) = done(
            view.files
                .find(&view.root, "dir/file", Last::Keep, Mode::Blocking),
        )
        .unwrap();
        done(view.files.identity(&node, Mode::Blocking)).unwrap()
    };
    let before = identity();
    let times = NewTimes {
        accessed: None,
        modified: Some(SystemTime::UNIX_EPOCH),
    };
    let file = view.file("dir/file", writing()).unwrap();
    assert_eq!(done(file.identity(Mode::Blocking)), Ok(before));
    done(file.set_times(times, Mode::Blocking)).unwrap();
    drop(file);
    assert_eq!(
        view.stat("dir/file").unwrap().times.modified,
        SystemTime::UNIX_EPOCH
    );
    view.append("dir/file", "x").unwrap();
    assert!(view.stat("dir/file").unwrap().times.modified > meta().mtime);
    assert_eq!(identity(), before);
}

#[test]
fn opening_keeps_its_promises() {
    let (_dir, view) = with_image();
    let create = How {
        create: true,
        ..writing()
    };
    let exclusive = How {
        exclusive: true,
        ..create
    };
    let code = |path: &str, how: How| view.open(path, how).map(drop);
    assert_eq!(code("dir/file", exclusive), Err(ErrorCode::Exist));
    assert_eq!(code("dir", exclusive), Err(ErrorCode::Exist));
    assert_eq!(code("link", exclusive), Err(ErrorCode::Exist));
    assert_eq!(code("dir", create), Err(ErrorCode::IsDirectory));
    assert_eq!(code("new/", create), Err(ErrorCode::IsDirectory));
    assert_eq!(code("none/new", create), Err(ErrorCode::NoEntry));
    assert_eq!(
        code(
            "new",
            How {
                directory: true,
                ..create
            }
        ),
        Err(ErrorCode::Invalid)
    );
    assert_eq!(
        code(
            "dir/file",
            How {
                directory: true,
                ..How::read()
            }
        ),
        Err(ErrorCode::NotDirectory)
    );
    assert_eq!(
        code(
            "link",
            How {
                last: Last::Keep,
                ..How::read()
            }
        ),
        Err(ErrorCode::Loop)
    );
    view.symlink("dir/made", "through").unwrap();
    view.write("through", "x").unwrap();
    assert_eq!(
        view.read("dir/made"),
        Ok("x".into()),
        "creating follows a dangling link"
    );
    assert_eq!(view.unlink("dir"), Err(ErrorCode::IsDirectory));
    assert_eq!(view.remove_dir("dir"), Err(ErrorCode::NotEmpty));
    assert_eq!(view.remove_dir("one"), Err(ErrorCode::NotDirectory));
    assert_eq!(view.make_dir("dir"), Err(ErrorCode::Exist));
    assert_eq!(view.make_dir("."), Err(ErrorCode::Exist));
    assert_eq!(view.rename(".", "x"), Err(ErrorCode::Busy));
    assert_eq!(view.rename("one", "dir"), Err(ErrorCode::IsDirectory));
    assert_eq!(view.rename("dir", "one"), Err(ErrorCode::NotDirectory));
    assert_eq!(view.link("dir", "x"), Err(ErrorCode::NotPermitted));
    view.make_dir("slash/").unwrap();
}
