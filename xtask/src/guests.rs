//! Builds the samples' guests from source and compares them with the committed components.
//!
//! The same source, toolchain and flags give the same bytes in every folder. Another toolchain gives
//! other bytes that work as well, so only CI, which pins the toolchain, insists on the checksums.

mod rust;
mod zig;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use sha2::{Digest, Sha256};

use crate::workspace::{metadata, root};

/// How the guests are built and what is done with them.
#[derive(Args)]
pub(crate) struct Options {
    /// Replaces the committed components and their checksums.
    #[arg(long, conflicts_with = "check")]
    update: bool,
    /// Fails when a built component is not the committed one, or cannot be built.
    #[arg(long)]
    check: bool,
    /// Builds with the Rust toolchain in this folder.
    #[arg(long, value_name = "DIR", env = "CORACLE_WASM_TOOLCHAIN")]
    toolchain: Option<PathBuf>,
}

/// A component of a sample.
struct Guest {
    /// The sample's folder in `samples/`.
    sample: &'static str,
    /// The component's file in that folder.
    file: &'static str,
    source: Source,
}

/// What a guest is built from.
enum Source {
    /// A program or library of the samples' cargo workspace, with the file name cargo gives it.
    Rust { artifact: &'static str },
    /// A C file below the sample's folder.
    C { file: &'static str },
    /// A Zig file below the sample's folder.
    Zig { file: &'static str },
}

const GUESTS: &[Guest] = &[
    Guest {
        sample: "batch",
        file: "batch.wasm",
        source: Source::Rust {
            artifact: "batch.wasm",
        },
    },
    Guest {
        sample: "canary",
        file: "canary.wasm",
        source: Source::Rust {
            artifact: "canary.wasm",
        },
    },
    Guest {
        sample: "config-and-secrets",
        file: "config-and-secrets.wasm",
        source: Source::Rust {
            artifact: "config-and-secrets.wasm",
        },
    },
    Guest {
        sample: "graceful",
        file: "graceful.wasm",
        source: Source::Rust {
            artifact: "graceful.wasm",
        },
    },
    Guest {
        sample: "graceful",
        file: "graceful-c.wasm",
        source: Source::C {
            file: "guest/main.c",
        },
    },
    Guest {
        sample: "hello-c",
        file: "hello-c.wasm",
        source: Source::C {
            file: "guest/main.c",
        },
    },
    Guest {
        sample: "hello-http",
        file: "hello-http.wasm",
        source: Source::Rust {
            artifact: "hello_http.wasm",
        },
    },
    Guest {
        sample: "hello-zig",
        file: "hello-zig.wasm",
        source: Source::Zig {
            file: "guest/main.zig",
        },
    },
    Guest {
        sample: "probes",
        file: "probes.wasm",
        source: Source::Rust {
            artifact: "probes.wasm",
        },
    },
    Guest {
        sample: "round-trips",
        file: "client.wasm",
        source: Source::Rust {
            artifact: "round-trips-client.wasm",
        },
    },
    Guest {
        sample: "round-trips",
        file: "server.wasm",
        source: Source::Rust {
            artifact: "round-trips-server.wasm",
        },
    },
    Guest {
        sample: "sidecar",
        file: "web.wasm",
        source: Source::Rust {
            artifact: "web.wasm",
        },
    },
    Guest {
        sample: "sidecar",
        file: "writer.wasm",
        source: Source::Rust {
            artifact: "writer.wasm",
        },
    },
    Guest {
        sample: "tcp-echo",
        file: "tcp-echo.wasm",
        source: Source::Rust {
            artifact: "tcp-echo.wasm",
        },
    },
    Guest {
        sample: "toolbox",
        file: "toolbox.wasm",
        source: Source::Rust {
            artifact: "toolbox.wasm",
        },
    },
    Guest {
        sample: "two-tier",
        file: "back.wasm",
        source: Source::Rust {
            artifact: "two-tier-back.wasm",
        },
    },
    Guest {
        sample: "two-tier",
        file: "front.wasm",
        source: Source::Rust {
            artifact: "two_tier_front.wasm",
        },
    },
];

/// Builds all guests and does with them what the options say.
///
/// # Errors
///
/// Fails when a guest does not build, or with `--check` when one differs or was left out.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let folder = target_folder()?;
    let programs = rust::build(&folder.join("build"), options.toolchain.as_deref())?;
    let zig = zig::find();
    let mut different = Vec::new();
    for guest in GUESTS {
        let built = folder.join(guest.sample).join(guest.file);
        fs::create_dir_all(folder.join(guest.sample))
            .context("failed to make the target folder")?;
        match (&guest.source, &zig) {
            (Source::Rust { artifact }, _) => copy(&programs.join(artifact), &built)?,
            (Source::C { file }, Some(zig)) => zig.build_c(&guest.path(file), &built)?,
            (Source::Zig { file }, Some(zig)) => zig.build_zig(&guest.path(file), &built)?,
            (Source::C { .. } | Source::Zig { .. }, None) => {
                leave_out(guest, options)?;
                continue;
            }
        }
        if settle(guest, &built, options)? == Outcome::Different {
            different.push(guest.file);
        }
    }
    if options.check && !different.is_empty() {
        bail!(
            "not what their source builds: {}; `--update` replaces them",
            different.join(", ")
        );
    }
    Ok(())
}

/// Returns the checksum of some bytes as `sha256sum` prints it.
pub(crate) fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Guest {
    fn path(&self, file: &str) -> PathBuf {
        root().join("samples").join(self.sample).join(file)
    }
}

#[derive(PartialEq, Eq)]
enum Outcome {
    Same,
    Different,
    Replaced,
}

fn target_folder() -> anyhow::Result<PathBuf> {
    let metadata = metadata()?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo names no target folder")?;
    Ok(Path::new(target).join("guests"))
}

/// A guest whose compiler is missing: said aloud, and an error where nothing may be left out.
fn leave_out(guest: &Guest, options: &Options) -> anyhow::Result<()> {
    let message = format!(
        "{}: left out, since there is no `zig`: `pip install ziglang=={}` brings it",
        guest.file,
        zig::VERSION
    );
    if options.check || std::env::var_os("CI").is_some() {
        bail!(message);
    }
    println!("{message}");
    Ok(())
}

/// Compares a built component with the committed one, and replaces that when it is to be updated.
fn settle(guest: &Guest, built: &Path, options: &Options) -> anyhow::Result<Outcome> {
    let bytes = fs::read(built).with_context(|| format!("failed to read `{}`", built.display()))?;
    let committed = guest.path(guest.file);
    let outcome = match fs::read(&committed) {
        Ok(there) if there == bytes => Outcome::Same,
        Ok(_) | Err(_) if options.update => Outcome::Replaced,
        Ok(_) | Err(_) => Outcome::Different,
    };
    if options.update {
        let noted = committed.with_added_extension("sha256");
        fs::write(&committed, &bytes)
            .and_then(|()| fs::write(noted, format!("{}  {}\n", checksum(&bytes), guest.file)))
            .with_context(|| format!("failed to replace `{}`", committed.display()))?;
    }
    let word = match outcome {
        Outcome::Same => "as committed",
        Outcome::Different => "not as committed",
        Outcome::Replaced => "replaced",
    };
    println!("{}: {} bytes, {word}", guest.file, bytes.len());
    Ok(outcome)
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to).with_context(|| format!("failed to copy `{}`", from.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::entries;

    /// A component that nothing builds could not be replaced after a change of its source.
    #[test]
    fn every_committed_component_has_a_way_to_be_built() {
        let folders = entries(&root().join("samples")).expect("the samples are there");
        for (sample, folder) in folders.iter().filter(|(_, folder)| folder.is_dir()) {
            for (file, _) in entries(folder).expect("the sample can be read") {
                let listed = GUESTS
                    .iter()
                    .any(|guest| guest.sample == sample && guest.file == file);
                assert_eq!(listed, file.ends_with(".wasm"), "{sample}/{file}");
            }
        }
    }
}
