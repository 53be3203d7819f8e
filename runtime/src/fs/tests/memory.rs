//! Volumes in memory: shared, bounded, charged to the pod, and gone with it.

use super::*;
use crate::account::{NodeBudget, PodAccount};
use crate::fs::MemoryVolume;
use crate::spec::PodLimits;

fn pod(memory: u64) -> PodAccount {
    let limits = PodLimits {
        memory: Some(memory),
        ..PodLimits::default()
    };
    PodAccount::new(limits, Arc::new(NodeBudget::new(1 << 30)))
}

fn view(volume: &MemoryVolume, access: Access) -> View {
    let source = MountSource::Memory(volume.clone());
    View::read_only(tree(&["etc/"]), vec![mount("/scratch", source, access)])
}

#[test]
fn what_one_container_writes_another_reads() {
    let volume = MemoryVolume::new(pod(1 << 20), None, None);
    let (one, other) = (
        view(&volume, Access::ReadWrite),
        view(&volume, Access::ReadOnly),
    );
    one.make_dir("scratch/deep").unwrap();
    one.write("scratch/deep/file", "text").unwrap();
    one.append("scratch/deep/file", " and more").unwrap();
    one.symlink("deep/file", "scratch/link").unwrap();
    one.link("scratch/deep/file", "scratch/hard").unwrap();
    assert_eq!(other.read("scratch/link"), Ok("text and more".into()));
    assert_eq!(
        other.read("scratch/deep/../hard"),
        Ok("text and more".into())
    );
    assert_eq!(other.read_link("scratch/link"), Ok("deep/file".into()));
    assert_eq!(other.list("scratch").unwrap(), ["deep/", "hard", "link@"]);
    assert_eq!(other.list("scratch/..").unwrap(), ["etc/", "scratch/"]);
    assert_eq!(other.stat("scratch/hard").unwrap().links, 2);
    one.rename("scratch/hard", "scratch/deep/other").unwrap();
    one.unlink("scratch/deep/file").unwrap();
    assert_eq!(other.read("scratch/deep/other"), Ok("text and more".into()));
    let dir = tempfile::tempdir().unwrap();
    let source = MountSource::Memory(volume.clone());
    let mounts = vec![mount("/scratch", source, Access::ReadWrite)];
    let writable = View::writable(tree(&["etc/"]), dir.path(), mounts);
    let moved = writable.rename("scratch/deep", "etc/deep");
    assert_eq!(moved, Err(ErrorCode::CrossDevice));
    assert_eq!(one.remove_dir("scratch"), Err(ErrorCode::Busy));
    drop(one);
    assert_eq!(
        other.list("scratch/deep").unwrap(),
        ["other"],
        "it outlives a container"
    );
    for refused in [
        other.write("scratch/new", "x"),
        other.make_dir("scratch/new"),
        other.unlink("scratch/link"),
    ] {
        assert_eq!(refused, Err(ErrorCode::ReadOnly));
    }
}

#[test]
fn a_sub_path_is_made_and_is_all_that_is_seen() {
    let volume = MemoryVolume::new(pod(1 << 20), None, None);
    let inner = |sub_path: &str| {
        let mount = Mount {
            sub_path: Some(sub_path.to_owned()),
            ..mount(
                "/data",
                MountSource::Memory(volume.clone()),
                Access::ReadWrite,
            )
        };
        View::read_only(tree(&["top=1"]), vec![mount])
    };
    inner("a/b").write("data/file", "x").unwrap();
    let whole = view(&volume, Access::ReadWrite);
    assert_eq!(whole.read("scratch/a/b/file"), Ok("x".into()));
    // Whoever may write in the volume may write in what was made of it.
    let mode = |path: &str| whole.stat(path).map(|stat| stat.permissions.mode);
    assert_eq!(mode("scratch/a/b"), mode("scratch"));
    assert_eq!(inner("a/b").read("data/../top"), Ok("1".into()));
    whole.symlink("/a/b", "scratch/link").unwrap();
    assert_eq!(inner("link").read("data/file"), Ok("x".into()));
    assert_eq!(inner("a/b/file").read("data"), Ok("x".into()));
}

#[test]
fn it_holds_what_its_limit_says_in_whole_pages() {
    let account = pod(1 << 20);
    let volume = MemoryVolume::new(account.clone(), Some(8192), None);
    let view = view(&volume, Access::ReadWrite);
    view.write("scratch/a", &"x".repeat(4096)).unwrap();
    view.write("scratch/b", "y").unwrap();
    assert_eq!(volume.used_bytes(), 8192);
    assert_eq!(view.append("scratch/b", &"y".repeat(4095)), Ok(()));
    assert_eq!(
        view.append("scratch/b", "y"),
        Err(ErrorCode::InsufficientSpace)
    );
    assert_eq!(
        view.write("scratch/c", "z"),
        Err(ErrorCode::InsufficientSpace)
    );
    view.unlink("scratch/a").unwrap();
    assert_eq!(view.write("scratch/c", "z"), Ok(()));
    assert!(account.memory() >= 8192);
    drop((view, volume));
    assert_eq!(account.memory(), 0, "it is gone with the last that has it");
}

#[test]
fn what_the_pod_has_no_memory_for_is_no_room() {
    let account = pod(64 * 1024);
    let volume = MemoryVolume::new(account.clone(), None, None);
    let view = view(&volume, Access::ReadWrite);
    let refused = view.write("scratch/a", &"x".repeat(64 * 1024));
    assert_eq!(refused, Err(ErrorCode::InsufficientSpace));
    assert_eq!(view.write("scratch/a", &"x".repeat(32 * 1024)), Ok(()));
    let mut names = 0;
    while view.make_dir(&format!("scratch/{names}")).is_ok() {
        names += 1;
    }
    assert!((50..200).contains(&names), "names are charged too: {names}");
    view.unlink("scratch/a").unwrap();
    assert_eq!(view.make_dir("scratch/room"), Ok(()));
}

#[test]
fn holes_cost_nothing_and_read_as_zeros() {
    let account = pod(1 << 20);
    let volume = MemoryVolume::new(account.clone(), Some(1 << 20), None);
    let view = view(&volume, Access::ReadWrite);
    view.write("scratch/a", "begin").unwrap();
    let file = view.file("scratch/a", writing()).unwrap();
    let far = WriteAt::Offset(500_000);
    done(file.write(far, b"end", Mode::Inline)).unwrap();
    assert_eq!(volume.used_bytes(), 2 * 4096);
    let read = done(file.read(499_998, 10, Mode::Inline)).unwrap();
    assert_eq!(&*read, b"\0\0end");
    done(file.set_len(3, Mode::Blocking)).unwrap();
    assert_eq!(volume.used_bytes(), 4096);
    done(file.set_len(8, Mode::Blocking)).unwrap();
    assert_eq!(view.read("scratch/a"), Ok("beg\0\0\0\0\0".into()));
    let beyond = done(file.set_len((1 << 20) + 1, Mode::Blocking));
    assert_eq!(beyond, Err(ErrorCode::InsufficientSpace));
}
