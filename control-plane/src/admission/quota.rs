//! Quotas: what objects use, what a quota counts of it, and that it is not exceeded.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::{
    Request, known,
    pending::{Claims, Pending},
    resources::{self, Amounts, List},
    services::Taken,
    storage,
};
use crate::{
    defaults,
    kinds::KindInfo,
    object::{self, ObjectRecord},
    quantity::Quantity,
    status::ApiError,
    validate::elements,
};

/// Resources that have to be named by each container once a quota counts them.
const DEMANDED: &[&str] = &[
    "cpu",
    "limits.cpu",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.memory",
];

/// What stands between the name of a class and what claims of it use.
pub(crate) const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

/// What one object takes.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    amounts: Amounts,
    /// Present for pods.
    traits: Option<PodTraits>,
    /// Present for services.
    pub(super) taken: Taken,
}

/// What scopes look at.
#[derive(Debug)]
struct PodTraits {
    best_effort: bool,
    terminating: bool,
    across_namespaces: bool,
    priority_class: String,
}

/// A quota, read.
#[derive(Debug)]
pub(crate) struct Quota {
    name: String,
    hard: Amounts,
    scopes: Vec<Scope>,
}

/// A condition for pods to count.
#[derive(Debug)]
struct Scope {
    name: String,
    operator: String,
    values: Vec<String>,
}

impl Charge {
    /// Finds out what an object takes.
    pub(crate) fn of(info: &KindInfo, object: &Value) -> Charge {
        let mut amounts = Amounts::new();
        let one = Quantity::whole(1);
        amounts.insert(format!("count/{}", info.qualified()), one);
        let mut charge = Charge::default();
        match (info.group, info.kind) {
            ("", "Pod") => {
                charge.traits = Some(PodTraits::of(&object["spec"]));
                if !is_over(object) {
                    resources::add(&mut amounts, pod(&object["spec"]));
                }
            }
            ("", "Service") => {
                resources::add(&mut amounts, service(&object["spec"]));
                charge.taken = Taken::of(&object["spec"]);
            }
            ("", "PersistentVolumeClaim") => resources::add(&mut amounts, claim(object)),
            ("", "ConfigMap" | "Secret" | "ResourceQuota") => {
                amounts.insert(info.plural.to_owned(), one);
            }
            _ => (),
        }
        charge.amounts = amounts;
        charge
    }

    /// Returns what a stored object takes; it is found out once.
    pub(crate) fn of_record<'r>(info: &KindInfo, record: &'r ObjectRecord) -> &'r Charge {
        let read = || Box::new(Charge::of(info, &object::parse(record)));
        record.index.charge.get_or_init(read)
    }
}

/// Says whether a pod has ended: it takes up nothing but its place in the store.
fn is_over(pod: &Value) -> bool {
    matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    )
}

fn pod(spec: &Value) -> Amounts {
    let mut amounts = Amounts::from([("pods".to_owned(), Quantity::whole(1))]);
    for (name, amount) in resources::of_pod(spec, List::Requests) {
        let native = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if native || name.starts_with("hugepages-") {
            amounts.insert(name.clone(), amount);
        }
        amounts.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in resources::of_pod(spec, List::Limits) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            amounts.insert(format!("limits.{name}"), amount);
        }
    }
    amounts
}

fn service(spec: &Value) -> Amounts {
    let count = |number: usize| Quantity::whole(i64::try_from(number).unwrap_or(i64::MAX));
    let ports = elements(&spec["ports"]);
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports.count(), 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            let given = ports.filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0);
            (given.count(), 1)
        }
        Some("LoadBalancer") => (ports.count(), 1),
        _ => (0, 0),
    };
    Amounts::from([
        ("services".to_owned(), count(1)),
        ("services.nodeports".to_owned(), count(node_ports)),
        ("services.loadbalancers".to_owned(), count(balancers)),
    ])
}

/// A claim counts as itself and with its size, and once more under the name of its class.
fn claim(claim: &Value) -> Amounts {
    let size = resources::amounts(&claim["spec"]["resources"]["requests"]).remove("storage");
    let mut own = vec![("persistentvolumeclaims", Quantity::whole(1))];
    // Bytes are counted whole, as the quota's status can only tell whole ones.
    own.extend(size.map(|size| ("requests.storage", size.rounded_up())));
    let class = storage::class_of(claim);
    let mut amounts = Amounts::new();
    for (name, amount) in own {
        amounts.insert(name.to_owned(), amount);
        if !class.is_empty() {
            amounts.insert(format!("{class}{OF_CLASS}{name}"), amount);
        }
    }
    amounts
}

impl PodTraits {
    fn of(spec: &Value) -> PodTraits {
        let crosses = |term: &Value| {
            elements(&term["namespaces"]).next().is_some() || term["namespaceSelector"].is_object()
        };
        let across = ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
            let affinity = &spec["affinity"][*kind];
            elements(&affinity["requiredDuringSchedulingIgnoredDuringExecution"]).any(crosses)
                || elements(&affinity["preferredDuringSchedulingIgnoredDuringExecution"])
                    .any(|term| crosses(&term["podAffinityTerm"]))
        });
        let class = spec["priorityClassName"].as_str().unwrap_or_default();
        PodTraits {
            best_effort: defaults::qos_class(spec) == "BestEffort",
            terminating: spec["activeDeadlineSeconds"]
                .as_i64()
                .is_some_and(|left| left >= 0),
            across_namespaces: across,
            priority_class: class.to_owned(),
        }
    }
}

impl Scope {
    fn selects(&self, pod: &PodTraits) -> bool {
        match self.name.as_str() {
            "Terminating" => pod.terminating,
            "NotTerminating" => !pod.terminating,
            "BestEffort" => pod.best_effort,
            "NotBestEffort" => !pod.best_effort,
            "CrossNamespacePodAffinity" => pod.across_namespaces,
            "PriorityClass" => {
                let class = &pod.priority_class;
                match self.operator.as_str() {
                    "In" => !class.is_empty() && self.values.contains(class),
                    "NotIn" => !self.values.contains(class),
                    "DoesNotExist" => class.is_empty(),
                    _ => !class.is_empty(),
                }
            }
            _ => false,
        }
    }
}

impl Quota {
    /// Reads a quota from its object.
    pub(crate) fn read(quota: &Value) -> Quota {
        let spec = &quota["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let plain = elements(&spec["scopes"]).map(|name| Scope {
            name: text(name),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        });
        let expressions = elements(&spec["scopeSelector"]["matchExpressions"]);
        let expressions = expressions.map(|expression| Scope {
            name: text(&expression["scopeName"]),
            operator: text(&expression["operator"]),
            values: elements(&expression["values"]).map(text).collect(),
        });
        Quota {
            name: text(&quota["metadata"]["name"]),
            hard: resources::amounts(&spec["hard"]),
            scopes: plain.chain(expressions).collect(),
        }
    }

    /// Says whether a quota counts an object: scopes are about pods, and all have to hold.
    fn selects(&self, charge: &Charge) -> bool {
        let pod = charge.traits.as_ref();
        let mut scopes = self.scopes.iter();
        scopes.all(|scope| pod.is_some_and(|pod| scope.selects(pod)))
    }

    /// Returns what a quota counts of an object.
    fn counted(&self, charge: &Charge) -> Amounts {
        let mut counted = charge.amounts.clone();
        counted.retain(|name, _| self.hard.contains_key(name) && self.selects(charge));
        counted
    }

    /// Adds up what objects use of what the quota limits, with a zero where they use nothing.
    pub(crate) fn used<'c>(&self, charges: impl Iterator<Item = &'c Charge>) -> Amounts {
        let none = self
            .hard
            .keys()
            .map(|name| (name.clone(), Quantity::whole(0)));
        let mut used: Amounts = none.collect();
        for charge in charges {
            resources::add(&mut used, self.counted(charge));
        }
        used
    }

    /// Says which containers do not say how much they need, although the quota counts it.
    fn unsaid(&self, spec: &Value) -> Option<String> {
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for list in ["containers", "initContainers"] {
            for container in elements(&spec[list]) {
                for name in DEMANDED
                    .iter()
                    .filter(|name| self.hard.contains_key(**name))
                {
                    let (list, resource) = match name.split_once('.') {
                        Some((list, resource)) => (list, resource),
                        None => ("requests", *name),
                    };
                    if container["resources"][list].get(resource).is_none() {
                        let container = container["name"].as_str().unwrap_or_default();
                        missing.entry(name).or_default().insert(container);
                    }
                }
            }
        }
        let sentence = |(name, containers): (&&str, &BTreeSet<&str>)| {
            let containers: Vec<_> = containers.iter().copied().collect();
            format!("{name} for: {}", containers.join(","))
        };
        let sentences: Vec<_> = missing.iter().map(sentence).collect();
        (!sentences.is_empty()).then(|| format!("must specify {}", sentences.join("; ")))
    }
}

/// Refuses what would exceed a quota and notes what is taken until it is written.
pub(super) fn enforce<'a>(
    request: &Request<'_>,
    pending: &'a Pending,
    object: &Value,
    claims: &mut Claims<'a>,
) -> Result<(), ApiError> {
    let info = request.info();
    let counted = match (info.group, info.kind) {
        // Events come and go by themselves; Kubernetes leaves them out.
        (_, "Event") => false,
        // These can come to use more.
        ("", "PersistentVolumeClaim" | "Service") => true,
        _ => request.creates() || request.resizes(),
    };
    let is_part = request.call.objects.subresource.is_some() && !request.resizes();
    if !counted || is_part || request.namespace().is_empty() {
        return Ok(());
    }
    let quotas = request.records(known("v1", "ResourceQuota"));
    if quotas.is_empty() {
        return Ok(());
    }
    let charge = Charge::of(info, object);
    let before = request.old.map(|old| Charge::of(info, old));
    let quotas: Vec<_> = quotas
        .iter()
        .map(|quota| Quota::read(&object::parse(quota)))
        .collect();
    for quota in quotas.iter().filter(|quota| quota.selects(&charge)) {
        let unsaid = (info.kind == "Pod")
            .then(|| quota.unsaid(&object["spec"]))
            .flatten();
        if let Some(unsaid) = unsaid {
            let why = format!("failed quota: {}: {unsaid}", quota.name);
            return Err(request.forbidden(object, &why));
        }
    }
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let entries = pending.lock();
    let stored = request.records(info);
    // An object that is both stored and on its way counts as what it will be.
    let coming = entries
        .of(info)
        .filter(|entry| entry.namespace == request.namespace());
    let mut others: HashMap<&str, &Charge> = stored
        .iter()
        .map(|record| (&*record.index.uid, Charge::of_record(info, record)))
        .collect();
    others.extend(coming.map(|entry| (entry.uid.as_str(), &entry.charge)));
    others.remove(uid);
    for quota in &quotas {
        let others = others.values().copied();
        if let Some(why) = exceeded(quota, others, &charge, before.as_ref()) {
            return Err(request.forbidden(object, &why));
        }
    }
    pending.claim(entries, (info, request.namespace(), uid), charge, claims);
    Ok(())
}

/// Says by how much a quota would be exceeded.
fn exceeded<'c>(
    quota: &Quota,
    others: impl Iterator<Item = &'c Charge>,
    charge: &Charge,
    before: Option<&Charge>,
) -> Option<String> {
    let asked = quota.counted(charge);
    let had = before
        .map(|before| quota.counted(before))
        .unwrap_or_default();
    let nothing = Quantity::whole(0);
    let more = |name: &str, amount: Quantity| {
        let had = had.get(name).copied().unwrap_or(nothing);
        amount.exceeds(had).then(|| amount.minus(had))
    };
    let asked: Vec<_> = asked
        .iter()
        .filter_map(|(name, amount)| Some((name, *amount, more(name, *amount)?)))
        .collect();
    if asked.is_empty() {
        return None;
    }
    let used = quota.used(others);
    let mut lists = [String::new(), String::new(), String::new()];
    for (name, amount, more) in asked {
        let (used, hard) = (used[name], quota.hard[name]);
        if !used.plus(amount).exceeds(hard) {
            continue;
        }
        let used = used.plus(amount).minus(more);
        for (list, amount) in lists.iter_mut().zip([more, used, hard]) {
            let separator = if list.is_empty() { "" } else { "," };
            list.push_str(&format!("{separator}{name}={amount}"));
        }
    }
    let [requested, used, limited] = lists;
    let name = &quota.name;
    (!requested.is_empty()).then(|| {
        format!("exceeded quota: {name}, requested: {requested}, used: {used}, limited: {limited}")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(spec: Value) -> Quota {
        Quota::read(&json!({"metadata": {"name": "q"}, "spec": spec}))
    }

    fn pod_charge(spec: Value) -> Charge {
        Charge::of(known("v1", "Pod"), &json!({"spec": spec}))
    }

    #[test]
    fn a_pod_counts_by_all_its_names() {
        let charge = pod_charge(json!({"containers": [{"resources": {
            "requests": {"cpu": "1", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}}}]}));
        let found: Vec<_> = charge
            .amounts
            .iter()
            .map(|(name, n)| format!("{name}={n}"))
            .collect();
        assert_eq!(
            found,
            [
                "count/pods=1",
                "cpu=1",
                "limits.memory=1Gi",
                "pods=1",
                "requests.cpu=1",
                "requests.example.com/gpu=2",
            ]
        );
        let over = json!({"spec": {}, "status": {"phase": "Succeeded"}});
        let charge = Charge::of(known("v1", "Pod"), &over);
        assert_eq!(charge.amounts.keys().collect::<Vec<_>>(), ["count/pods"]);
    }

    #[test]
    fn a_claim_counts_with_its_size_and_by_its_class() {
        let check = |claim: Value, expected: &[&str]| {
            let charge = Charge::of(known("v1", "PersistentVolumeClaim"), &claim);
            let found = charge.amounts.iter();
            let found: Vec<_> = found.map(|(name, n)| format!("{name}={n}")).collect();
            assert_eq!(found, expected, "{claim}");
        };
        let count = "count/persistentvolumeclaims=1";
        let size = json!({"requests": {"storage": "5Gi"}});
        check(
            json!({"spec": {"storageClassName": "fast", "resources": size}}),
            &[
                count,
                "fast.storageclass.storage.k8s.io/persistentvolumeclaims=1",
                "fast.storageclass.storage.k8s.io/requests.storage=5Gi",
                "persistentvolumeclaims=1",
                "requests.storage=5Gi",
            ],
        );
        check(
            json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "old"}},
                "spec": {"resources": {"requests": {"storage": "1500m"}}}}),
            &[
                count,
                "old.storageclass.storage.k8s.io/persistentvolumeclaims=1",
                "old.storageclass.storage.k8s.io/requests.storage=2",
                "persistentvolumeclaims=1",
                "requests.storage=2",
            ],
        );
        let none = json!({"spec": {"storageClassName": ""}});
        check(none, &[count, "persistentvolumeclaims=1"]);
    }

    #[test]
    fn a_claim_that_grows_uses_more() {
        let claim = |size: &str| {
            let object = json!({"spec": {"resources": {"requests": {"storage": size}}}});
            Charge::of(known("v1", "PersistentVolumeClaim"), &object)
        };
        let limits =
            quota(json!({"hard": {"persistentvolumeclaims": "2", "requests.storage": "4Gi"}}));
        let (before, other) = (claim("1Gi"), [claim("2Gi")]);
        let grown = |size: &str| exceeded(&limits, other.iter(), &claim(size), Some(&before));
        assert_eq!(grown("2Gi"), None);
        assert_eq!(
            grown("3Gi").as_deref(),
            Some(
                "exceeded quota: q, requested: requests.storage=2Gi, used: requests.storage=3Gi, \
                 limited: requests.storage=4Gi"
            )
        );
    }

    #[test]
    fn scopes_choose_the_pods_that_count() {
        let check = |scopes: Value, spec: Value, expected: bool| {
            let mut limits = json!({"hard": {"pods": "1"}});
            json_patch::merge(&mut limits, &scopes);
            assert_eq!(
                quota(limits).selects(&pod_charge(spec.clone())),
                expected,
                "{scopes} {spec}"
            );
        };
        let plain = json!({"containers": [{}]});
        let deadline = json!({"containers": [{}], "activeDeadlineSeconds": 1});
        let cpu = json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}]});
        let classed = json!({"containers": [{}], "priorityClassName": "high"});
        check(json!({}), plain.clone(), true);
        check(json!({"scopes": ["BestEffort"]}), plain.clone(), true);
        check(json!({"scopes": ["BestEffort"]}), cpu.clone(), false);
        check(json!({"scopes": ["NotBestEffort"]}), cpu, true);
        check(json!({"scopes": ["Terminating"]}), deadline.clone(), true);
        check(
            json!({"scopes": ["Terminating", "NotBestEffort"]}),
            deadline,
            false,
        );
        check(json!({"scopes": ["NotTerminating"]}), plain.clone(), true);
        let class = |operator: &str, values: &[&str]| {
            json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass",
                "operator": operator, "values": values}]}})
        };
        check(class("In", &["high"]), classed.clone(), true);
        check(class("In", &["low"]), classed.clone(), false);
        check(class("NotIn", &["high"]), plain.clone(), true);
        check(class("Exists", &[]), classed, true);
        check(class("DoesNotExist", &[]), plain, true);
    }

    #[test]
    fn what_is_exceeded_is_told() {
        let one = || pod_charge(json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}]}));
        let check = |hard: Value, others: usize, expected: Option<&str>| {
            let others: Vec<_> = (0..others).map(|_| one()).collect();
            let found = exceeded(&quota(json!({"hard": hard})), others.iter(), &one(), None);
            assert_eq!(found.as_deref(), expected, "{hard}");
        };
        check(json!({"pods": "2"}), 1, None);
        check(
            json!({"pods": "1", "requests.cpu": "1500m", "services": "0"}),
            1,
            Some(
                "exceeded quota: q, requested: pods=1,requests.cpu=1, used: pods=1,requests.cpu=1, \
                 limited: pods=1,requests.cpu=1500m",
            ),
        );
        check(json!({"services": "0"}), 1, None);
    }

    #[test]
    fn a_change_counts_what_it_adds() {
        let service = |kind: &str| {
            let object = json!({"spec": {"type": kind, "ports": [{"port": 1}]}});
            Charge::of(known("v1", "Service"), &object)
        };
        let limits = quota(json!({"hard": {"services": "1", "services.nodeports": "0"}}));
        let (before, after) = (service("ClusterIP"), service("NodePort"));
        let none = || [].iter();
        assert_eq!(exceeded(&limits, none(), &before, Some(&before)), None);
        assert_eq!(
            exceeded(&limits, none(), &after, Some(&before)).as_deref(),
            Some(
                "exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=0, \
                 limited: services.nodeports=0"
            )
        );
    }

    #[test]
    fn containers_have_to_say_what_is_counted() {
        let limits =
            quota(json!({"hard": {"limits.cpu": "1", "requests.memory": "1", "pods": "1"}}));
        let spec = json!({"containers": [{"name": "b"}, {"name": "a",
            "resources": {"limits": {"cpu": "1"}}}]});
        assert_eq!(
            limits.unsaid(&spec).as_deref(),
            Some("must specify limits.cpu for: b; requests.memory for: a,b")
        );
        assert_eq!(quota(json!({"hard": {"pods": "1"}})).unsaid(&spec), None);
    }
}
