//! The Services of the cluster as variables tell of them (contract D.1): one watch for the node.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::readable::{self, News};
use crate::spec::ServiceLinks;

/// Where the Service of the API is, and its name.
const API_NAMESPACE: &str = "default";
const API_SERVICE: &str = "kubernetes";

/// The Services there are. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Services(Arc<Inner>);

struct Inner {
    known: Mutex<Known>,
    /// Whether all that there are have been seen once.
    synced: watch::Sender<bool>,
}

/// By namespace and name.
type Known = HashMap<String, BTreeMap<String, ServiceFacts>>;

/// What variables say of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ServiceFacts {
    ip: String,
    ports: Vec<PortFacts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PortFacts {
    name: String,
    port: i32,
    /// Upper case.
    protocol: String,
}

impl Default for Services {
    fn default() -> Services {
        Services(Arc::new(Inner {
            known: Mutex::default(),
            synced: watch::Sender::new(false),
        }))
    }
}

impl Services {
    /// Returns the variables for a container of a namespace, sorted by Service. Waits until all Services
    /// that there are have been seen once.
    pub(crate) async fn variables(
        &self,
        namespace: &str,
        links: ServiceLinks,
    ) -> Vec<(String, String)> {
        let mut synced = self.0.synced.subscribe();
        // Fails only without a keeper, and then no container starts any more.
        let _ = synced.wait_for(|synced| *synced).await;
        let known = self.0.known.lock();
        let mut chosen: BTreeMap<&str, &ServiceFacts> = BTreeMap::new();
        let api = known.get(API_NAMESPACE);
        let api = api.and_then(|services| services.get(API_SERVICE));
        chosen.extend(api.map(|api| (API_SERVICE, api)));
        if links == ServiceLinks::Namespace {
            let own = known.get(namespace).into_iter().flatten();
            chosen.extend(own.map(|(name, facts)| (name.as_str(), facts)));
        }
        let mut variables = Vec::new();
        for (name, facts) in chosen {
            facts.tell(name, &mut variables);
        }
        variables
    }

    /// Follows the Services for as long as it is polled.
    pub(super) async fn follow(self, client: kube::Client) {
        let mut events = readable::watch::<Service>(client, watcher::Config::default());
        let mut listed = Known::new();
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(News::Event(event)) => event,
                // Nothing can be told of it; it must not hold up what can be told of others.
                Ok(News::Unread(_)) => continue,
                Err(error) => {
                    tracing::warn!(%error, "failed to watch services");
                    continue;
                }
            };
            match event {
                Event::Init => listed = Known::new(),
                Event::InitApply(service) => note(&mut listed, service),
                Event::InitDone => {
                    *self.0.known.lock() = std::mem::take(&mut listed);
                    self.0.synced.send_replace(true);
                }
                Event::Apply(service) => note(&mut self.0.known.lock(), service),
                Event::Delete(service) => forget(&mut self.0.known.lock(), &service),
            }
        }
    }
}

fn note(known: &mut Known, service: Service) {
    let Some(facts) = ServiceFacts::of(&service) else {
        return forget(known, &service);
    };
    let namespace = service.metadata.namespace.unwrap_or_default();
    let name = service.metadata.name.unwrap_or_default();
    known.entry(namespace).or_default().insert(name, facts);
}

fn forget(known: &mut Known, service: &Service) {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    if let Some(services) = known.get_mut(namespace) {
        services.remove(name);
        if services.is_empty() {
            known.remove(namespace);
        }
    }
}

impl ServiceFacts {
    /// Nothing of a Service without an address of its own.
    fn of(service: &Service) -> Option<ServiceFacts> {
        let spec = service.spec.as_ref()?;
        let ip = spec.cluster_ip.as_deref();
        let ip = ip.filter(|ip| !matches!(*ip, "" | "None"))?;
        let ports = spec.ports.iter().flatten().map(|port| PortFacts {
            name: port.name.clone().unwrap_or_default(),
            port: port.port,
            protocol: port.protocol.as_deref().unwrap_or("TCP").to_uppercase(),
        });
        Some(ServiceFacts {
            ip: ip.to_owned(),
            ports: ports.collect(),
        })
    }

    fn tell(&self, name: &str, variables: &mut Vec<(String, String)>) {
        let Some(first) = self.ports.first() else {
            return;
        };
        let prefix = variable_name(name);
        let mut tell = |name: String, value: String| variables.push((name, value));
        tell(format!("{prefix}_SERVICE_HOST"), self.ip.clone());
        tell(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        for port in self.ports.iter().filter(|port| !port.name.is_empty()) {
            let name = variable_name(&port.name);
            tell(
                format!("{prefix}_SERVICE_PORT_{name}"),
                port.port.to_string(),
            );
        }
        tell(format!("{prefix}_PORT"), self.url(first));
        for port in &self.ports {
            let prefix = format!("{prefix}_PORT_{}_{}", port.port, port.protocol);
            tell(prefix.clone(), self.url(port));
            tell(format!("{prefix}_PROTO"), port.protocol.to_lowercase());
            tell(format!("{prefix}_PORT"), port.port.to_string());
            tell(format!("{prefix}_ADDR"), self.ip.clone());
        }
    }

    fn url(&self, port: &PortFacts) -> String {
        let mut url = format!("{}://", port.protocol.to_lowercase());
        // Writing to a `String` cannot fail.
        let _ = match self.ip.contains(':') {
            true => write!(url, "[{}]:{}", self.ip, port.port),
            false => write!(url, "{}:{}", self.ip, port.port),
        };
        url
    }
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn services() -> Services {
        let services = Services::default();
        for (namespace, name, spec) in [
            (
                "default",
                "kubernetes",
                json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}),
            ),
            (
                "shop",
                "web-db",
                json!({"clusterIP": "10.96.0.9", "ports": [
                    {"name": "sql", "port": 5432}, {"name": "dns-x", "port": 53, "protocol": "UDP"}]}),
            ),
            (
                "shop",
                "headless",
                json!({"clusterIP": "None", "ports": [{"port": 1}]}),
            ),
            (
                "shop",
                "outside",
                json!({"type": "ExternalName", "externalName": "x.example"}),
            ),
            (
                "other",
                "else",
                json!({"clusterIP": "10.96.0.8", "ports": [{"port": 1}]}),
            ),
        ] {
            let service = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
            let service = serde_json::from_value(service).unwrap();
            note(&mut services.0.known.lock(), service);
        }
        services.0.synced.send_replace(true);
        services
    }

    async fn check(namespace: &str, links: ServiceLinks, expected: &[&str]) {
        let variables = services().variables(namespace, links).await;
        let lines: Vec<String> = variables
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(lines, expected);
    }

    const API: [&str; 8] = [
        "KUBERNETES_SERVICE_HOST=10.96.0.1",
        "KUBERNETES_SERVICE_PORT=443",
        "KUBERNETES_SERVICE_PORT_HTTPS=443",
        "KUBERNETES_PORT=tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP_PROTO=tcp",
        "KUBERNETES_PORT_443_TCP_PORT=443",
        "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
    ];

    #[tokio::test]
    async fn variables_tell_of_the_namespaces_services_and_of_the_api() {
        let own = [
            "WEB_DB_SERVICE_HOST=10.96.0.9",
            "WEB_DB_SERVICE_PORT=5432",
            "WEB_DB_SERVICE_PORT_SQL=5432",
            "WEB_DB_SERVICE_PORT_DNS_X=53",
            "WEB_DB_PORT=tcp://10.96.0.9:5432",
            "WEB_DB_PORT_5432_TCP=tcp://10.96.0.9:5432",
            "WEB_DB_PORT_5432_TCP_PROTO=tcp",
            "WEB_DB_PORT_5432_TCP_PORT=5432",
            "WEB_DB_PORT_5432_TCP_ADDR=10.96.0.9",
            "WEB_DB_PORT_53_UDP=udp://10.96.0.9:53",
            "WEB_DB_PORT_53_UDP_PROTO=udp",
            "WEB_DB_PORT_53_UDP_PORT=53",
            "WEB_DB_PORT_53_UDP_ADDR=10.96.0.9",
        ];
        check(
            "shop",
            ServiceLinks::Namespace,
            &[&API[..], &own[..]].concat(),
        )
        .await;
    }

    #[tokio::test]
    async fn without_links_only_the_api_is_told_of() {
        check("shop", ServiceLinks::ApiOnly, &API).await;
        check("default", ServiceLinks::Namespace, &API).await;
    }

    #[test]
    fn an_address_of_the_sixth_version_is_bracketed() {
        let facts = ServiceFacts {
            ip: "fd00::1".to_owned(),
            ports: Vec::new(),
        };
        let port = PortFacts {
            name: String::new(),
            port: 80,
            protocol: "TCP".to_owned(),
        };
        assert_eq!(facts.url(&port), "tcp://[fd00::1]:80");
    }
}
