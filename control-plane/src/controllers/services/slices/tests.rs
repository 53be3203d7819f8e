use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::controllers::services::seen::Seen;

/// A Service, its pods and nodes, as the API shows them.
struct World {
    service: Value,
    pods: BTreeMap<Arc<str>, PodFacts>,
    nodes: HashMap<Arc<str>, NodeFacts>,
    slices: Vec<Slice>,
    created: usize,
}

fn seen<F: crate::controllers::services::seen::Facts>(object: Value) -> F {
    let seen: Seen<F> = serde_json::from_value(object).expect("the object is well-formed");
    seen.facts
}

fn pod_object(name: &str, address: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}")},
        "spec": {"nodeName": "node", "containers": [{}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}]}})
}

impl World {
    fn new(spec: Value) -> World {
        let service = json!({"metadata": {"name": "s", "namespace": "n", "uid": "u",
            "labels": {"of": "s"}}, "spec": spec});
        let zone = |zone: &str| NodeFacts {
            zone: Some(zone.into()),
        };
        World {
            service,
            pods: BTreeMap::new(),
            nodes: [("node".into(), zone("zone"))].into(),
            slices: Vec::new(),
            created: 0,
        }
    }

    /// One that selects, with one port.
    fn plain() -> World {
        World::new(
            json!({"clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"], "selector": {"a": "b"},
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}),
        )
    }

    fn add(&mut self, object: Value) -> &mut World {
        let name = object["metadata"]["name"].as_str().expect("a name");
        let name = Arc::from(name);
        match seen::<Option<PodFacts>>(object) {
            Some(pod) => drop(self.pods.insert(name, pod)),
            None => drop(self.pods.remove(&name)),
        }
        self
    }

    fn plan(&self) -> Plan {
        let service: ServiceFacts = seen(self.service.clone());
        plan(&Observed {
            name: "s",
            service: &service,
            pods: self.pods.iter().collect(),
            nodes: &self.nodes,
            slices: self.slices.iter().collect(),
        })
    }

    /// Plans, and does what was planned as the server would.
    fn run(&mut self) -> Plan {
        let plan = self.plan();
        let changed = |update: &Slice| {
            let mut update = update.clone();
            update.version = Version((update.version.0.parse::<u64>().unwrap() + 1).to_string());
            update
        };
        let done = Plan {
            creates: plan.creates.clone(),
            updates: plan.updates.clone(),
            deletes: plan.deletes.clone(),
        };
        self.slices.retain(|slice| {
            let name = slice.name.as_ref().expect("it is stored");
            !plan.deletes.contains(name) && !plan.updates.iter().any(|one| one.name == slice.name)
        });
        self.slices.extend(plan.updates.iter().map(changed));
        for mut slice in plan.creates {
            self.created += 1;
            slice.name = Some(format!("s-{:04}", self.created).into());
            slice.version = Version("1".to_owned());
            self.slices.push(slice);
        }
        self.slices.sort_by(|a, b| a.name.cmp(&b.name));
        done
    }

    /// Brings everything in order and returns the only slice.
    fn only(&mut self) -> Slice {
        self.run();
        assert_eq!(self.run(), Plan::default(), "a second look changes nothing");
        match &self.slices[..] {
            [slice] => slice.clone(),
            slices => panic!("there are {} slices", slices.len()),
        }
    }

    fn endpoint(&mut self) -> Value {
        let slice = self.only();
        let object = slice.json("n", "s", None);
        match object["endpoints"].as_array().expect("a list").as_slice() {
            [endpoint] => endpoint.clone(),
            endpoints => panic!("there are {} endpoints", endpoints.len()),
        }
    }
}

fn check_ready(pod: &Value, publishes: bool, expected: [bool; 3]) {
    let mut world = World::plain();
    world.service["spec"]["publishNotReadyAddresses"] = json!(publishes);
    let mut object = pod_object("p", "10.0.0.1");
    json_patch::merge(&mut object, pod);
    let endpoint = world.add(object).endpoint();
    let [ready, serving, terminating] = expected;
    let expected = json!({"ready": ready, "serving": serving, "terminating": terminating});
    assert_eq!(
        endpoint["conditions"], expected,
        "{pod}, publishes {publishes}"
    );
}

#[test]
fn serving_is_readiness_and_ready_is_serving_and_not_terminating() {
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let mut both = unready.clone();
    json_patch::merge(&mut both, &leaving);
    check_ready(&json!({}), false, [true, true, false]);
    check_ready(&unready, false, [false, false, false]);
    check_ready(&leaving, false, [false, true, true]);
    check_ready(&both, false, [false, false, true]);
    // Who publishes the unready says so of everyone.
    check_ready(&unready, true, [true, false, false]);
    check_ready(&both, true, [true, false, true]);
}

#[test]
fn an_endpoint_tells_pod_node_and_zone() {
    let endpoint = World::plain().add(pod_object("p", "10.0.0.1")).endpoint();
    let expected = json!({"addresses": ["10.0.0.1"], "nodeName": "node", "zone": "zone",
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "targetRef": {"kind": "Pod", "namespace": "n", "name": "p", "uid": "uid-p"}});
    assert_eq!(endpoint, expected);
}

#[test]
fn a_hostname_is_told_if_the_service_is_the_subdomain() {
    for (subdomain, expected) in [("s", json!("host")), ("other", Value::Null)] {
        let mut pod = pod_object("p", "10.0.0.1");
        pod["spec"]["hostname"] = json!("host");
        pod["spec"]["subdomain"] = json!(subdomain);
        assert_eq!(World::plain().add(pod).endpoint()["hostname"], expected);
    }
}

#[test]
fn a_pod_on_an_unknown_node_waits_unless_the_unready_are_published() {
    let mut pod = pod_object("p", "10.0.0.1");
    pod["spec"]["nodeName"] = json!("unknown");
    let mut world = World::plain();
    assert!(world.add(pod).only().endpoints.is_empty());
    world.service["spec"]["publishNotReadyAddresses"] = json!(true);
    assert_eq!(world.endpoint()["nodeName"], "unknown");
    world.service["spec"]["publishNotReadyAddresses"] = json!(false);
    world
        .nodes
        .insert("unknown".into(), NodeFacts { zone: None });
    assert_eq!(world.endpoint()["zone"], Value::Null);
}

#[test]
fn labels_and_owner_are_the_services() {
    let slice = World::plain().only();
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut labels = Labels::from([
        label("of", "s"),
        label(SERVICE_NAME, "s"),
        label(MANAGED_BY, MANAGER),
    ]);
    assert_eq!(slice.labels, labels);
    assert!(slice.is_owned_by("u"));
    let object = slice.json("n", "s", None);
    assert_eq!(object["metadata"]["generateName"], "s-");
    let mut world = World::plain();
    world.service["spec"]["clusterIP"] = json!("None");
    labels.insert(HEADLESS.to_owned(), String::new());
    assert_eq!(world.only().labels, labels);
    // A change of the labels is a change of the slices, and of nothing else.
    world.service["metadata"]["labels"] = json!({MANAGED_BY: "me", HEADLESS: "no", "new": "x"});
    labels.remove("of");
    labels.insert("new".to_owned(), "x".to_owned());
    assert_eq!(world.only().labels, labels);
}

#[test]
fn a_service_without_pods_has_one_empty_slice() {
    let mut world = World::plain();
    let slice = world.only();
    assert!(slice.endpoints.is_empty() && slice.ports.is_empty());
    // It is taken for the first pod, and comes back after the last.
    world.add(pod_object("p", "10.0.0.1"));
    let filled = world.only();
    assert_eq!(filled.name, slice.name);
    assert_eq!(filled.ports[0].port, Some(8080));
    world.pods.clear();
    assert_eq!(world.only().name, slice.name);
}

#[test]
fn a_headless_service_without_ports_has_slices_without_ports() {
    let mut world = World::plain();
    world.service["spec"]["clusterIP"] = json!("None");
    world.service["spec"]["ports"] = Value::Null;
    let slice = world.add(pod_object("p", "10.0.0.1")).only();
    assert!(slice.ports.is_empty() && slice.endpoints.len() == 1);
}

#[test]
fn a_named_port_is_looked_up_in_each_pod_and_different_ports_are_different_slices() {
    let mut world = World::plain();
    world.service["spec"]["ports"] = json!([
        {"name": "web", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "h2c"},
        {"name": "raw", "port": 81, "targetPort": 81, "protocol": "TCP"}]);
    for (name, ports) in [
        ("a", json!([{"name": "http", "containerPort": 8080}])),
        ("b", json!([{"name": "http", "containerPort": 9090}])),
        ("c", json!([{"name": "http", "containerPort": 8080}])),
        // Of another protocol, so this one has not got it.
        (
            "d",
            json!([{"name": "http", "containerPort": 8080, "protocol": "UDP"}]),
        ),
    ] {
        let mut pod = pod_object(name, &format!("10.0.0.{}", world.pods.len() + 1));
        pod["spec"]["containers"] = json!([{"ports": ports}]);
        world.add(pod);
    }
    world.run();
    assert_eq!(world.run(), Plan::default());
    let mut shown: Vec<_> = world
        .slices
        .iter()
        .map(|slice| {
            let ports: Vec<_> = slice.ports.iter().map(|port| port.port).collect();
            let pods = slice.endpoints.iter().filter_map(|one| one.pod.as_ref());
            (
                ports,
                pods.map(|pod| pod.name.to_string()).collect::<String>(),
            )
        })
        .collect();
    shown.sort();
    let expected = [
        (vec![Some(81)], "d".to_owned()),
        (vec![Some(81), Some(8080)], "ac".to_owned()),
        (vec![Some(81), Some(9090)], "b".to_owned()),
    ];
    assert_eq!(shown, expected);
    let ports = world.slices.iter().flat_map(|slice| &slice.ports);
    let protocols = ports.filter_map(|port| port.app_protocol.as_deref());
    assert!(protocols.eq(["h2c", "h2c"]));
}

#[test]
fn each_family_has_slices_of_its_own() {
    let mut world = World::plain();
    world.service["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    let mut pod = pod_object("p", "10.0.0.1");
    pod["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    world.add(pod).run();
    let shown: Vec<_> = world
        .slices
        .iter()
        .map(|slice| (slice.family, slice.endpoints[0].addresses[0].to_string()))
        .collect();
    let v4 = (Some(Family::V4), "10.0.0.1".to_owned());
    assert_eq!(shown, [v4, (Some(Family::V6), "fd00::1".to_owned())]);
    world.service["spec"]["ipFamilies"] = json!(["IPv4"]);
    let plan = world.run();
    assert_eq!((plan.deletes.len(), world.slices.len()), (1, 1));
}

#[test]
fn slices_of_an_earlier_service_of_the_name_go() {
    let mut world = World::plain();
    world.add(pod_object("p", "10.0.0.1")).run();
    world.service["metadata"]["uid"] = json!("another");
    let plan = world.run();
    assert_eq!((plan.creates.len(), plan.deletes.len()), (1, 1));
    assert!(world.only().is_owned_by("another"));
}

#[test]
fn nothing_is_made_for_a_service_that_is_going() {
    let mut world = World::plain();
    world.service["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(
        world.add(pod_object("p", "10.0.0.1")).plan(),
        Plan::default()
    );
}

#[test]
fn hints_follow_the_traffic_distribution_for_who_is_ready() {
    let zone = json!([{"name": "zone"}]);
    for (wish, expected) in [
        (Value::Null, Value::Null),
        (json!("PreferClose"), json!({"forZones": zone})),
        (json!("PreferSameZone"), json!({"forZones": zone})),
        (
            json!("PreferSameNode"),
            json!({"forZones": zone, "forNodes": [{"name": "node"}]}),
        ),
    ] {
        let mut world = World::plain();
        world.service["spec"]["trafficDistribution"] = wish;
        let endpoint = world.add(pod_object("p", "10.0.0.1")).endpoint();
        assert_eq!(endpoint["hints"], expected);
        let mut unready = pod_object("p", "10.0.0.1");
        unready["status"]["conditions"] = json!([]);
        assert_eq!(world.add(unready).endpoint()["hints"], Value::Null);
        // The other way of asking for hints has none, and comes first.
        world.add(pod_object("p", "10.0.0.1"));
        let mode = json!({"service.kubernetes.io/topology-mode": "Auto"});
        world.service["metadata"]["annotations"] = mode;
        assert_eq!(world.endpoint()["hints"], Value::Null);
    }
}

#[test]
fn what_others_wrote_into_a_slice_is_put_right_and_their_annotations_stay() {
    let mut world = World::plain();
    world.add(pod_object("p", "10.0.0.1")).run();
    let slice = &mut world.slices[0];
    let note = ("note".to_owned(), "x".to_owned());
    slice.extras.annotations.extend([note.clone()]);
    assert_eq!(world.plan(), Plan::default());
    world.slices[0].endpoints[0].conditions.ready = Some(false);
    world.slices[0]
        .labels
        .insert("mine".to_owned(), String::new());
    let slice = world.only();
    assert_eq!(slice.endpoints[0].conditions.ready, Some(true));
    assert_eq!(slice.extras.annotations, [note].into());
    assert_eq!(slice.labels.get("mine"), None);
}

fn crowd(world: &mut World, range: std::ops::Range<u32>) {
    for number in range {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
        world.add(pod_object(&format!("p-{number:05}"), &address.to_string()));
    }
}

#[test]
fn a_slice_has_a_hundred_endpoints_and_new_ones_go_where_there_is_room() {
    let mut world = World::plain();
    crowd(&mut world, 1..251);
    assert_eq!(world.run().creates.len(), 3);
    let lengths = |world: &World| {
        let mut lengths: Vec<_> = world.slices.iter().map(|one| one.endpoints.len()).collect();
        lengths.sort_unstable();
        lengths
    };
    assert_eq!(lengths(&world), [50, 100, 100]);
    // The one that has room for all of them is filled, the full ones are left alone.
    crowd(&mut world, 251..281);
    let plan = world.run();
    assert_eq!((plan.creates.len(), plan.updates.len()), (0, 1));
    assert_eq!(lengths(&world), [80, 100, 100]);
    // One that changes anyway is filled first; what is left has a slice of its own.
    world.pods.remove("p-00001");
    crowd(&mut world, 281..302);
    let plan = world.run();
    assert_eq!((plan.creates.len(), plan.updates.len()), (0, 2));
    assert_eq!(lengths(&world), [100, 100, 100]);
    crowd(&mut world, 302..303);
    let plan = world.run();
    assert_eq!((plan.creates.len(), plan.updates.len()), (1, 0));
}

#[test]
fn one_pods_readiness_is_one_write() {
    let mut world = World::plain();
    crowd(&mut world, 1..500);
    world.run();
    let mut unready = pod_object("p-00250", "10.0.0.250");
    unready["status"]["conditions"] = json!([]);
    let plan = world.add(unready).run();
    assert_eq!(
        (plan.creates.len(), plan.updates.len(), plan.deletes.len()),
        (0, 1, 0)
    );
}

/// What happens to the pods of a Service between two looks.
#[derive(Clone, Debug)]
enum Step {
    Comes(u8),
    Turns(u8, bool),
    Leaves(u8),
    Goes(u8),
    Moves(u8),
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = prop_oneof![
        4 => any::<u8>().prop_map(Step::Comes),
        2 => any::<(u8, bool)>().prop_map(|(pod, ready)| Step::Turns(pod, ready)),
        1 => any::<u8>().prop_map(Step::Leaves),
        2 => any::<u8>().prop_map(Step::Goes),
        1 => any::<u8>().prop_map(Step::Moves),
    ];
    let burst = proptest::collection::vec(step, 0..120);
    proptest::collection::vec(burst, 1..6)
}

impl Step {
    fn apply(&self, world: &mut World) {
        let (Step::Comes(pod)
        | Step::Turns(pod, _)
        | Step::Leaves(pod)
        | Step::Goes(pod)
        | Step::Moves(pod)) = *self;
        let name: Arc<str> = format!("p-{pod}").into();
        if let Step::Comes(_) = self {
            let mut object = pod_object(&name, &format!("10.0.0.{pod}"));
            // A third of the pods have another port.
            let port = if pod % 3 == 0 { 1 } else { 2 };
            object["spec"]["containers"] =
                json!([{"ports": [{"name": "http", "containerPort": port}]}]);
            world.add(object);
            return;
        }
        let Some(known) = world.pods.get_mut(&name) else {
            return;
        };
        match self {
            Step::Comes(_) => (),
            Step::Turns(_, ready) => known.ready = *ready,
            Step::Leaves(_) => known.terminating = true,
            Step::Moves(_) => known.node = "unknown".into(),
            Step::Goes(_) => drop(world.pods.remove(&name)),
        }
    }
}

fn check_slices(world: &World) {
    let mut found: HashMap<&str, usize> = HashMap::new();
    for slice in &world.slices {
        assert!(slice.endpoints.len() <= ENDPOINTS_MAX);
        for endpoint in &slice.endpoints {
            let pod = endpoint.pod.as_ref().expect("every endpoint is a pod");
            *found.entry(&pod.name).or_default() += 1;
            let known = &world.pods[&pod.name];
            assert_eq!(endpoint.conditions.serving, Some(known.ready));
            assert_eq!(endpoint.conditions.terminating, Some(known.terminating));
            let number = slice.ports[0].port.expect("the port is known");
            assert_eq!(number, known.ports[0].number);
        }
    }
    for (name, pod) in &world.pods {
        let expected = usize::from(&*pod.node == "node");
        assert_eq!(found.remove(&**name).unwrap_or(0), expected, "{name}");
    }
    assert!(found.is_empty() && !world.slices.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every pod is in exactly one slice of its ports, and no write is made without a reason.
    #[test]
    fn whatever_happens_every_pod_is_in_one_slice(bursts in steps()) {
        let mut world = World::plain();
        world.service["spec"]["ports"] =
            json!([{"port": 80, "targetPort": "http", "protocol": "TCP"}]);
        for burst in bursts {
            let before: Vec<_> = world.slices.clone();
            burst.iter().for_each(|step| step.apply(&mut world));
            let plan = world.run();
            check_slices(&world);
            for update in &plan.updates {
                let old = before.iter().find(|slice| slice.name == update.name);
                prop_assert!(old.is_some_and(|old| old != update), "an update changes something");
            }
            prop_assert_eq!(world.plan(), Plan::default());
        }
    }
}
