//! Security contexts: most of what they ask for is what a sandbox without processes already is.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, PodSecurityContext, SeccompProfile, SecurityContext,
};

use super::check::{Field, UNSUPPORTED};
use super::{Groups, Security};

/// What a guest can do without being given it: its pod's ports below 1024 are its own, and no process of
/// another is in its sandbox that it could be kept from tracing (`kubectl debug` asks for that).
const GRANTED: [&str; 4] = [
    "NET_BIND_SERVICE",
    "CAP_NET_BIND_SERVICE",
    "SYS_PTRACE",
    "CAP_SYS_PTRACE",
];

/// The largest number of a user or group that Kubernetes takes.
const ID_MAX: u32 = i32::MAX as u32;

pub(super) fn of_pod(wire: Option<&PodSecurityContext>, at: &Field<'_>) -> Security {
    let Some(wire) = wire else {
        return Security::default();
    };
    let at = at.field("securityContext");
    let PodSecurityContext {
        // The groups of the pod's volumes and users are converted below.
        fs_group: _,
        supplemental_groups: _,
        supplemental_groups_policy: _,
        // Satisfied: a volume shows its group at once, nothing of it is changed.
        fs_group_change_policy: _,
        run_as_group,
        // Satisfied: there is no SELinux boundary inside the process.
        se_linux_change_policy: _,
        se_linux_options: _,
        run_as_non_root,
        run_as_user,
        app_armor_profile,
        seccomp_profile,
        sysctls,
        windows_options,
    } = wire;
    refuse_profiles(seccomp_profile.as_ref(), app_armor_profile.as_ref(), &at);
    at.empty("sysctls", sysctls);
    at.absent("windowsOptions", windows_options);
    Security {
        run_as_non_root: run_as_non_root.unwrap_or(false),
        run_as_user: id(*run_as_user, "runAsUser", &at),
        run_as_group: id(*run_as_group, "runAsGroup", &at),
        read_only_root: false,
    }
}

/// The groups that all containers of a pod have.
pub(super) fn groups(wire: Option<&PodSecurityContext>, at: &Field<'_>) -> Groups {
    let Some(wire) = wire else {
        return Groups::default();
    };
    let at = at.field("securityContext");
    let supplemental = wire.supplemental_groups.as_deref().unwrap_or_default();
    let supplemental = supplemental
        .iter()
        .filter_map(|group| id(Some(*group), "supplementalGroups", &at));
    Groups {
        of_volumes: id(wire.fs_group, "fsGroup", &at),
        supplemental: supplemental.collect(),
        of_image: wire.supplemental_groups_policy.as_deref() != Some("Strict"),
    }
}

/// The number of a user or group, as far as Linux has them.
fn id(value: Option<i64>, field: &str, at: &Field<'_>) -> Option<u32> {
    let value = value?;
    let id = u32::try_from(value).ok().filter(|id| *id <= ID_MAX);
    if id.is_none() {
        at.field(field)
            .refuse(format!("must be between 0 and {ID_MAX}, inclusive"));
    }
    id
}

pub(super) fn of_container(
    wire: Option<&SecurityContext>,
    pod: Security,
    at: &Field<'_>,
) -> Security {
    let Some(wire) = wire else { return pod };
    let at = at.field("securityContext");
    let SecurityContext {
        // Satisfied: nothing in a guest can gain a privilege.
        allow_privilege_escalation: _,
        run_as_group,
        se_linux_options: _,
        app_armor_profile,
        capabilities,
        privileged,
        proc_mount,
        read_only_root_filesystem,
        run_as_non_root,
        run_as_user,
        seccomp_profile,
        windows_options,
    } = wire;
    refuse_profiles(seccomp_profile.as_ref(), app_armor_profile.as_ref(), &at);
    if let Some(capabilities) = capabilities {
        refuse_capabilities(capabilities, &at.field("capabilities"));
    }
    at.not_true(
        "privileged",
        *privileged,
        "cannot be honoured: there is nothing to grant",
    );
    if proc_mount.as_deref().is_some_and(|m| m != "Default") {
        at.field("procMount")
            .refuse("cannot be honoured: a Wasm sandbox has no `/proc`");
    }
    at.absent("windowsOptions", windows_options);
    Security {
        run_as_non_root: run_as_non_root.unwrap_or(pod.run_as_non_root),
        run_as_user: id(*run_as_user, "runAsUser", &at).or(pod.run_as_user),
        run_as_group: id(*run_as_group, "runAsGroup", &at).or(pod.run_as_group),
        read_only_root: read_only_root_filesystem.unwrap_or(false),
    }
}

fn refuse_profiles(
    seccomp: Option<&SeccompProfile>,
    app_armor: Option<&AppArmorProfile>,
    at: &Field<'_>,
) {
    if let Some(SeccompProfile {
        localhost_profile,
        type_,
    }) = seccomp
        && (localhost_profile.is_some() || type_ == "Localhost")
    {
        at.field("seccompProfile")
            .refuse("names a profile of the machine, which has no effect");
    }
    if let Some(AppArmorProfile {
        localhost_profile,
        type_,
    }) = app_armor
        && (localhost_profile.is_some() || type_ == "Localhost")
    {
        at.field("appArmorProfile")
            .refuse("names a profile of the machine, which has no effect");
    }
}

fn refuse_capabilities(capabilities: &Capabilities, at: &Field<'_>) {
    // Satisfied: a guest starts without any, so all are dropped.
    let Capabilities { add, drop: _ } = capabilities;
    let at = at.field("add");
    for (index, name) in add.as_deref().unwrap_or_default().iter().enumerate() {
        if !GRANTED.contains(&name.as_str()) {
            at.index(index).refuse(format!("`{name}` {UNSUPPORTED}"));
        }
    }
}
