//! Makes slices of the Endpoints that people write for Services without a selector. Pure.
//!
//! Such Endpoints are few, so nothing of them is kept: they and their slices are read when they are
//! needed, and copied as they are.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use serde_json::{Map, Value, json};

use super::{
    seen::TRIGGER_TIME,
    service::Family,
    slice::{MANAGED_BY, MIRROR, SERVICE_NAME, prefix},
};

/// So many addresses of one subset are mirrored, as by the stock controller; a slice can have as many.
pub(super) const ADDRESSES_MAX: usize = 1000;

/// Says that Endpoints are not to be mirrored.
pub(super) const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Such Endpoints only say who leads.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What has to be written.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) creates: Vec<Value>,
    /// With names and versions.
    pub(super) updates: Vec<Value>,
    /// By name.
    pub(super) deletes: Vec<String>,
    /// Addresses that are none.
    pub(super) invalid: usize,
    /// Addresses that are too many.
    pub(super) skipped: usize,
}

/// Family, and ports as [`port_key`] reads them.
type GroupKey = (Family, Vec<PortKey>);

/// Number, name, protocol, application protocol.
type PortKey = (i64, String, String, Option<String>);

/// Says whether somebody wants slices of these Endpoints.
pub(super) fn is_wanted(endpoints: &Value) -> bool {
    let metadata = &endpoints["metadata"];
    metadata["labels"][SKIP] != "true" && metadata["annotations"][LEADER].is_null()
}

/// Plans the slices of Endpoints; without Endpoints, none.
pub(super) fn plan(endpoints: Option<&Value>, slices: &[Value]) -> Plan {
    let mut plan = Plan::default();
    let mut known: BTreeMap<GroupKey, Vec<&Value>> = BTreeMap::new();
    let (mut creates, mut deletes): (Vec<Value>, Vec<&Value>) = (Vec::new(), Vec::new());
    for slice in slices {
        let family = slice["addressType"].as_str().and_then(Family::of);
        match family {
            Some(family) => {
                let key = (family, port_keys(list(&slice["ports"])));
                known.entry(key).or_default().push(slice);
            }
            None => deletes.push(slice),
        }
    }
    if let Some(endpoints) = endpoints {
        for (key, wanted) in groups(endpoints, &mut plan) {
            let mut slices = known.remove(&key).unwrap_or_default().into_iter();
            let slice = draft(endpoints, key, wanted);
            match slices.next() {
                None => creates.push(slice),
                Some(old) if is_same(old, &slice) => (),
                Some(old) => plan.updates.push(in_place_of(old, slice)),
            }
            deletes.extend(slices);
        }
    }
    deletes.extend(known.into_values().flatten());
    // A slice that would go is written anew rather than deleted beside a new one.
    for slice in creates {
        let same = |old: &&Value| old["addressType"] == slice["addressType"];
        match deletes.iter().position(same) {
            Some(place) => plan.updates.push(in_place_of(deletes.remove(place), slice)),
            None => plan.creates.push(slice),
        }
    }
    let names = deletes
        .iter()
        .filter_map(|slice| slice["metadata"]["name"].as_str());
    plan.deletes.extend(names.map(str::to_owned));
    plan
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn port_key(port: &Value) -> PortKey {
    (
        port["port"].as_i64().unwrap_or_default(),
        text(&port["name"]).to_owned(),
        text(&port["protocol"]).to_owned(),
        port["appProtocol"].as_str().map(str::to_owned),
    )
}

fn port_keys(ports: &[Value]) -> Vec<PortKey> {
    let mut keys: Vec<_> = ports.iter().map(port_key).collect();
    keys.sort();
    keys
}

/// Sorts the addresses of Endpoints by their families and ports: what different subsets say of the
/// same address and port is put together, and who is not ready for one of them is not.
fn groups(endpoints: &Value, plan: &mut Plan) -> BTreeMap<GroupKey, Vec<Value>> {
    let mut addresses: Vec<&Value> = Vec::new();
    let mut places: HashMap<(&str, &str), usize> = HashMap::new();
    // For each port the places of the addresses that have it, and whether they are ready.
    let mut by_port: BTreeMap<Option<PortKey>, BTreeMap<usize, bool>> = BTreeMap::new();
    for subset in list(&endpoints["subsets"]) {
        let ports = list(&subset["ports"])
            .iter()
            .map(|port| Some(port_key(port)));
        let ports: Vec<_> = match list(&subset["ports"]) {
            [] => vec![None],
            _ => ports.collect(),
        };
        for (field, is_ready) in [("addresses", true), ("notReadyAddresses", false)] {
            for address in list(&subset[field]) {
                let id = (text(&address["ip"]), text(&address["targetRef"]["uid"]));
                let place = *places.entry(id).or_insert_with(|| {
                    addresses.push(address);
                    addresses.len() - 1
                });
                for port in &ports {
                    let known = by_port.entry(port.clone()).or_default();
                    *known.entry(place).or_insert(is_ready) &= is_ready;
                }
            }
        }
    }
    let mut by_addresses: BTreeMap<Vec<(usize, bool)>, Vec<PortKey>> = BTreeMap::new();
    for (port, addresses) in by_port {
        let key = addresses.into_iter().collect();
        by_addresses.entry(key).or_default().extend(port);
    }
    let mut groups: BTreeMap<GroupKey, Vec<Value>> = BTreeMap::new();
    for (places, mut ports) in by_addresses {
        ports.sort();
        let (mut ready, others): (Vec<_>, Vec<_>) =
            places.into_iter().partition(|(_, is_ready)| *is_ready);
        ready.extend(others);
        let mut added = 0;
        for (at, is_ready) in ready {
            let address = addresses[at];
            match text(&address["ip"]).parse::<IpAddr>() {
                Err(_) => plan.invalid += 1,
                Ok(_) if added == ADDRESSES_MAX => plan.skipped += 1,
                Ok(ip) => {
                    let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
                    let group = groups.entry((family, ports.clone())).or_default();
                    group.push(endpoint(address, is_ready));
                    added += 1;
                }
            }
        }
    }
    groups
}

fn endpoint(address: &Value, is_ready: bool) -> Value {
    let mut endpoint = json!({"addresses": [address["ip"]], "conditions": {"ready": is_ready}});
    for field in ["targetRef", "nodeName", "hostname"] {
        if !address[field].is_null() && address[field] != "" {
            endpoint[field] = address[field].clone();
        }
    }
    endpoint
}

fn draft(endpoints: &Value, (family, ports): GroupKey, wanted: Vec<Value>) -> Value {
    let metadata = &endpoints["metadata"];
    let copy = |field: &str| metadata[field].as_object().cloned().unwrap_or_default();
    let mut labels = copy("labels");
    labels.insert(SERVICE_NAME.to_owned(), metadata["name"].clone());
    labels.insert(MANAGED_BY.to_owned(), json!(MIRROR));
    let mut annotations = copy("annotations");
    annotations.remove(TRIGGER_TIME);
    annotations.remove(LAST_APPLIED);
    let ports = ports
        .into_iter()
        .map(|(number, name, protocol, application)| {
            let mut port = json!({"name": name, "port": number, "protocol": protocol});
            if let Some(application) = application {
                port["appProtocol"] = Value::from(application);
            }
            port
        });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": prefix(text(&metadata["name"])),
            "namespace": metadata["namespace"],
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Endpoints", "name": metadata["name"],
                "uid": metadata["uid"], "controller": true, "blockOwnerDeletion": true}],
        },
        "addressType": family.text(),
        "endpoints": wanted,
        "ports": ports.collect::<Vec<_>>(),
    })
}

/// Says whether a slice says what it shall, in whatever order.
fn is_same(old: &Value, new: &Value) -> bool {
    let sorted = |slice: &Value| {
        let mut texts: Vec<_> = list(&slice["endpoints"])
            .iter()
            .map(Value::to_string)
            .collect();
        texts.sort();
        texts
    };
    let empty = Map::new();
    let (before, after) = (&old["metadata"], &new["metadata"]);
    let equal = |field: &str| {
        let entries = |metadata: &Value| metadata[field].as_object().unwrap_or(&empty).clone();
        entries(before) == entries(after)
    };
    let owner = |metadata: &Value| metadata["ownerReferences"][0]["uid"].clone();
    sorted(old) == sorted(new)
        && equal("labels")
        && equal("annotations")
        && owner(before) == owner(after)
}

fn in_place_of(old: &Value, mut new: Value) -> Value {
    for field in ["name", "resourceVersion"] {
        new["metadata"][field] = old["metadata"][field].clone();
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(subsets: &Value) -> Value {
        json!({"metadata": {"name": "e", "namespace": "n", "uid": "u",
            "labels": {"a": "b"}, "annotations": {"c": "d", LAST_APPLIED: "{}"}},
            "subsets": subsets})
    }

    /// What the server makes of created slices.
    fn stored(mut slices: Vec<Value>) -> Vec<Value> {
        for (number, slice) in slices.iter_mut().enumerate() {
            slice["metadata"]["name"] = json!(format!("e-{number}"));
            slice["metadata"]["resourceVersion"] = json!(number.to_string());
        }
        slices
    }

    #[test]
    fn a_subset_is_mirrored_by_a_slice_of_each_family() {
        let object = endpoints(&json!([{
            "addresses": [{"ip": "10.0.0.1", "nodeName": "n"}, {"ip": "fd00::1"}, {"ip": "x"}],
            "notReadyAddresses": [{"ip": "10.0.0.2", "hostname": "h"}],
            "ports": [{"name": "b", "port": 81, "protocol": "TCP", "appProtocol": "http"},
                {"port": 80, "protocol": "TCP"}]}]));
        let plan = plan(Some(&object), &[]);
        assert_eq!((plan.invalid, plan.skipped), (1, 0));
        let shown: Vec<_> = plan
            .creates
            .iter()
            .map(|slice| (text(&slice["addressType"]), slice["endpoints"].clone()))
            .collect();
        let v4 = json!([
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "nodeName": "n"},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}, "hostname": "h"}]);
        let v6 = json!([{"addresses": ["fd00::1"], "conditions": {"ready": true}}]);
        assert_eq!(shown, [("IPv4", v4), ("IPv6", v6)]);
        let slice = &plan.creates[0];
        assert_eq!(
            slice["ports"],
            json!([{"name": "", "port": 80, "protocol": "TCP"},
                {"name": "b", "port": 81, "protocol": "TCP", "appProtocol": "http"}])
        );
        let metadata = &slice["metadata"];
        assert_eq!(metadata["annotations"], json!({"c": "d"}));
        assert_eq!(
            metadata["labels"],
            json!({"a": "b", SERVICE_NAME: "e", MANAGED_BY: MIRROR})
        );
    }

    #[test]
    fn nothing_is_written_when_nothing_has_changed_and_only_what_has() {
        let subset = |ready: &str, port: u16| {
            json!([{"addresses": [{"ip": ready}],
            "ports": [{"port": port, "protocol": "TCP"}]}])
        };
        let slices = stored(plan(Some(&endpoints(&subset("10.0.0.1", 80))), &[]).creates);
        let again = plan(Some(&endpoints(&subset("10.0.0.1", 80))), &slices);
        assert_eq!(again, Plan::default());
        for changed in [subset("10.0.0.2", 80), subset("10.0.0.1", 81)] {
            let plan = plan(Some(&endpoints(&changed)), &slices);
            assert!(plan.creates.is_empty() && plan.deletes.is_empty());
            assert_eq!(plan.updates[0]["metadata"]["name"], "e-0");
        }
        let gone = plan(None, &slices);
        assert_eq!(gone.deletes, ["e-0"]);
        assert_eq!(plan(Some(&endpoints(&json!([]))), &slices), gone);
    }

    #[test]
    fn subsets_are_put_together_by_their_addresses() {
        let object = endpoints(&json!([
            {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "protocol": "TCP"}]},
            {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 81, "protocol": "TCP"}]},
            {"notReadyAddresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 82, "protocol": "TCP"}]}]));
        let plan = plan(Some(&object), &[]);
        let ports: Vec<_> = plan
            .creates
            .iter()
            .map(|slice| port_keys(list(&slice["ports"])).len())
            .collect();
        assert_eq!(ports, [2, 1]);
    }

    #[test]
    fn who_is_not_ready_for_a_port_is_not_whatever_else_is_said() {
        let port = json!([{"port": 80, "protocol": "TCP"}]);
        let object = endpoints(&json!([
            {"notReadyAddresses": [{"ip": "10.0.0.1"}], "ports": port},
            {"addresses": [{"ip": "10.0.0.1"}], "ports": port}]));
        let plan = plan(Some(&object), &[]);
        let endpoint = &plan.creates[0]["endpoints"];
        let expected = json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}]);
        assert_eq!(*endpoint, expected);
    }

    #[test]
    fn more_than_a_thousand_addresses_are_not_mirrored() {
        let addresses = (0..=ADDRESSES_MAX).map(|number| {
            let ip = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number as u32);
            json!({"ip": ip})
        });
        let addresses: Vec<_> = addresses.collect();
        let plan = plan(Some(&endpoints(&json!([{"addresses": addresses}]))), &[]);
        assert_eq!(plan.skipped, 1);
        assert_eq!(list(&plan.creates[0]["endpoints"]).len(), ADDRESSES_MAX);
    }

    #[test]
    fn who_does_not_want_slices_gets_none() {
        assert!(is_wanted(&endpoints(&json!([]))));
        assert!(!is_wanted(&json!({"metadata": {"labels": {SKIP: "true"}}})));
        assert!(!is_wanted(
            &json!({"metadata": {"annotations": {LEADER: "{}"}}})
        ));
    }
}
