//! The records of a Service: what its name and those below it stand for.
//!
//! Names depend on more Services than routes do: on those that another proxy serves, and on headless
//! ones, whose name stands for their endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;

use coracle_network::{HeadlessEndpoint, ServiceRecords, ZonePort};

use crate::facts::{Addressing, ServiceFacts, SliceFacts};

/// Returns the records of a Service; nothing for one that has no address yet.
pub(crate) fn of<'a>(
    service: &ServiceFacts,
    slices: impl Iterator<Item = &'a SliceFacts>,
) -> Option<ServiceRecords> {
    match &service.addressing {
        Addressing::Virtual => Some(ServiceRecords::Cluster {
            ips: service.cluster_ips.clone(),
            ports: service.named_ports.clone(),
        }),
        Addressing::Headless => Some(ServiceRecords::Headless {
            endpoints: endpoints(service, slices),
        }),
        Addressing::ExternalName(target) => Some(ServiceRecords::External {
            target: target.clone(),
        }),
        Addressing::Pending => None,
    }
}

/// Returns the endpoints that are ready, or all where the Service publishes them before. One that is
/// in several slices has the ports of all.
fn endpoints<'a>(
    service: &ServiceFacts,
    slices: impl Iterator<Item = &'a SliceFacts>,
) -> Vec<HeadlessEndpoint> {
    let mut found = BTreeMap::<(IpAddr, Option<&str>), Vec<ZonePort>>::new();
    for slice in slices {
        for one in &slice.endpoints {
            if !one.condition.is_ready && !service.publish_not_ready {
                continue;
            }
            let ports = found.entry((one.ip, one.hostname.as_deref())).or_default();
            let new = slice.named_ports.iter();
            let new = new.filter(|port| !ports.contains(port)).cloned();
            let new = new.collect::<Vec<_>>();
            ports.extend(new);
        }
    }
    let endpoints = found.into_iter();
    let endpoints = endpoints.map(|((ip, hostname), ports)| HeadlessEndpoint {
        ip,
        hostname: hostname.map(str::to_owned),
        ports,
    });
    endpoints.collect()
}

#[cfg(test)]
mod tests;
