//! Asks a real cluster what the tables in `control-plane/tests/golden` ask, and keeps its answers.

use std::path::PathBuf;

use crate::workspace::{call, cargo};

/// Which cluster is asked.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A kubeconfig of an administrator of a Kubernetes 1.36 that may be played with: without
    /// nodes, with services in 10.96.0.0/16, and without a namespace `golden`
    #[arg(long, value_name = "KUBECONFIG")]
    server: PathBuf,
}

/// Writes the answers into the tables; `git diff` shows what has changed.
///
/// # Errors
///
/// Fails when the kubeconfig is missing, or when a request cannot be sent.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let server = std::path::absolute(&options.server)?;
    // The test that compares our answers is what asks, so that both are asked alike.
    call(
        cargo()
            .args(["test", "--release", "--package", "coracle-control-plane"])
            .args(["--test", "api", "golden"])
            .env("CORACLE_GOLDEN_SERVER", server),
    )
}
