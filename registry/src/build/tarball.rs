//! Tars that depend on nothing but names, kinds and content.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;

use tar::{Builder, EntryType, Header};
use tempfile::NamedTempFile;

use super::BuildError;

type Tar<'a> = Builder<BufWriter<&'a mut File>>;

/// Returns a folder as a tar: entries in the order of their names, no owners, no times.
pub(super) fn of_folder(
    mut file: NamedTempFile,
    folder: &Path,
) -> Result<NamedTempFile, BuildError> {
    let mut tar = Builder::new(BufWriter::new(file.as_file_mut()));
    add_folder(&mut tar, folder, "")?;
    finish(tar, folder)?;
    Ok(file)
}

/// Returns a module as a tar with one entry, and the absolute path it has there.
pub(super) fn of_module(
    mut file: NamedTempFile,
    module: &Path,
) -> Result<(NamedTempFile, String), BuildError> {
    let name = module.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| BuildError::Name {
        path: module.to_owned(),
    })?;
    let mut tar = Builder::new(BufWriter::new(file.as_file_mut()));
    add_file(&mut tar, module, name, 0o755)?;
    finish(tar, module)?;
    Ok((file, format!("/{name}")))
}

fn add_folder(tar: &mut Tar<'_>, folder: &Path, inside: &str) -> Result<(), BuildError> {
    let unreadable = |source| BuildError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| BuildError::Name { path: path.clone() })?;
        names.push((name.to_owned(), path.clone()));
    }
    names.sort();
    for (name, path) in names {
        let inside = if inside.is_empty() {
            name
        } else {
            format!("{inside}/{name}")
        };
        add(tar, &path, &inside)?;
    }
    Ok(())
}

fn add(tar: &mut Tar<'_>, path: &Path, inside: &str) -> Result<(), BuildError> {
    let unreadable = |source| BuildError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = path.symlink_metadata().map_err(unreadable)?;
    if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(unreadable)?;
        // Links inside an image are written with slashes on every system.
        let target = target.to_str().ok_or_else(|| BuildError::Name {
            path: path.to_owned(),
        })?;
        let target = if cfg!(windows) {
            target.replace('\\', "/")
        } else {
            target.to_owned()
        };
        let mut header = plain(EntryType::Symlink, 0o777, 0);
        return tar
            .append_link(&mut header, inside, target)
            .map_err(unreadable);
    }
    if metadata.is_dir() {
        let mut header = plain(EntryType::Directory, 0o755, 0);
        let appended = tar.append_data(&mut header, format!("{inside}/"), io::empty());
        appended.map_err(unreadable)?;
        return add_folder(tar, path, inside);
    }
    if metadata.is_file() {
        return add_file(tar, path, inside, mode_of(&metadata));
    }
    // Sockets, pipes and devices: no guest could open them.
    Ok(())
}

fn add_file(tar: &mut Tar<'_>, path: &Path, inside: &str, mode: u32) -> Result<(), BuildError> {
    let unreadable = |source| BuildError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let mut header = plain(EntryType::Regular, mode, size);
    // Exactly as many bytes as the header says, though the file may grow meanwhile.
    tar.append_data(&mut header, inside, io::Read::take(file, size))
        .map_err(unreadable)
}

fn plain(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn finish(mut tar: Tar<'_>, path: &Path) -> Result<(), BuildError> {
    let unreadable = |source| BuildError::Read {
        path: path.to_owned(),
        source,
    };
    tar.finish().map_err(unreadable)?;
    let buffered = tar.into_inner().map_err(unreadable)?;
    buffered
        .into_inner()
        .map(drop)
        .map_err(|error| unreadable(error.into_error()))
}

#[cfg(unix)]
fn mode_of(metadata: &fs::Metadata) -> u32 {
    use std::os::unix::fs::MetadataExt;
    // Whether it can be executed is content; who may write here is not.
    if metadata.mode() & 0o111 == 0 {
        0o644
    } else {
        0o755
    }
}

#[cfg(not(unix))]
fn mode_of(_metadata: &fs::Metadata) -> u32 {
    0o644
}
