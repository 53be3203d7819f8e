//! Who a container runs as, and what that user may do with what it finds: the rules of POSIX.

use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::Meta;

/// Whose file a new file is like: nobody but its owner writes it.
pub(super) const NEW_FILE: u32 = 0o644;
/// The same for a folder.
pub(super) const NEW_DIR: u32 = 0o755;
/// A link has no mode of its own: what it leads to decides.
pub(super) const LINK_MODE: u32 = 0o777;
/// All of a mode that can be set.
pub(super) const MODE_BITS: u32 = 0o7777;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const GROUP_RUNS: u32 = 0o010;
const ROOT: u32 = 0;

/// The user of a container: root unless something else is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// `runAsUser`, else the image's user.
    pub uid: u32,
    /// `runAsGroup`, else the image's group.
    pub gid: u32,
    /// `fsGroup` and `supplementalGroups`.
    pub groups: Vec<u32>,
}

/// Whose an entry is, and what others may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permissions {
    /// The lowest twelve bits of a mode.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A change of an entry's permissions; `None` leaves a part as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NewPermissions {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// What somebody wants to do with an entry: a bit for each, as in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish(u32);

impl Wish {
    /// To see the content of a file or the names of a folder.
    pub(super) const READ: Wish = Wish(0o4);
    /// To change the content of a file.
    pub(super) const WRITE: Wish = Wish(0o2);
    /// To reach what is in a folder.
    pub(super) const SEARCH: Wish = Wish(0o1);
    /// To change what names a folder has.
    pub(super) const CHANGE: Wish = Wish(0o3);
}

impl User {
    /// Root: may do everything, as with the capabilities that a container has by default.
    pub(super) fn is_root(&self) -> bool {
        self.uid == ROOT
    }

    fn is_in(&self, group: u32) -> bool {
        self.gid == group || self.groups.contains(&group)
    }

    /// Fails with `access` unless the user may do that.
    pub(super) fn require(&self, wish: Wish, of: Permissions) -> Result<(), ErrorCode> {
        let granted = match () {
            () if self.is_root() => return Ok(()),
            () if self.uid == of.uid => of.mode >> 6,
            () if self.is_in(of.gid) => of.mode >> 3,
            () => of.mode,
        };
        match granted & wish.0 == wish.0 {
            true => Ok(()),
            false => Err(ErrorCode::Access),
        }
    }

    /// Fails with `not-permitted` where only the owner of an entry or of its sticky folder may take its name away.
    pub(super) fn require_removal(
        &self,
        of: Permissions,
        from: Permissions,
    ) -> Result<(), ErrorCode> {
        let is_kept = from.mode & STICKY != 0 && ![of.uid, from.uid].contains(&self.uid);
        match is_kept && !self.is_root() {
            true => Err(ErrorCode::NotPermitted),
            false => Ok(()),
        }
    }

    /// Fails with `not-permitted` unless the entry is the user's.
    pub(super) fn require_own(&self, of: Permissions) -> Result<(), ErrorCode> {
        match self.is_root() || self.uid == of.uid {
            true => Ok(()),
            false => Err(ErrorCode::NotPermitted),
        }
    }

    /// Returns what an entry has that this user makes in a folder.
    pub(super) fn makes(&self, mode: u32, folder: Permissions) -> Permissions {
        let gid = match folder.mode & SET_GID {
            0 => self.gid,
            _ => folder.gid,
        };
        Permissions {
            mode,
            uid: self.uid,
            gid,
        }
    }

    /// The same for a folder, which hands its group on.
    pub(super) fn makes_dir(&self, folder: Permissions) -> Permissions {
        self.makes(NEW_DIR | folder.mode & SET_GID, folder)
    }

    /// Returns what an entry has after a change, if the user may make it.
    pub(super) fn change(
        &self,
        mut of: Permissions,
        new: NewPermissions,
    ) -> Result<Permissions, ErrorCode> {
        if let Some(mode) = new.mode {
            if mode & !MODE_BITS != 0 {
                return Err(ErrorCode::Invalid);
            }
            self.require_own(of)?;
            of.mode = mode;
            if !self.is_root() && !self.is_in(of.gid) {
                of.mode &= !SET_GID;
            }
        }
        let gives_away = new.uid.is_some_and(|uid| uid != of.uid);
        let regroups = new.gid.is_some_and(|gid| gid != of.gid);
        if !self.is_root() {
            let is_own_group = new.gid.is_none_or(|gid| self.is_in(gid));
            if gives_away || regroups && (self.uid != of.uid || !is_own_group) {
                return Err(ErrorCode::NotPermitted);
            }
            if new.uid.is_some() || new.gid.is_some() {
                of.mode &= !SET_UID;
                if of.mode & GROUP_RUNS != 0 {
                    of.mode &= !SET_GID;
                }
            }
        }
        of.uid = new.uid.unwrap_or(of.uid);
        of.gid = new.gid.unwrap_or(of.gid);
        Ok(of)
    }
}

impl Permissions {
    /// What everybody may see and root alone may change.
    pub(super) fn of_root(mode: u32) -> Permissions {
        Permissions {
            mode,
            uid: ROOT,
            gid: ROOT,
        }
    }

    /// Gives a group what `fsGroup` gives it: everything of a volume, and of what is made in its folders.
    pub(super) fn shared_with(mut self, group: Option<u32>, is_dir: bool) -> Permissions {
        if let Some(group) = group {
            self.gid = group;
            self.mode |= if is_dir { SET_GID | 0o070 } else { 0o060 };
        }
        self
    }

    /// The same for a volume that nobody writes.
    pub(super) fn shown_to(mut self, group: Option<u32>, is_dir: bool) -> Permissions {
        if let Some(group) = group {
            self.gid = group;
            self.mode |= if is_dir { SET_GID | 0o050 } else { 0o040 };
        }
        self
    }
}

impl From<&Meta> for Permissions {
    fn from(meta: &Meta) -> Permissions {
        Permissions {
            mode: meta.mode & MODE_BITS,
            uid: meta.uid,
            gid: meta.gid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
        User {
            uid,
            gid,
            groups: groups.to_vec(),
        }
    }

    fn entry(mode: u32) -> Permissions {
        Permissions {
            mode,
            uid: 1,
            gid: 10,
        }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        // The owner is not helped by what its group may, nor the group by what others may.
        for (who, mode, allowed) in [
            (user(1, 9, &[]), 0o400, true),
            (user(1, 10, &[]), 0o044, false),
            (user(2, 10, &[]), 0o040, true),
            (user(2, 9, &[8, 10]), 0o040, true),
            (user(2, 10, &[]), 0o404, false),
            (user(2, 9, &[]), 0o004, true),
            (user(2, 9, &[]), 0o440, false),
            (user(0, 0, &[]), 0o000, true),
        ] {
            let found = who.require(Wish::READ, entry(mode));
            assert_eq!(found.is_ok(), allowed, "{who:?} {mode:o}");
        }
        assert!(user(1, 1, &[]).require(Wish::CHANGE, entry(0o200)).is_err());
        assert!(user(1, 1, &[]).require(Wish::CHANGE, entry(0o300)).is_ok());
    }

    #[test]
    fn a_sticky_folder_keeps_what_is_others() {
        let (tmp, mut folder) = (Permissions::of_root(0o1777), entry(0o1777));
        assert!(user(2, 2, &[]).require_removal(entry(0o666), tmp).is_err());
        assert!(user(1, 2, &[]).require_removal(entry(0o666), tmp).is_ok());
        assert!(user(0, 0, &[]).require_removal(entry(0o666), tmp).is_ok());
        folder.uid = 2;
        let removed = user(2, 2, &[]).require_removal(entry(0o666), folder);
        assert!(removed.is_ok());
        let open = Permissions::of_root(0o777);
        assert!(user(2, 2, &[]).require_removal(entry(0o666), open).is_ok());
    }

    #[test]
    fn what_is_made_has_the_group_of_its_maker_or_of_a_folder_that_hands_it_on() {
        let who = user(7, 8, &[9]);
        let made = who.makes(NEW_FILE, entry(0o777));
        assert_eq!((made.mode, made.uid, made.gid), (0o644, 7, 8));
        let made = who.makes(NEW_FILE, entry(0o2777));
        assert_eq!((made.mode, made.uid, made.gid), (0o644, 7, 10));
        let made = who.makes_dir(entry(0o2777));
        assert_eq!((made.mode, made.uid, made.gid), (0o2755, 7, 10));
    }

    #[test]
    fn owners_change_modes_and_root_changes_owners() {
        let mode = |mode| NewPermissions {
            mode: Some(mode),
            ..NewPermissions::default()
        };
        let owner = |uid, gid| NewPermissions {
            mode: None,
            uid,
            gid,
        };
        let changed = |who: User, new| who.change(entry(0o6755), new).ok();
        let mine = changed(user(1, 10, &[]), mode(0o600)).expect("it is the owner's");
        assert_eq!(mine.mode, 0o600);
        assert_eq!(changed(user(2, 10, &[]), mode(0o600)), None);
        assert_eq!(changed(user(0, 0, &[]), mode(0o10600)), None, "no such bit");
        // A group that the owner is not in lends nobody its identity.
        let foreign = changed(user(1, 2, &[]), mode(0o2755)).expect("it is the owner's");
        assert_eq!(foreign.mode, 0o755);
        assert_eq!(changed(user(1, 10, &[]), owner(Some(2), None)), None);
        assert_eq!(changed(user(1, 2, &[]), owner(None, Some(3))), None);
        let given = changed(user(1, 2, &[3]), owner(None, Some(3))).expect("one of its groups");
        assert_eq!((given.gid, given.mode), (3, 0o755));
        let given = changed(user(0, 0, &[]), owner(Some(5), Some(6))).expect("root may");
        assert_eq!((given.uid, given.gid, given.mode), (5, 6, 0o6755));
    }

    #[test]
    fn the_group_of_a_volume_gets_it_all() {
        let top = Permissions::of_root(0o755);
        let shared = top.shared_with(Some(5), true);
        assert_eq!((shared.mode, shared.gid), (0o2775, 5));
        let shown = Permissions::of_root(0o400).shown_to(Some(5), false);
        assert_eq!((shown.mode, shown.gid), (0o440, 5));
        assert_eq!(top.shared_with(None, true), top);
    }
}
