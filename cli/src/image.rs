//! `coracle image`: bring images in, make them, list them, send them on, remove them.

mod bring;
mod make;
mod show;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use coracle_registry::{
    Credentials, ImageStore, Judge, PlainHttp, Progress, Reference, RetryPolicy, StoreOptions,
};

use crate::console::{Console, Doing, LayerBars, print};
use crate::exit::Exit;

/// Arguments of `coracle image`.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Pull images from registries
    Pull(bring::PullArgs),
    /// Push images to the registries of their names
    Push(bring::PushArgs),
    /// Build an image from a Wasm file
    Build(Box<make::BuildArgs>),
    /// Load images from an OCI image layout or the output of `docker save`
    Load(make::LoadArgs),
    /// List the images in the store
    #[command(visible_alias = "list")]
    Ls(show::ListArgs),
    /// Remove images; content that other images use stays
    Rm(show::RemoveArgs),
    /// Print everything known about images, as JSON
    Inspect(show::InspectArgs),
}

/// What `pull` and `push` have in common.
#[derive(Debug, Args)]
struct RegistryArgs {
    /// User and password for the registry [default: what Docker's own config.json says]
    #[arg(
        long,
        value_name = "USER:PASSWORD",
        env = "CORACLE_CREDS",
        hide_env_values = true
    )]
    creds: Option<String>,

    /// Speak HTTP without TLS to any registry, not only to those on this machine
    #[arg(long)]
    plain_http: bool,
}

/// What failed of several images: one that fails does not keep a command from the others.
#[derive(Default)]
struct Failures(Vec<anyhow::Error>);

impl Failures {
    fn note(&mut self, outcome: anyhow::Result<()>) {
        self.0.extend(outcome.err());
    }

    /// Ends the command.
    ///
    /// # Errors
    ///
    /// Fails with everything that was noted.
    fn finish(mut self) -> anyhow::Result<()> {
        match self.0.len() {
            0 => Ok(()),
            1 => Err(self.0.remove(0)),
            count => {
                let all: Vec<String> = self.0.iter().map(|error| format!("{error:#}")).collect();
                bail!("{count} images failed: {}", all.join("; "))
            }
        }
    }
}

/// Asks the runtime whether it could run a module.
pub(crate) struct CodeJudge;

impl Judge for CodeJudge {
    fn judge(&self, wasm: &[u8]) -> Result<(), String> {
        coracle_runtime::judge(wasm).map(drop).map_err(|refusal| {
            let mut line = refusal.to_string();
            let mut source = std::error::Error::source(&refusal);
            while let Some(cause) = source {
                line.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            line
        })
    }
}

/// Performs one of the image commands.
///
/// # Errors
///
/// Fails when an image is refused, cannot be reached, or is not there: exit code 125.
pub(crate) fn run(args: ImageArgs, data_dir: &Path) -> anyhow::Result<ExitCode> {
    match args.command {
        ImageCommand::Pull(args) => bring::pull(args, data_dir)?,
        ImageCommand::Push(args) => bring::push(args, data_dir)?,
        ImageCommand::Build(args) => make::build(*args, data_dir)?,
        ImageCommand::Load(args) => make::load(args, data_dir)?,
        ImageCommand::Ls(args) => show::list(&args, data_dir)?,
        ImageCommand::Rm(args) => show::remove(args, data_dir)?,
        ImageCommand::Inspect(args) => show::inspect(args, data_dir)?,
    }
    Ok(Exit::Success.into())
}

impl RegistryArgs {
    fn credentials(&self) -> anyhow::Result<Option<Credentials>> {
        Ok(self.creds.as_deref().map(Credentials::parse).transpose()?)
    }

    fn options(&self) -> StoreOptions {
        let plain_http = if self.plain_http {
            PlainHttp::Always
        } else {
            PlainHttp::Loopback
        };
        StoreOptions {
            plain_http,
            retries: RetryPolicy::default(),
        }
    }
}

fn open(data_dir: &Path, options: StoreOptions) -> anyhow::Result<ImageStore> {
    let dir = data_dir.join("images");
    ImageStore::open_with(&dir, options)
        .with_context(|| format!("failed to open the images in `{}`", dir.display()))
}

fn bars(doing: Doing) -> Arc<dyn Progress> {
    LayerBars::new(Console::new(), doing)
}

fn parsed(text: &str) -> Result<Reference, String> {
    text.parse::<Reference>().map_err(|error| {
        let source = std::error::Error::source(&error);
        source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_is_told_at_the_end_and_none_is_success() {
        let failure = |text: &'static str| Err(anyhow::Error::msg(text).context("pull"));
        let told = |outcomes: Vec<anyhow::Result<()>>| {
            let mut failures = Failures::default();
            outcomes.into_iter().for_each(|one| failures.note(one));
            failures.finish().map_err(|error| format!("{error:#}"))
        };
        assert_eq!(told(vec![Ok(()), Ok(())]), Ok(()));
        assert_eq!(told(vec![failure("a"), Ok(())]), Err("pull: a".to_owned()));
        let both = "2 images failed: pull: a; pull: b".to_owned();
        assert_eq!(told(vec![failure("a"), Ok(()), failure("b")]), Err(both));
    }
}
