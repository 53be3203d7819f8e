//! Compiled code on disk, shared by every process of the machine that uses the folder.
//!
//! An entry is two files: the machine code, and a sidecar with its SHA-256 and what the program
//! exports. Only we write here; still an entry is believed only after its checksum was right once
//! in this process, since machine code is run as it is. The engine's compatibility hash and the
//! version of our adaptation name the sub-folder, so an update never meets old code.

mod eviction;

use crate::adapt::ADAPTATION;
use crate::compile::Artefact;
use crate::engine::hex;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often a process looks whether another one has finished the same compilation.
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Piece of a file that is hashed at once.
const HASH_BUFFER_BYTES: usize = 256 * 1024;

/// The digest of a program, checked: `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CodeDigest(String);

impl CodeDigest {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:")?;
        let valid = digits.len() == 64
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self(text.to_owned()))
    }

    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(format!("sha256:{}", hex(&Sha256::digest(bytes))))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn digits(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

impl fmt::Display for CodeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A checked entry.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    pub(crate) artefact: Artefact,
}

/// The folder of one engine configuration and one adaptation.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Where the folders of all engines lie.
    root: PathBuf,
    folder: PathBuf,
    /// Entries whose checksum was right once in this process.
    checked: Mutex<HashSet<CodeDigest>>,
}

impl Cache {
    /// Opens, and makes, the folder for code that fits `compatibility`. Once a day, code that nobody
    /// has used for long leaves it.
    pub(crate) fn open(root: &Path, compatibility: &str) -> io::Result<Self> {
        let folder = root.join(format!("{compatibility}-a{ADAPTATION}"));
        fs::create_dir_all(&folder)?;
        eviction::look_through_daily(root, &folder, SystemTime::now());
        Ok(Self {
            root: root.to_owned(),
            folder,
            checked: Mutex::default(),
        })
    }

    /// Returns the entry of `digest` if it is there and unharmed. Reads the whole file the first
    /// time: call it where blocking is allowed.
    pub(crate) fn find(&self, digest: &CodeDigest) -> Option<Entry> {
        let sidecar = self.path(digest, "json");
        let artefact: Artefact = serde_json::from_slice(&fs::read(&sidecar).ok()?).ok()?;
        let path = self.path(digest, "cwasm");
        if !self.checked.lock().contains(digest) {
            if file_sha256(&path).ok()? != artefact.sha256 {
                tracing::warn!(%digest, "compiled code on disk is damaged, it is made again");
                return None;
            }
            self.checked.lock().insert(digest.clone());
        }
        eviction::touch(&sidecar, SystemTime::now());
        Some(Entry { path, artefact })
    }

    /// Takes the right to write the entry of `digest`, waiting for other processes that have it.
    /// Removes what a writer that was ended left behind.
    pub(crate) async fn lock(&self, digest: &CodeDigest) -> io::Result<EntryLock<'_>> {
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(self.path(digest, "lock"))?;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        let lock = EntryLock {
            cache: self,
            digest: digest.clone(),
            _file: file,
        };
        lock.discard_draft();
        Ok(lock)
    }

    fn path(&self, digest: &CodeDigest, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", digest.digits()))
    }
}

/// The right to write one entry. Given back when dropped, also by the end of the process.
#[derive(Debug)]
pub(crate) struct EntryLock<'a> {
    cache: &'a Cache,
    digest: CodeDigest,
    _file: File,
}

impl EntryLock<'_> {
    /// Where the compiler writes; one file per entry is enough, as only one process has the lock.
    pub(crate) fn draft(&self) -> PathBuf {
        self.cache.path(&self.digest, "cwasm.draft")
    }

    /// Forgets the entry: it could not be loaded although its checksum is right.
    pub(crate) fn discard(&self) {
        self.cache.checked.lock().remove(&self.digest);
        let _ = fs::remove_file(self.cache.path(&self.digest, "json"));
    }

    /// Makes the draft the entry. Code first, then sidecar: whoever is interrupted in between
    /// leaves code whose checksum does not fit, which counts as absent.
    pub(crate) fn publish(&self, artefact: &Artefact) -> io::Result<()> {
        let sidecar = self.cache.path(&self.digest, "json");
        let sidecar_draft = self.cache.path(&self.digest, "json.draft");
        let text = serde_json::to_vec(artefact).expect("an artefact is plain data");
        self.cache.checked.lock().remove(&self.digest);
        fs::rename(self.draft(), self.cache.path(&self.digest, "cwasm"))?;
        fs::write(&sidecar_draft, text)?;
        fs::rename(sidecar_draft, sidecar)?;
        // A process that never ends must not fill the disk either; what grows here, shrinks here.
        let Cache { root, folder, .. } = self.cache;
        eviction::look_through_daily(root, folder, SystemTime::now());
        Ok(())
    }

    fn discard_draft(&self) {
        let _ = fs::remove_file(self.draft());
    }
}

impl Drop for EntryLock<'_> {
    fn drop(&mut self) {
        self.discard_draft();
    }
}

fn file_sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; HASH_BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests;
