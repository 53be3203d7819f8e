//! `/etc/resolv.conf`, and the same for the answers given in the process: whom to ask, and how to
//! complete names. Only a program that has a resolver of its own reads the file.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_network::{NameSource, ResolverConfig};
use coracle_registry::FileStamp;
use parking_lot::Mutex;

use crate::images::blocking;
use crate::spec::{DnsPolicy, PodSpecPlan};

/// What resolvers read at most (contract D.8).
const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;

/// A longer file of the machine is no resolver's.
const MACHINE_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Names with fewer dots are completed first where a file says nothing, and the most it may say
/// (resolv.conf(5)).
const NDOTS_DEFAULT: u8 = 1;
const NDOTS_MAX: u8 = 15;

/// The file, the same as a value, and what had to be left out.
pub(super) struct Resolver {
    pub(super) text: String,
    pub(super) config: ResolverConfig,
    pub(super) trimmed: Vec<String>,
}

/// What a pod's resolver depends on beside the pod.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// The cluster's domain.
    pub(crate) domain: &'a str,
    /// Where the cluster's names are answered.
    pub(crate) server: Ipv4Addr,
    /// The machine's own `/etc/resolv.conf`.
    pub(crate) machine: &'a str,
}

#[derive(Default)]
struct Parts {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<(String, Option<String>)>,
}

/// The machine's own file, read again when it is another one. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MachineResolver(Arc<Known>);

struct Known {
    path: PathBuf,
    text: Mutex<(Option<FileStamp>, Arc<str>)>,
}

impl MachineResolver {
    pub(crate) fn new() -> MachineResolver {
        MachineResolver::at(Path::new("/etc/resolv.conf"))
    }

    fn at(path: &Path) -> MachineResolver {
        MachineResolver(Arc::new(Known {
            path: path.to_owned(),
            text: Mutex::new((None, Arc::from(""))),
        }))
    }

    /// Returns what the file says; a machine without one has nothing to say.
    pub(crate) async fn text(&self) -> Arc<str> {
        // Taken before the file is read: one that is replaced meanwhile is read again for the next pod.
        let stamp = FileStamp::of(&self.0.path);
        let (known, text) = self.0.text.lock().clone();
        if stamp == known {
            return text;
        }
        let path = self.0.path.clone();
        let text: Arc<str> = blocking(move || read(&path)).await.into();
        *self.0.text.lock() = (stamp, text.clone());
        text
    }
}

fn read(path: &Path) -> String {
    match std::fs::metadata(path) {
        Ok(file) if file.len() <= MACHINE_FILE_BYTES_MAX => {
            std::fs::read_to_string(path).unwrap_or_default()
        }
        Ok(_) | Err(_) => String::new(),
    }
}

pub(super) fn resolver(pod: &PodSpecPlan, around: Surroundings<'_>) -> Resolver {
    let domain = around.domain;
    let machine = Parts::parse(around.machine);
    let mut parts = match pod.dns.policy {
        DnsPolicy::Cluster => {
            let namespace = &pod.key.namespace;
            let mut searches = vec![
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.to_owned(),
            ];
            searches.extend(machine.searches);
            Parts {
                servers: vec![around.server.to_string()],
                searches,
                options: vec![("ndots".to_owned(), Some("5".to_owned()))],
            }
        }
        DnsPolicy::Default => machine,
        DnsPolicy::Nothing => Parts::default(),
    };
    let servers = pod.dns.servers.iter().map(IpAddr::to_string);
    parts.servers.extend(servers);
    parts.searches.extend(pod.dns.searches.iter().cloned());
    for (name, value) in &pod.dns.options {
        let option = (name.clone(), value.clone());
        match parts.options.iter_mut().find(|(known, _)| known == name) {
            Some(known) => *known = option,
            None => parts.options.push(option),
        }
    }
    parts.write(pod.dns.policy)
}

impl Parts {
    fn parse(text: &str) -> Parts {
        let mut parts = Parts::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => parts.servers.extend(words.next().map(str::to_owned)),
                // The last line of them counts.
                Some("search") => parts.searches = words.map(str::to_owned).collect(),
                Some("options") => {
                    parts
                        .options
                        .extend(words.map(|word| match word.split_once(':') {
                            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                            None => (word.to_owned(), None),
                        }))
                }
                _ => {}
            }
        }
        parts
    }

    fn write(self, policy: DnsPolicy) -> Resolver {
        let mut trimmed = Vec::new();
        let mut servers = distinct(self.servers);
        if servers.len() > SERVERS_MAX {
            servers.truncate(SERVERS_MAX);
            trimmed.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied \
                 nameserver line is: {}",
                servers.join(" ")
            ));
        }
        let mut searches = distinct(self.searches);
        let before = searches.len();
        searches.truncate(SEARCHES_MAX);
        while searches.join(" ").len() > SEARCH_CHARS_MAX {
            searches.pop();
        }
        if searches.len() < before {
            trimmed.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied \
                 search line is: {}",
                searches.join(" ")
            ));
        }
        let config = ResolverConfig {
            source: match policy {
                DnsPolicy::Cluster => NameSource::Cluster,
                DnsPolicy::Default => NameSource::Host,
                DnsPolicy::Nothing => {
                    NameSource::Servers(servers.iter().flat_map(|server| server.parse()).collect())
                }
            },
            searches: searches.clone(),
            ndots: ndots(&self.options),
        };
        let mut text = String::new();
        if !searches.is_empty() {
            text.push_str(&format!("search {}\n", searches.join(" ")));
        }
        for server in servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        let options = self.options.into_iter().map(|(name, value)| match value {
            Some(value) => format!("{name}:{value}"),
            None => name,
        });
        let options: Vec<String> = options.collect();
        if !options.is_empty() {
            text.push_str(&format!("options {}\n", options.join(" ")));
        }
        Resolver {
            text,
            config,
            trimmed,
        }
    }
}

/// Returns how many dots make a name complete.
fn ndots(options: &[(String, Option<String>)]) -> u8 {
    let said = options.iter().find(|(name, _)| name == "ndots");
    let value = said.and_then(|(_, value)| value.as_ref()?.parse::<u32>().ok());
    value.map_or(NDOTS_DEFAULT, |dots| {
        u8::try_from(dots).unwrap_or(NDOTS_MAX).min(NDOTS_MAX)
    })
}

/// Keeps the first of equal ones.
fn distinct(list: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::with_capacity(list.len());
    for item in list {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::{HostPathPolicy, check_pod};

    const MACHINE: &str =
        "# ours\nsearch lan example\nnameserver 192.0.2.1\noptions edns0 ndots:1\n";

    #[tokio::test]
    async fn the_machines_file_is_read_again_when_it_is_another() {
        let folder = tempfile::TempDir::new().unwrap();
        let (path, fresh) = (folder.path().join("resolv.conf"), folder.path().join("new"));
        let machine = MachineResolver::at(&path);
        assert_eq!(&*machine.text().await, "");
        for text in ["search a\n", "search b\n"] {
            std::fs::write(&fresh, text).unwrap();
            std::fs::rename(&fresh, &path).unwrap();
            assert_eq!(&*machine.text().await, text);
            assert_eq!(&*machine.text().await, text);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(&*machine.text().await, "");
    }

    fn resolver_of(spec: Value) -> Resolver {
        let mut whole = json!({"containers": [{"name": "c", "image": "i"}]});
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let pod =
            json!({"metadata": {"name": "p", "namespace": "shop", "uid": "u1"}, "spec": whole});
        let plan = check_pod(
            &serde_json::from_value(pod).unwrap(),
            HostPathPolicy::Refuse,
        );
        let around = Surroundings {
            domain: "cluster.local",
            server: Ipv4Addr::new(10, 244, 0, 1),
            machine: MACHINE,
        };
        resolver(&plan.unwrap(), around)
    }

    #[test]
    fn the_policy_says_where_the_file_begins_and_the_configuration_adds() {
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local lan example\n";
        let server = "nameserver 10.244.0.1\n";
        let config = json!({"nameservers": ["1.1.1.1", "1.1.1.1"], "searches": ["lan", "more"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "trust-ad"}]});
        for (spec, expected) in [
            (json!({}), format!("{cluster}{server}options ndots:5\n")),
            (
                json!({"dnsPolicy": "ClusterFirstWithHostNet"}),
                format!("{cluster}{server}options ndots:5\n"),
            ),
            (
                json!({"dnsConfig": config}),
                "search shop.svc.cluster.local svc.cluster.local cluster.local lan example more\n\
                 nameserver 10.244.0.1\nnameserver 1.1.1.1\noptions ndots:2 trust-ad\n"
                    .to_owned(),
            ),
            (
                json!({"dnsPolicy": "Default"}),
                "search lan example\nnameserver 192.0.2.1\noptions edns0 ndots:1\n".to_owned(),
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": config}),
                "search lan more\nnameserver 1.1.1.1\noptions ndots:2 trust-ad\n".to_owned(),
            ),
        ] {
            let found = resolver_of(spec.clone());
            assert_eq!(found.text, expected, "{spec}");
            assert!(found.trimmed.is_empty(), "{:?}", found.trimmed);
        }
    }

    #[test]
    fn names_in_the_process_are_completed_as_the_file_says() {
        let config =
            json!({"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "99"}]});
        let server = "1.1.1.1".parse().unwrap();
        for (spec, source, searches, ndots) in [
            (json!({}), NameSource::Cluster, 5, 5),
            (json!({"dnsPolicy": "Default"}), NameSource::Host, 2, 1),
            (
                json!({"dnsPolicy": "None", "dnsConfig": config}),
                NameSource::Servers(vec![server]),
                0,
                15,
            ),
            (json!({"dnsConfig": config}), NameSource::Cluster, 5, 15),
        ] {
            let found = resolver_of(spec.clone()).config;
            assert_eq!(found.source, source, "{spec}");
            assert_eq!(found.searches.len(), searches, "{spec}");
            assert_eq!(found.ndots, ndots, "{spec}");
        }
    }

    #[test]
    fn what_no_resolver_reads_is_left_out_and_told() {
        let servers: Vec<String> = (1..=4).map(|n| format!("192.0.2.{n}")).collect();
        let searches: Vec<String> = (0..40).map(|n| format!("d{n}.example")).collect();
        let config = json!({"nameservers": servers, "searches": searches});
        let found = resolver_of(json!({"dnsPolicy": "None", "dnsConfig": config}));
        assert_eq!(found.text.matches("nameserver ").count(), 3);
        assert_eq!(found.text.lines().next().unwrap().split(' ').count(), 33);
        assert_eq!(found.trimmed.len(), 2);
        assert_eq!(
            found.trimmed[0],
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied \
             nameserver line is: 192.0.2.1 192.0.2.2 192.0.2.3"
        );
        let long = json!({"searches": (0..20).map(|n| format!("{n}{}", "x".repeat(199))).collect::<Vec<_>>()});
        let found = resolver_of(json!({"dnsPolicy": "None", "dnsConfig": long}));
        let line = found.text.lines().next().unwrap();
        assert!(line.len() <= "search ".len() + 2048, "{}", line.len());
        assert_eq!(found.trimmed.len(), 1);
    }
}
