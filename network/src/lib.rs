//! Gives every pod an address and a port space of its own, and carries traffic between pods and the
//! outside.
//!
//! Entry point: [`Fabric::new`], then [`Fabric::attach`] for each pod. The crate owns no task and
//! no thread: everything is polled by whoever holds a [`Stream`], [`Listener`] or [`UdpSocket`],
//! and kernel sockets are registered with the reactor of the thread that polls them first.

mod addresses;
mod budget;
mod connect;
mod egress;
mod error;
mod fabric;
mod handover;
mod listener;
mod names;
mod outside;
mod pipe;
mod platform;
mod pod;
mod policy;
mod publish;
mod services;
mod store;
mod stream;
mod udp;
mod zone;

pub use budget::{PodTraffic, Purse, TrafficMeter};
pub use egress::{EgressRules, LinkLocal};
pub use error::{AttachError, FabricError, NetError, PublishError};
pub use fabric::{Fabric, FabricConfig, PodIdentity};
pub use handover::{GiveBack, HandOverError, HandOverRefusal, HandedStream};
pub use listener::Listener;
pub use names::{LookUp, NameClient, NameSource, ResolverConfig, SEARCHES_MAX, Upstream};
pub use outside::{HeldPort, HostPort, Outside};
pub use platform::is_exhausted;
pub use pod::{PodNetwork, TcpPort};
pub use policy::{
    AddressBlock, AddressSet, NamedPorts, Peers, PodRules, PolicyTable, PortMatch, Rule,
};
pub use publish::block::LoopbackBlock;
pub use publish::outside::Announced;
pub use publish::{HostAddress, Protocol, PublishPlan, PublishPort, Published};
pub use services::{
    Client, Decision, Endpoint, EndpointCounters, Front, FrontAddress, FrontKind, Fronts, Routes,
    ServiceCounters, ServicePort, ServicePortName, ServiceTable, TrafficPolicy,
};
pub use stream::Stream;
pub use udp::UdpSocket;
pub use udp::front::UdpFlow;
pub use zone::{
    ALIASES_MAX, Answer, Authority, Followed, HeadlessEndpoint, Question, Record, RecordKind,
    ServiceRecords, TTL_SECONDS, Zone, ZonePort, ZoneProtocol,
};
