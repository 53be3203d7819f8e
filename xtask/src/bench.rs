//! Runs the benchmarks whose figures `docs/performance.md` tells, one after the other.

use crate::workspace::{call, cargo};

/// Each benchmark: its name, what it tells.
const BENCHES: &[(&str, &str)] = &[
    ("durable", "writes of the store, in memory and durable"),
    (
        "api",
        "the API in one process: creates, lists, watches, memory",
    ),
    (
        "up",
        "`coracle up` from outside: start, memory, durable creates over HTTPS",
    ),
    (
        "edge",
        "Services from outside, beside haproxy, nginx and DNAT",
    ),
    ("fabric", "connections and streams between pods"),
    ("neighbour", "what a hostile pod costs a handler beside it"),
    (
        "pods",
        "starts of pods, what waiting ones cost, and back after a kill",
    ),
    ("probes", "processor time of probing 1,000 and 10,000 pods"),
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
    let chosen: Vec<_> = BENCHES.iter().filter(|(name, _)| asked(name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = BENCHES.iter().map(|(name, _)| *name).collect();
        anyhow::bail!("no such benchmark; there are: {}", names.join(", "));
    }
    for (name, about) in chosen {
        println!("== {name}: {about}");
        // The whole workspace is named so that dependencies have the features they are tested with and
        // are not compiled anew. Backtraces would be captured for errors that are part of the work.
        call(
            cargo()
                .args(["bench", "--quiet", "--workspace", "--bench", name])
                .env_remove("RUST_BACKTRACE"),
        )?;
    }
    Ok(())
}
