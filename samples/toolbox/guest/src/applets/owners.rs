//! `chmod`, `chown`, `chgrp`.

use std::fs;
use std::io;
use std::path::Path;

use super::listing::DEPTH_MAX;
use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use crate::ownership::{self, Table};
use crate::platform;

applets! {
    "chmod" => chmod,
    "chown" => chown,
    "chgrp" => chgrp,
}

/// What is done to files, and to what is in folders.
type Change = dyn Fn(&Path) -> io::Result<()>;

async fn chmod(context: Context) -> Outcome {
    // A mode may begin with a dash, as in `-w`; letters that are no options make a word one.
    let is_mode = |word: &String| {
        !word.starts_with('-') || word.len() > 1 && word[1..].chars().all(|c| "rwxXst".contains(c))
    };
    let mut words = context.arguments().to_vec();
    let at = words.iter().position(is_mode);
    let mode = at.map(|at| words.remove(at));
    let mode = mode.ok_or_else(|| Failure::usage("a mode is expected"))?;
    let options = Options::read(&words, "Rfv", &[("recursive", 'R')])?;
    if ownership::change(&mode, 0, false).is_none() {
        return Err(Failure::new(format!("invalid mode: {mode}")));
    }
    let change = move |path: &Path| {
        let known = platform::permissions(path, true)?.mode;
        let is_folder = fs::metadata(path)?.is_dir();
        match ownership::change(&mode, known, is_folder) {
            Some(mode) => platform::set_mode(path, true, mode),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    };
    each(&context, &options, &options.operands, &change).await
}

async fn chown(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "RhfvHLP", &[("recursive", 'R')])?;
    let [owner, names @ ..] = options.operands.as_slice() else {
        return Err(Failure::usage("an owner is expected"));
    };
    let (user, group) = match owner.split_once([':', '.']) {
        Some((user, group)) => (user, group),
        None => (owner.as_str(), ""),
    };
    let number = |table: Table, word: &str| match word {
        "" => Ok(None),
        word => match table.number(word) {
            Some(number) => Ok(Some(number)),
            None => Err(Failure::new(format!("unknown user/group {word}"))),
        },
    };
    let (uid, gid) = (number(Table::Users, user)?, number(Table::Groups, group)?);
    let follow = !options.has('h');
    let change = move |path: &Path| platform::set_owner(path, follow, uid, gid);
    each(&context, &options, names, &change).await
}

async fn chgrp(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "RhfvHLP", &[("recursive", 'R')])?;
    let [group, names @ ..] = options.operands.as_slice() else {
        return Err(Failure::usage("a group is expected"));
    };
    let gid = Table::Groups.number(group);
    let gid = gid.ok_or_else(|| Failure::new(format!("unknown group {group}")))?;
    let follow = !options.has('h');
    let change = move |path: &Path| platform::set_owner(path, follow, None, Some(gid));
    each(&context, &options, names, &change).await
}

async fn each(context: &Context, options: &Options, names: &[String], change: &Change) -> Outcome {
    if names.is_empty() {
        return Err(Failure::usage("a name is expected"));
    }
    let mut code = 0;
    for name in names {
        let depth = if options.has('R') { 0 } else { DEPTH_MAX };
        let mut failures = Vec::new();
        descend(name, &context.path(name), depth, change, &mut failures);
        for failure in failures {
            code = 1;
            if !options.has('f') {
                context.complain(&failure).await?;
            }
        }
    }
    context.end(code).await
}

/// What is in a folder first: its mode may close it. Links in it are left alone.
fn descend(name: &str, path: &Path, depth: u32, change: &Change, failures: &mut Vec<Failure>) {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if depth < DEPTH_MAX && is_folder {
        match fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
                        let inner = entry.file_name();
                        let inner = format!("{}/{}", name.trim_end_matches('/'), inner.display());
                        descend(&inner, &entry.path(), depth + 1, change, failures);
                    }
                }
            }
            Err(error) => failures.push(Failure::about(name, &error)),
        }
    }
    if let Err(error) = change(path) {
        failures.push(Failure::about(name, &error));
    }
}

/// Gives a copy the mode of what it was made from, and its owner, too, if that is to be kept and may be.
pub(crate) fn carry(from: &Path, to: &Path, keeps_owner: bool) -> io::Result<()> {
    let (wanted, found) = (
        platform::permissions(from, true)?,
        platform::permissions(to, true)?,
    );
    if keeps_owner && (wanted.uid, wanted.gid) != (found.uid, found.gid) {
        // Whoever is not root keeps what is copied.
        let _ = platform::set_owner(to, true, Some(wanted.uid), Some(wanted.gid));
    }
    match wanted.mode & 0o777 == found.mode & 0o777 {
        true => Ok(()),
        false => settle(platform::set_mode(to, true, wanted.mode & 0o777)),
    }
}

/// Leaves a file as it is where nothing keeps modes.
pub(crate) fn settle(changed: io::Result<()>) -> io::Result<()> {
    match changed {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        changed => changed,
    }
}
