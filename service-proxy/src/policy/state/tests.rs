use std::net::IpAddr;
use std::time::Duration;

use coracle_network::{Fabric, FabricConfig, PublishPlan};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::*;

fn key(name: &str) -> Key {
    ("shop".to_owned(), name.to_owned())
}

fn policy(spec: Value) -> Policy {
    let policy = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
    let policy: NetworkPolicy = serde_json::from_value(policy).expect("a policy");
    Policy::read(&policy).expect("it is read").0
}

fn pod(name: &str, last: u8, app: &str) -> PodFacts {
    PodFacts {
        namespace: "shop".to_owned(),
        uid: name.to_owned(),
        labels: Labels::from([("app".to_owned(), app.to_owned())]),
        node: Some("here".to_owned()),
        ips: vec![IpAddr::from([10, 244, 0, last])],
        ports: Vec::new(),
    }
}

fn state() -> (State, Arc<PolicyTable>) {
    let config = FabricConfig {
        publish: PublishPlan::Nowhere,
        ..FabricConfig::default()
    };
    let fabric = Fabric::new(config).expect("the default layout is valid");
    let table = Arc::clone(fabric.policies());
    let known = watch::channel(false).0;
    let state = State::new(Arc::clone(&table), Some("here".to_owned()), known);
    (state, table)
}

fn selected(table: &PolicyTable) -> Vec<String> {
    let mut selected = table.selected();
    selected.sort();
    selected
}

/// A state in which pods and namespaces are known as soon as they have to be.
fn known(pods: &[PodFacts]) -> (State, Arc<PolicyTable>) {
    let (mut state, table) = state();
    state.policy(Change::Applied(key("web"), of_web()));
    state.namespace(Change::Complete);
    for pod in pods {
        state.pod(Change::Listed(key(&pod.uid), pod.clone()));
    }
    state.pod(Change::Complete);
    assert!(state.is_stale());
    state.compile();
    (state, table)
}

fn of_web() -> Policy {
    policy(json!({"podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]}))
}

#[test]
fn pods_need_to_be_known_only_while_there_is_a_policy() {
    let (mut state, table) = state();
    state.policy(Change::Begins);
    state.policy(Change::Complete);
    assert!(!state.needs_pods());
    state.policy(Change::Applied(key("web"), of_web()));
    assert!(state.needs_pods() && !state.is_stale());
    state.pod(Change::Applied(key("w"), pod("w", 2, "web")));
    assert!(!state.is_stale(), "the list is not complete");
    state.namespace(Change::Complete);
    state.pod(Change::Begins);
    state.pod(Change::Listed(key("w"), pod("w", 2, "web")));
    state.pod(Change::Complete);
    assert!(state.is_stale());
    state.compile();
    assert_eq!(selected(&table), ["w"]);
    state.policy(Change::Gone(key("web")));
    assert!(!state.needs_pods() && state.is_stale());
    state.compile();
    assert_eq!(selected(&table), [""; 0]);
    assert!(!state.is_stale());
}

#[test]
fn a_pod_that_comes_changes_or_goes_has_the_rules_it_should() {
    let (mut state, table) = known(&[pod("w", 2, "web")]);
    state.pod(Change::Applied(key("x"), pod("x", 3, "web")));
    assert_eq!(selected(&table), ["w", "x"]);
    state.pod(Change::Applied(key("x"), pod("x", 3, "db")));
    assert_eq!(selected(&table), ["w"]);
    state.pod(Change::Gone(key("w")));
    assert_eq!(selected(&table), [""; 0]);
    let mut elsewhere = pod("y", 4, "web");
    elsewhere.node = Some("there".to_owned());
    state.pod(Change::Applied(key("y"), elsewhere));
    assert_eq!(selected(&table), [""; 0]);
    // A pod of a stateful set comes back under its name, as another one.
    state.pod(Change::Applied(key("s"), pod("s1", 5, "web")));
    state.pod(Change::Applied(key("s"), pod("s2", 6, "web")));
    assert_eq!(selected(&table), ["s2"]);
    assert!(!state.is_stale(), "one pod compiles nothing anew");
}

#[test]
fn a_pod_that_vanished_while_nobody_watched_is_forgotten() {
    let (mut state, table) = known(&[pod("w", 2, "web"), pod("x", 3, "web")]);
    assert_eq!(selected(&table), ["w", "x"]);
    state.pod(Change::Begins);
    state.pod(Change::Listed(key("x"), pod("x", 3, "web")));
    state.pod(Change::Complete);
    state.compile();
    assert_eq!(selected(&table), ["x"]);
}

#[test]
fn peers_follow_pods_without_compiling() {
    let (mut state, _) = known(&[pod("w", 2, "web")]);
    let means = |state: &State, last| {
        let rules = state.world.rules_of(&pod("w", 2, "web")).expect("selected");
        let rule = &rules.ingress.expect("it says")[0];
        let coracle_network::Peers::Any { sets, .. } = &rule.peers else {
            panic!("it names peers");
        };
        sets[0].contains(IpAddr::from([10, 244, 0, last]))
    };
    state.pod(Change::Applied(key("c"), pod("c", 7, "client")));
    assert!(means(&state, 7));
    state.pod(Change::Applied(key("c"), pod("c", 8, "client")));
    assert!(!means(&state, 7) && means(&state, 8));
    state.pod(Change::Applied(key("c"), pod("c", 8, "other")));
    assert!(!means(&state, 8));
}

#[test]
fn labels_of_a_namespace_that_stay_the_same_compile_nothing() {
    let (mut state, _) = known(&[]);
    let team = |name: &str| Labels::from([("team".to_owned(), name.to_owned())]);
    let applied = |team| Change::Applied("shop".to_owned(), team);
    state.namespace(applied(team("a")));
    assert!(state.is_stale());
    state.compile();
    state.namespace(applied(team("a")));
    assert!(!state.is_stale());
    state.namespace(applied(team("b")));
    assert!(state.is_stale());
}

#[test]
fn following_pods_one_by_one_ends_where_compiling_all_does() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut state, table) = known(&[]);
    for _ in 0..2000 {
        let name = format!("p{}", random.random_range(0..12));
        if random.random_range(0..4) == 0 {
            state.pod(Change::Gone(key(&name)));
            continue;
        }
        let app = ["web", "client", "db"][random.random_range(0..3)];
        let uid = format!("{name}-{}", random.random_range(0..3));
        let pod = pod(&uid, random.random_range(2..9), app);
        state.pod(Change::Applied(key(&name), pod));
    }
    let addresses = |state: &State| {
        let rules = state.world.rules_of(&pod("w", 2, "web")).expect("selected");
        let rule = &rules.ingress.expect("it says")[0];
        let coracle_network::Peers::Any { sets, .. } = &rule.peers else {
            panic!("it names peers");
        };
        let all = (0..16).map(|last| IpAddr::from([10, 244, 0, last]));
        all.filter(|ip| sets[0].contains(*ip)).collect::<Vec<_>>()
    };
    let (one_by_one, peers) = (selected(&table), addresses(&state));
    state.compile();
    assert_eq!(one_by_one, selected(&table));
    assert_eq!(peers, addresses(&state));
}

/// Its first connection would be judged by the policies of before.
#[tokio::test]
async fn a_pod_starts_when_the_policies_of_now_are_in_force_for_it() {
    let (mut state, table) = state();
    let table = &*table;
    // Without patience: what it says is so now.
    let starts = |uid| async move { table.in_force(uid, Duration::ZERO).await };
    assert!(starts("w").await, "no policy is known");
    state.policy(Change::Applied(key("web"), of_web()));
    assert!(!starts("w").await, "pods are not known yet");
    state.namespace(Change::Complete);
    state.pod(Change::Listed(key("w"), pod("w", 2, "web")));
    state.pod(Change::Complete);
    assert!(!starts("w").await, "nothing is compiled yet");
    state.compile();
    assert!(starts("w").await);
    assert!(!starts("x").await, "it is not known yet");
    state.pod(Change::Applied(key("x"), pod("x", 3, "other")));
    assert!(starts("x").await, "no policy selects it");
    state.policy(Change::Applied(key("more"), of_web()));
    assert!(!starts("w").await, "its rules are of before");
    state.pod(Change::Applied(key("y"), pod("y", 4, "web")));
    assert!(!starts("y").await);
    state.compile();
    assert!(starts("w").await && starts("y").await);
    state.pod(Change::Gone(key("y")));
    assert!(!starts("y").await);
    state.policy(Change::Gone(key("web")));
    state.policy(Change::Gone(key("more")));
    state.compile();
    assert!(starts("y").await, "there is no policy any more");
}
