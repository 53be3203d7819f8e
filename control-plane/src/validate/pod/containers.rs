//! The containers of a pod: regular, init and ephemeral ones.

use std::collections::HashSet;

use serde_json::Value;

use super::{Field, NameRule, environment, probes, resources, security, volumes::Volumes};

/// Rules for one container beyond this number are refused.
const RESTART_RULES_MAX: usize = 20;

const EXIT_CODES_MAX: usize = 255;

const IMAGE_PATH_MESSAGE: &str = "must be an image reference, not a path: only `coracle run` packs \
     files, give the manifest to it";

const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// What containers refer to in their pod.
struct Context<'a, 'v> {
    spec: &'a Field<'a, 'v>,
    volumes: &'a Volumes<'v>,
    claims: &'a HashSet<&'v str>,
}

/// Checks all containers.
pub(super) fn check<'v>(spec: &Field<'_, 'v>, volumes: &Volumes<'v>, claims: &HashSet<&'v str>) {
    let context = &Context {
        spec,
        volumes,
        claims,
    };
    let mut names = HashSet::new();
    regular(context, &mut names);
    init(context, &mut names);
    ephemeral(context, &mut names);
}

/// Checks the pod's claims and returns their names.
pub(super) fn claims<'v>(claims: &Field<'_, 'v>) -> HashSet<&'v str> {
    let mut names = HashSet::new();
    for claim in claims.items() {
        let name = claim.child("name");
        match name.text() {
            "" => name.required(""),
            text if !names.insert(text) => name.duplicate(),
            _ => name.name(NameRule::Label),
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        let sources = sources.iter().filter(|source| claim.child(source).is_set());
        for source in sources.clone() {
            claim.child(source).name(NameRule::Subdomain);
        }
        match sources.count() {
            0 => claim
                .invalid("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            1 => (),
            _ => claim.invalid(
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
        }
    }
    names
}

fn regular<'v>(context: &Context<'_, 'v>, names: &mut HashSet<&'v str>) {
    let list = context.spec.child("containers");
    if list.is_empty() {
        return list.required("");
    }
    let mut ports = HashSet::new();
    for container in list.items() {
        common(context, &container);
        unique(&container, names);
        probes::lifecycle(&container, context.spec);
        probes::check(&container);
        restart_rules(&container);
        host_ports(&container, &mut ports);
    }
}

fn init<'v>(context: &Context<'_, 'v>, names: &mut HashSet<&'v str>) {
    for container in context.spec.child("initContainers").items() {
        common(context, &container);
        restart_rules(&container);
        unique(&container, names);
        // Init containers run one after the other.
        host_ports(&container, &mut HashSet::new());
        if container.child("restartPolicy").text() == "Always" {
            probes::lifecycle(&container, context.spec);
            probes::check(&container);
            continue;
        }
        for field in [
            "lifecycle",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
        ] {
            if container.child(field).is_set() {
                let detail = "may not be set for init containers without restartPolicy=Always";
                container.child(field).forbidden(detail);
            }
        }
    }
}

fn ephemeral<'v>(context: &Context<'_, 'v>, names: &mut HashSet<&'v str>) {
    let targets = names.clone();
    for container in context.spec.child("ephemeralContainers").items() {
        common(context, &container);
        unique(&container, names);
        let target = container.child("targetContainerName");
        if !target.is_empty() && !targets.contains(target.text()) {
            target.not_found();
        }
        let detail = "cannot be set for an Ephemeral Container";
        for field in NOT_EPHEMERAL {
            if !container.child(field).is_empty() {
                container.child(field).forbidden(detail);
            }
        }
        for mount in container.child("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.child(field).is_empty() {
                    mount.child(field).forbidden(detail);
                }
            }
        }
    }
}

fn unique<'v>(container: &Field<'_, 'v>, names: &mut HashSet<&'v str>) {
    let name = container.child("name");
    if !name.is_empty() && !names.insert(name.text()) {
        name.duplicate();
    }
}

/// What is checked in every container.
fn common<'v>(context: &Context<'_, 'v>, container: &Field<'_, 'v>) {
    container.child("name").name_required(NameRule::Label);
    image(&container.child("image"));
    let policies = ["File", "FallbackToLogsOnError"];
    container
        .child("terminationMessagePolicy")
        .one_of(&policies);
    ports(&container.child("ports"));
    environment::check(container);
    mounts(context, container);
    devices(context, container);
    let policies = ["Always", "IfNotPresent", "Never"];
    container.child("imagePullPolicy").one_of(&policies);
    resources::of_container(&container.child("resources"), context.claims);
    resize_policy(&container.child("resizePolicy"), context.spec);
    let host_users = context.spec.child("hostUsers").value != false;
    security::of_container(&container.child("securityContext"), host_users);
}

fn image(image: &Field<'_, '_>) {
    let text = image.text();
    if text.is_empty() {
        image.required("");
    } else if text.trim() != text {
        image.invalid("must not have leading or trailing whitespace");
    } else if is_path(text) {
        image.invalid(IMAGE_PATH_MESSAGE);
    }
}

/// Says whether an image is written as a file's path, which only the command line can read.
fn is_path(image: &str) -> bool {
    let relative = ["./", "../", "/", ".\\", "..\\"];
    // `hello.wasm` and `dir/hello.wasm` are files; what begins with a registry's host is not.
    let of_a_registry = image
        .split_once('/')
        .is_some_and(|(host, _)| host == "localhost" || host.contains(['.', ':']));
    relative.iter().any(|start| image.starts_with(start))
        || (image.ends_with(".wasm") && !image.contains('@') && !of_a_registry)
}

fn ports(ports: &Field<'_, '_>) {
    let mut names = HashSet::new();
    for port in ports.items() {
        let name = port.child("name");
        if !name.is_empty() {
            for fault in super::super::field::port_name_faults(name.text()) {
                name.invalid(fault);
            }
            if !names.insert(name.text()) {
                name.duplicate();
            }
        }
        let number = port.child("containerPort");
        match number.number().unwrap_or(0) {
            0 => number.required(""),
            _ => number.port(),
        }
        let host = port.child("hostPort");
        if host.number().is_some_and(|port| port != 0) {
            host.port();
        }
        port.child("protocol").one_of(&["SCTP", "TCP", "UDP"]);
    }
}

fn host_ports<'v>(container: &Field<'_, 'v>, taken: &mut HashSet<(&'v str, &'v str, i64)>) {
    for port in container.child("ports").items() {
        let (protocol, address) = (port.child("protocol").text(), port.child("hostIP").text());
        let host = port.child("hostPort");
        let number = host.number().unwrap_or(0);
        if number != 0 && !taken.insert((protocol, address, number)) {
            host.duplicate_as(&Value::from(format!("{protocol}/{address}/{number}")));
        }
    }
}

fn mounts(context: &Context<'_, '_>, container: &Field<'_, '_>) {
    let list = &container.child("volumeMounts");
    let (devices, mut paths) = (container.child("volumeDevices"), HashSet::new());
    let clashes = |field, text: &str| {
        devices
            .items()
            .any(|device| device.child(field).text() == text)
    };
    let privileged = container.child("securityContext.privileged").is_true();
    for mount in list.items() {
        let (name, path) = (mount.child("name"), mount.child("mountPath"));
        name.present();
        let volume = context.volumes.get(name.text());
        if volume.is_none() {
            name.not_found();
        }
        path.present();
        if !paths.insert(path.text()) {
            path.invalid("must be unique");
        }
        if clashes("name", name.text()) {
            name.invalid("must not already exist in volumeDevices");
        }
        if clashes("devicePath", path.text()) {
            path.invalid("must not already exist as a path in volumeDevices");
        }
        let image = volume.is_some_and(|volume| volume.get("image").is_some());
        sub_paths(list, &mount, image);
        propagation(list, &mount, privileged);
    }
}

/// Kubernetes says what is wrong with these at the list, not at the mount.
fn sub_paths(list: &Field<'_, '_>, mount: &Field<'_, '_>, image: bool) {
    let (plain, expression) = (mount.child("subPath"), mount.child("subPathExpr"));
    for path in [&plain, &expression] {
        if image && !path.is_empty() {
            path.invalid("not allowed in image volume sources");
        }
    }
    list.child("subPath").with(plain.value).descending_path();
    if !expression.is_empty() && !plain.is_empty() {
        expression.invalid("subPathExpr and subPath are mutually exclusive");
    }
    list.child("subPathExpr")
        .with(expression.value)
        .descending_path();
}

fn propagation(list: &Field<'_, '_>, mount: &Field<'_, '_>, privileged: bool) {
    let found = mount.child("mountPropagation").value;
    let propagation = list.child("mountPropagation").with(found);
    propagation.one_of_if_set(&["Bidirectional", "HostToContainer", "None"]);
    if propagation.text() == "Bidirectional" && !privileged {
        propagation.forbidden(
            "Bidirectional mount propagation is available only to privileged containers",
        );
    }
    let recursive = list.child("recursiveReadOnly");
    let recursive = recursive.with(mount.child("recursiveReadOnly").value);
    recursive.one_of_if_set(&["Disabled", "Enabled", "IfPossible"]);
    if !matches!(recursive.text(), "Enabled" | "IfPossible") {
        return;
    }
    if !mount.child("readOnly").is_true() {
        recursive.forbidden("may only be specified when readOnly is true");
    }
    if propagation.is_set() && propagation.text() != "None" {
        recursive.forbidden("may only be specified when mountPropagation is None or not specified");
    }
}

fn devices(context: &Context<'_, '_>, container: &Field<'_, '_>) {
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    let mounts = container.child("volumeMounts");
    let clashes = |field, text: &str| {
        mounts
            .items()
            .any(|mount| mount.child(field).text() == text)
    };
    for device in container.child("volumeDevices").items() {
        let (name, path) = (device.child("name"), device.child("devicePath"));
        name.present();
        if !names.insert(name.text()) {
            name.invalid("must be unique");
        }
        match context.volumes.get(name.text()) {
            None => name.not_found(),
            Some(volume)
                if volume.get("persistentVolumeClaim").is_none()
                    && volume.get("ephemeral").is_none() =>
            {
                name.invalid(
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for \
                     block mode",
                );
            }
            Some(_) => (),
        }
        path.present();
        if !paths.insert(path.text()) {
            path.invalid("must be unique");
        }
        if path.text().split('/').any(|part| part == "..") {
            path.invalid("can not contain backsteps ('..')");
        }
        if clashes("name", name.text()) {
            name.invalid("must not already exist in volumeMounts");
        }
        if clashes("mountPath", path.text()) {
            path.invalid("must not already exist as a path in volumeMounts");
        }
    }
}

fn resize_policy(list: &Field<'_, '_>, spec: &Field<'_, '_>) {
    let never = spec.child("restartPolicy").text() == "Never";
    let mut seen = HashSet::new();
    for policy in list.items() {
        let (resource, restart) = (policy.child("resourceName"), policy.child("restartPolicy"));
        if !seen.insert(resource.text()) {
            policy.duplicate_as(resource.value);
        }
        list.with(resource.value).one_of(&["cpu", "memory"]);
        list.with(restart.value)
            .one_of(&["NotRequired", "RestartContainer"]);
        if never && restart.text() != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            list.invalid_as(restart.value, detail);
        }
    }
}

fn restart_rules(container: &Field<'_, '_>) {
    let (policy, rules) = (
        container.child("restartPolicy"),
        container.child("restartPolicyRules"),
    );
    policy.one_of_if_set(&["Always", "Never", "OnFailure"]);
    if !rules.is_empty() && !policy.is_set() {
        policy.required("must specify restartPolicy when restart rules are used");
    }
    if rules.items().count() > RESTART_RULES_MAX {
        rules.too_many(RESTART_RULES_MAX);
    }
    for rule in rules.items() {
        rule.child("action")
            .one_of(&["Restart", "RestartAllContainers"]);
        let codes = rule.child("exitCodes");
        if !codes.is_set() {
            codes.required("must be specified");
            continue;
        }
        codes.child("operator").one_of(&["In", "NotIn"]);
        let values = codes.child("values");
        if values.items().count() > EXIT_CODES_MAX {
            values.too_many(EXIT_CODES_MAX);
        }
    }
}
