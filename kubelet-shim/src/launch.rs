//! Makes one instance of a container: variables, command line, code, file system, streams.

use std::path::PathBuf;
use std::sync::Arc;

use coracle_network::PodNetwork;
use coracle_runtime::fs::{
    Access, FileSource, FileSystem, FileSystemSpec, MemoryVolume, Mount, MountSource, Upper, User,
};
use coracle_runtime::{
    ContainerId, Exit, ExitCause, HandlerOptions, Instance, Instances, Limits, PodAccount,
    PrepareError, Program, RunAs, Runtime, SandboxSpec, StartError, Terminal, WorkloadKind,
};
use jiff::Timestamp;

mod user;

use crate::environment::{self, Facts, Sources};
use crate::exec::{Console, Discipline, ExecGround, ExecTarget, Planned, Tools};
use crate::images::{SharedImage, blocking, describe};
use crate::lifecycle::{Outlook, Problem, Termination};
use crate::logs::{ContainerLog, StdStream};
use crate::spec::{ContainerPlan, InstanceReuse, LogFallback, PodSpecPlan, Resources, Role};

/// Bytes a container's writable layer may take at once, unless it may keep more: between two looks at its limit
/// it must not fill the disk.
const LAYER_BYTES_MAX: u64 = 10 << 30;

/// Longest termination message (contract B.10).
const MESSAGE_BYTES_MAX: usize = 4096;

/// A termination file larger than this is no message, and is not read.
const MESSAGE_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Everything one instance is made from.
pub(crate) struct Launch {
    pub(crate) runtime: Runtime,
    pub(crate) tools: Arc<Tools>,
    pub(crate) pod: Arc<PodSpecPlan>,
    pub(crate) index: usize,
    pub(crate) image: Arc<SharedImage>,
    pub(crate) network: PodNetwork,
    pub(crate) account: PodAccount,
    pub(crate) layer: PathBuf,
    pub(crate) facts: Facts,
    pub(crate) log: ContainerLog,
}

/// A living instance and what belongs to it.
pub(crate) struct Alive {
    pub(crate) instance: Instance,
    pub(crate) files: Arc<FileSystem>,
    pub(crate) log: ContainerLog,
    pub(crate) kind: WorkloadKind,
    pub(crate) exec: Arc<ExecTarget>,
}

/// Why no instance lives.
pub(crate) enum LaunchFailure {
    /// An instance was made and failed to start: it counts as an end.
    Dead(Termination),
    /// None was made; it is tried again.
    Refused(Problem),
}

impl Launch {
    /// Starts an instance. Cancel safe: an instance exists only when this returns.
    pub(crate) async fn run(
        self,
        sources: Sources,
        mounts: impl FnOnce(&[(String, String)]) -> Result<Vec<Mount>, Problem>,
    ) -> Result<Alive, LaunchFailure> {
        let container = &self.pod.containers[self.index];
        user::check(&self.pod, container, self.image.user()).map_err(config_problem)?;
        let defaults = &self.image.defaults;
        let variables =
            environment::variables(&self.pod, container, &defaults.env, &sources, self.facts)
                .map_err(|error| config_problem(describe(&error)))?;
        let line = environment::command_line(container, defaults, &variables);
        let mounts = mounts(&variables).map_err(LaunchFailure::Refused)?;
        let path = variables
            .iter()
            .find(|(name, _)| name == "PATH")
            .map(|(_, v)| v.as_str());
        let code = self.image.code(&line.args, &line.working_dir, path);
        let program = if self.asks_for_tool(container, &line.args, code.is_ok()) {
            self.tools.program(&self.runtime).await
        } else {
            let code = code.map_err(|error| LaunchFailure::Dead(start_error(describe(&error))))?;
            self.runtime.prepare(code).await
        };
        let program = program.map_err(prepare_failure)?;
        let user = user::find(&self.pod, self.index, &self.image).await;
        let user = user.map_err(unknown_user)?;
        let files = self.files(container, mounts, user).await?;
        let ground = ExecGround {
            image: self.image.clone(),
            files: files.clone(),
            env: variables.into(),
            working_dir: line.working_dir,
            tools: self.tools.clone(),
            console: Arc::new(self.console(container, &program)),
            plan: Arc::new(Planned {
                image: container.image.as_str().into(),
                cpu_limit_milli: container.resources.cpu_limit_milli,
                memory_limit: container.resources.memory_limit,
                storage_limit: container.resources.storage_limit,
            }),
        };
        let kind = if container.command.is_some() {
            WorkloadKind::Command
        } else {
            program.kind()
        };
        let spec = self.sandbox(program, kind, line.args, &ground);
        match self.runtime.start(spec) {
            Ok(instance) => Ok(Alive {
                exec: ExecTarget::new(self.runtime, instance.clone(), ground).into(),
                instance,
                files,
                log: self.log,
                kind,
            }),
            Err(error) => Err(start_failure(&error)),
        }
    }

    /// Whether who looks around asks for a program that the toolbox has and the image has not. An image that
    /// is one program has no other.
    fn asks_for_tool(&self, container: &ContainerPlan, args: &[String], is_found: bool) -> bool {
        let has_it = is_found && !self.image.is_one_program();
        container.role == Role::Ephemeral
            && container.command.is_some()
            && !has_it
            && args.first().is_some_and(|name| self.tools.has(name))
    }

    fn console(&self, container: &ContainerPlan, program: &Program) -> Console {
        let is_terminal = container.streams.terminal == Terminal::Present;
        let discipline = match is_terminal && self.tools.is(program) {
            true => Discipline::Theirs,
            false => Discipline::Ours,
        };
        Console::new(container.streams, discipline)
    }

    fn sandbox(
        &self,
        program: Program,
        kind: WorkloadKind,
        args: Vec<String>,
        ground: &ExecGround,
    ) -> SandboxSpec {
        let container = &self.pod.containers[self.index];
        let console = &ground.console;
        let along = |stream| console.along(stream, self.log.stream(stream));
        let stdout = along(StdStream::Stdout);
        let stderr = match container.streams.terminal {
            Terminal::Present => stdout.clone(),
            Terminal::Absent => along(StdStream::Stderr),
        };
        SandboxSpec {
            id: ContainerId {
                namespace: self.pod.key.namespace.to_string(),
                pod: self.pod.key.name.to_string(),
                container: container.name.to_string(),
            },
            program,
            run_as: match &container.command {
                Some(_) => RunAs::Command,
                None => RunAs::ByKind,
            },
            args,
            env: ground.env.clone(),
            working_dir: ground.working_dir.clone(),
            files: ground.files.clone(),
            network: self.network.clone(),
            pod: self.account.clone(),
            stdin: match kind {
                // Its instances come and go with requests; none of them is the one that was typed to.
                WorkloadKind::Handler => None,
                WorkloadKind::Command => console.stdin(),
            },
            stdout,
            stderr,
            terminal: container.streams.terminal,
            on_stop: container.on_stop,
            limits: limits(container.resources),
            handler: HandlerOptions {
                instances: match container.instances {
                    InstanceReuse::Fresh => Instances::Fresh,
                    InstanceReuse::Reuse => Instances::Reuse,
                },
                ..HandlerOptions::on_port(container.handler_port())
            },
        }
    }

    /// The file of the container's last words, which it may write whoever it runs as, and if its root is
    /// read-only too. Something of the pod's own at that path takes its place.
    fn message_file(&self, container: &ContainerPlan, mounts: &[Mount]) -> Option<Mount> {
        let path = &container.termination_message.path;
        let is_taken = |mount: &Mount| mount.path.trim_end_matches('/') == path;
        if !path.starts_with('/') || mounts.iter().any(is_taken) {
            return None;
        }
        let volume = MemoryVolume::with_file(self.account.clone(), MESSAGE_FILE_BYTES_MAX);
        Some(Mount {
            path: path.clone(),
            source: MountSource::Memory(volume),
            sub_path: Some(MemoryVolume::FILE.to_owned()),
            access: Access::ReadWrite,
            group: None,
        })
    }

    async fn files(
        &self,
        container: &ContainerPlan,
        mut mounts: Vec<Mount>,
        user: User,
    ) -> Result<Arc<FileSystem>, LaunchFailure> {
        let upper = if container.security.read_only_root {
            Upper::ReadOnly
        } else {
            Upper::Writable {
                dir: self.layer.clone(),
                limit: LAYER_BYTES_MAX.max(container.resources.storage_limit.unwrap_or(0)),
            }
        };
        mounts.extend(self.message_file(container, &mounts));
        let spec = FileSystemSpec {
            root: self.image.tree.clone(),
            upper,
            mounts,
            user,
        };
        // Only volumes of the machine touch its disk here; a container without any skips the thread.
        let made = if !spec.mounts.iter().any(Mount::may_block) {
            FileSystem::new(spec)
        } else {
            blocking(move || FileSystem::new(spec)).await
        };
        made.map_err(|error| {
            LaunchFailure::Refused(Problem {
                reason: "CreateContainerError",
                message: describe(&error).into(),
                outlook: Outlook::MayMend,
            })
        })
    }
}

/// The image names who it does not have: another image may.
fn unknown_user(message: String) -> LaunchFailure {
    LaunchFailure::Refused(Problem {
        reason: "CreateContainerError",
        message: message.into(),
        outlook: Outlook::MayMend,
    })
}

fn config_problem(message: String) -> LaunchFailure {
    LaunchFailure::Refused(Problem {
        reason: "CreateContainerConfigError",
        message: message.into(),
        outlook: Outlook::MayMend,
    })
}

/// Code that is refused never runs here; a compiler or a disk that failed may do better next time.
fn prepare_failure(error: PrepareError) -> LaunchFailure {
    let message = describe(&error);
    let outlook = match error {
        PrepareError::Refused { .. } => Outlook::Refused,
        PrepareError::Link { .. } | PrepareError::Compile { .. } | PrepareError::Digest(_) => {
            return LaunchFailure::Dead(start_error(message));
        }
        PrepareError::Read { .. } | PrepareError::Cache { .. } | PrepareError::Full { .. } => {
            Outlook::MayMend
        }
    };
    create_problem(message, outlook)
}

/// A machine that has no room for an instance has it when another one has ended, so the container waits.
fn start_failure(error: &StartError) -> LaunchFailure {
    let message = describe(error);
    match error {
        StartError::Full(_) => create_problem(message, Outlook::MayMend),
        StartError::NoCommand { .. }
        | StartError::Listen { .. }
        | StartError::Ended
        | StartError::ShuttingDown => LaunchFailure::Dead(start_error(message)),
    }
}

fn create_problem(message: String, outlook: Outlook) -> LaunchFailure {
    LaunchFailure::Refused(Problem {
        reason: "CreateContainerError",
        message: message.into(),
        outlook,
    })
}

/// What a container with these resources may use.
pub(crate) fn limits(resources: Resources) -> Limits {
    Limits {
        memory: resources.memory_limit,
        memory_request: resources.memory_request.unwrap_or(0),
        cpu_milli: resources.cpu_limit_milli,
        cpu_request_milli: resources.cpu_request_milli.unwrap_or(0),
    }
}

fn start_error(message: String) -> Termination {
    let now = Timestamp::now();
    Termination {
        code: ExitCause::FAILED_TO_START,
        reason: "StartError",
        message: Some(message),
        started_at: Some(now),
        finished_at: Some(now),
    }
}

/// Waits for the end and gathers the last words.
pub(crate) async fn ended(
    instance: Instance,
    files: Arc<FileSystem>,
    log: ContainerLog,
    container: ContainerPlan,
) -> Termination {
    let exit = instance.exited().await;
    let path = container.termination_message.path.clone();
    let written = blocking(move || last_words(&files, &path)).await;
    let fallback = container.termination_message.fallback;
    termination(exit, written, || match fallback {
        LogFallback::Never => None,
        LogFallback::OnError => Some(log.tail()).filter(|tail| !tail.is_empty()),
    })
}

fn last_words(files: &FileSystem, path: &str) -> Option<String> {
    // No file is the ordinary case, and an unreadable one says as little.
    let bytes = match files.open_extent(path).ok()? {
        FileSource::Bytes(bytes) => bytes,
        FileSource::Extent(extent) if extent.len <= MESSAGE_FILE_BYTES_MAX => {
            files.read_file(path).ok()?
        }
        FileSource::Extent(_) => return None,
    };
    let end = &bytes[bytes.len().saturating_sub(MESSAGE_BYTES_MAX)..];
    Some(String::from_utf8_lossy(end).into_owned()).filter(|text| !text.is_empty())
}

fn termination(
    exit: Exit,
    written: Option<String>,
    log_tail: impl FnOnce() -> Option<String>,
) -> Termination {
    let Exit {
        code,
        cause,
        started_at,
        finished_at,
    } = exit;
    let (reason, cause_message) = match cause {
        ExitCause::Exited | ExitCause::Stopped | ExitCause::Killed if code == 0 => {
            ("Completed", None)
        }
        ExitCause::Exited | ExitCause::Stopped | ExitCause::Killed => ("Error", None),
        ExitCause::Trapped { message } => ("Error", Some(message)),
        ExitCause::OutOfMemory => ("OOMKilled", None),
        ExitCause::FailedToStart { message } => ("StartError", Some(message)),
    };
    let message = written
        .or_else(|| if code == 0 { None } else { log_tail() })
        .or(cause_message)
        .map(|text| shortened(text, MESSAGE_BYTES_MAX));
    Termination {
        code,
        reason,
        message,
        started_at: Timestamp::try_from(started_at).ok(),
        finished_at: Timestamp::try_from(finished_at).ok(),
    }
}

/// Cuts a text at a character's border.
fn shortened(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let mut end = bytes_max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}
