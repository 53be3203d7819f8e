//! The guests in C and Zig, modules for WASI preview 1: PyPI's `ziglang` compiles both.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::workspace::{call, output};

/// The version whose output is committed.
pub(super) const VERSION: &str = "0.17.1";

/// The module's instructions must not depend on the machine that builds it.
const TARGET: &[&str] = &["-target", "wasm32-wasi", "-mcpu=generic"];

/// A Zig compiler: the words that start it.
pub(super) struct Zig {
    words: Vec<String>,
}

/// Finds the compiler: `ZIG`, `zig` on the path, or Python's package.
pub(super) fn find() -> Option<Zig> {
    let chosen = env::var("ZIG").ok().map(|path| vec![path]);
    let usual = [
        &["zig"][..],
        &["python3", "-m", "ziglang"],
        &["python", "-m", "ziglang"],
    ]
    .map(|words| words.iter().map(|word| (*word).to_owned()).collect());
    let mut candidates = chosen.into_iter().chain(usual).map(|words| Zig { words });
    let zig = candidates.find(Zig::answers)?;
    let version = output(zig.command().arg("version")).unwrap_or_default();
    if version.trim() != VERSION {
        println!(
            "zig is {}, the committed modules come from {VERSION}",
            version.trim()
        );
    }
    Some(zig)
}

impl Zig {
    /// Compiles a C file.
    ///
    /// # Errors
    ///
    /// Fails when the compiler does.
    pub(super) fn build_c(&self, source: &Path, module: &Path) -> anyhow::Result<()> {
        let warnings = ["-Wall", "-Wextra", "-Werror"];
        let mut command = self.command();
        command
            .arg("cc")
            .args(TARGET)
            .args(["-Os", "-s"])
            .args(warnings);
        call(command.arg("-o").arg(module).arg(source))
    }

    /// Compiles a Zig file.
    ///
    /// # Errors
    ///
    /// Fails when the compiler does.
    pub(super) fn build_zig(&self, source: &Path, module: &Path) -> anyhow::Result<()> {
        let mut emit = std::ffi::OsString::from("-femit-bin=");
        emit.push(module);
        let mut command = self.command();
        // Zig's own standard library follows no symbolic link on WASI, and the files of a ConfigMap
        // are links; with a C library it leaves opening to that.
        command
            .arg("build-exe")
            .args(TARGET)
            .args(["-O", "ReleaseSmall", "-fstrip", "-lc"]);
        call(command.arg(emit).arg(source))
    }

    fn answers(&self) -> bool {
        let silent = || Stdio::null();
        let status = self
            .command()
            .arg("version")
            .stdout(silent())
            .stderr(silent())
            .status();
        status.is_ok_and(|status| status.success())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        command
    }
}
