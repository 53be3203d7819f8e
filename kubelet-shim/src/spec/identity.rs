//! What a pod is called and how it resolves names: `hostAliases`, `dnsPolicy`, `dnsConfig`, host names.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias as WireAlias, PodDNSConfig, PodSpec};

use super::check::{Field, is_dns_label, is_dns_subdomain};

/// Entries of `hostAliases`, and names of one: far above any real file.
const ALIASES_MAX: usize = 256;

/// Longest host name the kernel of a Linux container would take.
const KERNEL_NAME_MAX: usize = 64;

/// One line of `/etc/hosts` that the pod adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAlias {
    /// The address.
    pub ip: IpAddr,
    /// Its names.
    pub names: Vec<String>,
}

/// What `/etc/resolv.conf` is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsPlan {
    /// Where it begins.
    pub policy: DnsPolicy,
    /// Name servers that are added.
    pub servers: Vec<IpAddr>,
    /// Search domains that are added.
    pub searches: Vec<String>,
    /// Options that are added or replace one of their name.
    pub options: Vec<(String, Option<String>)>,
}

/// `dnsPolicy`, as far as the cases differ here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsPolicy {
    /// The cluster's search list.
    Cluster,
    /// What the machine says.
    Default,
    /// Nothing but what is added.
    Nothing,
}

/// What programs in the pod see as its host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShownName {
    /// The short name.
    Short,
    /// `setHostnameAsFQDN`
    Qualified,
    /// `hostnameOverride`
    Own(String),
}

pub(super) fn host_aliases(wire: Option<&[WireAlias]>, at: &Field<'_>) -> Vec<HostAlias> {
    let at = at.field("hostAliases");
    let wire = wire.unwrap_or_default();
    let names = wire
        .iter()
        .map(|alias| alias.hostnames.iter().flatten().count());
    if wire.len() > ALIASES_MAX || names.clone().any(|names| names > ALIASES_MAX) {
        at.refuse(format!("has more than {ALIASES_MAX} entries"));
        return Vec::new();
    }
    let mut aliases = Vec::with_capacity(wire.len());
    for (index, WireAlias { hostnames, ip }) in wire.iter().enumerate() {
        let at = at.index(index);
        let names = hostnames.clone().unwrap_or_default();
        if let Some(wrong) = names.iter().position(|name| !is_dns_subdomain(name)) {
            at.field("hostnames")
                .index(wrong)
                .refuse("is not a DNS subdomain");
        }
        match ip.parse() {
            Ok(ip) => aliases.push(HostAlias { ip, names }),
            Err(_) => at.field("ip").refuse("is no IP address"),
        }
    }
    aliases
}

pub(super) fn dns(spec: &PodSpec, at: &Field<'_>) -> DnsPlan {
    let policy = match spec.dns_policy.as_deref() {
        None | Some("" | "ClusterFirst" | "ClusterFirstWithHostNet") => DnsPolicy::Cluster,
        Some("Default") => DnsPolicy::Default,
        Some("None") => DnsPolicy::Nothing,
        Some(other) => {
            at.field("dnsPolicy")
                .refuse(format!("has the unknown value `{other}`"));
            DnsPolicy::Cluster
        }
    };
    let mut plan = DnsPlan {
        policy,
        servers: Vec::new(),
        searches: Vec::new(),
        options: Vec::new(),
    };
    let Some(PodDNSConfig {
        nameservers,
        options,
        searches,
    }) = &spec.dns_config
    else {
        return plan;
    };
    let at = at.field("dnsConfig");
    for (index, server) in nameservers.iter().flatten().enumerate() {
        match server.parse() {
            Ok(server) => plan.servers.push(server),
            Err(_) => at
                .field("nameservers")
                .index(index)
                .refuse("is no IP address"),
        }
    }
    let is_word = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
    for (index, search) in searches.iter().flatten().enumerate() {
        if is_word(search) {
            plan.searches.push(search.clone());
        } else {
            at.field("searches").index(index).refuse("is no domain");
        }
    }
    for (index, option) in options.iter().flatten().enumerate() {
        let name = option.name.clone().unwrap_or_default();
        if is_word(&name) && option.value.as_deref().is_none_or(is_word) {
            plan.options.push((name, option.value.clone()));
        } else {
            at.field("options").index(index).refuse("is no option");
        }
    }
    plan
}

pub(super) fn shown_name(spec: &PodSpec, at: &Field<'_>) -> ShownName {
    let qualified = spec.set_hostname_as_fqdn == Some(true);
    match spec
        .hostname_override
        .as_deref()
        .filter(|name| !name.is_empty())
    {
        None if qualified => ShownName::Qualified,
        None => ShownName::Short,
        Some(name) => {
            let at = at.field("hostnameOverride");
            if qualified {
                at.refuse("and `setHostnameAsFQDN` exclude each other");
            }
            if name.len() > KERNEL_NAME_MAX || !name.split('.').all(is_dns_label) {
                at.refuse("is no DNS name of at most 64 characters");
            }
            ShownName::Own(name.to_owned())
        }
    }
}
