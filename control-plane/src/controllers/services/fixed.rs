//! Keeps what every cluster has without anybody's doing: the endpoints of the API behind the Service
//! `kubernetes`, and the Service of the cluster's DNS, `kube-dns`.
//!
//! Their endpoints are no pods, but places that the configuration names; so nobody else looks after
//! them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::{StreamExt, stream::select_all};
use http::Method;
use k8s_openapi::api::{
    core::v1::{Endpoints, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Client, api::ApiResource, runtime::watcher};
use serde_json::{Value, json};

use super::{
    mirror::SKIP,
    service::Family,
    slice::{MANAGED_BY, SERVICE_NAME},
};
use crate::{
    changes::changes,
    controllers::{
        queue::{Backoff, Step, Workers},
        requests::{JSON, ask, has_code, send, takes_nothing_in},
        thin::{self, Thin},
    },
    service_ranges::ServiceRanges,
};

/// The port of the DNS Service.
const DNS_PORT: u16 = 53;

/// Who looks after the slice of `kube-dns`.
const MANAGER: &str = "coracle.dev";

const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(20),
    longest: Duration::from_secs(30),
};

/// Where parts of the cluster are found that are no pods; none is looked after if it is not named.
#[derive(Clone, Debug, Default)]
pub(in crate::controllers) struct Places {
    pub(in crate::controllers) api: Option<SocketAddr>,
    /// At most one of each family.
    pub(in crate::controllers) dns: Vec<SocketAddr>,
    /// Where the Services have their addresses.
    pub(in crate::controllers) ranges: ServiceRanges,
}

/// An object that exists.
#[derive(Debug)]
struct Fixed {
    kind: Kind,
    /// Without namespace, which is in the object.
    object: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Once it exists, it is the cluster's administrator's.
    Service,
    Endpoints,
    Slice,
}

impl Places {
    pub(in crate::controllers) fn are_known(&self) -> bool {
        self.api.is_some() || !self.dns.is_empty()
    }

    fn objects(&self) -> Vec<Fixed> {
        let api = self.api.map(api_objects).into_iter().flatten();
        api.chain(self.dns_objects()).collect()
    }

    /// The names are those that clusters of today give to their DNS, whatever it is. It has addresses of
    /// each family in which it is reached, so that a pod of either finds it.
    fn dns_objects(&self) -> Vec<Fixed> {
        let Some(first) = self.dns.first() else {
            return Vec::new();
        };
        let port = |name: &str, protocol: &str, port: u16| json!({"name": name, "protocol": protocol, "port": port});
        let app = ("k8s-app", "kube-dns");
        let mut ports = [
            port("dns", "UDP", DNS_PORT),
            port("dns-tcp", "TCP", DNS_PORT),
        ];
        for port in &mut ports {
            port["targetPort"] = Value::from(first.port());
        }
        let ips = self.ranges.dns().collect::<Vec<_>>();
        let policy = match ips.len() {
            1 => "SingleStack",
            _ => "PreferDualStack",
        };
        let service = Fixed {
            kind: Kind::Service,
            object: json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"namespace": "kube-system", "name": "kube-dns", "labels": {app.0: app.1}},
                "spec": {"clusterIP": ips[0], "clusterIPs": ips, "ipFamilyPolicy": policy, "ports": ports},
            }),
        };
        let labels = json!({SERVICE_NAME: "kube-dns", MANAGED_BY: MANAGER, app.0: app.1});
        let slices = self.dns.iter().map(|place| {
            let endpoint = json!({"addresses": [place.ip()],
                "conditions": {"ready": true, "serving": true, "terminating": false}});
            let ports = json!([
                port("dns", "UDP", place.port()),
                port("dns-tcp", "TCP", place.port())
            ]);
            let name = match place {
                SocketAddr::V4(_) => "kube-dns",
                SocketAddr::V6(_) => "kube-dns-ipv6",
            };
            let name = ("kube-system", name);
            Fixed {
                kind: Kind::Slice,
                object: slice(name, &labels, place.ip(), &endpoint, &ports),
            }
        });
        [service].into_iter().chain(slices).collect()
    }
}

/// The names are those of the stock API server.
fn api_objects(place: SocketAddr) -> [Fixed; 2] {
    let port = json!({"name": "https", "port": place.port(), "protocol": "TCP"});
    let endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"namespace": "default", "name": "kubernetes", "labels": {SKIP: "true"}},
        "subsets": [{"addresses": [{"ip": place.ip()}], "ports": [&port]}],
    });
    let labels = json!({SERVICE_NAME: "kubernetes"});
    let endpoint = json!({"addresses": [place.ip()], "conditions": {"ready": true}});
    let slice = slice(
        ("default", "kubernetes"),
        &labels,
        place.ip(),
        &endpoint,
        &json!([port]),
    );
    [
        Fixed {
            kind: Kind::Endpoints,
            object: endpoints,
        },
        Fixed {
            kind: Kind::Slice,
            object: slice,
        },
    ]
}

fn slice(
    (namespace, name): (&str, &str),
    labels: &Value,
    ip: IpAddr,
    endpoint: &Value,
    ports: &Value,
) -> Value {
    let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "addressType": family.text(),
        "endpoints": [endpoint],
        "ports": ports,
    })
}

impl Fixed {
    fn text(&self, field: &str) -> &str {
        self.object["metadata"][field].as_str().unwrap_or_default()
    }

    fn resource(&self) -> ApiResource {
        match self.kind {
            Kind::Service => ApiResource::erase::<Service>(&()),
            Kind::Endpoints => ApiResource::erase::<Endpoints>(&()),
            Kind::Slice => ApiResource::erase::<EndpointSlice>(&()),
        }
    }

    /// Returns the path of the collection, and that of the object.
    fn paths(&self) -> [String; 2] {
        let resource = self.resource();
        let root = match resource.group.as_str() {
            "" => "api",
            _ => "apis",
        };
        let (namespace, version) = (self.text("namespace"), &resource.api_version);
        let all = format!(
            "/{root}/{version}/namespaces/{namespace}/{}",
            resource.plural
        );
        let one = format!("{all}/{}", self.text("name"));
        [all, one]
    }

    /// Returns the object as it shall replace the one found, unless that says what it shall.
    fn correction(&self, found: &Value) -> Option<Value> {
        let fields: &[&str] = match self.kind {
            Kind::Service => return None,
            Kind::Endpoints => &["subsets"],
            Kind::Slice => &["endpoints", "ports"],
        };
        let labels = self.object["metadata"]["labels"].as_object();
        let known = &found["metadata"]["labels"];
        let is_labelled = labels
            .into_iter()
            .flatten()
            .all(|(name, value)| known[name] == *value);
        let says = |field: &&str| same(&self.object[*field], &found[*field]);
        if is_labelled && fields.iter().all(says) {
            return None;
        }
        let mut correct = found.clone();
        for (name, value) in labels.into_iter().flatten() {
            correct["metadata"]["labels"][name] = value.clone();
        }
        for field in fields {
            correct[*field] = self.object[*field].clone();
        }
        Some(correct)
    }

    async fn ensure(&self, client: &Client) -> Result<(), kube::Error> {
        let [all, one] = self.paths();
        let found = match ask::<Value>(client, Method::GET, &one, &Value::Null).await {
            Ok(found) => Some(found),
            Err(error) if has_code(&error, 404) => None,
            Err(error) => return Err(error),
        };
        let Some(found) = found else {
            return match send(client, Method::POST, &all, JSON, &self.object).await {
                Err(error) if takes_nothing_in(&error) => Ok(()),
                sent => sent,
            };
        };
        if self.kind == Kind::Slice && found["addressType"] != self.object["addressType"] {
            // It cannot be changed; when it is gone, it is made anew.
            return send(client, Method::DELETE, &one, JSON, &json!({})).await;
        }
        match self.correction(&found) {
            Some(correct) => send(client, Method::PUT, &one, JSON, &correct).await,
            None => Ok(()),
        }
    }
}

/// Says whether everything that is wanted is found, whatever else is there.
fn same(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted
            .iter()
            .all(|(name, value)| found.get(name).is_some_and(|found| same(value, found))),
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len()
                && wanted
                    .iter()
                    .zip(found)
                    .all(|(wanted, found)| same(wanted, found))
        }
        _ => wanted == found,
    }
}

/// Runs until it is dropped.
pub(in crate::controllers) async fn run(client: Client, places: Places) {
    let objects = places.objects();
    let thin = thin::client(&client);
    let watches = objects.iter().enumerate().map(|(index, fixed)| {
        let (namespace, name) = (fixed.text("namespace"), fixed.text("name"));
        let only = format!("metadata.namespace={namespace},metadata.name={name}");
        let config = watcher::Config::default().fields(&only);
        let events = changes::<Thin>(thin.clone(), &fixed.resource(), config);
        events.map(move |_| index).boxed()
    });
    let mut events = select_all(watches);
    let mut workers: Workers<usize, Result<(), kube::Error>> = Workers::new(objects.len(), BACKOFF);
    loop {
        // Neither streams nor workers lose anything when the other wins.
        tokio::select! {
            Some(index) = events.next() => workers.add(index),
            step = workers.next() => match step {
                Step::Begin(index) => {
                    let Some(fixed) = places.objects().into_iter().nth(index) else {
                        continue;
                    };
                    let client = client.clone();
                    workers.start(index, async move { fixed.ensure(&client).await });
                }
                Step::Finished(index, Ok(())) => workers.done(&index),
                Step::Finished(index, Err(error)) => {
                    let name = objects.get(index).map(|fixed| fixed.text("name"));
                    tracing::warn!(name, %error, "not brought in order, tried again");
                    workers.retry(&index);
                }
            },
            else => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places {
            api: Some("10.244.0.1:6443".parse().expect("a place")),
            dns: vec!["10.244.0.1:53".parse().expect("a place")],
            ranges: ServiceRanges::default(),
        }
    }

    #[test]
    fn nothing_exists_without_a_place() {
        assert!(!Places::default().are_known());
        assert!(Places::default().objects().is_empty());
        let names: Vec<_> = places()
            .objects()
            .iter()
            .map(|fixed| fixed.paths()[1].clone())
            .collect();
        let expected = [
            "/api/v1/namespaces/default/endpoints/kubernetes",
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
            "/api/v1/namespaces/kube-system/services/kube-dns",
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn the_dns_of_a_cluster_of_both_families_has_addresses_of_both() {
        let mut both = places();
        both.dns
            .push("[fd00:10:244::1]:53".parse().expect("a place"));
        let ranges = ("10.43.0.0/16", "fd00:43::/112");
        let ranges = (ranges.0.parse(), ranges.1.parse().ok());
        both.ranges = ServiceRanges::new(ranges.0.expect("a range"), ranges.1).expect("in order");
        let objects = both.objects();
        let [service, four, six] = &objects[2..] else {
            panic!("{objects:?}");
        };
        let spec = &service.object["spec"];
        assert_eq!(spec["clusterIPs"], json!(["10.43.0.10", "fd00:43::a"]));
        assert_eq!(spec["ipFamilyPolicy"], "PreferDualStack");
        assert_eq!(four.object["addressType"], "IPv4");
        assert_eq!(six.object["addressType"], "IPv6");
        assert_eq!(
            six.object["endpoints"][0]["addresses"],
            json!(["fd00:10:244::1"])
        );
        assert_ne!(four.paths(), six.paths());
    }

    #[test]
    fn only_what_is_wrong_is_put_right() {
        for fixed in places().objects() {
            let mut found = fixed.object.clone();
            found["metadata"]["labels"]["more"] = json!("x");
            found["metadata"]["resourceVersion"] = json!("7");
            assert_eq!(fixed.correction(&found), None);
            if fixed.kind == Kind::Service {
                continue;
            }
            let field = match fixed.kind {
                Kind::Endpoints => "subsets",
                Kind::Service | Kind::Slice => "endpoints",
            };
            let right = found.clone();
            found[field] = json!([]);
            assert_eq!(fixed.correction(&found), Some(right.clone()));
            let mut found = right.clone();
            found["metadata"]["labels"] = json!({"more": "x"});
            assert_eq!(fixed.correction(&found), Some(right));
        }
    }
}
