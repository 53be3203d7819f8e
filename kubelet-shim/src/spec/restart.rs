//! `restartPolicy` and `restartPolicyRules` of a container (contract B.4).

use k8s_openapi::api::core::v1::{
    ContainerRestartRule, ContainerRestartRuleOnExitCodes as WireCodes,
};

use super::check::Field;
use super::{RestartPolicy, Role};

/// Most rules of one container, and most exit codes of one rule (the API's bounds).
const RULES_MAX: usize = 20;

/// Most exit codes of one rule (the API's bound).
const CODES_MAX: usize = 255;

/// What a container says about its own restarts; the pod decides where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    /// Goes before the pod's policy.
    pub policy: Option<RestartPolicy>,
    /// Go before both, the first that fits.
    pub rules: Vec<RestartRule>,
}

/// What follows when a container has ended with certain codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartRule {
    /// What follows.
    pub action: RestartAction,
    /// After which codes.
    pub codes: ExitCodes,
}

/// What a rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartAction {
    /// The container is started again.
    Restart,
    /// All containers of the pod are, from the first init container on.
    RestartAllContainers,
}

/// Exit codes that one rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitCodes {
    /// These.
    In(Vec<i32>),
    /// All but these.
    NotIn(Vec<i32>),
}

impl Restarts {
    /// Whether a container that ended with `code` is started again.
    pub(crate) fn decide(&self, pod: RestartPolicy, code: i32) -> bool {
        if self.rule_for(code).is_some() {
            return true;
        }
        match self.policy.unwrap_or(pod) {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        }
    }

    /// Whether an end with `code` starts all containers of the pod again.
    pub(crate) fn restart_all(&self, code: i32) -> bool {
        match self.rule_for(code) {
            Some(RestartAction::RestartAllContainers) => true,
            Some(RestartAction::Restart) | None => false,
        }
    }

    /// Whether some end starts all containers of the pod again.
    pub(crate) fn may_restart_all(&self) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| rule.action == RestartAction::RestartAllContainers)
    }

    fn rule_for(&self, code: i32) -> Option<RestartAction> {
        let rule = self.rules.iter().find(|rule| rule.codes.contain(code))?;
        Some(rule.action)
    }
}

impl ExitCodes {
    fn contain(&self, code: i32) -> bool {
        match self {
            ExitCodes::In(codes) => codes.contains(&code),
            ExitCodes::NotIn(codes) => !codes.contains(&code),
        }
    }
}

/// Returns what the container is to the pod, and its own restarts.
pub(super) fn convert(
    role: Role,
    policy: Option<&str>,
    rules: &[ContainerRestartRule],
    at: &Field<'_>,
) -> (Role, Restarts) {
    let own = match policy {
        None | Some("") => None,
        Some("Always") => Some(RestartPolicy::Always),
        Some("OnFailure") => Some(RestartPolicy::OnFailure),
        Some("Never") => Some(RestartPolicy::Never),
        Some(other) => {
            at.field("restartPolicy")
                .refuse(format!("has the unknown value `{other}`"));
            None
        }
    };
    if own.is_none() && !rules.is_empty() {
        at.field("restartPolicy")
            .refuse("must be set when restart rules are used");
    }
    let at = at.field("restartPolicyRules");
    if rules.len() > RULES_MAX {
        at.refuse(format!("has more than {RULES_MAX} entries"));
        return (role, Restarts::default());
    }
    let rules = rules.iter().enumerate();
    let rules = rules.filter_map(|(index, rule)| convert_rule(rule, &at.index(index)));
    let restarts = Restarts {
        policy: own,
        rules: rules.collect(),
    };
    match (role, own) {
        (Role::Init, Some(RestartPolicy::Always)) => (Role::Sidecar, restarts),
        (Role::Init | Role::Sidecar | Role::App | Role::Ephemeral, _) => (role, restarts),
    }
}

fn convert_rule(rule: &ContainerRestartRule, at: &Field<'_>) -> Option<RestartRule> {
    let ContainerRestartRule { action, exit_codes } = rule;
    let action = match action.as_str() {
        "Restart" => Some(RestartAction::Restart),
        "RestartAllContainers" => Some(RestartAction::RestartAllContainers),
        other => {
            at.field("action")
                .refuse(format!("has the unknown value `{other}`"));
            None
        }
    };
    let at = at.field("exitCodes");
    let Some(WireCodes { operator, values }) = exit_codes else {
        at.refuse("is missing");
        return None;
    };
    let codes = values.clone().unwrap_or_default();
    if codes.len() > CODES_MAX {
        at.field("values")
            .refuse(format!("has more than {CODES_MAX} entries"));
    }
    let codes = match operator.as_str() {
        "In" => ExitCodes::In(codes),
        "NotIn" => ExitCodes::NotIn(codes),
        other => {
            at.field("operator")
                .refuse(format!("has the unknown value `{other}`"));
            return None;
        }
    };
    Some(RestartRule {
        action: action?,
        codes,
    })
}
