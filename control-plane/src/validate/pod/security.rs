//! Security contexts of pods and containers, and what they rule out.

use std::collections::HashSet;

use super::Field;

const ID_MESSAGE: &str = "must be between 0 and 2147483647, inclusive";

const PROFILE_BYTES_MAX: usize = 4095;

const SYSCTL_BYTES_MAX: usize = 253;

const SYSCTL_MESSAGE: &str = "must have at most 253 characters and match regex \
     ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// Fields of a pod's security context that mean nothing on Windows.
const NOT_OF_WINDOWS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];

const NOT_OF_WINDOWS_CONTAINERS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

const CONTAINER_LISTS: &[&str] = &["initContainers", "containers", "ephemeralContainers"];

/// Checks a pod's security context.
pub(super) fn of_pod(spec: &Field<'_, '_>) {
    let context = &spec.child("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context.child(field));
    }
    context
        .child("supplementalGroups")
        .items()
        .for_each(|group| id(&group));
    let shared = spec.child("shareProcessNamespace");
    if shared.is_true() && spec.child("hostPID").is_true() {
        // The stock server keeps both in the security context and says so.
        context.child("shareProcessNamespace").invalid_as(
            shared.value,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    sysctls(spec, &context.child("sysctls"));
    for (field, known) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        context.child(field).one_of_if_set(&known);
    }
    profiles(context);
}

/// Checks a container's security context.
pub(super) fn of_container(context: &Field<'_, '_>, host_users: bool) {
    if !context.is_set() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        id(&context.child(field));
    }
    let mount = context.child("procMount");
    mount.one_of_if_set(&["Default", "Unmasked"]);
    if host_users && mount.text() == "Unmasked" {
        mount.invalid("`hostUsers` must be false to use `Unmasked`");
    }
    profiles(context);
    if context.child("allowPrivilegeEscalation").value == false {
        let cannot = |what| {
            context.invalid(&format!(
                "cannot set `allowPrivilegeEscalation` to false and {what}"
            ));
        };
        if context.child("privileged").is_true() {
            cannot("`privileged` to true");
        }
        let added = context.child("capabilities.add");
        if added
            .items()
            .any(|capability| capability.text() == "CAP_SYS_ADMIN")
        {
            cannot("`capabilities.Add` CAP_SYS_ADMIN");
        }
    }
}

fn id(id: &Field<'_, '_>) {
    if id.number().is_some_and(|id| u32::try_from(id).is_err()) {
        id.invalid(ID_MESSAGE);
    }
}

fn profiles(context: &Field<'_, '_>) {
    profile(
        &context.child("seccompProfile"),
        "seccomp",
        "seccompProfile",
    );
    profile(
        &context.child("appArmorProfile"),
        "AppArmor",
        "appArmorProfile",
    );
}

fn profile(profile: &Field<'_, '_>, what: &str, field: &str) {
    if !profile.is_set() {
        return;
    }
    let (kind, local) = (profile.child("type"), profile.child("localhostProfile"));
    if kind.is_empty() {
        kind.required(&format!("type is required when {field} is set"));
    } else {
        kind.one_of(&["Localhost", "RuntimeDefault", "Unconfined"]);
    }
    if kind.text() != "Localhost" {
        if local.is_set() {
            local.invalid(&format!("can only be set when {what} type is Localhost"));
        }
        return;
    }
    if local.is_empty() {
        return local.required(&format!("must be set when {what} type is Localhost"));
    }
    if what == "seccomp" {
        return local.descending_path();
    }
    if local.text().trim() != local.text() {
        local.invalid("must not be padded with whitespace");
    }
    if local.text().len() > PROFILE_BYTES_MAX {
        local.too_long(PROFILE_BYTES_MAX);
    }
}

fn sysctls(spec: &Field<'_, '_>, list: &Field<'_, '_>) {
    let mut names = HashSet::new();
    for entry in list.items() {
        let name = entry.child("name");
        let text = name.text();
        if text.is_empty() {
            name.required("");
        } else if !is_sysctl(text) {
            name.invalid(SYSCTL_MESSAGE);
        } else if !names.insert(text) {
            name.duplicate();
        }
        let dotted = text.replace('/', ".");
        let of_ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."];
        let of_ipc = dotted == "kernel.sem" || of_ipc.iter().any(|start| dotted.starts_with(start));
        for (shared, found) in [
            ("hostNetwork", dotted.starts_with("net.")),
            ("hostIPC", of_ipc),
        ] {
            if found && spec.child(shared).is_true() {
                name.invalid(&format!("may not be specified when '{shared}' is true"));
            }
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let segment = |part: &str| {
        let bytes = part.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        ends.iter().all(|end| end.is_some_and(|&byte| letter(byte)))
            && bytes
                .iter()
                .all(|&byte| letter(byte) || matches!(byte, b'-' | b'_'))
    };
    name.len() <= SYSCTL_BYTES_MAX && name.split(['.', '/']).all(segment)
}

/// A pod with users of its own cannot share what the node's users see.
pub(super) fn host_users(spec: &Field<'_, '_>) {
    if spec.child("hostUsers").value != false {
        return;
    }
    // The stock server writes the last two this way.
    for (field, said) in [
        ("hostNetwork", "hostNetwork"),
        ("hostPID", "HostPID"),
        ("hostIPC", "HostIPC"),
    ] {
        if spec.child(field).is_true() {
            spec.child(said).forbidden("when `hostUsers` is false");
        }
    }
}

/// Checks that nothing of another operating system is asked for.
pub(super) fn operating_system(spec: &Field<'_, '_>) {
    let system = spec.child("os");
    if !system.is_set() {
        return;
    }
    let name = system.child("name");
    match name.text() {
        "" => name.required("cannot be empty"),
        "linux" => linux(spec),
        "windows" => windows(spec),
        _ => system.with(name.value).not_supported(&["linux", "windows"]),
    }
}

fn linux(spec: &Field<'_, '_>) {
    let refuse = |context: &Field<'_, '_>| {
        let options = context.child("windowsOptions");
        if options.is_set() {
            options.forbidden("windows options cannot be set for a linux pod");
        }
    };
    refuse(&spec.child("securityContext"));
    for list in CONTAINER_LISTS {
        for container in spec.child(list).items() {
            refuse(&container.child("securityContext"));
        }
    }
}

fn windows(spec: &Field<'_, '_>) {
    let refuse = |context: &Field<'_, '_>, fields: &[&str]| {
        for field in fields
            .iter()
            .filter(|field| !context.child(field).is_empty())
        {
            context
                .child(field)
                .forbidden("cannot be set for a windows pod");
        }
    };
    refuse(&spec.child("securityContext"), NOT_OF_WINDOWS);
    refuse(
        spec,
        &["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"],
    );
    for list in CONTAINER_LISTS {
        for container in spec.child(list).items() {
            refuse(
                &container.child("securityContext"),
                NOT_OF_WINDOWS_CONTAINERS,
            );
        }
    }
}
