//! The cluster that a command joins or serves, as a kubeconfig tells it.

use std::path::PathBuf;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// How to reach a cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// How to reach the API server, and as whom
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: PathBuf,

    /// The context of the kubeconfig to use [default: the file's current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl ClusterArgs {
    /// Reads the kubeconfig and what it names.
    ///
    /// # Errors
    ///
    /// Fails when a file cannot be read, or says what nothing can be reached with.
    pub(crate) async fn client_config(&self) -> anyhow::Result<kube::Config> {
        let file = &self.kubeconfig;
        let read = Kubeconfig::read_from(file)
            .with_context(|| format!("failed to read the kubeconfig `{}`", file.display()))?;
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        kube::Config::from_custom_kubeconfig(read, &options)
            .await
            .with_context(|| format!("failed to use the kubeconfig `{}`", file.display()))
    }
}
