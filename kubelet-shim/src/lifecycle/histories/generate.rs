//! Histories at random: what a pod is made of, and what happens to it.

use proptest::prelude::*;

use super::*;

pub(super) fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => (any::<prop::sample::Index>(), prop::bool::weighted(0.85))
            .prop_map(|(i, well)| Happening::Settle { pick: i.index(64), well }),
        4 => (0usize..8, prop_oneof![Just(0), Just(1), Just(137)])
            .prop_map(|(pick, code)| Happening::Exit { pick, code }),
        4 => (0usize..8, kind(), prop::bool::weighted(0.7), prop::bool::weighted(0.1))
            .prop_map(|(pick, kind, well, late)| Happening::Probe { pick, kind, well, late }),
        3 => (0u64..700).prop_map(Happening::Wait),
        4 => Just(Happening::Sleep),
        1 => (0u64..40).prop_map(Happening::Delete),
        1 => Just(Happening::Vanish),
        1 => (0u64..5).prop_map(Happening::Shutdown),
        1 => Just(Happening::Evict),
        3 => (0usize..8).prop_map(Happening::Edit),
        2 => (0usize..8, 1u64..4, 1u64..4)
            .prop_map(|(pick, cpu, memory)| Happening::Resize { pick, cpu, memory }),
        2 => Just(Happening::LookAround),
        1 => (1u64..400).prop_map(Happening::Shorten),
    ]
}

pub(super) fn kind() -> impl Strategy<Value = ProbeKind> {
    prop::sample::select(ProbeKind::ALL.to_vec())
}

pub(super) fn spec() -> impl Strategy<Value = PodSpecPlan> {
    let role = prop_oneof![Just("init"), Just("sidecar"), Just("app"), Just("app")];
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    (
        prop::collection::vec((role, any::<[bool; 5]>(), own_restarts()), 1..5),
        policy,
        prop::option::weighted(0.2, 1u64..400),
    )
        .prop_map(|(containers, policy, deadline)| {
            let own: Vec<Restarts> = containers.iter().map(|(_, _, own)| own.clone()).collect();
            let containers: Vec<(&str, Vec<&str>)> = containers
                .into_iter()
                .map(|(role, wanted, _)| (role, care_of(role, wanted)))
                .collect();
            let mut plan = plan_with(&containers, policy, deadline);
            let places = plan.containers.iter_mut().enumerate();
            for ((index, container), own) in places.zip(own) {
                // Every other one cannot follow a change of memory as it runs.
                if index % 2 == 1 {
                    container.resize.memory = OnResize::Restart;
                }
                let policy = match container.role {
                    Role::Sidecar => Some(RestartPolicy::Always),
                    Role::Init | Role::App | Role::Ephemeral => own.policy,
                };
                container.restarts = Restarts { policy, ..own };
            }
            plan
        })
}

pub(super) fn own_restarts() -> impl Strategy<Value = Restarts> {
    use RestartPolicy::{Always, Never, OnFailure};
    let policy = prop::sample::select(vec![Always, OnFailure, Never]);
    let codes = prop_oneof![
        Just(ExitCodes::In(vec![1, 137])),
        Just(ExitCodes::NotIn(vec![0])),
        Just(ExitCodes::In(vec![0])),
    ];
    let action = prop_oneof![
        Just(RestartAction::Restart),
        Just(RestartAction::RestartAllContainers),
    ];
    let rule = (action, codes).prop_map(|(action, codes)| RestartRule { action, codes });
    let rules = prop::collection::vec(rule, 0..3);
    prop::option::weighted(0.3, (policy, rules)).prop_map(|own| match own {
        Some((policy, rules)) => Restarts {
            policy: Some(policy),
            rules,
        },
        None => Restarts::default(),
    })
}

/// The probes and hooks a container may have.
pub(super) const CARE: [&str; 5] = [
    "startupProbe",
    "readinessProbe",
    "livenessProbe",
    "postStart",
    "preStop",
];

pub(super) fn care_of(role: &str, wanted: [bool; 5]) -> Vec<&'static str> {
    let pairs = CARE.into_iter().zip(wanted);
    pairs
        .filter(|(_, wanted)| *wanted && role != "init")
        .map(|(name, _)| name)
        .collect()
}

pub(super) fn plan_of(roles: &[&str], policy: &str, deadline: Option<u64>) -> PodSpecPlan {
    let containers: Vec<_> = roles.iter().map(|role| (*role, Vec::new())).collect();
    plan_with(&containers, policy, deadline)
}

pub(super) fn plan_with(
    containers: &[(&str, Vec<&str>)],
    policy: &str,
    deadline: Option<u64>,
) -> PodSpecPlan {
    let mut inits = Vec::new();
    let mut apps = Vec::new();
    for (index, (role, care)) in containers.iter().enumerate() {
        let mut container = serde_json::json!({"name": format!("c{index}"), "image": "i"});
        for name in care {
            let action = serde_json::json!({"httpGet": {"port": 80}});
            match *name {
                "postStart" | "preStop" => container["lifecycle"][name] = action,
                _ => container[name] = action,
            }
        }
        match *role {
            "init" => inits.push(container),
            "sidecar" => {
                container["restartPolicy"] = "Always".into();
                inits.push(container);
            }
            _ => apps.push(container),
        }
    }
    if apps.is_empty() {
        apps.push(serde_json::json!({"name": "app", "image": "i"}));
    }
    let pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {
            "initContainers": inits, "containers": apps, "restartPolicy": policy,
            "activeDeadlineSeconds": deadline,
        },
    }))
    .unwrap();
    check_pod(&pod, HostPathPolicy::Refuse).unwrap()
}
