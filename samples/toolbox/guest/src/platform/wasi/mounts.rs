//! `coracle:posix/mounts`, declared by hand; numbers are those of the component model's layout.

use std::io;

use crate::platform::{Mount, Space};

#[link(wasm_import_module = "coracle:posix/mounts@0.1.0")]
unsafe extern "C" {
    #[link_name = "list"]
    fn list(answer: *mut WireList);
}

#[repr(C)]
struct WireList {
    mounts: *mut WireMount,
    length: usize,
}

#[repr(C)]
struct WireMount {
    path: *mut u8,
    length: usize,
    holder: u8,
    read_only: u8,
    space: WireOption,
}

#[repr(C)]
struct WireOption {
    is_some: u8,
    value: WireSpace,
}

#[repr(C)]
struct WireSpace {
    size: u64,
    used: u64,
    available: u64,
}

/// What holds the files, by the numbers of the interface, as Linux would call it.
const KINDS: [&str; 4] = ["overlay", "tmpfs", "host", "tmpfs"];

pub(crate) fn mounts() -> io::Result<Vec<Mount>> {
    let mut answer = WireList {
        mounts: std::ptr::null_mut(),
        length: 0,
    };
    // SAFETY: the host writes a list of this layout.
    unsafe { list(&raw mut answer) };
    if answer.length == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the host had the list allocated by this program for so many records, and wrote them all.
    let wire = unsafe { Vec::from_raw_parts(answer.mounts, answer.length, answer.length) };
    Ok(wire.into_iter().map(Mount::from).collect())
}

impl From<WireMount> for Mount {
    fn from(wire: WireMount) -> Self {
        let path = match wire.length {
            0 => Vec::new(),
            // SAFETY: as for the list.
            length => unsafe { Vec::from_raw_parts(wire.path, length, length) },
        };
        let WireSpace {
            size,
            used,
            available,
        } = wire.space.value;
        let space = Space {
            size,
            used,
            available,
        };
        Self {
            path: String::from_utf8_lossy(&path).into_owned(),
            kind: KINDS
                .get(usize::from(wire.holder))
                .copied()
                .unwrap_or("none"),
            read_only: wire.read_only != 0,
            space: (wire.space.is_some != 0).then_some(space),
        }
    }
}
