//! The checks of quotas and ranges of limits.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Field, elements,
    pod::resources::{Scope, amount_value, is_standard, may_overcommit, resource_name},
    qualified_faults, walk,
};
use crate::{invalid::Causes, quantity::Quantity};

const POD_SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
];

/// Scopes that cannot go together.
const OPPOSITES: &[[&str; 2]] = &[
    ["BestEffort", "NotBestEffort"],
    ["Terminating", "NotTerminating"],
];

/// Checks a quota; its scopes stay.
pub(crate) fn quota(object: &Value, old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        let spec = &root.child("spec");
        amounts(&spec.child("hard"));
        scopes(spec);
        selector(spec);
        let sorted = |scopes: &Value| {
            let scopes = elements(scopes).filter_map(Value::as_str);
            scopes.map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let scopes = spec.child("scopes");
        if old.is_some_and(|old| sorted(&old["spec"]["scopes"]) != sorted(scopes.value)) {
            scopes.invalid("field is immutable");
        }
    });
}

/// Checks a change of a quota's status.
pub(crate) fn quota_status(object: &Value, _old: &Value, causes: &mut Causes) {
    walk(object, causes, |root| {
        amounts(&root.child("status.hard"));
        amounts(&root.child("status.used"));
    });
}

fn amounts(list: &Field<'_, '_>) {
    for (name, amount) in list.entries() {
        resource_name(&amount, name, Scope::Any);
        let countable = name == "storage" || !is_standard(name);
        if !name.contains('/') && countable {
            let detail = "must be a standard resource for quota";
            amount.invalid_as(&Value::from(name), detail);
        }
        amount_value(&amount, name);
    }
}

fn scopes(spec: &Field<'_, '_>) {
    let list = spec.child("scopes");
    for scope in list.items() {
        if !POD_SCOPES.contains(&scope.text()) {
            list.invalid("unsupported scope");
        }
        if spec
            .child("hard")
            .entries()
            .any(|(name, _)| !fits(scope.text(), name))
        {
            list.invalid("unsupported scope applied to resource");
        }
    }
    let has = |wanted: &&str| list.items().any(|scope| scope.text() == *wanted);
    if OPPOSITES.iter().any(|pair| pair.iter().all(&has)) {
        list.invalid("conflicting scopes");
    }
}

/// Says whether a resource is one that pods of a scope use.
fn fits(scope: &str, name: &str) -> bool {
    if !is_standard(name) {
        return true;
    }
    match scope {
        "BestEffort" => name == "pods",
        _ => {
            matches!(
                name,
                "pods"
                    | "cpu"
                    | "memory"
                    | "ephemeral-storage"
                    | "requests.cpu"
                    | "requests.memory"
                    | "requests.ephemeral-storage"
                    | "limits.cpu"
                    | "limits.memory"
                    | "limits.ephemeral-storage"
            ) || name.starts_with("requests.hugepages-")
                || name.starts_with("hugepages-")
        }
    }
}

fn selector(spec: &Field<'_, '_>) {
    let selector = spec.child("scopeSelector");
    let list = &selector.child("matchExpressions");
    for requirement in list.items() {
        let [scope, operator, values] =
            ["scopeName", "operator", "values"].map(|field| requirement.child(field).value);
        let at = |field| list.child(field);
        let (scope_at, operator_at, values_at) = (at("scopeName"), at("operator"), at("values"));
        let name = scope.as_str().unwrap_or_default();
        if !POD_SCOPES.contains(&name) {
            scope_at.invalid_as(scope, "unsupported scope");
        }
        if spec
            .child("hard")
            .entries()
            .any(|(resource, _)| !fits(name, resource))
        {
            list.invalid_as(selector.value, "unsupported scope applied to resource");
        }
        if name != "PriorityClass" && POD_SCOPES.contains(&name) && operator != "Exists" {
            operator_at.invalid_as(
                operator,
                "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                 ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                 ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            );
        }
        let given = elements(values).next().is_some();
        match operator.as_str().unwrap_or_default() {
            "In" | "NotIn" if !given => values_at.required(
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "Exists" | "DoesNotExist" if given => values_at.invalid_as(
                values,
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => (),
            _ => operator_at.invalid_as(operator, "not a valid selector operator"),
        }
    }
}

/// Checks a range of limits.
pub(crate) fn limit_range(object: &Value, _old: Option<&Value>, causes: &mut Causes) {
    walk(object, causes, |root| {
        let mut kinds = Vec::new();
        for limit in root.child("spec.limits").items() {
            let kind = limit.child("type");
            limit_type(&kind);
            if kinds.contains(&kind.text()) {
                kind.duplicate();
            }
            kinds.push(kind.text());
            item(&limit, kind.text());
        }
    });
}

fn limit_type(kind: &Field<'_, '_>) {
    let faults = qualified_faults(kind.text());
    for fault in &faults {
        kind.invalid(fault);
    }
    let known = ["Pod", "Container", "PersistentVolumeClaim"];
    let plain = faults.is_empty() && !kind.text().contains('/');
    if plain && !known.contains(&kind.text()) {
        kind.invalid("must be a standard limit type or fully qualified");
    }
}

fn item(limit: &Field<'_, '_>, kind: &str) {
    let scope = match kind {
        "Pod" | "Container" => Scope::Container,
        _ => Scope::Any,
    };
    let mut names = BTreeSet::new();
    for list in [
        "max",
        "min",
        "default",
        "defaultRequest",
        "maxLimitRequestRatio",
    ] {
        let list_at = limit.child(list);
        if kind == "Pod" && list.starts_with("default") {
            if !list_at.is_empty() {
                list_at.forbidden("may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, amount) in list_at.entries() {
            resource_name(&amount, name, scope);
            names.insert(name);
        }
    }
    let storage = |list| limit.child(list).key("storage").is_set();
    if kind == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        limit.child("limits").required(
            "either minimum or maximum storage value is required, but neither was provided",
        );
    }
    names.iter().for_each(|name| order(limit, name));
}

/// The minimum, the defaults and the maximum of a resource come in this order.
fn order(limit: &Field<'_, '_>, name: &str) {
    const STEPS: &[(&str, &str, &str)] = &[
        ("min", "max", "min"),
        ("min", "defaultRequest", "defaultRequest"),
        ("defaultRequest", "max", "defaultRequest"),
        ("defaultRequest", "default", "defaultRequest"),
        ("min", "default", "default"),
        ("default", "max", "default"),
    ];
    let text = |list| limit.child(list).key(name).text();
    let amount = |list| Quantity::parse(text(list));
    let said = |list| match list {
        "defaultRequest" => "default request value",
        "default" => "default value",
        "min" => "min value",
        _ => "max value",
    };
    for (less, more, at) in STEPS {
        let (Some(low), Some(high)) = (amount(less), amount(more)) else {
            continue;
        };
        if low.exceeds(high) {
            let limit_word = if (*less, *more) == ("defaultRequest", "default") {
                "default limit value"
            } else {
                said(more)
            };
            let shown = if *at == "default" {
                if *less == "min" { less } else { more }
            } else {
                at
            };
            let list = limit.child(at);
            list.key(name).invalid_as(
                &Value::from(text(shown)),
                &format!(
                    "{} {} is greater than {limit_word} {}",
                    said(less),
                    text(less),
                    text(more)
                ),
            );
        }
    }
    let (default, request) = (amount("default"), amount("defaultRequest"));
    if let (false, Some(default), Some(request)) = (may_overcommit(name), default, request)
        && (default.exceeds(request) || request.exceeds(default))
    {
        let detail = format!(
            "default value {} must equal to defaultRequest value {} in {name}",
            text("default"),
            text("defaultRequest")
        );
        limit.child("defaultRequest").key(name).invalid(&detail);
    }
    ratio(limit, name);
}

fn ratio(limit: &Field<'_, '_>, name: &str) {
    let list = limit.child("maxLimitRequestRatio");
    let ratio = list.key(name);
    let Some(most) = ratio.quantity() else {
        return;
    };
    if most.milli() < 1000 {
        ratio.invalid(&format!("ratio {} is less than 1", ratio.text()));
    }
    let amount = |list| Quantity::parse(limit.child(list).key(name).text());
    if let (Some(min), Some(max)) = (amount("min"), amount("max"))
        && min.milli() > 0
    {
        let widest = max.milli() as f64 / min.milli() as f64;
        if most.milli() as f64 / 1000.0 > widest {
            let ratio_text = ratio.text();
            ratio.invalid(&format!(
                "ratio {ratio_text} is greater than max/min = {widest:.6}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(check: fn(&Value, Option<&Value>, &mut Causes), object: Value, expected: &[&str]) {
        let mut causes = Causes::default();
        check(&object, None, &mut causes);
        let found: Vec<_> = causes
            .into_vec()
            .iter()
            .map(|cause| cause.sentence())
            .collect();
        assert_eq!(found, expected, "{object}");
    }

    #[test]
    fn quotas_limit_what_is_counted() {
        let spec = |spec: Value| json!({"spec": spec});
        check(
            quota,
            spec(
                json!({"hard": {"pods": "1", "count/leases.coordination.k8s.io": "2",
            "requests.nvidia.com/gpu": "1", "limits.cpu": "1500m"}}),
            ),
            &[],
        );
        check(
            quota,
            spec(json!({"hard": {"pods": "1500m"}})),
            &["spec.hard[pods]: Invalid value: \"1500m\": must be an integer"],
        );
        check(
            quota,
            spec(json!({"hard": {"sheep": "1"}})),
            &[
                "spec.hard[sheep]: Invalid value: \"sheep\": must be a standard resource type or \
                 fully qualified",
                "spec.hard[sheep]: Invalid value: \"sheep\": must be a standard resource for quota",
            ],
        );
        check(
            quota,
            spec(json!({"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]})),
            &["spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes"],
        );
        check(
            quota,
            spec(json!({"hard": {"services": "1"}, "scopes": ["Terminating"]})),
            &[
                "spec.scopes: Invalid value: [\"Terminating\"]: unsupported scope applied to resource",
            ],
        );
    }

    #[test]
    fn limits_of_a_range_are_in_order() {
        let range = |limit: Value| json!({"spec": {"limits": [limit]}});
        check(
            limit_range,
            range(json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}})),
            &[
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value \
               1",
            ],
        );
        check(
            limit_range,
            range(json!({"type": "Pod", "default": {"cpu": "1"}})),
            &["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"],
        );
        check(
            limit_range,
            range(json!({"type": "Herd"})),
            &[
                "spec.limits[0].type: Invalid value: \"Herd\": must be a standard limit type or fully \
               qualified",
            ],
        );
    }
}
