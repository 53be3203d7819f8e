//! Looks for what must not be in a file.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Returns the files below a folder that hold a text, plain or in base64.
pub fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let encoded = STANDARD.encode(text);
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // A file may go while the folder is read: the process is at work.
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap_or_default();
            let holds = |text: &str| {
                bytes
                    .windows(text.len())
                    .any(|part| part == text.as_bytes())
            };
            if holds(text) || holds(&encoded) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}
