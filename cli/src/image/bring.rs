//! `image pull` and `image push`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use coracle_registry::{PullOptions, PushOptions, Reference};

use super::{CodeJudge, RegistryArgs, bars, open, parsed, print};

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

/// Pulls each image in turn and prints its name with the digest.
pub(super) fn pull(args: PullArgs, data_dir: &Path) -> anyhow::Result<()> {
    let store = open(data_dir, args.registry.options())?;
    let options = PullOptions {
        credentials: args.registry.credentials()?,
        judge: Arc::new(CodeJudge),
        progress: bars(),
    };
    block_on(async {
        for reference in &args.images {
            let image = store.pull(reference, &options).await?;
            print(&format!(
                "{}/{}@{}\n",
                reference.registry(),
                reference.repository(),
                image.digest
            ));
        }
        Ok(())
    })
}

/// Pushes each image in turn and prints its name with the digest it has at the registry.
pub(super) fn push(args: PushArgs, data_dir: &Path) -> anyhow::Result<()> {
    let store = open(data_dir, args.registry.options())?;
    let options = PushOptions {
        credentials: args.registry.credentials()?,
        progress: bars(),
    };
    block_on(async {
        for reference in &args.images {
            let digest = store.push(reference, &options).await?;
            print(&format!(
                "{}/{}@{digest}\n",
                reference.registry(),
                reference.repository()
            ));
        }
        Ok(())
    })
}

/// Ends at Ctrl-C like any command without a handler: temporary files go with the next sweep.
fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("failed to start threads")?;
    runtime.block_on(work)
}
