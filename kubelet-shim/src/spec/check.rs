//! `Pod` → [`PodSpecPlan`]: the pod's own fields.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::container::{self, PodContext};
use super::{
    ContainerPlan, FieldRefusal, HostPathPolicy, PodKey, PodSpecPlan, RestartPolicy, Role,
    ServiceLinks, ephemeral, files, identity, resources, security, variables, volume,
};

/// Grace period of a pod that names none.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// Most containers of one pod, init containers included: every one costs an instance.
const CONTAINERS_MAX: usize = 256;

/// Most volumes of one pod.
const VOLUMES_MAX: usize = 256;

/// Most pull secrets of one pod: each is read at each pull.
const PULL_SECRETS_MAX: usize = 64;

/// Longest host name, as DNS has it.
const HOSTNAME_MAX: usize = 63;

const NOT_YET: &str = "is not supported yet";

/// Converts a pod into what the agent will do, or names every field that is not honoured.
///
/// Guarantees that a plan's names are safe as path segments and that every mount names a declared
/// volume. The UID may be empty (before the API server has seen the pod).
pub fn check_pod(pod: &Pod, host_path: HostPathPolicy) -> Result<PodSpecPlan, Vec<FieldRefusal>> {
    let found = RefCell::new(Vec::new());
    let root = Field::root(&found);
    let plan = convert(pod, host_path, &root);
    let refusals = found.into_inner();
    match plan {
        Some(plan) if refusals.is_empty() => Ok(plan),
        _ => Err(refusals),
    }
}

/// A place in the pod and the list that refusals go to.
pub(super) struct Field<'a> {
    path: String,
    found: &'a RefCell<Vec<FieldRefusal>>,
}

impl<'a> Field<'a> {
    /// The pod itself.
    pub(super) fn root(found: &'a RefCell<Vec<FieldRefusal>>) -> Field<'a> {
        Field {
            path: String::new(),
            found,
        }
    }

    pub(super) fn field(&self, name: &str) -> Field<'a> {
        let path = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        };
        Field {
            path,
            found: self.found,
        }
    }

    pub(super) fn index(&self, index: usize) -> Field<'a> {
        Field {
            path: format!("{}[{index}]", self.path),
            found: self.found,
        }
    }

    pub(super) fn refuse(&self, reason: impl Into<String>) {
        self.found.borrow_mut().push(FieldRefusal {
            field: self.path.clone(),
            reason: reason.into(),
        });
    }

    /// Refuses the named child when it is present.
    pub(super) fn absent<T>(&self, name: &str, value: &Option<T>) {
        if value.is_some() {
            self.field(name).refuse(NOT_YET);
        }
    }

    /// Refuses the named child when it holds something.
    pub(super) fn empty<T>(&self, name: &str, value: &Option<Vec<T>>) {
        if value.as_ref().is_some_and(|list| !list.is_empty()) {
            self.field(name).refuse(NOT_YET);
        }
    }

    /// Refuses the named child when it is `true`.
    pub(super) fn not_true(&self, name: &str, value: Option<bool>, reason: &str) {
        if value == Some(true) {
            self.field(name).refuse(reason);
        }
    }

    /// Returns the name when it is a DNS label, else refuses it.
    pub(super) fn dns_label(&self, value: &str) -> Option<Arc<str>> {
        if is_dns_label(value) {
            return Some(value.into());
        }
        self.refuse("is not a DNS label");
        None
    }
}

fn convert(pod: &Pod, policy: HostPathPolicy, root: &Field<'_>) -> Option<PodSpecPlan> {
    // `status` is what the agent itself reports; the rest of the metadata belongs to the API server.
    let Pod {
        metadata,
        spec,
        status: _,
    } = pod;
    let Some(spec) = spec else {
        root.field("spec").refuse("is missing");
        return None;
    };
    let key = pod_key(pod, root)?;
    let annotations = metadata.annotations.clone().unwrap_or_default();
    let at = root.field("spec");
    let host = refuse_pod_fields(spec, &at);
    let names = volume::names(spec);
    let context = PodContext {
        instances: container::instance_reuse(&annotations, root),
        on_stop: container::on_stop(&annotations, root),
        security: security::of_pod(spec.security_context.as_ref(), &at),
        volumes: names,
    };
    let whole = resources::of_pod(spec.resources.as_ref(), &at.field("resources"));
    let mut containers = convert_containers(spec, &context, &at);
    let resources: Vec<_> = containers
        .iter()
        .map(|c| (c.name.clone(), c.resources))
        .collect();
    let around = files::Surroundings {
        resources: &resources,
    };
    let volumes = volume::convert_all(spec, policy, &around, &at);
    variables::check_files(spec, &volumes, &at);
    let (late, left_out) = ephemeral::convert_all(spec, &context, &containers, &volumes);
    containers.extend(late);
    Some(PodSpecPlan {
        hostname: hostname(spec, &key.name, &at),
        key,
        labels: metadata.labels.clone().unwrap_or_default(),
        annotations,
        subdomain: host,
        node_name: spec.node_name.clone().unwrap_or_default(),
        service_account: service_account(spec),
        node_selector: spec.node_selector.clone().unwrap_or_default(),
        runtime_class: runtime_class(spec),
        host_aliases: identity::host_aliases(spec.host_aliases.as_deref(), &at),
        dns: identity::dns(spec, &at),
        shown_name: identity::shown_name(spec, &at),
        service_links: service_links(spec),
        pull_secrets: pull_secrets(spec, &at),
        restart_policy: restart_policy(spec.restart_policy.as_deref(), &at),
        grace: seconds(
            spec.termination_grace_period_seconds,
            "terminationGracePeriodSeconds",
            &at,
        )
        .unwrap_or(DEFAULT_GRACE),
        active_deadline: seconds(spec.active_deadline_seconds, "activeDeadlineSeconds", &at),
        readiness_gates: readiness_gates(spec),
        class: resources::class(whole.as_ref(), &containers),
        priority: spec.priority.unwrap_or(0),
        whole,
        overhead: resources::overhead(spec.overhead.as_ref(), &at),
        containers,
        left_out,
        volumes,
        groups: security::groups(spec.security_context.as_ref(), &at),
    })
}

fn runtime_class(spec: &PodSpec) -> Option<String> {
    spec.runtime_class_name
        .clone()
        .filter(|name| !name.is_empty())
}

fn service_links(spec: &PodSpec) -> ServiceLinks {
    match spec.enable_service_links {
        None | Some(true) => ServiceLinks::Namespace,
        Some(false) => ServiceLinks::ApiOnly,
    }
}

fn service_account(spec: &PodSpec) -> String {
    let named = spec.service_account_name.as_ref();
    let named = named.or(spec.service_account.as_ref());
    named.cloned().unwrap_or_else(|| "default".to_owned())
}

/// Names that are none are left out, as an account may list what nobody made yet.
fn pull_secrets(spec: &PodSpec, at: &Field<'_>) -> Vec<String> {
    let secrets = spec.image_pull_secrets.as_deref().unwrap_or_default();
    if secrets.len() > PULL_SECRETS_MAX {
        at.field("imagePullSecrets")
            .refuse(format!("has more than {PULL_SECRETS_MAX} entries"));
        return Vec::new();
    }
    let names = secrets.iter().map(|secret| secret.name.clone());
    names.filter(|name| is_dns_subdomain(name)).collect()
}

fn readiness_gates(spec: &PodSpec) -> Vec<String> {
    let gates = spec.readiness_gates.iter().flatten();
    gates.map(|gate| gate.condition_type.clone()).collect()
}

fn pod_key(pod: &Pod, root: &Field<'_>) -> Option<PodKey> {
    let metadata = root.field("metadata");
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let namespace = metadata.field("namespace").dns_label(namespace);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if !is_dns_subdomain(name) {
        metadata.field("name").refuse("is not a DNS subdomain");
        return None;
    }
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let safe = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if uid.len() > HOSTNAME_MAX || !uid.chars().all(safe) {
        metadata.field("uid").refuse("is not a UID");
        return None;
    }
    Some(PodKey {
        namespace: namespace?,
        name: name.into(),
        uid: uid.into(),
    })
}

/// Goes through every field of the pod's specification and returns the subdomain.
///
/// Fields converted by the caller are named here with `_` so that none can be forgotten.
// tidy: table, because it names every field of a pod once.
fn refuse_pod_fields(spec: &PodSpec, at: &Field<'_>) -> Option<String> {
    let PodSpec {
        // Converted by the caller.
        active_deadline_seconds: _,
        readiness_gates: _,
        containers: _,
        hostname: _,
        init_containers: _,
        node_name: _,
        node_selector: _,
        restart_policy: _,
        security_context: _,
        service_account: _,
        service_account_name: _,
        termination_grace_period_seconds: _,
        volumes: _,
        // The scheduler's, or satisfied where there are no taints, classes or peers to weigh.
        preemption_policy: _,
        priority: _,
        priority_class_name: _,
        scheduler_name: _,
        affinity: _,
        tolerations: _,
        topology_spread_constraints: _,
        // Admission's: it mounts the token, or does not.
        automount_service_account_token: _,
        enable_service_links: _,
        // Satisfied: a sandbox shares no user table with the machine, and has no processes to share.
        host_users: _,
        share_process_namespace: _,
        dns_config: _,
        dns_policy: _,
        ephemeral_containers: _,
        host_aliases: _,
        host_ipc,
        host_network,
        host_pid,
        hostname_override: _,
        image_pull_secrets: _,
        os,
        overhead: _,
        resource_claims,
        resources: _,
        runtime_class_name: _,
        scheduling_gates,
        scheduling_group,
        set_hostname_as_fqdn: _,
        subdomain,
    } = spec;
    let shared = "cannot be honoured: a Wasm sandbox shares nothing with the machine";
    at.not_true("hostIPC", *host_ipc, shared);
    at.not_true("hostPID", *host_pid, shared);
    at.not_true("hostNetwork", *host_network, NOT_YET);
    if os.is_some() {
        at.field("os")
            .refuse("must be unset: a Wasm pod belongs to no operating system");
    }
    at.empty("resourceClaims", resource_claims);
    at.empty("schedulingGates", scheduling_gates);
    at.absent("schedulingGroup", scheduling_group);
    let subdomain = subdomain.as_deref().filter(|s| !s.is_empty())?;
    at.field("subdomain")
        .dns_label(subdomain)
        .map(|s| s.to_string())
}

fn convert_containers(
    spec: &PodSpec,
    context: &PodContext<'_>,
    at: &Field<'_>,
) -> Vec<ContainerPlan> {
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    if spec.containers.is_empty() {
        at.field("containers").refuse("is empty");
    }
    if inits.len() + spec.containers.len() > CONTAINERS_MAX {
        at.field("containers")
            .refuse(format!("has more than {CONTAINERS_MAX} entries"));
        return Vec::new();
    }
    let init_at = at.field("initContainers");
    let app_at = at.field("containers");
    let places = inits
        .iter()
        .enumerate()
        .map(|(i, c)| (c, Role::Init, init_at.index(i)))
        .chain(
            spec.containers
                .iter()
                .enumerate()
                .map(|(i, c)| (c, Role::App, app_at.index(i))),
        );
    let mut names = BTreeSet::new();
    let mut plans = Vec::new();
    for (wire, role, place) in places {
        if !names.insert(wire.name.as_str()) {
            place.field("name").refuse("is used twice");
        }
        plans.extend(container::convert(wire, role, context, &place));
    }
    resolve_resource_owners(spec, &mut plans, at);
    plans
}

/// `resourceFieldRef` may name another container of the pod, so it is resolved when all are known.
fn resolve_resource_owners(spec: &PodSpec, plans: &mut [ContainerPlan], at: &Field<'_>) {
    let resources: Vec<_> = plans
        .iter()
        .map(|p| (p.name.clone(), p.resources))
        .collect();
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let wires = inits.iter().chain(&spec.containers);
    for (index, wire) in wires.enumerate() {
        let place = if index < inits.len() {
            at.field("initContainers").index(index)
        } else {
            at.field("containers").index(index - inits.len())
        };
        let Some(plan) = plans.iter_mut().find(|p| *p.name == *wire.name) else {
            continue;
        };
        variables::resolve_resource_refs(wire, plan, &resources, &place);
    }
}

fn hostname(spec: &PodSpec, name: &str, at: &Field<'_>) -> String {
    match spec.hostname.as_deref().filter(|h| !h.is_empty()) {
        Some(hostname) => at
            .field("hostname")
            .dns_label(hostname)
            .map(|h| h.to_string())
            .unwrap_or_default(),
        None => {
            let cut = name.get(..HOSTNAME_MAX.min(name.len())).unwrap_or(name);
            cut.trim_end_matches(['-', '.']).to_owned()
        }
    }
}

fn restart_policy(value: Option<&str>, at: &Field<'_>) -> RestartPolicy {
    match value {
        None | Some("Always") => RestartPolicy::Always,
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        Some(other) => {
            at.field("restartPolicy")
                .refuse(format!("has the unknown value `{other}`"));
            RestartPolicy::Never
        }
    }
}

fn seconds(value: Option<i64>, name: &str, at: &Field<'_>) -> Option<Duration> {
    let value = value?;
    match u32::try_from(value) {
        Ok(seconds) => Some(Duration::from_secs(seconds.into())),
        Err(_) => {
            at.field(name).refuse("is out of range");
            None
        }
    }
}

pub(super) fn is_dns_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=HOSTNAME_MAX).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub(super) fn is_dns_subdomain(text: &str) -> bool {
    /// Longest object name Kubernetes accepts.
    const NAME_MAX: usize = 253;
    text.len() <= NAME_MAX
        && text.split('.').all(|part| {
            let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
            !part.is_empty()
                && part.bytes().all(inner)
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}

pub(super) const UNSUPPORTED: &str = NOT_YET;

/// All containers of a pod are bounded by this.
pub(super) const CONTAINERS_PER_POD_MAX: usize = CONTAINERS_MAX;

/// Names of the volumes a pod declares are bounded by this.
pub(super) const VOLUMES_PER_POD_MAX: usize = VOLUMES_MAX;
