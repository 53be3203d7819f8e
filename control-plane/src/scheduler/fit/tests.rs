use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::*;
use crate::scheduler::{
    cluster::Course,
    preempt::{self, Hopeless},
    view::{NamespaceView, PodView},
};

/// A cluster described by a few manifests.
struct World(Cluster);

fn key(name: &str) -> PodKey {
    PodKey {
        namespace: "d".into(),
        name: name.into(),
    }
}

fn pod(name: &str, spec: &Value) -> PodView {
    let labels = spec["labels"].clone();
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "d", "labels": labels}, "spec": spec}))
    .expect("a pod")
}

/// A node that is ready, with room for ten pods; the rest as given.
fn node(name: &str, more: &Value) -> Value {
    let allocatable = match &more["allocatable"] {
        Value::Null => json!({"cpu": "4", "memory": "4Gi", "pods": "10"}),
        given => given.clone(),
    };
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": more["labels"]},
        "spec": more["spec"].as_object().cloned().unwrap_or_default(),
        "status": {"allocatable": allocatable,
            "conditions": [{"type": "Ready", "status": more["ready"].as_str().unwrap_or("True")}]}})
}

impl World {
    /// `nodes` are names with what differs; `pods` are names with node and spec.
    fn new(nodes: &[(&str, Value)], pods: &[(&str, &str, Value)]) -> World {
        let mut cluster = Cluster::default();
        for (name, more) in nodes {
            let node = serde_json::from_value(node(name, more)).expect("a node");
            cluster.on_node(Event::Apply(node));
        }
        for (name, node, spec) in pods {
            let facts = cluster.share(PodFacts::of(&pod(name, spec)));
            let placed = Placed {
                uid: "u".into(),
                node: (*node).into(),
                facts,
                since: spec["since"].as_i64().unwrap_or(0),
                course: match spec["leaving"] == true {
                    true => Course::Leaving,
                    false => Course::Bound,
                },
            };
            cluster.put(key(name), placed);
        }
        World(cluster)
    }

    fn nominate(&mut self, name: &str, node: &str, spec: &Value) {
        let facts = self.0.share(PodFacts::of(&pod(name, spec)));
        let (uid, node) = ("u".into(), node.into());
        self.0
            .nominees
            .insert(key(name), Nominee { uid, node, facts });
    }

    fn choose(&mut self, spec: &Value) -> Result<String, String> {
        let facts = PodFacts::of(&pod("new", spec));
        let (key, facts) = (&key("new"), &facts);
        let found = choose(&mut self.0, Candidate { key, facts });
        found
            .map(|node| node.to_string())
            .map_err(|unfit| unfit.message())
    }

    fn preempt(&mut self, spec: &Value) -> Result<(String, Vec<String>), Hopeless> {
        let facts = PodFacts::of(&pod("new", spec));
        let (key, facts) = (&key("new"), &facts);
        let candidate = Candidate { key, facts };
        let unfit = choose(&mut self.0, candidate).expect_err("it fits");
        let plan = preempt::plan(&mut self.0, candidate, &unfit)?;
        let mut victims: Vec<_> = plan
            .victims
            .iter()
            .map(|one| one.key.name.to_string())
            .collect();
        victims.sort();
        Ok((plan.node.to_string(), victims))
    }
}

fn check(world: &mut World, spec: Value, expected: Result<&str, &str>) {
    let expected = expected.map(str::to_owned).map_err(str::to_owned);
    assert_eq!(world.choose(&spec), expected, "{spec}");
}

fn cpu(amount: &str) -> Value {
    json!({"containers": [{"resources": {"requests": {"cpu": amount}}}]})
}

/// Adds fields to a spec.
fn with(mut spec: Value, more: Value) -> Value {
    let more = more.as_object().expect("fields").clone();
    spec.as_object_mut().expect("a spec").extend(more);
    spec
}

#[test]
fn the_refusal_says_why_each_node_is_none() {
    let taints = json!({"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]});
    let mut world = World::new(
        &[
            ("full", json!({})),
            ("tainted", json!({"spec": taints})),
            ("cordoned", json!({"spec": {"unschedulable": true}})),
            ("sick", json!({"ready": "False"})),
            ("lost", json!({"ready": "Unknown"})),
        ],
        &[("old", "full", cpu("3500m"))],
    );
    check(
        &mut world,
        with(cpu("1"), json!({"nodeSelector": {}})),
        Err(
            "0/5 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint \
             {a: b}, 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }, 1 node(s) \
             had untolerated taint {node.kubernetes.io/unreachable: }, 1 node(s) were \
             unschedulable.",
        ),
    );
    let tolerant = json!({"tolerations": [{"key": "a", "operator": "Exists"}]});
    check(&mut world, with(cpu("1"), tolerant), Ok("tainted"));
    let cordon = json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"});
    let tolerant = json!({"tolerations": [cordon]});
    check(&mut world, with(cpu("1"), tolerant), Ok("cordoned"));
    check(
        &mut World::new(&[], &[]),
        json!({}),
        Err("no nodes available to schedule pods"),
    );
}

#[test]
fn reasons_are_sorted_as_texts_with_their_counts() {
    let nodes: Vec<_> = (0..12).map(|number| format!("n{number:02}")).collect();
    let small = json!({"allocatable": {"cpu": "1", "pods": "1"}});
    let other = json!({"spec": {"unschedulable": true}});
    let nodes: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(index, name)| match index < 10 {
            true => (name.as_str(), small.clone()),
            false => (name.as_str(), other.clone()),
        })
        .collect();
    check(
        &mut World::new(&nodes, &[]),
        cpu("2"),
        Err("0/12 nodes are available: 10 Insufficient cpu, 2 node(s) were unschedulable."),
    );
}

#[test]
fn resources_ports_and_pods_are_limited() {
    let port = |ip: &str| json!({"containers": [{"ports": [{"hostPort": 80, "hostIP": ip, "protocol": "TCP"}]}]});
    let little =
        json!({"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "2", "x.io/gpu": "1"}});
    let mut world = World::new(&[("n", little)], &[("a", "n", port("127.0.0.1"))]);
    let taken = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod \
                 ports.";
    check(&mut world, port(""), Err(taken));
    check(&mut world, port("0.0.0.0"), Err(taken));
    check(&mut world, port("127.0.0.2"), Ok("n"));
    let gpu =
        |count: &str| json!({"containers": [{"resources": {"requests": {"x.io/gpu": count}}}]});
    check(&mut world, gpu("1"), Ok("n"));
    check(
        &mut world,
        gpu("2"),
        Err("0/1 nodes are available: 1 Insufficient x.io/gpu."),
    );
    let facts = world.0.share(PodFacts::of(&pod("b", &cpu("1"))));
    let placed = Placed {
        uid: "u".into(),
        node: "n".into(),
        facts,
        since: 0,
        course: Course::Bound,
    };
    world.0.put(key("b"), placed);
    check(
        &mut world,
        cpu("1"),
        Err("0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods."),
    );
    world.0.take(&key("b"));
    check(&mut world, cpu("1"), Ok("n"));
}

#[test]
fn node_affinity_is_required_or_preferred() {
    let zone = |zone: &str| json!({"labels": {"zone": zone}});
    let mut world = World::new(
        &[("a1", zone("a")), ("b1", zone("b")), ("c1", zone("c"))],
        &[],
    );
    let term = |zones: &[&str]| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": zones}]});
    let required = |terms: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": terms}}}})
    };
    let nowhere = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.";
    check(&mut world, required(json!([term(&["x"])])), Err(nowhere));
    check(&mut world, required(json!([])), Err(nowhere));
    check(
        &mut world,
        required(json!([term(&["x"]), term(&["b"])])),
        Ok("b1"),
    );
    let named = |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
    check(&mut world, required(named("c1")), Ok("c1"));
    check(
        &mut world,
        required(named("gone")),
        Err("0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity]."),
    );
    let preferred = json!({"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": term(&["b"])},
            {"weight": 50, "preference": term(&["c", "x"])}]}}});
    check(&mut world, preferred, Ok("c1"));
}

#[test]
fn the_emptiest_node_wins_unless_it_is_tainted() {
    let soft = json!({"spec": {"taints": [{"key": "a", "effect": "PreferNoSchedule"}]}});
    let mut world = World::new(
        &[("a", json!({})), ("b", json!({})), ("c", soft)],
        &[("x", "a", cpu("1")), ("y", "b", cpu("500m"))],
    );
    check(&mut world, cpu("1"), Ok("b"));
    check(
        &mut world,
        with(cpu("1"), json!({"tolerations": [{"operator": "Exists"}]})),
        Ok("c"),
    );
    // Pods without requests are spread too, and equal nodes are taken by name.
    let mut world = World::new(&[("b", json!({})), ("a", json!({}))], &[]);
    check(&mut world, json!({}), Ok("a"));
    let mut world = World::new(
        &[("b", json!({})), ("a", json!({}))],
        &[("x", "a", json!({"containers": [{}]}))],
    );
    check(&mut world, json!({"containers": [{}]}), Ok("b"));
}

fn company(kind: &str, app: &str, more: Value) -> Value {
    let selector = json!({"matchLabels": {"app": app}});
    let term = with(
        json!({"topologyKey": "zone", "labelSelector": selector}),
        more,
    );
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

fn zones() -> Vec<(&'static str, Value)> {
    vec![
        ("a1", json!({"labels": {"zone": "a"}})),
        ("a2", json!({"labels": {"zone": "a"}})),
        ("b1", json!({"labels": {"zone": "b"}})),
        ("none", json!({})),
    ]
}

#[test]
fn pods_are_kept_together_and_apart() {
    let web = || json!({"labels": {"app": "web"}});
    let mut world = World::new(&zones(), &[("w", "b1", web())]);
    check(
        &mut world,
        company("podAffinity", "web", json!({})),
        Ok("b1"),
    );
    check(
        &mut world,
        company("podAffinity", "db", json!({})),
        Err("0/4 nodes are available: 4 node(s) didn't match pod affinity rules."),
    );
    // The first of a group that wants to be together may begin anywhere with the label.
    let first = with(
        company("podAffinity", "db", json!({})),
        json!({"labels": {"app": "db"}}),
    );
    check(&mut world, first, Ok("a1"));
    check(
        &mut world,
        company("podAntiAffinity", "web", json!({})),
        Ok("a1"),
    );
    let here = json!({"namespaces": ["elsewhere"]});
    check(&mut world, company("podAffinity", "web", here), {
        Err("0/4 nodes are available: 4 node(s) didn't match pod affinity rules.")
    });
    let only = with(
        company("podAntiAffinity", "web", json!({})),
        json!({"nodeSelector": {"zone": "b"}}),
    );
    check(
        &mut world,
        only,
        Err(
            "0/4 nodes are available: 1 node(s) didn't match pod anti-affinity rules, 3 node(s) \
             didn't match Pod's node affinity/selector.",
        ),
    );
}

#[test]
fn those_who_are_there_keep_others_away_too() {
    let hermit = company("podAntiAffinity", "web", json!({}));
    let mut world = World::new(&zones(), &[("h", "a2", hermit)]);
    let web = |zone: &str| json!({"labels": {"app": "web"}, "nodeSelector": {"zone": zone}});
    check(&mut world, web("b"), Ok("b1"));
    check(
        &mut world,
        web("a"),
        Err(
            "0/4 nodes are available: 2 node(s) didn't match Pod's node affinity/selector, 2 \
             node(s) didn't satisfy existing pods anti-affinity rules.",
        ),
    );
}

#[test]
fn a_namespace_selector_reaches_other_namespaces() {
    let mut world = World::new(&zones(), &[("w", "b1", json!({"labels": {"app": "web"}}))]);
    let namespace: NamespaceView = serde_json::from_value(json!({"apiVersion": "v1",
        "kind": "Namespace", "metadata": {"name": "d", "labels": {"team": "x"}}, "spec": {}}))
    .expect("a namespace");
    world.0.on_namespace(Event::Apply(namespace));
    let of = |team: &str| json!({"namespaceSelector": {"matchLabels": {"team": team}}});
    check(&mut world, company("podAffinity", "web", of("x")), Ok("b1"));
    check(
        &mut world,
        company("podAffinity", "web", of("y")),
        Err("0/4 nodes are available: 4 node(s) didn't match pod affinity rules."),
    );
}

#[test]
fn preferred_company_decides_between_nodes() {
    let wish = |kind: &str| {
        json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "podAffinityTerm": {"topologyKey": "zone",
                "labelSelector": {"matchLabels": {"app": "web"}}}}]}}})
    };
    let web = json!({"labels": {"app": "web"}});
    let mut world = World::new(&zones(), &[("w", "b1", web)]);
    check(&mut world, wish("podAffinity"), Ok("b1"));
    check(&mut world, wish("podAntiAffinity"), Ok("a1"));
}

fn spread(more: Value) -> Value {
    let constraint = with(
        json!({"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}}),
        more,
    );
    json!({"labels": {"app": "web"}, "topologySpreadConstraints": [constraint]})
}

#[test]
fn pods_are_spread_over_zones() {
    let web = || json!({"labels": {"app": "web"}});
    let mut world = World::new(&zones(), &[("w", "a1", web())]);
    check(&mut world, spread(json!({})), Ok("b1"));
    check(&mut world, spread(json!({"maxSkew": 2})), Ok("a2"));
    let stuck = |spec: Value| with(spec, json!({"nodeSelector": {"zone": "a"}}));
    // Only nodes that the selector admits are compared, unless the policy says otherwise.
    check(&mut world, stuck(spread(json!({}))), Ok("a2"));
    check(
        &mut world,
        stuck(spread(json!({"nodeAffinityPolicy": "Ignore"}))),
        Err(
            "0/4 nodes are available: 2 node(s) didn't match Pod's node affinity/selector, 2 \
             node(s) didn't match pod topology spread constraints.",
        ),
    );
    check(&mut world, spread(json!({"minDomains": 3})), Ok("b1"));
    world.0.mark_leaving(&key("w"));
    check(
        &mut world,
        stuck(spread(json!({"nodeAffinityPolicy": "Ignore"}))),
        Ok("a2"),
    );
    let unknown = spread(json!({"topologyKey": "rack"}));
    check(
        &mut world,
        unknown,
        Err(
            "0/4 nodes are available: 4 node(s) didn't match pod topology spread constraints \
             (missing required label).",
        ),
    );
    let soft = json!({"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"});
    let mut world = World::new(&zones()[..3], &[("w", "a1", web()), ("v", "b1", web())]);
    world.0.take(&key("v"));
    check(&mut world, spread(soft), Ok("b1"));
}

#[test]
fn too_few_domains_count_as_an_empty_one() {
    let web = || json!({"labels": {"app": "web"}});
    let mut world = World::new(&zones()[..3], &[("w", "a1", web()), ("v", "b1", web())]);
    check(&mut world, spread(json!({})), Ok("a2"));
    check(
        &mut world,
        spread(json!({"minDomains": 3})),
        Err("0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints."),
    );
}

#[test]
fn tainted_zones_count_unless_the_policy_says_otherwise() {
    let mut nodes = zones();
    nodes.truncate(2);
    let taint = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
    nodes.push(("b1", json!({"labels": {"zone": "b"}, "spec": taint})));
    let mut world = World::new(&nodes, &[("w", "a1", json!({"labels": {"app": "web"}}))]);
    check(
        &mut world,
        spread(json!({})),
        Err(
            "0/3 nodes are available: 1 node(s) had untolerated taint {k: }, 2 node(s) didn't \
             match pod topology spread constraints.",
        ),
    );
    check(
        &mut world,
        spread(json!({"nodeTaintsPolicy": "Honor"})),
        Ok("a2"),
    );
}

fn of_priority(priority: i32, amount: &str) -> Value {
    with(cpu(amount), json!({"priority": priority}))
}

fn check_preemption(world: &mut World, spec: Value, expected: Result<(&str, &[&str]), &str>) {
    match (world.preempt(&spec), expected) {
        (Ok((node, victims)), Ok((wanted, names))) => {
            assert_eq!(
                (node.as_str(), victims),
                (
                    wanted,
                    names.iter().map(|name| (*name).to_owned()).collect()
                )
            );
        }
        (Err(hopeless), Err(text)) => assert_eq!(hopeless.text(), text),
        (found, expected) => panic!("{found:?} instead of {expected:?}"),
    }
}

#[test]
fn the_least_important_pods_have_to_leave() {
    let nodes = || [("a", json!({})), ("b", json!({}))];
    let check = |pods: &[(&str, &str, Value)], spec: Value, expected: (&str, &[&str])| {
        check_preemption(&mut World::new(&nodes(), pods), spec, Ok(expected));
    };
    let one = |name, node, priority, amount| (name, node, of_priority(priority, amount));
    // The lowest among the highest victims.
    check(
        &[one("x", "a", 5, "4"), one("y", "b", 3, "4")],
        of_priority(9, "1"),
        ("b", &["y"]),
    );
    // Then the smaller sum of priorities, which is also fewer victims.
    check(
        &[
            one("x", "a", 3, "2"),
            one("z", "a", 3, "2"),
            one("y", "b", 3, "4"),
        ],
        of_priority(9, "4"),
        ("b", &["y"]),
    );
    // No more than needed, and the more important stay.
    check(
        &[
            one("x", "a", 1, "2"),
            one("z", "a", 2, "2"),
            one("y", "b", 9, "4"),
        ],
        of_priority(9, "1"),
        ("a", &["x"]),
    );
    // Of equals the one that has run longest stays.
    let since = |since: i64| with(of_priority(1, "4"), json!({"since": since}));
    check(
        &[("x", "a", since(10)), ("y", "b", since(20))],
        of_priority(9, "1"),
        ("b", &["y"]),
    );
}

#[test]
fn who_cannot_be_helped_is_told_so() {
    let world = |pods: &[(&str, &str, Value)]| World::new(&[("n", json!({}))], pods);
    let full = || [("x", "n", of_priority(5, "4"))];
    check_preemption(
        &mut world(&full()),
        of_priority(5, "1"),
        Err("0/1 nodes are available: 1 No preemption victims found for incoming pod."),
    );
    // The node itself is too small.
    check_preemption(
        &mut world(&full()),
        of_priority(9, "5"),
        Err("0/1 nodes are available: 1 Preemption is not helpful for scheduling."),
    );
    check_preemption(
        &mut world(&[
            ("x", "n", of_priority(5, "1")),
            ("y", "n", of_priority(10, "3")),
        ]),
        of_priority(9, "2"),
        Err("0/1 nodes are available: 1 Insufficient cpu."),
    );
    check_preemption(
        &mut world(&full()),
        with(of_priority(9, "1"), json!({"preemptionPolicy": "Never"})),
        Err("not eligible due to preemptionPolicy=Never."),
    );
    let leaving = with(of_priority(5, "4"), json!({"leaving": true}));
    let mut waiting = world(&[("x", "n", leaving)]);
    waiting.nominate("new", "n", &of_priority(9, "1"));
    check_preemption(
        &mut waiting,
        of_priority(9, "1"),
        Err("not eligible due to a terminating pod on the nominated node."),
    );
}

#[test]
fn ports_and_rules_of_others_can_be_cleared_away_too() {
    let port = json!({"containers": [{"ports": [{"hostPort": 80}]}]});
    let mut world = World::new(&[("n", json!({}))], &[("x", "n", port.clone())]);
    check_preemption(
        &mut world,
        with(port, json!({"priority": 1})),
        Ok(("n", &["x"])),
    );
    let hermit = company("podAntiAffinity", "web", json!({}));
    let zone = [("n", json!({"labels": {"zone": "a"}}))];
    let mut world = World::new(&zone, &[("h", "n", hermit), ("y", "n", json!({}))]);
    let web = json!({"labels": {"app": "web"}, "priority": 1});
    check_preemption(&mut world, web, Ok(("n", &["h"])));
    assert_eq!(world.0.placed_keys().count(), 2, "all are back");
}

#[test]
fn promised_room_is_kept_from_the_less_important() {
    let mut world = World::new(&[("n", json!({}))], &[]);
    world.nominate("first", "n", &of_priority(5, "3"));
    let full = "0/1 nodes are available: 1 Insufficient cpu.";
    check(&mut world, of_priority(4, "2"), Err(full));
    check(&mut world, of_priority(5, "2"), Err(full));
    check(&mut world, of_priority(6, "2"), Ok("n"));
    check(&mut world, of_priority(4, "1"), Ok("n"));
    assert_eq!(world.0.placed_keys().count(), 0, "nothing stays reserved");
    // Nobody can count on the company of a pod that is not there yet.
    let zone = [("n", json!({"labels": {"zone": "a"}}))];
    let mut world = World::new(&zone, &[]);
    world.nominate(
        "first",
        "n",
        &json!({"labels": {"app": "web"}, "priority": 5}),
    );
    check(
        &mut world,
        company("podAffinity", "web", json!({})),
        Err("0/1 nodes are available: 1 node(s) didn't match pod affinity rules."),
    );
}
