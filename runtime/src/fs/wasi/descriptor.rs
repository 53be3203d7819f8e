//! The functions of a `descriptor`.

use bytes::Bytes;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntryStream, Filesize,
    HostDescriptor, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::streams::{FileInput, FileOutput};
use super::{Descriptor, FsCtx, LISTED_PER_SLOT, Listing, Object, OpenDir, convert, on_any_thread};
use crate::fs::IO_BYTES_MAX;
use crate::fs::handle::Sync;
use crate::fs::node::Kind;
use crate::fs::operations::Opening;
use crate::fs::overlay::WriteAt;

type Fd = Resource<wasmtime_wasi::p2::bindings::filesystem::types::Descriptor>;

impl HostDescriptor for FsCtx<'_> {
    fn read_via_stream(&mut self, fd: Fd, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        let file = self.file(&fd)?;
        file.require_read()?;
        let stream: DynInputStream = Box::new(FileInput::new(file, offset, self.state.slot(1)?));
        Ok(self.table.push(stream)?)
    }

    fn write_via_stream(
        &mut self,
        fd: Fd,
        offset: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        self.output(&fd, WriteAt::Offset(offset))
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        self.output(&fd, WriteAt::End)
    }

    /// Advice is taken note of: nothing here reads ahead or caches.
    async fn advise(&mut self, fd: Fd, _: Filesize, _: Filesize, _: Advice) -> FsResult<()> {
        self.file(&fd)?;
        Ok(())
    }

    async fn sync_data(&mut self, fd: Fd) -> FsResult<()> {
        self.synchronise(fd, Sync::Data).await
    }

    async fn sync(&mut self, fd: Fd) -> FsResult<()> {
        self.synchronise(fd, Sync::All).await
    }

    async fn get_flags(&mut self, fd: Fd) -> FsResult<DescriptorFlags> {
        let none = DescriptorFlags::empty();
        let with = |flag, has| if has { flag } else { none };
        Ok(match self.object(&fd)? {
            Object::Dir(dir) => {
                DescriptorFlags::READ | with(DescriptorFlags::MUTATE_DIRECTORY, dir.may_change)
            }
            Object::File(file) => {
                with(DescriptorFlags::READ, file.rights().read)
                    | with(DescriptorFlags::WRITE, file.rights().write)
            }
        })
    }

    async fn get_type(&mut self, fd: Fd) -> FsResult<DescriptorType> {
        Ok(convert::kind(match self.object(&fd)? {
            Object::Dir(_) => Kind::Dir,
            Object::File(_) => Kind::File,
        }))
    }

    async fn set_size(&mut self, fd: Fd, size: Filesize) -> FsResult<()> {
        let file = self.file(&fd)?;
        on_any_thread(move |mode| file.set_len(size, mode)).await
    }

    async fn set_times(
        &mut self,
        fd: Fd,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let times = convert::new_times(accessed, modified)?;
        match self.object(&fd)? {
            Object::File(file) => on_any_thread(move |mode| file.set_times(times, mode)).await,
            Object::Dir(dir) => {
                self.on_files(move |files, mode| files.set_times(&dir.node, times, mode))
                    .await
            }
        }
    }

    async fn read(&mut self, fd: Fd, len: Filesize, offset: Filesize) -> FsResult<(Vec<u8>, bool)> {
        let file = self.file(&fd)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(IO_BYTES_MAX);
        let bytes = on_any_thread(move |mode| file.read(offset, len, mode)).await?;
        let is_end = bytes.is_empty();
        Ok((bytes.into(), is_end))
    }

    async fn write(&mut self, fd: Fd, mut bytes: Vec<u8>, offset: Filesize) -> FsResult<Filesize> {
        let file = self.file(&fd)?;
        bytes.truncate(IO_BYTES_MAX);
        let bytes = Bytes::from(bytes);
        let len = bytes.len() as u64;
        on_any_thread(move |mode| file.write(WriteAt::Offset(offset), &bytes, mode)).await?;
        Ok(len)
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Resource<DirectoryEntryStream>> {
        let node = self.dir(&fd)?;
        let entries = self
            .on_files(move |files, mode| files.list(&node, mode))
            .await?;
        let _slot = self.state.slot(1 + entries.len() / LISTED_PER_SLOT)?;
        let own = self.table.push(Listing {
            entries: entries.into_iter(),
            _slot,
        })?;
        Ok(Resource::new_own(own.rep()))
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let base = self.dir(&fd)?;
        self.on_files(move |files, mode| files.make_dir_at(&base, &path, mode))
            .await
    }

    async fn stat(&mut self, fd: Fd) -> FsResult<DescriptorStat> {
        let stat = match self.object(&fd)? {
            Object::File(file) => on_any_thread(move |mode| file.stat(mode)).await?,
            Object::Dir(dir) => {
                self.on_files(move |files, mode| files.stat(&dir.node, mode))
                    .await?
            }
        };
        Ok(convert::stat(stat))
    }

    async fn stat_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        let (base, last) = (self.dir(&fd)?, convert::last(flags));
        let stat = self.on_files(move |files, mode| {
            let (node, _) = files.find(&base, &path, last, mode)?;
            files.stat(&node, mode)
        });
        Ok(convert::stat(stat.await?))
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let times = convert::new_times(accessed, modified)?;
        let (base, last) = (self.dir(&fd)?, convert::last(flags));
        let set = self.on_files(move |files, mode| {
            let (node, _) = files.find(&base, &path, last, mode)?;
            files.set_times(&node, times, mode)
        });
        set.await
    }

    async fn link_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        old: String,
        new_fd: Fd,
        new: String,
    ) -> FsResult<()> {
        let (old_base, new_base) = (self.dir(&fd)?, self.dir(&new_fd)?);
        let last = convert::last(flags);
        let link = self.on_files(move |files, mode| {
            files.link_at((&old_base, &old, last), (&new_base, &new), mode)
        });
        link.await
    }

    async fn open_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        open_flags: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        let base = self.dir(&fd)?;
        let how = convert::how(path_flags, open_flags, flags)?;
        // Before anything is created or cut for a descriptor that cannot be had.
        drop(self.state.slot(1)?);
        let opening = self.on_files(move |files, mode| files.open_at(&base, &path, how, mode));
        let object = match opening.await? {
            Opening::File(file) => Object::File(file),
            Opening::Dir(node) => {
                let may_change = flags.contains(DescriptorFlags::MUTATE_DIRECTORY);
                Object::Dir(OpenDir { node, may_change })
            }
        };
        self.push(object)
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        let base = self.dir(&fd)?;
        self.on_files(move |files, mode| files.read_link_at(&base, &path, mode))
            .await
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let base = self.dir(&fd)?;
        self.on_files(move |files, mode| files.remove_dir_at(&base, &path, mode))
            .await
    }

    async fn rename_at(&mut self, fd: Fd, old: String, new_fd: Fd, new: String) -> FsResult<()> {
        let (old_base, new_base) = (self.dir(&fd)?, self.dir(&new_fd)?);
        let rename = self.on_files(move |files, mode| {
            files.rename_at((&old_base, &old), (&new_base, &new), mode)
        });
        rename.await
    }

    async fn symlink_at(&mut self, fd: Fd, target: String, path: String) -> FsResult<()> {
        let base = self.dir(&fd)?;
        let link =
            self.on_files(move |files, mode| files.make_symlink_at(&target, &base, &path, mode));
        link.await
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let base = self.dir(&fd)?;
        self.on_files(move |files, mode| files.unlink_at(&base, &path, mode))
            .await
    }

    async fn is_same_object(&mut self, a: Fd, b: Fd) -> wasmtime::Result<bool> {
        // What cannot be asked who it is, such as a removed host folder, is nobody else.
        let (Ok(a), Ok(b)) = (self.identity(a).await, self.identity(b).await) else {
            return Ok(false);
        };
        Ok(a == b)
    }

    async fn metadata_hash(&mut self, fd: Fd) -> FsResult<MetadataHashValue> {
        Ok(convert::metadata_hash(self.identity(fd).await?))
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Fd,
        flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        let (base, last) = (self.dir(&fd)?, convert::last(flags));
        let identity = self.on_files(move |files, mode| {
            let (node, _) = files.find(&base, &path, last, mode)?;
            files.identity(&node, mode)
        });
        Ok(convert::metadata_hash(identity.await?))
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        self.table
            .delete(Resource::<Descriptor>::new_own(fd.rep()))?;
        Ok(())
    }
}

impl FsCtx<'_> {
    fn output(&mut self, fd: &Fd, at: WriteAt) -> FsResult<Resource<DynOutputStream>> {
        let file = self.file(fd)?;
        file.require_write()?;
        let stream: DynOutputStream = Box::new(FileOutput::new(file, at, self.state.slot(1)?));
        Ok(self.table.push(stream)?)
    }

    async fn synchronise(&mut self, fd: Fd, what: Sync) -> FsResult<()> {
        match self.object(&fd)? {
            Object::File(file) => on_any_thread(move |mode| file.sync(what, mode)).await,
            // A host's folder reaches its disk in the host's own time; ours are in memory.
            Object::Dir(_) => Ok(()),
        }
    }

    async fn identity(&mut self, fd: Fd) -> FsResult<(u64, u64)> {
        match self.object(&fd)? {
            Object::File(file) => on_any_thread(move |mode| file.identity(mode)).await,
            Object::Dir(dir) => {
                self.on_files(move |files, mode| files.identity(&dir.node, mode))
                    .await
            }
        }
    }
}
