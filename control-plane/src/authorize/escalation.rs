//! Nobody gives away more than he has: what writes of roles and bindings must prove.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Authorizer, Decision, policy::RoleName, rule::quoted_list};
use crate::{
    authorize::{Attributes, ResourceAttributes, Rule},
    caller::{Caller, MASTERS},
    kinds::{self, KindInfo, Verb},
    request::Call,
    status::ApiError,
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// A role that says more than this in single permissions is compared with nobody's.
const PARTS_MAX: usize = 100_000;

impl Authorizer {
    /// Refuses a role or binding that gives more than its writer has; `old` is present on update.
    pub(crate) fn confirm_grant(
        &self,
        call: &Call,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<(), ApiError> {
        let info = call.objects.info;
        if info.group != GROUP || call.caller.is_in(MASTERS) {
            return Ok(());
        }
        if old.is_some_and(|old| only_collects(old, new)) {
            return Ok(());
        }
        match info.kind {
            "Role" | "ClusterRole" => self.confirm_role(call, old, new),
            _ => self.confirm_binding(call, new),
        }
    }

    /// Refuses a write that creates the object it names, by one who may only change what is there.
    pub(crate) fn confirm_creation(&self, call: &Call) -> Result<(), ApiError> {
        let objects = &call.objects;
        let wanted = Attributes::Resource(ResourceAttributes {
            verb: Verb::Create.as_str().to_owned(),
            group: objects.info.group.to_owned(),
            version: objects.info.version.to_owned(),
            namespace: objects.namespace.clone().unwrap_or_default(),
            resource: objects.info.plural.to_owned(),
            subresource: String::new(),
            name: objects.name.clone().unwrap_or_default(),
            fields: Vec::new(),
        });
        self.check(&call.caller, &wanted)
    }

    fn confirm_role(&self, call: &Call, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        let same = |field: &str| old.is_some_and(|old| old[field] == new[field]);
        if same("rules") && same("aggregationRule") {
            return Ok(());
        }
        let objects = &call.objects;
        let escalate = ResourceAttributes {
            verb: "escalate".to_owned(),
            group: GROUP.to_owned(),
            version: objects.info.version.to_owned(),
            namespace: objects.namespace.clone().unwrap_or_default(),
            resource: objects.info.plural.to_owned(),
            subresource: String::new(),
            name: objects.name.clone().unwrap_or_default(),
            fields: Vec::new(),
        };
        if self.allows(&call.caller, escalate) {
            return Ok(());
        }
        let namespace = objects.namespace.as_deref().unwrap_or_default();
        self.confirm_rules(&call.caller, namespace, &Rule::of_role(new))
            .map_err(|why| refusal(objects.info, new, &why))?;
        if new["aggregationRule"].is_null() {
            return Ok(());
        }
        // Whatever matches an aggregated role is in it one day.
        self.confirm_rules(&call.caller, "", &everything())
            .map_err(|_| {
                let why = "must have cluster-admin privileges to use an aggregationRule";
                refusal(objects.info, new, why)
            })
    }

    fn confirm_binding(&self, call: &Call, new: &Value) -> Result<(), ApiError> {
        let objects = &call.objects;
        let namespace = objects.namespace.as_deref().unwrap_or_default();
        let text = |field: &str| new["roleRef"][field].as_str().unwrap_or_default();
        let (resource, role_namespace) = match text("kind") {
            "ClusterRole" => ("clusterroles", ""),
            "Role" => ("roles", namespace),
            // The validation says what is wrong with it.
            _ => return Ok(()),
        };
        let bind = ResourceAttributes {
            verb: "bind".to_owned(),
            group: text("apiGroup").to_owned(),
            version: objects.info.version.to_owned(),
            namespace: namespace.to_owned(),
            resource: resource.to_owned(),
            subresource: String::new(),
            name: text("name").to_owned(),
            fields: Vec::new(),
        };
        if self.allows(&call.caller, bind) {
            return Ok(());
        }
        let role = RoleName {
            namespace: role_namespace.into(),
            name: text("name").into(),
        };
        let rules = {
            let mut policy = self.policy.lock();
            policy.refresh();
            policy.role(&role).cloned()
        };
        let Some(rules) = rules else {
            let info = kinds::by_plural(GROUP, "v1", resource).expect("roles are in the table");
            return Err(ApiError::not_found(info, text("name")));
        };
        self.confirm_rules(&call.caller, namespace, &rules)
            .map_err(|why| refusal(objects.info, new, &why))
    }

    fn allows(&self, caller: &Caller, wanted: ResourceAttributes) -> bool {
        let wanted = Attributes::Resource(wanted);
        matches!(self.decide(caller, &wanted), Decision::Allowed(_))
    }

    /// Says what of these rules the caller does not hold.
    fn confirm_rules(
        &self,
        caller: &Caller,
        namespace: &str,
        rules: &[Rule],
    ) -> Result<(), String> {
        let held = self.rules(caller, namespace);
        let mut missing: Vec<Rule> = Vec::new();
        for (index, part) in rules.iter().flat_map(Rule::parts).enumerate() {
            if index >= PARTS_MAX {
                return Err("the rules are too many to be compared with those held".to_owned());
            }
            if !held.rules.iter().any(|rule| rule.covers(&part)) {
                add_compact(&mut missing, part);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let words: BTreeSet<_> = missing.iter().map(Rule::describe).collect();
        let words: Vec<_> = words.into_iter().collect();
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            caller.name,
            quoted_list(&caller.groups),
            words.join("\n")
        );
        if !held.missing.is_empty() {
            let errors = held.missing.join(" ");
            why = format!("{why}; resolution errors: [{errors}]");
        }
        Err(why)
    }
}

/// Adds a part; parts about one resource that differ in the verb are told together.
fn add_compact(missing: &mut Vec<Rule>, part: Rule) {
    let alike = missing.iter_mut().rev().find(|known| {
        part.paths.is_empty()
            && known.groups == part.groups
            && known.resources == part.resources
            && known.names == part.names
    });
    match alike {
        Some(known) => {
            for verb in part.verbs {
                if !known.verbs.contains(&verb) {
                    known.verbs.push(verb);
                }
            }
        }
        None => missing.push(part),
    }
}

fn refusal(info: &KindInfo, object: &Value, why: &str) -> ApiError {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    ApiError::forbidden(info.group, info.plural, name, why)
}

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    let resources = Rule {
        verbs: all(),
        groups: all(),
        resources: all(),
        ..Rule::default()
    };
    let paths = Rule {
        verbs: all(),
        paths: all(),
        ..Rule::default()
    };
    [resources, paths]
}

/// Says whether a change touches nothing but what garbage collection needs to touch.
fn only_collects(old: &Value, new: &Value) -> bool {
    let without = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for field in [
                "ownerReferences",
                "finalizers",
                "managedFields",
                "resourceVersion",
            ] {
                metadata.remove(field);
            }
        }
        object
    };
    without(old) == without(new)
}
