//! Random changes, compared with what a real file system does with them.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Write { path: String, at: u64, text: String },
    Append { path: String, text: String },
    Replace { path: String, text: String },
    Resize { path: String, len: u64 },
    MakeDir(String),
    RemoveDir(String),
    Unlink(String),
    Rename(String, String),
    Link(String, String),
    Symlink(String, String),
    Read(String),
    List(String),
    Hold(String),
    WriteHeld { text: String },
    ReadHeld,
}

/// One of the two file systems under comparison.
trait Side {
    fn apply(&mut self, step: &Step) -> Done<String>;
    /// Everything there is: path to kind, content, number of links.
    fn dump(&mut self) -> BTreeMap<String, String>;
}

struct Ours {
    view: View,
    held: Option<FileHandle>,
}

struct Theirs {
    root: PathBuf,
    held: Option<File>,
}

const IMAGE: &[&str] = &[
    "a/a=lower aa",
    "a/b/c=lower abc",
    "b=lower b",
    "c->a",
    "d/d==b",
    "e->b",
];

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "d", "e"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn target() -> impl Strategy<Value = String> {
    // Nothing that could leave the real root: there `..` does.
    prop::sample::select(vec!["a", "b", "a/b", "c", "d/d", "nowhere"]).prop_map(str::to_owned)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (path(), 0..20u64, "[x-z]{1,5}").prop_map(|(path, at, text)| Step::Write {
            path,
            at,
            text
        }),
        (path(), "[x-z]{1,5}").prop_map(|(path, text)| Step::Append { path, text }),
        (path(), "[x-z]{0,5}").prop_map(|(path, text)| Step::Replace { path, text }),
        (path(), 0..20u64).prop_map(|(path, len)| Step::Resize { path, len }),
        path().prop_map(Step::MakeDir),
        path().prop_map(Step::RemoveDir),
        path().prop_map(Step::Unlink),
        (path(), path()).prop_map(|(old, new)| Step::Rename(old, new)),
        (path(), path()).prop_map(|(old, new)| Step::Link(old, new)),
        (target(), path()).prop_map(|(target, path)| Step::Symlink(target, path)),
        path().prop_map(Step::Read),
        path().prop_map(Step::List),
        path().prop_map(Step::Hold),
        "[x-z]{1,5}".prop_map(|text| Step::WriteHeld { text }),
        Just(Step::ReadHeld),
    ]
}

impl Side for Ours {
    fn apply(&mut self, step: &Step) -> Done<String> {
        let view = &self.view;
        let none = |result: Done<()>| result.map(|()| String::new());
        match step {
            Step::Write { path, at, text } => {
                let file = view.file(
                    path,
                    How {
                        create: true,
                        ..writing()
                    },
                )?;
                none(done(file.write(
                    WriteAt::Offset(*at),
                    text.as_bytes(),
                    Mode::Blocking,
                )))
            }
            Step::Append { path, text } => none(view.append(path, text)),
            Step::Replace { path, text } => none(view.write(path, text)),
            Step::Resize { path, len } => none(done(
                view.file(path, writing())?.set_len(*len, Mode::Blocking),
            )),
            Step::MakeDir(path) => none(view.make_dir(path)),
            Step::RemoveDir(path) => none(view.remove_dir(path)),
            Step::Unlink(path) => none(view.unlink(path)),
            Step::Rename(old, new) => none(view.rename(old, new)),
            Step::Link(old, new) => none(view.link(old, new)),
            Step::Symlink(target, path) => none(view.symlink(target, path)),
            Step::Read(path) => view.read(path),
            Step::List(path) => view.list(path).map(|list| list.join(" ")),
            Step::Hold(path) => {
                self.held = Some(view.file(path, writing())?);
                Ok(String::new())
            }
            Step::WriteHeld { text } => match &self.held {
                Some(file) => none(done(file.write(
                    WriteAt::End,
                    text.as_bytes(),
                    Mode::Blocking,
                ))),
                None => Ok(String::new()),
            },
            Step::ReadHeld => self.held.as_ref().map_or(Ok(String::new()), content),
        }
    }

    fn dump(&mut self) -> BTreeMap<String, String> {
        let mut dump = BTreeMap::new();
        let mut todo = vec![String::new()];
        while let Some(dir) = todo.pop() {
            for entry in self
                .view
                .list(if dir.is_empty() { "." } else { &dir })
                .unwrap()
            {
                let path = format!("{dir}{entry}");
                let plain = path.trim_end_matches('@');
                let said = match entry.chars().last() {
                    Some('/') => {
                        todo.push(path.clone());
                        String::new()
                    }
                    Some('@') => self.view.read_link(plain).unwrap(),
                    _ => {
                        let stat = self.view.stat(plain).unwrap();
                        let text = self.view.read(plain).unwrap();
                        assert_eq!(stat.size, text.len() as u64);
                        format!("{} {text}", stat.links)
                    }
                };
                dump.insert(path, said);
            }
        }
        dump
    }
}

impl Theirs {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn try_apply(&mut self, step: &Step) -> io::Result<String> {
        let writing = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true);
            options
        };
        match step {
            Step::Write { path, at, text } => {
                let file = writing().create(true).truncate(false).open(self.at(path))?;
                file.write_all_at(text.as_bytes(), *at)?;
            }
            Step::Append { path, text } => {
                let file = writing().open(self.at(path))?;
                file.write_all_at(text.as_bytes(), file.metadata()?.len())?;
            }
            Step::Replace { path, text } => {
                let file = writing().create(true).truncate(true).open(self.at(path))?;
                file.write_all_at(text.as_bytes(), 0)?;
            }
            Step::Resize { path, len } => writing().open(self.at(path))?.set_len(*len)?,
            Step::MakeDir(path) => fs::create_dir(self.at(path))?,
            Step::RemoveDir(path) => fs::remove_dir(self.at(path))?,
            Step::Unlink(path) => fs::remove_file(self.at(path))?,
            Step::Rename(old, new) => fs::rename(self.at(old), self.at(new))?,
            Step::Link(old, new) => fs::hard_link(self.at(old), self.at(new))?,
            Step::Symlink(target, path) => symlink(target, self.at(path))?,
            Step::Read(path) => return fs::read_to_string(self.at(path)),
            Step::List(path) => return Ok(self.list(path)?.join(" ")),
            Step::Hold(path) => self.held = Some(writing().open(self.at(path))?),
            Step::WriteHeld { text } => {
                if let Some(file) = &self.held {
                    file.write_all_at(text.as_bytes(), file.metadata()?.len())?;
                }
            }
            Step::ReadHeld => {
                let Some(file) = &self.held else {
                    return Ok(String::new());
                };
                let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap()];
                file.read_exact_at(&mut bytes, 0)?;
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        Ok(String::new())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut list = Vec::new();
        for entry in fs::read_dir(self.at(path))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let mark = match () {
                () if kind.is_dir() => "/",
                () if kind.is_symlink() => "@",
                () => "",
            };
            list.push(entry.file_name().into_string().unwrap() + mark);
        }
        list.sort();
        Ok(list)
    }
}

impl Side for Theirs {
    fn apply(&mut self, step: &Step) -> Done<String> {
        self.try_apply(step)
            .map_err(|error| ErrorCode::from(&error))
    }

    fn dump(&mut self) -> BTreeMap<String, String> {
        let mut dump = BTreeMap::new();
        let mut todo = vec![String::new()];
        while let Some(dir) = todo.pop() {
            for entry in self.list(&dir).unwrap() {
                let path = format!("{dir}{entry}");
                let real = self.at(path.trim_end_matches('@'));
                let said = match entry.chars().last() {
                    Some('/') => {
                        todo.push(path.clone());
                        String::new()
                    }
                    Some('@') => fs::read_link(real)
                        .unwrap()
                        .into_os_string()
                        .into_string()
                        .unwrap(),
                    _ => {
                        let links = fs::metadata(&real).unwrap().nlink();
                        format!("{links} {}", fs::read_to_string(real).unwrap())
                    }
                };
                dump.insert(path, said);
            }
        }
        dump
    }
}

/// Puts the image's entries into a real folder.
fn unpack(root: &Path) {
    for entry in IMAGE {
        let at = |path: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        if let Some((path, to)) = entry.split_once("->") {
            symlink(to, at(path)).unwrap();
        } else if let Some((path, to)) = entry.split_once("==") {
            fs::hard_link(root.join(to), at(path)).unwrap();
        } else if let Some((path, text)) = entry.split_once('=') {
            fs::write(at(path), text).unwrap();
        }
    }
}

fn compare(steps: &[Step], ours: &mut Ours, theirs: &mut Theirs) -> Result<(), TestCaseError> {
    for step in steps {
        let (mine, real) = (ours.apply(step), theirs.apply(step));
        prop_assert_eq!(&mine, &real, "{:?}", step);
    }
    prop_assert_eq!(ours.dump(), theirs.dump());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// The writable layer over an image behaves as a folder with the image's files.
    #[test]
    fn the_writable_layer_does_what_linux_does(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("real");
        unpack(&root);
        let mut theirs = Theirs { root, held: None };
        let mut ours = Ours { view: View::writable(tree(IMAGE), dir.path(), vec![]), held: None };
        compare(&steps, &mut ours, &mut theirs)?;
        for path in ours.dump().into_keys().rev() {
            let path = path.trim_end_matches(['@']);
            let removed = match path.strip_suffix('/') {
                Some(folder) => ours.view.remove_dir(folder),
                None => ours.view.unlink(path),
            };
            prop_assert_eq!(removed, Ok(()), "{}", path);
        }
        ours.held = None;
        prop_assert_eq!(ours.view.used(), 0, "every byte charged is given back");
    }

    /// A mounted host folder behaves as itself.
    #[test]
    fn a_host_folder_does_what_linux_does(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let (root, host) = (dir.path().join("real"), dir.path().join("host"));
        unpack(&root);
        unpack(&host);
        let mut theirs = Theirs { root, held: None };
        let mounts = vec![mount("/", MountSource::HostDir(host), Access::ReadWrite)];
        let mut ours = Ours { view: View::read_only(Tree::empty(), mounts), held: None };
        compare(&steps, &mut ours, &mut theirs)?;
    }
}
