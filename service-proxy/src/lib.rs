//! Makes Services reachable: follows Services, EndpointSlices and NetworkPolicies in the Kubernetes
//! API, compiles them into what the pods' network routes by, answers DNS, and listens for the world
//! outside.
//!
//! The input is the API alone, so it works the same against the embedded API, as part of a node of a
//! real cluster, and by itself beside any cluster.

mod dns;
pub mod edge;
mod policy;

pub use dns::{DnsConfig, DnsError, DnsServer};
pub use policy::{Policies, PoliciesConfig};

pub mod fuzzing;
