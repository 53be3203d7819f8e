//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a pod, in memory (contract D.8).

use std::net::Ipv4Addr;
use std::time::SystemTime;

use bytes::Bytes;
use coracle_runtime::fs::{
    Access, FileSource, FsError, LiveTree, Meta, Mount, MountSource, TreeBuilder,
};

use crate::spec::{ContainerPlan, PodSpecPlan};

/// Where each file appears, and its name in the tree.
const FILES: [(&str, &str); 3] = [
    ("/etc/hosts", "hosts"),
    ("/etc/hostname", "hostname"),
    ("/etc/resolv.conf", "resolv.conf"),
];

/// Builds the tree that all containers of the pod share.
pub(crate) fn tree(
    pod: &PodSpecPlan,
    ip: Ipv4Addr,
    cluster_domain: &str,
    now: SystemTime,
) -> Result<LiveTree, FsError> {
    let contents = [
        hosts(pod, ip, cluster_domain),
        format!("{}\n", pod.hostname),
        resolver(pod, cluster_domain),
    ];
    let mut tree = TreeBuilder::new();
    for ((_, name), content) in FILES.iter().zip(contents) {
        tree.file(
            name,
            Meta::new(0o644, now),
            FileSource::Bytes(Bytes::from(content)),
        )?;
    }
    Ok(LiveTree::new(tree.build()))
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
        })
        .collect()
}

fn hosts(pod: &PodSpecPlan, ip: Ipv4Addr, cluster_domain: &str) -> String {
    let hostname = &pod.hostname;
    let names = match &pod.subdomain {
        Some(subdomain) => {
            format!(
                "{hostname}.{subdomain}.{}.svc.{cluster_domain}\t{hostname}",
                pod.key.namespace
            )
        }
        None => hostname.clone(),
    };
    format!(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n\
         {ip}\t{names}\n"
    )
}

/// Names are answered in the process, so the file only tells a guest's own resolver how to complete them.
fn resolver(pod: &PodSpecPlan, domain: &str) -> String {
    let namespace = &pod.key.namespace;
    format!("search {namespace}.svc.{domain} svc.{domain} {domain}\noptions ndots:5\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{HostPathPolicy, check_pod};

    #[test]
    fn the_hosts_file_is_the_contracts() {
        let pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web-0", "namespace": "shop", "uid": "u1"},
            "spec": {"subdomain": "web", "containers": [{"name": "c", "image": "i"}]},
        }))
        .unwrap();
        let plan = check_pod(&pod, HostPathPolicy::Refuse).unwrap();
        let text = hosts(&plan, Ipv4Addr::new(10, 244, 0, 7), "cluster.local");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("\n10.244.0.7\tweb-0.web.shop.svc.cluster.local\tweb-0\n"));
        let text = resolver(&plan, "cluster.local");
        assert!(
            text.starts_with("search shop.svc.cluster.local svc.cluster.local cluster.local\n")
        );
    }
}
