//! What a container requests and may use, from the wire and back, and how it follows a change.

use std::collections::BTreeMap;

use coracle_runtime::{PodLimits, QosClass};
use k8s_openapi::api::core::v1::{
    ContainerResizePolicy, ContainerStatus, PodStatus, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::check::{Field, UNSUPPORTED};
use super::{
    ContainerPlan, DownwardValue, EnvValue, EnvVar, FilesSource, OnResize, PodSpecPlan,
    ResizePolicy, ResourceAmount, Resources, Role, VolumePlan, VolumeSource, quantity,
};

pub(super) fn convert(wire: Option<&ResourceRequirements>, at: &Field<'_>) -> Resources {
    let Some(ResourceRequirements {
        claims,
        limits,
        requests,
    }) = wire
    else {
        return Resources::default();
    };
    at.empty("claims", claims);
    let mut resources = Resources::default();
    for (name, amount) in limits.iter().flatten() {
        let at = at.field("limits").field(name);
        match name.as_str() {
            "cpu" => resources.cpu_limit_milli = read(quantity::milli(amount), &at),
            "memory" => resources.memory_limit = read(quantity::units(amount), &at),
            "ephemeral-storage" => resources.storage_limit = read(quantity::units(amount), &at),
            _ => at.refuse(UNSUPPORTED),
        }
    }
    for (name, amount) in requests.iter().flatten() {
        let at = at.field("requests").field(name);
        match name.as_str() {
            "cpu" => resources.cpu_request_milli = read(quantity::milli(amount), &at),
            "memory" => resources.memory_request = read(quantity::units(amount), &at),
            "ephemeral-storage" => resources.storage_request = read(quantity::units(amount), &at),
            _ => at.refuse(UNSUPPORTED),
        }
    }
    // The API server's default: what is limited is requested.
    resources.cpu_request_milli = resources.cpu_request_milli.or(resources.cpu_limit_milli);
    resources.memory_request = resources.memory_request.or(resources.memory_limit);
    resources.storage_request = resources.storage_request.or(resources.storage_limit);
    resources
}

fn read(value: Result<u64, quantity::QuantityError>, at: &Field<'_>) -> Option<u64> {
    value.map_err(|error| at.refuse(error.to_string())).ok()
}

/// Returns what a pod requests and may use as a whole; only cpu and memory are shared.
pub(super) fn of_pod(wire: Option<&ResourceRequirements>, at: &Field<'_>) -> Option<Resources> {
    let resources = convert(Some(wire?), at);
    if resources.storage_request.is_some() || resources.storage_limit.is_some() {
        at.refuse("of a pod as a whole are cpu and memory");
    }
    Some(resources)
}

/// Returns what a pod costs beside its containers.
pub(super) fn overhead(wire: Option<&BTreeMap<String, Quantity>>, at: &Field<'_>) -> Resources {
    let requests = ResourceRequirements {
        requests: wire.cloned(),
        ..ResourceRequirements::default()
    };
    let at = at.field("overhead");
    let resources = convert(Some(&requests), &at);
    if resources.storage_request.is_some() {
        at.refuse("is cpu and memory");
    }
    resources
}

/// Returns what a change of cpu and of memory means for a running container.
pub(super) fn resize_policy(
    wire: Option<&[ContainerResizePolicy]>,
    at: &Field<'_>,
) -> ResizePolicy {
    let mut policy = ResizePolicy::default();
    for (index, entry) in wire.unwrap_or_default().iter().enumerate() {
        let at = at.index(index);
        let on_resize = match entry.restart_policy.as_str() {
            "NotRequired" => OnResize::InPlace,
            "RestartContainer" => OnResize::Restart,
            other => {
                at.field("restartPolicy")
                    .refuse(format!("has the unknown value `{other}`"));
                continue;
            }
        };
        match entry.resource_name.as_str() {
            "cpu" => policy.cpu = on_resize,
            "memory" => policy.memory = on_resize,
            other => at
                .field("resourceName")
                .refuse(format!("has the unknown value `{other}`")),
        }
    }
    policy
}

/// Returns a pod's quality of service, which it keeps for life. What it asks for as a whole goes before what its
/// containers ask for.
pub(super) fn class(whole: Option<&Resources>, containers: &[ContainerPlan]) -> QosClass {
    let (mut any, mut all) = (false, true);
    let lasting = containers.iter().filter(|one| one.role != Role::Ephemeral);
    let askers: Vec<Resources> = match whole {
        Some(whole) => vec![*whole],
        None => lasting.map(|one| one.resources).collect(),
    };
    for own in askers {
        for (request, limit) in [
            (own.cpu_request_milli, own.cpu_limit_milli),
            (own.memory_request, own.memory_limit),
        ] {
            let (request, limit) = (request.filter(|r| *r > 0), limit.filter(|l| *l > 0));
            any |= request.is_some() || limit.is_some();
            all &= request.is_some() && request == limit;
        }
    }
    match (any, all) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

impl Resources {
    /// Returns these with the cpu and memory of others: what a resize may change.
    pub(crate) fn resized(self, to: Resources) -> Resources {
        Resources {
            cpu_request_milli: to.cpu_request_milli,
            cpu_limit_milli: to.cpu_limit_milli,
            memory_request: to.memory_request,
            memory_limit: to.memory_limit,
            ..self
        }
    }

    /// Writes them as the API does.
    pub(crate) fn to_wire(self) -> ResourceRequirements {
        let list = |cpu: Option<u64>, memory: Option<u64>, storage: Option<u64>| {
            let rows = [
                ("cpu", cpu.map(cpu_text)),
                ("memory", memory.map(bytes_text)),
                ("ephemeral-storage", storage.map(bytes_text)),
            ];
            let rows = rows
                .into_iter()
                .filter_map(|(name, text)| Some((name.to_owned(), Quantity(text?))));
            let rows: BTreeMap<_, _> = rows.collect();
            (!rows.is_empty()).then_some(rows)
        };
        ResourceRequirements {
            claims: None,
            limits: list(self.cpu_limit_milli, self.memory_limit, self.storage_limit),
            requests: list(
                self.cpu_request_milli,
                self.memory_request,
                self.storage_request,
            ),
        }
    }
}

/// Thousandths of a processor as a quantity: `1`, `1500m`.
fn cpu_text(milli: u64) -> String {
    match milli % 1000 {
        0 => (milli / 1000).to_string(),
        _ => format!("{milli}m"),
    }
}

/// Bytes as a quantity, by the largest unit that needs no fraction: `64Mi`, `1000`.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let units = [(50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    let whole = |(shift, _): &(u32, &str)| bytes > 0 && bytes.trailing_zeros() >= *shift;
    match units.into_iter().find(whole) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

impl PodSpecPlan {
    /// Returns what the pod may use above its containers. Without a limit of its own or of each of them it has
    /// none of memory; theirs bound their processor time.
    pub(crate) fn limits(&self, of: impl Fn(usize) -> Resources) -> PodLimits {
        let (mut together, mut sidecars, mut peak) = (Some(0_u64), Some(0_u64), Some(0_u64));
        let add = |sum: Option<u64>, more: Option<u64>| Some(sum?.saturating_add(more?));
        for (index, container) in self.containers.iter().enumerate() {
            let own = of(index).memory_limit;
            match container.role {
                Role::App => together = add(together, own),
                Role::Sidecar => {
                    sidecars = add(sidecars, own);
                    peak = peak.zip(sidecars).map(|(a, b)| a.max(b));
                }
                Role::Init => peak = peak.zip(add(sidecars, own)).map(|(a, b)| a.max(b)),
                // One that looks around may have what the others leave.
                Role::Ephemeral => {}
            }
        }
        let together = add(together, sidecars);
        let of_containers = together.zip(peak).map(|(a, b)| a.max(b));
        let whole = self.whole.unwrap_or_default();
        // What it costs beside its containers is its own, too.
        let beside =
            |limit: u64, overhead: Option<u64>| limit.saturating_add(overhead.unwrap_or(0));
        PodLimits {
            class: self.class,
            memory: whole
                .memory_limit
                .or(of_containers)
                .map(|limit| beside(limit, self.overhead.memory_request)),
            cpu_milli: whole
                .cpu_limit_milli
                .map(|limit| beside(limit, self.overhead.cpu_request_milli)),
        }
    }

    /// Returns this plan with what the status says that its containers were promised: what an earlier agent
    /// granted, not what is wished since.
    pub(crate) fn as_allocated(&self, status: &PodStatus) -> PodSpecPlan {
        let mut plan = self.clone();
        let inits = status.init_container_statuses.iter().flatten();
        let all = inits.chain(status.container_statuses.iter().flatten());
        for status in all {
            let of_status = |c: &&mut ContainerPlan| *c.name == *status.name;
            let container = plan.containers.iter_mut().find(of_status);
            if let Some((container, allocated)) = container.zip(allocated(status)) {
                container.resources = container.resources.resized(allocated);
            }
        }
        plan
    }

    /// Returns a newer plan with the resources of this one, where the newer ones are not granted.
    pub(crate) fn without_resize(&self, newer: &PodSpecPlan) -> PodSpecPlan {
        let mut plan = newer.clone();
        for (container, known) in plan.containers.iter_mut().zip(&self.containers) {
            container.resources = known.resources;
            container.env.clone_from(&known.env);
        }
        plan.volumes.clone_from(&self.volumes);
        plan
    }

    /// Whether any container has other resources in the other plan.
    pub(crate) fn is_resized(&self, other: &PodSpecPlan) -> bool {
        let mut pairs = self.containers.iter().zip(&other.containers);
        pairs.any(|(a, b)| a.resources != b.resources)
    }
}

/// What a status says that a container was promised. A status that is malformed says nothing.
fn allocated(status: &ContainerStatus) -> Option<Resources> {
    let (given, promised) = (
        status.resources.as_ref()?,
        status.allocated_resources.as_ref(),
    );
    let read = |list: Option<&BTreeMap<String, Quantity>>, name: &str| {
        list.and_then(|list| list.get(name)).cloned()
    };
    let (limits, requests) = (given.limits.as_ref(), promised.or(given.requests.as_ref()));
    let cpu = |amount: Option<Quantity>| amount.and_then(|a| quantity::milli(&a).ok());
    let memory = |amount: Option<Quantity>| amount.and_then(|a| quantity::units(&a).ok());
    Some(Resources {
        cpu_request_milli: cpu(read(requests, "cpu")),
        cpu_limit_milli: cpu(read(limits, "cpu")),
        memory_request: memory(read(requests, "memory")),
        memory_limit: memory(read(limits, "memory")),
        ..Resources::default()
    })
}

/// Whether variables are the same but for amounts of resources, which follow a resize.
pub(super) fn is_same_env(old: &[EnvVar], new: &[EnvVar]) -> bool {
    let is_same = |(old, new): (&EnvVar, &EnvVar)| match (&old.value, &new.value) {
        (EnvValue::Resource(_), EnvValue::Resource(_)) => old.name == new.name,
        _ => old == new,
    };
    old.len() == new.len() && old.iter().zip(new).all(is_same)
}

/// Whether volumes are the same but for amounts of resources.
pub(super) fn is_same_volumes(old: &[VolumePlan], new: &[VolumePlan]) -> bool {
    let blank = |volumes: &[VolumePlan]| -> Vec<VolumePlan> {
        let mut volumes = volumes.to_vec();
        for volume in &mut volumes {
            let VolumeSource::Files(files) = &mut volume.source else {
                continue;
            };
            for source in &mut files.sources {
                let FilesSource::Downward(files) = source else {
                    continue;
                };
                for file in files {
                    if let DownwardValue::Resource(amount) = &mut file.value {
                        *amount = ResourceAmount::Fixed(0);
                    }
                }
            }
        }
        volumes
    };
    old == new || blank(old) == blank(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_the_api_writes_them() {
        for (milli, text) in [(0, "0"), (1000, "1"), (1500, "1500m"), (1, "1m")] {
            assert_eq!(cpu_text(milli), text);
        }
        for (bytes, text) in [
            (0, "0"),
            (1000, "1000"),
            (1 << 10, "1Ki"),
            (1536 << 20, "1536Mi"),
            (3 << 50, "3Pi"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let resources = Resources {
            cpu_request_milli: Some(250),
            cpu_limit_milli: Some(2000),
            memory_request: Some(64 << 20),
            memory_limit: Some(65 << 20),
            ..Resources::default()
        };
        let status = ContainerStatus {
            resources: Some(resources.to_wire()),
            allocated_resources: resources.to_wire().requests,
            ..ContainerStatus::default()
        };
        assert_eq!(allocated(&status), Some(resources));
        assert_eq!(allocated(&ContainerStatus::default()), None);
        assert_eq!(
            Resources::default().to_wire(),
            ResourceRequirements::default()
        );
    }
}
