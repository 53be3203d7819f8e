//! Runs the benchmarks whose figures `docs/performance.md` tells, one after the other.

use crate::workspace::{call, cargo};

/// Each benchmark: its package, its name, what it tells.
const BENCHES: &[(&str, &str, &str)] = &[
    (
        "coracle-store",
        "durable",
        "writes of the store, in memory and durable",
    ),
    (
        "coracle-control-plane",
        "api",
        "the API in one process: creates, lists, watches, memory",
    ),
    (
        "coracle",
        "up",
        "`coracle up` from outside: start, memory, durable creates over HTTPS",
    ),
    (
        "coracle-network",
        "fabric",
        "connections and streams between pods",
    ),
];

/// Which benchmarks to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this one, by its name
    name: Option<String>,
}

/// Runs them; figures go to stdout.
///
/// # Errors
///
/// Fails with the first that fails, or when no benchmark has the name.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let asked = |name: &str| options.name.as_deref().is_none_or(|asked| asked == name);
    let chosen: Vec<_> = BENCHES.iter().filter(|(_, name, _)| asked(name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = BENCHES.iter().map(|(_, name, _)| *name).collect();
        anyhow::bail!("no such benchmark; there are: {}", names.join(", "));
    }
    for (package, name, about) in chosen {
        println!("== {name}: {about}");
        // Backtraces would be captured for errors that are part of the work.
        call(
            cargo()
                .args(["bench", "--quiet", "--package", package, "--bench", name])
                .env_remove("RUST_BACKTRACE"),
        )?;
    }
    Ok(())
}
