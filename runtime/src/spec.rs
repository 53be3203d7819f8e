//! What a caller says about one container, and what it learns when the container has ended.

use crate::account::PodAccount;
use crate::fs::FileSystem;
use crate::program::Program;
use bytes::Bytes;
use coracle_network::PodNetwork;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

/// One container, completely described: code, identity, file system, network, streams, limits.
pub struct SandboxSpec {
    /// Who this is, for messages and accounts.
    pub id: ContainerId,
    /// The prepared code.
    pub program: Program,
    /// Which of the program's entry points to use.
    pub run_as: RunAs,
    /// The arguments, beginning with the name of the program.
    pub args: Vec<String>,
    /// The environment, in order; shared with later programs of the container.
    pub env: Arc<[(String, String)]>,
    /// The initial working directory, an absolute path inside the container.
    pub working_dir: String,
    /// The container's file system, shared with later `exec` instances.
    pub files: Arc<FileSystem>,
    /// The pod's network, shared by its containers.
    pub network: PodNetwork,
    /// Where standard input comes from; without any, it ends at once.
    pub stdin: Option<Arc<dyn Input>>,
    /// Where standard output goes.
    pub stdout: Arc<dyn Output>,
    /// Where standard error goes.
    pub stderr: Arc<dyn Output>,
    /// Whether the streams call themselves a terminal.
    pub terminal: Terminal,
    /// What a request to end means for a command that cannot be told.
    pub on_stop: OnStop,
    /// What its pod uses and may use.
    pub pod: PodAccount,
    /// What the container may use.
    pub limits: Limits,
    /// How requests are served; read only when the program runs as a handler.
    pub handler: HandlerOptions,
}

/// One more program in a running container. Its files, network and account are the container's.
pub struct ExecSpec {
    /// The prepared code, which must export `wasi:cli/run`.
    pub program: Program,
    /// The arguments, beginning with the name of the program.
    pub args: Vec<String>,
    /// The environment, in order; shared with later programs of the container.
    pub env: Arc<[(String, String)]>,
    /// The initial working directory, an absolute path inside the container.
    pub working_dir: String,
    /// Where standard input comes from; without any, it ends at once.
    pub stdin: Option<Arc<dyn Input>>,
    /// Where standard output goes.
    pub stdout: Arc<dyn Output>,
    /// Where standard error goes.
    pub stderr: Arc<dyn Output>,
    /// Whether the streams call themselves a terminal.
    pub terminal: Terminal,
}

/// What a request to end means for a command that does not import `coracle:lifecycle/termination`. One
/// that does is told, and ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStop {
    /// It ends at once.
    #[default]
    AtOnce,
    /// It goes on until it ends by itself or is ended by force: its standard input ends, and its
    /// listening sockets give no more connections, without an error.
    Grace,
}

/// Whether a guest's standard streams call themselves a terminal (`wasi:cli/terminal-*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Terminal {
    /// They are plain streams.
    #[default]
    Absent,
    /// They are a terminal.
    Present,
}

/// The identity of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerId {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Name of the container in its pod.
    pub container: String,
}

impl std::fmt::Display for ContainerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.pod, self.container)
    }
}

/// Which entry point of a program to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// The one that the program's kind says: a handler serves, a command runs.
    ByKind,
    /// `wasi:cli/run`, also in a program that exports a handler too.
    Command,
}

/// What a container may use. Absent limits mean the node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, over all instances of the container.
    pub memory: Option<u64>,
    /// Bytes of memory asked for, 0 without a request: when the node's memory is used up, the container
    /// furthest above this ends.
    pub memory_request: u64,
    /// Thousandths of a processor, enforced.
    pub cpu_milli: Option<u64>,
    /// Thousandths of a processor asked for: the weight among those who wait.
    pub cpu_request_milli: u64,
}

/// What a pod may use above its containers, and who ends first. Absent limits mean the node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodLimits {
    /// When the node's memory is used up, containers of the lowest class end first.
    pub class: QosClass,
    /// Bytes of memory, over all its containers and what its volumes hold in memory.
    pub memory: Option<u64>,
    /// Thousandths of a processor, over all its containers, enforced.
    pub cpu_milli: Option<u64>,
}

/// A pod's quality of service; the first ends first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum QosClass {
    /// It asked for nothing and is not limited.
    #[default]
    BestEffort,
    /// Everything between the two others.
    Burstable,
    /// It asked for exactly what it is limited to, of processor time and of memory.
    Guaranteed,
}

/// A memory limit was to be set below what is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{used} bytes are in use, and {limit} would be the limit")]
pub struct BelowUse {
    /// The limit that was wanted, in bytes.
    pub limit: u64,
    /// What is in use, in bytes.
    pub used: u64,
}

/// How a handler's requests are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerOptions {
    /// The pod's port to listen on.
    pub port: u16,
    /// Whether an instance may serve more than one request.
    pub instances: Instances,
    /// How many instances may be alive at once; further requests wait.
    pub instances_max: usize,
    /// How long a request may wait for an instance before it is answered 503.
    pub queue_deadline: Duration,
    /// How long a guest may take to begin its answer before the request ends with 504.
    pub request_deadline: Duration,
    /// How long new connections are still accepted after `stop`.
    pub drain_delay: Duration,
}

impl HandlerOptions {
    /// Enough for a busy service on a small node without letting one pod take the whole pool.
    const INSTANCES_MAX: usize = 128;
    /// A client that waited this long is better told to come back.
    const QUEUE_DEADLINE: Duration = Duration::from_secs(10);
    /// The usual upper bound of gateways.
    const REQUEST_DEADLINE: Duration = Duration::from_secs(60);

    /// Returns the default options for a handler on `port`.
    pub const fn on_port(port: u16) -> Self {
        Self {
            port,
            instances: Instances::Fresh,
            instances_max: Self::INSTANCES_MAX,
            queue_deadline: Self::QUEUE_DEADLINE,
            request_deadline: Self::REQUEST_DEADLINE,
            drain_delay: Duration::ZERO,
        }
    }
}

/// Whether an instance of a handler may serve more than one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instances {
    /// Every request has an instance of its own.
    Fresh,
    /// An instance that answered serves again; after the first failure of a reused instance the
    /// container goes back to fresh ones, since not every guest survives reuse.
    Reuse,
}

/// A destination of a guest's output. Several instances of a handler may write and wait at once.
pub trait Output: Send + Sync {
    /// Takes a prefix of `bytes` and returns its length; 0 means: wait for [`Output::poll_ready`].
    fn write(&self, bytes: &[u8]) -> usize;

    /// Becomes ready when a write would take at least one byte. Wakes every waiting task.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A source of a guest's standard input.
pub trait Input: Send + Sync {
    /// Takes what has come, at most `max` bytes of it; `max` is not 0.
    fn read(&self, max: usize) -> Chunk;

    /// Becomes ready when a read would give anything but [`Chunk::NotYet`]. Wakes every waiting task.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// What one read of an [`Input`] gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// What has come. Without a byte in it, this one read finds the end of a file and a later one may
    /// not, as at a terminal.
    Data(Bytes),
    /// Nothing has come; wait for [`Input::poll_ready`].
    NotYet,
    /// Nothing will ever come again.
    End,
}

/// How and when a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The code to report, 0 to 255.
    pub code: i32,
    /// What the code stands for.
    pub cause: ExitCause,
    /// When the container was started.
    pub started_at: SystemTime,
    /// When its last instance was gone.
    pub finished_at: SystemTime,
}

/// Why a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitCause {
    /// The program ended by itself; the code is its own.
    Exited,
    /// The program broke a rule of WebAssembly (134); the message is the trap's text.
    Trapped {
        /// The trap's text with the guest's back trace.
        message: String,
    },
    /// The program ended badly right after it was refused memory, or it was chosen to end when the node's
    /// memory was used up (137).
    OutOfMemory,
    /// The container ended because it was asked to (143; 130 by a person's interrupt).
    Stopped,
    /// The container was ended by force (137).
    Killed,
    /// The program never began to run (128).
    FailedToStart {
        /// What was missing.
        message: String,
    },
}

impl ExitCause {
    /// The code of a trap: 128 + SIGABRT, as a native program's abort is reported.
    pub const TRAPPED: i32 = 134;
    /// The code of a forced end: 128 + SIGKILL.
    pub const KILLED: i32 = 137;
    /// The code of an obeyed request to end: 128 + SIGTERM.
    pub const STOPPED: i32 = 143;
    /// The code of an end that a person at a terminal asked for: 128 + SIGINT.
    pub const INTERRUPTED: i32 = 130;
    /// The code of an end that a person at a terminal insisted on: 128 + SIGQUIT.
    pub const QUIT: i32 = 131;
    /// The code of a start that failed.
    pub const FAILED_TO_START: i32 = 128;
}

/// What a container has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time of all its instances, with the host code they called.
    pub cpu: Duration,
    /// Bytes charged to it now.
    pub memory: u64,
    /// The most bytes that were ever charged to it at once.
    pub memory_peak: u64,
}
