//! What leaves the cache: code that nobody has used for long, and the oldest of what is too much.
//!
//! An entry was last used when its sidecar was written or touched. Processes need not agree on
//! anything: an entry that is removed while another process runs it stays mapped there (Windows does
//! not remove it), and whoever wants it next compiles it again. Lock files stay, for two processes
//! must never hold the lock of one entry through two files; they are empty.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How exactly it is known when an entry was used, and how often a folder is looked through: often
/// enough for limits of weeks, too seldom for a start to notice.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Code that nobody used for so long is not missed; compiling it again takes seconds at most.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The most that is kept unless it was used within a day: the code of hundreds of programs.
const KEPT_BYTES_MAX: u64 = 4 << 30;
/// Tells by its age when the engine of its folder looked all folders through; its lock says that it does.
const MARK: &str = "looked-through";

/// The files of one program for one engine.
struct Kept {
    files: Vec<PathBuf>,
    bytes: u64,
    used: SystemTime,
}

/// Notes that an entry is used, by the age of its sidecar. Whoever may not write uses it untold.
pub(super) fn touch(sidecar: &Path, now: SystemTime) {
    let is_fresh = |meta: fs::Metadata| meta.modified().is_ok_and(|at| since(at, now) < DAY);
    if sidecar.metadata().is_ok_and(is_fresh) {
        return;
    }
    if let Ok(file) = File::options().write(true).open(sidecar) {
        let _ = file.set_modified(now);
    }
}

/// Looks through the code of every engine below `root`, unless the engine of `folder` did so within a day
/// or another process of it does so now. Failures are told to nobody but the log: the cache works without.
pub(super) fn look_through_daily(root: &Path, folder: &Path, now: SystemTime) {
    match mark(folder, now) {
        Ok(Some(_alone)) => {
            if let Err(error) = look_through(root, now, KEPT_BYTES_MAX) {
                tracing::debug!(%error, "compiled code that nobody uses stays");
            }
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "compiled code is not looked through"),
    }
}

/// Returns the marked and locked mark if it is time.
fn mark(folder: &Path, now: SystemTime) -> io::Result<Option<File>> {
    let path = folder.join(MARK);
    let is_due = |meta: &fs::Metadata| meta.modified().is_ok_and(|at| since(at, now) >= DAY);
    // A new folder holds nothing old: the mark is made with it, and is due a day later.
    let is_new = match path.metadata() {
        Ok(meta) if is_due(&meta) => false,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error),
    };
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)?;
    if file.try_lock().is_err() {
        return Ok(None);
    }
    file.set_modified(now)?;
    Ok((!is_new).then_some(file))
}

/// Removes what nobody used for long, then the oldest until no more than `bytes_max` are left. What
/// was used within a day stays: a process may be about to load it.
pub(super) fn look_through(root: &Path, now: SystemTime, bytes_max: u64) -> io::Result<()> {
    let mut all = Vec::new();
    for folder in fs::read_dir(root)? {
        let folder = folder?;
        if folder.file_type()?.is_dir() {
            list(&folder.path(), &mut all)?;
        }
    }
    all.sort_by_key(|kept| kept.used);
    let mut bytes: u64 = all.iter().map(|kept| kept.bytes).sum();
    for kept in &all {
        let unused = since(kept.used, now);
        if unused < DAY || (unused < UNUSED_MAX && bytes <= bytes_max) {
            continue;
        }
        if kept.remove()? {
            bytes -= kept.bytes;
        }
    }
    Ok(())
}

/// Adds the programs of one engine's folder.
fn list(folder: &Path, all: &mut Vec<Kept>) -> io::Result<()> {
    let mut programs: HashMap<OsString, Kept> = HashMap::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        // All files of a program are called by the digits of its digest and something after a dot.
        let name = path.file_name().and_then(|name| name.to_str());
        let Some((digits, extension)) = name.and_then(|name| name.split_once('.')) else {
            continue;
        };
        if extension == "lock" {
            continue;
        }
        // Another process may have removed it just now.
        let Ok(meta) = path.metadata() else {
            continue;
        };
        let used = meta.modified()?;
        let kept = programs.entry(digits.into()).or_insert(Kept {
            files: Vec::new(),
            bytes: 0,
            used,
        });
        kept.used = kept.used.max(used);
        kept.bytes += meta.len();
        // The sidecar first: code without one counts as absent, one without code as damaged.
        match extension {
            "json" => kept.files.insert(0, path),
            _ => kept.files.push(path),
        }
    }
    all.extend(programs.into_values());
    Ok(())
}

impl Kept {
    /// Removes the files unless someone writes them now; says whether they are gone.
    fn remove(&self) -> io::Result<bool> {
        let Some(digits) = self.files.first().map(|file| digits_of(file)) else {
            return Ok(false);
        };
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(digits.with_extension("lock"))?;
        if lock.try_lock().is_err() {
            return Ok(false);
        }
        // Windows keeps what is mapped; it goes another day.
        Ok(self.files.iter().all(|file| fs::remove_file(file).is_ok()))
    }
}

/// Returns a file's path up to the first dot of its name.
fn digits_of(file: &Path) -> PathBuf {
    let mut digits = file.to_owned();
    while digits.extension().is_some() {
        digits.set_extension("");
    }
    digits
}

/// A time that is still to come, after the clock was set back, counts as now.
fn since(at: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(at).unwrap_or_default()
}
