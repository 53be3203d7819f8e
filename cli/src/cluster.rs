//! The cluster that a command joins or serves, as a kubeconfig tells it.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

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
            .map_err(told_once)
            .with_context(|| format!("failed to read the kubeconfig `{}`", file.display()))?;
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        kube::Config::from_custom_kubeconfig(read, &options)
            .await
            .map_err(told_once)
            .with_context(|| format!("failed to use the kubeconfig `{}`", file.display()))
    }
}

/// Returns the error without its causes, which its own words name already, and without what the file holds:
/// most of that is secret.
fn told_once(error: KubeconfigError) -> anyhow::Error {
    match error {
        KubeconfigError::ReadConfig(error, _) => error.into(),
        KubeconfigError::Parse(error) => match (error.without_snippet(), error.location()) {
            // Its words would show what was found in the place of something else.
            (serde_saphyr::Error::SerdeInvalidType { expected, .. }, Some(at)) => anyhow!(
                "expected {expected} at line {}, column {}",
                at.line(),
                at.column()
            ),
            (error, _) => anyhow!("{error}"),
        },
        error => anyhow!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(file: &std::path::Path) -> String {
        let args = ClusterArgs {
            kubeconfig: file.to_owned(),
            context: None,
        };
        let refusal = args.client_config().await.expect_err("it is refused");
        format!("{refusal:#}")
    }

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_read_is_told_once() {
        let refusal = refusal("nowhere/config".as_ref()).await;
        assert!(refusal.starts_with("failed to read the kubeconfig `nowhere/config`: "));
        assert_eq!(refusal.matches("os error").count(), 1, "{refusal}");
        assert_eq!(refusal.matches("nowhere").count(), 1, "{refusal}");
    }

    #[tokio::test]
    async fn what_a_damaged_kubeconfig_holds_is_not_shown() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("config");
        for text in [
            "users:\n- name: me\n  user:\n    token: hunter2\n\tusername: x\n",
            "users:\n- name: me\n  user: hunter2\n",
        ] {
            std::fs::write(&file, text).expect("a file");
            let refusal = refusal(&file).await;
            assert!(!refusal.contains("hunter2"), "{refusal}");
            assert!(refusal.contains("line "), "{refusal}");
        }
    }
}
