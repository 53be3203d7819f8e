//! `coracle run`: pods of manifests in this process, from the check of the files to the exit code.

mod follow;
mod output;
mod preflight;
mod signals;
mod tracker;
mod wiring;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::console::Console;
use crate::data_dir::RunDir;
use crate::exit::Exit;
use crate::manifest;

use self::signals::Signals;

/// Run the pods of Kubernetes manifests until they end or Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Container output goes to stdout as `pod/container | line`, and so does one line for each port that can
be reached, beginning with its URL. Progress goes to stderr.

Exit codes: 0 when every container ended with 0 or the run was ended by a signal; the code of the first
container that failed for good (134 after a trap, 137 killed or out of memory, 128 when it could not
start); 125 when Coracle itself refuses; 130 after a second signal; 2 for wrong usage.")]
pub(crate) struct RunArgs {
    /// Manifests in YAML or JSON; a folder stands for its own *.yaml, *.yml and *.json; - is standard input
    #[arg(required = true, value_name = "FILE|DIR|-")]
    sources: Vec<PathBuf>,

    /// How long pods may take to end, where their own grace period is longer
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    stop_timeout: Duration,

    /// Let pods reach 169.254.0.0/16, where clouds serve credentials
    #[arg(long)]
    allow_link_local: bool,
}

/// Parses `3`, `3s`, `500ms` or `1m30s`; a bare number is seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let duration: jiff::SignedDuration = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from(duration).map_err(|_| "a duration cannot be negative".to_owned())
}

/// Runs the pods of the manifests to their end, or until a signal.
///
/// # Errors
///
/// Whatever Coracle refuses: files, objects, images, a port that is taken.
pub(crate) fn run(args: RunArgs, data_dir: &Path) -> anyhow::Result<Exit> {
    let objects = manifest::read(&args.sources)?;
    let console = Console::new();
    let images = wiring::open_images(data_dir)?;
    let plan = preflight::check(objects, &images)?;
    for line in &plan.notices {
        console.progress(line);
    }
    let run_dir = RunDir::create(data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(wiring::agent_threads())
        .thread_name("agent")
        .enable_all()
        .build()
        .context("failed to start the agent's threads")?;
    let settings = wiring::Settings {
        data_dir: data_dir.to_owned(),
        run_dir: run_dir.path().to_owned(),
        link_local: match args.allow_link_local {
            true => coracle_network::LinkLocal::Open,
            false => coracle_network::LinkLocal::Closed,
        },
        images,
        console,
    };
    let outcome = runtime.block_on(session(settings, plan, args.stop_timeout));
    // A blocking file operation of a guest that was ended may still be under way; it is abandoned.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

/// Starts the parts, applies the objects, follows the pods and ends everything in order.
async fn session(
    settings: wiring::Settings,
    plan: preflight::Plan,
    stop_timeout: Duration,
) -> anyhow::Result<Exit> {
    let mut signals = Signals::install()?;
    let console = settings.console.clone();
    let (system, lines) = wiring::System::build(settings).await?;
    let writer = output::start(console.clone(), lines)?;
    // Nothing runs before the agent starts, so a refused object means that nothing has started.
    system.apply(&plan.objects).await?;
    let running = system.start().await?;

    let follower = follow::Follower::new(running.client(), console.clone());
    let verdict = {
        let mut following = std::pin::pin!(follower.until_finished(plan.pods));
        tokio::select! {
            // Cancel-safe: the follower only reads the API and prints; the pods go on without it.
            verdict = &mut following => verdict?,
            // Cancel-safe: the signal stays queued until it is received.
            () = signals.next() => {
                console.progress("ending the pods; a second signal ends at once");
                follow::Verdict::Ended(Exit::Success)
            }
        }
    };
    signals.exit_on_next(Exit::Interrupted);
    running.stop(stop_timeout).await;
    writer.finish();
    verdict.into_exit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_of_seconds_or_has_units() {
        for (text, expected) in [
            ("3", Some(3_000)),
            ("0", Some(0)),
            ("500ms", Some(500)),
            ("1m30s", Some(90_000)),
            ("-1s", None),
            ("soon", None),
        ] {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(parse_duration(text).ok(), expected, "for {text}");
        }
    }
}
