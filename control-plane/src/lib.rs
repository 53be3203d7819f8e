//! The embedded Kubernetes API: accepts, stores, announces and assigns objects.

mod control_plane;
mod kinds;
mod service;

pub use control_plane::{ControlPlane, ControlPlaneConfig, Refusal, check_manifest};
pub use kinds::{KindInfo, Scope, Subresource, Verb, served};
pub use service::{ApiBody, ApiService};
