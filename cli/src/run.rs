//! `coracle run`: pods of manifests in this process, from the check of the files to the exit code.

mod follow;
mod output;
mod preflight;
mod tracker;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_control_plane::Identity;
use tokio::sync::mpsc;

use crate::console::Console;
use crate::data_dir::RunDir;
use crate::exit::Exit;
use crate::manifest;
use crate::ranges::RangeArgs;
use crate::services::{Plan, ServiceSettings};
use crate::signals::Signals;
use crate::system;

/// Run the pods of Kubernetes manifests until they end or Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Container output goes to stdout as `pod/container | line`, the namespace before it where that is not \
`default`, and so does one line for each port of a pod or Service that can be reached, beginning with its \
URL. Progress goes to stderr.

Exit codes: 0 when every container ended with 0 or the run was ended by a signal; the code of the first \
container that failed for good (134 after a trap, 137 killed or out of memory, 128 when it could not start; \
a sidecar counts only where no other failed); 125 when Coracle itself refuses, or when its output could not \
be written; 130 after a second signal; 2 for wrong usage.")]
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

    /// Serve the Kubernetes API to other processes while the pods run; port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS:PORT")]
    api: Option<SocketAddr>,

    /// Where Services are reached on this machine, and under `host` pods too
    #[arg(long, value_enum, default_value = "loopback")]
    plan: Plan,

    #[command(flatten)]
    ranges: RangeArgs,

    /// Write how to reach the API to this file, for kubectl; other entries in it stay
    #[arg(long, value_name = "FILE", requires = "api")]
    write_kubeconfig: Option<PathBuf>,
}

/// Returns how lines name a pod: by its namespace too, where that is not `default`.
fn shown_name(namespace: &str, name: &str) -> String {
    match namespace {
        "" | "default" => name.to_owned(),
        namespace => format!("{namespace}/{name}"),
    }
}

/// Parses `3`, `3s`, `500ms` or `1m30s`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
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
    let ranges = args.ranges.ranges(Vec::new())?;
    let objects = manifest::read(&args.sources)?;
    let console = Console::new();
    let images = system::open_images(data_dir)?;
    let plan = preflight::check(objects, &images)?;
    for line in &plan.notices {
        console.progress(line);
    }
    let run_dir = RunDir::create(data_dir)?;
    let runtime = system::agent_threads()?;
    let (sender, lines) = mpsc::channel(output::LINES_MAX);
    let settings = system::Settings {
        data_dir: data_dir.to_owned(),
        agent_dir: run_dir.path().to_owned(),
        state: system::State::Memory,
        identity: Arc::new(Identity::in_memory(jiff::Timestamp::now())?),
        listen: args.api,
        ranges,
        services: ServiceSettings {
            plan: Some(args.plan),
            node_ports: Vec::new(),
            cluster_cidrs: Vec::new(),
            dns: None,
            healthz: None,
            metrics: None,
        },
        link_local: match args.allow_link_local {
            true => coracle_network::LinkLocal::Open,
            false => coracle_network::LinkLocal::Closed,
        },
        images,
        output: Some(sender),
        console,
    };
    let session = Session {
        stop_timeout: args.stop_timeout,
        kubeconfig: args.write_kubeconfig,
        lines,
    };
    let outcome = runtime.block_on(session.hold(settings, plan));
    // A blocking file operation of a guest that was ended may still be under way; it is abandoned.
    runtime.shutdown_timeout(Duration::from_millis(200));
    outcome
}

/// How one run is followed and ended.
struct Session {
    stop_timeout: Duration,
    kubeconfig: Option<PathBuf>,
    lines: mpsc::Receiver<coracle_kubelet_shim::OutputLine>,
}

impl Session {
    /// Starts the parts, applies the objects, follows the pods and ends everything in order.
    async fn hold(self, settings: system::Settings, plan: preflight::Plan) -> anyhow::Result<Exit> {
        let mut signals = Signals::install()?;
        let console = settings.console.clone();
        let system = system::System::build(settings).await?;
        if let Some(access) = system.access()? {
            console.progress(&format!("the API listens on {}", access.url()));
            if let Some(file) = &self.kubeconfig {
                access.write(file)?;
                console.progress(&crate::kubeconfig::next_step(file));
            }
        }
        let writer = output::start(console.clone(), self.lines)?;
        // Nothing runs before the agent starts, so a refused object means that nothing has started.
        system.apply(&plan.objects).await?;
        let running = system.start().await?;

        let follower = follow::Follower::new(running.client(), running.places(), console.clone());
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
        running.stop(self.stop_timeout).await;
        writer.finish();
        Ok(console.outcome(verdict.into_exit()?))
    }
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
