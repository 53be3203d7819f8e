//! Where things are, and other programs as they are called here.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

/// Returns the root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in a folder of the repository")
        .to_owned()
}

/// Returns the cargo that runs us, so that a chosen toolchain stays chosen.
///
/// It gets nothing of what cargo told us about our package: build scripts that look at such variables would
/// run again, and all that stands on them be compiled anew, each time somebody calls cargo without us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        let is_of_a_package = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        });
        if is_of_a_package {
            command.env_remove(name);
        }
    }
    command
}

/// Reads what cargo knows about the workspace, without its dependencies' packages.
///
/// # Errors
///
/// Fails when cargo does, or when it prints what is no JSON.
pub(crate) fn metadata() -> anyhow::Result<Value> {
    let text = output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    serde_json::from_str(&text).context("`cargo metadata` printed no JSON")
}

/// Runs a program with our streams; an unsuccessful end is an error that names it.
///
/// # Errors
///
/// Fails when the program cannot be started or does not end with success.
pub(crate) fn call(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("failed to start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs a program and returns its standard output.
///
/// # Errors
///
/// Fails when the program cannot be started or does not end with success.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("failed to start `{}`", shown(command)))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` ended with {}\n{}",
            shown(command),
            output.status,
            errors.trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads a text file.
///
/// # Errors
///
/// Fails when the file cannot be read or is no text.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()))
}

/// Returns every file below `folder`, sorted; hidden and target folders are left out.
///
/// # Errors
///
/// Fails when a folder cannot be read.
pub(crate) fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for (name, path) in entries(&folder)? {
            if !path.is_dir() {
                files.push(path);
            } else if !name.starts_with('.') && name != "target" {
                folders.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the entries of a folder by name, sorted.
///
/// # Errors
///
/// Fails when the folder cannot be read.
pub(crate) fn entries(folder: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let reading = || format!("failed to read the folder `{}`", folder.display());
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        entries.push((
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        ));
    }
    entries.sort();
    Ok(entries)
}

/// Returns a path as it reads in a message: relative to the root, with forward slashes.
pub(crate) fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.display().to_string().replace('\\', "/")
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| OsString::from(word).to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_told_nothing_about_this_package() {
        // Cargo has told it to this test as it tells it to a chore.
        assert!(env::var_os("CARGO_PKG_NAME").is_some());
        let command = cargo();
        for name in ["CARGO_PKG_NAME", "CARGO_PKG_VERSION", "CARGO_MANIFEST_DIR"] {
            let told = command.get_envs().find(|(told, _)| *told == name);
            assert_eq!(told, Some((name.as_ref(), None)), "{name}");
        }
    }
}
