//! A folder or file of the host, mounted into a container.
//!
//! Everything goes through one `cap-std` directory: whatever another process does to the folder between
//! our look at an entry and its use, nothing outside the folder is reached. Paths arrive free of links,
//! since the container's resolver follows those itself.

mod names;

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata, OpenOptions};
use parking_lot::Mutex;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use self::names::check_name;
use super::FsError;
use super::node::{Kind, NewTimes, Outcome, Stat, Times};
use super::open_files::Counted;
use super::overlay::WriteAt;
use super::path;
use super::position::{read_vec, write_full};
use super::space::Space;
use super::user::Permissions;
use crate::account::PodAccount;

/// The most entries of one folder that are listed; a listing is held in memory whole.
pub(super) const LISTING_MAX: usize = 1 << 18;

/// What is mounted: a folder, or one file of it.
pub(super) struct HostRoot {
    dir: Dir,
    file: Option<String>,
}

/// An open file of the host.
pub(super) struct HostFile {
    file: File,
    _counted: Counted,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostOpen {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) truncate: bool,
    /// Fails when the file is there.
    pub(super) create_new: bool,
}

#[cfg(unix)]
const LENDS_IDENTITY: u32 = 0o6000;
#[cfg(unix)]
const OWNER_USES: u32 = 0o700;

impl HostRoot {
    /// Opens a folder, or what `sub_path` names in it; a missing sub-path is made, as Kubernetes does.
    pub(super) fn folder(host: &Path, sub_path: Option<&str>) -> io::Result<HostRoot> {
        let dir = Dir::open_ambient_dir(host, ambient_authority())?;
        let Some(sub_path) = sub_path else {
            return Ok(HostRoot { dir, file: None });
        };
        let names = path::strict(sub_path).map_err(invalid)?;
        if names.is_empty() {
            return Ok(HostRoot { dir, file: None });
        }
        let real = match dir.canonicalize(sub_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                dir.create_dir_all(sub_path)?;
                dir.canonicalize(sub_path)?
            }
            real => real?,
        };
        if dir.metadata(&real)?.is_dir() {
            return Ok(HostRoot {
                dir: dir.open_dir(&real)?,
                file: None,
            });
        }
        let (parent, name) = split(&real)?;
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        let dir = dir.open_dir(parent)?;
        HostRoot::one_file(dir, name)
    }

    /// Opens the folder of a file; the file is looked up again at each use.
    pub(super) fn file(host: &Path) -> io::Result<HostRoot> {
        let real = host.canonicalize()?;
        let (parent, name) = split(&real)?;
        HostRoot::one_file(Dir::open_ambient_dir(parent, ambient_authority())?, name)
    }

    fn one_file(dir: Dir, name: String) -> io::Result<HostRoot> {
        if !dir.symlink_metadata(&name)?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a regular file",
            ));
        }
        Ok(HostRoot {
            dir,
            file: Some(name),
        })
    }

    /// The path of the mount's root, and what it is.
    pub(super) fn top(&self) -> (&str, Kind) {
        match &self.file {
            Some(name) => (name, Kind::File),
            None => ("", Kind::Dir),
        }
    }

    /// How much the file system of the folder holds.
    #[cfg(unix)]
    #[expect(unsafe_code, reason = "the kernel is asked about a file system")]
    pub(super) fn space(&self) -> Option<Space> {
        use std::os::fd::AsRawFd as _;

        let mut told = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the descriptor is open, and the kernel writes one `statvfs`.
        if unsafe { libc::fstatvfs(self.dir.as_raw_fd(), told.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: it was written, as the call succeeded.
        let told = unsafe { told.assume_init() };
        // The numbers are smaller on macOS.
        fn wide(number: impl Into<u64>) -> u64 {
            number.into()
        }
        let (blocks, free) = (wide(told.f_blocks), wide(told.f_bfree));
        let bytes = |blocks: u64| blocks.saturating_mul(wide(told.f_frsize));
        Some(Space {
            size: bytes(blocks),
            used: bytes(blocks.saturating_sub(free)),
            available: bytes(wide(told.f_bavail)),
        })
    }

    /// Elsewhere nobody is asked.
    #[cfg(not(unix))]
    pub(super) fn space(&self) -> Option<Space> {
        None
    }

    /// The kind of an entry, a link itself if it is one.
    pub(super) fn kind(&self, path: &str) -> Outcome<Kind> {
        Ok(kind_of(&self.dir.symlink_metadata(at(path))?))
    }

    pub(super) fn stat(&self, path: &str) -> Outcome<Stat> {
        Ok(stat_of(&self.dir.symlink_metadata(at(path))?))
    }

    /// Sets an entry's mode, where the host's files have one. A link is followed inside the folder. The host
    /// gets no program that runs as somebody else, and no folder that this process is kept out of.
    #[cfg(unix)]
    pub(super) fn set_mode(&self, path: &str, mode: u32) -> Outcome<()> {
        use std::os::unix::fs::PermissionsExt as _;

        let kept = match self.kind(path)? {
            Kind::Dir => OWNER_USES,
            Kind::File | Kind::Symlink | Kind::Other => 0,
        };
        let mode = std::fs::Permissions::from_mode(mode & !LENDS_IDENTITY | kept);
        let mode = cap_std::fs::Permissions::from_std(mode);
        Ok(self.dir.set_permissions(at(path), mode)?)
    }

    /// The host's files have no modes.
    #[cfg(not(unix))]
    pub(super) fn set_mode(&self, _path: &str, _mode: u32) -> Outcome<()> {
        Err(ErrorCode::Unsupported.into())
    }

    /// Identifies an entry on this host; two mounts of one folder agree.
    pub(super) fn identity(&self, path: &str) -> Outcome<(u64, u64)> {
        let metadata = self.dir.symlink_metadata(at(path))?;
        Ok(identity::of(&metadata).unwrap_or_else(|| identity::of_path(self, path)))
    }

    pub(super) fn read_link(&self, path: &str) -> Outcome<String> {
        let target = self.dir.read_link_contents(at(path))?;
        target
            .into_os_string()
            .into_string()
            .map_err(|_| ErrorCode::IllegalByteSequence.into())
    }

    pub(super) fn list(&self, path: &str) -> Outcome<Vec<(String, Kind)>> {
        let mut list = Vec::new();
        for entry in self.dir.read_dir(at(path))? {
            let entry = entry?;
            if list.len() == LISTING_MAX {
                return Err(ErrorCode::InsufficientMemory.into());
            }
            let name = entry.file_name().into_string();
            let name = name.map_err(|_| ErrorCode::IllegalByteSequence)?;
            let kind = entry.file_type()?;
            let kind = match () {
                () if kind.is_dir() => Kind::Dir,
                () if kind.is_file() => Kind::File,
                () if kind.is_symlink() => Kind::Symlink,
                () => Kind::Other,
            };
            list.push((name, kind));
        }
        list.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(list)
    }

    /// Opens a regular file; a pipe or device is refused, since opening one may wait for ever.
    /// What is opened is counted as a file of `pod`.
    pub(super) fn open(
        &self,
        path: &str,
        how: HostOpen,
        pod: Option<&PodAccount>,
    ) -> Outcome<HostFile> {
        // Before anything is made or cut that cannot be opened.
        let counted = Counted::take(pod)?;
        if !how.create_new && self.kind(path)? != Kind::File {
            return Err(ErrorCode::Unsupported.into());
        }
        if how.create_new {
            check_name(path)?;
        }
        let mut options = OpenOptions::new();
        // Without `read` some systems let no one ask for the file's size and times.
        options
            .read(how.read || !how.write)
            .write(how.write || how.truncate || how.create_new);
        options.truncate(how.truncate).create_new(how.create_new);
        let file = self.dir.open_with(at(path), &options)?.into_std();
        if !file.metadata()?.is_file() {
            return Err(ErrorCode::Unsupported.into());
        }
        Ok(HostFile {
            file,
            _counted: counted,
        })
    }

    pub(super) fn make_dir(&self, path: &str) -> Outcome<()> {
        check_name(path)?;
        Ok(self.dir.create_dir(at(path))?)
    }

    pub(super) fn remove_dir(&self, path: &str) -> Outcome<()> {
        if self.kind(path)? != Kind::Dir {
            return Err(ErrorCode::NotDirectory.into());
        }
        Ok(self.dir.remove_dir(at(path))?)
    }

    pub(super) fn unlink(&self, path: &str) -> Outcome<()> {
        if self.kind(path)? == Kind::Dir {
            return Err(ErrorCode::IsDirectory.into());
        }
        Ok(self.dir.remove_file(at(path))?)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Outcome<()> {
        check_name(to)?;
        Ok(self.dir.rename(at(from), &self.dir, at(to))?)
    }

    pub(super) fn link(&self, from: &str, to: &str) -> Outcome<()> {
        if self.kind(from)? == Kind::Dir {
            return Err(ErrorCode::NotPermitted.into());
        }
        check_name(to)?;
        Ok(self.dir.hard_link(at(from), &self.dir, at(to))?)
    }

    /// Makes a link with any target: it is followed in the container's root only.
    #[cfg(unix)]
    pub(super) fn symlink(&self, target: &str, path: &str) -> Outcome<()> {
        check_name(path)?;
        Ok(self.dir.symlink_contents(target, at(path))?)
    }

    /// Windows wants to know what a link leads to before it is made, and a privilege for it.
    #[cfg(not(unix))]
    pub(super) fn symlink(&self, _target: &str, _path: &str) -> Outcome<()> {
        Err(ErrorCode::Unsupported.into())
    }

    /// Sets the times of a file or folder; those of a link itself are not served.
    pub(super) fn set_times(&self, path: &str, times: NewTimes) -> Outcome<()> {
        let file = match self.kind(path)? {
            Kind::Dir => self.dir.open_dir(at(path))?.into_std_file(),
            Kind::File => self.dir.open(at(path))?.into_std(),
            Kind::Symlink | Kind::Other => return Err(ErrorCode::Unsupported.into()),
        };
        set_times(&file, times)
    }
}

impl HostFile {
    pub(super) fn read(&self, offset: u64, len: usize) -> Outcome<Bytes> {
        Ok(read_vec(&self.file, offset, len)?)
    }

    pub(super) fn write(&self, at: WriteAt, bytes: &[u8]) -> Outcome<()> {
        // Not `O_APPEND`, since one descriptor writes at its end and at offsets. Containers of one pod
        // that append to a shared file still take turns; another process of the host does not.
        static APPENDING: [Mutex<()>; 16] = [const { Mutex::new(()) }; 16];
        let _turn;
        let offset = match at {
            WriteAt::Offset(offset) => offset,
            WriteAt::End => {
                let metadata = Metadata::from_file(&self.file)?;
                let number = identity::of(&metadata).map_or(0, |(_, number)| number);
                _turn = APPENDING[(number % APPENDING.len() as u64) as usize].lock();
                self.file.metadata()?.len()
            }
        };
        offset
            .checked_add(bytes.len() as u64)
            .ok_or(ErrorCode::FileTooLarge)?;
        Ok(write_full(&self.file, bytes, offset).map_err(|(_, error)| error)?)
    }

    pub(super) fn set_len(&self, len: u64) -> Outcome<()> {
        Ok(self.file.set_len(len)?)
    }

    pub(super) fn set_times(&self, times: NewTimes) -> Outcome<()> {
        set_times(&self.file, times)
    }

    pub(super) fn stat(&self) -> Outcome<Stat> {
        Ok(stat_of(&Metadata::from_file(&self.file)?))
    }

    pub(super) fn identity(&self) -> Outcome<(u64, u64)> {
        let metadata = Metadata::from_file(&self.file)?;
        // Where files have no numbers, an opening is only itself.
        let own = (u64::MAX, std::ptr::from_ref(self).addr() as u64);
        Ok(identity::of(&metadata).unwrap_or(own))
    }

    pub(super) fn sync(&self) -> Outcome<()> {
        Ok(self.file.sync_all()?)
    }

    pub(super) fn sync_data(&self) -> Outcome<()> {
        Ok(self.file.sync_data()?)
    }

    pub(super) fn into_file(self) -> File {
        self.file
    }
}

fn set_times(file: &File, times: NewTimes) -> Outcome<()> {
    let mut set = std::fs::FileTimes::new();
    if let Some(accessed) = times.accessed {
        set = set.set_accessed(accessed);
    }
    if let Some(modified) = times.modified {
        set = set.set_modified(modified);
    }
    Ok(file.set_times(set)?)
}

fn at(path: &str) -> &Path {
    Path::new(if path.is_empty() { "." } else { path })
}

fn split(real: &Path) -> io::Result<(&Path, String)> {
    let odd = || io::Error::from(io::ErrorKind::InvalidFilename);
    let name = real
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(odd)?;
    Ok((real.parent().ok_or_else(odd)?, name.to_owned()))
}

fn invalid(error: FsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

fn kind_of(metadata: &Metadata) -> Kind {
    if metadata.is_dir() {
        Kind::Dir
    } else if metadata.is_file() {
        Kind::File
    } else if metadata.is_symlink() {
        Kind::Symlink
    } else {
        Kind::Other
    }
}

fn stat_of(metadata: &Metadata) -> Stat {
    let time = |time: io::Result<cap_std::time::SystemTime>| {
        time.map_or(SystemTime::UNIX_EPOCH, cap_std::time::SystemTime::into_std)
    };
    let modified = time(metadata.modified());
    let times = Times {
        accessed: time(metadata.accessed()),
        modified,
        changed: identity::changed(metadata).unwrap_or(modified),
    };
    Stat {
        kind: kind_of(metadata),
        size: metadata.len(),
        links: identity::links(metadata),
        times,
        permissions: Permissions::of_root(identity::mode(metadata)),
    }
}

#[cfg(unix)]
mod identity {
    use std::time::{Duration, SystemTime};

    use cap_std::fs::{Metadata, MetadataExt};

    use crate::fs::user::MODE_BITS;

    pub(super) fn of(metadata: &Metadata) -> Option<(u64, u64)> {
        Some((metadata.dev(), metadata.ino()))
    }

    pub(super) fn of_path(_: &super::HostRoot, _: &str) -> (u64, u64) {
        unreachable!("every file has a number here")
    }

    pub(super) fn links(metadata: &Metadata) -> u64 {
        metadata.nlink()
    }

    pub(super) fn mode(metadata: &Metadata) -> u32 {
        metadata.mode() & MODE_BITS
    }

    pub(super) fn changed(metadata: &Metadata) -> Option<SystemTime> {
        let seconds = u64::try_from(metadata.ctime()).ok()?;
        let nanoseconds = u32::try_from(metadata.ctime_nsec()).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
    }
}

/// Stable Rust gives no file numbers elsewhere: an entry is told apart by its path, an open file by its
/// handle.
#[cfg(not(unix))]
mod identity {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::time::SystemTime;

    use cap_std::fs::Metadata;

    use crate::fs::user::{NEW_DIR, NEW_FILE};

    pub(super) fn of(_: &Metadata) -> Option<(u64, u64)> {
        None
    }

    pub(super) fn of_path(root: &super::HostRoot, path: &str) -> (u64, u64) {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        (std::ptr::from_ref(root).addr() as u64, hasher.finish())
    }

    pub(super) fn links(_: &Metadata) -> u64 {
        1
    }

    pub(super) fn mode(metadata: &Metadata) -> u32 {
        match metadata.is_dir() {
            true => NEW_DIR,
            false => NEW_FILE,
        }
    }

    pub(super) fn changed(_: &Metadata) -> Option<SystemTime> {
        None
    }
}
