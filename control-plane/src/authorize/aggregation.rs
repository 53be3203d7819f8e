//! Roles that are put together from other roles, by their labels.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams},
    runtime::watcher,
};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::changes::changes;

/// The name under which gathered rules are owned: the stock controller's.
const MANAGER: &str = "clusterrole-aggregation-controller";

/// How long a failed attempt rests.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps aggregated roles up to date until it is stopped.
pub(crate) async fn gather_roles(client: kube::Client, stop: CancellationToken) {
    // As they come: a role with something unknown in it can still be gathered.
    let kind = ApiResource::erase::<ClusterRole>(&());
    let all = watcher::Config::default();
    let mut events = changes::<DynamicObject>(client.clone(), &kind, all);
    let roles: Api<DynamicObject> = Api::all_with(client, &kind);
    let mut retry = None;
    loop {
        let again = async {
            match retry.take() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Cancel-safe: an event only says that something has changed.
            event = events.next() => if event.is_none() { return },
            () = again => (),
            () = stop.cancelled() => return,
        }
        // One look is enough for everything that has happened until now.
        while let Some(Some(_)) = events.next().now_or_never() {}
        if let Err(error) = gather(&roles).await {
            tracing::debug!(%error, "roles could not be gathered");
            retry = Some(RETRY);
        }
    }
}

async fn gather(roles: &Api<DynamicObject>) -> kube::Result<()> {
    let list = roles.list(&ListParams::default()).await?;
    let to_json = |role: &DynamicObject| {
        serde_json::to_value(role).expect("a role that was read can be written")
    };
    let all: Vec<Value> = list.items.iter().map(to_json).collect();
    for role in all.iter().filter(|role| aggregates(role)) {
        let rules = Value::Array(aggregate(role, all.iter()));
        let empty = rules == json!([]) && role["rules"].is_null();
        if rules == role["rules"] || empty {
            continue;
        }
        let metadata = &role["metadata"];
        let patch = json!({
            "metadata": {"resourceVersion": metadata["resourceVersion"]},
            "rules": rules,
        });
        let name = metadata["name"].as_str().unwrap_or_default();
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        roles.patch(name, &params, &Patch::Merge(&patch)).await?;
    }
    Ok(())
}

/// Returns the selectors by which a cluster role gathers the rules of others.
fn selectors(role: &Value) -> &[Value] {
    let selectors = &role["aggregationRule"]["clusterRoleSelectors"];
    selectors.as_array().map_or(&[], Vec::as_slice)
}

/// Says whether a cluster role is put together from others.
pub(super) fn aggregates(role: &Value) -> bool {
    !selectors(role).is_empty()
}

/// Returns the rules that an aggregated role shall have: those of all that match, each once.
///
/// `others` are all cluster roles in the order of their names.
pub(super) fn aggregate<'a>(role: &Value, others: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let name = &role["metadata"]["name"];
    let empty = Map::new();
    let mut rules: Vec<Value> = Vec::new();
    for other in others.filter(|other| other["metadata"]["name"] != *name) {
        let labels = other["metadata"]["labels"].as_object().unwrap_or(&empty);
        if !selectors(role)
            .iter()
            .any(|selector| matches(selector, labels))
        {
            continue;
        }
        for rule in other["rules"].as_array().into_iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

fn matches(selector: &Value, labels: &Map<String, Value>) -> bool {
    let wanted = selector["matchLabels"].as_object();
    let equal = wanted
        .into_iter()
        .flatten()
        .all(|(key, value)| labels.get(key) == Some(value));
    let terms = selector["matchExpressions"].as_array();
    let told = terms
        .into_iter()
        .flatten()
        .all(|term| expression(term, labels));
    equal && told
}

fn expression(term: &Value, labels: &Map<String, Value>) -> bool {
    let label = labels.get(term["key"].as_str().unwrap_or_default());
    let values = term["values"].as_array().map_or(&[][..], Vec::as_slice);
    let listed = label.is_some_and(|label| values.contains(label));
    match term["operator"].as_str() {
        Some("In") => listed,
        Some("NotIn") => !listed,
        Some("Exists") => label.is_some(),
        Some("DoesNotExist") => label.is_none(),
        // The validation lets nothing else in.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_role_gathers_the_rules_of_all_that_match_but_not_its_own() {
        let role = |name: &str, label: &str, verb: &str| {
            json!({"metadata": {"name": name, "labels": {"to": label}},
                "rules": [{"verbs": [verb]}]})
        };
        let roles = [
            role("a", "view", "get"),
            role("b", "edit", "update"),
            role("c", "view", "list"),
            role("d", "view", "get"),
            role("view", "view", "delete"),
        ];
        let check = |selector: Value, expected: Value| {
            let role = json!({"metadata": {"name": "view"},
                "aggregationRule": {"clusterRoleSelectors": [selector]}});
            assert!(aggregates(&role));
            assert_eq!(json!(aggregate(&role, roles.iter())), expected);
        };
        check(
            json!({"matchLabels": {"to": "view"}}),
            json!([{"verbs": ["get"]}, {"verbs": ["list"]}]),
        );
        check(
            json!({"matchExpressions": [{"key": "to", "operator": "NotIn", "values": ["view"]}]}),
            json!([{"verbs": ["update"]}]),
        );
        check(json!({"matchLabels": {"to": "none"}}), json!([]));
    }
}
