//! What services are given: an address of the cluster, ports of the nodes.
//!
//! What is taken is read off the services in the store and those on their way into it, so nothing
//! has to be released: a service that is gone, or has changed its type, takes nothing any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use rand::RngExt as _;
use serde_json::{Value, json};

use super::{
    Charge, Request,
    pending::{Claims, Pending},
};
use crate::{
    invalid::Causes,
    service_ranges::ServiceRanges,
    status::ApiError,
    validate::{
        elements,
        service::{addresses, is_headless, needs_health_check},
        walk,
    },
};

/// The ports that nodes keep for services.
const NODE_PORTS: Band<u32> = Band {
    first: 30_000,
    last: 32_767,
    fixed: 86,
};

const ALLOCATED: &str = "provided port is already allocated";

const SINGLE_STACK: &str = "SingleStack";

/// A range of addresses of services.
struct Range(IpNet);

/// Numbers to give out. Those that clients choose themselves are best among the first `fixed`,
/// from which others are given only when the rest is used up.
struct Band<N> {
    first: N,
    last: N,
    fixed: N,
}

/// Whether a service is being made or changed: one node port for two ports is refused to both, in other
/// words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    New,
    Known,
}

/// The addresses and ports of one service.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    addresses: Vec<IpAddr>,
    ports: Vec<u32>,
}

impl Taken {
    /// Reads what a service has.
    pub(super) fn of(spec: &Value) -> Taken {
        let address = |text: &Value| text.as_str()?.parse::<IpAddr>().ok();
        let number = |port: &Value| u32::try_from(port.as_u64()?).ok().filter(|port| *port != 0);
        let ports = elements(&spec["ports"]).map(|port| &port["nodePort"]);
        let ports = ports.chain([&spec["healthCheckNodePort"]]);
        Taken {
            addresses: elements(&spec["clusterIPs"]).filter_map(address).collect(),
            ports: ports.filter_map(number).collect(),
        }
    }
}

impl Range {
    fn family(&self) -> &'static str {
        match self.0 {
            IpNet::V4(_) => "IPv4",
            IpNet::V6(_) => "IPv6",
        }
    }

    /// Returns the places of addresses to give: the first address names the network, and the last one of
    /// IPv4 everyone in it. What clients choose themselves is a sixteenth, within the stock server's bounds.
    fn places(&self) -> Band<u32> {
        let size = 1_u32 << (self.0.max_prefix_len() - self.0.prefix_len());
        Band {
            first: 1,
            last: size - 2,
            fixed: match size {
                ..=16 => 0,
                _ => (size / 16).clamp(16, 256),
            },
        }
    }

    /// Returns the place of an address; nothing for one that is not to be given.
    fn place(&self, address: IpAddr) -> Option<u32> {
        let place = match (self.0.network(), address) {
            (IpAddr::V4(start), IpAddr::V4(address)) => {
                u128::from(address.to_bits().checked_sub(start.to_bits())?)
            }
            (IpAddr::V6(start), IpAddr::V6(address)) => {
                address.to_bits().checked_sub(start.to_bits())?
            }
            _ => return None,
        };
        let place = u32::try_from(place).ok()?;
        self.places().contains(place).then_some(place)
    }

    fn at(&self, place: u32) -> IpAddr {
        match self.0.network() {
            IpAddr::V4(start) => Ipv4Addr::from_bits(start.to_bits() + place).into(),
            IpAddr::V6(start) => Ipv6Addr::from_bits(start.to_bits() + u128::from(place)).into(),
        }
    }

    fn draw(&self, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let taken = taken.iter().filter_map(|address| self.place(*address));
        self.places()
            .draw(&taken.collect())
            .map(|place| self.at(place))
    }
}

impl Band<u32> {
    fn contains(&self, number: u32) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// Draws a number that is free.
    fn draw(&self, taken: &BTreeSet<u32>) -> Option<u32> {
        let dynamic = self.first + self.fixed;
        let start = rand::rng().random_range(dynamic..=self.last);
        let mut numbers = (start..=self.last)
            .chain(dynamic..start)
            .chain(self.first..dynamic);
        numbers.find(|number| !taken.contains(number))
    }
}

/// Gives a service what it lacks; what it asks for by itself has to be free.
pub(super) fn allocate<'a>(
    request: &Request<'_>,
    (ranges, pending): (ServiceRanges, &'a Pending),
    object: &mut Value,
    claims: &mut Claims<'a>,
) -> Result<(), ApiError> {
    if !request.is_for("Service") {
        return Ok(());
    }
    list_address(&mut object["spec"]);
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let uid = object["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let info = request.info();
    let invalid = |causes| ApiError::invalid(info, &name, causes);
    families(object, request.old, ranges).map_err(invalid)?;
    let entries = pending.lock();
    let mut taken = Taken::default();
    // Addresses and ports belong to the cluster, so other namespaces count.
    for record in all_services(request) {
        if *record.index.uid != *uid {
            taken.include(&Charge::of_record(info, &record).taken);
        }
    }
    for entry in entries.of(info).filter(|entry| entry.uid != uid) {
        taken.include(&entry.charge.taken);
    }
    let own = request
        .old
        .map(|old| Taken::of(&old["spec"]))
        .unwrap_or_default();
    let spec = &mut object["spec"];
    let addresses = taken.addresses.into_iter().collect();
    address(spec, ranges, &addresses, &own.addresses)?.map_err(invalid)?;
    let sort = request.old.map_or(Sort::New, |_| Sort::Known);
    ports(spec, &mut taken.ports.into_iter().collect(), sort)?.map_err(invalid)?;
    let charge = Charge::of(info, object);
    pending.claim(entries, (info, request.namespace(), &uid), charge, claims);
    Ok(())
}

impl Taken {
    fn include(&mut self, other: &Taken) {
        self.addresses.extend(&other.addresses);
        self.ports.extend(&other.ports);
    }
}

fn all_services(request: &Request<'_>) -> Vec<std::sync::Arc<crate::object::ObjectRecord>> {
    let prefix = crate::object::prefix(request.info(), None);
    let range = coracle_store::Range {
        prefix: &prefix,
        after: None,
        limit: None,
        at: None,
    };
    let page = request.store.range(&range, |_| true);
    page.map(|page| page.records).unwrap_or_default()
}

/// Settles of which families a service's addresses are: of IPv4, unless it says otherwise.
fn families(object: &mut Value, old: Option<&Value>, ranges: ServiceRanges) -> Result<(), Causes> {
    let spec = &mut object["spec"];
    if spec["type"] == "ExternalName" {
        return Ok(());
    }
    let selected = spec["selector"]
        .as_object()
        .is_some_and(|labels| !labels.is_empty());
    let bare = is_headless(spec) && !selected;
    if spec["ipFamilyPolicy"].is_null() {
        let before = old
            .map(|old| &old["spec"]["ipFamilyPolicy"])
            .filter(|p| !p.is_null());
        spec["ipFamilyPolicy"] = match before {
            Some(policy) => policy.clone(),
            None if bare => json!("RequireDualStack"),
            None => json!(SINGLE_STACK),
        };
    }
    let mut causes = Causes::default();
    walk(object, &mut causes, |root| addresses(&root.child("spec")));
    if !causes.is_empty() {
        return Err(causes);
    }
    let single = object["spec"]["ipFamilyPolicy"] == SINGLE_STACK;
    if single && let Some(old) = old {
        first_only(&mut object["spec"], &old["spec"]);
    }
    walk(object, &mut causes, |root| {
        several(&root.child("spec"), bare || ranges.are_of_both_families())
    });
    if !causes.is_empty() {
        return Err(causes);
    }
    let spec = &mut object["spec"];
    if elements(&spec["ipFamilies"]).next().is_none() {
        // Those of the addresses that it names.
        let named = elements(&spec["clusterIPs"]).filter_map(|address| {
            let address = address.as_str()?.parse::<IpAddr>().ok()?;
            Some(if address.is_ipv4() { "IPv4" } else { "IPv6" })
        });
        let named = named.collect::<Vec<_>>();
        spec["ipFamilies"] = match named.is_empty() {
            true => json!(["IPv4"]),
            false => json!(named),
        };
    }
    if !single
        && (bare || ranges.are_of_both_families())
        && spec["ipFamilies"]
            .as_array()
            .is_some_and(|list| list.len() == 1)
    {
        let other = if spec["ipFamilies"][0] == "IPv4" {
            "IPv6"
        } else {
            "IPv4"
        };
        spec["ipFamilies"] = json!([spec["ipFamilies"][0], other]);
    }
    Ok(())
}

/// A change to one family that leaves the lists as they are means the first of each.
fn first_only(spec: &mut Value, old: &Value) {
    for list in ["clusterIPs", "ipFamilies"] {
        if spec[list] == old[list]
            && let Some(list) = spec[list].as_array_mut()
        {
            list.truncate(1);
        }
    }
}

/// Checks policy, families and addresses against each other, and unless both families may be used,
/// against what there is.
fn several(spec: &crate::validate::Field<'_, '_>, both: bool) {
    let (policy, families) = (spec.child("ipFamilyPolicy"), spec.child("ipFamilies"));
    let addresses = spec.child("clusterIPs");
    if policy.text() == SINGLE_STACK {
        for (list, what) in [(&addresses, "cluster IPs"), (&families, "IP families")] {
            if list.items().count() == 2 {
                policy.invalid(&format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are \
                     specified"
                ));
            }
        }
    }
    if both {
        return;
    }
    let unknown = families.items().count();
    for address in addresses.items().skip(unknown) {
        if address
            .text()
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_ipv6())
        {
            let detail = "IPv6 is not configured on this cluster";
            address.invalid_as(addresses.value, detail);
        }
    }
    if policy.text() == "RequireDualStack" {
        policy.invalid("this cluster is not configured for dual-stack services");
    }
    for family in families.items().filter(|family| family.text() != "IPv4") {
        family.invalid("not configured on this cluster");
    }
}

/// An answer that is the server's failure, or what is wrong with the client's wish.
type Outcome = Result<Result<(), Causes>, ApiError>;

/// Gives a service an address of each of its families.
fn address(
    spec: &mut Value,
    ranges: ServiceRanges,
    taken: &BTreeSet<IpAddr>,
    own: &[IpAddr],
) -> Outcome {
    if spec["type"] == "ExternalName" || is_headless(spec) {
        return Ok(Ok(()));
    }
    let families = elements(&spec["ipFamilies"]).cloned().collect::<Vec<_>>();
    let mut given = Vec::new();
    for (index, family) in families.iter().enumerate() {
        let mut ranges = ranges.iter().map(Range);
        let Some(range) = ranges.find(|range| *family == range.family()) else {
            continue;
        };
        let wanted = spec["clusterIPs"][index].as_str().unwrap_or_default();
        if wanted.is_empty() {
            let Some(address) = range.draw(taken) else {
                let why = "failed to allocate a serviceIP: range is full";
                return Err(failure(why));
            };
            given.push(json!(address.to_string()));
            continue;
        }
        if let Some(why) = is_not_to_be_had(&range, wanted, taken, own) {
            let mut causes = Causes::default();
            let detail = format!("failed to allocate IP {wanted}: {why}");
            causes.invalid("spec.clusterIPs", &spec["clusterIPs"], &detail);
            return Ok(Err(causes));
        }
        given.push(json!(wanted));
    }
    spec["clusterIP"] = given.first().cloned().unwrap_or_default();
    spec["clusterIPs"] = json!(given);
    Ok(Ok(()))
}

/// Says why a service cannot have an address.
fn is_not_to_be_had(
    range: &Range,
    wanted: &str,
    taken: &BTreeSet<IpAddr>,
    own: &[IpAddr],
) -> Option<&'static str> {
    let address = wanted.parse::<IpAddr>().ok();
    match address.filter(|address| range.place(*address).is_some() || own.contains(address)) {
        None => Some("the provided network does not match the current range"),
        Some(address) if own.contains(&address) => None,
        Some(address) if taken.contains(&address) => Some("provided IP is already allocated"),
        Some(_) => None,
    }
}

fn ports(spec: &mut Value, taken: &mut BTreeSet<u32>, sort: Sort) -> Outcome {
    let kind = spec["type"].as_str().unwrap_or_default();
    let given = spec["allocateLoadBalancerNodePorts"] != false;
    let needed = kind == "NodePort" || (kind == "LoadBalancer" && given);
    let has_ports = matches!(kind, "NodePort" | "LoadBalancer");
    let health = needs_health_check(spec);
    let mut causes = Causes::default();
    let mut list = spec["ports"].take();
    // What is asked for comes first, so that nothing else of the service is given the same port.
    let shared = match has_ports {
        true => asked(&list, taken, sort, &mut causes),
        false => BTreeMap::new(),
    };
    if needed {
        draw_ports(&mut list, taken, shared)?;
    }
    spec["ports"] = list;
    if spec["ports"].is_null() {
        spec.as_object_mut().map(|spec| spec.remove("ports"));
    }
    if health {
        health_port(spec, taken)?;
    }
    Ok(if causes.is_empty() {
        Ok(())
    } else {
        Err(causes)
    })
}

fn failure(why: &str) -> ApiError {
    ApiError::internal(format!("Internal error occurred: {why}"))
}

fn number(port: &Value, field: &str) -> i64 {
    port[field].as_i64().unwrap_or(0)
}

/// Takes the node ports that a service asks for; returns them by port.
fn asked(
    list: &Value,
    taken: &mut BTreeSet<u32>,
    sort: Sort,
    causes: &mut Causes,
) -> BTreeMap<i64, i64> {
    let mut shared = BTreeMap::new();
    // Which port of the service a node port leads to.
    let mut leads: BTreeMap<i64, i64> = BTreeMap::new();
    for (index, port) in elements(list).enumerate() {
        let (port, wanted) = (number(port, "port"), number(port, "nodePort"));
        if wanted == 0 {
            continue;
        }
        shared.entry(port).or_insert(wanted);
        let other = leads
            .insert(wanted, port)
            .is_some_and(|other| other != port);
        let why = match other && sort == Sort::New {
            true => Some(ALLOCATED.to_owned()),
            false => unavailable(wanted, taken),
        };
        if let Some(why) = why {
            causes.invalid(
                format!("spec.ports[{index}].nodePort"),
                &json!(wanted),
                &why,
            );
        }
    }
    taken.extend(
        leads
            .into_keys()
            .filter_map(|wanted| u32::try_from(wanted).ok()),
    );
    shared
}

/// Gives node ports to the ports that have none. Ports of different protocols share a node port, as DNS
/// servers want it.
fn draw_ports(
    list: &mut Value,
    taken: &mut BTreeSet<u32>,
    mut shared: BTreeMap<i64, i64>,
) -> Result<(), ApiError> {
    for port in list.as_array_mut().into_iter().flatten() {
        if number(port, "nodePort") != 0 {
            continue;
        }
        let known = shared.get(&number(port, "port")).copied();
        let drawn = known.or_else(|| NODE_PORTS.draw(taken).map(i64::from));
        let Some(drawn) = drawn else {
            let why = "failed to allocate a nodePort: range is full";
            return Err(failure(why));
        };
        shared.insert(number(port, "port"), drawn);
        taken.extend(u32::try_from(drawn));
        port["nodePort"] = json!(drawn);
    }
    Ok(())
}

/// Gives a service that needs one a port for its health, of which only the form counts.
pub(super) fn assume_given(object: &mut Value) {
    let spec = &mut object["spec"];
    list_address(spec);
    if needs_health_check(spec) && spec["healthCheckNodePort"].as_i64().unwrap_or(0) == 0 {
        spec["healthCheckNodePort"] = json!(NODE_PORTS.first);
    }
}

/// Who gives one address gives a list of one.
fn list_address(spec: &mut Value) {
    let one = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    let listed = spec["clusterIPs"][0].as_str().unwrap_or_default();
    if !one.is_empty() && listed.is_empty() {
        spec["clusterIPs"] = json!([one]);
    }
}

fn health_port(spec: &mut Value, taken: &BTreeSet<u32>) -> Result<(), ApiError> {
    match spec["healthCheckNodePort"].as_i64().unwrap_or(0) {
        0 => {
            let Some(port) = NODE_PORTS.draw(taken) else {
                let why = "failed to allocate a HealthCheck NodePort: range is full";
                return Err(failure(why));
            };
            spec["healthCheckNodePort"] = json!(port);
        }
        wanted => {
            if let Some(why) = unavailable(wanted, taken) {
                // The stock server, too, takes this for a failure of its own.
                return Err(failure(&format!(
                    "failed to allocate requested HealthCheck NodePort {wanted}: {why}"
                )));
            }
        }
    }
    Ok(())
}

/// Says why a service cannot have a port. `taken` are the ports of other services.
fn unavailable(wanted: i64, taken: &BTreeSet<u32>) -> Option<String> {
    let number = u32::try_from(wanted).unwrap_or_default();
    if !NODE_PORTS.contains(number) {
        let (first, last) = (NODE_PORTS.first, NODE_PORTS.last);
        return Some(format!(
            "provided port is not in the valid range. The range of valid ports is {first}-{last}"
        ));
    }
    taken.contains(&number).then(|| ALLOCATED.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_families() -> ServiceRanges {
        let (v4, v6) = ("10.96.0.0/16".parse(), "fd00:10:96::/112".parse());
        ServiceRanges::new(v4.expect("a range"), v6.ok()).expect("in order")
    }

    #[test]
    fn every_address_of_a_small_range_is_given_but_the_first_and_the_last() {
        let range = Range("10.43.0.16/28".parse().expect("a range"));
        let mut taken = BTreeSet::new();
        while let Some(address) = range.draw(&taken) {
            assert!(taken.insert(address), "{address}");
        }
        let all = (17..=30).map(|last| IpAddr::V4(Ipv4Addr::new(10, 43, 0, last)));
        assert!(taken.into_iter().eq(all));
    }

    #[test]
    fn what_is_drawn_is_free_and_comes_from_the_upper_band_first() {
        let band = Band {
            first: 10_u32,
            last: 19,
            fixed: 4,
        };
        let mut taken = BTreeSet::new();
        for _ in 0..6 {
            let number = band.draw(&taken).expect("there are free ones");
            assert!(
                (14..=19).contains(&number) && taken.insert(number),
                "{number}"
            );
        }
        for _ in 0..4 {
            let number = band.draw(&taken).expect("there are free ones");
            assert!(
                (10..14).contains(&number) && taken.insert(number),
                "{number}"
            );
        }
        assert_eq!(band.draw(&taken), None);
    }

    #[test]
    fn families_are_settled() {
        let check_in = |configured, spec: Value, expected: Result<Value, &str>| {
            let mut object = json!({"spec": spec});
            let found = families(&mut object, None, configured);
            let found = found.map(|()| object["spec"]["ipFamilies"].clone());
            let found = found.map_err(|causes| causes.into_vec()[0].sentence());
            assert_eq!(found, expected.map_err(str::to_owned), "{object}");
        };
        let check = |spec, expected| check_in(ServiceRanges::default(), spec, expected);
        check(json!({}), Ok(json!(["IPv4"])));
        check(json!({"type": "ExternalName"}), Ok(Value::Null));
        check(
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            Ok(json!(["IPv4", "IPv6"])),
        );
        check(
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            Ok(json!(["IPv4"])),
        );
        check(
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            Err(
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not \
                 configured for dual-stack services",
            ),
        );
        check(
            json!({"ipFamilies": ["IPv6"]}),
            Err("spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"),
        );
        let check = |spec, expected| check_in(both_families(), spec, expected);
        check(json!({}), Ok(json!(["IPv4"])));
        let both = || Ok(json!(["IPv4", "IPv6"]));
        check(json!({"ipFamilyPolicy": "PreferDualStack"}), both());
        check(json!({"ipFamilyPolicy": "RequireDualStack"}), both());
        check(json!({"ipFamilies": ["IPv6"]}), Ok(json!(["IPv6"])));
        check(
            json!({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "PreferDualStack"}),
            Ok(json!(["IPv6", "IPv4"])),
        );
        check(
            json!({"clusterIP": "fd00:10:96::7", "clusterIPs": ["fd00:10:96::7"]}),
            Ok(json!(["IPv6"])),
        );
        check(
            json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
            Err(
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or \
                 'PreferDualStack' when multiple IP families are specified",
            ),
        );
    }

    #[test]
    fn a_service_has_an_address_of_each_family() {
        let taken = BTreeSet::from(["fd00:10:96::7".parse().expect("an address")]);
        let given = |mut spec: Value| {
            address(&mut spec, both_families(), &taken, &[])
                .expect("not full")
                .map(|()| spec)
                .map_err(|causes| causes.into_vec()[0].sentence())
        };
        let both = given(json!({"ipFamilies": ["IPv6", "IPv4"]})).expect("free");
        assert_eq!(both["clusterIP"], both["clusterIPs"][0]);
        let text = |index: usize| both["clusterIPs"][index].as_str().expect("an address");
        assert!(text(0).starts_with("fd00:10:96::"), "{both}");
        assert!(text(1).starts_with("10.96."), "{both}");
        // One that had a first one is given a second.
        let more = json!({"ipFamilies": ["IPv4", "IPv6"], "clusterIP": "10.96.0.9",
            "clusterIPs": ["10.96.0.9"]});
        let more = given(more).expect("free");
        assert_eq!(more["clusterIPs"][0], "10.96.0.9");
        assert!(more["clusterIPs"][1].is_string(), "{more}");
        let refused = given(json!({"ipFamilies": ["IPv6"], "clusterIPs": ["fd00:10:96::7"]}));
        assert!(refused.is_err_and(|why| why.ends_with("already allocated")));
        let refused = given(json!({"ipFamilies": ["IPv6"], "clusterIPs": ["fd00::7"]}));
        assert!(refused.is_err_and(|why| why.ends_with("does not match the current range")));
    }

    #[test]
    fn ports_are_given_once() {
        let mut spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [
            {"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"},
            {"port": 80, "nodePort": 30080}]});
        let mut taken = BTreeSet::new();
        ports(&mut spec, &mut taken, Sort::New)
            .expect("not full")
            .expect("in order");
        let port = |index: usize| spec["ports"][index]["nodePort"].as_i64().expect("a port");
        assert_eq!(port(0), port(1));
        assert_ne!(port(0), 30080);
        assert!(spec["healthCheckNodePort"].is_i64());
        let mut taken = BTreeSet::from([30080]);
        let causes = ports(&mut spec, &mut taken, Sort::New)
            .expect("not full")
            .expect_err("taken");
        assert_eq!(
            causes.into_vec()[0].sentence(),
            "spec.ports[2].nodePort: Invalid value: 30080: provided port is already allocated"
        );
    }

    #[test]
    fn a_node_port_leads_to_one_port_of_a_service() {
        let mut spec = json!({"type": "NodePort", "ports": [
            {"port": 80, "nodePort": 30080}, {"port": 80, "protocol": "UDP", "nodePort": 30080},
            {"port": 81, "nodePort": 30080}]});
        let causes = ports(&mut spec, &mut BTreeSet::new(), Sort::New)
            .expect("not full")
            .expect_err("two ports");
        assert_eq!(
            causes.into_vec()[0].sentence(),
            "spec.ports[2].nodePort: Invalid value: 30080: provided port is already allocated"
        );
    }

    #[test]
    fn what_is_given_is_not_what_the_service_asks_for_elsewhere() {
        // Two ports are left, and the service asks for one of them.
        let mut taken: BTreeSet<u32> = (NODE_PORTS.first..=NODE_PORTS.last).collect();
        taken.remove(&30_080);
        taken.remove(&30_090);
        let mut spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "ports": [{"port": 80}, {"port": 81, "nodePort": 30080}]});
        let full = ports(&mut spec, &mut taken.clone(), Sort::New).expect_err("none is left");
        assert!(
            full.message.contains("HealthCheck NodePort"),
            "{}",
            full.message
        );
        assert_eq!(spec["ports"][0]["nodePort"], 30090);
    }

    #[test]
    fn an_address_has_to_be_in_the_range_and_free() {
        let check = |wanted: &str, expected: Option<&str>| {
            let mut spec =
                json!({"clusterIP": wanted, "clusterIPs": [wanted], "ipFamilies": ["IPv4"]});
            let taken = BTreeSet::from([Ipv4Addr::new(10, 96, 0, 7).into()]);
            let ranges = ServiceRanges::default();
            let found = address(&mut spec, ranges, &taken, &[]).expect("not full");
            let found = found.map_err(|causes| causes.into_vec()[0].sentence());
            assert_eq!(found.err().as_deref(), expected, "{wanted}");
        };
        check("10.96.0.8", None);
        check(
            "10.96.0.7",
            Some(
                "spec.clusterIPs: Invalid value: [\"10.96.0.7\"]: failed to allocate IP 10.96.0.7: \
                 provided IP is already allocated",
            ),
        );
        check(
            "10.97.0.1",
            Some(
                "spec.clusterIPs: Invalid value: [\"10.97.0.1\"]: failed to allocate IP 10.97.0.1: \
                 the provided network does not match the current range",
            ),
        );
    }
}
