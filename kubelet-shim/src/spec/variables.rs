//! `env` and `envFrom`: where a container's variables come from.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar as WireEnvVar, EnvVarSource, FileKeySelector,
    ObjectFieldSelector, PodSpec, ResourceFieldSelector,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::check::{Field, UNSUPPORTED};
use super::volume::{is_inner_path, object};
use super::{
    ContainerPlan, EnvFrom, EnvValue, EnvVar, ObjectKind, PodField, ResourceAmount, Resources,
    VolumePlan, VolumeSource, quantity,
};

pub(super) fn convert_env_from(wire: &[EnvFromSource], at: &Field<'_>) -> Vec<EnvFrom> {
    let mut converted = Vec::new();
    for (
        index,
        EnvFromSource {
            config_map_ref,
            prefix,
            secret_ref,
        },
    ) in wire.iter().enumerate()
    {
        let at = at.index(index);
        let source = match (config_map_ref, secret_ref) {
            (Some(c), None) => object(
                ObjectKind::ConfigMap,
                &c.name,
                c.optional,
                &at.field("configMapRef.name"),
            ),
            (None, Some(s)) => object(
                ObjectKind::Secret,
                &s.name,
                s.optional,
                &at.field("secretRef.name"),
            ),
            _ => {
                at.refuse("needs exactly one source");
                None
            }
        };
        let prefix = prefix.clone().unwrap_or_default();
        converted.extend(source.map(|source| EnvFrom { prefix, source }));
    }
    converted
}

pub(super) fn convert_env(wire: &[WireEnvVar], at: &Field<'_>) -> Vec<EnvVar> {
    let mut converted = Vec::new();
    for (
        index,
        WireEnvVar {
            name,
            value,
            value_from,
        },
    ) in wire.iter().enumerate()
    {
        let at = at.index(index);
        if name.is_empty() || name.contains(['=', '\0']) {
            at.field("name").refuse("is no variable name");
            continue;
        }
        let value = match value_from {
            None => Some(EnvValue::Literal(value.clone().unwrap_or_default())),
            Some(_) if value.as_deref().is_some_and(|v| !v.is_empty()) => {
                at.refuse("has both `value` and `valueFrom`");
                None
            }
            Some(from) => env_source(from, &at.field("valueFrom")),
        };
        converted.extend(value.map(|value| EnvVar {
            name: name.clone(),
            value,
        }));
    }
    converted
}

fn env_source(wire: &EnvVarSource, at: &Field<'_>) -> Option<EnvValue> {
    let EnvVarSource {
        config_map_key_ref,
        field_ref,
        file_key_ref,
        resource_field_ref,
        secret_key_ref,
    } = wire;
    let sources = [
        config_map_key_ref.as_ref().and_then(|r| {
            let at = at.field("configMapKeyRef.name");
            let object = object(ObjectKind::ConfigMap, &r.name, r.optional, &at)?;
            Some(EnvValue::Key {
                object,
                key: r.key.clone(),
            })
        }),
        secret_key_ref.as_ref().and_then(|r| {
            let at = at.field("secretKeyRef.name");
            let object = object(ObjectKind::Secret, &r.name, r.optional, &at)?;
            Some(EnvValue::Key {
                object,
                key: r.key.clone(),
            })
        }),
        field_ref
            .as_ref()
            .and_then(|f| named_field(f, &at.field("fieldRef"))),
        file_key_ref
            .as_ref()
            .and_then(|f| file_key(f, &at.field("fileKeyRef"))),
        // Filled in when every container's resources are known.
        resource_field_ref
            .as_ref()
            .map(|_| EnvValue::Resource(ResourceAmount::Fixed(0))),
    ];
    let mut sources = sources.into_iter().flatten();
    let first = sources.next();
    if sources.next().is_some() {
        at.refuse("needs exactly one source");
    }
    first
}

fn file_key(wire: &FileKeySelector, at: &Field<'_>) -> Option<EnvValue> {
    let FileKeySelector {
        key,
        optional,
        path,
        volume_name,
    } = wire;
    if !is_inner_path(path) || path.starts_with("..") {
        at.field("path").refuse("must be relative, without `..`");
        return None;
    }
    Some(EnvValue::File {
        volume: volume_name.clone(),
        path: path.clone(),
        key: key.clone(),
        optional: optional.unwrap_or(false),
    })
}

/// Refuses variables from files of anything but an `emptyDir`: only what the pod itself wrote is read.
pub(super) fn check_files(spec: &PodSpec, volumes: &[VolumePlan], at: &Field<'_>) {
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    for (list, containers) in [("initContainers", inits), ("containers", &*spec.containers)] {
        for (index, container) in containers.iter().enumerate() {
            check_files_of(container, volumes, &at.field(list).index(index));
        }
    }
}

/// [`check_files`] of one container.
pub(super) fn check_files_of(container: &Container, volumes: &[VolumePlan], at: &Field<'_>) {
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let source = variable.value_from.as_ref();
        let Some(file) = source.and_then(|from| from.file_key_ref.as_ref()) else {
            continue;
        };
        let is_scratch = |volume: &VolumePlan| {
            volume.name == file.volume_name
                && matches!(volume.source, VolumeSource::EmptyDir { .. })
        };
        if !volumes.iter().any(is_scratch) {
            at.field("env")
                .index(index)
                .field("valueFrom.fileKeyRef.volumeName")
                .refuse("names no emptyDir of this pod");
        }
    }
}

/// Finds the field of a pod that a `fieldRef` names.
pub(super) fn named_field(wire: &ObjectFieldSelector, at: &Field<'_>) -> Option<EnvValue> {
    let ObjectFieldSelector {
        api_version,
        field_path,
    } = wire;
    if api_version
        .as_deref()
        .is_some_and(|v| !v.is_empty() && v != "v1")
    {
        at.field("apiVersion").refuse("is not `v1`");
        return None;
    }
    let keyed = |prefix: &str| {
        let key = field_path
            .strip_prefix(prefix)?
            .strip_prefix("['")?
            .strip_suffix("']")?;
        Some(key.to_owned())
    };
    let field = match field_path.as_str() {
        "metadata.name" => PodField::Name,
        "metadata.namespace" => PodField::Namespace,
        "metadata.uid" => PodField::Uid,
        "spec.nodeName" => PodField::NodeName,
        "spec.serviceAccountName" => PodField::ServiceAccount,
        "status.hostIP" => PodField::HostIp,
        "status.hostIPs" => PodField::HostIps,
        "status.podIP" => PodField::PodIp,
        "status.podIPs" => PodField::PodIps,
        _ => match (keyed("metadata.labels"), keyed("metadata.annotations")) {
            (Some(label), _) => PodField::Label(label),
            (_, Some(annotation)) => PodField::Annotation(annotation),
            (None, None) => {
                at.field("fieldPath")
                    .refuse(format!("names the unknown field `{field_path}`"));
                return None;
            }
        },
    };
    Some(EnvValue::Field(field))
}

/// Replaces the placeholder of each `resourceFieldRef` in the container's variables.
pub(super) fn resolve_resource_refs(
    wire: &Container,
    plan: &mut ContainerPlan,
    resources: &[(Arc<str>, Resources)],
    at: &Field<'_>,
) {
    for (index, variable) in wire.env.as_deref().unwrap_or_default().iter().enumerate() {
        let reference = variable
            .value_from
            .as_ref()
            .and_then(|f| f.resource_field_ref.as_ref());
        let Some(reference) = reference else { continue };
        let at = at
            .field("env")
            .index(index)
            .field("valueFrom.resourceFieldRef");
        let owner = reference.container_name.as_deref().unwrap_or(&wire.name);
        let Some((_, owned)) = resources.iter().find(|(name, _)| **name == *owner) else {
            at.field("containerName")
                .refuse("names no container of this pod");
            continue;
        };
        let Some(amount) = resource_amount(reference, owned, &at) else {
            continue;
        };
        for planned in plan.env.iter_mut().filter(|v| v.name == variable.name) {
            if let EnvValue::Resource(placeholder) = &mut planned.value {
                *placeholder = amount.clone();
            }
        }
    }
}

pub(super) fn resource_amount(
    wire: &ResourceFieldSelector,
    owned: &Resources,
    at: &Field<'_>,
) -> Option<ResourceAmount> {
    let ResourceFieldSelector {
        container_name: _,
        divisor,
        resource,
    } = wire;
    let one = Quantity("1".to_owned());
    // An unset divisor arrives as "0" from a client that writes it out.
    let divisor = divisor.as_ref().filter(|d| d.0 != "0").unwrap_or(&one);
    let (milli, whole) = (quantity::milli(divisor), quantity::units(divisor));
    let (Ok(divisor_milli @ 1..), Ok(divisor @ 1..)) = (milli, whole) else {
        at.field("divisor").refuse("is no positive quantity");
        return None;
    };
    let amount = match resource.as_str() {
        "limits.cpu" => match owned.cpu_limit_milli {
            Some(limit) => ResourceAmount::Fixed(limit.div_ceil(divisor_milli)),
            None => ResourceAmount::NodeCpu { divisor_milli },
        },
        "limits.memory" => match owned.memory_limit {
            Some(limit) => ResourceAmount::Fixed(limit.div_ceil(divisor)),
            None => ResourceAmount::NodeMemory { divisor },
        },
        "requests.cpu" => {
            ResourceAmount::Fixed(owned.cpu_request_milli.unwrap_or(0).div_ceil(divisor_milli))
        }
        "requests.memory" => {
            ResourceAmount::Fixed(owned.memory_request.unwrap_or(0).div_ceil(divisor))
        }
        "limits.ephemeral-storage" => match owned.storage_limit {
            Some(limit) => ResourceAmount::Fixed(limit.div_ceil(divisor)),
            None => ResourceAmount::NodeStorage { divisor },
        },
        "requests.ephemeral-storage" => {
            ResourceAmount::Fixed(owned.storage_request.unwrap_or(0).div_ceil(divisor))
        }
        other => {
            at.field("resource")
                .refuse(format!("`{other}` {UNSUPPORTED}"));
            return None;
        }
    };
    Some(amount)
}
