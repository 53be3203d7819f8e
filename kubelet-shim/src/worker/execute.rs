//! Steps into work, and its results into facts. Decides nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_runtime::WorkloadKind;
use futures::future::abortable;

use super::Worker;
use crate::environment::{self, Facts, Sources};
use crate::events::Severity::{self, Normal, Warning};
use crate::ground::{self, GroundKit};
use crate::hooks::{HookDone, HookError};
use crate::images::{Fetched, Origin, PullKeys, describe};
use crate::launch::{self, Alive, Launch, LaunchFailure};
use crate::lifecycle::{
    Ask, Launched, Life, Outcome, Outlook, PreStop, Problem, Step, StopReason, Termination,
};
use crate::logs::{ContainerLog, remove_attempt};
use crate::objects;
use crate::spec::{ContainerPlan, PodKey, RestartPolicy, Role, Transport};
use crate::status::{PublishedUrl, Refused, Written};

/// Ends of a container whose logs are kept: the present one and the one before, for `logs --previous`.
const LOGS_KEPT: u32 = 2;

/// What became of something under way. Nothing inside means that it was abandoned.
pub(crate) enum Report {
    Laid(Box<Result<GroundKit, Problem>>),
    Cleared,
    Fetched(usize, Option<Result<Fetched, Problem>>),
    Started(usize, Option<Result<Alive, LaunchFailure>>),
    Exited(usize, Termination),
    PostStarted(usize, u32, Option<Result<HookDone, HookError>>),
    PreStopped(usize, u32, Option<Result<HookDone, HookError>>),
    Written(Written),
    Removed(bool),
}

impl Worker {
    pub(super) fn execute(&mut self, step: &Step) {
        match step {
            Step::BeginEnding(ending) => {
                tracing::info!(pod = %self.spec.key, ?ending, "pod ends");
            }
            Step::Cancel(index) => {
                if let Some(abort) = &self.holds[*index].abort {
                    abort.abort();
                }
            }
            Step::Stop(index, ask) => self.stop(*index, ask),
            Step::Signal(index) => {
                self.abandon_hook(*index);
                if let Some(instance) = &self.holds[*index].instance {
                    instance.stop();
                }
            }
            Step::Kill(index) => {
                if let Some(instance) = &self.holds[*index].instance {
                    instance.kill();
                }
            }
            Step::SetUp => {
                let (node, spec) = (self.node.clone(), self.spec.clone());
                let keys = self.pull_keys();
                let account = node
                    .runtime
                    .pod(spec.limits(|index| spec.containers[index].resources));
                self.under_way.push(Box::pin(async move {
                    let laid = ground::lay(&node.site, &node.images, &keys, &spec, account);
                    Report::Laid(Box::new(laid.await))
                }));
            }
            Step::TearDown => self.tear_down(),
            Step::Fetch(index) => self.fetch(*index),
            Step::Start(index) => self.start(*index),
            Step::Resize(index) => self.resize(*index),
            Step::ShowPullBackOff(index) => self.show_pull_back_off(*index),
            Step::StartOver => {
                tracing::info!(pod = %self.spec.key, "all containers start again");
            }
            Step::HoldBack(index, _, _) => {
                let message = format!(
                    "Back-off restarting failed container {} in pod {}",
                    self.spec.containers[*index].name, self.spec.key
                );
                self.tell(*index, Warning, "BackOff", message);
            }
        }
    }

    pub(super) fn tell(
        &self,
        index: usize,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let field_path = self.spec.containers[index].field_path();
        self.events
            .emit(severity, reason, message, Some(field_path));
    }

    fn stop(&mut self, index: usize, ask: &Ask) {
        let container = &self.spec.containers[index];
        let name = &container.name;
        tracing::debug!(pod = %self.spec.key, container = %name, ?ask, "container is brought to its end");
        let message = killing(&ask.reason, container, self.spec.restart_policy);
        self.tell(index, Normal, "Killing", message);
        self.abandon_hook(index);
        match ask.pre_stop {
            PreStop::Run => self.take_leave(index),
            PreStop::Skip => {}
        }
    }

    fn tear_down(&mut self) {
        if let Some(kit) = self.kit.take() {
            kit.network.detach();
        }
        // Whoever waits for what the pod had is told when it has come back.
        self.excess = None;
        let (node, spec) = (self.node.clone(), self.spec.clone());
        self.under_way.push(Box::pin(async move {
            ground::clear(&node.site, &spec).await;
            Report::Cleared
        }));
    }

    fn pull_keys(&self) -> PullKeys {
        PullKeys {
            client: self.node.site.client.clone(),
            pod: self.spec.clone(),
            events: self.events.clone(),
        }
    }

    fn fetch(&mut self, index: usize) {
        let (images, spec) = (self.node.images.clone(), self.spec.clone());
        let (events, keys) = (self.events.clone(), self.pull_keys());
        let (work, abort) = abortable(async move {
            let container = &spec.containers[index];
            let pulling = || {
                let message = format!("Pulling image \"{}\"", container.image);
                events.emit(Normal, "Pulling", message, Some(container.field_path()));
            };
            let (image, policy) = (&container.image, container.pull_policy);
            images.fetch(image, policy, &keys, pulling).await
        });
        self.holds[index].abort = Some(abort);
        self.under_way.push(Box::pin(
            async move { Report::Fetched(index, work.await.ok()) },
        ));
    }

    fn start(&mut self, index: usize) {
        let (Some(kit), Some(image)) = (self.kit.clone(), self.holds[index].image.clone()) else {
            // Invariant: a plan starts only what was fetched, on laid ground.
            tracing::error!(pod = %self.spec.key, index, "broken promise: start without image or ground");
            self.under_way
                .push(Box::pin(async move { Report::Started(index, None) }));
            return;
        };
        self.bound_pod();
        let attempt = self.facts.containers[index].attempts;
        let container = &self.spec.containers[index];
        if let Some(old) = attempt.checked_sub(LOGS_KEPT) {
            remove_attempt(&self.log_path(container, old));
        }
        let layers = ground::layer_dir(&self.node.site.data_dir, &self.spec);
        let log = ContainerLog::new(
            self.log_path(container, attempt),
            self.spec.key.clone(),
            container.name.clone(),
            self.node.clock.clone(),
            self.node.output.clone(),
        );
        let book = &self.node.logs;
        book.attach(&self.spec.key, &container.name, attempt, log.feed());
        let launch = Launch {
            runtime: self.node.runtime.clone(),
            tools: self.node.tools.clone(),
            pod: self.spec.clone(),
            index,
            image,
            network: kit.network.clone(),
            account: kit.account.clone(),
            layer: layers.join(&*container.name).join(attempt.to_string()),
            facts: Facts {
                pod_ip: kit.network.ip().into(),
                pod_ip6: kit.network.ip6(),
                host_ips: self.node.host_ips,
                amounts: self.node.site.amounts,
            },
            log,
        };
        let (client, spec) = (self.node.site.client.clone(), self.spec.clone());
        let services = self.node.site.objects.services().clone();
        let (work, abort) = abortable(async move {
            let container = &spec.containers[index];
            let wanted = environment::wanted_objects(container);
            let objects = objects::fetch(&client, &spec.key.namespace, wanted).await;
            let objects = objects.map_err(|error| config_failure(describe(&error)))?;
            let sources = Sources {
                objects,
                services: services
                    .variables(&spec.key.namespace, spec.service_links)
                    .await,
                files: kit.read(environment::wanted_files(container)).await,
                hostname: kit.identity.hostname.clone(),
            };
            let mounts = |variables: &[(String, String)]| {
                kit.mounts(container, variables)
                    .map_err(|error| config_problem(error.to_string()))
            };
            launch.run(sources, mounts).await
        });
        self.holds[index].abort = Some(abort);
        self.under_way.push(Box::pin(
            async move { Report::Started(index, work.await.ok()) },
        ));
    }

    fn log_path(&self, container: &ContainerPlan, attempt: u32) -> PathBuf {
        let data_dir = &self.node.site.data_dir;
        log_path(data_dir, &self.spec.key, &container.name, attempt)
    }

    fn show_pull_back_off(&mut self, index: usize) {
        let is_pull = matches!(
            &self.facts.containers[index].life,
            Life::FetchFailed { problem, .. } if problem.reason == "ErrImagePull"
        );
        if is_pull {
            let image = self.image_of(index);
            self.tell(
                index,
                Normal,
                "BackOff",
                format!("Back-off pulling image \"{image}\""),
            );
            self.tell(
                index,
                Warning,
                "Failed",
                "Error: ImagePullBackOff".to_owned(),
            );
        }
    }

    /// Takes a result in: keeps what is to be held, tells of it, and notes the outcome.
    pub(super) fn take(&mut self, report: Report) {
        let outcome = match report {
            Report::Laid(result) => Outcome::SetUp(self.laid(*result)),
            Report::Cleared => {
                // No container is left, so no probe counts any more.
                self.node.prober.metrics().forget(&self.spec.key.uid);
                self.node.folders.forget(&self.spec.key.uid);
                Outcome::TornDown
            }
            Report::Fetched(index, None) | Report::Started(index, None) => {
                self.holds[index].abort = None;
                Outcome::Cancelled(index)
            }
            Report::Fetched(index, Some(result)) => {
                self.holds[index].abort = None;
                self.fetched(index, result)
            }
            Report::Started(index, Some(result)) => {
                self.holds[index].abort = None;
                Outcome::Started(index, self.started(index, result))
            }
            Report::Exited(index, end) => {
                self.abandon_hook(index);
                self.holds[index].instance = None;
                self.holds[index].exec = None;
                self.node.execs.sweep(&self.spec.key);
                Outcome::Exited(index, end)
            }
            // Whoever abandoned a hook knows.
            Report::PostStarted(_, _, None) | Report::PreStopped(_, _, None) => return,
            Report::PostStarted(index, attempt, Some(result)) => {
                if attempt != self.facts.containers[index].attempts {
                    return;
                }
                self.post_started(index, result)
            }
            Report::PreStopped(index, attempt, Some(result)) => {
                if attempt != self.facts.containers[index].attempts {
                    return;
                }
                self.pre_stopped(index, result)
            }
            Report::Written(outcome) => return self.written(&outcome),
            Report::Removed(is_gone) => return self.removed(is_gone),
        };
        let now = self.node.clock.now();
        self.facts.settle(&self.spec, outcome, now);
    }

    fn laid(&mut self, result: Result<GroundKit, Problem>) -> Result<(), Problem> {
        match result {
            Ok(kit) => {
                // It may have changed while the volumes were made.
                kit.files.describe(&self.spec);
                for trimmed in &kit.identity.trimmed {
                    self.events.emit(Warning, "DNSConfigForming", trimmed, None);
                }
                self.excess = Some(kit.memory.excess());
                self.node.evictor.watch(&kit.memory);
                if let Some(storage) = &kit.storage {
                    self.node.storage.watch(storage);
                }
                self.node.folders.note(kit.folders(&self.spec));
                self.node.metrics.pod_stands();
                let ips = [
                    Some(kit.network.ip().into()),
                    kit.network.ip6().map(IpAddr::from),
                ];
                self.pod_ips = ips.into_iter().flatten().collect();
                self.kit = Some(kit.into());
                self.bound_pod();
                Ok(())
            }
            Err(problem) => {
                let event = match ground::is_image_problem(&problem) {
                    true => "Failed",
                    false => problem.reason,
                };
                self.events.emit(Warning, event, &*problem.message, None);
                Err(problem)
            }
        }
    }

    fn fetched(&mut self, index: usize, result: Result<Fetched, Problem>) -> Outcome {
        let image = self.image_of(index);
        match result {
            Ok(Fetched {
                image: shared,
                origin,
            }) => {
                let message = match origin {
                    Origin::Present => {
                        format!("Container image \"{image}\" already present on machine")
                    }
                    Origin::Pulled { took, waited } => format!(
                        "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: \
                         {} bytes.",
                        seconds(took),
                        seconds(waited),
                        shared.size()
                    ),
                };
                self.tell(index, Normal, "Pulled", message);
                let id = shared.id().into();
                self.holds[index].image = Some(shared);
                Outcome::Fetched(index, Ok(id))
            }
            Err(problem) => {
                let event = match problem.reason {
                    "ErrImageNeverPull" => "ErrImageNeverPull",
                    "InvalidImageName" | "ImageInspectError" => "InspectFailed",
                    _ => "Failed",
                };
                let message = match problem.reason {
                    "ErrImagePull" => {
                        format!("Failed to pull image \"{image}\": {}", problem.message)
                    }
                    _ => problem.message.to_string(),
                };
                self.tell(index, Warning, event, message);
                self.tell(
                    index,
                    Warning,
                    "Failed",
                    format!("Error: {}", problem.reason),
                );
                Outcome::Fetched(index, Err(problem))
            }
        }
    }

    /// The image a container is being made from; the plan may have another by now.
    fn image_of(&self, index: usize) -> Arc<str> {
        let fetched = self.facts.containers[index].image.clone();
        fetched.unwrap_or_else(|| self.spec.containers[index].image.as_str().into())
    }

    fn started(&mut self, index: usize, result: Result<Alive, LaunchFailure>) -> Launched {
        match result {
            Ok(Alive {
                instance,
                files,
                log,
                kind,
                exec,
            }) => {
                self.tell(index, Normal, "Created", "Container created".to_owned());
                self.tell(index, Normal, "Started", "Container started".to_owned());
                let role = self.spec.containers[index].role;
                self.node.metrics.container_starts(role);
                let container = self.spec.containers[index].clone();
                let kit = self.kit.as_ref();
                if let Some(storage) = kit.and_then(|kit| kit.storage.as_ref()) {
                    storage.note(&container.name, &files);
                }
                let user = Arc::new(files.user().clone());
                let end = launch::ended(instance.clone(), files, log, container);
                self.under_way
                    .push(Box::pin(async move { Report::Exited(index, end.await) }));
                let hold = &mut self.holds[index];
                hold.instance = Some(instance);
                hold.kind = Some(kind);
                let name = &self.spec.containers[index].name;
                self.node.execs.note(&self.spec.key, name, &exec);
                hold.exec = Some(exec);
                self.greet(index);
                Launched::Alive(self.node.clock.now().wall(), user)
            }
            Err(LaunchFailure::Dead(end)) => {
                self.count_failure(index, end.reason);
                let message = end.message.as_deref().unwrap_or_default();
                self.tell(index, Warning, "Failed", format!("Error: {message}"));
                Launched::Dead(end)
            }
            Err(LaunchFailure::Refused(problem)) => {
                self.count_failure(index, problem.reason);
                self.tell(
                    index,
                    Warning,
                    "Failed",
                    format!("Error: {}", problem.message),
                );
                Launched::Refused(problem)
            }
        }
    }

    fn count_failure(&self, index: usize, reason: &'static str) {
        let role = self.spec.containers[index].role;
        self.node.metrics.container_fails(role, reason);
    }

    /// The published ports whose containers have run, with a URL a person can use.
    pub(super) fn published(&self) -> Vec<PublishedUrl> {
        let Some(kit) = &self.kit else {
            return Vec::new();
        };
        let known = kit.published.iter().filter_map(|published| {
            let kind = self.holds[published.container].kind?;
            let container = &self.spec.containers[published.container];
            let port = &published.port;
            let is_handler = kind == WorkloadKind::Handler && port.port == container.handler_port();
            let scheme = match port.protocol {
                Transport::Tcp if is_handler => "http",
                Transport::Tcp => "tcp",
                Transport::Udp => "udp",
            };
            Some(PublishedUrl {
                container: container.name.clone(),
                name: port.name.clone(),
                port: port.port,
                url: format!("{scheme}://{}", dialable(published.handle.address)),
            })
        });
        known.collect()
    }

    /// The containers that can never run here as they are.
    pub(super) fn refused(&self) -> Vec<Refused> {
        let pairs = self.spec.containers.iter().zip(&self.facts.containers);
        let refused = pairs.filter_map(|(container, facts)| {
            let problem = match &facts.life {
                Life::FetchFailed { problem, .. } | Life::StartFailed { problem, .. } => problem,
                // It stays refused until another attempt says otherwise.
                Life::Fetching => {
                    let retried = facts.retried.as_ref().map(|failed| &failed.problem);
                    retried.or(self.facts.rejected.as_ref())?
                }
                Life::Waiting
                | Life::Ready
                | Life::Starting
                | Life::Cancelling
                | Life::Greeting { .. }
                | Life::Running { .. }
                | Life::Stopping { .. }
                | Life::Ended { .. }
                | Life::CrashLoop { .. } => self.facts.rejected.as_ref()?,
            };
            (problem.outlook == Outlook::Refused).then(|| Refused {
                container: container.name.clone(),
                message: problem.message.to_string(),
            })
        });
        refused.collect()
    }
}

/// Where the logs of a pod are.
pub(crate) fn log_dir(data_dir: &std::path::Path, key: &PodKey) -> PathBuf {
    let name = format!("{}_{}_{}", key.namespace, key.name, key.uid);
    data_dir.join("pods").join(name)
}

/// Where the log of one instance is.
pub(crate) fn log_path(
    data_dir: &std::path::Path,
    key: &PodKey,
    container: &str,
    attempt: u32,
) -> PathBuf {
    let dir = log_dir(data_dir, key).join(container);
    dir.join(format!("{attempt}.log"))
}

/// The text of the `Killing` event.
fn killing(reason: &StopReason, container: &ContainerPlan, pod: RestartPolicy) -> String {
    let name = &container.name;
    match reason {
        StopReason::PodEnds | StopReason::WorkDone => format!("Stopping container {name}"),
        StopReason::StartsOver => {
            format!("Container {name} will be restarted with all containers of its pod")
        }
        StopReason::PostStartFailed(_) => "FailedPostStartHook".to_owned(),
        StopReason::Redefined => match container.role {
            Role::App | Role::Ephemeral => {
                format!("Container {name} definition changed, will be restarted")
            }
            Role::Init | Role::Sidecar => format!("Init container {name} definition changed"),
        },
        StopReason::Resized => format!("Container {name} resize requires restart"),
        StopReason::Unhealthy(kind) => {
            let kind = kind.lower();
            let text = format!("Container {name} failed {kind} probe");
            let is_final = container.role != Role::Sidecar
                && container.restarts.policy.unwrap_or(pod) == RestartPolicy::Never;
            if is_final {
                text
            } else {
                format!("{text}, will be restarted")
            }
        }
    }
}

fn config_problem(message: String) -> Problem {
    Problem {
        reason: "CreateContainerConfigError",
        message: message.into(),
        outlook: Outlook::MayMend,
    }
}

fn config_failure(message: String) -> LaunchFailure {
    LaunchFailure::Refused(config_problem(message))
}

/// Milliseconds as Go writes a duration: `850ms`, `1.2s`.
fn seconds(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        format!("{millis}ms")
    } else {
        format!("{:.3}s", duration.as_secs_f64())
    }
}

/// Returns the address that a person on this machine dials for one that is bound.
fn dialable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}
