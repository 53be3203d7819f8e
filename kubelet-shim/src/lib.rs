//! Turns the pods assigned to this node into running ones and tells the truth about them.
//!
//! Entry point: [`Agent::start`]. The agent speaks to an API server through the `kube::Client` it is
//! given and to nothing else; [`check_pod`] is the one conversion of a `Pod` into what will be done,
//! and the one place that refuses.
//!
//! Long-running tasks:
//! * the pod source: input: a watch of this node's pods; output: one worker per pod, told what is wanted;
//! * one worker per pod: input: what is wanted, results, timers; output: steps, status, events;
//! * the storage monitor: input: the pods that have a limit of storage; output: word to the workers of those over it;
//! * the evictor: input: what memory is left, what pods use; output: word to the worker of the pod that goes;
//! * the prober: input: the probes that workers want watched; output: news to the workers;
//! * the event writer: input: events of all workers; output: Event objects;
//! * the heartbeat: output: Lease and Node status;
//! * the keeper of objects: input: watches of the ConfigMaps and Secrets that pods show; output: their
//!   volumes' new content, and tokens renewed in time.

mod acknowledged;
mod agent;
mod allocation;
mod environment;
mod events;
mod eviction;
mod exec;
mod folders;
mod ground;
mod hooks;
mod identity_files;
mod images;
mod launch;
mod lifecycle;
mod logs;
mod metrics;
mod node;
mod objects;
mod probes;
mod readable;
mod seen;
mod server;
mod spec;
mod status;
mod storage;
mod time;
mod worker;

pub use agent::{Agent, AgentConfig, AgentError, AtStop, DeclaredPorts, NodeIps, NodeSettings};
pub use exec::Toolbox;
pub use lifecycle::Verdict;
pub use logs::{OutputLine, StdStream};
pub use node::pressure::DiskLeast;
pub use node::room::UnusedImages;
pub use probes::{NEWS_MAX, Names, News, Prober, Programs, Watch, Watched, What, Whose};
pub use seen::SeenPod;
pub use server::{
    KubeletBody, KubeletListener, KubeletListenerConfig, KubeletServer, KubeletServerError,
    KubeletService,
};
pub use spec::{
    Check, ContainerPlan, DnsPlan, DnsPolicy, DownwardFile, DownwardValue, EnvFrom, EnvValue,
    EnvVar, ExitCodes, FieldRefusal, FilesSource, FilesVolume, Hook, Hooks, HostAlias,
    HostPathCheck, HostPathPolicy, HostPort, HttpGet, InstanceReuse, KeyItem, LeftOut, LogFallback,
    Medium, ObjectKind, ObjectRef, OnResize, PodField, PodKey, PodSpecPlan, Port, Probe, ProbeHost,
    ProbeKind, Probes, PullPolicy, ResizePolicy, ResourceAmount, Resources, RestartAction,
    RestartPolicy, RestartRule, Restarts, Role, Scheme, Security, ServiceLinks, ShownName,
    SizeLimit, StdinPlan, StreamPlan, SubPath, TargetPort, TcpTarget, TerminationMessage,
    TokenPlan, Transport, VolumeMount, VolumePlan, VolumeSource, check_pod,
};
pub use status::{ANNOTATION_PUBLISHED, ANNOTATION_REFUSED};
pub use time::{Clock, Hand, Moment};
