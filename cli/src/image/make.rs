//! `image build` and `image load`.

use std::collections::BTreeMap;
use std::io::stdin;
use std::path::{Path, PathBuf};

use clap::Args;
use coracle_registry::{BuildForm, BuildSpec, ImageForm, Reference, StoreOptions};

use super::{CodeJudge, bars, open, parsed, print};
use crate::console::Doing;

/// Arguments of `coracle image build`.
///
/// With a Wasm file alone the result is a CNCF Wasm artifact, the form that most tools expect. Any
/// option that needs a file system or a configuration makes it an OCI image for `wasi/wasm`.
#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// The module or component
    #[arg(value_name = "FILE.wasm")]
    module: PathBuf,

    /// The image's name
    #[arg(short, long, value_name = "IMAGE", value_parser = parsed)]
    tag: Reference,

    /// Put a folder's content into the image; can be given several times
    #[arg(long, value_name = "DIR")]
    file_system: Vec<PathBuf>,

    /// Put a tar file (plain, gzip or zstd) into the image, above the folders
    #[arg(long, value_name = "TAR")]
    layer: Vec<PathBuf>,

    /// A word of the entrypoint; give it once per word [default: the Wasm file's path]
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    entrypoint: Vec<String>,

    /// A word of the default arguments; give it once per word
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    cmd: Vec<String>,

    /// An environment variable
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<String>,

    /// The folder to start in
    #[arg(short, long, value_name = "DIR")]
    working_dir: Option<String>,

    /// The user, as a name or a number
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,

    /// A port that the program listens on, for example `80/tcp`
    #[arg(long, value_name = "PORT", value_parser = port)]
    expose: Vec<String>,

    /// A label
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    label: Vec<String>,
}

/// Arguments of `coracle image load`.
#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// An OCI image layout (a folder or a tar of it), or the output of `docker save`; `-` reads
    /// standard input
    #[arg(value_name = "PATH")]
    path: PathBuf,

    /// The image's name, where the archive holds one image [default: as the archive says]
    #[arg(short, long, value_name = "IMAGE", value_parser = parsed)]
    tag: Option<Reference>,
}

/// Builds an image and prints its name and digest.
pub(super) fn build(args: BuildArgs, data_dir: &Path) -> anyhow::Result<()> {
    let store = open(data_dir, StoreOptions::default())?;
    let image = store.build(&args.spec(), &CodeJudge)?;
    print(format!("{} {}\n", image.reference, image.digest).as_bytes())
}

/// Loads images and prints the name and digest of each.
pub(super) fn load(args: LoadArgs, data_dir: &Path) -> anyhow::Result<()> {
    let store = open(data_dir, StoreOptions::default())?;
    let progress = bars(Doing::Loading);
    let name = args.tag.as_ref();
    let loaded = match args.path.as_os_str() == "-" {
        true => store.load_stream(&mut stdin().lock(), name, &CodeJudge, &*progress)?,
        false => store.load(&args.path, name, &CodeJudge, &*progress)?,
    };
    let lines = loaded
        .iter()
        .map(|image| format!("{} {}\n", image.reference, image.digest));
    print(lines.collect::<String>().as_bytes())
}

impl BuildArgs {
    fn spec(self) -> BuildSpec {
        let labels: BTreeMap<String, String> = self
            .label
            .iter()
            .filter_map(|label| label.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let form = ImageForm {
            folders: self.file_system,
            layers: self.layer,
            entrypoint: self.entrypoint,
            cmd: self.cmd,
            env: self.env,
            working_dir: self.working_dir.unwrap_or_default(),
            user: self.user.unwrap_or_default(),
            exposed_ports: self.expose,
            labels,
        };
        let form = match form == ImageForm::default() {
            true => BuildForm::Artifact,
            false => BuildForm::Image(Box::new(form)),
        };
        BuildSpec {
            reference: self.tag,
            module: self.module,
            form,
        }
    }
}

fn pair(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("expected `NAME=VALUE`".to_owned()),
    }
}

fn port(text: &str) -> Result<String, String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match (number.parse::<u16>(), protocol) {
        (Ok(1..), "tcp" | "udp") => Ok(format!("{number}/{protocol}")),
        _ => Err("expected a port, `/tcp` or `/udp` after it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_a_number_and_a_protocol() {
        assert_eq!(port("80").as_deref(), Ok("80/tcp"));
        assert_eq!(port("53/udp").as_deref(), Ok("53/udp"));
        for text in ["", "0", "65536", "80/sctp", "a/tcp", "/tcp"] {
            assert!(port(text).is_err(), "`{text}`");
        }
    }
}
