//! More programs in a container that runs: what `kubectl exec`, exec probes and hooks start.
//!
//! A container's [`ExecTarget`] is made with its instance and held by the pod's worker; the kubelet API
//! finds it in the [`ExecBook`]. A program runs as a new instance in the container's files and network,
//! on its account, with its environment; it is ended by force when nobody waits for it any more, or when
//! the container has ended.

mod collect;
mod console;
mod lookup;
mod pipe;
mod terminal;
mod toolbox;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use coracle_runtime::fs::FileSystem;
use coracle_runtime::{
    ExecSpec, Exit, Input, Instance, Output, PrepareError, Runtime, StartError, Terminal,
};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) use console::{Attached, Console};
pub(crate) use pipe::Pipe;
pub(crate) use terminal::{CTRL_BACKSLASH, LineEditor, Typed, to_screen};
pub use toolbox::Toolbox;
pub(crate) use toolbox::Tools;

use crate::images::{SharedImage, blocking};
use crate::spec::PodKey;
use collect::Collected;
use lookup::{Found, Lookup};

/// Programs started in one container at once; probes and hooks are among them.
const PROGRAMS_MAX: usize = 32;

/// What is needed to run one more program in a running container: same file system, environment,
/// network, account.
pub(crate) struct ExecTarget {
    pub(crate) runtime: Runtime,
    pub(crate) instance: Instance,
    pub(crate) image: Arc<SharedImage>,
    pub(crate) files: Arc<FileSystem>,
    pub(crate) env: Arc<[(String, String)]>,
    pub(crate) working_dir: String,
    pub(crate) tools: Arc<Tools>,
    /// The streams of the container's own program.
    pub(crate) console: Arc<Console>,
    pub(crate) plan: Arc<Planned>,
    places: Arc<Semaphore>,
}

/// How a program ended, and what it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExecOutput {
    /// Its exit code.
    pub(crate) code: i32,
    /// Standard output and standard error in the order in which they were written.
    pub(crate) output: Vec<u8>,
}

/// Where a program's streams lead.
pub(crate) struct ExecStreams {
    /// Nothing is an input at its end.
    pub(crate) stdin: Option<Arc<dyn Input>>,
    pub(crate) stdout: Arc<dyn Output>,
    pub(crate) stderr: Arc<dyn Output>,
    pub(crate) terminal: Terminal,
    /// Variables beside the container's, which they replace.
    pub(crate) env: Vec<(String, String)>,
}

/// Who does the work of a terminal that no WASI interface asks for: echo, lines, keys with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discipline {
    /// We do; the program reads lines.
    Ours,
    /// The program does, as the toolbox; keys and output pass through, and `^\` ends one that does not
    /// read its keys.
    Theirs,
}

/// A program that was found and can be started.
pub(crate) struct Located {
    name: String,
    found: Found,
}

/// A program at work; dropping this ends it by force.
pub(crate) struct Running {
    instance: Instance,
    _place: OwnedSemaphorePermit,
}

/// Why a program did not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    /// No program is named.
    #[error("no command is given")]
    NoCommand,
    /// A bare name that nothing on the path has.
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotFound(String),
    /// A path that leads nowhere.
    #[error("exec: {0:?}: stat {0}: no such file or directory")]
    NoFile(String),
    /// A file that is neither WebAssembly nor a script for a program that is here.
    #[error("exec: {0:?}: exec format error")]
    NotRunnable(String),
    /// The container has as many programs as it may.
    #[error("more than {PROGRAMS_MAX} programs run in the container at once")]
    TooMany,
    /// The program is no command or does not compile.
    #[error("exec: {name:?}")]
    Prepare {
        /// The program.
        name: String,
        /// What is wrong with it.
        #[source]
        source: PrepareError,
    },
    /// The container has ended, or the program has no entry point.
    #[error("exec: {name:?}")]
    Start {
        /// The program.
        name: String,
        /// What is missing.
        #[source]
        source: StartError,
    },
}

impl ExecError {
    /// The exit code that stands for the failure, as a shell has it: 127 for what is not there, 126 for
    /// what cannot run.
    pub(crate) fn code(&self) -> i32 {
        match self {
            ExecError::NoCommand | ExecError::NotFound(_) | ExecError::NoFile(_) => 127,
            ExecError::NotRunnable(_)
            | ExecError::TooMany
            | ExecError::Prepare { .. }
            | ExecError::Start { .. } => 126,
        }
    }
}

/// What was planned for a container, for those who measure it.
#[derive(Debug)]
pub(crate) struct Planned {
    /// The image as written.
    pub(crate) image: Arc<str>,
    pub(crate) cpu_limit_milli: Option<u64>,
    pub(crate) memory_limit: Option<u64>,
    /// Of ephemeral storage.
    pub(crate) storage_limit: Option<u64>,
}

/// What a container runs with, for the programs that come later.
pub(crate) struct ExecGround {
    pub(crate) image: Arc<SharedImage>,
    pub(crate) files: Arc<FileSystem>,
    pub(crate) env: Arc<[(String, String)]>,
    pub(crate) working_dir: String,
    pub(crate) tools: Arc<Tools>,
    pub(crate) console: Arc<Console>,
    pub(crate) plan: Arc<Planned>,
}

impl ExecTarget {
    pub(crate) fn new(runtime: Runtime, instance: Instance, ground: ExecGround) -> ExecTarget {
        ExecTarget {
            runtime,
            instance,
            image: ground.image,
            files: ground.files,
            env: ground.env,
            working_dir: ground.working_dir,
            tools: ground.tools,
            console: ground.console,
            plan: ground.plan,
            places: Arc::new(Semaphore::new(PROGRAMS_MAX)),
        }
    }

    /// Runs argv to its end; stdout and stderr together, cut at `output_max` bytes. Dropping the future
    /// kills the instance.
    ///
    /// # Errors
    ///
    /// Fails when nothing was run: [`ExecError`] says why, and its code what a shell would have said.
    pub(crate) async fn run(
        &self,
        argv: &[String],
        output_max: usize,
    ) -> Result<ExecOutput, ExecError> {
        let collected = Arc::new(Collected::new(output_max));
        let streams = ExecStreams {
            stdin: None,
            stdout: collected.clone(),
            stderr: collected.clone(),
            terminal: Terminal::Absent,
            env: Vec::new(),
        };
        let located = self.locate(argv).await?;
        let exit = self.start(located, streams).await?.ended().await;
        Ok(ExecOutput {
            code: exit.code,
            output: collected.take(),
        })
    }

    /// Finds what argv names.
    ///
    /// # Errors
    ///
    /// Fails when nothing that can run has the name.
    pub(crate) async fn locate(&self, argv: &[String]) -> Result<Located, ExecError> {
        let name = argv.first().ok_or(ExecError::NoCommand)?.clone();
        let path = self.env.iter().find(|(name, _)| name == "PATH");
        let lookup = Lookup {
            image: self.image.clone(),
            files: self.files.clone(),
            working_dir: self.working_dir.clone(),
            path: path.map(|(_, value)| value.clone()),
            tools: self.tools.clone(),
        };
        let argv = argv.to_vec();
        // A volume of the machine may make a look-up wait for its disk.
        let found = blocking(move || lookup.find(argv)).await?;
        Ok(Located { name, found })
    }

    /// Starts a program with streams of the caller's. One that was never compiled here is compiled
    /// first; a caller who gives up meanwhile leaves that going, so that the next finds it done.
    ///
    /// # Errors
    ///
    /// Fails as [`ExecTarget::run`] does.
    pub(crate) async fn start(
        &self,
        located: Located,
        streams: ExecStreams,
    ) -> Result<Running, ExecError> {
        let Located { name, found } = located;
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| ExecError::TooMany)?;
        let program = match found.code {
            Some(code) => {
                let runtime = self.runtime.clone();
                toolbox::detached(async move { runtime.prepare(code).await }).await
            }
            None => self.tools.program(&self.runtime).await,
        };
        let failed = |source| ExecError::Prepare {
            name: name.clone(),
            source,
        };
        let spec = ExecSpec {
            program: program.map_err(failed)?,
            args: found.args,
            env: self.env_with(streams.env),
            working_dir: self.working_dir.clone(),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            terminal: streams.terminal,
        };
        let started = self.runtime.exec(&self.instance, spec);
        let instance = started.map_err(|source| ExecError::Start { name, source })?;
        Ok(Running {
            instance,
            _place: place,
        })
    }

    fn env_with(&self, own: Vec<(String, String)>) -> Arc<[(String, String)]> {
        if own.is_empty() {
            return self.env.clone();
        }
        let kept = self.env.iter();
        let kept = kept.filter(|(name, _)| !own.iter().any(|(one, _)| one == name));
        kept.cloned().chain(own.iter().cloned()).collect()
    }
}

impl Located {
    /// Who does a terminal's work for it.
    pub(crate) fn discipline(&self) -> Discipline {
        match self.found.code {
            Some(_) => Discipline::Ours,
            None => Discipline::Theirs,
        }
    }
}

impl Running {
    /// Waits for the end. Cancelling the wait changes nothing; dropping the program does.
    pub(crate) async fn ended(&self) -> Exit {
        self.instance.exited().await
    }

    /// Ends the program as a person at a terminal does: 130.
    pub(crate) fn interrupt(&self) {
        self.instance.interrupt();
    }

    /// Ends the program as a person does who insists: 131.
    pub(crate) fn quit(&self) {
        self.instance.quit();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.instance.kill();
    }
}

/// Where programs can be started now: the running containers of this node.
#[derive(Default)]
pub(crate) struct ExecBook(Mutex<Entries>);

impl std::fmt::Debug for ExecBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ExecBook").finish_non_exhaustive()
    }
}

/// A container that runs.
pub(crate) struct Occupant {
    pub(crate) key: PodKey,
    pub(crate) container: Arc<str>,
    pub(crate) instance: Instance,
    pub(crate) plan: Arc<Planned>,
}

/// By namespace and pod.
type Entries = HashMap<(Arc<str>, Arc<str>), Vec<Entry>>;

/// One container. Its target belongs to the pod's worker and ends with the container.
struct Entry {
    uid: Arc<str>,
    container: Arc<str>,
    target: Weak<ExecTarget>,
}

impl Entry {
    /// The container of the pod with that namespace and name.
    fn occupant(&self, (namespace, name): &(Arc<str>, Arc<str>)) -> Option<Occupant> {
        let target = self.target.upgrade()?;
        Some(Occupant {
            key: PodKey {
                namespace: namespace.clone(),
                name: name.clone(),
                uid: self.uid.clone(),
            },
            container: self.container.clone(),
            instance: target.instance.clone(),
            plan: target.plan.clone(),
        })
    }

    /// The target, unless its container has ended; a session may keep it for longer.
    fn alive(&self) -> Option<Arc<ExecTarget>> {
        let target = self.target.upgrade()?;
        target.instance.exit().is_none().then_some(target)
    }
}

impl ExecBook {
    /// Notes a container that has started, in the place of its earlier instance.
    pub(crate) fn note(&self, key: &PodKey, container: &Arc<str>, target: &Arc<ExecTarget>) {
        let mut entries = self.0.lock();
        let pod = entries
            .entry((key.namespace.clone(), key.name.clone()))
            .or_default();
        pod.retain(|entry| entry.alive().is_some());
        pod.push(Entry {
            uid: key.uid.clone(),
            container: container.clone(),
            target: Arc::downgrade(target),
        });
    }

    /// Forgets the containers of a pod that have ended.
    pub(crate) fn sweep(&self, key: &PodKey) {
        let name = (key.namespace.clone(), key.name.clone());
        let mut entries = self.0.lock();
        if let Some(pod) = entries.get_mut(&name) {
            pod.retain(|entry| entry.alive().is_some());
            if pod.is_empty() {
                entries.remove(&name);
            }
        }
    }

    /// Returns the containers that run now.
    pub(crate) fn occupants(&self) -> Vec<Occupant> {
        let entries = self.0.lock();
        let all = entries.iter();
        all.flat_map(|(name, pod)| pod.iter().filter_map(|entry| entry.occupant(name)))
            .collect()
    }

    /// Returns the containers of a pod that run now.
    pub(crate) fn occupants_of(&self, key: &PodKey) -> Vec<Occupant> {
        let name = (key.namespace.clone(), key.name.clone());
        let entries = self.0.lock();
        let pod = entries.get(&name).into_iter().flatten();
        let own = pod.filter(|entry| entry.uid == key.uid);
        own.filter_map(|entry| entry.occupant(&name)).collect()
    }

    /// Finds a running container; of a name that was used again, that of the newest pod unless `uid`
    /// says otherwise.
    pub(crate) fn find(
        &self,
        namespace: &str,
        pod: &str,
        uid: Option<&str>,
        container: &str,
    ) -> Option<Arc<ExecTarget>> {
        let entries = self.0.lock();
        let found = entries.get(&(namespace.into(), pod.into()))?;
        let mut found = found.iter().rev().filter(|entry| {
            *entry.container == *container && uid.is_none_or(|uid| *entry.uid == *uid)
        });
        found.find_map(Entry::alive)
    }
}
