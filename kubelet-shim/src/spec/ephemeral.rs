//! `ephemeralContainers` of the wire into containers of the plan, each by itself: one that cannot be started
//! does its pod no harm.

use std::cell::RefCell;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

use super::check::{CONTAINERS_PER_POD_MAX, Field};
use super::container::{self, PodContext};
use super::{ContainerPlan, LeftOut, Resources, Role, VolumePlan, variables};

const NONE_HERE: &str = "cannot be set for an ephemeral container";

/// Converts those that can be started, and names what is wrong with the others.
pub(super) fn convert_all(
    spec: &PodSpec,
    context: &PodContext<'_>,
    others: &[ContainerPlan],
    volumes: &[VolumePlan],
) -> (Vec<ContainerPlan>, Vec<LeftOut>) {
    let resources: Vec<(Arc<str>, Resources)> = others
        .iter()
        .map(|other| (other.name.clone(), other.resources))
        .collect();
    let mut plans: Vec<ContainerPlan> = Vec::new();
    let mut left_out = Vec::new();
    let wires = spec.ephemeral_containers.iter().flatten().enumerate();
    for (index, wire) in wires.take(CONTAINERS_PER_POD_MAX) {
        let found = RefCell::new(Vec::new());
        let at = Field::root(&found).field("spec.ephemeralContainers");
        let at = at.index(index);
        let is_taken = |one: &ContainerPlan| *one.name == *wire.name;
        if others.iter().chain(&plans).any(is_taken) {
            at.field("name").refuse("is used twice");
        }
        if others.len() + plans.len() >= CONTAINERS_PER_POD_MAX {
            at.refuse(format!(
                "is one more than {CONTAINERS_PER_POD_MAX} containers"
            ));
        }
        let plan = convert(wire, context, (&resources, volumes), &at);
        let refusals = found.take();
        if refusals.is_empty() {
            plans.extend(plan);
        } else {
            left_out.push(LeftOut {
                name: wire.name.clone(),
                image: wire.image.clone().unwrap_or_default(),
                refusals,
            });
        }
    }
    (plans, left_out)
}

// tidy: table, because it names every field of an ephemeral container once.
fn convert(
    wire: &EphemeralContainer,
    context: &PodContext<'_>,
    (resources, volumes): (&[(Arc<str>, Resources)], &[VolumePlan]),
    at: &Field<'_>,
) -> Option<ContainerPlan> {
    let EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources: own,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        // Mapped: what it would share is the network, which all containers of a pod share.
        target_container_name: _,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = wire;
    let has_resources = own.as_ref().is_some_and(|own| {
        let is_set = |list: &Option<std::collections::BTreeMap<_, _>>| {
            list.as_ref().is_some_and(|list| !list.is_empty())
        };
        is_set(&own.limits) || is_set(&own.requests) || own.claims.is_some()
    });
    let is_set = |list: Option<usize>| list.is_some_and(|length| length > 0);
    for (field, is_set) in [
        ("lifecycle", lifecycle.is_some()),
        ("livenessProbe", liveness_probe.is_some()),
        ("readinessProbe", readiness_probe.is_some()),
        ("startupProbe", startup_probe.is_some()),
        ("ports", is_set(ports.as_ref().map(Vec::len))),
        ("resizePolicy", is_set(resize_policy.as_ref().map(Vec::len))),
        ("resources", has_resources),
        ("restartPolicy", restart_policy.is_some()),
        (
            "restartPolicyRules",
            is_set(restart_policy_rules.as_ref().map(Vec::len)),
        ),
    ] {
        if is_set {
            at.field(field).refuse(NONE_HERE);
        }
    }
    let wire = Container {
        args: args.clone(),
        command: command.clone(),
        env: env.clone(),
        env_from: env_from.clone(),
        image: image.clone(),
        image_pull_policy: image_pull_policy.clone(),
        name: name.clone(),
        security_context: security_context.clone(),
        stdin: *stdin,
        stdin_once: *stdin_once,
        termination_message_path: termination_message_path.clone(),
        termination_message_policy: termination_message_policy.clone(),
        tty: *tty,
        volume_devices: volume_devices.clone(),
        volume_mounts: volume_mounts.clone(),
        working_dir: working_dir.clone(),
        ..Container::default()
    };
    let mut plan = container::convert(&wire, Role::Ephemeral, context, at)?;
    let mut resources = resources.to_vec();
    resources.push((plan.name.clone(), plan.resources));
    variables::resolve_resource_refs(&wire, &mut plan, &resources, at);
    variables::check_files_of(&wire, volumes, at);
    Some(plan)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use crate::spec::{HostPathPolicy, PodSpecPlan, Role, StdinPlan, check_pod};

    fn plan(ephemeral: Value) -> PodSpecPlan {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "ephemeralContainers": ephemeral}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        check_pod(&pod, HostPathPolicy::Refuse).expect("a plan")
    }

    #[test]
    fn an_ephemeral_container_comes_last_and_has_what_kubectl_debug_gives_it() {
        let plan = plan(
            json!([{"name": "d", "image": "i", "command": ["sh"], "stdin": true,
            "tty": true, "targetContainerName": "c", "resources": {},
            "env": [{"name": "A", "value": "b"}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]),
        );
        let last = plan.containers.last().expect("a container");
        assert_eq!(last.role, Role::Ephemeral);
        assert_eq!(last.command, Some(vec!["sh".to_owned()]));
        assert_eq!(last.streams.stdin, StdinPlan::Open);
        assert_eq!((last.env.len(), last.mounts.len()), (1, 1));
        assert_eq!(last.field_path(), "spec.ephemeralContainers{d}");
    }

    #[test]
    fn one_that_cannot_be_started_is_named_and_its_pod_stands() {
        for (field, value) in [
            ("ports", json!([{"containerPort": 1}])),
            ("livenessProbe", json!({"tcpSocket": {"port": 1}})),
            ("lifecycle", json!({"preStop": {"sleep": {"seconds": 1}}})),
            ("resources", json!({"limits": {"cpu": "1"}})),
            ("restartPolicy", json!("Always")),
            ("volumeDevices", json!([{"name": "v", "devicePath": "/d"}])),
            ("name", json!("c")),
        ] {
            let mut bad = json!({"name": "d", "image": "i"});
            bad[field] = value;
            let plan = plan(json!([bad, {"name": "e", "image": "i"}]));
            let names: Vec<&str> = plan.containers.iter().map(|c| &*c.name).collect();
            assert_eq!(names, ["c", "e"]);
            let fields: Vec<_> = plan
                .left_out
                .iter()
                .flat_map(|one| one.refusals.iter().map(|r| r.field.clone()))
                .collect();
            assert_eq!(fields, [format!("spec.ephemeralContainers[0].{field}")]);
        }
    }
}
