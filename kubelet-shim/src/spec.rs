//! What the agent intends to do for a pod: its own plan type, and the one conversion that refuses.
//!
//! [`check_pod`] turns a `Pod` from the wire into a [`PodSpecPlan`]. Every field of the wire types is
//! taken apart by name, so a field that a newer Kubernetes adds breaks the build until someone decides
//! whether it is honoured, satisfied by construction, mapped, or refused. Inside the agent nothing else
//! reads a pod's specification.

mod check;
mod container;
mod ephemeral;
mod files;
mod identity;
mod probe;
pub(crate) mod quantity;
mod renew;
mod resources;
mod restart;
mod security;
mod variables;
mod volume;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_runtime::{OnStop, QosClass, Terminal};

pub use check::check_pod;
pub use files::{DownwardFile, DownwardValue, FilesSource, FilesVolume, KeyItem, TokenPlan};
pub use identity::{DnsPlan, DnsPolicy, HostAlias, ShownName};
pub use probe::{
    Check, Hook, Hooks, HttpGet, Probe, ProbeHost, ProbeKind, Probes, Scheme, TargetPort, TcpTarget,
};
pub(crate) use renew::Renewal;
pub(crate) use resources::bytes_text;
pub use restart::{ExitCodes, RestartAction, RestartRule, Restarts};
pub(crate) use volume::host_path_check;

/// Whether pods may mount folders of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPathPolicy {
    /// `hostPath` volumes are mounted.
    Allow,
    /// `hostPath` volumes are refused.
    Refuse,
}

/// One field of a pod that is not honoured, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {reason}")]
pub struct FieldRefusal {
    /// Path from the pod's root, like `spec.containers[0].livenessProbe`.
    pub field: String,
    /// What is wrong with it; a fragment that continues the field's name.
    pub reason: String,
}

/// An ephemeral container that is not started, which does its pod no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Its image as written.
    pub image: String,
    /// What is wrong with it.
    pub refusals: Vec<FieldRefusal>,
}

/// Identity of one pod: a name may be used again, a UID is not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodKey {
    /// Namespace; a DNS label.
    pub namespace: Arc<str>,
    /// Name; a DNS subdomain.
    pub name: Arc<str>,
    /// UID given by the API server.
    pub uid: Arc<str>,
}

/// Everything the agent needs to know about a pod to run it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodSpecPlan {
    /// Who it is.
    pub key: PodKey,
    /// `metadata.labels`, for `fieldRef`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`, for `fieldRef`.
    pub annotations: BTreeMap<String, String>,
    /// Host name inside the pod.
    pub hostname: String,
    /// `spec.subdomain`.
    pub subdomain: Option<String>,
    /// `spec.nodeName`, for `fieldRef`.
    pub node_name: String,
    /// `spec.serviceAccountName`, for `fieldRef`.
    pub service_account: String,
    /// `spec.nodeSelector`, compared with the node's labels at admission.
    pub node_selector: BTreeMap<String, String>,
    /// The RuntimeClass whose handler it asks for.
    pub runtime_class: Option<String>,
    /// Lines the pod adds to its `/etc/hosts`.
    pub host_aliases: Vec<HostAlias>,
    /// What its `/etc/resolv.conf` is made from.
    pub dns: DnsPlan,
    /// What programs see as its host name.
    pub shown_name: ShownName,
    /// Which Services its variables tell of.
    pub service_links: ServiceLinks,
    /// Secrets that open registries.
    pub pull_secrets: Vec<String>,
    /// What happens when an ordinary container ends.
    pub restart_policy: RestartPolicy,
    /// How long a container may take to end.
    pub grace: Duration,
    /// `spec.activeDeadlineSeconds`.
    pub active_deadline: Option<Duration>,
    /// Conditions of others that must be `True` before the pod is ready.
    pub readiness_gates: Vec<String>,
    /// Init containers and sidecars in order, then the ordinary containers in order, then the ephemeral
    /// ones in the order in which they came.
    pub containers: Vec<ContainerPlan>,
    /// The ephemeral containers that are not started.
    pub left_out: Vec<LeftOut>,
    /// Volumes by declaration.
    pub volumes: Vec<VolumePlan>,
    /// Groups of its volumes and of whoever its containers run as.
    pub groups: Groups,
    /// `spec.resources`: what it requests and may use as a whole.
    pub whole: Option<Resources>,
    /// `spec.overhead`: what it costs beside its containers; only requests.
    pub overhead: Resources,
    /// Its quality of service, by what its containers request and may use.
    pub class: QosClass,
    /// `spec.priority`: who has less goes first when the node runs short.
    pub priority: i32,
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Restarted whatever the exit code.
    Always,
    /// Restarted after a failure.
    OnFailure,
    /// Never restarted.
    Never,
}

/// `enableServiceLinks`: which Services a container's variables tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceLinks {
    /// Those of the pod's namespace, and the API.
    Namespace,
    /// The API alone.
    ApiOnly,
}

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before anything later starts.
    Init,
    /// An init container with `restartPolicy: Always`: started in turn, runs beside the others.
    Sidecar,
    /// An ordinary container.
    App,
    /// Came later, to look around: runs once, and nothing depends on it.
    Ephemeral,
}

/// One container.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerPlan {
    /// Its name; a DNS label.
    pub name: Arc<str>,
    /// What it is to the pod.
    pub role: Role,
    /// The image as written.
    pub image: String,
    /// When the registry is asked.
    pub pull_policy: PullPolicy,
    /// Replaces the image's entrypoint.
    pub command: Option<Vec<String>>,
    /// Replaces the image's arguments.
    pub args: Option<Vec<String>>,
    /// Replaces the image's working directory.
    pub working_dir: Option<String>,
    /// Whole objects as variables.
    pub env_from: Vec<EnvFrom>,
    /// Single variables.
    pub env: Vec<EnvVar>,
    /// Declared ports.
    pub ports: Vec<Port>,
    /// Where volumes appear.
    pub mounts: Vec<VolumeMount>,
    /// Requests and limits.
    pub resources: Resources,
    /// How it follows when they change.
    pub resize: ResizePolicy,
    /// What the file system may be written to and who the guest claims to be.
    pub security: Security,
    /// Where the guest leaves its last words.
    pub termination_message: TerminationMessage,
    /// `coracle.dev/instances: reuse`.
    pub instances: InstanceReuse,
    /// What it says about its own restarts.
    pub restarts: Restarts,
    /// Startup, readiness and liveness probes.
    pub probes: Probes,
    /// What is done after the start and before the end.
    pub hooks: Hooks,
    /// `coracle.dev/stop: grace`.
    pub on_stop: OnStop,
    /// Who may type, and whether it is a terminal.
    pub streams: StreamPlan,
}

/// What a container's standard streams are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamPlan {
    /// What becomes of standard input.
    pub stdin: StdinPlan,
    /// Whether they are a terminal: then standard error is the same as standard output.
    pub terminal: Terminal,
}

/// What a container's standard input is (contract B.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StdinPlan {
    /// At its end from the beginning.
    #[default]
    Closed,
    /// Open until the container ends, whoever comes and goes.
    Open,
    /// Open until the first that attached with an input is gone.
    Once,
}

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// The registry is asked at every start.
    Always,
    /// The registry is asked when the image is not here.
    IfNotPresent,
    /// The registry is never asked.
    Never,
}

/// Whether a handler's instance may answer more than one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceReuse {
    /// One instance per request.
    Fresh,
    /// Opted in by annotation.
    Reuse,
}

/// One entry of `envFrom`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvFrom {
    /// Put before each key.
    pub prefix: String,
    /// The object whose keys become variables.
    pub source: ObjectRef,
}

/// A ConfigMap or Secret in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// Which kind.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// Whether its absence is no fault.
    pub optional: bool,
}

/// The two kinds a container may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// `ConfigMap`
    ConfigMap,
    /// `Secret`
    Secret,
}

/// One variable.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Where its value comes from.
    pub value: EnvValue,
}

/// Where a variable's value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum EnvValue {
    /// Written out, `$(NAME)` expanded.
    Literal(String),
    /// A key of a ConfigMap or Secret.
    Key {
        /// The object.
        object: ObjectRef,
        /// The key in its data.
        key: String,
    },
    /// A variable in a file that an earlier container left in an `emptyDir`.
    File {
        /// The volume.
        volume: String,
        /// Relative path in it, without `..`.
        path: String,
        /// The variable's name in the file.
        key: String,
        /// Whether its absence is no fault.
        optional: bool,
    },
    /// A fact about the pod.
    Field(PodField),
    /// An amount of a container's resources, already in the divisor's unit, or the node's when unset.
    Resource(ResourceAmount),
}

/// A pod field a variable may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodField {
    /// `metadata.name`
    Name,
    /// `metadata.namespace`
    Namespace,
    /// `metadata.uid`
    Uid,
    /// `metadata.labels['k']`
    Label(String),
    /// `metadata.annotations['k']`
    Annotation(String),
    /// `spec.nodeName`
    NodeName,
    /// `spec.serviceAccountName`
    ServiceAccount,
    /// `status.hostIP`
    HostIp,
    /// `status.hostIPs`, with commas between them
    HostIps,
    /// `status.podIP`
    PodIp,
    /// `status.podIPs`, with commas between them
    PodIps,
}

/// `resourceFieldRef`, resolved as far as the pod alone allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceAmount {
    /// Set in the pod: the value to show.
    Fixed(u64),
    /// A limit that is not set: the node's allocatable CPU, in units of `divisor_milli` thousandths.
    NodeCpu {
        /// Divisor in thousandths.
        divisor_milli: u64,
    },
    /// A limit that is not set: the node's allocatable memory, in units of `divisor` bytes.
    NodeMemory {
        /// Divisor in bytes.
        divisor: u64,
    },
    /// A limit that is not set: the node's allocatable storage, in units of `divisor` bytes.
    NodeStorage {
        /// Divisor in bytes.
        divisor: u64,
    },
}

/// One declared port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: Option<String>,
    /// The port in the pod.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Transport,
    /// `hostPort` with `hostIP`.
    pub host: Option<HostPort>,
}

/// Where on the machine a port is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `hostIP`, unless it means every address.
    pub ip: Option<IpAddr>,
    /// `hostPort`.
    pub port: u16,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// Requests and limits of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU asked for, in thousandths.
    pub cpu_request_milli: Option<u64>,
    /// CPU quota, in thousandths.
    pub cpu_limit_milli: Option<u64>,
    /// Memory asked for, in bytes.
    pub memory_request: Option<u64>,
    /// Memory limit, in bytes.
    pub memory_limit: Option<u64>,
    /// Ephemeral storage asked for, in bytes.
    pub storage_request: Option<u64>,
    /// Ephemeral storage limit, in bytes.
    pub storage_limit: Option<u64>,
}

/// `resizePolicy`: what a change of a resource means for a running container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResizePolicy {
    /// A change of processor time.
    pub cpu: OnResize,
    /// A change of memory.
    pub memory: OnResize,
}

/// How a running container follows a change of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnResize {
    /// Its limits change, and it goes on.
    #[default]
    InPlace,
    /// It is started again.
    Restart,
}

/// What remains of security contexts inside a sandbox without processes or capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// `runAsNonRoot`, container over pod.
    pub run_as_non_root: bool,
    /// `runAsUser`, container over pod.
    pub run_as_user: Option<u32>,
    /// `runAsGroup`, container over pod.
    pub run_as_group: Option<u32>,
    /// `readOnlyRootFilesystem`.
    pub read_only_root: bool,
}

/// Groups of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// `fsGroup`: whose the pod's volumes are, those of the machine aside.
    pub of_volumes: Option<u32>,
    /// `supplementalGroups`.
    pub supplemental: Vec<u32>,
    /// Whether a user has the groups that the image gives it, too (`supplementalGroupsPolicy`).
    pub of_image: bool,
}

impl Default for Groups {
    fn default() -> Groups {
        Groups {
            of_volumes: None,
            supplemental: Vec::new(),
            of_image: true,
        }
    }
}

/// Where a container's last words are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminationMessage {
    /// The file.
    pub path: String,
    /// Whether the log's end serves when the file is empty.
    pub fallback: LogFallback,
}

/// `terminationMessagePolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFallback {
    /// `File`
    Never,
    /// `FallbackToLogsOnError`
    OnError,
}

/// One entry of `volumeMounts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// The volume's name; it is declared.
    pub volume: String,
    /// Where it appears; absolute.
    pub path: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// What part of the volume appears.
    pub sub_path: SubPath,
}

/// `subPath` or `subPathExpr`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubPath {
    /// The whole volume.
    Whole,
    /// A path in it.
    Fixed(String),
    /// A path in it, after `$(NAME)` is expanded.
    Expression(String),
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePlan {
    /// Its name; a DNS label.
    pub name: String,
    /// What it holds.
    pub source: VolumeSource,
}

/// What a volume holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// A folder of its own, removed with the pod.
    EmptyDir {
        /// Where its content is.
        medium: Medium,
        /// `sizeLimit`: who exceeds it is evicted.
        limit: Option<SizeLimit>,
    },
    /// A folder or file of the machine.
    HostPath {
        /// The path on the machine.
        path: String,
        /// What must be there.
        check: HostPathCheck,
    },
    /// The volume that a claim is bound to: a folder or file of the machine.
    Claim {
        /// The claim.
        name: String,
        /// Whether it is never written to, whatever a mount says.
        read_only: bool,
    },
    /// Files in memory: `configMap`, `secret`, `downwardAPI`, `projected`.
    Files(FilesVolume),
    /// The root of an image, never writable.
    Image {
        /// The image as written.
        reference: String,
        /// When the registry is asked.
        policy: PullPolicy,
    },
}

/// `emptyDir.medium`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// The node's disk.
    Disk,
    /// The pod's memory.
    Memory,
}

/// `emptyDir.sizeLimit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeLimit {
    /// In bytes.
    pub bytes: u64,
    /// As it was written.
    pub text: String,
}

/// `hostPath.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPathCheck {
    /// Nothing is checked; where nothing is, a folder is made.
    Unchecked,
    /// A folder, made when missing.
    DirectoryOrCreate,
    /// A folder.
    Directory,
    /// A file, made when missing.
    FileOrCreate,
    /// A file.
    File,
}

impl LeftOut {
    /// Returns what is wrong with it, for people.
    pub(crate) fn why(&self) -> String {
        let list: Vec<String> = self.refusals.iter().map(ToString::to_string).collect();
        list.join("; ")
    }
}

impl fmt::Display for PodKey {
    /// `name_namespace(uid)`, as the kubelet's messages write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}({})", self.name, self.namespace, self.uid)
    }
}

impl ObjectRef {
    /// Kind and name.
    pub(crate) fn id(&self) -> (ObjectKind, String) {
        (self.kind, self.name.clone())
    }
}

impl ObjectKind {
    /// The kind in lower case, as `configmap "x" not found` writes it.
    pub(crate) fn lower(self) -> &'static str {
        match self {
            ObjectKind::ConfigMap => "configmap",
            ObjectKind::Secret => "secret",
        }
    }

    /// The kind as the API writes it.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            ObjectKind::ConfigMap => "ConfigMap",
            ObjectKind::Secret => "Secret",
        }
    }
}

impl ContainerPlan {
    /// The port a handler listens on: the one named `http`, else the first TCP port, else 80.
    pub(crate) fn handler_port(&self) -> u16 {
        let mut tcp = self.ports.iter().filter(|p| p.protocol == Transport::Tcp);
        let named = tcp.clone().find(|p| p.name.as_deref() == Some("http"));
        named
            .or_else(|| tcp.next())
            .map_or(DEFAULT_HANDLER_PORT, |p| p.port)
    }

    /// The `fieldPath` of events about this container.
    pub(crate) fn field_path(&self) -> String {
        match self.role {
            Role::Init | Role::Sidecar => format!("spec.initContainers{{{}}}", self.name),
            Role::App => format!("spec.containers{{{}}}", self.name),
            Role::Ephemeral => format!("spec.ephemeralContainers{{{}}}", self.name),
        }
    }
}

/// Where a handler without declared ports listens.
const DEFAULT_HANDLER_PORT: u16 = 80;

#[cfg(test)]
mod tests;
