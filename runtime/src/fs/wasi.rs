//! `wasi:filesystem` over a container's file system.
//!
//! The traits are upstream's generated ones, so its types, error mapping and linking are shared. Their
//! resource types stand for upstream's own descriptors; the table holds ours under the same index, which
//! is safe because nothing else reads these resources once both interfaces are shadowed.
//!
//! Every call first runs inline, which is enough for what is in memory; when it would wait for a disk it
//! has changed nothing yet and runs again on a blocking thread.

mod convert;
mod descriptor;
mod mounts;
pub(super) mod posix;
mod streams;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::filesystem::{preopens, types};
use wasmtime_wasi::p2::{FsError, FsResult};

use self::types::ErrorCode;
use super::FileSystem;
use super::handle::FileHandle;
use super::node::{Fault, Kind, Mode, NodeRef, Outcome};
use crate::blocking;

/// The most descriptors, streams and blocks of listed entries one instance holds at a time.
const OPEN_MAX: usize = 1024;
/// How many listed entries count as one of [`OPEN_MAX`].
const LISTED_PER_SLOT: usize = 256;

/// What an instance keeps about its file system.
pub(crate) struct FsState {
    files: Arc<FileSystem>,
    open: Arc<AtomicUsize>,
}

/// Gives the host functions their part of a store's data.
pub(crate) trait FsView: Send {
    /// The part.
    fn fs(&mut self) -> FsCtx<'_>;
}

/// The part of a store's data that the host functions use.
pub(crate) struct FsCtx<'a> {
    /// The instance's resources.
    pub(crate) table: &'a mut ResourceTable,
    /// Its file system.
    pub(crate) state: &'a mut FsState,
}

/// Ties the host functions to [`FsCtx`].
struct HasFs;

/// An open folder or file of a guest.
struct Descriptor {
    object: Object,
    _slot: Slot,
}

#[derive(Clone)]
enum Object {
    Dir(OpenDir),
    File(FileHandle),
}

#[derive(Clone)]
struct OpenDir {
    node: NodeRef,
    may_change: bool,
}

/// A folder's entries as they were when it was asked for them.
struct Listing {
    entries: std::vec::IntoIter<(String, Kind)>,
    _slot: Slot,
}

/// One or more of an instance's [`OPEN_MAX`], given back when dropped.
struct Slot {
    open: Arc<AtomicUsize>,
    weight: usize,
}

/// Adds `wasi:filesystem/types` and `wasi:filesystem/preopens`, in place of what the linker has for them,
/// and `coracle:posix`.
pub(crate) fn add_to_linker<T: FsView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    types::add_to_linker::<T, HasFs>(linker, T::fs)?;
    preopens::add_to_linker::<T, HasFs>(linker, T::fs)?;
    linker.allow_shadowing(false);
    posix::add_to_linker(linker)?;
    mounts::add_to_linker(linker)
}

impl FsState {
    /// Gives an instance a file system. Its working directory is not known here: a guest's library makes
    /// its paths relative to the one preopened folder, `/`.
    pub(crate) fn new(files: Arc<FileSystem>) -> FsState {
        FsState {
            files,
            open: Arc::new(AtomicUsize::new(0)),
        }
    }

    fn slot(&self, weight: usize) -> Result<Slot, ErrorCode> {
        let slot = Slot {
            open: Arc::clone(&self.open),
            weight,
        };
        if self.open.fetch_add(weight, Ordering::Relaxed) + weight > OPEN_MAX {
            return Err(ErrorCode::InsufficientMemory);
        }
        Ok(slot)
    }
}

impl HasData for HasFs {
    type Data<'a> = FsCtx<'a>;
}

impl FsCtx<'_> {
    fn object(&self, fd: &Resource<types::Descriptor>) -> FsResult<Object> {
        let own = Resource::<Descriptor>::new_borrow(fd.rep());
        Ok(self.table.get(&own)?.object.clone())
    }

    fn dir(&self, fd: &Resource<types::Descriptor>) -> FsResult<NodeRef> {
        match self.object(fd)? {
            Object::Dir(dir) => Ok(dir.node),
            Object::File(_) => Err(ErrorCode::NotDirectory.into()),
        }
    }

    fn file(&self, fd: &Resource<types::Descriptor>) -> FsResult<FileHandle> {
        match self.object(fd)? {
            Object::File(file) => Ok(file),
            Object::Dir(_) => Err(ErrorCode::IsDirectory.into()),
        }
    }

    fn push(&mut self, object: Object) -> FsResult<Resource<types::Descriptor>> {
        let _slot = self.state.slot(1)?;
        let own = self.table.push(Descriptor { object, _slot })?;
        Ok(Resource::new_own(own.rep()))
    }

    /// Runs an operation on the file system.
    fn on_files<T, F>(&self, work: F) -> impl Future<Output = FsResult<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Fn(&FileSystem, Mode) -> Outcome<T> + Send + 'static,
    {
        let files = Arc::clone(&self.state.files);
        on_any_thread(move |mode| work(&files, mode))
    }
}

/// Runs an operation here, and on a blocking thread if it would wait. Dropping the future abandons an
/// operation that such a thread has begun.
fn on_any_thread<T: Send + 'static>(
    work: impl Fn(Mode) -> Outcome<T> + Send + 'static,
) -> impl Future<Output = FsResult<T>> + Send {
    let first = work(Mode::Inline);
    async move {
        match first {
            Ok(done) => return Ok(done),
            Err(Fault::Code(code)) => return Err(code.into()),
            Err(Fault::Blocks) => {}
        }
        match blocking::run(move || work(Mode::Blocking)).await {
            Ok(done) => done.map_err(to_error),
            Err(_panicked_or_shut_down) => Err(ErrorCode::Io.into()),
        }
    }
}

fn to_error(fault: Fault) -> FsError {
    code_of(fault).into()
}

fn code_of(fault: Fault) -> ErrorCode {
    match fault {
        Fault::Code(code) => code,
        // Only an operation that may not block asks for a thread that may.
        Fault::Blocks => ErrorCode::Io,
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

impl preopens::Host for FsCtx<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<types::Descriptor>, String)>> {
        let node = self.state.files.root();
        let root = self.push(Object::Dir(OpenDir {
            node,
            may_change: true,
        }));
        match root {
            Ok(root) => Ok(vec![(root, "/".to_owned())]),
            Err(error) => Err(error.downcast()?.into()),
        }
    }
}

impl types::Host for FsCtx<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        error.downcast()
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        Ok(self.table.get(&error)?.downcast_ref::<ErrorCode>().copied())
    }
}

impl types::HostDirectoryEntryStream for FsCtx<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<types::DirectoryEntryStream>,
    ) -> FsResult<Option<types::DirectoryEntry>> {
        let own = Resource::<Listing>::new_borrow(stream.rep());
        let entry = self.table.get_mut(&own)?.entries.next();
        Ok(entry.map(|(name, kind)| types::DirectoryEntry {
            type_: convert::kind(kind),
            name,
        }))
    }

    fn drop(&mut self, stream: Resource<types::DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.table
            .delete(Resource::<Listing>::new_own(stream.rep()))?;
        Ok(())
    }
}
