//! One pod's place in the fabric: its ports, its connections, its publications, and the handle
//! others hold.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::budget::{BUFFER_BYTES_PER_POD_MAX, Budget, Purse, TrafficMeter};
use crate::connect;
use crate::egress::Family;
use crate::error::{NetError, PublishError};
use crate::fabric::{PodIdentity, Shared};
use crate::listener::{Backlog, Listener};
use crate::names::{self, ResolverConfig};
use crate::policy::PodPolicy;
use crate::publish::{Protocol, PublishPort, Published};
use crate::services::{Client, Endpoint};
use crate::stream::kernel::{Holder, KernelCount, KernelSocket, Place, Traffic};
use crate::stream::{Addresses, Stream, Transport};
use crate::udp::UdpSocket;
use crate::udp::inbox::Inbox;

pub(crate) mod live;
pub(crate) mod ports;
mod publishing;

use live::{Held, Live};
use ports::{PortTable, Slots};
use publishing::Publishing;

/// A pod's network: one address, one port space and one loopback for all its containers.
///
/// Clones share the attachment. It ends with [`PodNetwork::detach`], or when the last clone is
/// dropped; sockets that outlive it fail.
#[derive(Clone)]
pub struct PodNetwork {
    attachment: Arc<Attachment>,
}

/// Detaches when the last handle is gone.
struct Attachment {
    pod: Arc<Pod>,
    end: End,
}

/// What the end of the last handle means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Detaches,
    /// Others hold the attachment.
    Nothing,
}

/// What sockets and the fabric share of one pod.
pub(crate) struct Pod {
    fabric: Arc<Shared>,
    ip: Ipv4Addr,
    identity: PodIdentity,
    tcp: Mutex<PortTable<TcpHolder>>,
    udp: Mutex<PortTable<Arc<Inbox>>>,
    live: Mutex<Live>,
    publishing: Mutex<Publishing>,
    budget: Arc<Budget>,
    kernel: KernelCount,
    lookups: Arc<Semaphore>,
    aliases: OnceLock<Vec<(String, IpAddr)>>,
    resolver: OnceLock<Arc<ResolverConfig>>,
    policy: Arc<PodPolicy>,
    closed: AtomicBool,
}

/// What holds a TCP port.
#[derive(Clone)]
enum TcpHolder {
    /// A bound socket, or the source of a connection.
    Bound,
    /// A listener.
    Listening(Arc<Backlog>),
}

/// A TCP port of a pod, held until this is dropped or what it was given to ends.
pub struct TcpPort {
    pod: Arc<Pod>,
    slots: Slots,
    local: SocketAddr,
    released: AtomicBool,
}

/// A connection's entry in its pod's register, removed on drop.
pub(crate) struct Membership {
    pod: Arc<Pod>,
    id: u64,
}

impl PodNetwork {
    /// Wraps a pod that was just attached.
    pub(crate) fn new(pod: Arc<Pod>) -> PodNetwork {
        PodNetwork {
            attachment: Arc::new(Attachment {
                pod,
                end: End::Detaches,
            }),
        }
    }

    /// Returns a handle that others' attachment outlives.
    pub(crate) fn lent(pod: Arc<Pod>) -> PodNetwork {
        PodNetwork {
            attachment: Arc::new(Attachment {
                pod,
                end: End::Nothing,
            }),
        }
    }

    /// Returns the pod's address.
    pub fn ip(&self) -> Ipv4Addr {
        self.pod().ip
    }

    /// Returns its second address, of IPv6, if pods have one.
    pub fn ip6(&self) -> Option<Ipv6Addr> {
        self.pod().ip6()
    }

    /// Returns the host name the pod's containers see.
    pub fn hostname(&self) -> &str {
        &self.pod().identity.hostname
    }

    /// Returns the bytes that the pod's connections and sockets hold in memory now.
    pub fn buffered_bytes(&self) -> usize {
        self.pod().budget.used()
    }

    /// Makes buffered bytes somebody's memory, beside the limit that they have. Where that has no more, a
    /// writer waits and a datagram is lost, as with the limit; the few KiB that every connection is
    /// promised are held all the same. Only the first call counts.
    pub fn pay_from(&self, purse: Arc<dyn Purse>) {
        self.pod().budget.pay_from(purse);
    }

    /// Returns what reads the bytes that pass through the pod's sockets, whoever is on the other side but
    /// the pod itself. It keeps no pod attached.
    pub fn traffic(&self) -> TrafficMeter {
        TrafficMeter::new(&self.pod().budget)
    }

    /// Holds a TCP port, as `bind` does; port 0 takes a random free one.
    ///
    /// `0.0.0.0` is the pod's address and `127.0.0.1`; `[::]` is these and `::1`, so a listener on
    /// it takes IPv4 too and clashes with one on `0.0.0.0`; `::ffff:a.b.c.d` is `a.b.c.d`. A held
    /// port is [`NetError::AddressInUse`], an address that is not the pod's
    /// [`NetError::AddressNotAvailable`].
    pub fn reserve_tcp(&self, local: SocketAddr) -> Result<TcpPort, NetError> {
        self.pod().reserve_tcp(local)
    }

    /// Makes a held port listen. At most `backlog` connections wait to be accepted, further ones
    /// wait to be let in. The port's publications accept connections from here on.
    pub fn listen(&self, port: TcpPort, backlog: usize) -> Result<Listener, NetError> {
        let pod = self.pod();
        if !Arc::ptr_eq(pod, &port.pod) {
            return Err(NetError::InvalidArgument);
        }
        let backlog = Backlog::new(backlog, port.local);
        let holder = TcpHolder::Listening(Arc::clone(&backlog));
        let (slots, number) = (port.slots, port.local.port());
        let mut table = pod.tcp.lock();
        table.replace(slots, number, holder)?;
        pod.opened_outside(Protocol::Tcp, slots, number);
        drop(table);
        let listener = Listener::new(Arc::clone(&backlog), port);
        if slots.meets(Slots::POD) {
            for publication in pod.publications_of(Protocol::Tcp, number) {
                backlog.join(&publication)?;
            }
        }
        Ok(listener)
    }

    /// Connects to a Service, to a pod, to the pod's own loopback, or out through the host as the
    /// egress rules allow.
    ///
    /// Within the fabric it is done at once: [`NetError::ConnectionRefused`] where nothing listens,
    /// [`NetError::Unreachable`] where no pod is; it waits only while the listener's backlog is
    /// full. Going out opens a kernel socket on the reactor of the caller, which must be a tokio
    /// runtime.
    ///
    /// A connection to a Service goes straight to an endpoint; another one is tried when that does
    /// not take it. Without endpoints it is refused at once; where the Service's policy drops it, it
    /// times out as a packet filter would make it. Cancel safe.
    pub async fn connect(&self, from: Option<TcpPort>, to: SocketAddr) -> Result<Stream, NetError> {
        connect::from_pod(self.pod(), from, to).await
    }

    /// Binds a UDP socket, under the same rules for addresses as [`PodNetwork::reserve_tcp`].
    /// Datagrams to the port's publications reach it too.
    pub fn bind_udp(&self, local: SocketAddr) -> Result<UdpSocket, NetError> {
        UdpSocket::bind(self.pod(), local)
    }

    /// Answers a name as `getaddrinfo` in a container of the pod would: literals, `localhost`, the
    /// pod's own names, names of the cluster as [`PodNetwork::set_resolver`] says, and whoever is asked
    /// upstream for everything else. Names under the cluster domain never leave the process. What an
    /// answer may be used for is decided when it is connected to.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetError> {
        names::resolve(self, self.pod(), name).await
    }

    /// Says how names are completed and who answers them; the policy `ClusterFirst` until it is said.
    /// Only the first call counts.
    pub fn set_resolver(&self, config: ResolverConfig) {
        let _ = self.pod().resolver.set(Arc::new(config));
    }

    /// Gives the pod names of its own, which are answered before all others, as lines of `/etc/hosts`
    /// are. Only the first call counts.
    pub fn name_hosts(&self, aliases: Vec<(String, IpAddr)>) {
        let _ = self.pod().aliases.set(aliases);
    }

    /// Publishes a port of the pod on the host; the host port is bound when this returns.
    pub fn publish(&self, port: PublishPort) -> Result<Published, PublishError> {
        self.pod().publish(&port)
    }

    /// Ends everything the pod has on the network: listeners and waiting calls fail, connections
    /// are reset, publications close, the address is free. Doing it again is harmless.
    pub fn detach(&self) {
        self.pod().close();
    }

    pub(crate) fn pod(&self) -> &Arc<Pod> {
        &self.attachment.pod
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.end == End::Detaches {
            self.pod.close();
        }
    }
}

impl Pod {
    /// Returns a pod with nothing on it.
    pub(crate) fn new(fabric: Arc<Shared>, ip: Ipv4Addr, identity: PodIdentity) -> Pod {
        let budget = Arc::new(Budget::new(BUFFER_BYTES_PER_POD_MAX));
        let policy = fabric.policies().attach(&identity.uid);
        Pod {
            fabric,
            ip,
            identity,
            policy,
            tcp: Mutex::new(PortTable::new()),
            udp: Mutex::new(PortTable::new()),
            live: Mutex::new(Live::new()),
            publishing: Mutex::new(Publishing::new()),
            kernel: KernelCount::new(Arc::clone(&budget)),
            budget,
            lookups: Arc::new(Semaphore::new(names::LOOKUPS_PER_POD_MAX)),
            aliases: OnceLock::new(),
            resolver: OnceLock::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Returns the node's own place. What it sends is charged to the account of the host side: it
    /// answers all pods.
    pub(crate) fn of_node(fabric: Arc<Shared>) -> Pod {
        let identity = PodIdentity {
            namespace: String::new(),
            name: "node".to_owned(),
            uid: String::new(),
            hostname: "localhost".to_owned(),
            subdomain: None,
        };
        let ip = fabric.territory().node;
        let budget = Arc::clone(fabric.host_budget());
        Pod {
            budget,
            ..Pod::new(fabric, ip, identity)
        }
    }

    /// Returns the pod's address.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Returns its second address.
    pub(crate) fn ip6(&self) -> Option<Ipv6Addr> {
        self.fabric.territory().twin(self.ip)
    }

    /// Returns its address of a family, that of IPv4 where it has no other.
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.ip.into(),
            Family::V6 => self.ip6().map_or(self.ip.into(), IpAddr::V6),
        }
    }

    /// Tells whether this is the node's own place.
    pub(crate) fn is_node(&self) -> bool {
        self.ip == self.fabric.territory().node
    }

    /// Returns who the pod is to a Service.
    pub(crate) fn client(&self) -> Client {
        if self.is_node() {
            Client::Node
        } else {
            Client::Pod(self.ip.into())
        }
    }

    /// Returns who the pod is.
    pub(crate) fn identity(&self) -> &PodIdentity {
        &self.identity
    }

    /// Returns the fabric the pod is attached to.
    pub(crate) fn fabric(&self) -> &Arc<Shared> {
        &self.fabric
    }

    /// Returns the account of the pod's buffers.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Returns the count of the pod's kernel sockets.
    pub(crate) fn kernel_count(&self) -> &KernelCount {
        &self.kernel
    }

    /// Returns the bound on look-ups the pod has under way.
    pub(crate) fn lookups(&self) -> &Arc<Semaphore> {
        &self.lookups
    }

    /// Returns the addresses the pod itself gives a name.
    pub(crate) fn aliases(&self, name: &str) -> Vec<IpAddr> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let aliases = self.aliases.get().into_iter().flatten();
        let named = aliases.filter(|(alias, _)| alias.eq_ignore_ascii_case(name));
        named.map(|(_, ip)| *ip).collect()
    }

    /// Returns what is admitted to and from the pod.
    pub(crate) fn policy(&self) -> &PodPolicy {
        &self.policy
    }

    /// Returns how the pod's names are completed.
    pub(crate) fn resolver(&self) -> Arc<ResolverConfig> {
        let of_cluster = || {
            let (namespace, domain) = (&self.identity.namespace, self.fabric.zone().domain());
            Arc::new(ResolverConfig::cluster(namespace, domain))
        };
        self.resolver.get().cloned().unwrap_or_else(of_cluster)
    }

    /// Returns the pod's UDP ports.
    pub(crate) fn udp_ports(&self) -> &Mutex<PortTable<Arc<Inbox>>> {
        &self.udp
    }

    fn reserve_tcp(self: &Arc<Self>, local: SocketAddr) -> Result<TcpPort, NetError> {
        let slots = Slots::bound_to(local.ip(), self.ip, self.ip6())
            .ok_or(NetError::AddressNotAvailable)?;
        if local.port() == 0 {
            return self.hold_any(slots, local.ip());
        }
        self.tcp
            .lock()
            .reserve(slots, local.port(), TcpHolder::Bound)?;
        Ok(TcpPort::held(self, slots, local))
    }

    /// Holds a random port on `slots`, which `ip` stands for.
    pub(crate) fn hold_any(
        self: &Arc<Self>,
        slots: Slots,
        ip: IpAddr,
    ) -> Result<TcpPort, NetError> {
        let mut random = rand::rng();
        let port = self
            .tcp
            .lock()
            .reserve_ephemeral(slots, TcpHolder::Bound, &mut random)?;
        Ok(TcpPort::held(self, slots, SocketAddr::new(ip, port)))
    }

    /// Returns the listener of a port.
    pub(crate) fn listening(&self, slot: Slots, port: u16) -> Option<Arc<Backlog>> {
        match self.tcp.lock().find(slot, port)? {
            TcpHolder::Listening(backlog) => Some(Arc::clone(backlog)),
            TcpHolder::Bound => None,
        }
    }

    /// Tells whoever gives the pod its address outside what it serves already.
    pub(crate) fn tell_outside(&self) {
        let table = self.tcp.lock();
        for (slots, port, holder) in table.iter() {
            if let TcpHolder::Listening(_) = holder {
                self.opened_outside(Protocol::Tcp, slots, port);
            }
        }
        drop(table);
        let table = self.udp.lock();
        for (slots, port, inbox) in table.iter() {
            if inbox.is_open_outside() {
                self.opened_outside(Protocol::Udp, slots, port);
            }
        }
    }

    /// Enters a connection into the register of what detaching ends.
    pub(crate) fn enter(self: &Arc<Self>, held: Held) -> Result<Membership, NetError> {
        let id = self.live.lock().insert(held)?;
        Ok(Membership {
            pod: Arc::clone(self),
            id,
        })
    }

    /// Makes an accepted kernel socket the pod's own stream, with the pod's address as its local
    /// one.
    pub(crate) fn take_kernel_stream(
        self: &Arc<Self>,
        tcp: tokio::net::TcpStream,
        peer: SocketAddr,
        place: Place,
        listener: SocketAddr,
        endpoint: Option<Arc<Endpoint>>,
    ) -> io::Result<Stream> {
        let traffic = endpoint.map(|endpoint| Traffic::new(endpoint, Holder::Server));
        let socket = KernelSocket::new(tcp, place, traffic);
        let membership = self.enter(Held::Kernel(Arc::downgrade(&socket)))?;
        let family = Family::of(peer.ip().to_canonical());
        let local = SocketAddr::new(self.address(family), listener.port());
        let addresses = Addresses {
            local,
            peer: self.fabric.shown(peer),
        };
        let seen = addresses.seen_by(listener);
        Ok(Stream::new(
            Transport::Kernel(socket),
            seen,
            Some(membership),
            None,
        ))
    }

    /// Ends everything the pod has on the network, once.
    fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.fabric.forget(self);
        let (publications, loopback) = self.publishing.lock().close();
        publications
            .iter()
            .for_each(|publication| publication.end());
        let mut table = self.tcp.lock();
        let listeners = table.close();
        for (slots, port, holder) in &listeners {
            if let TcpHolder::Listening(_) = holder {
                self.closed_outside(Protocol::Tcp, *slots, *port);
            }
        }
        drop(table);
        for (_, _, holder) in listeners {
            if let TcpHolder::Listening(backlog) = holder {
                drop(backlog.close());
            }
        }
        let mut table = self.udp.lock();
        let inboxes = table.close();
        for (slots, port, _) in &inboxes {
            self.closed_outside(Protocol::Udp, *slots, *port);
        }
        drop(table);
        for (_, _, inbox) in inboxes {
            // The publications it served have ended already.
            drop(inbox.close());
        }
        let connections = self.live.lock().close();
        connections.into_iter().for_each(Held::end);
        self.fabric.free_addresses(self.ip, loopback);
    }
}

impl TcpPort {
    fn held(pod: &Arc<Pod>, slots: Slots, local: SocketAddr) -> TcpPort {
        TcpPort {
            pod: Arc::clone(pod),
            slots,
            local,
            released: AtomicBool::new(false),
        }
    }

    /// Returns the address as it was bound, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Returns the addresses the port is held on.
    pub(crate) fn slots(&self) -> Slots {
        self.slots
    }

    /// Returns the pod.
    pub(crate) fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Lets go of the port before the handle is dropped.
    pub(crate) fn release(&self) {
        if !self.released.swap(true, Ordering::AcqRel) {
            let (slots, port) = (self.slots, self.local.port());
            let mut table = self.pod.tcp.lock();
            let holder = table.release(slots, port);
            if let Some(TcpHolder::Listening(_)) = holder {
                self.pod.closed_outside(Protocol::Tcp, slots, port);
            }
            drop(table);
            // After the lock: a backlog may hold streams with ports.
            drop(holder);
        }
    }
}

impl Drop for TcpPort {
    fn drop(&mut self) {
        self.release();
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.pod.live.lock().remove(self.id);
    }
}

impl fmt::Debug for PodNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PodIdentity {
            namespace, name, ..
        } = self.pod().identity();
        f.debug_struct("PodNetwork")
            .field("pod", &format_args!("{namespace}/{name}"))
            .field("ip", &self.ip())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pod")
            .field("ip", &self.ip)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TcpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpPort")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}
