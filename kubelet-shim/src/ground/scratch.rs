//! `emptyDir` volumes with a `sizeLimit`: how much they hold, and what is said of too much.

use std::fs;
use std::path::{Path, PathBuf};

use crate::spec::SizeLimit;

/// Entries that are looked at: a volume with more is over any limit that a person writes.
const ENTRIES_MAX: usize = 1 << 20;

/// A volume that may not grow beyond a size.
#[derive(Debug)]
pub(crate) struct ScratchLimit {
    pub(crate) volume: String,
    pub(crate) folder: PathBuf,
    pub(crate) limit: SizeLimit,
}

/// Returns what the kubelet says of the first volume that is over its limit. Blocks.
pub(crate) fn exceeded(limits: &[ScratchLimit]) -> Option<String> {
    let over = limits
        .iter()
        .find(|scratch| holds_more(&scratch.folder, scratch.limit.bytes))?;
    Some(format!(
        "Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ",
        over.volume, over.limit.text
    ))
}

/// Whether the files of a folder are longer together than `limit`. Links are not followed, and what
/// cannot be read any more has been removed meanwhile.
fn holds_more(folder: &Path, limit: u64) -> bool {
    let mut sum: u64 = 0;
    let mut seen = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            seen += 1;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() {
                sum = sum.saturating_add(metadata.len());
            }
            if sum > limit || seen > ENTRIES_MAX {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_of_a_volume_count_together() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("deep")).unwrap();
        fs::write(folder.path().join("a"), [0; 600]).unwrap();
        fs::write(folder.path().join("deep/b"), [0; 424]).unwrap();
        for (bytes, is_over) in [(1024, false), (1023, true), (0, true)] {
            let limit = ScratchLimit {
                volume: "x".to_owned(),
                folder: folder.path().to_owned(),
                limit: SizeLimit {
                    bytes,
                    text: "1Ki".to_owned(),
                },
            };
            let found = exceeded(&[limit]);
            let text = "Usage of EmptyDir volume \"x\" exceeds the limit \"1Ki\". ";
            assert_eq!(found.as_deref(), is_over.then_some(text), "{bytes}");
        }
    }
}
