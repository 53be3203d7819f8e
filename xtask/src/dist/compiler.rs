//! Stands between cargo and rustc while what is handed out is built (cargo's `RUSTC_WRAPPER`).
//!
//! Build scripts can give their package's compilation variables, and some name a folder of this build in them.
//! No flag of the compiler puts another name there: the engine's macros keep it in their library, the library's
//! hash goes into that of every crate that uses them, and that into the program.

use std::env;
use std::process::{Command, ExitCode};

use anyhow::Context;

use super::TARGET_TOLD;

/// Set for cargo by [`super::build`], so that this program knows what it is called for.
pub(super) const ASKED: &str = "CORACLE_DIST_COMPILER";

/// Variables that name a folder of the build, and that nothing is read from: where the macros of the engine
/// write what they expand to, when somebody asks for that (`WASMTIME_DEBUG_BINDGEN`).
const FOLDERS: &[&str] = &["DEBUG_OUTPUT_DIR"];

/// Compiles, if this program was called in place of the compiler; its end is the compiler's then.
pub(crate) fn compile_if_asked() -> Option<ExitCode> {
    env::var_os(ASKED)?;
    Some(match compile() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn compile() -> anyhow::Result<ExitCode> {
    let mut words = env::args_os().skip(1);
    let compiler = words.next().context("cargo names the compiler first")?;
    let mut command = Command::new(&compiler);
    command.args(words);
    for name in FOLDERS {
        if env::var_os(name).is_some() {
            command.env(name, TARGET_TOLD);
        }
    }
    let ended = command
        .status()
        .with_context(|| format!("failed to start `{}`", compiler.display()))?;
    // Ended by a signal, it has no code.
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
