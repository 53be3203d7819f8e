//! One container of the wire into one of the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ContainerPort, VolumeMount as WireMount};

use coracle_runtime::{OnStop, Terminal};

use super::check::{Field, UNSUPPORTED};
use super::probe::{self, Own, WireProbes};
use super::volume::is_inner_path;
use super::{
    ContainerPlan, HostPort, InstanceReuse, LogFallback, Port, PullPolicy, Role, Security,
    StdinPlan, StreamPlan, SubPath, TerminationMessage, Transport, VolumeMount, resources, restart,
    security, variables,
};

/// Annotation that opts a pod's handlers into answering several requests with one instance.
const INSTANCES_ANNOTATION: &str = "coracle.dev/instances";

/// Annotation that leaves commands their grace that cannot be told of their end.
const STOP_ANNOTATION: &str = "coracle.dev/stop";

/// Where a guest leaves its last words unless told otherwise.
const DEFAULT_TERMINATION_PATH: &str = "/dev/termination-log";

/// What a container inherits from its pod.
pub(super) struct PodContext<'a> {
    pub(super) instances: InstanceReuse,
    pub(super) on_stop: OnStop,
    pub(super) security: Security,
    pub(super) volumes: BTreeSet<&'a str>,
}

pub(super) fn instance_reuse(
    annotations: &BTreeMap<String, String>,
    root: &Field<'_>,
) -> InstanceReuse {
    match annotations.get(INSTANCES_ANNOTATION).map(String::as_str) {
        None | Some("fresh") => InstanceReuse::Fresh,
        Some("reuse") => InstanceReuse::Reuse,
        Some(other) => {
            let at = root.field(&format!("metadata.annotations['{INSTANCES_ANNOTATION}']"));
            at.refuse(format!("has the unknown value `{other}`"));
            InstanceReuse::Fresh
        }
    }
}

pub(super) fn on_stop(annotations: &BTreeMap<String, String>, root: &Field<'_>) -> OnStop {
    match annotations.get(STOP_ANNOTATION).map(String::as_str) {
        None | Some("at-once") => OnStop::AtOnce,
        Some("grace") => OnStop::Grace,
        Some(other) => {
            let at = root.field(&format!("metadata.annotations['{STOP_ANNOTATION}']"));
            at.refuse(format!("has the unknown value `{other}`"));
            OnStop::AtOnce
        }
    }
}

/// Returns nothing when the container cannot be planned; the reason is then recorded.
// tidy: table, because it names every field of a container once.
pub(super) fn convert(
    wire: &Container,
    role: Role,
    context: &PodContext<'_>,
    at: &Field<'_>,
) -> Option<ContainerPlan> {
    let Container {
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
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = wire;
    at.empty("volumeDevices", volume_devices);
    let rules = restart_policy_rules.as_deref().unwrap_or_default();
    let (role, restarts) = restart::convert(role, restart_policy.as_deref(), rules, at);
    let image = image.clone().unwrap_or_default();
    if image.is_empty() {
        at.field("image").refuse("is missing");
    }
    let name = at.field("name").dns_label(name);
    let policy_at = at.field("imagePullPolicy");
    let pull_policy = pull_policy(image_pull_policy.as_deref(), &image, &policy_at);
    let ports = convert_ports(ports.as_deref().unwrap_or_default(), &at.field("ports"));
    let env = variables::convert_env(env.as_deref().unwrap_or_default(), &at.field("env"));
    let wire_probes = WireProbes {
        startup: startup_probe.as_ref(),
        readiness: readiness_probe.as_ref(),
        liveness: liveness_probe.as_ref(),
    };
    Some(ContainerPlan {
        name: name?,
        role,
        pull_policy,
        image,
        command: command.clone().filter(|c| !c.is_empty()),
        args: args.clone().filter(|a| !a.is_empty()),
        working_dir: working_dir.clone().filter(|w| !w.is_empty()),
        env_from: variables::convert_env_from(
            env_from.as_deref().unwrap_or_default(),
            &at.field("envFrom"),
        ),
        probes: probe::convert_probes(
            &wire_probes,
            role,
            Own {
                ports: &ports,
                env: &env,
            },
            at,
        ),
        hooks: probe::convert_hooks(lifecycle.as_ref(), role, &ports, &at.field("lifecycle")),
        env,
        ports,
        mounts: convert_mounts(
            volume_mounts.as_deref().unwrap_or_default(),
            context,
            &at.field("volumeMounts"),
        ),
        resources: resources::convert(resources.as_ref(), &at.field("resources")),
        resize: resources::resize_policy(resize_policy.as_deref(), &at.field("resizePolicy")),
        security: security::of_container(security_context.as_ref(), context.security, at),
        termination_message: termination_message(
            termination_message_path.as_deref(),
            termination_message_policy.as_deref(),
            at,
        ),
        instances: context.instances,
        on_stop: context.on_stop,
        streams: StreamPlan {
            stdin: match (stdin, stdin_once) {
                (Some(true), Some(true)) => StdinPlan::Once,
                (Some(true), Some(false) | None) => StdinPlan::Open,
                (Some(false) | None, _) => StdinPlan::Closed,
            },
            terminal: match tty {
                Some(true) => Terminal::Present,
                Some(false) | None => Terminal::Absent,
            },
        },
        restarts,
    })
}

/// The API server's default: always for `latest` or no tag, else if not present.
pub(super) fn pull_policy(value: Option<&str>, image: &str, at: &Field<'_>) -> PullPolicy {
    match value {
        Some("Always") => PullPolicy::Always,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        Some("Never") => PullPolicy::Never,
        None | Some("") => {
            let last = image.rsplit('/').next().unwrap_or(image);
            let pinned = last.contains('@');
            let latest = last.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest");
            if latest && !pinned {
                PullPolicy::Always
            } else {
                PullPolicy::IfNotPresent
            }
        }
        Some(other) => {
            at.refuse(format!("has the unknown value `{other}`"));
            PullPolicy::Never
        }
    }
}

fn convert_ports(wire: &[ContainerPort], at: &Field<'_>) -> Vec<Port> {
    let mut converted = Vec::new();
    for (index, port) in wire.iter().enumerate() {
        converted.extend(convert_port(port, &at.index(index)));
    }
    converted
}

fn convert_port(wire: &ContainerPort, at: &Field<'_>) -> Option<Port> {
    let ContainerPort {
        container_port,
        host_ip,
        host_port,
        name,
        protocol,
    } = wire;
    let protocol = match protocol.as_deref() {
        None | Some("TCP") => Transport::Tcp,
        Some("UDP") => Transport::Udp,
        Some(other) => {
            at.field("protocol")
                .refuse(format!("`{other}` {UNSUPPORTED}"));
            return None;
        }
    };
    let port = port_number(*container_port, &at.field("containerPort"))?;
    let host = match host_port.filter(|p| *p != 0) {
        None => None,
        Some(value) => Some(HostPort {
            ip: host_address(host_ip.as_deref(), &at.field("hostIP"))?,
            port: port_number(value, &at.field("hostPort"))?,
        }),
    };
    Some(Port {
        name: name.clone(),
        port,
        protocol,
        host,
    })
}

fn port_number(value: i32, at: &Field<'_>) -> Option<u16> {
    let port = u16::try_from(value).ok().filter(|p| *p > 0);
    if port.is_none() {
        at.refuse("is no port number");
    }
    port
}

/// The outer value is missing when the text is no address, the inner when no address is asked for.
fn host_address(text: Option<&str>, at: &Field<'_>) -> Option<Option<IpAddr>> {
    let Some(text) = text.filter(|t| !t.is_empty()) else {
        return Some(None);
    };
    match text.parse::<IpAddr>() {
        Ok(ip) => Some(Some(ip)),
        Err(_) => {
            at.refuse("is no IP address");
            None
        }
    }
}

fn convert_mounts(
    wire: &[WireMount],
    context: &PodContext<'_>,
    at: &Field<'_>,
) -> Vec<VolumeMount> {
    let mut paths = BTreeSet::new();
    let mut converted = Vec::new();
    for (index, mount) in wire.iter().enumerate() {
        let at = at.index(index);
        if !paths.insert(mount.mount_path.as_str()) {
            at.field("mountPath").refuse("is used twice");
        }
        converted.extend(convert_mount(mount, context, &at));
    }
    converted
}

fn convert_mount(
    wire: &WireMount,
    context: &PodContext<'_>,
    at: &Field<'_>,
) -> Option<VolumeMount> {
    let WireMount {
        mount_path,
        mount_propagation,
        name,
        read_only,
        recursive_read_only,
        sub_path,
        sub_path_expr,
    } = wire;
    if mount_propagation.as_deref() == Some("Bidirectional") {
        at.field("mountPropagation")
            .refuse("`Bidirectional` needs a mount table a guest lacks");
    }
    if recursive_read_only.as_deref() == Some("Enabled") {
        at.field("recursiveReadOnly")
            .refuse(format!("`Enabled` {UNSUPPORTED}"));
    }
    if !context.volumes.contains(name.as_str()) {
        at.field("name")
            .refuse("names no usable volume of this pod");
    }
    let inside = mount_path.strip_prefix('/');
    if !inside.is_some_and(|path| is_inner_path(path.trim_end_matches('/'))) {
        at.field("mountPath")
            .refuse("is no absolute path below the root");
    }
    let text = |path: &Option<String>| path.clone().filter(|p| !p.is_empty());
    let sub_path = match (text(sub_path), text(sub_path_expr)) {
        (None, None) => SubPath::Whole,
        (Some(path), None) if is_inner_path(&path) => SubPath::Fixed(path),
        (Some(_), None) => {
            at.field("subPath").refuse("must be relative, without `..`");
            return None;
        }
        (None, Some(expression)) => SubPath::Expression(expression),
        (Some(_), Some(_)) => {
            at.field("subPathExpr")
                .refuse("and `subPath` exclude each other");
            return None;
        }
    };
    Some(VolumeMount {
        volume: name.clone(),
        path: mount_path.clone(),
        read_only: read_only.unwrap_or(false),
        sub_path,
    })
}

fn termination_message(
    path: Option<&str>,
    policy: Option<&str>,
    at: &Field<'_>,
) -> TerminationMessage {
    let path = path
        .filter(|p| !p.is_empty())
        .unwrap_or(DEFAULT_TERMINATION_PATH);
    if !path.strip_prefix('/').is_some_and(is_inner_path) {
        at.field("terminationMessagePath")
            .refuse("is no absolute path below the root");
    }
    let fallback = match policy {
        None | Some("File") => LogFallback::Never,
        Some("FallbackToLogsOnError") => LogFallback::OnError,
        Some(other) => {
            at.field("terminationMessagePolicy")
                .refuse(format!("has the unknown value `{other}`"));
            LogFallback::Never
        }
    };
    TerminationMessage {
        path: path.to_owned(),
        fallback,
    }
}
