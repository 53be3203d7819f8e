//! Users, owners and modes: how they are written, read and changed.

use std::fs;

/// The type of a file in the mode of a list.
const TYPES: [(fn(&fs::Metadata) -> bool, char); 2] =
    [(fs::Metadata::is_dir, 'd'), (fs::Metadata::is_symlink, 'l')];

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
/// All bits of a mode.
const ALL: u32 = 0o7777;

/// Whom the program runs as.
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Further groups.
    pub(crate) groups: Vec<u32>,
}

/// Whose a file is, and who may do what with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permissions {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// Whether the user may read (4), write (2) or run (1) a file. Root runs what anybody may run.
    pub(crate) fn may(&self, bit: u32, of: Permissions) -> bool {
        let classes = of.mode >> 6 | of.mode >> 3 | of.mode;
        let granted = match () {
            () if self.uid == 0 => return bit != 1 || classes & 1 != 0,
            () if self.uid == of.uid => of.mode >> 6,
            () if self.gid == of.gid || self.groups.contains(&of.gid) => of.mode >> 3,
            () => of.mode,
        };
        granted & bit != 0
    }
}

/// Returns a mode as lists show it, such as `drwxr-xr-x`.
pub(crate) fn shown(mode: u32, metadata: &fs::Metadata) -> String {
    let kind = TYPES.iter().find(|(is_that, _)| is_that(metadata));
    shown_as(mode, kind.map_or('-', |(_, letter)| *letter))
}

/// The same for a letter that says what it is.
pub(crate) fn shown_as(mode: u32, kind: char) -> String {
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, SET_UID, 's'), (3, SET_GID, 's'), (0, STICKY, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Returns the mode that a word of `chmod` makes of one: octal digits or clauses like `u+rx,go=`. A folder
/// may be searched with `X` as may what somebody may run.
pub(crate) fn change(word: &str, mode: u32, is_folder: bool) -> Option<u32> {
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        let new = u32::from_str_radix(word, 8).ok()?;
        return (new <= ALL).then_some(new);
    }
    let clauses = word.split(',');
    clauses
        .into_iter()
        .try_fold(mode, |mode, clause| clause_of(clause, mode, is_folder))
}

fn clause_of(clause: &str, mut mode: u32, is_folder: bool) -> Option<u32> {
    let start = clause.find(['+', '-', '='])?;
    let (who, mut rest) = clause.split_at(start);
    let mut classes = 0;
    for letter in who.chars() {
        classes |= match letter {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => ALL,
            _ => return None,
        };
    }
    if who.is_empty() {
        classes = ALL;
    }
    while let Some(operator) = rest.chars().next() {
        let end = rest[1..]
            .find(['+', '-', '='])
            .map_or(rest.len(), |at| at + 1);
        let bits = bits_of(&rest[1..end], mode, is_folder)? & classes;
        match operator {
            '+' => mode |= bits,
            '-' => mode &= !bits,
            _ => mode = mode & !(classes & 0o777) | bits,
        }
        rest = &rest[end..];
    }
    Some(mode)
}

/// What the letters after an operator mean, for all classes.
fn bits_of(letters: &str, mode: u32, is_folder: bool) -> Option<u32> {
    let for_all = |bits: u32| bits << 6 | bits << 3 | bits;
    let mut bits = 0;
    for letter in letters.chars() {
        bits |= match letter {
            'r' => for_all(4),
            'w' => for_all(2),
            'x' => for_all(1),
            'X' if is_folder || mode & 0o111 != 0 => for_all(1),
            'X' => 0,
            's' => SET_UID | SET_GID,
            't' => STICKY,
            'u' => for_all(mode >> 6 & 7),
            'g' => for_all(mode >> 3 & 7),
            'o' => for_all(mode & 7),
            _ => return None,
        };
    }
    Some(bits)
}

/// A table of the image that gives numbers names.
#[derive(Clone, Copy)]
pub(crate) enum Table {
    Users,
    Groups,
}

impl Table {
    fn lines(self) -> String {
        let file = match self {
            Table::Users => "/etc/passwd",
            Table::Groups => "/etc/group",
        };
        fs::read_to_string(file).unwrap_or_default()
    }

    /// The name of a number; root's is known without a table.
    pub(crate) fn name(self, number: u32) -> Option<String> {
        let digits = number.to_string();
        let lines = self.lines();
        let mut lines = lines.lines().map(|line| line.split(':'));
        let found = lines.find_map(|mut fields| {
            let name = fields.next()?;
            (fields.nth(1)? == digits).then(|| name.to_owned())
        });
        found.or_else(|| (number == 0).then(|| "root".to_owned()))
    }

    /// The same, else the number itself.
    pub(crate) fn shown(self, number: u32) -> String {
        self.name(number).unwrap_or_else(|| number.to_string())
    }

    /// The number of a name or of digits.
    pub(crate) fn number(self, word: &str) -> Option<u32> {
        let lines = self.lines();
        let mut lines = lines.lines().map(|line| line.split(':'));
        let found = lines.find_map(|mut fields| {
            let name = fields.next()?;
            let number = fields.nth(1)?.parse().ok()?;
            (name == word).then_some(number)
        });
        let root = (word == "root").then_some(0);
        found.or(root).or_else(|| word.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_shown_as_lists_do() {
        for (mode, expected) in [
            (0o755, "-rwxr-xr-x"),
            (0o640, "-rw-r-----"),
            (0o4755, "-rwsr-xr-x"),
            (0o2745, "-rwxr-Sr-x"),
            (0o1777, "-rwxrwxrwt"),
            (0o1776, "-rwxrwxrwT"),
            (0, "----------"),
        ] {
            assert_eq!(shown_as(mode, '-'), expected);
        }
    }

    #[test]
    fn words_of_chmod_mean_what_posix_says() {
        for (word, from, to) in [
            ("755", 0, Some(0o755)),
            ("0600", 0o777, Some(0o600)),
            ("10000", 0, None),
            ("8", 0, None),
            ("+x", 0o644, Some(0o755)),
            ("u+x", 0o644, Some(0o744)),
            ("go-rwx", 0o777, Some(0o700)),
            ("a=r", 0o777, Some(0o444)),
            ("u=rw,go=r", 0o777, Some(0o644)),
            ("g=u", 0o750, Some(0o770)),
            ("+X", 0o644, Some(0o644)),
            ("+X", 0o744, Some(0o755)),
            ("+t", 0o777, Some(0o1777)),
            ("u+s", 0o755, Some(0o4755)),
            ("o=", 0o777, Some(0o770)),
            ("u+r-w", 0o300, Some(0o500)),
            ("x+r", 0, None),
            ("u", 0, None),
            ("u+q", 0, None),
        ] {
            assert_eq!(change(word, from, false), to, "{word} of {from:o}");
        }
        assert_eq!(change("+X", 0o644, true), Some(0o755));
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let of = Permissions {
            mode: 0o604,
            uid: 1,
            gid: 2,
        };
        let user = |uid, gid| User {
            uid,
            gid,
            groups: vec![9],
        };
        assert!(user(1, 1).may(2, of) && !user(5, 2).may(4, of) && user(5, 5).may(4, of));
        assert!(user(0, 0).may(2, of) && !user(0, 0).may(1, of));
    }
}
