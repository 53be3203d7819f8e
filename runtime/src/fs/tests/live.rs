//! Live trees: a swap is never seen half.

use std::thread;

use super::*;
use crate::fs::LiveTree;

/// The content of a ConfigMap volume at version `n`, laid out as Kubernetes does.
fn version(n: usize) -> Tree {
    let entries = [
        format!("..v{n}/a={n}"),
        format!("..v{n}/b={n}"),
        format!("..data->..v{n}"),
    ];
    let mut entries: Vec<_> = entries.iter().map(String::as_str).collect();
    entries.extend([
        "a->..data/a",
        "b->..data/b",
        "there->/c/back",
        "back->/config/a",
    ]);
    tree(&entries)
}

fn view(volume: &LiveTree) -> View {
    let source = MountSource::Live(volume.clone());
    let mounts = vec![mount("/config", source, Access::ReadOnly)];
    View::read_only(tree(&["c->/config"]), mounts)
}

#[test]
fn a_swap_shows_at_the_next_path_and_not_in_what_is_open() {
    let volume = LiveTree::new(version(1));
    let view = view(&volume);
    let (folder, file) = (
        view.dir("config").unwrap(),
        view.file("config/a", How::read()).unwrap(),
    );
    volume.swap(version(2));
    assert_eq!(view.read("config/a"), Ok("2".into()));
    assert_eq!(view.read_link("config/..data"), Ok("..v2".into()));
    assert_eq!(content(&file), Ok("1".into()));
    assert_eq!(folder.read("b"), Ok("1".into()));
    assert_eq!(folder.read_link("..data"), Ok("..v1".into()));
    assert_eq!(
        folder.read("../config/b"),
        Ok("1".into()),
        "out and in again, still one version"
    );
    assert_eq!(view.read("config/there"), Ok("2".into()));
}

/// Every path goes through two links that a half-done swap would break, and one pair of reads through
/// one descriptor must agree.
#[test]
fn concurrent_readers_never_see_a_mixture() {
    const SWAPS: usize = 2000;
    let volume = LiveTree::new(version(0));
    let view = view(&volume);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut last = 0;
                    while last < SWAPS {
                        let folder = view.dir("config").unwrap();
                        let (a, b) = (folder.read("a").unwrap(), folder.read("b").unwrap());
                        assert_eq!(a, b);
                        let through = view.read("config/there").expect("no link dangles");
                        let now = through.parse::<usize>().unwrap();
                        assert!(now >= last, "versions go forward");
                        last = now;
                    }
                })
            })
            .collect();
        for n in 1..=SWAPS {
            volume.swap(version(n));
        }
        for reader in readers {
            reader.join().unwrap();
        }
    });
}
