//! Users, owners and modes: what another user than root may do, wherever it comes from.

use super::*;
use crate::account::{NodeBudget, PodAccount};
use crate::fs::user::{NewPermissions, Permissions};
use crate::fs::{LiveTree, MemoryVolume};
use crate::spec::PodLimits;

/// A user without any privilege, and the group of its volumes.
const UID: u32 = 1000;
const GID: u32 = 2000;
const FS_GROUP: u32 = 3000;

fn somebody() -> User {
    User {
        uid: UID,
        gid: GID,
        groups: vec![FS_GROUP],
    }
}

fn meta(mode: u32, uid: u32, gid: u32) -> Meta {
    Meta {
        mode,
        uid,
        gid,
        mtime: SystemTime::UNIX_EPOCH,
    }
}

/// What images bring: things of root, of the user, of its group, and a folder that all write in.
fn image() -> Tree {
    let mut tree = TreeBuilder::new();
    let text = || FileSource::Bytes(Bytes::from_static(b"text"));
    tree.dir("tmp", meta(0o1777, 0, 0)).unwrap();
    tree.dir("home", meta(0o700, UID, GID)).unwrap();
    tree.dir("secret", meta(0o700, 0, 0)).unwrap();
    tree.file("secret/file", meta(0o644, 0, 0), text()).unwrap();
    tree.dir("drop", meta(0o733, 0, 0)).unwrap();
    for (name, mode, uid, gid) in [
        ("public", 0o644, 0, 0),
        ("private", 0o600, 0, 0),
        ("own", 0o600, UID, 7),
        ("groups", 0o640, 0, GID),
        ("tmp/roots", 0o666, 0, 0),
        ("home/mine", 0o644, UID, GID),
    ] {
        tree.file(name, meta(mode, uid, gid), text()).unwrap();
    }
    tree.build()
}

fn mode_of(view: &View, path: &str) -> (u32, u32, u32) {
    let Permissions { mode, uid, gid } = view.stat(path).expect("it is there").permissions;
    (mode, uid, gid)
}

fn set(view: &View, path: &str, new: NewPermissions) -> Done<()> {
    let set = view
        .files
        .set_permissions_at(path, Last::Follow, new, Mode::Blocking);
    done(set)
}

fn mode(mode: u32) -> NewPermissions {
    NewPermissions {
        mode: Some(mode),
        ..NewPermissions::default()
    }
}

#[test]
fn the_files_of_an_image_open_to_whom_their_modes_say() {
    let dir = tempfile::tempdir().unwrap();
    let view = View::writable(image(), dir.path(), Vec::new()).of(somebody());
    for (path, reads, writes) in [
        ("public", Ok(()), Err(ErrorCode::Access)),
        ("private", Err(ErrorCode::Access), Err(ErrorCode::Access)),
        ("own", Ok(()), Ok(())),
        ("groups", Ok(()), Err(ErrorCode::Access)),
        ("tmp/roots", Ok(()), Ok(())),
        (
            "secret/file",
            Err(ErrorCode::Access),
            Err(ErrorCode::Access),
        ),
    ] {
        assert_eq!(view.read(path).map(drop), reads, "{path}");
        assert_eq!(view.append(path, "x"), writes, "{path}");
    }
    assert_eq!(view.list("secret"), Err(ErrorCode::Access));
    assert_eq!(view.list("drop"), Err(ErrorCode::Access));
    view.write("drop/new", "x").expect("names may be added");
    // Root is kept out of nothing.
    let root = View::writable(image(), dir.path(), Vec::new());
    root.append("private", "x").unwrap();
    root.read("secret/file").unwrap();
}

#[test]
fn names_change_in_folders_that_one_may_write() {
    let dir = tempfile::tempdir().unwrap();
    let view = View::writable(image(), dir.path(), Vec::new()).of(somebody());
    assert_eq!(view.write("new", "x"), Err(ErrorCode::Access));
    assert_eq!(view.make_dir("new"), Err(ErrorCode::Access));
    assert_eq!(view.symlink("x", "new"), Err(ErrorCode::Access));
    assert_eq!(view.unlink("public"), Err(ErrorCode::Access));
    assert_eq!(view.rename("own", "home/own"), Err(ErrorCode::Access));
    assert_eq!(view.link("public", "tmp/public"), Ok(()));
    view.write("home/new", "x").unwrap();
    view.make_dir("home/dir").unwrap();
    view.symlink("new", "home/link").unwrap();
    view.rename("home/mine", "tmp/mine").unwrap();
    assert_eq!(mode_of(&view, "home/new"), (0o644, UID, GID));
    assert_eq!(mode_of(&view, "home/dir"), (0o755, UID, GID));
    assert_eq!(mode_of(&view, "home/link"), (0o777, UID, GID));
    assert_eq!(view.unlink("tmp/roots"), Err(ErrorCode::NotPermitted));
    let moved = view.rename("tmp/mine", "tmp/roots");
    assert_eq!(moved, Err(ErrorCode::NotPermitted));
    view.unlink("tmp/mine").unwrap();
}

#[test]
fn modes_and_owners_are_changed_by_whom_they_belong_to() {
    let dir = tempfile::tempdir().unwrap();
    let view = View::writable(image(), dir.path(), Vec::new()).of(somebody());
    assert_eq!(
        set(&view, "public", mode(0o666)),
        Err(ErrorCode::NotPermitted)
    );
    set(&view, "own", mode(0o400)).unwrap();
    assert_eq!(mode_of(&view, "own"), (0o400, UID, 7));
    assert_eq!(view.append("own", "x"), Err(ErrorCode::Access));
    set(&view, "home", mode(0o000)).unwrap();
    assert_eq!(view.read("home/mine"), Err(ErrorCode::Access));
    let root = View::writable(image(), dir.path(), Vec::new());
    let owner = NewPermissions {
        mode: None,
        uid: Some(UID),
        gid: Some(GID),
    };
    set(&root, "private", owner).unwrap();
    assert_eq!(mode_of(&root, "private"), (0o600, UID, GID));
    let root = root.of(somebody());
    root.append("private", "x").expect("it is the user's now");
    let closed = View::read_only(image(), Vec::new());
    assert_eq!(set(&closed, "own", mode(0o777)), Err(ErrorCode::ReadOnly));
}

#[test]
fn volumes_belong_to_the_group_of_the_pod() {
    let dir = tempfile::tempdir().unwrap();
    let mut secret = TreeBuilder::new();
    let text = FileSource::Bytes(Bytes::from_static(b"text"));
    secret.file("key", meta(0o400, 0, 0), text).unwrap();
    let secret = MountSource::Live(LiveTree::new(secret.build()));
    let account = PodAccount::new(PodLimits::default(), Arc::new(NodeBudget::new(1 << 30)));
    let memory = MountSource::Memory(MemoryVolume::new(account, None, Some(FS_GROUP)));
    let host = tempfile::tempdir().unwrap();
    let mounts = |group| {
        let mount = |path, source: &MountSource| Mount {
            group,
            ..mount(path, source.clone(), Access::ReadWrite)
        };
        let host = MountSource::HostDir(host.path().to_owned());
        vec![
            mount("/key", &secret),
            mount("/m", &memory),
            mount("/h", &host),
        ]
    };
    let with = View::writable(image(), dir.path(), mounts(Some(FS_GROUP))).of(somebody());
    assert_eq!(mode_of(&with, "key/key"), (0o440, 0, FS_GROUP));
    with.read("key/key").unwrap();
    assert_eq!(mode_of(&with, "m"), (0o2777, 0, FS_GROUP));
    with.make_dir("m/dir").unwrap();
    with.write("m/dir/file", "x").unwrap();
    assert_eq!(mode_of(&with, "m/dir"), (0o2755, UID, FS_GROUP));
    assert_eq!(mode_of(&with, "m/dir/file"), (0o644, UID, FS_GROUP));
    with.write("h/file", "x").unwrap();
    let (_, uid, gid) = mode_of(&with, "h/file");
    assert_eq!((uid, gid), (UID, FS_GROUP));
    let (shown, uid, gid) = mode_of(&with, "h");
    assert_eq!((shown & 0o2070, uid, gid), (0o2070, 0, FS_GROUP));
    let without = View::writable(image(), dir.path(), mounts(None)).of(somebody());
    assert_eq!(without.read("key/key"), Err(ErrorCode::Access));
    assert_eq!(mode_of(&without, "h/file").2, GID);
}

/// What the host looks up in a container, it finds whoever the container runs as.
#[test]
fn the_host_reads_as_root() {
    let view = View::read_only(image(), Vec::new()).of(somebody());
    assert_eq!(&*view.files.read_file("/secret/file").unwrap(), b"text");
}

#[cfg(unix)]
#[test]
fn a_mode_reaches_the_host() {
    use std::os::unix::fs::PermissionsExt as _;

    let (dir, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = MountSource::HostDir(host.path().to_owned());
    let mounts = vec![mount("/h", source, Access::ReadWrite)];
    let view = View::writable(image(), dir.path(), mounts).of(somebody());
    view.write("h/run", "x").unwrap();
    set(&view, "h/run", mode(0o750)).unwrap();
    let found = host.path().join("run").metadata().unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o750);
    assert_eq!(mode_of(&view, "h/run"), (0o750, UID, GID));
    let given = NewPermissions {
        mode: None,
        uid: None,
        gid: Some(FS_GROUP),
    };
    assert_eq!(set(&view, "h/run", given), Err(ErrorCode::Unsupported));
}
