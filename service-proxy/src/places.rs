//! Where Services are reached outside the pods' network, in terms of Services: for whoever tells
//! people.
//!
//! A task of its own tells, since it looks at all addresses: the follower must not wait for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_network::{FrontAddress, FrontKind, Fronts, Protocol, ServicePortName, ServiceTable};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::edge::{Published, PublishedAt};
use crate::events::{About, EventSink, Reason};
use crate::facts::{PortFacts, ServiceFacts, ServiceKey};

/// The rest between two looks at all addresses: people do not read faster, and ten thousand Services
/// that come one after the other are not looked at ten thousand times.
const TELL_PAUSE: Duration = Duration::from_millis(20);

/// One address of a Service's port, and where that is outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePlace {
    /// The port.
    pub name: ServicePortName,
    /// What kind of address it is.
    pub kind: FrontKind,
    /// The address in the cluster; none for a node port, which is on every address of the node, or an
    /// unspecified one for one on every address of a family.
    pub front: FrontAddress,
    /// What is likely spoken there: `http`, `https`, `tcp` or `udp`.
    pub scheme: &'static str,
    /// Where it is reached on this machine, or why it is not.
    pub at: Result<SocketAddr, String>,
}

impl ServicePlace {
    /// Returns what a person can type, where the port is reached.
    pub fn url(&self) -> Option<String> {
        let at = self.at.as_ref().ok()?;
        Some(format!("{}://{at}", self.scheme))
    }

    /// Says what the API does not show: the place of an address that is not there itself. Nothing
    /// where the address leads there by itself.
    fn told(&self) -> Option<Told> {
        let port = self.front.port;
        let ip = self.front.ip.filter(|ip| !ip.is_unspecified());
        let address = match ip {
            Some(ip) => format!("`{}`", SocketAddr::new(ip, port)),
            None => format!("node port {port}"),
        };
        match &self.at {
            Err(reason) => Some(Told::Failed(format!("{address} is not reached: {reason}"))),
            Ok(at) if ip.is_none_or(|ip| ip == at.ip()) && at.port() == port => None,
            Ok(at) => Some(Told::Elsewhere(format!(
                "{address} is reached at {}://{at} on this machine",
                self.scheme
            ))),
        }
    }
}

/// What is told about a place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    /// It is reached at another address.
    Elsewhere(String),
    /// It is not reached.
    Failed(String),
}

/// The Services by name, for whoever tells about them.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    known: Mutex<HashMap<ServiceKey, Arc<ServiceFacts>>>,
}

impl Directory {
    /// Enters a Service, new or changed.
    pub(crate) fn set(&self, facts: Arc<ServiceFacts>) {
        self.known.lock().insert(facts.key.clone(), facts);
    }

    /// Forgets a Service.
    pub(crate) fn remove(&self, key: &ServiceKey) {
        self.known.lock().remove(key);
    }

    fn of(&self, name: &ServicePortName) -> Option<Arc<ServiceFacts>> {
        let key = ServiceKey {
            namespace: name.namespace.clone(),
            name: name.service.clone(),
        };
        self.known.lock().get(&key).cloned()
    }
}

/// Tells where Services are reached: whoever follows it, and of each address what is new by an event.
pub(crate) struct Teller {
    table: Arc<ServiceTable>,
    directory: Arc<Directory>,
    events: EventSink,
    places: watch::Sender<Arc<[ServicePlace]>>,
    /// What was told last, by the address and which of its places it is.
    told: HashMap<(FrontAddress, usize), Told>,
}

impl Teller {
    /// Returns a teller that has told nothing, and what follows it.
    pub(crate) fn new(
        table: Arc<ServiceTable>,
        directory: Arc<Directory>,
        events: EventSink,
    ) -> (Teller, watch::Receiver<Arc<[ServicePlace]>>) {
        let (places, receiver) = watch::channel(Arc::from([]));
        let teller = Teller {
            table,
            directory,
            events,
            places,
            told: HashMap::new(),
        };
        (teller, receiver)
    }

    /// Tells what is published, until `stop`.
    pub(crate) async fn tell_all(
        mut self,
        mut published: watch::Receiver<Arc<Published>>,
        stop: CancellationToken,
    ) {
        let telling = async {
            while published.changed().await.is_ok() {
                let now = Arc::clone(&published.borrow_and_update());
                self.tell(&now);
                tokio::time::sleep(TELL_PAUSE).await;
            }
        };
        // Cancel-safe: nobody acts on what is told.
        stop.run_until_cancelled(telling).await;
    }

    fn tell(&mut self, published: &Published) {
        let service = |name: &ServicePortName| self.directory.of(name);
        let places = places(&self.table.fronts(), published, service);
        let mut told = HashMap::new();
        for (index, place) in places.iter().enumerate() {
            let Some(now) = place.told() else { continue };
            let same = places.iter().take(index).rev();
            let which = same.take_while(|one| one.front == place.front).count();
            let before = self.told.get(&(place.front, which));
            if before != Some(&now)
                && let Some(facts) = self.directory.of(&place.name)
            {
                let (reason, message) = match &now {
                    Told::Elsewhere(message) => (Reason::Published, message),
                    Told::Failed(message) => (Reason::NotPublished, message),
                };
                let about = About::service(&facts);
                self.events.tell(about, reason, message.clone());
            }
            told.insert((place.front, which), now);
        }
        self.told = told;
        self.places.send_replace(places.into());
    }
}

/// Returns the places of all fronts that have any, in the order of Services and their ports.
fn places(
    fronts: &Fronts,
    published: &Published,
    service: impl Fn(&ServicePortName) -> Option<Arc<ServiceFacts>>,
) -> Vec<ServicePlace> {
    let fronts = fronts.iter().collect::<HashMap<_, _>>();
    let mut all = Vec::new();
    for (address, ats) in published.iter() {
        let Some(front) = fronts.get(address) else {
            continue;
        };
        let name = front.service.name();
        let service = service(name);
        let facts = service.as_ref().and_then(|service| {
            let mut ports = service.ports.iter();
            ports.find(|port| port.name == name.port && port.protocol == name.protocol)
        });
        all.extend(ats.iter().map(|at| ServicePlace {
            name: name.clone(),
            kind: front.kind,
            front: *address,
            scheme: scheme(name, facts),
            at: match at {
                PublishedAt::Address(address) => Ok(*address),
                PublishedAt::Failed(failure) => Err(failure.to_string()),
            },
        }));
    }
    all.sort_by(|a, b| {
        let order = |one: &ServicePlace| (kind_order(one.kind), one.front.ip, one.front.port);
        a.name.cmp(&b.name).then_with(|| order(a).cmp(&order(b)))
    });
    all
}

fn kind_order(kind: FrontKind) -> u8 {
    match kind {
        FrontKind::ClusterIp => 0,
        FrontKind::LoadBalancer => 1,
        FrontKind::ExternalIp => 2,
        FrontKind::NodePort => 3,
    }
}

/// Guesses what is spoken on a port: as its Service says it, else by the customary names and numbers.
fn scheme(name: &ServicePortName, facts: Option<&PortFacts>) -> &'static str {
    if name.protocol == Protocol::Udp {
        return "udp";
    }
    let said = facts.and_then(|port| port.app_protocol.as_deref());
    match said.unwrap_or_default() {
        "http" | "kubernetes.io/ws" => return "http",
        "https" | "kubernetes.io/wss" => return "https",
        "" => {}
        _ => return "tcp",
    }
    let is_named = |word: &str| {
        let rest = name.port.strip_prefix(word);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let number = facts.map_or(0, |port| port.port);
    match number {
        _ if is_named("https") => "https",
        _ if is_named("http") || is_named("web") => "http",
        443 | 8443 => "https",
        80 | 8000 | 8080 => "http",
        _ => "tcp",
    }
}

#[cfg(test)]
mod tests;
