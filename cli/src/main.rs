//! The one binary `coracle`: reads what was typed, wires the parts, starts and stops them.

mod cluster;
mod completion;
mod console;
mod data_dir;
mod descriptors;
mod exit;
mod image;
mod kubeconfig;
mod kubelet;
mod logging;
mod manifest;
mod manual;
mod node;
mod proxy;
mod ranges;
mod run;
mod services;
mod signals;
mod system;
mod toolbox;
mod up;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{CommandFactory, Parser, Subcommand};

use crate::exit::Exit;

/// A fifth to a third less processor time for each pod started than with the C library's (decision 7).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs Kubernetes pods whose containers are WebAssembly, without a cluster.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, propagate_version = true)]
struct Cli {
    /// Folder for images and compiled code, shared by all processes [default: the platform's own]
    #[arg(
        long,
        global = true,
        env = data_dir::VARIABLE,
        value_name = "DIR",
        // An empty variable counts as not set, so the parser must let it through.
        value_parser = OsStringValueParser::new().map(PathBuf::from)
    )]
    data_dir: Option<PathBuf>,

    /// Tell more on stderr: once for decisions, twice for their reasons
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the pods of Kubernetes manifests until they end or Ctrl-C
    Run(run::RunArgs),
    /// Serve the Kubernetes API and run what it is given, until Ctrl-C
    Up(up::UpArgs),
    /// Join a Kubernetes cluster as a node, until Ctrl-C
    Node(Box<node::NodeArgs>),
    /// Balance connections to the Services of any cluster, until Ctrl-C
    Proxy(Box<proxy::ProxyArgs>),
    /// Pull, push, build and list images
    Image(image::ImageArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Manual {
        /// The folder, which must exist
        folder: PathBuf,
    },
    /// Compile one module; started by `coracle` itself
    #[command(hide = true)]
    CompileChild,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => return tell(&answer),
    };
    if matches!(cli.command, Command::CompileChild) {
        return coracle_runtime::compile_child();
    }
    logging::start(cli.verbose);
    descriptors::raise_limit();
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            console::print_error(&error);
            Exit::Refused.into()
        }
    }
}

/// Performs the command that was typed.
///
/// # Errors
///
/// Every error that reaches this far is Coracle's own refusal, exit code 125.
fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    // The first provider that is installed stays; nothing in this process installs another.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli.command {
        Command::Run(args) => {
            let data_dir = data_dir::resolve(cli.data_dir)?;
            Ok(run::run(args, &data_dir)?.into())
        }
        Command::Up(args) => {
            let data_dir = data_dir::resolve(cli.data_dir)?;
            Ok(up::run(args, &data_dir)?.into())
        }
        Command::Node(args) => {
            let data_dir = data_dir::resolve(cli.data_dir)?;
            Ok(node::run(*args, &data_dir)?.into())
        }
        Command::Proxy(args) => Ok(proxy::run(*args)?.into()),
        Command::Image(args) => {
            let data_dir = data_dir::resolve(cli.data_dir)?;
            image::run(args, &data_dir)
        }
        Command::Completion { shell } => {
            console::print(&completion::script(&Cli::command(), shell))?;
            Ok(Exit::Success.into())
        }
        Command::Manual { folder } => {
            manual::write(Cli::command(), &folder)?;
            Ok(Exit::Success.into())
        }
        Command::CompileChild => Ok(coracle_runtime::compile_child()),
    }
}

/// Prints the parser's answer, help or what is wrong with the usage. Its own way to end would not notice
/// help that cannot be written.
fn tell(answer: &clap::Error) -> ExitCode {
    let printed = answer.print().and_then(|()| std::io::stdout().flush());
    match console::forgive_reader(printed).context("failed to write to standard output") {
        Err(error) if !answer.use_stderr() => {
            console::print_error(&error);
            Exit::Refused.into()
        }
        Ok(()) | Err(_) => u8::try_from(answer.exit_code()).unwrap_or(2).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// A paragraph is one line, for a break by hand and one by the terminal's width leave single words.
    #[test]
    fn paragraphs_of_the_help_are_broken_by_the_terminal_alone() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_long_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            let lines: Vec<&str> = help.lines().collect();
            for pair in lines.windows(2) {
                let is_paragraph = pair.iter().all(|line| !line.is_empty());
                assert!(!is_paragraph, "{}: {pair:?}", command.get_name());
            }
        }
    }
}
