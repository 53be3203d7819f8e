//! The host functions, called as a component's instance calls them.

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorType, DirectoryEntryStream, Host as _, HostDescriptor,
    HostDirectoryEntryStream, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsResult, StreamError};

use super::*;
use crate::fs::{FsCtx, FsState};

/// An instance's table and file system.
struct Instance {
    table: ResourceTable,
    state: FsState,
    dir: tempfile::TempDir,
}

impl Instance {
    fn new(mounts: impl FnOnce(&Path) -> Vec<Mount>) -> (Instance, Resource<Descriptor>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("host")).unwrap();
        let upper = Upper::Writable {
            dir: dir.path().join("upper"),
            limit: 1 << 20,
        };
        let mounts = mounts(&dir.path().join("host"));
        let root = Arc::new(tree(&["etc/conf=lower", "link->etc/conf"]));
        let files = FileSystem::new(FileSystemSpec {
            root,
            upper,
            mounts,
            user: User::default(),
        })
        .unwrap();
        let state = FsState::new(files);
        let mut instance = Instance {
            table: ResourceTable::new(),
            state,
            dir,
        };
        let mut preopens = instance.call().get_directories().unwrap();
        assert_eq!(preopens.len(), 1);
        let (root, name) = preopens.pop().unwrap();
        assert_eq!(name, "/");
        (instance, root)
    }

    fn call(&mut self) -> FsCtx<'_> {
        FsCtx {
            table: &mut self.table,
            state: &mut self.state,
        }
    }

    async fn open(
        &mut self,
        base: &Resource<Descriptor>,
        path: &str,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> Done<Resource<Descriptor>> {
        let follow = PathFlags::SYMLINK_FOLLOW;
        let base = borrow(base);
        code(
            self.call()
                .open_at(base, follow, path.to_owned(), open, flags)
                .await,
        )
    }

    async fn names(&mut self, dir: &Resource<Descriptor>) -> Vec<String> {
        let stream = self.call().read_directory(borrow(dir)).await.unwrap();
        let mut names = Vec::new();
        loop {
            let again = Resource::<DirectoryEntryStream>::new_borrow(stream.rep());
            match self.call().read_directory_entry(again).await.unwrap() {
                Some(entry) => names.push(entry.name),
                None => break,
            }
        }
        HostDirectoryEntryStream::drop(&mut self.call(), stream).unwrap();
        names
    }

    async fn read_stream(&mut self, stream: Resource<DynInputStream>) -> Vec<u8> {
        let stream = self.table.get_mut(&stream).unwrap();
        let mut all = Vec::new();
        loop {
            match stream.blocking_read(7).await {
                Ok(part) => all.extend_from_slice(&part),
                Err(StreamError::Closed) => return all,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    async fn write_stream(&mut self, stream: &Resource<DynOutputStream>, text: &str) {
        let stream = self.table.get_mut(stream).unwrap();
        let text = Bytes::copy_from_slice(text.as_bytes());
        stream.blocking_write_and_flush(text).await.unwrap();
    }
}

fn borrow<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

fn code<T>(result: FsResult<T>) -> Done<T> {
    result.map_err(|error| error.downcast().expect("an error code, not a trap"))
}

const READ: DescriptorFlags = DescriptorFlags::READ;
const WRITE: DescriptorFlags = DescriptorFlags::WRITE;

/// What the preview 1 adapter asks first, and relies on, for every preopened folder.
#[tokio::test]
async fn the_preopened_root_is_a_folder_that_may_change() {
    let (mut instance, root) = Instance::new(|_| vec![]);
    let flags = instance.call().get_flags(borrow(&root)).await.unwrap();
    assert_eq!(flags, READ | DescriptorFlags::MUTATE_DIRECTORY);
    let kind = instance.call().get_type(borrow(&root)).await.unwrap();
    assert_eq!(kind, DescriptorType::Directory);
    let none = OpenFlags::empty();
    let dot = instance
        .open(&root, ".", OpenFlags::DIRECTORY, READ)
        .await
        .unwrap();
    assert!(
        instance
            .call()
            .is_same_object(borrow(&root), dot)
            .await
            .unwrap()
    );
    let file = instance.open(&root, "link", none, READ).await.unwrap();
    assert_eq!(
        instance.call().get_flags(borrow(&file)).await.unwrap(),
        READ
    );
    let through = instance.call().metadata_hash(borrow(&file)).await.unwrap();
    let path = "etc/conf".to_owned();
    let direct = instance
        .call()
        .metadata_hash_at(borrow(&root), PathFlags::empty(), path)
        .await;
    let direct = direct.unwrap();
    assert_eq!((through.lower, through.upper), (direct.lower, direct.upper));
    assert_eq!(
        code(
            instance
                .call()
                .stat_at(file, PathFlags::empty(), "x".into())
                .await
        )
        .map(drop),
        Err(ErrorCode::NotDirectory)
    );
}

/// One round through every storage by streams and by position.
#[tokio::test]
async fn files_are_written_and_read_in_every_storage() {
    let (mut instance, root) = Instance::new(|host| {
        vec![mount(
            "/host",
            MountSource::HostDir(host.to_owned()),
            Access::ReadWrite,
        )]
    });
    for path in ["etc/conf", "new", "host/new"] {
        let open = OpenFlags::CREATE | OpenFlags::TRUNCATE;
        let file = instance
            .open(&root, path, open, READ | WRITE)
            .await
            .unwrap();
        let stream = instance.call().write_via_stream(borrow(&file), 0).unwrap();
        instance.write_stream(&stream, "hello ").await;
        instance.write_stream(&stream, "world").await;
        let end = instance.call().append_via_stream(borrow(&file)).unwrap();
        instance.write_stream(&end, "!").await;
        let written = instance
            .call()
            .write(borrow(&file), b"J".to_vec(), 0)
            .await
            .unwrap();
        assert_eq!(written, 1);
        let (bytes, is_end) = instance.call().read(borrow(&file), 5, 6).await.unwrap();
        assert_eq!((bytes.as_slice(), is_end), (&b"world"[..], false));
        let (bytes, is_end) = instance.call().read(borrow(&file), 5, 12).await.unwrap();
        assert_eq!((bytes.as_slice(), is_end), (&b""[..], true));
        let stream = instance.call().read_via_stream(borrow(&file), 1).unwrap();
        assert_eq!(instance.read_stream(stream).await, b"ello world!");
        instance.call().set_size(borrow(&file), 5).await.unwrap();
        instance.call().sync(borrow(&file)).await.unwrap();
        instance.call().sync_data(borrow(&file)).await.unwrap();
        let (now, none) = (NewTimestamp::Now, NewTimestamp::NoChange);
        instance
            .call()
            .set_times(borrow(&file), none, now)
            .await
            .unwrap();
        let stat = instance.call().stat(borrow(&file)).await.unwrap();
        assert_eq!((stat.size, stat.link_count), (5, 1), "{path}");
        HostDescriptor::drop(&mut instance.call(), file).unwrap();
    }
    let host = instance.dir.path().join("host/new");
    assert_eq!(std::fs::read_to_string(host).unwrap(), "Jello");
    assert_eq!(instance.names(&root).await, ["etc", "host", "link", "new"]);
}

#[tokio::test]
async fn rights_are_kept() {
    let (mut instance, root) = Instance::new(|_| vec![]);
    let none = OpenFlags::empty();
    let reader = instance.open(&root, "etc/conf", none, READ).await.unwrap();
    let write = instance
        .call()
        .write(borrow(&reader), b"x".to_vec(), 0)
        .await;
    assert_eq!(code(write), Err(ErrorCode::BadDescriptor));
    let stream = instance.call().append_via_stream(borrow(&reader));
    assert_eq!(code(stream).map(drop), Err(ErrorCode::BadDescriptor));
    let writer = instance.open(&root, "etc/conf", none, WRITE).await.unwrap();
    let read = instance.call().read(borrow(&writer), 1, 0).await;
    assert_eq!(code(read), Err(ErrorCode::BadDescriptor));
    assert_eq!(
        instance.open(&root, "etc", none, WRITE).await.map(drop),
        Err(ErrorCode::IsDirectory)
    );
    let stream = instance.call().read_via_stream(borrow(&root), 0);
    assert_eq!(code(stream).map(drop), Err(ErrorCode::IsDirectory));
}

/// A guest that opens without closing meets a limit, and closing gives it room again.
#[tokio::test]
async fn descriptors_are_bounded() {
    let (mut instance, root) = Instance::new(|_| vec![]);
    let mut open = Vec::new();
    let full = loop {
        match instance
            .open(&root, "etc/conf", OpenFlags::empty(), READ)
            .await
        {
            Ok(file) => open.push(file),
            Err(code) => break code,
        }
    };
    assert_eq!(full, ErrorCode::InsufficientMemory);
    assert_eq!(open.len(), 1023);
    let create = instance
        .open(&root, "new", OpenFlags::CREATE, WRITE)
        .await
        .map(drop);
    assert_eq!(create, Err(ErrorCode::InsufficientMemory));
    HostDescriptor::drop(&mut instance.call(), open.pop().unwrap()).unwrap();
    let name = instance
        .call()
        .readlink_at(borrow(&root), "link".into())
        .await
        .unwrap();
    assert_eq!(name, "etc/conf");
    let names = instance.names(&root).await;
    assert_eq!(
        names,
        ["etc", "link"],
        "nothing was made for the descriptor that was refused"
    );
}

/// A failed write is told once by the stream, with a code the guest can ask for.
#[tokio::test]
async fn a_full_layer_fails_the_stream() {
    let (mut instance, root) = Instance::new(|_| vec![]);
    let file = instance
        .open(&root, "f", OpenFlags::CREATE, WRITE)
        .await
        .unwrap();
    let stream = instance
        .call()
        .write_via_stream(file, (1 << 20) - 10)
        .unwrap();
    let output = instance.table.get_mut(&stream).unwrap();
    assert_eq!(output.check_write().unwrap(), 65536);
    output
        .write(Bytes::from_static(b"far beyond the limit"))
        .unwrap();
    assert_eq!(output.check_write().unwrap(), 0);
    output.ready().await;
    let Err(StreamError::LastOperationFailed(error)) = output.check_write() else {
        panic!("the write cannot have succeeded")
    };
    assert!(matches!(output.check_write(), Err(StreamError::Closed)));
    let error = instance.table.push(error).unwrap();
    let code = instance.call().filesystem_error_code(error).unwrap();
    assert_eq!(code, Some(ErrorCode::InsufficientSpace));
}

#[test]
fn the_interfaces_shadow_those_of_the_linker() {
    struct Store {
        wasi: wasmtime_wasi::WasiCtx,
        table: ResourceTable,
        state: FsState,
    }
    impl wasmtime_wasi::WasiView for Store {
        fn ctx(&mut self) -> wasmtime_wasi::WasiCtxView<'_> {
            wasmtime_wasi::WasiCtxView {
                ctx: &mut self.wasi,
                table: &mut self.table,
            }
        }
    }
    impl crate::fs::FsView for Store {
        fn fs(&mut self) -> FsCtx<'_> {
            FsCtx {
                table: &mut self.table,
                state: &mut self.state,
            }
        }
    }
    let engine = wasmtime::Engine::default();
    let mut linker = wasmtime::component::Linker::<Store>::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
    crate::fs::add_to_linker(&mut linker).unwrap();
}
