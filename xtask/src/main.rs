//! The project's own chores: builds the samples' guests, guards the style, runs what CI runs.

mod bench;
mod ci;
mod dist;
mod distil;
mod edges;
mod golden;
mod guests;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

/// Chores of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Chore {
    /// Runs the benchmarks whose figures docs/performance.md tells.
    Bench(bench::Options),
    /// Runs exactly what CI runs: formatting, tidy, clippy, documentation, tests.
    Ci,
    /// Builds what is handed out, and shows that it can be built again.
    Dist(dist::Options),
    /// Distils the control plane's tables of types from Kubernetes' documents and sources.
    Distil(distil::Options),
    /// Records what Kubernetes answers to the requests of the API's golden tables.
    RecordGolden(golden::Options),
    /// Builds the samples' components into the target folder.
    Guests(guests::Options),
    /// Checks what compiler and linter do not: budgets, names, dependencies, documents.
    Tidy,
}

fn main() -> ExitCode {
    if let Some(ended) = dist::compile_if_asked() {
        return ended;
    }
    let outcome = match Chore::parse() {
        Chore::Bench(options) => bench::run(&options),
        Chore::Ci => ci::run(),
        Chore::Dist(options) => dist::run(&options),
        Chore::Distil(options) => distil::run(&options),
        Chore::RecordGolden(options) => golden::run(&options),
        Chore::Guests(options) => guests::run(&options),
        Chore::Tidy => tidy::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
