//! Completion scripts for shells, from the same definitions as the command line and its help.

use clap::Command;
use clap_complete::Shell;

/// Returns the script; what is hidden is not offered.
pub(crate) fn script(command: &Command, shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(command), "coracle", &mut script);
    script
}

/// Returns the command as people see it: the scripts would offer hidden commands like any other.
fn shown(command: &Command) -> Command {
    let commands = command.get_subcommands();
    Command::new("coracle")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .about(command.get_about().cloned().unwrap_or_default())
        .args(command.get_arguments().cloned())
        .subcommands(commands.filter(|one| !one.is_hide_set()).cloned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, ValueEnum};

    use super::*;

    #[test]
    fn every_shell_is_offered_what_is_shown_and_nothing_else() {
        for shell in Shell::value_variants() {
            let script = script(&crate::Cli::command(), *shell);
            let script = String::from_utf8(script).expect("a script is text");
            for shown in ["image", "proxy", "data-dir", "stop-timeout", "version"] {
                assert!(script.contains(shown), "{shell} lacks {shown}");
            }
            for hidden in ["manual", "compile-child"] {
                assert!(!script.contains(hidden), "{shell} offers {hidden}");
            }
        }
    }
}
