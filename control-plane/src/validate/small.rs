//! The checks of kinds that need few.

use serde_json::Value;

use crate::invalid::Causes;

/// Checks an event: it lives where the object it is about lives.
pub(crate) fn event(object: &Value, _old: Option<&Value>, causes: &mut Causes) {
    let text = |pointer| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (own, involved) = (
        text("/metadata/namespace"),
        text("/involvedObject/namespace"),
    );
    // Events about objects without a namespace live in `default`.
    let fits = own == involved || (involved.is_empty() && own == "default");
    if !own.is_empty() && !fits {
        let value = &object["involvedObject"]["namespace"];
        causes.invalid(
            "involvedObject.namespace",
            value,
            "does not match event.namespace",
        );
    }
}

/// Checks a lease.
pub(crate) fn lease(object: &Value, _old: Option<&Value>, causes: &mut Causes) {
    let spec = &object["spec"];
    if spec["leaseDurationSeconds"]
        .as_i64()
        .is_some_and(|seconds| seconds <= 0)
    {
        let value = &spec["leaseDurationSeconds"];
        causes.invalid("spec.leaseDurationSeconds", value, "must be greater than 0");
    }
    if spec["leaseTransitions"]
        .as_i64()
        .is_some_and(|count| count < 0)
    {
        let value = &spec["leaseTransitions"];
        causes.invalid(
            "spec.leaseTransitions",
            value,
            "must be greater than or equal to 0",
        );
    }
}

/// Checks a node: its taints.
pub(crate) fn node(object: &Value, _old: Option<&Value>, causes: &mut Causes) {
    for (index, taint) in super::elements(&object["spec"]["taints"]).enumerate() {
        let field = |name: &str| format!("spec.taints[{index}].{name}");
        if !taint["key"].as_str().is_some_and(super::is_label_key) {
            causes.invalid(field("key"), &taint["key"], super::QUALIFIED_MESSAGE);
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !taint["effect"]
            .as_str()
            .is_some_and(|effect| effects.contains(&effect))
        {
            causes.not_supported(field("effect"), &taint["effect"], &effects);
        }
    }
}
