//! The names of pods that are attached here: by address, and by host name and subdomain.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::PodIdentity;
use crate::store::Store;

#[derive(Debug)]
pub(super) struct Pods {
    /// The namespace of each pod.
    by_address: Store<IpAddr, String>,
    /// Addresses by `<hostname>.<subdomain>.<namespace>`.
    by_name: Store<String, Vec<IpAddr>>,
    /// How many pods each namespace has.
    namespaces: Store<String, usize>,
}

impl Pods {
    pub(super) fn new() -> Pods {
        Pods {
            by_address: Store::new(),
            by_name: Store::new(),
            namespaces: Store::new(),
        }
    }

    pub(super) fn enter(&self, ip: Ipv4Addr, second: Option<Ipv6Addr>, pod: &PodIdentity) {
        let namespace = pod.namespace.to_ascii_lowercase();
        let all = [ip.into()].into_iter().chain(second.map(IpAddr::V6));
        for ip in all.clone() {
            self.by_address.insert(ip, namespace.clone());
        }
        self.namespaces.update(namespace, |pods| {
            *pods += 1;
            true
        });
        if let Some(name) = name_of(pod) {
            self.by_name.update(name, |addresses| {
                addresses.extend(all);
                true
            });
        }
    }

    pub(super) fn forget(&self, ip: Ipv4Addr, second: Option<Ipv6Addr>, pod: &PodIdentity) {
        let (ip, second) = (IpAddr::V4(ip), second.map(IpAddr::V6));
        if self.by_address.remove(&ip).is_none() {
            return;
        }
        if let Some(second) = second {
            self.by_address.remove(&second);
        }
        let namespace = pod.namespace.to_ascii_lowercase();
        self.namespaces.update(namespace, |pods| {
            *pods = pods.saturating_sub(1);
            *pods > 0
        });
        if let Some(name) = name_of(pod) {
            self.by_name.update(name, |addresses| {
                addresses.retain(|address| *address != ip && Some(*address) != second);
                !addresses.is_empty()
            });
        }
    }

    /// Returns the pods of a host name.
    pub(super) fn named(&self, hostname: &str, subdomain: &str, namespace: &str) -> Vec<IpAddr> {
        if hostname.is_empty() || hostname.contains('.') {
            return Vec::new();
        }
        let name = format!("{hostname}.{subdomain}.{namespace}");
        self.by_name
            .get(name.as_str())
            .map_or_else(Vec::new, |addresses| addresses.to_vec())
    }

    pub(super) fn is_in(&self, ip: IpAddr, namespace: &str) -> bool {
        self.by_address
            .get(&ip)
            .is_some_and(|found| *found == namespace)
    }

    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains(namespace)
    }
}

fn name_of(pod: &PodIdentity) -> Option<String> {
    let (hostname, namespace) = (&pod.hostname, &pod.namespace);
    let subdomain = pod.subdomain.as_ref()?;
    Some(format!("{hostname}.{subdomain}.{namespace}").to_ascii_lowercase())
}
