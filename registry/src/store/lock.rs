//! Locks between tasks of one process and between processes.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::OwnedMutexGuard;

use super::{StoreError, locked};
use crate::digest::Digest;

/// How long to wait between looks at a lock that another process holds: the system offers no way to
/// wait that a dropped future could leave.
const LOOK_AGAIN_FIRST: Duration = Duration::from_millis(2);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(50);

/// A locked file; the system releases it however the process ends.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: File,
}

/// Whether others may hold the same lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
}

impl FileLock {
    /// Takes the lock if nobody holds it against us.
    pub(crate) fn attempt(path: &Path, mode: Mode) -> Result<Option<Self>, StoreError> {
        let fault = |source| StoreError::File {
            action: "lock",
            path: path.to_owned(),
            source,
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(fault)?;
        let locked = match mode {
            Mode::Shared => file.try_lock_shared(),
            Mode::Exclusive => file.try_lock(),
        };
        match locked {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(fault(source)),
        }
    }

    /// Makes the file's age that of this moment. Without it only less is known.
    pub(crate) fn touch(&self) {
        let _ = self.file.set_modified(SystemTime::now());
    }

    /// Waits for a shared lock. Only for locks whose exclusive holders are quick.
    pub(crate) fn shared(path: &Path) -> Result<Self, StoreError> {
        Self::wait(path, Mode::Shared)
    }

    /// Waits for a lock, blocking the thread.
    pub(crate) fn wait(path: &Path, mode: Mode) -> Result<Self, StoreError> {
        let mut pause = LOOK_AGAIN_FIRST;
        loop {
            if let Some(lock) = Self::attempt(path, mode)? {
                return Ok(lock);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK_AGAIN_MAX);
        }
    }

    /// Waits for a lock; the future can be dropped at any time.
    pub(crate) async fn wait_async(path: &Path, mode: Mode) -> Result<Self, StoreError> {
        let mut pause = LOOK_AGAIN_FIRST;
        loop {
            if let Some(lock) = Self::attempt(path, mode)? {
                return Ok(lock);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_AGAIN_MAX);
        }
    }
}

/// The digests that tasks of this process are fetching.
#[derive(Default)]
pub(crate) struct Flights {
    tasks: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// The right to fetch one digest, here and on the whole machine.
pub(crate) struct Flight {
    // Dropped in this order: the next task of this process then finds the file free.
    _file: FileLock,
    _task: OwnedMutexGuard<()>,
}

impl Flights {
    /// Waits until nobody else fetches this digest.
    pub(crate) async fn board(&self, digest: Digest, path: &Path) -> Result<Flight, StoreError> {
        let mutex = self.mutex(digest);
        let task = mutex.lock_owned().await;
        let file = FileLock::wait_async(path, Mode::Exclusive).await?;
        Ok(Flight {
            _file: file,
            _task: task,
        })
    }

    fn mutex(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut tasks = locked(&self.tasks);
        if let Some(mutex) = tasks.get(&digest).and_then(Weak::upgrade) {
            return mutex;
        }
        tasks.retain(|_, mutex| mutex.strong_count() > 0);
        let mutex = Arc::default();
        tasks.insert(digest, Arc::downgrade(&mutex));
        mutex
    }
}
