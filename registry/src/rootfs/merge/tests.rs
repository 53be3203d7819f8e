use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn entry(path: &str, kind: LayerKind) -> LayerEntry {
    LayerEntry {
        path: path.to_owned(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 0,
    }
}

fn file(path: &str, offset: u64) -> LayerEntry {
    entry(
        path,
        LayerKind::File {
            offset,
            len: 1,
            wasm: None,
        },
    )
}

fn link(path: &str, target: &str) -> LayerEntry {
    entry(
        path,
        LayerKind::Symlink {
            target: target.to_owned(),
        },
    )
}

fn hard(path: &str, target: &str) -> LayerEntry {
    entry(
        path,
        LayerKind::Hardlink {
            target: target.to_owned(),
        },
    )
}

fn layer(entries: Vec<LayerEntry>) -> LayerIndex {
    LayerIndex {
        entries,
        ..LayerIndex::default()
    }
}

fn stacked(layers: &[LayerIndex]) -> Result<Vec<RootEntry>, TarFault> {
    let mut stack = Stack::default();
    for (at, layer) in layers.iter().enumerate() {
        stack.push(&Arc::from(Path::new(&at.to_string())), layer)?;
    }
    Ok(stack.finish())
}

fn check(layers: &[LayerIndex], expected: Result<&[&str], &str>) {
    match (stacked(layers), expected) {
        (Ok(entries), Ok(paths)) => {
            let found: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
            assert_eq!(found, paths);
        }
        (Err(fault), Err(words)) => {
            assert!(
                fault.to_string().contains(words),
                "`{fault}` does not say `{words}`"
            );
        }
        (found, expected) => panic!("{found:?}, expected {expected:?}"),
    }
}

#[test]
fn whiteouts_remove_what_is_below_and_nothing_of_their_own_layer() {
    let lower = layer(vec![
        file("a/x", 1),
        file("a/y", 2),
        file("b", 3),
        file("ab", 4),
    ]);
    let whiteouts = |paths: &[&str], entries| LayerIndex {
        whiteouts: paths.iter().map(|&path| path.to_owned()).collect(),
        entries,
        ..LayerIndex::default()
    };
    check(
        &[lower, whiteouts(&["a", "nothing"], vec![file("a/z", 5)])],
        Ok(&["a", "a/z", "ab", "b"]),
    );
    let lower = layer(vec![file("a/x", 1), file("a-b", 2)]);
    check(&[lower, whiteouts(&["a/x"], vec![])], Ok(&["a", "a-b"]));
}

#[test]
fn an_opaque_folder_hides_what_lower_layers_hold_in_it() {
    let lower = layer(vec![file("a/x", 1), file("a/s/y", 2), file("b", 3)]);
    let upper = LayerIndex {
        opaque: vec!["a".to_owned()],
        entries: vec![entry("a", LayerKind::Dir), file("a/z", 4)],
        ..LayerIndex::default()
    };
    check(&[lower, upper], Ok(&["a", "a/z", "b"]));
}

#[test]
fn kinds_replace_each_other() {
    check(
        &[layer(vec![file("a/x", 1)]), layer(vec![file("a", 2)])],
        Ok(&["a"]),
    );
    let folder = layer(vec![entry("a", LayerKind::Dir), file("a/x", 2)]);
    check(&[layer(vec![file("a", 1)]), folder], Ok(&["a", "a/x"]));
    check(
        &[layer(vec![file("a/x", 1), entry("a", LayerKind::Dir)])],
        Ok(&["a", "a/x"]),
    );
}

/// The ways in which archives have climbed out of folders.
#[test]
fn nothing_goes_through_a_link_or_a_file() {
    let through = Err("goes through `a`, which is not a folder");
    check(
        &[layer(vec![link("a", "/etc"), file("a/passwd", 1)])],
        through,
    );
    check(&[layer(vec![link("a", "/etc"), file("a/b/c", 1)])], through);
    check(
        &[layer(vec![link("a", "b")]), layer(vec![file("a/x", 1)])],
        through,
    );
    check(&[layer(vec![file("a", 1), file("a/x", 2)])], through);
    check(
        &[layer(vec![file("f", 1), hard("a", "f"), file("a/x", 1)])],
        through,
    );
    check(
        &[layer(vec![
            link("l", "/etc"),
            hard("a", "l"),
            file("a/x", 1),
        ])],
        through,
    );
    let leads = Err("which the image does not hold");
    check(&[layer(vec![hard("a", "b")])], leads);
    check(&[layer(vec![hard("a", "a")])], leads);
    check(
        &[layer(vec![entry("d", LayerKind::Dir), hard("a", "d")])],
        leads,
    );
    check(
        &[layer(vec![link("l", "/etc"), hard("a", "l/passwd")])],
        leads,
    );
}

#[test]
fn a_hard_link_is_the_other_file_and_outlives_it() {
    let removal = LayerIndex {
        whiteouts: vec!["f".to_owned()],
        ..LayerIndex::default()
    };
    let layers = [layer(vec![file("f", 9), hard("g", "f")]), removal];
    let entries = stacked(&layers).expect("a root");
    let EntryKind::File(extent) = &entries[0].kind else {
        panic!("{entries:?}")
    };
    assert_eq!((entries[0].path.as_str(), extent.offset), ("g", 9));
}

#[test]
fn links_are_followed_inside_the_root_only() {
    let layers = [layer(vec![
        link("bin", "usr/bin"),
        link("usr/bin/app", "../lib/app.wasm"),
        file("usr/lib/app.wasm", 1),
        link("out", "../../../usr/lib/app.wasm"),
        link("abs", "/usr/lib/app.wasm"),
        link("loop", "loop"),
    ])];
    let entries = stacked(&layers).expect("a root");
    let root = crate::rootfs::Root::new(crate::digest::Digest::of(b""), entries);
    for path in [
        "/usr/lib/app.wasm",
        "bin/app",
        "/bin/./app",
        "out",
        "abs",
        "/../abs",
    ] {
        let found = root.resolve(path).map(|entry| entry.path.as_str());
        assert_eq!(found, Some("usr/lib/app.wasm"), "{path}");
    }
    for path in ["loop", "nothing", "abs/below", "bin/nothing"] {
        assert_eq!(root.resolve(path), None, "{path}");
    }
}

/// One step of a layer, over few names so that steps meet.
#[derive(Debug, Clone)]
enum Step {
    File(String),
    Dir(String),
    Whiteout(String),
    Opaque(String),
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec("[abc]", 1..4).prop_map(|names| names.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => path().prop_map(Step::File),
        2 => path().prop_map(Step::Dir),
        1 => path().prop_map(Step::Whiteout),
        1 => path().prop_map(Step::Opaque),
    ]
}

/// The same rules over a plain set of files and folders, without any cleverness.
#[derive(Default)]
struct Model {
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
}

impl Model {
    fn drop_below(&mut self, folder: &str) {
        let below = format!("{folder}/");
        self.files.retain(|path| !path.starts_with(&below));
        self.folders.retain(|path| !path.starts_with(&below));
    }

    /// Returns whether the entry can be added.
    fn add(&mut self, path: &str, is_file: bool) -> bool {
        let parents: Vec<&str> = path
            .match_indices('/')
            .map(|(end, _)| &path[..end])
            .collect();
        if parents.iter().any(|parent| self.files.contains(*parent)) {
            return false;
        }
        self.folders
            .extend(parents.iter().map(|parent| (*parent).to_owned()));
        if is_file {
            self.drop_below(path);
            self.folders.remove(path);
            self.files.insert(path.to_owned());
        } else {
            self.files.remove(path);
            self.folders.insert(path.to_owned());
        }
        true
    }
}

proptest! {
    #[test]
    fn a_merged_root_is_what_a_plain_model_says(
        layers in proptest::collection::vec(proptest::collection::vec(step(), 0..8), 1..5)
    ) {
        let mut model = Model::default();
        let mut indexes = Vec::new();
        let mut fits = true;
        for steps in &layers {
            let mut index = LayerIndex::default();
            for step in steps {
                match step {
                    Step::Opaque(path) => {
                        model.drop_below(path);
                        index.opaque.push(path.clone());
                    }
                    Step::Whiteout(path) => {
                        model.drop_below(path);
                        model.files.remove(path);
                        model.folders.remove(path);
                        index.whiteouts.push(path.clone());
                    }
                    Step::File(_) | Step::Dir(_) => {}
                }
            }
            for step in steps {
                match step {
                    Step::File(path) => {
                        index.entries.push(file(path, 1));
                        fits = fits && model.add(path, true);
                    }
                    Step::Dir(path) => {
                        index.entries.push(entry(path, LayerKind::Dir));
                        fits = fits && model.add(path, false);
                    }
                    Step::Opaque(_) | Step::Whiteout(_) => {}
                }
            }
            indexes.push(index);
            if !fits {
                break;
            }
        }
        match stacked(&indexes) {
            Ok(entries) => {
                prop_assert!(fits);
                let of_kind = |dir: bool| -> BTreeSet<String> {
                    let chosen = entries.iter().filter(|entry| (entry.kind == EntryKind::Dir) == dir);
                    chosen.map(|entry| entry.path.clone()).collect()
                };
                prop_assert_eq!(of_kind(false), model.files);
                prop_assert_eq!(of_kind(true), model.folders);
                prop_assert!(entries.is_sorted_by(|a, b| a.path < b.path));
            }
            Err(_) => prop_assert!(!fits),
        }
    }
}
