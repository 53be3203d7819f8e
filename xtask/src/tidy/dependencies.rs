//! Dependencies: the edges between our crates, who owns a library, what the lock file may hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::duplicates;
use crate::edges::{ALLOWED, ALLOWED_IN_TESTS, FORBIDDEN, OWNERS, UNSAFE};
use crate::workspace::{metadata, read};

/// Checks every package of the workspace, and the lock file.
///
/// # Errors
///
/// Fails when cargo cannot tell the packages or the lock file cannot be read.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let metadata = metadata()?;
    let packages = list(&metadata, "packages");
    let ours: BTreeSet<&str> = packages
        .iter()
        .map(|package| text(package, "name"))
        .collect();
    let mut found = Vec::new();
    for package in packages {
        let manifest = read(Path::new(text(package, "manifest_path")))?;
        found.extend(check_lints(text(package, "name"), &manifest));
        for dependency in list(package, "dependencies") {
            let edge = Edge {
                from: text(package, "name"),
                to: text(dependency, "name"),
                in_tests: text(dependency, "kind") == "dev",
            };
            found.extend(edge.judge(ours.contains(edge.to)));
        }
    }
    found.extend(check_lock(&read(&root.join("Cargo.lock"))?));
    Ok(found)
}

struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    in_tests: bool,
}

impl Edge<'_> {
    /// Says what is wrong with the edge, if anything.
    fn judge(&self, ours: bool) -> Option<String> {
        let Self { from, to, in_tests } = self;
        if ours {
            let allowed =
                listed(ALLOWED, from, to) || *in_tests && listed(ALLOWED_IN_TESTS, from, to);
            return (!allowed).then(|| {
                format!("{from}: may not depend on `{to}`; `xtask/src/edges.rs` lists the edges")
            });
        }
        let owns = |(library, _): &&(&str, &[&str])| {
            to.strip_prefix(library)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let (library, owners) = OWNERS.iter().find(owns)?;
        (!owners.contains(from)).then(|| {
            format!(
                "{from}: may not depend on `{to}`: `{library}` belongs to {}",
                owners.join(", ")
            )
        })
    }
}

/// Judges the lints of a package: it has the workspace's unless unsafe code may stand in it.
fn check_lints(name: &str, manifest: &str) -> Option<String> {
    let is_bound = manifest.contains("[lints]\nworkspace = true\n");
    (!is_bound && !UNSAFE.contains(&name)).then(|| {
        format!(
            "{name}: does not have the workspace's lints; `xtask/src/edges.rs` lists who may not"
        )
    })
}

/// Judges a lock file: nothing forbidden, and two versions of a package only where the reason is known.
fn check_lock(lock: &str) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut name = "";
    for line in lock.lines() {
        if let Some(value) = quoted(line, "name") {
            name = value;
        } else if let Some(version) = quoted(line, "version") {
            versions.entry(name).or_default().push(version);
        }
    }
    let mut found = Vec::new();
    for (name, reason) in FORBIDDEN {
        if versions.contains_key(name) {
            found.push(format!("Cargo.lock: `{name}` is forbidden: {reason}"));
        }
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        if !duplicates::KNOWN.iter().any(|(known, _)| known == name) {
            let versions = versions.join(", ");
            let list = "xtask/src/tidy/duplicates.rs";
            found.push(format!(
                "Cargo.lock: `{name}` is there as {versions}; `{list}` gives no reason"
            ));
        }
    }
    found.extend(settled(&versions));
    found
}

/// A reason for a duplicate that is gone would excuse its return.
fn settled<'a>(versions: &'a BTreeMap<&str, Vec<&str>>) -> impl Iterator<Item = String> + 'a {
    let single = |name: &str| versions.get(name).is_none_or(|versions| versions.len() < 2);
    let gone = duplicates::KNOWN
        .iter()
        .filter(move |(name, _)| single(name));
    gone.map(|(name, _)| format!("xtask/src/tidy/duplicates.rs: `{name}` is no duplicate any more"))
}

fn listed(list: &[(&str, &[&str])], from: &str, to: &str) -> bool {
    list.iter()
        .any(|(package, allowed)| *package == from && allowed.contains(&to))
}

/// The value of a line `key = "value"`.
fn quoted<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?
        .strip_prefix(" = \"")?
        .strip_suffix('"')
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_edge(from: &str, to: &str, in_tests: bool, allowed: bool) {
        let ours = to.starts_with("coracle");
        assert_eq!(
            Edge { from, to, in_tests }.judge(ours).is_none(),
            allowed,
            "{from} to {to}"
        );
    }

    #[test]
    fn only_packages_that_are_named_have_lints_of_their_own() {
        let bound = "[lints]\nworkspace = true\n";
        assert_eq!(check_lints("coracle-network", bound), None);
        assert_eq!(check_lints("coracle-socket-lookup", ""), None);
        assert!(check_lints("coracle-network", "[lints.rust]\n").is_some());
    }

    #[test]
    fn dependencies_point_one_way() {
        check_edge("coracle-runtime", "coracle-network", false, true);
        check_edge("coracle-network", "coracle-runtime", false, false);
        check_edge(
            "coracle-kubelet-shim",
            "coracle-control-plane",
            false,
            false,
        );
        check_edge("coracle", "coracle-tests", true, true);
        check_edge("coracle", "coracle-tests", false, false);
    }

    #[test]
    fn a_heavy_library_has_one_owner() {
        check_edge("coracle-runtime", "wasmtime-wasi", false, true);
        check_edge("coracle-network", "wasmtime-wasi", false, false);
        check_edge("coracle-network", "wasmtimes", false, true);
    }

    #[test]
    fn a_forbidden_package_and_an_unexplained_duplicate_are_told() {
        let package = |name: &str, version: &str| {
            format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n\n")
        };
        let lock = [
            package("openssl", "1.0.0"),
            package("a", "1.0.0"),
            package("a", "2.0.0"),
        ]
        .concat();
        let found = check_lock(&lock);
        assert!(
            found
                .iter()
                .any(|line| line.contains("`openssl` is forbidden")),
            "{found:?}"
        );
        assert!(
            found
                .iter()
                .any(|line| line.contains("`a` is there as 1.0.0, 2.0.0")),
            "{found:?}"
        );
    }
}
