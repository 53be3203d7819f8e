//! Whom a request is passed on to: a kubelet, or an address and port of a pod.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use serde_json::Value;

use crate::{
    kinds,
    object::{self, ObjectStore},
    request::Objects,
    status::ApiError,
    unique::unique,
};

/// Who is asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The kubelet of a node.
    Kubelet { node: String },
    /// A pod.
    Address { scheme: Scheme, to: SocketAddr },
}

/// How a pod is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// A name in a path, with what may stand beside it: `web`, `web:80` or `https:web:443`.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    scheme: Scheme,
    name: &'a str,
    /// Empty where none is given.
    port: &'a str,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Kubelet { node } => f.write_str(node),
            Target::Address { to, .. } => to.fmt(f),
        }
    }
}

impl<'a> Named<'a> {
    fn read(id: &'a str) -> Option<Self> {
        let parts: Vec<_> = id.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { scheme, name, port })
    }
}

impl Scheme {
    fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl Target {
    /// Finds out whom an object stands for.
    pub(crate) fn of(store: &ObjectStore, objects: &Objects) -> Result<Target, ApiError> {
        let id = objects.name.as_deref().unwrap_or_default();
        let kind = objects.info.singular;
        let invalid = || ApiError::bad_request(format!("invalid {kind} request {id:?}"));
        let named = Named::read(id).ok_or_else(invalid)?;
        let namespace = objects.namespace.as_deref();
        let key = object::key(objects.info, namespace, named.name);
        let record = store.get(&key);
        let record = record.ok_or_else(|| ApiError::not_found(objects.info, named.name))?;
        let object = object::parse(&record);
        match kind {
            "node" => kubelet(&object, &named),
            "pod" => pod(&object, &named).ok_or_else(invalid)?,
            _ => {
                let of = |kind: &str, name: &str| {
                    let info = kinds::served("v1", kind)?;
                    let record = store.get(&object::key(info, namespace, name))?;
                    Some(object::parse(&record))
                };
                let endpoints = of("Endpoints", named.name).unwrap_or_default();
                let is_its_own = |address: &Value| {
                    let name = &address["targetRef"];
                    (name["kind"] == "Pod" && name["namespace"].as_str() == namespace)
                        .then(|| of("Pod", name["name"].as_str()?))
                        .flatten()
                        .is_some_and(|pod| has_address(&pod, &address["ip"]))
                };
                service(&object, &endpoints, &named, is_its_own)
            }
        }
    }
}

/// A node is asked at its kubelet; other ports of the machine are nobody's business.
fn kubelet(node: &Value, named: &Named<'_>) -> Result<Target, ApiError> {
    let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    if !named.port.is_empty() && named.port.parse().ok() != port.as_u64() {
        let what = format!("`nodes/proxy` to ports other than the kubelet's, {port},");
        return Err(ApiError::not_served(&what));
    }
    let node = named.name.to_owned();
    Ok(Target::Kubelet { node })
}

/// Nothing is returned for a port that is none.
fn pod(pod: &Value, named: &Named<'_>) -> Option<Result<Target, ApiError>> {
    let scheme = named.scheme;
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    let port = match named.port {
        "" => first_port(pod).unwrap_or(scheme.port()),
        port => port.parse().ok()?,
    };
    let to = allowed(ip).map(|ip| SocketAddr::new(ip, port));
    let to = to.ok_or_else(|| ApiError::bad_request("address not allowed"));
    Some(to.map(|to| Target::Address { scheme, to }))
}

fn first_port(pod: &Value) -> Option<u16> {
    let containers = pod["spec"]["containers"].as_array()?;
    let port = containers
        .iter()
        .find_map(|container| container["ports"][0]["containerPort"].as_u64());
    u16::try_from(port?).ok()
}

/// Reads an address that the API may ask at somebody's wish.
fn allowed(ip: &str) -> Option<IpAddr> {
    ip.parse().ok().filter(is_global_unicast)
}

/// As Go's `IP.IsGlobalUnicast`: no loopback, no link, nobody and not everybody, of IPv4 in the form of IPv6
/// either.
fn is_global_unicast(ip: &IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_link_local()
                || ip == Ipv4Addr::BROADCAST)
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unicast_link_local())
        }
    }
}

/// Chooses one of a Service's ready endpoints, of those that are pods.
fn service(
    service: &Value,
    endpoints: &Value,
    named: &Named<'_>,
    is_pod: impl Fn(&Value) -> bool,
) -> Result<Target, ApiError> {
    let none = |id: &str| {
        let message = format!("no endpoints available for service {id:?}");
        ApiError::unavailable(message)
    };
    let mut port_name = named.port.to_owned();
    if let Ok(number) = named.port.parse::<u64>() {
        let ports = service["spec"]["ports"].as_array();
        let port = ports.and_then(|ports| ports.iter().find(|port| port["port"] == number));
        let port = port.ok_or_else(|| {
            let name = named.name;
            let message = format!("no service port {number} found for service {name:?}");
            ApiError::unavailable(message)
        })?;
        port_name = port["name"].as_str().unwrap_or_default().to_owned();
    }
    let subsets = endpoints["subsets"].as_array();
    let subsets = subsets.map(Vec::as_slice).unwrap_or_default();
    let mut found = Vec::new();
    for subset in subsets {
        let ports = subset["ports"].as_array();
        let port = ports.and_then(|ports| {
            ports
                .iter()
                .find(|port| port["name"].as_str().unwrap_or_default() == port_name)
        });
        let port = port.and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
        let (Some(port), Some(addresses)) = (port, subset["addresses"].as_array()) else {
            continue;
        };
        found.extend(addresses.iter().map(|address| (address, port)));
    }
    if found.is_empty() {
        return Err(none(named.name));
    }
    // From a place that differs each time, so that all have their share.
    let start = usize::try_from(unique().as_u128() % found.len() as u128).unwrap_or_default();
    found.rotate_left(start);
    let chosen = found.into_iter().find(|(address, _)| is_pod(address));
    let (address, port) = chosen.ok_or_else(|| none(named.name))?;
    let ip = address["ip"].as_str().and_then(allowed);
    let ip = ip.ok_or_else(|| none(named.name))?;
    Ok(Target::Address {
        scheme: named.scheme,
        to: SocketAddr::new(ip, port),
    })
}

fn has_address(pod: &Value, ip: &Value) -> bool {
    let ips = pod["status"]["podIPs"].as_array();
    ips.is_some_and(|ips| ips.iter().any(|one| one["ip"] == *ip))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(address: &str) -> Target {
        Target::Address {
            scheme: Scheme::Http,
            to: address.parse().unwrap(),
        }
    }

    #[test]
    fn a_name_has_a_scheme_and_a_port_beside_it() {
        let named = |scheme, name, port| Some(Named { scheme, name, port });
        for (id, expected) in [
            ("web", named(Scheme::Http, "web", "")),
            ("web:80", named(Scheme::Http, "web", "80")),
            ("web:", named(Scheme::Http, "web", "")),
            (":web:http", named(Scheme::Http, "web", "http")),
            ("https:web:443", named(Scheme::Https, "web", "443")),
            ("https:web:", named(Scheme::Https, "web", "")),
            ("ftp:web:21", None),
            (":80", None),
            ("", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(Named::read(id), expected, "{id}");
        }
    }

    #[test]
    fn a_pod_is_asked_at_its_own_address_alone() {
        let of = |ip: &str, ports: Value, id: &str| {
            let object = json!({
                "spec": {"containers": [{"name": "none"}, {"ports": ports}]},
                "status": {"podIP": ip},
            });
            let found = pod(&object, &Named::read(id).unwrap());
            found.map(|found| found.map_err(|error| error.message))
        };
        let ports = json!([{"containerPort": 8080}, {"containerPort": 9090}]);
        let ip = "10.244.0.5";
        assert_eq!(of(ip, ports.clone(), "p"), Some(Ok(at("10.244.0.5:8080"))));
        assert_eq!(of(ip, ports.clone(), "p:7"), Some(Ok(at("10.244.0.5:7"))));
        assert_eq!(of(ip, json!([]), "p"), Some(Ok(at("10.244.0.5:80"))));
        assert_eq!(
            of("fd00::5", ports.clone(), "p"),
            Some(Ok(at("[fd00::5]:8080")))
        );
        for ip in [
            "",
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
        ] {
            let refused = of(ip, ports.clone(), "p");
            assert!(refused.is_some_and(|found| found.is_err()), "{ip}");
        }
        for port in ["http", "0x1", "65536", "-1"] {
            assert_eq!(of(ip, ports.clone(), &format!("p:{port}")), None, "{port}");
        }
    }

    #[test]
    fn a_service_is_asked_at_an_endpoint_that_is_a_pod() {
        let object = json!({"spec": {"ports": [
            {"name": "web", "port": 80},
            {"name": "admin", "port": 81},
        ]}});
        let endpoints = json!({"subsets": [
            {"addresses": [], "ports": [{"name": "web", "port": 1}]},
            {
                "addresses": [{"ip": "10.0.0.9"}, {"ip": "10.244.0.5", "targetRef": {"kind": "Pod"}}],
                "notReadyAddresses": [{"ip": "10.244.0.6", "targetRef": {"kind": "Pod"}}],
                "ports": [{"name": "web", "port": 8080}, {"name": "admin", "port": 9090}],
            },
        ]});
        let is_pod = |address: &Value| address["targetRef"]["kind"] == "Pod";
        for (id, expected) in [
            ("s:web", Ok(at("10.244.0.5:8080"))),
            ("s:80", Ok(at("10.244.0.5:8080"))),
            ("s:81", Ok(at("10.244.0.5:9090"))),
            (
                "s:8080",
                Err("no service port 8080 found for service \"s\""),
            ),
            ("s:other", Err("no endpoints available for service \"s\"")),
            ("s", Err("no endpoints available for service \"s\"")),
        ] {
            let named = Named::read(id).unwrap();
            let found = service(&object, &endpoints, &named, is_pod);
            let found = found.map_err(|error| error.message);
            assert_eq!(found, expected.map_err(str::to_owned), "{id}");
        }
        let mut inside = endpoints.clone();
        inside["subsets"][1]["addresses"][1]["ip"] = json!("127.0.0.1");
        let named = Named::read("s:web").unwrap();
        assert!(service(&object, &inside, &named, is_pod).is_err());
        assert!(service(&object, &Value::Null, &named, is_pod).is_err());
        assert!(service(&object, &endpoints, &named, |_| false).is_err());
    }

    #[test]
    fn a_node_is_asked_at_its_kubelet_alone() {
        let node = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}});
        for (id, expected) in [
            ("n", true),
            ("n:10250", true),
            ("https:n:10250", true),
            ("n:22", false),
        ] {
            let found = kubelet(&node, &Named::read(id).unwrap());
            assert_eq!(found.is_ok(), expected, "{id}");
        }
    }
}
