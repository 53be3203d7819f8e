//! The checks of NetworkPolicies.

use ipnet::IpNet;
use serde_json::Value;

use super::{Field, cidr, elements, pod::label_selector, walk};
use crate::invalid::Causes;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const POLICY_TYPES: &[&str] = &["Egress", "Ingress"];

/// Checks a NetworkPolicy.
pub(crate) fn policy(object: &Value, _old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        let spec = root.child("spec");
        label_selector(&spec.child("podSelector"));
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.child(rules).items() {
                rule.child("ports").items().for_each(|entry| port(&entry));
                rule.child(peers).items().for_each(|entry| peer(&entry));
            }
        }
        let types = spec.child("policyTypes");
        if types.items().count() > POLICY_TYPES.len() {
            return types.invalid("may not specify more than two policyTypes");
        }
        for of in types.items() {
            if !POLICY_TYPES.contains(&of.text()) {
                of.not_supported(POLICY_TYPES);
            }
        }
    });
}

/// Says which ranges of a policy may mean something else than they say.
pub(crate) fn warnings(object: &Value) -> Vec<String> {
    let mut said = Vec::new();
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in elements(&object["spec"][rules]).enumerate() {
            for (j, peer) in elements(&rule[peers]).enumerate() {
                let block = &peer["ipBlock"];
                let path = format!("spec.{rules}[{i}].{peers}[{j}].ipBlock");
                said.extend(warning(&format!("{path}.cidr"), &block["cidr"]));
                for (k, part) in elements(&block["except"]).enumerate() {
                    said.extend(warning(&format!("{path}.except[{k}]"), part));
                }
            }
        }
    }
    said
}

fn warning(path: &str, range: &Value) -> Option<String> {
    let text = range.as_str()?;
    let net = text.parse::<IpNet>().ok()?;
    let (whole, address) = (net.trunc(), net.addr());
    if whole.addr() != address {
        let single = format!("{address}/{}", net.max_prefix_len());
        return Some(format!(
            "{path}: CIDR value {text:?} is ambiguous in this context (should be \"{whole}\" or {single:?}?)"
        ));
    }
    (address.is_ipv6() && net.to_string() != text).then(|| {
        format!(
            "{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format (\"{net}\")"
        )
    })
}

fn port(entry: &Field<'_, '_>) {
    entry.child("protocol").one_of_if_set(PROTOCOLS);
    let (port, end) = (entry.child("port"), entry.child("endPort"));
    match (port.value, end.is_set()) {
        (Value::Null, true) => end.invalid("may not be specified when `port` is not specified"),
        (Value::Null, false) => (),
        (Value::String(_), has_end) => {
            if has_end {
                end.invalid("may not be specified when `port` is non-numeric");
            }
            port.port_or_name();
        }
        (_, has_end) => {
            port.port();
            if has_end {
                if end.number() < port.number() {
                    end.invalid_as(port.value, "must be greater than or equal to `port`");
                }
                end.port();
            }
        }
    }
}

fn peer(entry: &Field<'_, '_>) {
    let selectors = [entry.child("podSelector"), entry.child("namespaceSelector")];
    let selectors = || selectors.iter().filter(|selector| selector.is_set());
    selectors().for_each(label_selector);
    let block = entry.child("ipBlock");
    if block.is_set() {
        ip_block(&block);
    }
    match (selectors().count(), block.is_set()) {
        (0, false) => entry.required("must specify a peer"),
        (0, true) | (_, false) => (),
        (_, true) => entry.forbidden("may not specify both ipBlock and another peer"),
    }
}

fn ip_block(block: &Field<'_, '_>) {
    let whole = block.child("cidr");
    if whole.is_empty() {
        return whole.required("");
    }
    let Some((base, bits)) = exact_cidr(&whole) else {
        return;
    };
    for part in block.child("except").items() {
        let Some((address, part_bits)) = exact_cidr(&part) else {
            continue;
        };
        let contains = IpNet::new(base, bits).is_ok_and(|net| net.contains(&address));
        if !contains || bits >= part_bits {
            part.invalid("must be a strict subset of `cidr`");
        }
    }
}

/// Demands a range of addresses with nothing around it.
fn exact_cidr(range: &Field<'_, '_>) -> Option<(std::net::IpAddr, u8)> {
    if range.text() != range.text().trim() {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        range.invalid(detail);
        return None;
    }
    cidr(range)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::invalid::Cause;

    /// Every cause as one line, without the kind of the fault.
    fn faults(spec: Value) -> Vec<String> {
        let mut causes = Causes::default();
        policy(&json!({"spec": spec}), None, &mut causes);
        causes.into_vec().iter().map(Cause::sentence).collect()
    }

    #[test]
    fn a_policy_of_every_form_is_good() {
        let spec = json!({
            "podSelector": {"matchLabels": {"app": "web"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{}, {
                "from": [
                    {"podSelector": {}},
                    {"namespaceSelector": {}, "podSelector": {}},
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                    {"ipBlock": {"cidr": "fd00::/8"}},
                ],
                "ports": [{"port": 80}, {"port": 8000, "endPort": 8000}, {"port": "http"},
                    {"protocol": "SCTP", "port": 7}, {"protocol": "UDP"}, {}],
            }],
            "egress": [{"to": [{"namespaceSelector": {}}]}],
        });
        assert_eq!(faults(spec), [""; 0]);
    }

    #[test]
    fn ranges_that_may_mean_something_else_are_told() {
        let block = json!({"cidr": "10.0.0.1/8", "except": ["10.2.0.0/16", "10.1.0.9/16"]});
        let spec = json!({
            "ingress": [{}, {"from": [{"ipBlock": block}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "FD00:0::/64"}}]}],
        });
        assert_eq!(
            warnings(&json!({"spec": spec})),
            [
                "spec.ingress[1].from[0].ipBlock.cidr: CIDR value \"10.0.0.1/8\" is ambiguous in \
                 this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)",
                "spec.ingress[1].from[0].ipBlock.except[1]: CIDR value \"10.1.0.9/16\" is ambiguous \
                 in this context (should be \"10.1.0.0/16\" or \"10.1.0.9/32\"?)",
                "spec.egress[0].to[0].ipBlock.cidr: IPv6 CIDR value \"FD00:0::/64\" should be in RFC \
                 5952 canonical format (\"fd00::/64\")",
            ]
        );
    }

    #[test]
    fn what_a_policy_cannot_say_is_refused() {
        let port = |port: Value| json!({"ingress": [{"ports": [port]}]});
        let peer = |peer: Value| json!({"egress": [{"to": [peer]}]});
        for (spec, expected) in [
            (
                port(json!({"protocol": "ICMP"})),
                "spec.ingress[0].ports[0].protocol",
            ),
            (port(json!({"port": 0})), "spec.ingress[0].ports[0].port"),
            (
                port(json!({"port": "a b"})),
                "spec.ingress[0].ports[0].port",
            ),
            (
                port(json!({"port": 9, "endPort": 8})),
                "spec.ingress[0].ports[0].endPort",
            ),
            (
                port(json!({"port": 9, "endPort": 70000})),
                "spec.ingress[0].ports[0].endPort",
            ),
            (
                port(json!({"port": "http", "endPort": 9})),
                "spec.ingress[0].ports[0].endPort",
            ),
            (
                port(json!({"endPort": 9})),
                "spec.ingress[0].ports[0].endPort",
            ),
            (peer(json!({})), "spec.egress[0].to[0]"),
            (
                peer(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
                "spec.egress[0].to[0]",
            ),
            (
                peer(json!({"ipBlock": {"cidr": ""}})),
                "spec.egress[0].to[0].ipBlock.cidr",
            ),
            (
                peer(json!({"ipBlock": {"cidr": "10.0.0.0"}})),
                "spec.egress[0].to[0].ipBlock.cidr",
            ),
            (
                peer(json!({"ipBlock": {"cidr": " 10.0.0.0/8"}})),
                "spec.egress[0].to[0].ipBlock.cidr",
            ),
            (
                peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}})),
                "spec.egress[0].to[0].ipBlock.except[0]",
            ),
            (
                peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
                "spec.egress[0].to[0].ipBlock.except[0]",
            ),
            (json!({"policyTypes": ["Sideways"]}), "spec.policyTypes[0]"),
            (
                json!({"policyTypes": ["Ingress", "Egress", "Ingress"]}),
                "spec.policyTypes",
            ),
            (
                json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}),
                "spec.podSelector.matchExpressions[0].operator",
            ),
        ] {
            let found = faults(spec.clone());
            assert_eq!(found.len(), 1, "{spec}: {found:?}");
            assert!(found[0].starts_with(expected), "{spec}: {found:?}");
        }
    }
}
