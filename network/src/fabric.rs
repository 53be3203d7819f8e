//! The network of one node: which pod has which address, and the way from one to another.

use std::array;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

use crate::addresses::AddressPool;
use crate::budget::Budget;
use crate::connect;
use crate::egress::{EgressRules, Family, Territory};
use crate::error::{AttachError, FabricError, NetError, PublishError};
use crate::handover::{self, HandOverError, HandedStream};
use crate::names::{self, NameClient, Upstream};
use crate::outside::{Abroad, Outside};
use crate::pod::{Pod, PodNetwork};
use crate::policy::PolicyTable;
use crate::publish::block::LoopbackBlock;
use crate::publish::outside::{Announced, OutsidePorts};
use crate::publish::{Protocol, PublishPlan};
use crate::services::ServiceTable;
use crate::stream::Stream;
use crate::udp::front::{self, UdpFlow};
use crate::zone::Zone;

/// The shortest prefix of a pod CIDR: 4 million addresses, half a megabyte to keep count of them.
const CIDR_PREFIX_MIN: u8 = 10;

/// The longest prefix of a pod CIDR: one pod besides the network, the node and the broadcast
/// address.
const CIDR_PREFIX_MAX: u8 = 30;

/// The shortest prefix of a range of IPv6.
const CIDR6_PREFIX_MIN: u8 = 32;

/// Ranges that mean something else to a guest than another pod.
const RESERVED: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// The map of pods is split so that look-ups on all cores do not meet in one lock.
const SHARDS: usize = 64;

/// Bytes buffered towards pods for the host side: probes and port-forwards.
const HOST_BUFFER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How a fabric is laid out.
#[derive(Debug, Clone)]
pub struct FabricConfig {
    /// The range pods get their addresses from; its first address is the node's.
    pub pod_cidr: Ipv4Net,
    /// The range of their second addresses, of IPv6, if they have some: each pod has the place there that
    /// it has in the other one.
    pub pod_cidr6: Option<Ipv6Net>,
    /// The zone of the names answered here.
    pub cluster_domain: String,
    /// Where ports are published.
    pub publish: PublishPlan,
    /// What guests may reach outside.
    pub egress: EgressRules,
}

impl Default for FabricConfig {
    /// `10.244.0.0/16`, `cluster.local`, published on loopback, link-local addresses closed.
    fn default() -> FabricConfig {
        FabricConfig {
            pod_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16),
            pod_cidr6: None,
            cluster_domain: "cluster.local".to_owned(),
            publish: PublishPlan::Loopback,
            egress: EgressRules::default(),
        }
    }
}

/// Who is attached, as far as names depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIdentity {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID; two pods of one UID cannot be attached at once.
    pub uid: String,
    /// The host name its containers see.
    pub hostname: String,
    /// `spec.subdomain`; with it `<hostname>.<subdomain>.<namespace>.svc.<cluster domain>` is
    /// answered.
    pub subdomain: Option<String>,
}

/// All pod networks of one node. Clones share it; it owns no task and no thread.
#[derive(Clone)]
pub struct Fabric {
    shared: Arc<Shared>,
    /// Not in [`Shared`], which places refer to: the last handle takes the node's place down.
    host: PodNetwork,
}

/// What pods and handles share.
pub(crate) struct Shared {
    territory: Territory,
    zone: Arc<Zone>,
    upstream: ArcSwap<Upstream>,
    name_client: OnceLock<Arc<dyn NameClient>>,
    policies: Arc<PolicyTable>,
    addresses: Mutex<AddressPool>,
    pods: [RwLock<HashMap<Ipv4Addr, Arc<Pod>>>; SHARDS],
    directory: RwLock<Directory>,
    plan: PublishPlan,
    block: Option<Arc<LoopbackBlock>>,
    outside: Arc<OutsidePorts>,
    abroad: Abroad,
    services: Arc<ServiceTable>,
    host_budget: Arc<Budget>,
    lookups: Arc<Semaphore>,
}

/// Look-ups other than by address.
#[derive(Default)]
struct Directory {
    by_uid: HashMap<String, Ipv4Addr>,
    /// Addresses kept for pods that are not attached yet, as places in the range.
    kept: HashMap<String, u32>,
}

impl Fabric {
    /// Lays a fabric out and, if it publishes on loopback, claims a block of addresses for it.
    pub fn new(config: FabricConfig) -> Result<Fabric, FabricError> {
        let FabricConfig {
            pod_cidr,
            pod_cidr6,
            cluster_domain,
            publish,
            egress,
        } = config;
        let cidr = check_cidr(pod_cidr)?;
        let cidr6 = pod_cidr6
            .map(|range| check_cidr6(range, cidr))
            .transpose()?;
        let Ok(zone) = names::canonical(&cluster_domain) else {
            return Err(FabricError::ClusterDomain {
                domain: cluster_domain,
            });
        };
        let size = 1 << (32 - u32::from(cidr.prefix_len()));
        let block = match publish {
            PublishPlan::Loopback => LoopbackBlock::claim().map(Arc::new),
            PublishPlan::Nowhere => None,
        };
        let node = Ipv4Addr::from(u32::from(cidr.network()) + 1);
        let territory = Territory {
            pod_cidr: cidr,
            pod_cidr6: cidr6,
            node,
            rules: egress,
        };
        let node6 = territory.twin(node).map(IpAddr::V6);
        let zone = Zone::new(zone);
        let ranges = [IpNet::V4(cidr)].into_iter().chain(cidr6.map(IpNet::V6));
        zone.set_ranges(ranges.collect());
        zone.set_servers([node.into()].into_iter().chain(node6).collect());
        let policies = PolicyTable::new(node.into());
        policies.add_node_addresses(node6);
        let shared = Shared {
            territory,
            zone: Arc::new(zone),
            upstream: ArcSwap::default(),
            name_client: OnceLock::new(),
            policies: Arc::new(policies),
            addresses: Mutex::new(AddressPool::new(size, &[0, 1, size - 1])),
            pods: array::from_fn(|_| RwLock::default()),
            directory: RwLock::default(),
            plan: publish,
            block,
            outside: Arc::default(),
            abroad: Abroad::default(),
            services: Arc::default(),
            host_budget: Arc::new(Budget::new(HOST_BUFFER_BYTES_MAX)),
            lookups: Arc::new(Semaphore::new(names::LOOKUPS_MAX)),
        };
        let shared = Arc::new(shared);
        let host = Arc::new(Pod::of_node(Arc::clone(&shared)));
        shared.shard(node).write().insert(node, Arc::clone(&host));
        Ok(Fabric {
            shared,
            host: PodNetwork::new(host),
        })
    }

    /// Returns the node as a place in the fabric, at [`Fabric::node_ip`]: pods reach what listens
    /// there, by that address and through Services whose endpoints name it. It is no pod: no UID and
    /// no name lead to it. It lasts as long as the fabric's handles and its own; detaching it ends
    /// what the node has in the fabric for good.
    pub fn host(&self) -> PodNetwork {
        self.host.clone()
    }

    /// Makes a port of the host known that leads into the fabric, so that guests are kept from going
    /// out and in again through it, past the rules for who reaches whom. Nothing for loopback, which
    /// guests never reach.
    pub fn announce(&self, protocol: Protocol, address: SocketAddr) -> Option<Announced> {
        self.shared.outside.announce(protocol, address)
    }

    /// Gives pods their addresses outside of the fabric from now on; what they serve already is told
    /// before this returns. Who was set before is told nothing any more.
    pub fn set_outside(&self, outside: Arc<dyn Outside>) {
        self.shared.abroad.set(Some(outside));
        // Whoever opens a port from here on tells it, perhaps beside this.
        let pods = self.shared.pods.iter();
        let pods = pods.flat_map(|shard| shard.read().values().cloned().collect::<Vec<_>>());
        pods.for_each(|pod| pod.tell_outside());
    }

    /// Takes their addresses outside of the fabric from pods again, whoever gave them.
    pub fn clear_outside(&self) {
        self.shared.abroad.set(None);
    }

    /// Sets the ranges of the cluster's pods, of all nodes. While somebody gives pods their addresses
    /// outside, connections and datagrams of a pod into these ranges come from its own address; elsewhere
    /// they come from the node's.
    pub fn set_cluster_ranges(&self, ranges: Vec<IpNet>) {
        self.shared.abroad.set_ranges(ranges);
    }

    /// Attaches a pod: it has an address, a port space and a loopback from here on.
    pub fn attach(&self, identity: PodIdentity) -> Result<PodNetwork, AttachError> {
        let shared = &self.shared;
        let cidr = shared.territory.pod_cidr;
        let mut directory = shared.directory.write();
        if let Some(ip) = directory.by_uid.get(&identity.uid) {
            return Err(AttachError::AlreadyAttached {
                uid: identity.uid,
                ip: *ip,
            });
        }
        let offset = match directory.kept.remove(&identity.uid) {
            Some(kept) => Some(kept),
            None => shared.addresses.lock().take(),
        };
        let offset = offset.ok_or(AttachError::NoAddress { cidr })?;
        let ip = Ipv4Addr::from(u32::from(cidr.network()) + offset);
        directory.by_uid.insert(identity.uid.clone(), ip);
        drop(directory);
        let ip6 = shared.territory.twin(ip);
        shared.zone.enter_pod(ip, ip6, &identity);
        let pod = Arc::new(Pod::new(Arc::clone(shared), ip, identity));
        shared.shard(ip).write().insert(ip, Arc::clone(&pod));
        Ok(PodNetwork::new(pod))
    }

    /// Keeps an address for a pod that had it before, until it is attached or [`Fabric::release`]d.
    /// False when the address is not to be had: outside of the range, or somebody else's.
    pub fn keep(&self, uid: &str, ip: Ipv4Addr) -> bool {
        let network = u32::from(self.shared.territory.pod_cidr.network());
        let Some(offset) = u32::from(ip).checked_sub(network) else {
            return false;
        };
        let mut directory = self.shared.directory.write();
        let is_known = directory.by_uid.contains_key(uid) || directory.kept.contains_key(uid);
        let is_kept = !is_known && self.shared.addresses.lock().take_exactly(offset);
        if is_kept {
            directory.kept.insert(uid.to_owned(), offset);
        }
        is_kept
    }

    /// Gives up an address that was kept for a pod which will not be attached. Harmless otherwise.
    pub fn release(&self, uid: &str) {
        let kept = self.shared.directory.write().kept.remove(uid);
        if let Some(offset) = kept {
            self.shared.addresses.lock().give_back(offset);
        }
    }

    /// Connects from the host side to a port of a pod: probes, port-forward. The pod sees the
    /// node's address inside the pod CIDR as the peer.
    pub async fn dial(&self, to: SocketAddr) -> io::Result<Stream> {
        connect::from_host(&self.shared, to).await
    }

    /// Gives an accepted kernel connection to what listens at `to`, which becomes its holder: its
    /// stream shows the pod's address and port as its own. Never waits. Until it is accepted the
    /// stream counts among the pod's kernel sockets and takes a place in the listener's backlog; if
    /// the listener ends before, [`HandedStream::give_back`] gets it.
    ///
    /// # Errors
    ///
    /// Give the stream back and tell why nothing took it, so that another endpoint may.
    pub fn hand_over(&self, to: SocketAddr, handed: HandedStream) -> Result<(), HandOverError> {
        handover::hand_over(&self.shared, to, handed)
    }

    /// Delivers a datagram that came in from outside to the socket that a pod has bound at `to`, or
    /// loses it where its inbox is full. The pod sees it come from the flow's client and answers to
    /// that, which the flow sends back.
    ///
    /// # Errors
    ///
    /// [`NetError::Unreachable`] where no such pod is attached, [`NetError::ConnectionRefused`] where
    /// nobody has bound the port, [`NetError::AccessDenied`] if the client's address is a pod's.
    pub fn send_datagram(
        &self,
        to: SocketAddr,
        data: &[u8],
        flow: &Arc<UdpFlow>,
    ) -> Result<(), NetError> {
        front::deliver(&self.shared, to, data, flow)
    }

    /// Connects to a port on the loopback of the pod with this UID, as a program in the pod would:
    /// port-forward.
    ///
    /// # Errors
    ///
    /// [`NetError::Unreachable`] where no such pod is attached, [`NetError::ConnectionRefused`] where
    /// nothing listens.
    pub async fn dial_inside(&self, uid: &str, port: u16) -> Result<Stream, NetError> {
        let ip = self.shared.directory.read().by_uid.get(uid).copied();
        let pod = ip.and_then(|ip| self.shared.find(ip));
        let pod = pod.ok_or(NetError::Unreachable)?;
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        connect::from_pod(&pod, None, to).await
    }

    /// Returns the Services that pods reach.
    pub fn services(&self) -> &Arc<ServiceTable> {
        &self.shared.services
    }

    /// Returns the names of the cluster.
    pub fn zone(&self) -> &Arc<Zone> {
        &self.shared.zone
    }

    /// Returns who may reach whom.
    pub fn policies(&self) -> &Arc<PolicyTable> {
        &self.shared.policies
    }

    /// Sets who answers the names of pods that lie outside of the zone. Name servers are asked by the
    /// client of [`Fabric::set_name_client`]; without one the host's resolver answers.
    pub fn set_upstream(&self, upstream: Upstream) {
        self.shared.upstream.store(Arc::new(upstream));
    }

    /// Returns who answers names that lie outside of the zone.
    pub fn upstream(&self) -> Arc<Upstream> {
        self.shared.upstream()
    }

    /// Sets who speaks DNS to name servers: to those upstream, and to those that pods name in their
    /// resolver files. Only the first call counts.
    pub fn set_name_client(&self, client: Arc<dyn NameClient>) {
        let _ = self.shared.name_client.set(client);
    }

    /// Returns the range pods have their addresses from.
    pub fn pod_cidr(&self) -> Ipv4Net {
        self.shared.territory.pod_cidr
    }

    /// Returns the range of their second addresses, if they have some.
    pub fn pod_cidr6(&self) -> Option<Ipv6Net> {
        self.shared.territory.pod_cidr6
    }

    /// Returns the ranges of pods: one, or one of each family.
    pub fn pod_cidrs(&self) -> Vec<IpNet> {
        let second = self.pod_cidr6().map(IpNet::V6);
        [IpNet::V4(self.pod_cidr())]
            .into_iter()
            .chain(second)
            .collect()
    }

    /// Tells whether an address is in a range of pods, the node's among them.
    pub fn is_inside(&self, ip: IpAddr) -> bool {
        self.shared.territory.place(ip).is_some()
    }

    /// Returns the block of loopback addresses that pods are published on, nothing if there is none.
    pub fn loopback_block(&self) -> Option<Arc<LoopbackBlock>> {
        self.shared.block.clone()
    }

    /// Returns the node's address inside the pod CIDR.
    pub fn node_ip(&self) -> Ipv4Addr {
        self.shared.territory.node
    }

    /// Returns the node's addresses inside the ranges of pods.
    pub fn node_ips(&self) -> Vec<IpAddr> {
        let territory = &self.shared.territory;
        let second = territory.twin(territory.node).map(IpAddr::V6);
        [IpAddr::V4(territory.node)]
            .into_iter()
            .chain(second)
            .collect()
    }
}

impl Shared {
    /// Returns what addresses mean here.
    pub(crate) fn territory(&self) -> &Territory {
        &self.territory
    }

    /// Returns the names of the cluster.
    pub(crate) fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Returns who may reach whom.
    pub(crate) fn policies(&self) -> &PolicyTable {
        &self.policies
    }

    /// Returns who answers names outside of the zone.
    pub(crate) fn upstream(&self) -> Arc<Upstream> {
        self.upstream.load_full()
    }

    /// Returns who speaks DNS to name servers.
    pub(crate) fn name_client(&self) -> Option<&Arc<dyn NameClient>> {
        self.name_client.get()
    }

    /// Returns the host ports we publish beyond loopback.
    pub(crate) fn outside(&self) -> &Arc<OutsidePorts> {
        &self.outside
    }

    /// Returns who gives pods their addresses outside.
    pub(crate) fn abroad(&self) -> &Abroad {
        &self.abroad
    }

    /// Returns the account of what the host side sends to pods.
    pub(crate) fn host_budget(&self) -> &Arc<Budget> {
        &self.host_budget
    }

    /// Returns the Services.
    pub(crate) fn services(&self) -> &Arc<ServiceTable> {
        &self.services
    }

    /// Returns the bound on look-ups by the host's resolver.
    pub(crate) fn lookups(&self) -> &Arc<Semaphore> {
        &self.lookups
    }

    /// Returns the pod at `ip`.
    pub(crate) fn find(&self, ip: Ipv4Addr) -> Option<Arc<Pod>> {
        self.shard(ip).read().get(&ip).cloned()
    }

    /// Returns the pod that has an address of either family.
    pub(crate) fn find_at(&self, ip: IpAddr) -> Option<Arc<Pod>> {
        self.find(self.territory.place(ip)?)
    }

    /// Returns how a peer outside the fabric appears to a pod: host loopback as the node's address.
    pub(crate) fn shown(&self, peer: SocketAddr) -> SocketAddr {
        let ip = peer.ip().to_canonical();
        let ip = if ip.is_loopback() {
            self.territory.node_of(Family::of(ip))
        } else {
            ip
        };
        SocketAddr::new(ip, peer.port())
    }

    /// Takes a loopback address to publish the pod at `ip` on; nothing where `127.0.0.1` serves
    /// all.
    pub(crate) fn take_loopback(&self, ip: Ipv4Addr) -> Result<Option<Ipv4Addr>, PublishError> {
        match (self.plan, &self.block) {
            (PublishPlan::Nowhere, _) => Err(PublishError::Nowhere),
            (PublishPlan::Loopback, None) => Ok(None),
            (PublishPlan::Loopback, Some(block)) => {
                let offset = u32::from(ip) - u32::from(self.territory.pod_cidr.network());
                block.take(offset).map(Some).ok_or(PublishError::NoAddress)
            }
        }
    }

    /// Takes a pod out of every look-up.
    pub(crate) fn forget(&self, pod: &Pod) {
        let ip = pod.ip();
        let gone = self.shard(ip).write().remove(&ip);
        if pod.is_node() {
            return;
        }
        let mut directory = self.directory.write();
        directory.by_uid.remove(&pod.identity().uid);
        // Before the UID is free for a pod that comes back.
        self.policies.detach(&pod.identity().uid);
        drop(directory);
        self.zone.forget_pod(ip, pod.ip6(), pod.identity());
        drop(gone);
    }

    /// Makes the addresses of a closed pod available again.
    pub(crate) fn free_addresses(&self, ip: Ipv4Addr, loopback: Option<Ipv4Addr>) {
        // The node's address is never handed out.
        if ip != self.territory.node {
            let offset = u32::from(ip) - u32::from(self.territory.pod_cidr.network());
            self.addresses.lock().give_back(offset);
        }
        if let (Some(block), Some(loopback)) = (&self.block, loopback) {
            block.give_back(loopback);
        }
    }

    fn shard(&self, ip: Ipv4Addr) -> &RwLock<HashMap<Ipv4Addr, Arc<Pod>>> {
        &self.pods[u32::from(ip) as usize % SHARDS]
    }
}

fn check_cidr(cidr: Ipv4Net) -> Result<Ipv4Net, FabricError> {
    let (shortest, longest) = (CIDR_PREFIX_MIN, CIDR_PREFIX_MAX);
    if !(shortest..=longest).contains(&cidr.prefix_len()) {
        return Err(FabricError::CidrSize {
            cidr,
            shortest,
            longest,
        });
    }
    let touches = |reserved: &Ipv4Net| reserved.contains(&cidr) || cidr.contains(reserved);
    match RESERVED.into_iter().find(touches) {
        Some(reserved) => Err(FabricError::CidrReserved { cidr, reserved }),
        None => Ok(cidr.trunc()),
    }
}

/// Checks that a range of IPv6 has a place for each address of the other one, and that guests mean nothing
/// else by its addresses.
fn check_cidr6(range: Ipv6Net, cidr: Ipv4Net) -> Result<Ipv6Net, FabricError> {
    let places = 32 - cidr.prefix_len();
    let network = range.network();
    // Unique local or global: what is closed to guests, or carries an address of IPv4, is neither.
    let is_free = matches!(network.segments()[0], 0x2003..=0x3fff | 0xfc00..=0xfdff);
    if range.prefix_len() < CIDR6_PREFIX_MIN || 128 - range.prefix_len() < places || !is_free {
        return Err(FabricError::Cidr6 { range, cidr });
    }
    Ok(range.trunc())
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cidr = self.shared.territory.pod_cidr;
        f.debug_struct("Fabric")
            .field("pod_cidr", &cidr)
            .finish_non_exhaustive()
    }
}
