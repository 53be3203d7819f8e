//! Guests for scenarios: the samples' components, and small modules written as text.

use std::path::{Path, PathBuf};

/// Returns the root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate has a parent folder")
        .to_owned()
}

/// Assembles a module from its text format and writes it to `path`.
///
/// # Panics
///
/// Panics when the text is no module or the file cannot be written.
pub fn module(path: &Path, text: &str) {
    let bytes = wat::parse_str(text).expect("the text is a module");
    std::fs::write(path, bytes).expect("the module's file can be written");
}
