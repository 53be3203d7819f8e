//! The paths that match a pattern.

use std::fs;
use std::path::Path;

use crate::pattern;

/// A pattern gives at most this many paths.
const PATHS_MAX: usize = 100_000;

/// Returns the paths that match, in order; the pattern's own text when there are none.
pub(super) fn matching(folder: &Path, field: &str) -> Vec<String> {
    let absolute = field.starts_with('/');
    let mut found = vec![if absolute {
        "/".to_owned()
    } else {
        String::new()
    }];
    let parts: Vec<&str> = field.split('/').filter(|part| !part.is_empty()).collect();
    for (index, part) in parts.iter().enumerate() {
        let last = index + 1 == parts.len();
        found = found
            .iter()
            .flat_map(|parent| step(folder, parent, part, last))
            .take(PATHS_MAX)
            .collect();
    }
    if field.ends_with('/') {
        found.retain(|path| folder.join(path).is_dir());
        found.iter_mut().for_each(|path| path.push('/'));
    }
    if found.is_empty() {
        return vec![pattern::unescape(field)];
    }
    found.sort();
    found
}

/// The paths one step down that match a part of the pattern.
fn step(folder: &Path, parent: &str, part: &str, last: bool) -> Vec<String> {
    let join = |name: &str| match parent {
        "" => name.to_owned(),
        parent if parent.ends_with('/') => format!("{parent}{name}"),
        parent => format!("{parent}/{name}"),
    };
    if !pattern::is_pattern(part) {
        let path = join(&pattern::unescape(part));
        let there = folder.join(&path).symlink_metadata().is_ok();
        return if there { vec![path] } else { Vec::new() };
    }
    let Ok(entries) = fs::read_dir(folder.join(if parent.is_empty() { "." } else { parent }))
    else {
        return Vec::new();
    };
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let hidden = name.starts_with('.') && !part.starts_with('.');
        (!hidden && pattern::matches(part, &name)).then_some(name)
    });
    let paths = names.map(|name| join(&name));
    paths
        .filter(|path| last || folder.join(path).is_dir())
        .collect()
}
