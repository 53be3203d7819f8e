//! The one binary `coracle`: reads what was typed, wires the parts, starts and stops them.

mod cluster;
mod console;
mod data_dir;
mod descriptors;
mod exit;
mod image;
mod kubeconfig;
mod kubelet;
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

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::exit::Exit;

/// A fifth to a third less processor time for each pod started than with the C library's (decision 7).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs Kubernetes pods whose containers are WebAssembly, without a cluster.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, propagate_version = true)]
struct Cli {
    /// Folder for images and compiled code, shared by all processes [default: the platform's own]
    #[arg(long, global = true, env = "CORACLE_DATA_DIR", value_name = "DIR")]
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
    let cli = Cli::parse();
    if matches!(cli.command, Command::CompileChild) {
        return coracle_runtime::compile_child();
    }
    start_logging(cli.verbose);
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
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "coracle",
                &mut std::io::stdout().lock(),
            );
            Ok(Exit::Success.into())
        }
        Command::Manual { folder } => {
            manual::write(Cli::command(), &folder)?;
            Ok(Exit::Success.into())
        }
        Command::CompileChild => Ok(coracle_runtime::compile_child()),
    }
}

/// Sends the log to stderr; `CORACLE_LOG` overrides what `-v` asks for.
fn start_logging(verbose: u8) {
    // The client's warnings hold whole answers; what follows from them is told by those who asked.
    let default = match verbose {
        0 => "error",
        1 => {
            "warn,kube_client=error,coracle=info,coracle_kubelet_shim=info,coracle_runtime=info,\
              coracle_service_proxy=info"
        }
        _ => {
            "info,kube_client=error,coracle=debug,coracle_kubelet_shim=debug,coracle_runtime=debug,coracle_network=debug,\
              coracle_service_proxy=debug,coracle_registry=debug,coracle_control_plane=debug"
        }
    };
    let filter = EnvFilter::try_from_env("CORACLE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(console::stderr_shows_colour())
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
