//! The embedded Kubernetes API: accepts, stores, announces and assigns objects.
//!
//! [`ControlPlane::start`] is the entry point. Its one long-running task is the scheduler, which
//! takes unassigned pods and ready nodes from watches and gives bindings, like any client.
//!
//! A request's way: `service` → `request` (what is asked) → `verbs` (one generic machine) →
//! `schema`, `defaults`, `validate` (is it allowed) → `object` (encoded once) → the store.

mod control_plane;
mod kinds;
mod service;

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
mod object;
mod protobuf;
mod quantity;
mod schema;
mod validate;

mod discovery;
mod kubelets;
mod openapi;
mod scheduler;

mod controllers;

pub use caller::Caller;
pub use control_plane::{ControlPlane, ControlPlaneConfig, Refusal, check_manifest};
pub use coracle_store::OpenError;
pub use identity::{Credentials, Identity, IdentityError, Purpose, Subject};
pub use kinds::{KindInfo, Scope, Subresource, Verb, served};
pub use kubelets::{DuplexStream, KubeletDialer, KubeletStream, Kubelets};
pub use server::{ApiServer, ServerConfig, ServerError};
pub use service::{ApiBody, ApiService};

#[doc(hidden)]
pub mod fuzzing;
