//! The system call `bpf`: the six of its commands that are needed, each as a safe function.
//!
//! Written out, for the libraries that know all of it need a compiler for its programs, or a newer one
//! than ours for themselves.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::program::Instruction;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;

const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;
/// Entries take memory when they come, not all of it at once.
const BPF_F_NO_PREALLOC: u32 = 1;

/// The program uses no function of the kernel that is for programs under the GPL only.
const LICENCE: &[u8] = b"Apache-2.0\0";

/// What the kernel's verifier may say of a program that it refuses.
const VERIFIER_BYTES_MAX: usize = 64 * 1024;

/// A map in the kernel, which goes with its last descriptor.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    key_bytes: usize,
    value_bytes: usize,
}

/// Which map to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapKind {
    /// A hash table.
    Hash,
    /// An array, in which every place has a value from the start: zeroes.
    Array,
    /// An array of sockets.
    Sockets,
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
struct MapElement {
    map_fd: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// Attributes of a command, as the kernel reads them.
///
/// Only types that are `repr(C)`, without padding that is not a field, may implement it.
trait Attributes {}

impl Attributes for MapCreate {}
impl Attributes for MapElement {}
impl Attributes for ProgramLoad {}
impl Attributes for LinkCreate {}

impl Map {
    /// Makes a map of at most `entries_max` entries.
    pub(crate) fn new(
        kind: MapKind,
        key_bytes: usize,
        value_bytes: usize,
        entries_max: u32,
    ) -> io::Result<Map> {
        let (map_type, map_flags) = match kind {
            MapKind::Hash => (BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC),
            MapKind::Array => (BPF_MAP_TYPE_ARRAY, 0),
            MapKind::Sockets => (BPF_MAP_TYPE_SOCKMAP, 0),
        };
        let attributes = MapCreate {
            map_type,
            key_size: small(key_bytes),
            value_size: small(value_bytes),
            max_entries: entries_max,
            map_flags,
        };
        Ok(Map {
            fd: new_descriptor(BPF_MAP_CREATE, &attributes)?,
            key_bytes,
            value_bytes,
        })
    }

    /// Returns the number by which a program names the map.
    pub(crate) fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Enters a value, in the place of one that is there.
    pub(crate) fn insert(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert_eq!(key.len(), self.key_bytes, "a key has its map's length");
        assert_eq!(value.len(), self.value_bytes, "so has a value");
        let attributes = self.element(key, Some(value));
        call(BPF_MAP_UPDATE_ELEM, &attributes).map(drop)
    }

    /// Takes a value out; one that is not there is an error of the kind `NotFound`.
    pub(crate) fn remove(&self, key: &[u8]) -> io::Result<()> {
        assert_eq!(key.len(), self.key_bytes, "a key has its map's length");
        let attributes = self.element(key, None);
        call(BPF_MAP_DELETE_ELEM, &attributes).map(drop)
    }

    /// Reads a value; one that is not there is an error of the kind `NotFound`.
    pub(crate) fn read(&self, key: &[u8], value: &mut [u8]) -> io::Result<()> {
        assert_eq!(key.len(), self.key_bytes, "a key has its map's length");
        assert_eq!(value.len(), self.value_bytes, "so has a value");
        let attributes = MapElement {
            value: value.as_mut_ptr() as u64,
            ..self.element(key, None)
        };
        call(BPF_MAP_LOOKUP_ELEM, &attributes).map(drop)
    }

    fn element(&self, key: &[u8], value: Option<&[u8]>) -> MapElement {
        MapElement {
            map_fd: raw(&self.fd),
            _padding: 0,
            key: key.as_ptr() as u64,
            value: value.map_or(0, |value| value.as_ptr() as u64),
            flags: 0,
        }
    }
}

/// Loads a program that chooses sockets. What the verifier says of one that it refuses is the error's
/// text.
pub(crate) fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attributes = ProgramLoad {
        prog_type: BPF_PROG_TYPE_SK_LOOKUP,
        insn_cnt: small(program.len()),
        insns: program.as_ptr() as u64,
        license: LICENCE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"coracle_lookup\0\0",
        prog_ifindex: 0,
        expected_attach_type: BPF_SK_LOOKUP,
    };
    let refused = match new_descriptor(BPF_PROG_LOAD, &attributes) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => error,
        loaded => return loaded,
    };
    let mut said = vec![0u8; VERIFIER_BYTES_MAX];
    attributes.log_level = 1;
    attributes.log_size = small(said.len());
    attributes.log_buf = said.as_mut_ptr() as u64;
    if let Ok(loaded) = new_descriptor(BPF_PROG_LOAD, &attributes) {
        return Ok(loaded);
    }
    let length = said.iter().position(|byte| *byte == 0).unwrap_or(0);
    let said = String::from_utf8_lossy(&said[..length]);
    Err(io::Error::new(refused.kind(), format!("{refused}: {said}")))
}

/// Attaches a program to a network namespace, until the descriptor that this returns is closed.
pub(crate) fn attach(program: &OwnedFd, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        prog_fd: raw(program),
        target_fd: raw(namespace),
        attach_type: BPF_SK_LOOKUP,
        flags: 0,
    };
    new_descriptor(BPF_LINK_CREATE, &attributes)
}

fn raw(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn small(size: usize) -> u32 {
    u32::try_from(size).expect("what is given to the kernel here is small")
}

#[expect(
    unsafe_code,
    reason = "a descriptor that the kernel has just returned belongs to nobody yet"
)]
fn new_descriptor(command: libc::c_long, attributes: &impl Attributes) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: each of the commands that this is called with returns a new descriptor, which is owned
    // here alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[expect(unsafe_code, reason = "`bpf` has no safe wrapper")]
fn call<A: Attributes>(command: libc::c_long, attributes: &A) -> io::Result<i32> {
    // SAFETY: the kernel reads as many bytes of the attributes as it is told, which are all initialized
    // (see `Attributes`). The addresses in them are of slices that the callers in this file borrow for as
    // long as the call takes, with the lengths that the kernel is told or that it knows of the map; of
    // these it writes to the verifier's text and to a value that is read only, which are borrowed mutably.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<A>(),
        )
    };
    match i32::try_from(returned) {
        Ok(returned @ 0..) => Ok(returned),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}
