//! Gives Services of the type LoadBalancer an address of a pool (contract F.4).
//!
//! Who has which address is read off the Services themselves: after a restart, everyone keeps his own,
//! and an address is free once its Service is gone, or is no LoadBalancer any more.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use http::Method;
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Client,
    runtime::watcher::{self, Event},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    seen::{Change, Facts, Key, Listing, Seen, WireMeta},
    service::Family,
};
use crate::{
    changes::changes,
    controllers::{
        events::{About, warn},
        queue::{Backoff, Step, Workers},
        requests::{MERGE_PATCH, send, unless},
    },
};

const SERVICES_AT_ONCE: usize = 8;

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(5),
    longest: Duration::from_secs(30),
};

/// How the stock controller of load balancers calls itself and its troubles.
const COMPONENT: &str = "service-controller";
const FAILED: &str = "SyncLoadBalancerFailed";

/// A Service as far as its load balancer is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Balanced {
    uid: Arc<str>,
    need: Need,
    ingress: Ingress,
    created: Option<Timestamp>,
}

/// What a Service needs of us.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Need {
    /// An address of each of these families, best this one.
    Addresses(Vec<Family>, Option<String>),
    /// It is no LoadBalancer.
    Nothing,
    /// It is somebody else's: of a class, or going.
    HandsOff,
}

/// What a Service's status says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ingress {
    Nothing,
    Ips(Vec<IpAddr>),
    /// Something that is not written here.
    Other,
}

/// What a Service gets.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Give(Vec<IpAddr>),
    Clear,
}

/// Why a Service does not get what it needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Trouble {
    #[error("no {} address of the pool is free", .0.text())]
    Exhausted(Family),
    #[error("`{0}`, which spec.loadBalancerIP asks for, is no address of the pool")]
    Outside(String),
    #[error("`{0}`, which spec.loadBalancerIP asks for, belongs to another Service")]
    Taken(IpAddr),
}

/// What is to be done and said.
#[derive(Debug, Default, PartialEq)]
struct Judgement {
    verdicts: BTreeMap<Key, Verdict>,
    troubles: BTreeMap<Key, Trouble>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BalancedWire {
    metadata: WireMeta,
    spec: Option<SpecWire>,
    status: Option<StatusWire>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecWire {
    #[serde(rename = "type")]
    kind: Option<String>,
    load_balancer_class: Option<String>,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: Option<String>,
    ip_families: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StatusWire {
    load_balancer: Option<BalancerWire>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BalancerWire {
    ingress: Option<Vec<PointWire>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PointWire {
    ip: Option<String>,
}

impl Facts for Balanced {
    type Kind = Service;
    type Wire = BalancedWire;

    fn of(wire: BalancedWire) -> (WireMeta, Self) {
        let (meta, spec) = (wire.metadata, wire.spec.unwrap_or_default());
        let balancer = wire.status.and_then(|status| status.load_balancer);
        let points = balancer.and_then(|balancer| balancer.ingress);
        let families = spec.ip_families.unwrap_or_default();
        let mut families = families.iter().filter_map(|family| Family::of(family));
        let main = families.next().unwrap_or(Family::V4);
        let families = [main].into_iter().chain(families).collect();
        let wish = spec.load_balancer_ip.filter(|wish| !wish.is_empty());
        let is_balancer = spec.kind.as_deref() == Some("LoadBalancer");
        let facts = Balanced {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            need: match (is_balancer, spec.load_balancer_class) {
                _ if meta.is_deleting() => Need::HandsOff,
                (false, _) => Need::Nothing,
                (true, Some(_)) => Need::HandsOff,
                (true, None) => Need::Addresses(families, wish),
            },
            ingress: match points.as_deref() {
                None | Some([]) => Ingress::Nothing,
                Some(points) => {
                    let ips = points.iter().map(|point| point.ip.as_ref()?.parse().ok());
                    let ips = ips.collect::<Option<Vec<_>>>();
                    ips.map_or(Ingress::Other, Ingress::Ips)
                }
            },
            created: meta.creation_timestamp,
        };
        (meta, facts)
    }
}

/// Decides who gets which address. Whoever has one keeps it; the oldest Service chooses first. Pure.
fn judge(pool: &[IpNet], services: &BTreeMap<Key, Balanced>) -> Judgement {
    let mut judgement = Judgement::default();
    let mut taken: HashSet<IpAddr> = HashSet::new();
    let mut by_age: Vec<(&Key, &Balanced)> = services.iter().collect();
    by_age.sort_by_key(|(key, service)| (service.created, *key));
    let mut wanting = Vec::new();
    for (key, service) in by_age {
        let held = match &service.ingress {
            Ingress::Ips(ips) if service.need != Need::Nothing => {
                let own = ips.iter().copied().filter(|ip| contains(pool, *ip));
                own.filter(|ip| taken.insert(*ip)).collect::<Vec<_>>()
            }
            Ingress::Ips(_) | Ingress::Nothing | Ingress::Other => Vec::new(),
        };
        match &service.need {
            Need::HandsOff => (),
            Need::Nothing if service.ingress == Ingress::Nothing => (),
            Need::Nothing => drop(judgement.verdicts.insert(key.clone(), Verdict::Clear)),
            Need::Addresses(families, wish) => {
                wanting.push((key, service, families, wish.as_deref(), held));
            }
        }
    }
    // Nobody is given what another one holds.
    for (key, service, families, wish, held) in wanting {
        let (given, trouble) = settle(pool, &mut taken, (families, wish), &held);
        if let Some(trouble) = trouble {
            judgement.troubles.insert(key.clone(), trouble);
        }
        let verdict = match given.is_empty() {
            true if service.ingress == Ingress::Nothing => continue,
            true => Verdict::Clear,
            false if service.ingress == Ingress::Ips(given.clone()) => continue,
            false => Verdict::Give(given),
        };
        judgement.verdicts.insert(key.clone(), verdict);
    }
    judgement
}

/// Settles the addresses of one Service: those that it holds, unless it wishes for another one, and free
/// ones. A pool without any address of a second family gives one of the main family alone.
fn settle(
    pool: &[IpNet],
    taken: &mut HashSet<IpAddr>,
    (families, wish): (&[Family], Option<&str>),
    held: &[IpAddr],
) -> (Vec<IpAddr>, Option<Trouble>) {
    let (mut given, mut troubles) = (Vec::new(), None);
    // What is no address of a second family is meant for the main one.
    let wished = wish.and_then(|wish| wish.parse().ok());
    let meant = families
        .iter()
        .position(|family| wished.is_some_and(|ip| family.has(ip)));
    for (place, family) in families.iter().enumerate() {
        let wish = wish.filter(|_| place == meant.unwrap_or(0));
        let own = held.iter().copied().find(|ip| family.has(*ip));
        if let Some(own) = own
            && (wish.is_none() || wished == Some(own))
        {
            given.push(own);
            continue;
        }
        match choose(pool, taken, *family, wish) {
            Ok(ip) => {
                taken.insert(ip);
                given.push(ip);
            }
            Err(Trouble::Exhausted(_))
                if place > 0 && !pool.iter().any(|net| family.has(net.addr())) => {}
            Err(trouble) => {
                given.extend(own);
                troubles = troubles.or(Some(trouble));
            }
        }
    }
    (given, troubles)
}

fn choose(
    pool: &[IpNet],
    taken: &HashSet<IpAddr>,
    family: Family,
    wish: Option<&str>,
) -> Result<IpAddr, Trouble> {
    let Some(wish) = wish else {
        // The first address of a network of IPv6 is that of its routers.
        let is_given = |net: &IpNet, ip: IpAddr| {
            ip.is_ipv4() || ip != net.network() || net.prefix_len() == net.max_prefix_len()
        };
        let of_net = |net: &IpNet| {
            let net = *net;
            net.hosts().filter(move |ip| is_given(&net, *ip))
        };
        let mut addresses = pool.iter().flat_map(of_net);
        let free = addresses.find(|ip| family.has(*ip) && !taken.contains(ip));
        return free.ok_or(Trouble::Exhausted(family));
    };
    match wish.parse() {
        Ok(ip) if !contains(pool, ip) || !family.has(ip) => Err(Trouble::Outside(wish.to_owned())),
        Ok(ip) if taken.contains(&ip) => Err(Trouble::Taken(ip)),
        Ok(ip) => Ok(ip),
        Err(_) => Err(Trouble::Outside(wish.to_owned())),
    }
}

fn contains(pool: &[IpNet], ip: IpAddr) -> bool {
    pool.iter().any(|net| net.contains(&ip))
}

/// Services, and what has been said to them.
#[derive(Debug, Default)]
struct Balancers {
    pool: Vec<IpNet>,
    list: Listing,
    services: BTreeMap<Key, Balanced>,
    told: HashMap<Key, (Arc<str>, Trouble)>,
}

/// One thing to write about one Service.
#[derive(Debug, PartialEq)]
struct Work {
    uid: Arc<str>,
    verdict: Option<Verdict>,
    trouble: Option<Trouble>,
}

/// Runs until it is dropped.
pub(in crate::controllers) async fn run(client: Client, pool: Vec<IpNet>) {
    let all = watcher::Config::default();
    let mut events = changes::<Seen<Balanced>>(client.clone(), &(), all);
    let mut balancers = Balancers {
        pool,
        ..Balancers::default()
    };
    let mut workers: Workers<Key, Result<(), kube::Error>> =
        Workers::new(SERVICES_AT_ONCE, BACKOFF);
    loop {
        let is_known = balancers.list.is_known();
        // Neither stream nor workers lose anything when the other wins.
        let touched = tokio::select! {
            Some(event) = events.next() => balancers.take(event),
            step = workers.next(), if is_known => match step {
                Step::Begin(key) => {
                    match balancers.begin(&key) {
                        None => workers.done(&key),
                        Some(work) => {
                            let done = write(client.clone(), key.clone(), work);
                            workers.start(key, done);
                        }
                    }
                    Vec::new()
                }
                Step::Finished(key, Ok(())) => {
                    workers.done(&key);
                    Vec::new()
                }
                Step::Finished(key, Err(error)) => {
                    let (namespace, name) = (&key.0, &key.1);
                    tracing::warn!(%namespace, %name, %error, "address not given, tried again");
                    balancers.failed(&key);
                    workers.retry(&key);
                    Vec::new()
                }
            },
            else => return,
        };
        for key in touched {
            workers.add(key);
        }
    }
}

impl Balancers {
    /// Takes in news; returns the Services that something is to be done about.
    fn take(&mut self, event: Event<Seen<Balanced>>) -> Vec<Key> {
        let ends = matches!(event, Event::InitDone);
        let services = &self.services;
        let known = || services.keys().cloned().collect();
        let mut changed = ends;
        for change in self.list.take(event, known) {
            changed |= match change {
                Change::Is(key, facts) => {
                    let is_new = self.services.get(&key) != Some(&facts);
                    self.services.insert(key, facts);
                    is_new
                }
                Change::IsGone(key) => {
                    self.told.remove(&key);
                    self.services.remove(&key).is_some()
                }
            };
        }
        if !changed || !self.list.is_known() {
            return Vec::new();
        }
        let judgement = judge(&self.pool, &self.services);
        let troubled = judgement.troubles.into_iter().filter(|(key, trouble)| {
            let told = self.told.get(key).map(|(_, told)| told);
            told != Some(trouble)
        });
        let keys = troubled.map(|(key, _)| key);
        keys.chain(judgement.verdicts.into_keys()).collect()
    }

    /// Decides about one Service by what is known now, and takes it as done.
    fn begin(&mut self, key: &Key) -> Option<Work> {
        let mut judgement = judge(&self.pool, &self.services);
        let service = self.services.get_mut(key)?;
        let verdict = judgement.verdicts.remove(key);
        match &verdict {
            Some(Verdict::Give(ips)) => service.ingress = Ingress::Ips(ips.clone()),
            Some(Verdict::Clear) => service.ingress = Ingress::Nothing,
            None => (),
        }
        let uid = Arc::clone(&service.uid);
        let trouble = judgement.troubles.remove(key);
        let is_news = match &trouble {
            None => {
                self.told.remove(key);
                false
            }
            Some(trouble) => {
                let told = (Arc::clone(&uid), trouble.clone());
                let before = self.told.insert(key.clone(), told.clone());
                before != Some(told)
            }
        };
        let trouble = trouble.filter(|_| is_news);
        (verdict.is_some() || is_news).then_some(Work {
            uid,
            verdict,
            trouble,
        })
    }

    /// What was taken as done is not: the status is taken for one that has to be written.
    fn failed(&mut self, key: &Key) {
        if let Some(service) = self.services.get_mut(key) {
            service.ingress = Ingress::Other;
        }
    }
}

async fn write(client: Client, (namespace, name): Key, work: Work) -> Result<(), kube::Error> {
    if let Some(verdict) = &work.verdict {
        let ingress = match verdict {
            Verdict::Give(ips) => {
                let points = ips.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"}));
                Value::Array(points.collect())
            }
            Verdict::Clear => Value::Null,
        };
        let patch = json!({"metadata": {"uid": &*work.uid},
            "status": {"loadBalancer": {"ingress": ingress}}});
        let path = format!("/api/v1/namespaces/{namespace}/services/{name}/status");
        let sent = send(&client, Method::PATCH, &path, MERGE_PATCH, &patch).await;
        // It is gone, or another one has its name; the watch says so.
        unless(unless(sent, 404), 409)?;
    }
    if let Some(trouble) = &work.trouble {
        let about = About {
            kind: "Service",
            namespace: &namespace,
            name: &name,
            uid: &work.uid,
        };
        let text =
            format!("Error syncing load balancer: failed to ensure load balancer: {trouble}");
        warn(&client, COMPONENT, about, (FAILED, &text)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("n".into(), name.into())
    }

    fn service(age: i64, spec: Value, ingress: Value) -> Balanced {
        let created = Timestamp::from_second(age).expect("a time").to_string();
        let object = json!({"metadata": {"name": "x", "uid": "u", "creationTimestamp": created},
            "spec": spec, "status": {"loadBalancer": {"ingress": ingress}}});
        let seen: Seen<Balanced> = serde_json::from_value(object).expect("a service");
        seen.facts
    }

    fn balancer(age: i64, ingress: Value) -> Balanced {
        service(
            age,
            json!({"type": "LoadBalancer", "ipFamilies": ["IPv4"]}),
            ingress,
        )
    }

    fn wishing(age: i64, wish: &str, ingress: Value) -> Balanced {
        let spec = json!({"type": "LoadBalancer", "loadBalancerIP": wish});
        service(age, spec, ingress)
    }

    fn ip(ip: &str) -> IpAddr {
        ip.parse().expect("an address")
    }

    fn check(pool: &str, services: Vec<Balanced>, verdicts: &[(usize, &str)], troubles: &[usize]) {
        let pool = pool.split(',').map(|net| net.parse().expect("a network"));
        let pool = pool.collect::<Vec<_>>();
        let services = services.into_iter().enumerate();
        let services = services
            .map(|(at, service)| (key(&at.to_string()), service))
            .collect();
        let found = judge(&pool, &services);
        let expected = verdicts.iter().map(|(at, verdict)| {
            let verdict = match *verdict {
                "" => Verdict::Clear,
                addresses => Verdict::Give(addresses.split(' ').map(ip).collect()),
            };
            (key(&at.to_string()), verdict)
        });
        assert_eq!(found.verdicts, expected.collect());
        let troubled: Vec<_> = found.troubles.into_keys().collect();
        let expected: Vec<_> = troubles.iter().map(|at| key(&at.to_string())).collect();
        assert_eq!(troubled, expected);
    }

    #[test]
    fn every_balancer_gets_an_address_of_its_own_and_the_oldest_chooses_first() {
        let none = || json!([]);
        check(
            "10.9.0.0/29",
            vec![
                balancer(2, none()),
                balancer(1, none()),
                wishing(3, "10.9.0.5", none()),
            ],
            &[(0, "10.9.0.2"), (1, "10.9.0.1"), (2, "10.9.0.5")],
            &[],
        );
    }

    #[test]
    fn what_a_status_says_is_taken() {
        check(
            "10.9.0.0/30",
            vec![
                balancer(1, json!([])),
                balancer(2, json!([{"ip": "10.9.0.1", "ipMode": "VIP"}])),
            ],
            &[(0, "10.9.0.2")],
            &[],
        );
    }

    #[test]
    fn an_address_that_two_have_is_the_older_ones() {
        let same = || json!([{"ip": "10.9.0.1"}]);
        check(
            "10.9.0.0/30",
            vec![balancer(2, same()), balancer(1, same())],
            &[(0, "10.9.0.2")],
            &[],
        );
    }

    #[test]
    fn an_exhausted_pool_is_trouble_for_those_who_come_last() {
        let none = || json!([]);
        check(
            "10.9.0.0/30",
            vec![
                balancer(1, none()),
                balancer(2, none()),
                balancer(3, none()),
            ],
            &[(0, "10.9.0.1"), (1, "10.9.0.2")],
            &[2],
        );
    }

    #[test]
    fn a_wish_that_cannot_be_granted_is_trouble_and_nothing_else_is_given() {
        let holder = balancer(1, json!([{"ip": "10.9.0.1"}]));
        check(
            "10.9.0.0/29",
            vec![holder.clone(), wishing(2, "10.9.0.1", json!([]))],
            &[],
            &[1],
        );
        check(
            "10.9.0.0/29",
            vec![wishing(2, "10.8.0.1", json!([]))],
            &[],
            &[0],
        );
        check("10.9.0.0/29", vec![wishing(2, "x", json!([]))], &[], &[0]);
        // Whoever has an address keeps it until the wish can be granted.
        let has = json!([{"ip": "10.9.0.3"}]);
        check(
            "10.9.0.0/29",
            vec![holder, wishing(2, "10.9.0.1", has.clone())],
            &[],
            &[1],
        );
        check(
            "10.9.0.0/29",
            vec![wishing(2, "10.9.0.1", has)],
            &[(0, "10.9.0.1")],
            &[],
        );
    }

    #[test]
    fn a_status_that_is_no_more_due_is_cleared() {
        let has = || json!([{"ip": "10.9.0.1"}]);
        let cluster = service(1, json!({"type": "ClusterIP"}), has());
        check(
            "10.9.0.0/30",
            vec![cluster, balancer(2, json!([]))],
            &[(0, ""), (1, "10.9.0.1")],
            &[],
        );
        // An address from elsewhere is not ours to leave there.
        let foreign = json!([{"ip": "1.1.1.1"}]);
        check(
            "10.9.0.0/30",
            vec![balancer(1, foreign)],
            &[(0, "10.9.0.1")],
            &[],
        );
    }

    #[test]
    fn services_of_a_class_are_somebody_elses() {
        let spec = json!({"type": "LoadBalancer", "loadBalancerClass": "x.y/z"});
        check("10.9.0.0/30", vec![service(1, spec, json!([]))], &[], &[]);
    }

    #[test]
    fn a_service_that_is_going_keeps_its_address_until_it_is_gone() {
        let mut leaving = balancer(1, json!([{"ip": "10.9.0.1"}]));
        leaving.need = Need::HandsOff;
        let none = || json!([]);
        check(
            "10.9.0.0/30",
            vec![leaving, balancer(2, none()), balancer(3, none())],
            &[(1, "10.9.0.2")],
            &[2],
        );
    }

    #[test]
    fn addresses_are_of_the_services_family() {
        let spec = json!({"type": "LoadBalancer", "ipFamilies": ["IPv6"]});
        check(
            "10.9.0.0/30",
            vec![service(1, spec.clone(), json!([]))],
            &[],
            &[0],
        );
        check(
            "fd00::/126",
            vec![service(1, spec, json!([]))],
            &[(0, "fd00::1")],
            &[],
        );
    }

    #[test]
    fn a_service_of_both_families_has_an_address_of_each_that_the_pool_has() {
        let both = |wish: &str, ingress: Value| {
            let spec = json!({"type": "LoadBalancer", "ipFamilies": ["IPv4", "IPv6"],
                "loadBalancerIP": wish});
            service(1, spec, ingress)
        };
        let none = || json!([]);
        let pool = "10.9.0.0/30,fd00::/126";
        let given = [(0, "10.9.0.1 fd00::1")];
        check(pool, vec![both("", none())], &given, &[]);
        check(
            pool,
            vec![both("fd00::2", none())],
            &[(0, "10.9.0.1 fd00::2")],
            &[],
        );
        check(
            pool,
            vec![both("10.9.0.2", none())],
            &[(0, "10.9.0.2 fd00::1")],
            &[],
        );
        let has = json!([{"ip": "10.9.0.2"}, {"ip": "fd00::3"}]);
        check(pool, vec![both("", has.clone())], &[], &[]);
        // What there is of the second family comes to the one that was there, and leaves it.
        let one = json!([{"ip": "10.9.0.2"}]);
        check(
            pool,
            vec![both("", one.clone())],
            &[(0, "10.9.0.2 fd00::1")],
            &[],
        );
        check(pool, vec![balancer(1, has)], &[(0, "10.9.0.2")], &[]);
        check("10.9.0.0/30", vec![both("", one)], &[], &[]);
        let other = json!({"type": "LoadBalancer", "ipFamilies": ["IPv6"]});
        let other = service(0, other, json!([{"ip": "fd00:1::1"}]));
        let pool = "10.9.0.0/30,fd00:1::1/128";
        let given = [(1, "10.9.0.1")];
        check(pool, vec![other, both("", none())], &given, &[1]);
    }

    #[test]
    fn a_trouble_is_told_once_and_ends_when_an_address_becomes_free() {
        let mut balancers = Balancers {
            pool: vec!["10.9.0.1/32".parse().expect("a network")],
            ..Balancers::default()
        };
        let seen = |name: &str, facts: Balanced| Seen {
            metadata: kube::api::ObjectMeta {
                namespace: Some("n".to_owned()),
                name: Some(name.to_owned()),
                ..Default::default()
            },
            facts,
        };
        let (a, b) = (balancer(1, json!([])), balancer(2, json!([])));
        balancers.take(Event::Init);
        balancers.take(Event::InitApply(seen("a", a.clone())));
        balancers.take(Event::InitApply(seen("b", b)));
        let mut touched = balancers.take(Event::InitDone);
        touched.sort();
        assert_eq!(touched, [key("a"), key("b")]);
        let given = balancers.begin(&key("a")).expect("it gets the address");
        assert_eq!(given.verdict, Some(Verdict::Give(vec![ip("10.9.0.1")])));
        let work = balancers.begin(&key("b")).expect("it is told");
        assert_eq!(work.trouble, Some(Trouble::Exhausted(Family::V4)));
        assert_eq!(balancers.begin(&key("b")), None);
        let touched = balancers.take(Event::Delete(seen("a", a)));
        assert_eq!(touched, [key("b")]);
        let given = balancers.begin(&key("b")).expect("it gets the address");
        assert_eq!(given.verdict, Some(Verdict::Give(vec![ip("10.9.0.1")])));
    }
}
