//! The guests in Rust: one build of the samples' workspace for `wasm32-wasip2`.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::workspace::{call, output, root};

const TARGET: &str = "wasm32-wasip2";

/// What the toolchain that runs us sets, and would lead another one astray: a compiler that loads its
/// library from there looks for standard libraries there, too.
const OTHER_TOOLCHAIN: &[&str] = &[
    "DYLD_FALLBACK_LIBRARY_PATH",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTUP_TOOLCHAIN",
];

/// Builds the workspace and returns the folder with its programs.
///
/// # Errors
///
/// Fails with the one line to type when the toolchain has no standard library for the target, and when
/// the build does.
pub(super) fn build(target_folder: &Path, toolchain: Option<&Path>) -> anyhow::Result<PathBuf> {
    let tools = Tools::new(toolchain)?;
    tools.require_target()?;
    let samples = root().join("samples");
    call(
        tools
            .command("cargo")
            .current_dir(&samples)
            .args([
                "build",
                "--release",
                "--locked",
                "--quiet",
                "--target",
                TARGET,
                "--target-dir",
            ])
            .arg(target_folder)
            .env("CARGO_ENCODED_RUSTFLAGS", flags(&samples)?)
            // Incremental code generation gives other bytes.
            .env("CARGO_INCREMENTAL", "0"),
    )?;
    Ok(target_folder.join(TARGET).join("release"))
}

/// A toolchain: the one in a folder, or the one that runs us.
struct Tools {
    folder: Option<PathBuf>,
}

impl Tools {
    fn new(folder: Option<&Path>) -> anyhow::Result<Self> {
        let Some(folder) = folder else {
            return Ok(Self { folder: None });
        };
        let folder = folder
            .canonicalize()
            .with_context(|| format!("there is no toolchain in `{}`", folder.display()))?;
        Ok(Self {
            folder: Some(folder),
        })
    }

    /// A program of the toolchain; what it starts itself comes from there, too.
    fn command(&self, name: &str) -> Command {
        let Some(folder) = &self.folder else {
            let chosen = env::var_os(name.to_uppercase());
            return Command::new(chosen.unwrap_or_else(|| name.into()));
        };
        let programs = folder.join("bin");
        let mut command = Command::new(programs.join(name));
        let inherited = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([programs].into_iter().chain(env::split_paths(&inherited)));
        command.env("PATH", path.unwrap_or(inherited));
        for inherited in OTHER_TOOLCHAIN {
            command.env_remove(inherited);
        }
        command
    }

    fn require_target(&self) -> anyhow::Result<()> {
        let arguments = ["--print", "target-libdir", "--target", TARGET];
        let folder = output(self.command("rustc").args(arguments))?;
        if !Path::new(folder.trim()).is_dir() {
            bail!("this Rust cannot build for {TARGET} yet; type: rustup target add {TARGET}");
        }
        Ok(())
    }
}

/// The flags that keep this machine's folders out of the components.
fn flags(samples: &Path) -> anyhow::Result<OsString> {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = cargo_home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let registry = home
        .context("there is no home folder")?
        .join("registry")
        .join("src");
    let mut flags = OsString::from("--remap-path-prefix=");
    flags.push(samples);
    flags.push("=/samples\u{1f}--remap-path-prefix=");
    flags.push(registry);
    flags.push("=/registry");
    Ok(flags)
}
