//! Mounts: where they appear, what they cover, and that none is a way out.

use std::fs;

use super::*;
use crate::fs::{FsError, LiveTree};

fn live(entries: &[&str]) -> MountSource {
    MountSource::Live(LiveTree::new(tree(entries)))
}

fn at(path: &str, sub_path: &str, source: MountSource) -> Mount {
    Mount {
        sub_path: Some(sub_path.to_owned()),
        ..mount(path, source, Access::ReadWrite)
    }
}

#[test]
fn mounts_appear_in_listings_and_cover_what_is_there() {
    let image = || tree(&["etc/passwd=p", "data/covered=x", "run/", "var/run->/run"]);
    let mounts = || {
        vec![
            mount("/data/deep/er", live(&["deeper=1"]), Access::ReadOnly),
            mount(
                "/data",
                live(&["top=1", "deep=a file in the way"]),
                Access::ReadOnly,
            ),
            mount("/made/up/here", live(&["here=1"]), Access::ReadOnly),
            mount("/var/run/secrets/", live(&["token=t"]), Access::ReadOnly),
        ]
    };
    let dir = tempfile::tempdir().unwrap();
    for view in [
        View::writable(image(), dir.path(), mounts()),
        View::read_only(image(), mounts()),
    ] {
        let list = |path: &str| view.list(path).unwrap().join(" ");
        assert_eq!(list("."), "data/ etc/ made/ run/ var/");
        assert_eq!(list("data"), "deep/ top");
        assert_eq!(list("data/deep"), "er/");
        assert_eq!(list("data/deep/er"), "deeper");
        assert_eq!(list("made/up"), "here/");
        assert_eq!(
            list("run"),
            "secrets/",
            "links on the way to a mount are followed"
        );
        assert_eq!(view.read("var/run/secrets/token"), Ok("t".into()));
        assert_eq!(view.read("data/covered"), Err(ErrorCode::NoEntry));
        assert_eq!(list("data/deep/er/../.."), "deep/ top");
        assert_eq!(list("data/deep/er/../../.."), list("."));
        assert_eq!(
            view.dir("data/deep/er")
                .unwrap()
                .read("../../../etc/passwd"),
            Ok("p".into())
        );
    }
}

/// In a container the folders above a mount are ordinary folders.
#[test]
fn folders_made_for_a_mount_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let mounts = vec![mount("/a/b/c", live(&["x=1"]), Access::ReadOnly)];
    let view = View::writable(Tree::empty(), dir.path(), mounts);
    assert_eq!(view.used(), 0);
    view.write("a/b/file", "1").unwrap();
    assert_eq!(view.list("a/b"), Ok(vec!["c/".into(), "file".into()]));
    for path in ["a", "a/b", "a/b/c"] {
        assert_eq!(view.rename(path, "moved"), Err(ErrorCode::Busy), "{path}");
        assert_eq!(view.remove_dir(path), Err(ErrorCode::Busy), "{path}");
    }
    assert_eq!(view.write("a/b/c/y", "1"), Err(ErrorCode::ReadOnly));
    assert_eq!(view.rename("a/b/file", "a/b/c/y"), Err(ErrorCode::ReadOnly));
}

#[test]
fn a_host_folder_is_shared_with_the_host() {
    let host = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(host.path().join("theirs"), "t").unwrap();
    let source = || MountSource::HostDir(host.path().to_owned());
    let mounts = vec![
        mount("/w", source(), Access::ReadWrite),
        mount("/r", source(), Access::ReadOnly),
    ];
    let view = View::writable(tree(&["file=f"]), dir.path(), mounts);
    view.write("w/mine", "one").unwrap();
    view.append("w/mine", "two").unwrap();
    view.make_dir("w/d").unwrap();
    view.rename("w/mine", "w/d/mine").unwrap();
    view.link("w/d/mine", "w/again").unwrap();
    assert_eq!(
        fs::read_to_string(host.path().join("d/mine")).unwrap(),
        "onetwo"
    );
    assert_eq!(
        view.list("r"),
        Ok(vec!["again".into(), "d/".into(), "theirs".into()])
    );
    assert_eq!(view.read("r/d/../theirs"), Ok("t".into()));
    assert_eq!(view.write("r/theirs", "x"), Err(ErrorCode::ReadOnly));
    assert_eq!(view.unlink("r/theirs"), Err(ErrorCode::ReadOnly));
    assert_eq!(view.make_dir("r/new"), Err(ErrorCode::ReadOnly));
    assert_eq!(view.rename("file", "w/file"), Err(ErrorCode::CrossDevice));
    assert_eq!(view.link("w/again", "file2"), Err(ErrorCode::CrossDevice));
    assert_eq!(view.remove_dir("w/d"), Err(ErrorCode::NotEmpty));
    view.unlink("w/d/mine").unwrap();
    view.remove_dir("w/d").unwrap();
    assert_eq!(view.unlink("w/d"), Err(ErrorCode::NoEntry));
    let identity = |path: &str| {
        let (node, _) = done(
            view.files
                .find(&view.root, path, Last::Keep, Mode::Blocking),
        )
        .unwrap();
        done(view.files.identity(&node, Mode::Blocking)).unwrap()
    };
    #[cfg(unix)]
    assert_eq!(identity("w/again"), identity("r/again"));
    assert_ne!(identity("w/again"), identity("w/theirs"));
    let spec = mount(
        "/x",
        MountSource::HostDir(host.path().join("missing")),
        Access::ReadOnly,
    );
    assert!(refused(spec));
    assert!(refused(mount(
        "/x",
        MountSource::HostDir(host.path().join("theirs")),
        Access::ReadOnly
    )));
}

/// Containers of a pod write one log in a shared folder.
#[test]
fn appending_containers_take_turns() {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("log"), "").unwrap();
    let source = || MountSource::HostDir(host.path().to_owned());
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let mounts = vec![mount("/w", source(), Access::ReadWrite)];
            scope.spawn(move || {
                let view = View::read_only(Tree::empty(), mounts);
                for n in 0..200 {
                    view.append("w/log", &format!("{name}{n}\n")).unwrap();
                }
            });
        }
    });
    let log = fs::read_to_string(host.path().join("log")).unwrap();
    assert_eq!(log.lines().count(), 600);
    for name in ["a", "b", "c"] {
        let own: Vec<_> = log
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .collect();
        assert_eq!(own, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

/// The host's disk is never waited for on a guest's thread.
#[test]
fn a_host_folder_is_not_touched_inline() {
    let host = tempfile::tempdir().unwrap();
    let source = MountSource::HostDir(host.path().to_owned());
    let view = View::read_only(
        tree(&["file=f"]),
        vec![mount("/w", source, Access::ReadWrite)],
    );
    let find = |path: &str| {
        view.files
            .find(&view.root, path, Last::Follow, Mode::Inline)
    };
    assert!(find("file").is_ok());
    assert!(find("w").is_ok());
    assert!(matches!(find("w/x"), Err(Fault::Blocks)));
    let create = How {
        create: true,
        ..writing()
    };
    let opened = view.files.open_at(&view.root, "w/x", create, Mode::Inline);
    assert!(matches!(opened, Err(Fault::Blocks)));
    assert_eq!(
        fs::read_dir(host.path()).unwrap().count(),
        0,
        "nothing was begun"
    );
}

/// Links in a host folder mean what they mean in the container; none reaches the host beside the folder.
#[cfg(unix)]
#[test]
fn no_link_leads_out_of_a_host_folder() {
    use std::os::unix::fs::symlink;
    let host = tempfile::tempdir().unwrap();
    let inside = host.path().join("inside");
    fs::create_dir_all(inside.join("dir")).unwrap();
    fs::write(host.path().join("secret"), "host").unwrap();
    let absolute = host.path().join("secret");
    symlink("../secret", inside.join("up")).unwrap();
    symlink(&absolute, inside.join("abs")).unwrap();
    symlink("/etc/passwd", inside.join("passwd")).unwrap();
    symlink("..", inside.join("dir/parent")).unwrap();
    symlink("../..", inside.join("dir/out")).unwrap();
    let source = || MountSource::HostDir(inside.clone());
    let dir = tempfile::tempdir().unwrap();
    let mounts = vec![mount("/m", source(), Access::ReadWrite)];
    let image = tree(&["secret=container", "etc/passwd=container's"]);
    let view = View::writable(image, dir.path(), mounts);
    assert_eq!(view.read("m/up"), Ok("container".into()));
    assert_eq!(view.read("m/passwd"), Ok("container's".into()));
    assert_eq!(view.read("m/abs"), Err(ErrorCode::NoEntry));
    assert_eq!(view.read("m/dir/parent/up"), Ok("container".into()));
    assert_eq!(view.read("m/dir/out/secret"), Ok("container".into()));
    assert_eq!(
        view.dir("m/dir").unwrap().read("../../secret"),
        Ok("container".into())
    );
    assert_eq!(
        view.dir("m").unwrap().read("../../../../../../secret"),
        Ok("container".into())
    );
    view.write("m/up", "changed").unwrap();
    view.symlink("/", "m/root").unwrap();
    assert_eq!(view.read("m/root/m/root/secret"), Ok("changed".into()));
    for sub_path in ["up", "abs", "dir/out", "passwd"] {
        assert!(refused(at("/s", sub_path, source())), "{sub_path}");
    }
    view.unlink("m/abs").unwrap();
    assert_eq!(
        fs::read_to_string(host.path().join("secret")).unwrap(),
        "host"
    );
}

#[test]
fn hostile_mounts_are_refused() {
    let host = tempfile::tempdir().unwrap();
    let source = || MountSource::HostDir(host.path().to_owned());
    for path in ["", "relative", "/a/../b", "/a//b", "/a\0b", "/.."] {
        assert!(refused(mount(path, source(), Access::ReadOnly)), "{path:?}");
    }
    for sub_path in ["..", "a/../..", "/etc", "a\0"] {
        assert!(refused(at("/s", sub_path, source())), "{sub_path:?}");
        assert!(refused(at("/s", sub_path, live(&[]))), "{sub_path:?}");
    }
    assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0);
}

#[test]
fn two_mounts_at_one_path_are_refused() {
    let mounts = vec![
        mount("/run/a", live(&[]), Access::ReadOnly),
        mount("/var/run/a", live(&[]), Access::ReadOnly),
    ];
    let root = Arc::new(tree(&["run/", "var/run->../run"]));
    let made = FileSystem::new(FileSystemSpec {
        root,
        upper: Upper::ReadOnly,
        mounts,
        user: User::default(),
    });
    assert!(matches!(made, Err(FsError::Mount { .. })));
}

#[test]
fn one_file_is_mounted_in_a_folder() {
    let host = tempfile::tempdir().unwrap();
    let path = host.path().join("hosts");
    fs::write(&path, "h").unwrap();
    fs::write(host.path().join("neighbour"), "n").unwrap();
    let mounts = vec![
        mount(
            "/etc/hosts",
            MountSource::HostFile(path.clone()),
            Access::ReadWrite,
        ),
        mount(
            "/log/here/file",
            MountSource::HostFile(path.clone()),
            Access::ReadOnly,
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let view = View::writable(
        tree(&["etc/hosts=image", "etc/other=o"]),
        dir.path(),
        mounts,
    );
    assert_eq!(view.list("etc"), Ok(vec!["hosts".into(), "other".into()]));
    assert_eq!(view.list("log/here"), Ok(vec!["file".into()]));
    view.append("etc/hosts", "!").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "h!");
    assert_eq!(view.read("log/here/file"), Ok("h!".into()));
    assert_eq!(view.append("log/here/file", "!"), Err(ErrorCode::ReadOnly));
    assert_eq!(
        view.read("etc/hosts/../neighbour"),
        Err(ErrorCode::NotDirectory)
    );
    assert_eq!(view.unlink("etc/hosts"), Err(ErrorCode::Busy));
    assert_eq!(view.rename("etc/other", "etc/hosts"), Err(ErrorCode::Busy));
    assert!(refused(mount(
        "/f",
        MountSource::HostFile(host.path().into()),
        Access::ReadOnly
    )));
}

#[test]
fn sub_paths_show_a_part() {
    let host = tempfile::tempdir().unwrap();
    let source = || MountSource::HostDir(host.path().to_owned());
    fs::create_dir(host.path().join("d")).unwrap();
    fs::write(host.path().join("d/f"), "f").unwrap();
    let volume = LiveTree::new(tree(&[
        "..v/key=one",
        "..data->..v",
        "key->..data/key",
        "d/x=x",
    ]));
    let mounts = vec![
        at("/dir", "d", source()),
        at("/file", "d/f", source()),
        at("/missing", "made/here", source()),
        at("/key", "key", MountSource::Live(volume.clone())),
        at("/tree", "d", MountSource::Live(volume.clone())),
        at("/nothing", "absent", MountSource::Live(volume.clone())),
    ];
    let view = View::read_only(tree(&["x=outside"]), mounts);
    volume.swap(tree(&["key=two"]));
    assert_eq!(view.read("dir/f"), Ok("f".into()));
    assert_eq!(view.read("file"), Ok("f".into()));
    view.write("missing/new", "n").unwrap();
    assert_eq!(
        fs::read_to_string(host.path().join("made/here/new")).unwrap(),
        "n"
    );
    assert_eq!(
        view.read("key"),
        Ok("one".into()),
        "a sub-path never updates"
    );
    assert_eq!(view.read("tree/x"), Ok("x".into()));
    assert_eq!(view.read("tree/../x"), Ok("outside".into()));
    assert_eq!(view.list("nothing"), Ok(vec![]));
}

#[test]
fn a_mount_may_be_the_root() {
    let mounts = vec![
        mount("/", live(&["r=1", "etc/x=x"]), Access::ReadOnly),
        mount("/etc/deep", live(&["d=1"]), Access::ReadOnly),
    ];
    let view = View::read_only(tree(&["hidden=h"]), mounts);
    assert_eq!(view.list("."), Ok(vec!["etc/".into(), "r".into()]));
    assert_eq!(view.list("etc"), Ok(vec!["deep/".into(), "x".into()]));
    assert_eq!(view.read("etc/deep/../../../r"), Ok("1".into()));
}

/// Opening a pipe would wait for its other end for ever.
#[cfg(unix)]
#[test]
fn what_is_no_file_is_listed_and_not_opened() {
    let host = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(host.path().join("sock")).unwrap();
    let source = MountSource::HostDir(host.path().to_owned());
    let view = View::read_only(Tree::empty(), vec![mount("/m", source, Access::ReadWrite)]);
    assert_eq!(view.list("m"), Ok(vec!["sock?".into()]));
    assert_eq!(view.read("m/sock"), Err(ErrorCode::Unsupported));
    assert_eq!(view.write("m/sock", "x"), Err(ErrorCode::Unsupported));
}

fn refused(mount: Mount) -> bool {
    let (root, upper) = (Arc::new(Tree::empty()), Upper::ReadOnly);
    FileSystem::new(FileSystemSpec {
        root,
        upper,
        mounts: vec![mount],
        user: User::default(),
    })
    .is_err()
}

/// An image volume: the tree, or a part of it, and never a way to change it.
#[test]
fn a_shared_tree_is_mounted_whole_or_in_part_and_never_writable() {
    let image = Arc::new(tree(&["app/main=code", "app/data/x=1", "link->app/data"]));
    let shared = || MountSource::Tree(Arc::clone(&image));
    let mounts = vec![
        mount("/whole", shared(), Access::ReadWrite),
        at("/part", "link", shared()),
        at("/file", "app/main", shared()),
        at("/none", "missing", shared()),
    ];
    assert!(mounts.iter().all(|mount| !mount.may_block()));
    let view = View::read_only(tree(&[]), mounts);
    assert_eq!(view.read("whole/app/main"), Ok("code".into()));
    assert_eq!(view.read("part/x"), Ok("1".into()));
    assert_eq!(view.read("file"), Ok("code".into()));
    assert_eq!(view.list("none").unwrap(), Vec::<String>::new());
    assert_eq!(view.write("whole/app/main", "x"), Err(ErrorCode::ReadOnly));
}

/// What `df` and `mount` of a container show.
#[test]
fn mounts_are_told_with_what_is_used() {
    use crate::PodLimits;
    use crate::account::{NodeBudget, PodAccount};
    use crate::fs::MemoryVolume;
    use crate::fs::space::{Holder, Space};

    let dir = tempfile::tempdir().unwrap();
    let host = tempfile::tempdir().unwrap();
    let budget = Arc::new(NodeBudget::new(u64::MAX));
    let pod = PodAccount::new(PodLimits::default(), budget);
    let volume = MemoryVolume::new(pod, Some(8 << 20), None);
    let mounts = vec![
        mount("/memory", MountSource::Memory(volume), Access::ReadWrite),
        mount(
            "/host/data",
            MountSource::HostDir(host.path().into()),
            Access::ReadOnly,
        ),
        mount("/etc/map", live(&["key=v"]), Access::ReadWrite),
    ];
    let view = View::writable(Tree::empty(), dir.path(), mounts);
    view.write("memory/f", "1").expect("room");
    let all = view.files.mounted(Mode::Blocking).unwrap();
    let told: Vec<_> = all
        .iter()
        .map(|one| (one.path.as_str(), one.holder, one.is_read_only))
        .collect();
    assert_eq!(
        told,
        [
            ("/", Holder::Image, false),
            ("/etc/map", Holder::Configuration, true),
            ("/host/data", Holder::Folder, true),
            ("/memory", Holder::Memory, false),
        ]
    );
    assert_eq!(all[1].space, None);
    let Some(Space {
        size,
        used,
        available,
    }) = all[3].space
    else {
        panic!("a volume with a limit tells it");
    };
    assert_eq!((size, used + available), (8 << 20, 8 << 20));
    assert!((1..=64 << 10).contains(&used), "{used}");
    #[cfg(unix)]
    assert!(
        all[2]
            .space
            .is_some_and(|space| space.size >= space.used && space.size > 0)
    );
}
