//! Guests for scenarios: the samples' components, and small modules written as text.

use std::path::{Path, PathBuf};

/// Returns the root of the repository: the folder of the package whose tests cargo runs is in it. One that this
/// crate was compiled in may be another, where checkouts share a target folder.
pub fn repository() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR");
    let package = package.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package)
        .parent()
        .expect("every package has a folder in the repository's root")
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
