//! Files that hold keys: whole or absent, and for their owner's eyes only.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use uuid::Uuid;

use super::IdentityError;

/// A key or certificate in PEM has a few thousand bytes; what is longer is something else.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Creates a folder that others cannot enter; one that is there is taken as it is.
pub(super) fn make_private_dir(dir: &Path) -> Result<(), IdentityError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|source| IdentityError::Write {
        path: dir.to_owned(),
        source,
    })
}

/// Reads a file that may be missing.
pub(super) fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(unreadable(path, source)),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|source| unreadable(path, source))?;
    Ok(Some(text))
}

/// Replaces a file as a whole, so that no reader and no crash meets half of it.
pub(super) fn write_if_changed(path: &Path, text: &str) -> Result<(), IdentityError> {
    if read(path)?.as_deref() == Some(text) {
        return Ok(());
    }
    let fresh = path.with_extension(format!("{}.new", Uuid::new_v4()));
    let written = write_private(&fresh, text).and_then(|()| fs::rename(&fresh, path));
    let written = written.and_then(|()| sync_dir_of(path));
    written.map_err(|source| {
        // What cannot be removed is a file under a name that nobody reads.
        let _ = fs::remove_file(&fresh);
        IdentityError::Write {
            path: path.to_owned(),
            source,
        }
    })
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Makes a rename durable; only Unix opens folders for that.
fn sync_dir_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if cfg!(unix) => File::open(dir)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}

fn unreadable(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Read {
        path: path.to_owned(),
        source,
    }
}
