//! A disk that keeps what was synced apart from what was not.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Cursor, Read},
    sync::Arc,
};

use parking_lot::Mutex;

use super::SharedFate;
use crate::durable::files::{Appendable, Folder};

/// A folder on a simulated disk; clones share it.
#[derive(Clone)]
pub(crate) struct Disk {
    fate: SharedFate,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: HashMap<u64, Content>,
    /// What the processes see.
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    last_file: u64,
    /// Bytes that may still be written; absent, the disk is endless.
    room: Option<usize>,
}

/// A file: what processes see, and what is on the platter.
#[derive(Clone, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Cut { len: usize },
}

#[derive(Clone)]
enum NameChange {
    Linked { name: String, file: u64 },
    Unlinked { name: String },
    Renamed { from: String, to: String, file: u64 },
}

struct OpenFile {
    disk: Disk,
    file: u64,
}

impl Disk {
    pub(crate) fn new(fate: SharedFate) -> Disk {
        Disk {
            fate,
            state: Arc::default(),
        }
    }

    pub(crate) fn set_room(&self, room: Option<usize>) {
        self.state.lock().room = room;
    }

    /// Loses what was not synced, in part and at random, as a power cut does.
    pub(crate) fn cut(&self) {
        let (mut state, mut fate) = (self.state.lock(), self.fate.lock());
        for change in std::mem::take(&mut state.unsynced_names) {
            if !fate.one_in(2) {
                continue;
            }
            match change {
                NameChange::Linked { name, file } => drop(state.durable_names.insert(name, file)),
                NameChange::Unlinked { name } => drop(state.durable_names.remove(&name)),
                NameChange::Renamed { from, to, file } => {
                    state.durable_names.remove(&from);
                    state.durable_names.insert(to, file);
                }
            }
        }
        state.names = state.durable_names.clone();
        let kept: Vec<u64> = state.names.values().copied().collect();
        state.files.retain(|file, _| kept.contains(file));
        let mut files: Vec<_> = state.files.iter_mut().collect();
        files.sort_by_key(|(file, _)| **file);
        for (_, content) in files {
            for change in std::mem::take(&mut content.unsynced) {
                match fate.below(4) {
                    0 => (),
                    1 => change.torn(fate.number()).apply(&mut content.durable),
                    _ => change.apply(&mut content.durable),
                }
            }
            content.seen = content.durable.clone();
        }
    }

    /// Returns everything that is or may be on the platter.
    pub(crate) fn platter(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut all = Vec::new();
        for content in state.files.values() {
            all.extend_from_slice(&content.durable);
            for change in &content.unsynced {
                change.apply(&mut all);
            }
            all.extend_from_slice(&content.seen);
        }
        all
    }

    /// Changes the bytes of a file behind everybody's back, as a failing disk does.
    pub(crate) fn damage(&self, name: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let file = state.names[name];
        let content = state.files.get_mut(&file).unwrap();
        damage(&mut content.durable);
        content.seen = content.durable.clone();
    }

    /// Removes a file for good, as a careless person does.
    pub(crate) fn lose(&self, name: &str) {
        let mut state = self.state.lock();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    fn find(&self, name: &str) -> io::Result<u64> {
        let found = self.state.lock().names.get(name).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn spend(&self) -> io::Result<()> {
        let mut fate = self.fate.lock();
        fate.spend()?;
        match fate.faulty() {
            true => Err(io::Error::other("the disk failed")),
            false => Ok(()),
        }
    }
}

impl Change {
    /// Only the first part of a write reaches the platter.
    fn torn(self, chance: u64) -> Change {
        match self {
            Change::Write { at, mut bytes } => {
                bytes.truncate(usize::try_from(chance % (bytes.len() as u64 + 1)).unwrap());
                Change::Write { at, bytes }
            }
            Change::Cut { .. } => self,
        }
    }

    /// A write whose predecessors were lost leaves a hole of zeros before it.
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { bytes, .. } if bytes.is_empty() => (),
            Change::Write { at, bytes } => {
                let end = at + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*at..end].copy_from_slice(bytes);
            }
            Change::Cut { len } => content.resize(*len, 0),
        }
    }
}

impl Folder for Disk {
    fn names(&self) -> io::Result<Vec<String>> {
        self.spend()?;
        Ok(self.state.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Appendable>> {
        self.spend()?;
        if let Ok(file) = self.find(name) {
            let mut open = OpenFile {
                disk: self.clone(),
                file,
            };
            open.truncate(0)?;
            return Ok(Box::new(open));
        }
        let mut state = self.state.lock();
        if state.room == Some(0) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.last_file += 1;
        let (name, file) = (name.to_owned(), state.last_file);
        state.files.insert(file, Content::default());
        state.names.insert(name.clone(), file);
        state.unsynced_names.push(NameChange::Linked { name, file });
        Ok(Box::new(OpenFile {
            disk: self.clone(),
            file,
        }))
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn Appendable>> {
        self.spend()?;
        let file = self.find(name)?;
        Ok(Box::new(OpenFile {
            disk: self.clone(),
            file,
        }))
    }

    fn read(&self, name: &str, offset: u64) -> io::Result<Box<dyn Read>> {
        self.spend()?;
        let file = self.find(name)?;
        let mut cursor = Cursor::new(self.state.lock().files[&file].seen.clone());
        cursor.set_position(offset);
        Ok(Box::new(cursor))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.spend()?;
        let file = self.find(from)?;
        let mut state = self.state.lock();
        state.names.remove(from);
        state.names.insert(to.to_owned(), file);
        let (from, to) = (from.to_owned(), to.to_owned());
        state
            .unsynced_names
            .push(NameChange::Renamed { from, to, file });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.spend()?;
        self.find(name)?;
        let mut state = self.state.lock();
        state.names.remove(name);
        let name = name.to_owned();
        state.unsynced_names.push(NameChange::Unlinked { name });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.spend()?;
        let mut state = self.state.lock();
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }
}

impl Appendable for OpenFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let failed = self.disk.spend();
        let mut state = self.disk.state.lock();
        let room = state.room.unwrap_or(usize::MAX);
        let mut written = bytes.len().min(room);
        if failed.is_err() {
            // The call fails, and a part of it has been done.
            written = self.disk.fate.lock().below(written + 1);
        }
        if let Some(room) = &mut state.room {
            *room -= written;
        }
        let content = state.files.get_mut(&self.file).unwrap();
        let bytes_written = bytes[..written].to_vec();
        let at = content.seen.len();
        content.seen.extend_from_slice(&bytes_written);
        content.unsynced.push(Change::Write {
            at,
            bytes: bytes_written,
        });
        failed?;
        match written == bytes.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.disk.spend()?;
        let mut state = self.disk.state.lock();
        let len = usize::try_from(len).unwrap();
        let content = state.files.get_mut(&self.file).unwrap();
        content.seen.resize(len, 0);
        content.unsynced.push(Change::Cut { len });
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let failed = self.disk.spend();
        let mut state = self.disk.state.lock();
        let content = state.files.get_mut(&self.file).unwrap();
        match failed {
            Ok(()) => {
                content
                    .unsynced
                    .clone()
                    .iter()
                    .for_each(|c| c.apply(&mut content.durable));
                content.unsynced.clear();
                Ok(())
            }
            Err(error) => {
                // As Linux does it: some of it is written, the rest is forgotten although every
                // process still sees it, and no later sync will tell.
                let mut fate = self.disk.fate.lock();
                if !fate.is_dark() {
                    let changes = std::mem::take(&mut content.unsynced);
                    for change in changes.iter().filter(|_| fate.one_in(2)) {
                        change.apply(&mut content.durable);
                    }
                }
                Err(error)
            }
        }
    }
}
