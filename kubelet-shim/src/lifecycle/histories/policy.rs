//! Who is started again after which end, and when, as tables.

use super::*;

/// The policy that the planner follows, as a table.
#[test]
fn who_is_restarted() {
    let check = |policy, role, code, completed, expected| {
        let spec = plan_of(&[role, "app"], "Always", None);
        let container = &spec.containers[0];
        let found = may_restart(policy, container, &termination(code), completed);
        assert_eq!(found, expected, "{policy:?} {role} {code} {completed}");
    };
    use RestartPolicy::{Always, Never, OnFailure};
    for (policy, after_good, after_bad) in [
        (Always, true, true),
        (OnFailure, false, true),
        (Never, false, false),
    ] {
        check(policy, "app", 0, false, after_good);
        check(policy, "app", 1, false, after_bad);
        check(policy, "sidecar", 0, false, true);
        check(policy, "sidecar", 1, false, true);
        check(policy, "init", 0, true, false);
    }
    check(Always, "init", 1, false, true);
    check(OnFailure, "init", 1, false, true);
    check(Never, "init", 1, false, false);
}

/// A container's own policy goes before the pod's, and the first of its rules that fits before both.
#[test]
fn a_containers_own_word_on_restarts_goes_before_the_pods() {
    let check = |pod: &str, own: serde_json::Value, code, expected| {
        let mut container = own.clone();
        container["name"] = "c".into();
        container["image"] = "i".into();
        let wire = serde_json::json!({"metadata": {"name": "p"}, "spec": {
            "restartPolicy": pod, "containers": [container]}});
        let wire = serde_json::from_value(wire).unwrap();
        let spec = check_pod(&wire, HostPathPolicy::Refuse).unwrap();
        let policy = spec.restart_policy;
        let found = may_restart(policy, &spec.containers[0], &termination(code), false);
        assert_eq!(found, expected, "{pod} {own} {code}");
    };
    let policy = |policy: &str| serde_json::json!({"restartPolicy": policy});
    check("Never", policy("Always"), 0, true);
    check("Never", policy("OnFailure"), 0, false);
    check("Never", policy("OnFailure"), 1, true);
    check("Always", policy("Never"), 1, false);
    let rules = |operator: &str| {
        serde_json::json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": operator, "values": [42, 43]}}]})
    };
    check("Always", rules("In"), 42, true);
    check("Always", rules("In"), 43, true);
    check("Always", rules("In"), 1, false);
    check("Never", rules("NotIn"), 42, false);
    check("Never", rules("NotIn"), 1, true);
}

#[test]
fn restarts_wait_as_the_contract_says() {
    let (found, _) = waits("Always", 1, 9);
    assert_eq!(found, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    let (found, _) = waits("Always", 0, 3);
    assert_eq!(found, [0, 10, 20], "also after a good end");
    let (found, _) = waits("OnFailure", 1, 3);
    assert_eq!(found, [0, 10, 20]);
    assert!(waits("OnFailure", 0, 1).0.is_empty());
    assert!(waits("Never", 1, 1).0.is_empty());
}
