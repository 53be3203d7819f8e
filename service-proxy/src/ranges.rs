//! Follows which ranges of addresses the nodes of the cluster have for their pods: who comes from one of
//! them is a pod, and pods of this node come from their own addresses there.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::edge::Edge;
use crate::watch::watched;

/// Nodes whose ranges are kept, more than Kubernetes is made for; those of further ones are left out.
const NODES_MAX: usize = 16_384;

/// Keeps an edge's ranges of pods as the Nodes say, until it is told to stop.
pub(crate) async fn follow(client: Client, edge: Arc<Edge>, stop: CancellationToken) {
    let nodes = Api::<DeserializeGuard<Node>>::all(client);
    let mut nodes = watched(nodes, watcher::Config::default());
    let mut known = Known::default();
    loop {
        let event = tokio::select! {
            // What is not read is read at the next start.
            () = stop.cancelled() => return,
            event = nodes.next() => event,
        };
        let Some(event) = event else {
            return;
        };
        if known.learn(event) {
            edge.set_pod_ranges(known.ranges());
        }
    }
}

/// The ranges by node.
#[derive(Default)]
struct Known {
    nodes: HashMap<String, Vec<IpNet>>,
    /// Those of a list that is under way.
    listed: HashMap<String, Vec<IpNet>>,
}

impl Known {
    /// Takes news in, and tells whether a range has come or gone.
    fn learn(&mut self, event: Event<DeserializeGuard<Node>>) -> bool {
        match event {
            Event::Apply(node) => enter(&mut self.nodes, &node),
            Event::Delete(node) => {
                let gone = self.nodes.remove(&node.name_any());
                gone.is_some_and(|ranges| !ranges.is_empty())
            }
            Event::Init => {
                self.listed.clear();
                false
            }
            Event::InitApply(node) => {
                enter(&mut self.listed, &node);
                false
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let differs = self.nodes != listed;
                self.nodes = listed;
                differs
            }
        }
    }

    fn ranges(&self) -> Vec<IpNet> {
        let mut ranges = self.nodes.values().flatten().copied().collect::<Vec<_>>();
        ranges.sort_unstable();
        IpNet::aggregate(&ranges)
    }
}

/// Enters a node, and tells whether its ranges are others than before.
fn enter(nodes: &mut HashMap<String, Vec<IpNet>>, node: &DeserializeGuard<Node>) -> bool {
    let name = node.name_any();
    let ranges = match &node.0 {
        Ok(node) => ranges(node),
        Err(error) => {
            tracing::warn!(node = name, error = %error.error, "a Node cannot be read");
            return false;
        }
    };
    if nodes.get(&name) == Some(&ranges) || (nodes.len() >= NODES_MAX && !nodes.contains_key(&name))
    {
        return false;
    }
    nodes.insert(name, ranges);
    true
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.iter();
    let several = spec
        .clone()
        .flat_map(|spec| spec.pod_cidrs.iter().flatten());
    let one = spec.filter_map(|spec| spec.pod_cidr.as_ref());
    let mut ranges = several
        .chain(one)
        .filter_map(|range| range.parse::<IpNet>().ok())
        .collect::<Vec<_>>();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, cidrs: &[&str]) -> DeserializeGuard<Node> {
        let node = json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
        });
        DeserializeGuard(Ok(serde_json::from_value(node).unwrap()))
    }

    fn told(known: &Known) -> Vec<String> {
        known.ranges().iter().map(IpNet::to_string).collect()
    }

    #[test]
    fn ranges_come_and_go_with_their_nodes() {
        let mut known = Known::default();
        assert!(known.learn(Event::Apply(node("a", &["10.244.1.0/24", "fd00:1::/64"]))));
        assert!(!known.learn(Event::Apply(node("a", &["10.244.1.0/24", "fd00:1::/64"]))));
        assert!(known.learn(Event::Apply(node("b", &["10.244.7.0/24"]))));
        assert_eq!(
            told(&known),
            ["10.244.1.0/24", "10.244.7.0/24", "fd00:1::/64"]
        );
        assert!(known.learn(Event::Delete(node("b", &["10.244.7.0/24"]))));
        assert_eq!(told(&known), ["10.244.1.0/24", "fd00:1::/64"]);
        // One that has no range yet.
        assert!(!known.learn(Event::Delete(node("c", &[]))));
    }

    #[test]
    fn a_list_takes_the_place_of_what_was_known() {
        let mut known = Known::default();
        known.learn(Event::Apply(node("a", &["10.244.1.0/24"])));
        assert!(!known.learn(Event::Init));
        assert!(!known.learn(Event::InitApply(node("b", &["10.244.2.0/24"]))));
        assert_eq!(told(&known), ["10.244.1.0/24"]);
        assert!(known.learn(Event::InitDone));
        assert_eq!(told(&known), ["10.244.2.0/24"]);
    }
}
