//! `image pull` and `image push`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use coracle_registry::{PullOptions, PushOptions, Reference};

use super::{CodeJudge, Failures, RegistryArgs, bars, open, parsed, print};
use crate::console::Doing;

/// Arguments of `coracle image pull`.
#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// Images, for example `ghcr.io/user/app:v1`
    #[arg(required = true, value_name = "IMAGE", value_parser = parsed)]
    images: Vec<Reference>,

    #[command(flatten)]
    registry: RegistryArgs,
}

/// Arguments of `coracle image push`.
#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// Images in the store, with a tag
    #[arg(required = true, value_name = "IMAGE", value_parser = parsed)]
    images: Vec<Reference>,

    #[command(flatten)]
    registry: RegistryArgs,
}

/// Pulls each image in turn and prints its name with the digest; fails at the end if one was not to be had.
pub(super) fn pull(args: PullArgs, data_dir: &Path) -> anyhow::Result<()> {
    let store = open(data_dir, args.registry.options())?;
    let options = PullOptions {
        credentials: args.registry.credentials()?,
        judge: Arc::new(CodeJudge),
        progress: bars(Doing::Pulling),
    };
    block_on(async {
        let mut failures = Failures::default();
        for reference in &args.images {
            let pulled = store.pull(reference, &options).await;
            let told = pulled.map_err(Into::into);
            failures.note(told.and_then(|image| tell(reference, &image.digest)));
        }
        failures.finish()
    })
}

/// Pushes each image in turn and prints its name with the digest it has at the registry; fails at the end if
/// one could not be sent.
pub(super) fn push(args: PushArgs, data_dir: &Path) -> anyhow::Result<()> {
    let store = open(data_dir, args.registry.options())?;
    let options = PushOptions {
        credentials: args.registry.credentials()?,
        progress: bars(Doing::Pushing),
    };
    block_on(async {
        let mut failures = Failures::default();
        for reference in &args.images {
            let pushed = store.push(reference, &options).await;
            let told = pushed.map_err(Into::into);
            failures.note(told.and_then(|digest| tell(reference, &digest)));
        }
        failures.finish()
    })
}

/// Prints the name of an image with its digest.
fn tell(reference: &Reference, digest: &impl std::fmt::Display) -> anyhow::Result<()> {
    let (registry, repository) = (reference.registry(), reference.repository());
    print(format!("{registry}/{repository}@{digest}\n").as_bytes())
}

/// Ends at Ctrl-C like any command without a handler: temporary files go with the next sweep.
fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("failed to start threads")?;
    runtime.block_on(work)
}
