//! The files of a data folder, behind a seam: a test keeps what was synced apart from what was not.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// A name that ends so is a file that was not finished; it means nothing and may be removed.
pub(crate) const UNFINISHED: &str = ".tmp";

/// One folder without sub-folders.
pub(crate) trait Folder: Send + Sync {
    /// Names all files.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Opens a new file, or an old one emptied; only its owner may read it.
    fn create(&self, name: &str) -> io::Result<Box<dyn Appendable>>;
    /// Opens a file that exists, to append to it.
    fn append(&self, name: &str) -> io::Result<Box<dyn Appendable>>;
    /// Opens a file to read it from `offset` on.
    fn read(&self, name: &str, offset: u64) -> io::Result<Box<dyn Read>>;
    /// Gives a file another name, replacing the file that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the names durable: what was created, renamed and removed.
    fn sync(&self) -> io::Result<()>;
}

/// A file that grows at its end.
pub(crate) trait Appendable: Send {
    /// Appends all of `bytes`; after an error any part of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Makes the content durable. After an error nothing is known of what was not durable before.
    fn sync(&mut self) -> io::Result<()>;
}

/// A folder of the file system.
#[derive(Debug)]
pub(crate) struct RealFolder {
    path: PathBuf,
}

/// Writes a file so that it is there whole and durable, or not at all.
pub(crate) fn write_whole(folder: &dyn Folder, name: &str, bytes: &[u8]) -> io::Result<()> {
    let unfinished = format!("{name}{UNFINISHED}");
    let mut file = folder.create(&unfinished)?;
    file.append(bytes)?;
    file.sync()?;
    drop(file);
    folder.rename(&unfinished, name)?;
    folder.sync()
}

/// Reads a file of at most `limit` bytes; nothing if there is none.
pub(crate) fn read_whole(
    folder: &dyn Folder,
    name: &str,
    limit: usize,
) -> io::Result<Option<Vec<u8>>> {
    let file = match folder.read(name, 0) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

impl RealFolder {
    /// Makes sure that the folder exists, durably, and that only its owner may enter a new one.
    pub(crate) fn open(path: &Path) -> io::Result<RealFolder> {
        if !path.is_dir() {
            modes::create_folder(path)?;
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            sync_folder(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(RealFolder {
            path: path.to_owned(),
        })
    }
}

impl Folder for RealFolder {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // A name that is no text is none of ours.
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Appendable>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        modes::owner_only(&mut options);
        Ok(Box::new(options.open(self.path.join(name))?))
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Appendable>> {
        // Not opened for appending: Windows would then refuse to cut the file.
        let mut file = OpenOptions::new().write(true).open(self.path.join(name))?;
        file.seek(SeekFrom::End(0))?;
        Ok(Box::new(file))
    }

    fn read(&self, name: &str, offset: u64) -> io::Result<Box<dyn Read>> {
        let mut file = File::open(self.path.join(name))?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        sync_folder(&self.path)
    }
}

impl Appendable for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)?;
        self.seek(SeekFrom::Start(len)).map(drop)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Makes everything under `path` durable: files, then the folders that name them.
pub(crate) fn sync_all_under(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all_under(&entry.path())?;
        } else {
            // Opened for writing because Windows flushes only such a file.
            OpenOptions::new()
                .write(true)
                .open(entry.path())?
                .sync_all()?;
        }
    }
    sync_folder(path)
}

#[cfg(unix)]
use unix as modes;
#[cfg(unix)]
pub(crate) use unix::sync_folder;

#[cfg(not(unix))]
use elsewhere as modes;
#[cfg(not(unix))]
pub(crate) use elsewhere::sync_folder;

#[cfg(unix)]
mod unix {
    use std::{
        fs::{DirBuilder, File, OpenOptions},
        io,
        os::unix::fs::{DirBuilderExt, OpenOptionsExt},
        path::Path,
    };

    pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    pub(super) fn create_folder(path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    pub(super) fn owner_only(options: &mut OpenOptions) {
        options.mode(0o600);
    }
}

#[cfg(not(unix))]
mod elsewhere {
    use std::{
        fs::{self, OpenOptions},
        io,
        path::Path,
    };

    /// NTFS writes names to its own journal in order; there is no handle to sync.
    pub(crate) fn sync_folder(_: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn create_folder(path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    /// A profile's folders are closed to others already.
    pub(super) fn owner_only(_: &mut OpenOptions) {}
}
