//! What the file system promises, told through a small guest's view of it.

mod guest;
mod live;
mod memory;
mod model;
mod mounts;
mod overlay;
mod permissions;
mod tree;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::handle::{FileHandle, Rights};
use super::node::{Fault, Kind, Mode, NodeRef, Outcome, Stat};
use super::operations::{How, Opening};
use super::overlay::WriteAt;
use super::resolve::Last;
use super::{
    Access, FileSource, FileSystem, FileSystemSpec, Meta, Mount, MountSource, Tree, TreeBuilder,
    Upper, User,
};

type Done<T> = Result<T, ErrorCode>;

/// A guest that names everything from the root.
struct View {
    files: Arc<FileSystem>,
    root: NodeRef,
}

impl View {
    fn new(root: Tree, upper: Upper, mounts: Vec<Mount>) -> View {
        let spec = FileSystemSpec {
            root: Arc::new(root),
            upper,
            mounts,
            user: User::default(),
        };
        let files = FileSystem::new(spec).expect("the test's spec is valid");
        View {
            root: files.root(),
            files,
        }
    }

    /// The same for another user.
    fn of(self, user: User) -> View {
        let mut files = Arc::into_inner(self.files).expect("nobody else has it yet");
        files.user = user;
        View {
            files: Arc::new(files),
            root: self.root,
        }
    }

    /// A writable root whose numbered files go to `dir`.
    fn writable(root: Tree, dir: &Path, mounts: Vec<Mount>) -> View {
        View::new(
            root,
            Upper::Writable {
                dir: dir.join("upper"),
                limit: u64::MAX,
            },
            mounts,
        )
    }

    fn read_only(root: Tree, mounts: Vec<Mount>) -> View {
        View::new(root, Upper::ReadOnly, mounts)
    }

    fn open(&self, path: &str, how: How) -> Done<Opening> {
        done(self.files.open_at(&self.root, path, how, Mode::Blocking))
    }

    fn file(&self, path: &str, how: How) -> Done<FileHandle> {
        match self.open(path, how)? {
            Opening::File(file) => Ok(file),
            Opening::Dir(_) => Err(ErrorCode::IsDirectory),
        }
    }

    fn dir(&self, path: &str) -> Done<View> {
        match self.open(
            path,
            How {
                directory: true,
                ..How::read()
            },
        )? {
            Opening::Dir(root) => Ok(View {
                files: Arc::clone(&self.files),
                root,
            }),
            Opening::File(_) => Err(ErrorCode::NotDirectory),
        }
    }

    fn read(&self, path: &str) -> Done<String> {
        content(&self.file(path, How::read())?)
    }

    /// Replaces a file's content, making it if it is not there.
    fn write(&self, path: &str, text: &str) -> Done<()> {
        let file = self.file(
            path,
            How {
                create: true,
                truncate: true,
                ..writing()
            },
        )?;
        done(file.write(WriteAt::Offset(0), text.as_bytes(), Mode::Blocking))
    }

    fn append(&self, path: &str, text: &str) -> Done<()> {
        let file = self.file(path, writing())?;
        done(file.write(WriteAt::End, text.as_bytes(), Mode::Blocking))
    }

    fn make_dir(&self, path: &str) -> Done<()> {
        done(self.files.make_dir_at(&self.root, path, Mode::Blocking))
    }

    fn remove_dir(&self, path: &str) -> Done<()> {
        done(self.files.remove_dir_at(&self.root, path, Mode::Blocking))
    }

    fn unlink(&self, path: &str) -> Done<()> {
        done(self.files.unlink_at(&self.root, path, Mode::Blocking))
    }

    fn rename(&self, old: &str, new: &str) -> Done<()> {
        done(
            self.files
                .rename_at((&self.root, old), (&self.root, new), Mode::Blocking),
        )
    }

    fn link(&self, old: &str, new: &str) -> Done<()> {
        let old = (&self.root, old, Last::Keep);
        done(self.files.link_at(old, (&self.root, new), Mode::Blocking))
    }

    fn symlink(&self, target: &str, path: &str) -> Done<()> {
        done(
            self.files
                .make_symlink_at(target, &self.root, path, Mode::Blocking),
        )
    }

    fn read_link(&self, path: &str) -> Done<String> {
        done(self.files.read_link_at(&self.root, path, Mode::Blocking))
    }

    fn stat(&self, path: &str) -> Done<Stat> {
        let found = self
            .files
            .find(&self.root, path, Last::Keep, Mode::Blocking);
        let (node, _) = done(found)?;
        done(self.files.stat(&node, Mode::Blocking))
    }

    /// The entries of a folder, folders with a `/` and links with an `@` behind their names.
    fn list(&self, path: &str) -> Done<Vec<String>> {
        let node = self.dir(path)?.root;
        let list = done(self.files.list(&node, Mode::Blocking))?;
        Ok(list
            .into_iter()
            .map(|(name, kind)| name + mark(kind))
            .collect())
    }

    fn used(&self) -> u64 {
        self.files.used_bytes()
    }
}

fn mark(kind: Kind) -> &'static str {
    match kind {
        Kind::Dir => "/",
        Kind::File => "",
        Kind::Symlink => "@",
        Kind::Other => "?",
    }
}

fn content(file: &FileHandle) -> Done<String> {
    let mut bytes = Vec::new();
    loop {
        let part = done(file.read(bytes.len() as u64, 1000, Mode::Blocking))?;
        if part.is_empty() {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        bytes.extend_from_slice(&part);
    }
}

fn writing() -> How {
    How {
        rights: Rights {
            read: true,
            write: true,
        },
        ..How::read()
    }
}

fn done<T>(outcome: Outcome<T>) -> Done<T> {
    outcome.map_err(|fault| match fault {
        Fault::Code(code) => code,
        Fault::Blocks => panic!("an operation that may block asked to block"),
    })
}

fn meta() -> Meta {
    Meta::new(
        0o644,
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000),
    )
}

/// Builds a tree: `a/` is a folder, `a=text` a file, `a->b` a link, `a==b` a hard link.
fn tree(entries: &[&str]) -> Tree {
    let mut builder = TreeBuilder::new();
    for entry in entries {
        if let Some((path, to)) = entry.split_once("->") {
            builder.symlink(path, to, meta()).unwrap();
        } else if let Some((path, to)) = entry.split_once("==") {
            builder.hardlink(path, to).unwrap();
        } else if let Some((path, text)) = entry.split_once('=') {
            let bytes = Bytes::copy_from_slice(text.as_bytes());
            builder
                .file(path, meta(), FileSource::Bytes(bytes))
                .unwrap();
        } else {
            builder.dir(entry.trim_end_matches('/'), meta()).unwrap();
        }
    }
    builder.build()
}

fn mount(path: &str, source: MountSource, access: Access) -> Mount {
    Mount {
        path: path.to_owned(),
        source,
        sub_path: None,
        access,
        group: None,
    }
}
