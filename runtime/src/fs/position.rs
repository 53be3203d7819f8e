//! Reading and writing a host file at a position, which each platform spells differently.

use std::fs::File;
use std::io;

use bytes::Bytes;

use super::{FileExtent, IO_BYTES_MAX};

/// Reads once, at most [`IO_BYTES_MAX`]; returns nothing only at the end of the file.
pub(super) fn read_vec(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buf = vec![0; len.min(IO_BYTES_MAX)];
    loop {
        match read(file, &mut buf, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => {
                buf.truncate(done?);
                return Ok(buf.into());
            }
        }
    }
}

/// Reads once from a part of a file, at a position in the part.
pub(super) fn read_chunk(extent: &FileExtent, at: u64) -> io::Result<Bytes> {
    let left = usize::try_from(extent.len.saturating_sub(at)).unwrap_or(usize::MAX);
    read_vec(&extent.file, extent.offset.saturating_add(at), left)
}

/// Writes all of `buf`; an error comes with how much was written before it.
pub(super) fn write_full(file: &File, buf: &[u8], offset: u64) -> Result<(), (usize, io::Error)> {
    let mut done = 0;
    while done < buf.len() {
        match write(file, &buf[done..], offset.saturating_add(done as u64)) {
            Ok(0) => return Err((done, io::ErrorKind::WriteZero.into())),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((done, error)),
        }
    }
    Ok(())
}

#[cfg(unix)]
fn read(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buf, offset)
}

#[cfg(unix)]
fn write(file: &File, buf: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, buf, offset)
}

// These move the file's cursor too, which nothing here reads.
#[cfg(windows)]
fn read(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buf, offset)
}

#[cfg(windows)]
fn write(file: &File, buf: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, buf, offset)
}
