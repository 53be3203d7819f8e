//! Everything CI runs. The tests come last, so that their result is the last thing printed.

use anyhow::Context;

use crate::workspace::{call, cargo, root};
use crate::{tidy, workspace};

/// Lints, with one feature set and one profile for all steps, so that dependencies are checked once.
const CLIPPY: &[&str] = &[
    "clippy",
    "--release",
    "--workspace",
    "--all-targets",
    "--quiet",
    "--",
    "-D",
    "warnings",
];

/// The documentation of every crate, private items included: links to them must hold too.
const DOCUMENTATION: &[&str] = &[
    "doc",
    "--release",
    "--workspace",
    "--no-deps",
    "--document-private-items",
    "--quiet",
];

/// Runs the steps; the first that fails ends the run.
///
/// # Errors
///
/// Fails with the step that failed.
pub(crate) fn run() -> anyhow::Result<()> {
    step("formatting");
    call(cargo().args(["fmt", "--all", "--check"]))?;
    call(cargo().args([
        "fmt",
        "--manifest-path",
        "samples/Cargo.toml",
        "--all",
        "--check",
    ]))?;
    step("tidy");
    tidy::run()?;
    step("clippy");
    call(cargo().args(CLIPPY))?;
    step("documentation");
    call(
        cargo()
            .args(DOCUMENTATION)
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    let command = promised_test_command()?;
    step(&command);
    call(cargo().args(command.split_whitespace().skip(1)))
}

/// Reads the test command that the README promises to newcomers, so that it is this one that is kept.
fn promised_test_command() -> anyhow::Result<String> {
    let readme = workspace::read(&root().join("README.md"))?;
    let line = readme
        .lines()
        .find_map(|line| line.strip_prefix("$ ")?.strip_prefix("cargo test"));
    let rest = line.context("`README.md` shows no line `$ cargo test …`")?;
    let command = rest.split('#').next().unwrap_or(rest).trim_end();
    Ok(format!("cargo test{command}"))
}

fn step(name: &str) {
    eprintln!("== {name}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_readme_shows_how_to_test() {
        let command = super::promised_test_command().expect("the README shows it");
        assert_eq!(command, "cargo test --release --workspace");
    }
}
