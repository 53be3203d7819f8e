//! Pods, connections, datagrams, publications, Services and names, through the crate's public face.

#[path = "network/accounts.rs"]
mod accounts;
#[path = "network/families.rs"]
mod families;
#[path = "network/fixture.rs"]
mod fixture;
#[path = "network/handover.rs"]
mod handover;
#[path = "network/lifecycle.rs"]
mod lifecycle;
#[path = "network/names.rs"]
mod names;
#[path = "network/outside.rs"]
mod outside;
#[path = "network/policies.rs"]
mod policies;
#[path = "network/publishing.rs"]
mod publishing;
#[path = "network/service_udp.rs"]
mod service_udp;
#[path = "network/services.rs"]
mod services;
#[path = "network/tcp.rs"]
mod tcp;
#[path = "network/udp.rs"]
mod udp;
