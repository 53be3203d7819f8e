//! Where images, compiled code and a run's own files live.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

/// The variable of the environment that names the data folder.
pub(crate) const VARIABLE: &str = "CORACLE_DATA_DIR";

/// Returns the data folder that was asked for, or the platform's own place, and creates it.
///
/// # Errors
///
/// Fails when the platform names no home folder or the folder cannot be created.
pub(crate) fn resolve(asked: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let variable = std::env::var_os(VARIABLE);
    let dir = match named(asked, variable.as_deref())? {
        Some(dir) => dir,
        None => directories::ProjectDirs::from("dev", "coracle", "coracle")
            .context("no home folder is known for this user; name a folder with `--data-dir`")?
            .data_local_dir()
            .to_path_buf(),
    };
    fs::create_dir_all(&dir)
        .with_context(|| format!("failed to create the data folder `{}`", dir.display()))?;
    one_name(&dir).with_context(|| format!("failed to resolve the data folder `{}`", dir.display()))
}

/// Returns the folder that was asked for, by option or by `variable`. A variable that is empty counts as not
/// set, as with most programs; an option does not.
fn named(asked: Option<PathBuf>, variable: Option<&OsStr>) -> anyhow::Result<Option<PathBuf>> {
    let Some(dir) = asked else { return Ok(None) };
    if !dir.as_os_str().is_empty() {
        return Ok(Some(dir));
    }
    ensure!(
        variable.is_some_and(OsStr::is_empty),
        "`--data-dir` names no folder"
    );
    Ok(None)
}

/// Returns the path by which all processes know a folder.
#[cfg(not(windows))]
fn one_name(dir: &Path) -> std::io::Result<PathBuf> {
    fs::canonicalize(dir)
}

/// Links stay in it: the canonical form, `\\?\C:\…`, takes no slashes and is strange to people and to
/// other programs.
#[cfg(windows)]
fn one_name(dir: &Path) -> std::io::Result<PathBuf> {
    std::path::absolute(dir)
}

/// The right to be the one `coracle up` or `coracle node` of a data folder, as long as it is held.
pub(crate) struct Claim {
    /// Held for its lock; the kernel releases it however the process ends.
    _lock: File,
}

impl Claim {
    /// Claims the folder for this process.
    ///
    /// # Errors
    ///
    /// Names the process that has it, or the file that cannot be written.
    pub(crate) fn take(data_dir: &Path, command: &str) -> anyhow::Result<Self> {
        let lock_path = data_dir.join(format!("{command}.lock"));
        let pid_path = data_dir.join(format!("{command}.pid"));
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .with_context(|| format!("failed to create `{}`", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = fs::read_to_string(&pid_path).unwrap_or_default();
                let owner = match owner.trim().parse::<u32>() {
                    Ok(pid) => format!("process {pid}"),
                    Err(_) => "another process".to_owned(),
                };
                bail!(
                    "`coracle {command}` already runs on the data folder `{}` ({owner}); end it first, or \
                     name another folder with `--data-dir`",
                    data_dir.display()
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error)
                    .with_context(|| format!("failed to lock `{}`", lock_path.display()));
            }
        }
        // A file of its own: on some systems a locked file cannot be read by others.
        fs::write(&pid_path, std::process::id().to_string())
            .with_context(|| format!("failed to write `{}`", pid_path.display()))?;
        Ok(Self { _lock: lock })
    }
}

/// A folder for one run's own files (volumes, logs), removed when it is dropped.
///
/// Its lock file is held as long as the run lives, so a later run can tell a folder that is in use
/// from one whose owner was killed.
pub(crate) struct RunDir {
    path: PathBuf,
    /// Held for its lock; the kernel releases it however the process ends.
    _lock: File,
}

impl RunDir {
    /// Creates this process's folder below `data_dir` and removes those of runs that are gone.
    ///
    /// # Errors
    ///
    /// Fails when the folder or its lock cannot be created.
    pub(crate) fn create(data_dir: &Path) -> anyhow::Result<Self> {
        let runs = data_dir.join("runs");
        fs::create_dir_all(&runs)
            .with_context(|| format!("failed to create `{}`", runs.display()))?;
        remove_abandoned(&runs);
        let path = runs.join(std::process::id().to_string());
        let lock_path = lock_path(&path);
        let lock = File::create(&lock_path)
            .with_context(|| format!("failed to create `{}`", lock_path.display()))?;
        lock.try_lock()
            .with_context(|| format!("failed to lock `{}`", lock_path.display()))?;
        fs::create_dir_all(&path)
            .with_context(|| format!("failed to create `{}`", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    /// Returns the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run, when the lock is free.
        if fs::remove_dir_all(&self.path).is_ok() {
            let _ = fs::remove_file(lock_path(&self.path));
        }
    }
}

/// The lock stands beside its folder, so the folder can go while the lock is still held.
fn lock_path(run: &Path) -> PathBuf {
    run.with_extension("lock")
}

/// Removes folders of runs whose process is gone; what is in use or cannot be removed stays.
fn remove_abandoned(runs: &Path) {
    let Ok(entries) = fs::read_dir(runs) else {
        return;
    };
    for entry in entries.flatten() {
        let lock = entry.path();
        if lock.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let Ok(file) = File::options().write(true).open(&lock) else {
            continue;
        };
        match file.try_lock() {
            Ok(()) => {
                let folder = lock.with_extension("");
                if !folder.exists() || fs::remove_dir_all(&folder).is_ok() {
                    let _ = fs::remove_file(&lock);
                }
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_not_set_and_an_empty_option_is_refused() {
        let check = |asked: Option<&str>, variable: Option<&str>| {
            named(asked.map(PathBuf::from), variable.map(OsStr::new))
                .map_err(|error| error.to_string())
        };
        assert_eq!(check(None, None), Ok(None));
        assert_eq!(check(Some("/d"), Some("")), Ok(Some("/d".into())));
        assert_eq!(check(Some(""), Some("")), Ok(None));
        for variable in [None, Some("/d")] {
            let refusal = check(Some(""), variable).expect_err("it is empty");
            assert!(refusal.contains("--data-dir"), "{refusal}");
        }
    }

    /// Two writers of one cluster's state would destroy it.
    #[test]
    fn a_data_folder_belongs_to_one_process_and_is_free_afterwards() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let claim = Claim::take(data.path(), "up").expect("nobody else has it");
        let refusal = Claim::take(data.path(), "up")
            .err()
            .expect("it is taken")
            .to_string();
        let pid = format!("(process {})", std::process::id());
        assert!(refusal.contains(&pid), "{refusal}");
        assert!(
            refusal.contains(&data.path().display().to_string()),
            "{refusal}"
        );
        drop(claim);
        drop(Claim::take(data.path(), "up").expect("it is free again"));
    }

    /// A killed run cannot tidy up; its volumes must not stay for ever.
    #[test]
    fn the_folder_of_a_killed_run_is_removed_and_one_in_use_stays() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let runs = data.path().join("runs");
        fs::create_dir_all(runs.join("1")).expect("a folder");
        fs::write(runs.join("1.lock"), "").expect("a lock file");
        fs::create_dir_all(runs.join("2")).expect("a folder");
        let held = File::create(runs.join("2.lock")).expect("a lock file");
        held.try_lock().expect("the lock is free");

        let run = RunDir::create(data.path()).expect("a run folder");

        assert!(!runs.join("1").exists(), "abandoned");
        assert!(runs.join("2").exists(), "in use");
        let path = run.path().to_path_buf();
        assert!(path.exists());
        drop(run);
        assert!(!path.exists());
    }
}
