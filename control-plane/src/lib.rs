//! The embedded Kubernetes API: accepts, stores, announces and assigns objects.
//!
//! [`ControlPlane::start`] is the entry point for state in memory, [`ControlPlane::open`] for state in
//! a folder; [`ApiServer`] takes connections. Long-running tasks, ordinary clients of the API all:
//! * the scheduler: input: watches of pods and nodes; output: bindings, conditions, preemptions;
//! * the controllers: input: watches of what they look after; output: deletions of what has no owner,
//!   emptied namespaces, first accounts, quotas' statuses, endpoints and load-balancer addresses of
//!   Services, bound claims, evictions from tainted nodes;
//! * the signer: input: a watch of requests for certificates; output: certificates;
//! * the gatherer of roles: input: a watch of cluster roles; output: aggregated rules.
//!
//! A request's way: `server` (who asks) → `service` → `authorize` (may he) → `request` (what is
//! asked) → `verbs` (one generic machine) → `schema`, `defaults`, `admission`, `validate` (is it
//! allowed) → `managed_fields` (who owns what) → `object` (encoded once) → the store; the answer
//! leaves through `view`, `table` and `protobuf` in the form that was asked for.

mod control_plane;
mod kinds;
mod service;
mod service_ranges;

mod authorize;
mod caller;
mod certificates;
mod identity;
mod server;

mod request;
mod selector;
mod status;
mod table;
mod view;

mod managed_fields;
mod verbs;

mod admission;

mod decode;
mod defaults;
mod go_text;
mod invalid;
mod moment;
mod object;
mod protobuf;
mod quantity;
mod schema;
mod unique;
mod validate;

mod changes;
mod discovery;
mod kubelets;
mod metadata;
mod openapi;
mod proxy;
mod scheduler;

mod controllers;

pub use caller::Caller;
pub use control_plane::{
    ControlPlane, ControlPlaneConfig, FirstNode, Refusal, StartError, check_manifest,
};
pub use controllers::LocalVolumes;
pub use coracle_store::OpenError;
pub use identity::{Credentials, Identity, IdentityError, Purpose, Subject};
pub use kinds::{KindInfo, Scope, Subresource, Verb, served};
pub use kubelets::{DuplexStream, KubeletDialer, KubeletStream, Kubelets, PodDialer};
pub use server::{ApiServer, Entrance, EntrancePlace, ServerConfig, ServerError};
pub use service::{ApiBody, ApiService, BrokenOff};
pub use service_ranges::{ServiceRangeError, ServiceRanges};

#[doc(hidden)]
pub mod fuzzing;
