//! The checks of kinds that need few.

use serde_json::Value;

use super::{
    Field, NameRule, node,
    pod::resources::{Scope, amount_value, resource_name},
    walk,
};
use crate::invalid::Causes;

/// The highest priority that is not kept for the system.
const PRIORITY_MAX: i64 = 1_000_000_000;

/// The priority classes of the system: name, value and what they are for.
pub(crate) const SYSTEM_PRIORITIES: &[(&str, i64, &str)] = &[
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another \
         node if necessary.",
    ),
];

/// Checks a lease.
pub(crate) fn lease(object: &Value, _old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        let spec = root.child("spec");
        let duration = spec.child("leaseDurationSeconds");
        if duration.number().is_some_and(|seconds| seconds <= 0) {
            duration.invalid("must be greater than 0");
        }
        spec.child("leaseTransitions").not_negative();
        let holder = spec.child("preferredHolder");
        if !holder.is_empty() && spec.child("strategy").is_empty() {
            holder.forbidden("may only be specified when `strategy` is defined");
        }
    });
}

/// Checks a namespace.
pub(crate) fn namespace(object: &Value, _old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        for finalizer in root.child("spec.finalizers").items() {
            let said_at = root.child("spec.finalizers");
            let said_at = said_at.with(finalizer.value);
            super::finalizer(&said_at);
            super::plain_finalizer(&said_at);
        }
    });
}

/// Checks a change of a namespace's status.
pub(crate) fn namespace_status(object: &Value, _old: &Value, causes: &mut Causes) {
    walk(object, causes, |root| {
        // The stock server names the place this way.
        let phase = root.child("status.phase");
        let at = root.child("status.Phase");
        let (wanted, condition) = match root.child("metadata.deletionTimestamp").is_set() {
            false => ("Active", "is empty"),
            true => ("Terminating", "is not empty"),
        };
        if phase.text() != wanted {
            let detail = format!("may only be '{wanted}' if `deletionTimestamp` {condition}");
            at.invalid_as(&Value::from(phase.text()), &detail);
        }
    });
}

/// Checks a priority class; its value and its policy stay.
pub(crate) fn priority_class(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        let (value, policy) = (root.child("value"), root.child("preemptionPolicy"));
        if let Some(old) = old {
            if value.number().unwrap_or(0) != old["value"].as_i64().unwrap_or(0) {
                value.forbidden("may not be changed in an update.");
            }
            return policy.unchanged(&old["preemptionPolicy"]);
        }
        let name = root.child("metadata.name");
        if name.text().starts_with("system-") {
            if let Err(why) = is_system_priority(root, name.text()) {
                name.forbidden(&format!(
                    "priority class names with 'system-' prefix are reserved for system use only. \
                     error: {why}"
                ));
            }
        } else if value.number().is_some_and(|value| value > PRIORITY_MAX) {
            value.forbidden(&format!(
                "maximum allowed value of a user defined priority is {PRIORITY_MAX}"
            ));
        }
        policy.one_of_if_set(&["PreemptLowerPriority", "Never"]);
    });
}

fn is_system_priority(root: &Field<'_, '_>, name: &str) -> Result<(), String> {
    let known = SYSTEM_PRIORITIES.iter().find(|(known, ..)| *known == name);
    let Some((_, value, _)) = known else {
        return Err(format!("{name} is not a known system priority class"));
    };
    if root.child("value").number() != Some(*value) {
        return Err(format!("value of {name} PriorityClass must be {value}"));
    }
    if root.child("globalDefault").is_true() {
        return Err(format!(
            "globalDefault of {name} PriorityClass must be false"
        ));
    }
    Ok(())
}

/// Checks a runtime class; its handler stays.
pub(crate) fn runtime_class(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        let handler = root.child("handler");
        if let Some(old) = old {
            return handler.unchanged(&old["handler"]);
        }
        handler
            .with(&Value::from(handler.text()))
            .name(NameRule::Label);
        let limits = root.child("overhead.limits");
        for (name, amount) in root.child("overhead.podFixed").entries() {
            let at = limits.key(name).with(amount.value);
            resource_name(&at, name, Scope::Container);
            amount_value(&at, name);
        }
        root.child("scheduling.nodeSelector").labels();
        node::tolerations(&root.child("scheduling.tolerations"));
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(
        check: fn(&Value, Option<&Value>, &mut Causes),
        object: Value,
        old: Option<Value>,
        expected: &[&str],
    ) {
        let mut causes = Causes::default();
        check(&object, old.as_ref(), &mut causes);
        let found: Vec<_> = causes
            .into_vec()
            .iter()
            .map(|cause| cause.sentence())
            .collect();
        assert_eq!(found, expected, "{object}");
    }

    #[test]
    fn system_priorities_are_reserved() {
        let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
        check(priority_class, class("low", -5), None, &[]);
        check(
            priority_class,
            class("system-node-critical", 2_000_001_000),
            None,
            &[],
        );
        check(
            priority_class,
            class("high", 1_000_000_001),
            None,
            &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
        );
        check(
            priority_class,
            class("system-mine", 1),
            None,
            &[
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved \
               for system use only. error: system-mine is not a known system priority class",
            ],
        );
        check(
            priority_class,
            class("low", 1),
            Some(class("low", 2)),
            &["value: Forbidden: may not be changed in an update."],
        );
    }

    #[test]
    fn a_handler_stays() {
        check(
            runtime_class,
            json!({"handler": "b"}),
            Some(json!({"handler": "a"})),
            &["handler: Invalid value: \"b\": field is immutable"],
        );
        check(
            runtime_class,
            json!({"handler": "a.b"}),
            None,
            &["handler: Invalid value: \"a.b\": must not contain dots"],
        );
    }
}
