//! One process per data folder.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    path::Path,
};

use fs4::fs_std::FileExt;

use super::OpenError;

/// The file whose lock says that the folder is in use; it stays when the process ends.
const LOCK_NAME: &str = "lock";

/// Holds the folder until it is dropped, or until the process ends in any way.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the folder, or tells who has it.
    pub(crate) fn take(folder: &Path) -> Result<FolderLock, OpenError> {
        let failed = |source| OpenError::Lock {
            folder: folder.to_owned(),
            source,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(folder.join(LOCK_NAME)).map_err(failed)?;
        if !FileExt::try_lock_exclusive(&file).map_err(failed)? {
            return Err(OpenError::InUse {
                folder: folder.to_owned(),
                pid: holder(&mut file),
            });
        }
        // Only a note for whoever comes second: the lock counts, not the content.
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)
            .or_else(tolerate_a_full_disk)?;
        Ok(FolderLock { _file: file })
    }
}

/// A store on a full disk can still be read, so the note may be missing.
fn tolerate_a_full_disk(error: OpenError) -> Result<(), OpenError> {
    match &error {
        OpenError::Lock { source, .. } if super::is_full(source) => Ok(()),
        _ => Err(error),
    }
}

/// Reads the holder's note; Windows does not let it be read.
fn holder(file: &mut File) -> Option<u32> {
    let mut note = String::new();
    file.take(16).read_to_string(&mut note).ok()?;
    note.trim().parse().ok()
}
