//! `coracle image`: bring images in, make them, list them, send them on, remove them.

mod bring;
mod make;
mod show;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use coracle_registry::{
    Credentials, ImageStore, Judge, PlainHttp, Progress, Reference, RetryPolicy, StoreOptions,
};

use crate::console::{Console, PullBars};
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

fn bars() -> Arc<dyn Progress> {
    PullBars::new(Console::new())
}

/// Prints to stdout; a reader that has gone away is not an error.
fn print(lines: &str) {
    Console::new().output(lines.as_bytes());
}

fn parsed(text: &str) -> Result<Reference, String> {
    text.parse::<Reference>().map_err(|error| {
        let source = std::error::Error::source(&error);
        source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
    })
}
