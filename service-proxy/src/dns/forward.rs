//! Questions about names outside of the zone: who is asked, how many at once.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_network::{Fabric, PodNetwork, TTL_SECONDS, Upstream};
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::client::{ask, ways};
use super::places::{Place, Places};
use super::resolv_conf;
use super::road::Road;

/// Questions forwarded at once, and of these for one client. Each is a socket for as long as nobody
/// answers: 8 seconds with one server.
const FORWARDS_MAX: usize = 512;
const FORWARDS_PER_CLIENT_MAX: usize = 32;

/// Questions that the machine's resolver answers at once, where no file names its servers: each
/// occupies a thread.
const MACHINE_LOOKUPS_MAX: usize = 16;

/// Where the machine names its servers.
const MACHINE_FILE: &str = "/etc/resolv.conf";

/// A longer file is no resolver's.
const MACHINE_FILE_BYTES_MAX: u64 = 64 * 1024;

/// For how long the servers of the file are taken for the current ones.
const MACHINE_FILE_AGE_MAX: Duration = Duration::from_secs(5);

/// Asks others.
pub(crate) struct Forwarder {
    fabric: Fabric,
    node: PodNetwork,
    /// Our own address outside, which is never asked: it would ask itself.
    own: Option<SocketAddr>,
    places: Arc<Places>,
    machine: Mutex<Option<(Instant, Arc<[IpAddr]>)>>,
    lookups: Arc<Semaphore>,
}

impl Forwarder {
    /// Returns a forwarder that asks from the place of the node.
    pub(crate) fn new(fabric: Fabric, own: Option<SocketAddr>) -> Forwarder {
        Forwarder {
            node: fabric.host(),
            fabric,
            own,
            places: Places::new(FORWARDS_MAX, FORWARDS_PER_CLIENT_MAX),
            machine: Mutex::default(),
            lookups: Arc::new(Semaphore::new(MACHINE_LOOKUPS_MAX)),
        }
    }

    /// Takes a place for one question; nothing if the client has too many already.
    pub(crate) fn enter(&self, client: IpAddr) -> Option<Place> {
        self.places.take(client)
    }

    /// Asks whoever is to be asked now; nothing if nobody answers.
    pub(crate) async fn forward(&self, question: &Query) -> Option<Message> {
        match &*self.fabric.upstream() {
            Upstream::Servers(servers) => {
                ask(&ways(servers, &self.node, true), question).await.ok()
            }
            Upstream::Host => self.by_machine(question).await,
        }
    }

    async fn by_machine(&self, question: &Query) -> Option<Message> {
        let servers = self.machine_servers().await;
        if servers.is_empty() {
            return self.by_machines_resolver(question).await;
        }
        let at = |ip: &IpAddr| SocketAddr::new(*ip, 53);
        let ours = |address: &SocketAddr| self.own.is_some_and(|own| is_same(own, *address));
        let others = servers.iter().map(at).filter(|address| !ours(address));
        let ways: Vec<_> = others.map(|address| (Road::Kernel, address)).collect();
        ask(&ways, question).await.ok()
    }

    async fn machine_servers(&self) -> Arc<[IpAddr]> {
        let known = self.machine.lock().clone();
        if let Some((read, servers)) = known
            && read.elapsed() < MACHINE_FILE_AGE_MAX
        {
            return servers;
        }
        let text = tokio::task::spawn_blocking(machine_file).await;
        let servers: Arc<[IpAddr]> = resolv_conf::servers(&text.unwrap_or_default()).into();
        *self.machine.lock() = Some((Instant::now(), Arc::clone(&servers)));
        servers
    }

    /// Asks the machine's resolver by its own interface, which knows addresses only.
    async fn by_machines_resolver(&self, question: &Query) -> Option<Message> {
        let mut answer = Message::response(0, OpCode::Query);
        if !matches!(question.query_type, RecordType::A | RecordType::AAAA) {
            answer.metadata.response_code = ResponseCode::NotImp;
            return Some(answer);
        }
        let permit = Arc::clone(&self.lookups).acquire_owned().await.ok()?;
        let name = question.name.to_ascii();
        // The permit goes with the thread, which stays busy even if nobody waits any more.
        let looked_up = tokio::task::spawn_blocking(move || {
            let name = name.strip_suffix('.').unwrap_or(&name);
            let found = (name, 0).to_socket_addrs().map(Iterator::collect);
            drop(permit);
            found
        });
        let found: io::Result<Vec<SocketAddr>> = looked_up.await.ok()?;
        let Ok(found) = found else {
            answer.metadata.response_code = ResponseCode::NXDomain;
            return Some(answer);
        };
        let wanted = found.iter().filter_map(|found| match found.ip() {
            IpAddr::V4(ip) if question.query_type == RecordType::A => Some(RData::A(A(ip))),
            IpAddr::V6(ip) if question.query_type == RecordType::AAAA => {
                Some(RData::AAAA(AAAA(ip)))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        });
        let records =
            wanted.map(|data| Record::from_rdata(question.name.clone(), TTL_SECONDS, data));
        answer.add_answers(records);
        Some(answer)
    }
}

/// Reads the file; a machine without one has nothing to say. Blocks.
fn machine_file() -> String {
    match std::fs::metadata(MACHINE_FILE) {
        Ok(file) if file.len() <= MACHINE_FILE_BYTES_MAX => {
            std::fs::read_to_string(MACHINE_FILE).unwrap_or_default()
        }
        Ok(_) | Err(_) => String::new(),
    }
}

/// Tells whether what listens at `own` answers at `asked`.
fn is_same(own: SocketAddr, asked: SocketAddr) -> bool {
    let (ours, theirs) = (own.ip().to_canonical(), asked.ip().to_canonical());
    let is_everywhere = ours.is_unspecified() && theirs.is_loopback();
    own.port() == asked.port() && (ours == theirs || is_everywhere)
}
