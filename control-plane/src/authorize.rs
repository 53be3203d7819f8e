//! Who may do what: role-based rules, what nodes may do, and acting as someone else.
//!
//! [`Authorizer::decide`] is the one place that allows; everybody else asks it, also the reviews
//! that clients create to know beforehand.

mod aggregation;
mod attributes;
mod bootstrap;
mod escalation;
mod impersonate;
mod node;
mod policy;
mod rule;

use parking_lot::Mutex;

use policy::{Held, Policy};

pub(crate) use aggregation::gather_roles;
pub(crate) use attributes::{Attributes, ResourceAttributes};
pub(crate) use bootstrap::{bootstrap, reconcile};
pub(crate) use impersonate::{account_caller, impersonate};
pub(crate) use node::{admit, admit_part, admit_token};
pub(crate) use rule::Rule;

use crate::{
    caller::{Caller, MASTERS},
    object::ObjectStore,
    status::ApiError,
};

/// Decides about requests by what is in the store.
#[derive(Debug)]
pub(crate) struct Authorizer {
    store: ObjectStore,
    policy: Mutex<Policy>,
}

/// What is decided about a request, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed(String),
    /// Nothing allows it.
    Refused(String),
}

/// The rules that a caller holds, and which roles could not be found.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldRules {
    pub(crate) rules: Vec<Rule>,
    pub(crate) missing: Vec<String>,
}

impl Authorizer {
    pub(crate) fn new(store: ObjectStore) -> Authorizer {
        let policy = Mutex::new(Policy::new(store.clone()));
        Authorizer { store, policy }
    }

    /// Refuses what the caller may not do.
    pub(crate) fn check(&self, caller: &Caller, wanted: &Attributes) -> Result<(), ApiError> {
        match self.decide(caller, wanted) {
            Decision::Allowed(_) => Ok(()),
            Decision::Refused(why) => Err(wanted.forbidden(caller, &why)),
        }
    }

    /// Decides whether the caller may do this.
    pub(crate) fn decide(&self, caller: &Caller, wanted: &Attributes) -> Decision {
        if caller.is_in(MASTERS) {
            return Decision::Allowed(String::new());
        }
        let mut reasons = Vec::new();
        match node::decide(&self.store, caller, wanted) {
            Some(Decision::Refused(why)) => reasons.extend(Some(why).filter(|why| !why.is_empty())),
            Some(allowed @ Decision::Allowed(_)) => return allowed,
            None => (),
        }
        let mut allowed = None;
        let mut missing = Vec::new();
        let mut policy = self.policy.lock();
        policy.refresh();
        policy.visit(caller, wanted.namespace(), |held| {
            match held {
                Held::Rule(rule, grant) if rule.permits(wanted) => {
                    allowed = Some(format!("RBAC: allowed by {grant}"));
                }
                Held::Rule(..) => (),
                Held::Missing(role) => note(&mut missing, role.to_string()),
            }
            allowed.is_none()
        });
        if let Some(why) = allowed {
            return Decision::Allowed(why);
        }
        match missing.as_slice() {
            [] => (),
            [one] => reasons.push(format!("RBAC: {one}")),
            many => reasons.push(format!("RBAC: [{}]", many.join(", "))),
        }
        Decision::Refused(reasons.join("\n"))
    }

    /// Returns every rule that a caller holds in a namespace.
    pub(crate) fn rules(&self, caller: &Caller, namespace: &str) -> HeldRules {
        let mut held_rules = HeldRules::default();
        let mut policy = self.policy.lock();
        policy.refresh();
        policy.visit(caller, namespace, |held| {
            match held {
                Held::Rule(rule, _) => held_rules.rules.push(rule.clone()),
                Held::Missing(role) => note(&mut held_rules.missing, role.to_string()),
            }
            true
        });
        held_rules
    }
}

/// Adds a reason that is not known yet.
fn note(reasons: &mut Vec<String>, reason: String) {
    if !reasons.contains(&reason) {
        reasons.push(reason);
    }
}
