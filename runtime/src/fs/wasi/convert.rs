//! Our types as `wasi:filesystem` spells them, and back.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorStat, DescriptorType, ErrorCode, MetadataHashValue, NewTimestamp,
    OpenFlags, PathFlags,
};

use crate::fs::handle::Rights;
use crate::fs::node::{Kind, NewTimes, Stat};
use crate::fs::operations::How;
use crate::fs::resolve::Last;

pub(super) fn kind(kind: Kind) -> DescriptorType {
    match kind {
        Kind::Dir => DescriptorType::Directory,
        Kind::File => DescriptorType::RegularFile,
        Kind::Symlink => DescriptorType::SymbolicLink,
        Kind::Other => DescriptorType::Unknown,
    }
}

pub(super) fn stat(stat: Stat) -> DescriptorStat {
    DescriptorStat {
        type_: kind(stat.kind),
        link_count: stat.links,
        size: stat.size,
        data_access_timestamp: datetime(stat.times.accessed),
        data_modification_timestamp: datetime(stat.times.modified),
        status_change_timestamp: datetime(stat.times.changed),
    }
}

/// A time before 1970 has no spelling, and is left out.
fn datetime(time: SystemTime) -> Option<Datetime> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Datetime {
        seconds: since.as_secs(),
        nanoseconds: since.subsec_nanos(),
    })
}

pub(super) fn new_times(
    accessed: NewTimestamp,
    modified: NewTimestamp,
) -> Result<NewTimes, ErrorCode> {
    Ok(NewTimes {
        accessed: new_time(accessed)?,
        modified: new_time(modified)?,
    })
}

fn new_time(time: NewTimestamp) -> Result<Option<SystemTime>, ErrorCode> {
    match time {
        NewTimestamp::NoChange => Ok(None),
        NewTimestamp::Now => Ok(Some(SystemTime::now())),
        NewTimestamp::Timestamp(Datetime {
            seconds,
            nanoseconds,
        }) => {
            let since = Duration::from_secs(seconds)
                .checked_add(Duration::from_nanos(u64::from(nanoseconds)))
                .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
            since.map(Some).ok_or(ErrorCode::Overflow)
        }
    }
}

pub(super) fn last(flags: PathFlags) -> Last {
    if flags.contains(PathFlags::SYMLINK_FOLLOW) {
        Last::Follow
    } else {
        Last::Keep
    }
}

/// How to open; writes that wait for the disk are refused, as upstream does.
pub(super) fn how(
    path: PathFlags,
    open: OpenFlags,
    flags: DescriptorFlags,
) -> Result<How, ErrorCode> {
    let synchronous = DescriptorFlags::FILE_INTEGRITY_SYNC
        | DescriptorFlags::DATA_INTEGRITY_SYNC
        | DescriptorFlags::REQUESTED_WRITE_SYNC;
    if flags.intersects(synchronous) {
        return Err(ErrorCode::Unsupported);
    }
    let write = flags.contains(DescriptorFlags::WRITE);
    // Something opened for nothing is opened for reading: libraries open folders that way.
    let read = flags.contains(DescriptorFlags::READ) || !write;
    Ok(How {
        last: last(path),
        create: open.contains(OpenFlags::CREATE),
        exclusive: open.contains(OpenFlags::EXCLUSIVE),
        directory: open.contains(OpenFlags::DIRECTORY),
        truncate: open.contains(OpenFlags::TRUNCATE),
        rights: Rights { read, write },
    })
}

/// Hides a file's identity behind a secret of the process; stays the same as long as the file does.
pub(super) fn metadata_hash(identity: (u64, u64)) -> MetadataHashValue {
    static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let half = |which: u8| SECRET.hash_one((which, identity));
    MetadataHashValue {
        lower: half(0),
        upper: half(1),
    }
}
