//! Where the data of changed files goes, and how much of it there may be.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

/// A folder of numbered files, made when the first is.
pub(in crate::fs) struct Store {
    dir: PathBuf,
    limit: u64,
    used: AtomicU64,
    /// The number of the next file; 0 means that the folder was not needed yet.
    next: AtomicU64,
}

impl Store {
    pub(super) fn new(dir: PathBuf, limit: u64) -> Store {
        Store {
            dir,
            limit,
            used: AtomicU64::new(0),
            next: AtomicU64::new(0),
        }
    }

    /// Takes bytes of the limit, or fails with `insufficient-space`.
    pub(super) fn charge(&self, bytes: u64) -> Result<(), ErrorCode> {
        let take = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        match self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(ErrorCode::InsufficientSpace),
        }
    }

    /// Fails with `insufficient-space` for a file that no amount of removing makes room for.
    pub(super) fn refuse_beyond_limit(&self, len: u64) -> Result<(), ErrorCode> {
        if len > self.limit {
            Err(ErrorCode::InsufficientSpace)
        } else {
            Ok(())
        }
    }

    pub(super) fn refund(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The bytes taken.
    pub(in crate::fs) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Makes an empty file, readable by our own user only.
    pub(super) fn create(&self) -> io::Result<(PathBuf, File)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            fs::create_dir_all(&self.dir)?;
        }
        let path = self.dir.join(number.to_string());
        let open = |path: &Path| options().create(true).truncate(true).open(path);
        let file = match open(&path) {
            // The thread that took number 0 has not made the folder yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.dir)?;
                open(&path)?
            }
            opened => opened?,
        };
        Ok((path, file))
    }

    pub(super) fn reopen(path: &Path) -> io::Result<File> {
        options().open(path)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

impl Drop for Store {
    fn drop(&mut self) {
        // Every file has removed itself; a folder that holds something else is not ours to remove.
        if *self.next.get_mut() > 0 {
            let _ = fs::remove_dir(&self.dir);
        }
    }
}
