//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a pod, in memory (contract D.8).

mod resolver;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use bytes::Bytes;
use coracle_network::ResolverConfig;
use coracle_runtime::fs::{
    Access, FileSource, FsError, LiveTree, Meta, Mount, MountSource, TreeBuilder,
};

use crate::spec::{ContainerPlan, PodSpecPlan, ShownName};

pub(crate) use resolver::{MachineResolver, Surroundings};

/// Where each file appears, and its name in the tree.
const FILES: [(&str, &str); 3] = [
    ("/etc/hosts", "hosts"),
    ("/etc/hostname", "hostname"),
    ("/etc/resolv.conf", "resolv.conf"),
];

/// Longest host name that the kernel of a Linux container takes.
const KERNEL_NAME_MAX: usize = 64;

/// What a pod is called, as files and otherwise.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The files, which all containers of the pod share.
    pub(crate) tree: LiveTree,
    /// What programs see as the host name.
    pub(crate) hostname: String,
    /// How names are completed and who answers them, as the file says.
    pub(crate) resolver: ResolverConfig,
    /// What of the resolver's configuration was left out, for an event `DNSConfigForming`.
    pub(crate) trimmed: Vec<String>,
}

/// Why a pod's files cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error(
        "failed to construct FQDN from Pod hostname and cluster domain, FQDN {name} is too long \
         ({KERNEL_NAME_MAX} characters is the max, {} characters requested)",
        name.len()
    )]
    TooLong { name: String },
    #[error("failed to build the pod's own files")]
    Tree(#[from] FsError),
}

/// Makes the files.
pub(crate) fn make(
    pod: &PodSpecPlan,
    ip: (Ipv4Addr, Option<Ipv6Addr>),
    around: Surroundings<'_>,
    now: SystemTime,
) -> Result<Identity, IdentityError> {
    let domain = around.domain;
    let hostname = shown(pod, domain)?;
    let resolver = resolver::resolver(pod, around);
    let contents = [
        hosts(pod, ip, domain),
        format!("{hostname}\n"),
        resolver.text,
    ];
    let mut tree = TreeBuilder::new();
    for ((_, name), content) in FILES.iter().zip(contents) {
        tree.file(
            name,
            Meta::new(0o644, now),
            FileSource::Bytes(Bytes::from(content)),
        )?;
    }
    Ok(Identity {
        tree: LiveTree::new(tree.build()),
        hostname,
        resolver: resolver.config,
        trimmed: resolver.trimmed,
    })
}

/// Returns the names the pod itself gives addresses.
pub(crate) fn aliases(pod: &PodSpecPlan) -> Vec<(String, IpAddr)> {
    let aliases = pod.host_aliases.iter();
    let named = aliases.flat_map(|alias| alias.names.iter().map(|name| (name.clone(), alias.ip)));
    named.collect()
}

/// Returns the mounts, except where the container mounts something of its own.
pub(crate) fn mounts(container: &ContainerPlan, tree: &LiveTree) -> Vec<Mount> {
    FILES
        .iter()
        .filter(|(path, _)| !container.mounts.iter().any(|m| m.path == *path))
        .map(|(path, name)| Mount {
            path: (*path).to_owned(),
            source: MountSource::Live(tree.clone()),
            sub_path: Some((*name).to_owned()),
            access: Access::ReadOnly,
            group: None,
        })
        .collect()
}

/// The pod's full name, if it has a subdomain and no name of its own.
fn qualified(pod: &PodSpecPlan, domain: &str) -> Option<String> {
    if let ShownName::Own(_) = &pod.shown_name {
        return None;
    }
    let (hostname, subdomain) = (&pod.hostname, pod.subdomain.as_ref()?);
    let namespace = &pod.key.namespace;
    Some(format!("{hostname}.{subdomain}.{namespace}.svc.{domain}"))
}

fn shown(pod: &PodSpecPlan, domain: &str) -> Result<String, IdentityError> {
    let name = match &pod.shown_name {
        ShownName::Short => pod.hostname.clone(),
        ShownName::Own(name) => name.clone(),
        ShownName::Qualified => qualified(pod, domain).unwrap_or_else(|| pod.hostname.clone()),
    };
    if name.len() > KERNEL_NAME_MAX {
        return Err(IdentityError::TooLong { name });
    }
    Ok(name)
}

fn hosts(pod: &PodSpecPlan, (ip, second): (Ipv4Addr, Option<Ipv6Addr>), domain: &str) -> String {
    let hostname = match &pod.shown_name {
        ShownName::Own(name) => name,
        ShownName::Short | ShownName::Qualified => &pod.hostname,
    };
    let names = match qualified(pod, domain) {
        Some(full) => format!("{full}\t{hostname}"),
        None => hostname.clone(),
    };
    let mut text = format!(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n\
         {ip}\t{names}\n"
    );
    if let Some(second) = second {
        text.push_str(&format!("{second}\t{names}\n"));
    }
    if !pod.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in &pod.host_aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.names.join("\t")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::spec::{HostPathPolicy, check_pod};

    fn plan(spec: Value) -> PodSpecPlan {
        let mut whole = json!({"containers": [{"name": "c", "image": "i"}]});
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let pod =
            json!({"metadata": {"name": "web-0", "namespace": "shop", "uid": "u1"}, "spec": whole});
        check_pod(
            &serde_json::from_value(pod).unwrap(),
            HostPathPolicy::Refuse,
        )
        .unwrap()
    }

    fn hosts_of(spec: Value) -> String {
        let ip = Ipv4Addr::new(10, 244, 0, 7);
        hosts(&plan(spec), (ip, None), "cluster.local")
    }

    #[test]
    fn the_hosts_file_is_the_contracts() {
        let text = hosts_of(json!({"subdomain": "web"}));
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("\n10.244.0.7\tweb-0.web.shop.svc.cluster.local\tweb-0\n"));
        let second = "fd00:10:244::7".parse().unwrap();
        let ip = Ipv4Addr::new(10, 244, 0, 7);
        let both = hosts(&plan(json!({})), (ip, Some(second)), "cluster.local");
        assert!(both.ends_with("\n10.244.0.7\tweb-0\nfd00:10:244::7\tweb-0\n"));
        let text = hosts_of(json!({"hostAliases": [
            {"ip": "10.0.0.1", "hostnames": ["one", "two.example"]}, {"ip": "::2", "hostnames": ["six"]}]}));
        assert!(
            text.ends_with(
                "\n10.244.0.7\tweb-0\n\n# Entries added by HostAliases.\n10.0.0.1\tone\ttwo.example\n::2\tsix\n"
            ),
            "{text}"
        );
        let text = hosts_of(json!({"subdomain": "web", "hostnameOverride": "own.example"}));
        assert!(text.ends_with("\n10.244.0.7\town.example\n"), "{text}");
    }

    #[test]
    fn the_shown_name_is_short_full_or_the_pods_own() {
        let long = "a".repeat(40);
        for (spec, expected) in [
            (json!({"subdomain": "web"}), Some("web-0")),
            (json!({"setHostnameAsFQDN": true}), Some("web-0")),
            (
                json!({"subdomain": "web", "setHostnameAsFQDN": true}),
                Some("web-0.web.shop.svc.cluster.local"),
            ),
            (
                json!({"subdomain": "web", "hostnameOverride": "own.example"}),
                Some("own.example"),
            ),
            (json!({"subdomain": long, "setHostnameAsFQDN": true}), None),
        ] {
            let found = shown(&plan(spec.clone()), "cluster.local");
            assert_eq!(found.as_deref().ok(), expected, "{spec}");
        }
    }
}
