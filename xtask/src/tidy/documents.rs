//! Documents that must keep up with the tree: the crates' first sentence, README, ARCHITECTURE.

use std::path::Path;

use crate::workspace::{entries, read, relative};

/// Documents that name every folder at the root.
const MAPS: &[&str] = &["README.md", "ARCHITECTURE.md"];

/// Checks the documents.
///
/// # Errors
///
/// Fails when a document cannot be read.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let folders: Vec<_> = entries(root)?
        .into_iter()
        .filter(|(name, path)| path.is_dir() && !name.starts_with('.') && name != "target")
        .collect();
    for map in MAPS {
        let text = read(&root.join(map))?;
        for (folder, _) in folders.iter().filter(|(folder, _)| !names(&text, folder)) {
            found.push(format!("{map}: the folder `{folder}/` is not mentioned"));
        }
    }
    for (_, folder) in folders {
        let library = folder.join("src/lib.rs");
        if library.is_file() && !begins_with_a_sentence(&read(&library)?) {
            let name = relative(&library);
            found.push(format!(
                "{name}: the crate's documentation does not begin with one sentence"
            ));
        }
    }
    Ok(found)
}

/// Whether a text holds `word` between characters that belong to no word.
fn names(text: &str, word: &str) -> bool {
    let outside = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '-' && c != '_');
    text.match_indices(word).any(|(at, _)| {
        outside(text[..at].chars().next_back()) && outside(text[at + word.len()..].chars().next())
    })
}

/// Whether the first paragraph of a crate's documentation is one sentence.
fn begins_with_a_sentence(text: &str) -> bool {
    let lines = text.lines().map_while(|line| line.strip_prefix("//! "));
    let paragraph = lines.collect::<Vec<_>>().join(" ");
    let starts = paragraph.starts_with(|c: char| c.is_uppercase() || c == '`');
    starts && paragraph.ends_with('.') && !paragraph.contains(". ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_begins_with_one_sentence() {
        for (text, expected) in [
            ("//! Pulls images.\n\nmod a;\n", true),
            (
                "//! Pulls images,\n//! by digest.\n//!\n//! More. And more.\n",
                true,
            ),
            ("//! Pulls images. Stores them.\n", false),
            ("//! Pulls images\n", false),
            ("mod a;\n", false),
        ] {
            assert_eq!(begins_with_a_sentence(text), expected, "for {text}");
        }
    }

    #[test]
    fn a_folder_is_mentioned_as_a_word() {
        for (text, expected) in [
            ("`cli/` is", true),
            ("the cli, too", true),
            ("the client", false),
            ("a-cli", false),
        ] {
            assert_eq!(names(text, "cli"), expected, "for {text}");
        }
    }
}
