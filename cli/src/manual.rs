//! The manual pages, from the same definitions as the command line and its help.

use std::path::Path;

use anyhow::Context;

/// Writes a page for the program and one for each of its commands, `coracle.1`, `coracle-run.1` …; what is
/// hidden has none. Pages that are there already are replaced.
///
/// # Errors
///
/// Fails when the folder is missing or cannot be written to.
pub(crate) fn write(command: clap::Command, folder: &Path) -> anyhow::Result<()> {
    // Every command has a help of its own; a page for each `help` would say that twice.
    let command = command.disable_help_subcommand(true);
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("failed to write the manual into `{}`", folder.display()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_command_that_is_shown_has_a_page() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        super::write(crate::Cli::command(), folder.path()).expect("the pages are written");
        let page = |name: &str| folder.path().join(format!("{name}.1"));
        for name in [
            "coracle",
            "coracle-run",
            "coracle-up",
            "coracle-node",
            "coracle-proxy",
            "coracle-image",
            "coracle-image-pull",
            "coracle-completion",
        ] {
            let text = std::fs::read_to_string(page(name)).expect("a page");
            assert!(text.contains(".SH SYNOPSIS"), "{name}: {text}");
        }
        for name in ["coracle-compile-child", "coracle-manual", "coracle-help"] {
            assert!(!page(name).exists(), "{name}");
        }
    }
}
