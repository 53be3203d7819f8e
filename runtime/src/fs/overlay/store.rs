//! Where the data of changed files goes, how much of it there may be, and who is charged for it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use crate::account::{Account, PodAccount};

/// Where the data of changed files goes.
pub(in crate::fs) struct Store {
    place: Place,
    limit: u64,
    used: AtomicU64,
}

enum Place {
    /// A folder of numbered files, made when the first is.
    Folder(Folder),
    /// The memory of a pod.
    Memory(Held),
}

struct Held {
    pod: PodAccount,
    /// What entries and tables take, which does not count against the limit: that is one of content.
    overhead: AtomicU64,
}

struct Folder {
    dir: PathBuf,
    /// The number of the next file; 0 means that the folder was not needed yet.
    next: AtomicU64,
    /// Whose memory the names take; nobody's before its container is started.
    owner: OnceLock<Arc<Account>>,
    /// What of that is charged.
    names: AtomicU64,
}

impl Store {
    pub(super) fn new(dir: PathBuf, limit: u64) -> Store {
        Store {
            place: Place::Folder(Folder {
                dir,
                next: AtomicU64::new(0),
                owner: OnceLock::new(),
                names: AtomicU64::new(0),
            }),
            limit,
            used: AtomicU64::new(0),
        }
    }

    pub(super) fn in_memory(pod: PodAccount, limit: u64) -> Store {
        Store {
            place: Place::Memory(Held {
                pod,
                overhead: AtomicU64::new(0),
            }),
            limit,
            used: AtomicU64::new(0),
        }
    }

    pub(super) fn is_in_memory(&self) -> bool {
        match self.place {
            Place::Memory(_) => true,
            Place::Folder(_) => false,
        }
    }

    /// Says whose memory the names of the folder's changes take. The first call counts: later ones are of
    /// programs that run in the container.
    pub(in crate::fs) fn charge_names_to(&self, account: &Arc<Account>) {
        if let Place::Folder(folder) = &self.place {
            let _ = folder.owner.set(Arc::clone(account));
        }
    }

    /// The pod whose files these are, once its container is started.
    pub(super) fn pod(&self) -> Option<&PodAccount> {
        match &self.place {
            Place::Folder(folder) => folder.owner.get().map(|owner| owner.pod()),
            Place::Memory(held) => Some(&held.pod),
        }
    }

    /// Takes bytes of the limit for an entry, which is held in memory wherever the data goes.
    ///
    /// A container that has no memory for it ends.
    pub(super) fn charge_entry(&self, bytes: u64) -> Result<(), ErrorCode> {
        let folder = match &self.place {
            Place::Memory(held) => return held.charge(bytes),
            Place::Folder(folder) => folder,
        };
        self.charge(bytes)?;
        let Some(owner) = folder.owner.get() else {
            return Ok(());
        };
        if owner.hold(bytes).is_err() {
            self.refund(bytes);
            return Err(ErrorCode::InsufficientMemory);
        }
        folder.names.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn refund_entry(&self, bytes: u64) {
        let folder = match &self.place {
            Place::Memory(held) => return held.refund(bytes),
            Place::Folder(folder) => folder,
        };
        self.refund(bytes);
        let take = |names: u64| names.checked_sub(bytes);
        // What was there before the container started was not charged.
        let was_charged = folder
            .names
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok();
        if let Some(owner) = folder.owner.get().filter(|_| was_charged) {
            owner.shrink(bytes);
        }
    }

    /// Takes bytes of the limit, or fails with `insufficient-space`.
    pub(super) fn charge(&self, bytes: u64) -> Result<(), ErrorCode> {
        let take = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        match self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        {
            Ok(_) => {}
            Err(_) => return Err(ErrorCode::InsufficientSpace),
        }
        if let Place::Memory(held) = &self.place
            && held.pod.hold(bytes).is_err()
        {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(ErrorCode::InsufficientSpace);
        }
        Ok(())
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
        if let Place::Memory(held) = &self.place {
            held.pod.let_go(bytes);
        }
    }

    /// The bytes there may be.
    pub(in crate::fs) fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes taken.
    pub(in crate::fs) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Makes an empty file, readable by our own user only.
    pub(super) fn create(&self) -> io::Result<(PathBuf, File)> {
        let Place::Folder(Folder { dir, next, .. }) = &self.place else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            fs::create_dir_all(dir)?;
        }
        let path = dir.join(number.to_string());
        let open = |path: &Path| options().create(true).truncate(true).open(path);
        let file = match open(&path) {
            // The thread that took number 0 has not made the folder yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(dir)?;
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

impl Held {
    fn charge(&self, bytes: u64) -> Result<(), ErrorCode> {
        match self.pod.hold(bytes) {
            Ok(()) => {
                self.overhead.fetch_add(bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(_) => Err(ErrorCode::InsufficientSpace),
        }
    }

    fn refund(&self, bytes: u64) {
        self.overhead.fetch_sub(bytes, Ordering::Relaxed);
        self.pod.let_go(bytes);
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
        match &mut self.place {
            Place::Folder(folder) => {
                if let Some(owner) = folder.owner.get() {
                    owner.shrink(*folder.names.get_mut());
                }
                // Every file has removed itself; a folder that holds something else is not ours to remove.
                if *folder.next.get_mut() > 0 {
                    let _ = fs::remove_dir(&folder.dir);
                }
            }
            Place::Memory(held) => {
                let all = *self.used.get_mut() + *held.overhead.get_mut();
                held.pod.let_go(all);
            }
        }
    }
}
