//! Fabric.

use crate::*;
use std::io;
use std::net::SocketAddr;

/// How a fabric is laid out.
#[derive(Debug, Clone)]
pub struct FabricConfig {
    /// The range pods get their addresses from.
    pub pod_cidr: ipnet::Ipv4Net,
    /// The zone of names answered here.
    pub cluster_domain: String,
    /// Where ports are published.
    pub publish: PublishPlan,
    /// What guests may reach outside.
    pub egress: EgressRules,
}

/// Who is attached.
#[derive(Debug, Clone)]
pub struct PodIdentity {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// The host name its containers see.
    pub hostname: String,
    /// `spec.subdomain`.
    pub subdomain: Option<String>,
}

/// All pod networks of one node.
#[derive(Debug, Clone)]
pub struct Fabric;

impl Fabric {
    /// New.
    pub fn new(_config: FabricConfig) -> Result<Fabric, FabricError> {
        Ok(Fabric)
    }
    /// Attach.
    pub fn attach(&self, identity: PodIdentity) -> Result<PodNetwork, AttachError> {
        Ok(PodNetwork {
            hostname: identity.hostname,
        })
    }
    /// Dial.
    pub async fn dial(&self, _to: SocketAddr) -> io::Result<Stream> {
        Err(NetError::NotSupported.into())
    }
}
