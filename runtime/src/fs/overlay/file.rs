//! One file of the container's root: in the tree until something is written, then in a numbered file.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::pages::Pages;
use super::store::Store;
use crate::fs::node::{Fault, Kind, Mode, NewTimes, Outcome, Stat, Times};
use crate::fs::open_files::Counted;
use crate::fs::position::{read_vec, write_full};
use crate::fs::user::Permissions;
use crate::fs::{FileExtent, FileSource, IO_BYTES_MAX};

/// The largest file of a volume in memory that the host reads: it makes a copy, which nobody is charged for.
const COPIED_BYTES_MAX: usize = 64 << 20;

/// A file and what is known of it.
///
/// Two locks: `attributes` is held for a moment only, so a stat never waits for a disk; `data` is held
/// during I/O, by threads that may block.
pub(in crate::fs) struct OverlayFile {
    inode: u64,
    /// `None` when the root is read-only.
    store: Option<Arc<Store>>,
    attributes: Mutex<Attributes>,
    data: RwLock<Data>,
    opens: AtomicUsize,
}

struct Attributes {
    len: u64,
    known: Known,
    /// Whether anything is not as in the tree.
    differs: bool,
}

/// What is known of a file beside its data.
pub(super) struct Known {
    pub(super) links: u64,
    pub(super) times: Times,
    pub(super) permissions: Permissions,
}

enum Data {
    /// As in the tree, or empty.
    Source(FileSource),
    Numbered(Numbered),
    /// In memory, as everything of the volume that it belongs to.
    Pages(Pages),
}

/// A numbered file; removed, and its bytes given back, when dropped.
struct Numbered {
    store: Arc<Store>,
    path: PathBuf,
    /// Closed while no guest has the file open, so that idle files cost no descriptors.
    file: Option<Kept>,
    charged: u64,
}

/// An open numbered file.
struct Kept {
    file: File,
    /// `None` when its pod, or all together, hold as many files open as they may: then it is closed after
    /// each use, and opened again for the next.
    counted: Option<Counted>,
}

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fs) enum WriteAt {
    Offset(u64),
    End,
}

impl OverlayFile {
    pub(super) fn of_tree(
        inode: u64,
        source: FileSource,
        known: Known,
        store: Option<&Arc<Store>>,
    ) -> OverlayFile {
        let attributes = Attributes {
            len: source.len(),
            known,
            differs: false,
        };
        OverlayFile {
            inode,
            store: store.cloned(),
            attributes: Mutex::new(attributes),
            data: RwLock::new(Data::Source(source)),
            opens: AtomicUsize::new(0),
        }
    }

    /// An empty file that the container made.
    pub(super) fn empty(inode: u64, permissions: Permissions, store: &Arc<Store>) -> OverlayFile {
        let source = FileSource::Bytes(Bytes::new());
        let known = Known {
            links: 0,
            times: Times::all(SystemTime::now()),
            permissions,
        };
        let file = OverlayFile::of_tree(inode, source, known, Some(store));
        file.attributes.lock().differs = true;
        file
    }

    pub(in crate::fs) fn inode(&self) -> u64 {
        self.inode
    }

    pub(super) fn opened(&self) {
        self.opens.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether this was the last opening.
    pub(super) fn closed(&self) -> bool {
        self.opens.fetch_sub(1, Ordering::Relaxed) == 1
    }

    pub(super) fn is_open(&self) -> bool {
        self.opens.load(Ordering::Relaxed) > 0
    }

    /// Closes the numbered file of a file nobody has open; the next reader opens it again.
    pub(super) fn close_idle(&self) {
        // An abandoned write may hold the lock; the file then stays open until the next closing.
        if let Some(mut data) = self.data.try_write()
            && let Data::Numbered(numbered) = &mut *data
            && !self.is_open()
        {
            numbered.file = None;
        }
    }

    pub(super) fn is_unlinked(&self) -> bool {
        self.attributes.lock().known.links == 0
    }

    pub(super) fn differs(&self) -> bool {
        self.attributes.lock().differs
    }

    /// Counts a name more or less; returns how many there are.
    pub(super) fn add_links(&self, change: i64) -> u64 {
        let mut attributes = self.attributes.lock();
        let known = &mut attributes.known;
        known.links = known.links.saturating_add_signed(change);
        known.times.changed = SystemTime::now();
        let links = known.links;
        attributes.differs = true;
        links
    }

    pub(in crate::fs) fn stat(&self) -> Stat {
        let attributes = self.attributes.lock();
        Stat {
            kind: Kind::File,
            size: attributes.len,
            links: attributes.known.links,
            times: attributes.known.times,
            permissions: attributes.known.permissions,
        }
    }

    pub(in crate::fs) fn set_times(&self, times: NewTimes) -> Result<(), ErrorCode> {
        self.store.as_ref().ok_or(ErrorCode::ReadOnly)?;
        let mut attributes = self.attributes.lock();
        attributes.known.times.set(times);
        attributes.differs = true;
        Ok(())
    }

    pub(super) fn set_permissions(&self, permissions: Permissions) {
        let mut attributes = self.attributes.lock();
        attributes.known.permissions = permissions;
        attributes.known.times.changed = SystemTime::now();
        attributes.differs = true;
    }

    /// Reads up to `len` bytes; none only at the end of the file.
    pub(in crate::fs) fn read(&self, offset: u64, len: usize, mode: Mode) -> Outcome<Bytes> {
        let len = len.min(IO_BYTES_MAX);
        let mut data = match mode {
            Mode::Inline => self.data.try_read().ok_or(Fault::Blocks)?,
            Mode::Blocking => self.data.read(),
        };
        if let Data::Numbered(Numbered { file: None, .. }) = &*data {
            mode.require_blocking()?;
            drop(data);
            if let Some(read) = self.reopen_to_read(offset, len)? {
                return Ok(read);
            }
            data = self.data.read();
        }
        match &*data {
            Data::Source(source) => read_source(source, offset, len, mode),
            Data::Numbered(numbered) => {
                mode.require_blocking()?;
                Ok(read_vec(numbered.open()?, offset, len)?)
            }
            Data::Pages(pages) => {
                let left = self.attributes.lock().len.saturating_sub(offset);
                Ok(pages.read(offset, len.min(usize::try_from(left).unwrap_or(len))))
            }
        }
    }

    /// Writes all of `bytes`, after copying the file up if this is the first change.
    pub(in crate::fs) fn write(&self, at: WriteAt, bytes: &[u8], mode: Mode) -> Outcome<()> {
        if let Some(store) = self.memory() {
            return self.write_in_memory(store, at, bytes, mode);
        }
        mode.require_blocking()?;
        if bytes.is_empty() {
            return Ok(());
        }
        let mut data = self.data.write();
        let len = self.attributes.lock().len;
        let offset = match at {
            WriteAt::Offset(offset) => offset,
            WriteAt::End => len,
        };
        let end = offset
            .checked_add(bytes.len() as u64)
            .ok_or(ErrorCode::FileTooLarge)?;
        let numbered = self.copy_up(&mut data, len)?;
        numbered.charge_up_to(end)?;
        let written = write_full(numbered.open()?, bytes, offset);
        let len = match &written {
            Ok(()) => len.max(end),
            Err((0, _)) => len,
            Err((part, _)) => len.max(offset.saturating_add(*part as u64)),
        };
        numbered.refund_above(len);
        numbered.close_uncounted();
        self.record(len);
        Ok(written.map_err(|(_, error)| error)?)
    }

    /// The store, if what it takes is held in memory.
    fn memory(&self) -> Option<&Arc<Store>> {
        self.store.as_ref().filter(|store| store.is_in_memory())
    }

    fn write_in_memory(
        &self,
        store: &Arc<Store>,
        at: WriteAt,
        bytes: &[u8],
        mode: Mode,
    ) -> Outcome<()> {
        let mut data = self.lock_data(mode)?;
        let len = self.attributes.lock().len;
        let offset = match at {
            WriteAt::Offset(offset) => offset,
            WriteAt::End => len,
        };
        let end = offset
            .checked_add(bytes.len() as u64)
            .ok_or(ErrorCode::FileTooLarge)?;
        store.refuse_beyond_limit(end)?;
        if !bytes.is_empty() {
            pages(&mut data, store).write(offset, bytes)?;
            self.record(len.max(end));
        }
        Ok(())
    }

    fn lock_data(&self, mode: Mode) -> Outcome<RwLockWriteGuard<'_, Data>> {
        match mode {
            Mode::Inline => self.data.try_write().ok_or(Fault::Blocks),
            Mode::Blocking => Ok(self.data.write()),
        }
    }

    /// Cuts or extends the file; emptying it needs no copy of what it was.
    pub(in crate::fs) fn set_len(&self, len: u64, mode: Mode) -> Outcome<()> {
        let store = self.store.as_ref().ok_or(ErrorCode::ReadOnly)?;
        let mut data = self.lock_data(mode)?;
        if store.is_in_memory() {
            store.refuse_beyond_limit(len)?;
            pages(&mut data, store).cut(len);
            self.record(len);
            return Ok(());
        }
        if len > 0 || matches!(*data, Data::Numbered(_)) {
            mode.require_blocking()?;
        }
        let old = self.attributes.lock().len;
        if len == 0 {
            *data = Data::Source(FileSource::Bytes(Bytes::new()));
        } else if len != old {
            // Checked before the copy, which an absurd size would waste.
            store.refuse_beyond_limit(len)?;
            let numbered = self.copy_up(&mut data, old.min(len))?;
            numbered.charge_up_to(len)?;
            let resized = numbered.open()?.set_len(len);
            numbered.refund_above(if resized.is_ok() { len } else { old });
            numbered.close_uncounted();
            resized?;
        }
        self.record(len);
        Ok(())
    }

    /// The bytes as the host may read them later: in memory, or an open file.
    pub(in crate::fs) fn source(&self) -> io::Result<FileSource> {
        let data = self.data.read();
        match &*data {
            Data::Source(source) => Ok(source.clone()),
            Data::Numbered(numbered) => {
                let file = Arc::new(Store::reopen(&numbered.path)?);
                let len = self.attributes.lock().len;
                Ok(FileSource::Extent(FileExtent {
                    file,
                    offset: 0,
                    len,
                }))
            }
            Data::Pages(pages) => {
                let len = self.attributes.lock().len;
                let len = usize::try_from(len)
                    .ok()
                    .filter(|len| *len <= COPIED_BYTES_MAX);
                let len = len.ok_or(io::ErrorKind::FileTooLarge)?;
                Ok(FileSource::Bytes(pages.read(0, len)))
            }
        }
    }

    fn record(&self, len: u64) {
        let mut attributes = self.attributes.lock();
        attributes.len = len;
        attributes.differs = true;
        attributes.known.times.touch();
    }

    /// Opens the numbered file again and reads; nothing where there is none any more.
    fn reopen_to_read(&self, offset: u64, len: usize) -> io::Result<Option<Bytes>> {
        let Data::Numbered(numbered) = &mut *self.data.write() else {
            return Ok(None);
        };
        numbered.reopen()?;
        let read = read_vec(numbered.open()?, offset, len);
        numbered.close_uncounted();
        read.map(Some)
    }

    /// The open numbered file, made with the first `keep` bytes when there is none yet. When it fails
    /// the file is as it was.
    fn copy_up<'a>(&self, data: &'a mut Data, keep: u64) -> Outcome<&'a mut Numbered> {
        if let Data::Source(source) = data {
            let store = self.store.as_ref().ok_or(ErrorCode::ReadOnly)?;
            store.charge(keep)?;
            let (path, file) = store.create().inspect_err(|_| store.refund(keep))?;
            let store = Arc::clone(store);
            let file = Some(Kept::new(file, &store));
            let numbered = Numbered {
                store,
                path,
                file,
                charged: keep,
            };
            copy(source, numbered.open()?, keep)?;
            *data = Data::Numbered(numbered);
        }
        match data {
            Data::Numbered(numbered) => {
                numbered.reopen()?;
                Ok(numbered)
            }
            // The first is replaced above; the second is of files that are written elsewhere.
            Data::Source(_) | Data::Pages(_) => Err(ErrorCode::Unsupported.into()),
        }
    }
}

impl Kept {
    fn new(file: File, store: &Store) -> Kept {
        let counted = Counted::take(store.pod()).ok();
        Kept { file, counted }
    }
}

impl Numbered {
    fn open(&self) -> io::Result<&File> {
        self.file
            .as_ref()
            .map(|kept| &kept.file)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn reopen(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let file = Store::reopen(&self.path)?;
            self.file = Some(Kept::new(file, &self.store));
        }
        Ok(())
    }

    /// Closes a file that is one too many to be kept open.
    fn close_uncounted(&mut self) {
        self.file.take_if(|kept| kept.counted.is_none());
    }

    fn charge_up_to(&mut self, len: u64) -> Result<(), ErrorCode> {
        if len > self.charged {
            self.store.charge(len - self.charged)?;
            self.charged = len;
        }
        Ok(())
    }

    fn refund_above(&mut self, len: u64) {
        self.store.refund(self.charged.saturating_sub(len));
        self.charged = self.charged.min(len);
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.store.refund(self.charged);
        let (store, file, path) = (Arc::clone(&self.store), self.file.take(), self.path.clone());
        let remove = move || {
            drop(file);
            // What cannot be removed here is removed with the container's folder.
            let _ = fs::remove_file(path);
            drop(store);
        };
        // Removing a large file takes a disk its time, and a guest's thread has none.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// The pages of a file in memory, which begins as an empty one.
fn pages<'a>(data: &'a mut Data, store: &Arc<Store>) -> &'a mut Pages {
    if !matches!(data, Data::Pages(_)) {
        *data = Data::Pages(Pages::new(store));
    }
    match data {
        Data::Pages(pages) => pages,
        Data::Source(_) | Data::Numbered(_) => unreachable!("the branch above replaced it"),
    }
}

/// Reads from where a tree keeps a file's bytes.
pub(in crate::fs) fn read_source(
    source: &FileSource,
    offset: u64,
    len: usize,
    mode: Mode,
) -> Outcome<Bytes> {
    let left = source.len().saturating_sub(offset);
    let len = len
        .min(IO_BYTES_MAX)
        .min(usize::try_from(left).unwrap_or(usize::MAX));
    if len == 0 {
        return Ok(Bytes::new());
    }
    match source {
        FileSource::Bytes(bytes) => {
            let start = usize::try_from(offset).map_err(|_| ErrorCode::Overflow)?;
            Ok(bytes.slice(start..start + len))
        }
        FileSource::Extent(extent) => {
            mode.require_blocking()?;
            let at = extent
                .offset
                .checked_add(offset)
                .ok_or(ErrorCode::Overflow)?;
            Ok(read_vec(&extent.file, at, len)?)
        }
    }
}

fn copy(source: &FileSource, to: &File, len: u64) -> Outcome<()> {
    let mut done = 0;
    while done < len {
        let want = usize::try_from(len - done).unwrap_or(usize::MAX);
        let chunk = read_source(source, done, want, Mode::Blocking)?;
        if chunk.is_empty() {
            // The layer is shorter than its index says.
            return Err(ErrorCode::Io.into());
        }
        write_full(to, &chunk, done).map_err(|(_, error)| error)?;
        done += chunk.len() as u64;
    }
    Ok(())
}
