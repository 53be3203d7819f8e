//! Probes and lifecycle hooks.

use super::Field;

const HEADER_MESSAGE: &str = "a valid HTTP header must consist of alphanumeric characters or '-' \
     (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";

const HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// Checks a container's three probes.
pub(super) fn check(container: &Field<'_, '_>) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container.child(name);
        if !probe.is_set() {
            continue;
        }
        handler(probe, None);
        for field in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            probe.child(field).not_negative();
        }
        let grace = probe.child("terminationGracePeriodSeconds");
        if grace.number().is_some_and(|seconds| seconds <= 0) {
            grace.invalid("must be greater than 0");
        }
        let threshold = probe.child("successThreshold");
        if name == "readinessProbe" {
            if grace.is_set() {
                grace.invalid("must not be set for readinessProbes");
            }
        } else if threshold.number() != Some(1) {
            threshold.invalid("must be 1");
        }
    }
}

/// Checks what is done after a container's start and before its end.
pub(super) fn lifecycle(container: &Field<'_, '_>, spec: &Field<'_, '_>) {
    let grace = spec.child("terminationGracePeriodSeconds").number();
    let lifecycle = container.child("lifecycle");
    for name in ["postStart", "preStop"] {
        let hook = lifecycle.child(name);
        if hook.is_set() {
            handler(&hook, grace);
        }
    }
    let signal = lifecycle.child("stopSignal");
    if signal.is_set() && spec.child("os.name").is_empty() {
        signal.forbidden("may not be set for containers with empty `spec.os.name`");
    }
}

fn handler(owner: &Field<'_, '_>, grace: Option<i64>) {
    let mut found = HANDLERS.iter().filter(|kind| owner.child(kind).is_set());
    let Some(&kind) = found.next() else {
        return owner.required("must specify a handler type");
    };
    for second in found {
        owner
            .child(second)
            .forbidden("may not specify more than 1 handler type");
    }
    let action = &owner.child(kind);
    match kind {
        "exec" => action.child("command").present(),
        "httpGet" => http(action),
        "sleep" => {
            let seconds = action.child("seconds").number().unwrap_or(0);
            if let Some(grace) = grace
                && !(0..=grace).contains(&seconds)
            {
                action.invalid_as(
                    &seconds.into(),
                    &format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                    ),
                );
            }
        }
        _ => action.child("port").port_or_name(),
    }
}

fn http(action: &Field<'_, '_>) {
    action.child("path").present();
    action.child("port").port_or_name();
    let scheme = action.child("scheme");
    if !matches!(scheme.text(), "HTTP" | "HTTPS") {
        scheme.not_supported(&["HTTP", "HTTPS"]);
    }
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    for header in action.child("httpHeaders").items() {
        let name = header.child("name");
        if name.is_empty() || !name.text().bytes().all(letter) {
            action
                .child("httpHeaders")
                .invalid_as(name.value, HEADER_MESSAGE);
        }
    }
}
