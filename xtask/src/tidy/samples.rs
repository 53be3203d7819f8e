//! Samples: each folder is complete, and its components are the ones their checksums name.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::guests::checksum;
use crate::workspace::{entries, read, relative};

/// Lines of a sample's README.
const README_LINES_MAX: usize = 12;

/// Checks every sample.
///
/// # Errors
///
/// Fails when a sample cannot be read.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for (name, folder) in entries(&root.join("samples"))? {
        if !folder.is_dir() || name == "target" {
            continue;
        }
        check_sample(&folder, &mut found)?;
    }
    Ok(found)
}

fn check_sample(folder: &Path, found: &mut Vec<String>) -> anyhow::Result<()> {
    let name = relative(folder);
    for needed in ["README.md", "pod.yaml", "guest"] {
        if !folder.join(needed).exists() {
            found.push(format!("{name}: `{needed}` is missing"));
        }
    }
    let readme = folder.join("README.md");
    if readme.is_file() && read(&readme)?.lines().count() > README_LINES_MAX {
        found.push(format!(
            "{name}/README.md: more than {README_LINES_MAX} lines"
        ));
    }
    let components: Vec<_> = entries(folder)?
        .into_iter()
        .filter(|(file, _)| file.ends_with(".wasm"))
        .collect();
    if components.is_empty() {
        found.push(format!("{name}: no component"));
    }
    for (file, path) in components {
        let bytes = fs::read(&path).with_context(|| format!("failed to read `{name}/{file}`"))?;
        let noted = read(&folder.join(format!("{file}.sha256"))).unwrap_or_default();
        if noted.split_whitespace().next() != Some(&checksum(&bytes)) {
            found.push(format!("{name}/{file}: `{file}.sha256` does not name it"));
        }
    }
    Ok(())
}
