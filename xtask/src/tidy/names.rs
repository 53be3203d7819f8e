//! Names of files and folders: a name says what the code does.

use std::path::Path;

use crate::workspace::{files_below, relative};

/// Names that say nothing about what lies in them.
const BANNED: &[&str] = &["common", "helpers", "misc", "shared", "util", "utils"];

/// Checks the path of every Rust source.
///
/// # Errors
///
/// Fails when a folder cannot be read.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let names = files_below(root)?.into_iter().map(|path| relative(&path));
    Ok(names
        .filter(|name| name.ends_with(".rs"))
        .filter_map(|name| judge(&name))
        .collect())
}

fn judge(name: &str) -> Option<String> {
    let path = name.strip_suffix(".rs").unwrap_or(name);
    let mut parts = path.split('/');
    if path == "mod" || path.ends_with("/mod") {
        return Some(format!("{name}: a module `foo` is `foo.rs` beside `foo/`"));
    }
    let banned = parts.find(|part| BANNED.contains(part))?;
    Some(format!(
        "{name}: `{banned}` says nothing; name the thing the code does"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_say_nothing_are_refused() {
        for (name, refused) in [
            ("network/src/backoff.rs", false),
            ("network/src/utilization.rs", false),
            ("network/src/utils.rs", true),
            ("network/src/common/a.rs", true),
            ("network/src/a/mod.rs", true),
        ] {
            assert_eq!(judge(name).is_some(), refused, "for {name}");
        }
    }
}
