//! Security contexts: most of what they ask for is what a sandbox without processes already is.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, PodSecurityContext, SeccompProfile, SecurityContext,
};

use super::Security;
use super::check::{Field, UNSUPPORTED};

/// The only capability a guest has: its pod's ports below 1024 are its own.
const GRANTED: [&str; 2] = ["NET_BIND_SERVICE", "CAP_NET_BIND_SERVICE"];

pub(super) fn of_pod(wire: Option<&PodSecurityContext>, at: &Field<'_>) -> Security {
    let Some(wire) = wire else {
        return Security::default();
    };
    let at = at.field("securityContext");
    let PodSecurityContext {
        // Mapped: WASI shows a guest neither owner nor group, so the identity is what status reports.
        fs_group: _,
        fs_group_change_policy: _,
        run_as_group: _,
        supplemental_groups: _,
        supplemental_groups_policy: _,
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
        run_as_user: *run_as_user,
        read_only_root: false,
    }
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
        // Mapped, as for the pod.
        run_as_group: _,
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
        run_as_user: run_as_user.or(pod.run_as_user),
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
