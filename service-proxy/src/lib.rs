//! Makes Services reachable: follows Services, EndpointSlices and NetworkPolicies in the Kubernetes
//! API, compiles them into what the pods' network routes by, answers DNS, and listens for the world
//! outside.
//!
//! The input is the API alone, so it works the same against the embedded API, as part of a node of a
//! real cluster, and by itself beside any cluster. [`Proxy::start`] is the entry point for Services,
//! [`DnsServer::start`] for DNS, [`Policies::start`] for policies. Long-running tasks:
//! * the follower: input: watches of Services, EndpointSlices and the node; output: the table of
//!   Services, names, ports for health checks;
//! * the teller: input: what the edge publishes; output: events about Services, a list for whoever
//!   prints it;
//! * what follows the Nodes: input: a watch of them; output: the ranges of pods, to the edge;
//! * the writer of events: input: what is not served, or elsewhere; output: events about Services;
//! * a task for each port that answers about health or metrics;
//! * those of [`edge`], of the DNS server and of policies, as they say themselves.

mod proxy;

mod follower;

mod watch;

mod facts;

mod topology;

mod ranges;

mod compile;
mod records;

pub mod edge;
mod places;

mod events;
mod exhaustion;

mod answering;
mod health;
mod metrics;

mod dns;
mod policy;

pub use dns::{DnsConfig, DnsError, DnsServer};
pub use places::ServicePlace;
pub use policy::{Policies, PoliciesConfig};
pub use proxy::{PodRanges, Proxy, ProxyConfig, ProxyError};

pub mod fuzzing;
pub mod measuring;
