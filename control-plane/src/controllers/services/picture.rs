//! What is known of Services, their pods and what was made for them, and what an event calls for.
//!
//! A pod is found from a Service by a list of its members, a Service from a pod by an index of
//! selectors; so a change of one pod costs what its Services cost, not what the cluster costs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use kube::runtime::watcher::Event;

use super::{
    endpoints::{self, EndpointsFacts, Wanted},
    pod::{NodeFacts, PodFacts, Shared},
    seen::{Change, Key, Listing, Seen},
    selectors::Selectors,
    service::{Keeper, ServiceFacts},
    slice::{MANAGED_BY, MANAGER, MIRROR, SERVICE_NAME, Slice},
    slices::{self, Observed, Plan},
};

/// What can be done for a Service; each by itself, so that one that fails holds up no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Duty {
    /// Slices of the pods that it selects.
    Slices,
    /// Endpoints of the pods that it selects.
    Endpoints,
    /// Slices made from Endpoints that a person wrote.
    Mirror,
}

/// One piece of work.
pub(super) type Task = (Duty, Key);

/// Everything that is known.
#[derive(Debug, Default)]
pub(super) struct Picture {
    namespaces: HashMap<Arc<str>, Namespace>,
    nodes: HashMap<Arc<str>, NodeFacts>,
    shared: Shared,
    services_list: Listing,
    pods_list: Listing,
    nodes_list: Listing,
    slices_list: Listing,
    endpoints_list: Listing,
}

#[derive(Debug, Default)]
struct Namespace {
    pods: BTreeMap<Arc<str>, PodFacts>,
    services: HashMap<Arc<str>, Entry>,
    selectors: Selectors,
    endpoints: HashMap<Arc<str>, EndpointsFacts>,
    /// Endpoints whose Service was seen to go, which go with it whoever wrote them.
    widowed: HashSet<Arc<str>>,
    /// The slices that are looked after here, by Service and name.
    slices: HashMap<Arc<str>, BTreeMap<Arc<str>, Slice>>,
    /// The names of slices made from Endpoints, by Service.
    mirrors: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Which Service a slice is known under.
    service_of: HashMap<Arc<str>, (Duty, Arc<str>)>,
}

#[derive(Debug)]
struct Entry {
    facts: ServiceFacts,
    /// The pods that it selects.
    members: BTreeSet<Arc<str>>,
    /// Since when its slices and its Endpoints are behind what they shall say.
    behind: [Option<Timestamp>; 2],
}

/// What is to be written for the Endpoints of a Service.
#[derive(Debug)]
pub(super) enum EndpointsStep {
    Write(Wanted, Option<EndpointsFacts>, Option<Timestamp>),
    Delete(EndpointsFacts),
}

impl EndpointsStep {
    /// Returns since when what is written was due.
    pub(super) fn trigger(&self) -> Option<Timestamp> {
        match self {
            EndpointsStep::Write(_, _, trigger) => *trigger,
            EndpointsStep::Delete(_) => None,
        }
    }
}

impl Picture {
    /// Says whether everything has been listed once; before that, every plan would be a guess.
    pub(super) fn is_known(&self) -> bool {
        let lists = [
            &self.services_list,
            &self.pods_list,
            &self.nodes_list,
            &self.slices_list,
            &self.endpoints_list,
        ];
        lists.iter().all(|list| list.is_known())
    }

    /// Takes in news of a pod; returns what has to be done.
    pub(super) fn on_pod(&mut self, event: Event<Seen<Option<PodFacts>>>) -> Vec<Task> {
        let namespaces = &self.namespaces;
        let known = || keys(namespaces, |namespace| namespace.pods.keys().collect());
        let mut tasks = Vec::new();
        for change in self.pods_list.take(event, known) {
            match change {
                Change::Is(key, Some(mut pod)) => {
                    self.shared.pod(&mut pod);
                    let namespace = self.namespaces.entry(Arc::clone(&key.0)).or_default();
                    namespace.set_pod(&key, pod, &mut tasks);
                }
                Change::Is(key, None) | Change::IsGone(key) => {
                    self.within(&key.0, |namespace| namespace.remove_pod(&key, &mut tasks));
                }
            }
        }
        tasks
    }

    pub(super) fn on_service(&mut self, event: Event<Seen<ServiceFacts>>) -> Vec<Task> {
        let namespaces = &self.namespaces;
        let known = || keys(namespaces, |namespace| namespace.services.keys().collect());
        let mut tasks = Vec::new();
        for change in self.services_list.take(event, known) {
            match change {
                Change::Is(key, facts) => {
                    let namespace = self.namespaces.entry(Arc::clone(&key.0)).or_default();
                    namespace.set_service(&key, facts, &mut tasks);
                }
                Change::IsGone(key) => {
                    self.within(&key.0, |namespace| {
                        namespace.remove_service(&key, &mut tasks)
                    });
                }
            }
        }
        tasks
    }

    pub(super) fn on_endpoints(&mut self, event: Event<Seen<EndpointsFacts>>) -> Vec<Task> {
        let namespaces = &self.namespaces;
        let known = || keys(namespaces, |namespace| namespace.endpoints.keys().collect());
        let mut tasks = Vec::new();
        for change in self.endpoints_list.take(event, known) {
            match change {
                Change::Is(key, facts) => {
                    let namespace = self.namespaces.entry(Arc::clone(&key.0)).or_default();
                    namespace.set_endpoints(&key, facts, &mut tasks);
                }
                Change::IsGone(key) => {
                    self.within(&key.0, |namespace| {
                        namespace.remove_endpoints(&key, &mut tasks)
                    });
                }
            }
        }
        tasks
    }

    pub(super) fn on_slice(&mut self, event: Event<Seen<Slice>>) -> Vec<Task> {
        let namespaces = &self.namespaces;
        let known = || {
            keys(namespaces, |namespace| {
                namespace.service_of.keys().collect()
            })
        };
        let mut tasks = Vec::new();
        for change in self.slices_list.take(event, known) {
            match change {
                Change::Is(key, slice) => {
                    let slice = self.share(slice);
                    let namespace = self.namespaces.entry(Arc::clone(&key.0)).or_default();
                    namespace.set_slice(&key, slice, &mut tasks);
                    self.drop_if_empty(&key.0);
                }
                Change::IsGone(key) => {
                    self.within(&key.0, |namespace| namespace.remove_slice(&key, &mut tasks));
                }
            }
        }
        tasks
    }

    pub(super) fn on_node(&mut self, event: Event<Seen<NodeFacts>>) -> Vec<Task> {
        let nodes = &self.nodes;
        let none: Arc<str> = "".into();
        let known = || {
            nodes
                .keys()
                .map(|name| (Arc::clone(&none), Arc::clone(name)))
                .collect()
        };
        let changes = self.nodes_list.take(event, known);
        let mut tasks = Vec::new();
        for change in changes {
            let node = match change {
                Change::Is((_, node), facts) => {
                    let node = self.shared.text(&node);
                    if self.nodes.insert(Arc::clone(&node), facts.clone()) == Some(facts) {
                        continue;
                    }
                    node
                }
                Change::IsGone((_, node)) => {
                    self.nodes.remove(&node);
                    node
                }
            };
            // At first, everything is looked at anyway.
            if self.is_known() {
                self.wake_node(&node, &mut tasks);
            }
        }
        tasks
    }

    fn wake_node(&self, node: &Arc<str>, tasks: &mut Vec<Task>) {
        for (name, namespace) in &self.namespaces {
            let pods = namespace.pods.values().filter(|pod| pod.node == *node);
            let services: HashSet<_> = pods.flat_map(|pod| namespace.selecting(pod)).collect();
            let keys = services
                .into_iter()
                .map(|one| (Arc::clone(name), Arc::clone(one)));
            tasks.extend(keys.map(|key| (Duty::Slices, key)));
        }
    }

    /// Plans the slices of a Service; nothing if they are not ours to look after.
    pub(super) fn plan_slices(&mut self, (namespace, name): &Key) -> (Plan, Option<Timestamp>) {
        let Some(space) = self.namespaces.get_mut(namespace) else {
            return (Plan::default(), None);
        };
        let Some(entry) = space.services.get(name) else {
            return (Plan::default(), None);
        };
        if entry.facts.keeper != Keeper::Selector {
            return (Plan::default(), None);
        }
        let plan = slices::plan(&space.observe(name, entry, &self.nodes));
        (plan, space.catch_up(name, Duty::Slices))
    }

    /// Plans the Endpoints of a Service; nothing if they are right, or not ours to look after.
    pub(super) fn plan_endpoints(&mut self, (namespace, name): &Key) -> Option<EndpointsStep> {
        let space = self.namespaces.get_mut(namespace)?;
        let widowed = space.widowed.remove(name);
        let known = space.endpoints.get(name);
        let Some(entry) = space.services.get(name) else {
            let orphan = known.filter(|known| known.is_managed || widowed);
            return orphan.cloned().map(EndpointsStep::Delete);
        };
        if entry.facts.keeper != Keeper::Selector || (entry.facts.deleting && known.is_none()) {
            return None;
        }
        let observed = space.observe(name, entry, &self.nodes);
        let wanted = endpoints::wanted(namespace, &observed);
        let known = known.cloned();
        let trigger = space.catch_up(name, Duty::Endpoints);
        match known {
            Some(known) if known.says(&wanted) => None,
            known => Some(EndpointsStep::Write(wanted, known, trigger)),
        }
    }

    /// Returns the UID of a Service, if there is one.
    pub(super) fn uid(&self, (namespace, name): &Key) -> Option<Arc<str>> {
        let entry = self.namespaces.get(namespace)?.services.get(name)?;
        Some(Arc::clone(&entry.facts.uid))
    }

    /// Says whether the Endpoints that a person may have written are to be mirrored.
    pub(super) fn is_mirrored(&self, (namespace, name): &Key) -> bool {
        let space = self.namespaces.get(namespace);
        let entry = space.and_then(|space| space.services.get(name));
        // A name outside has Endpoints as little as anyone, but the stock controller mirrors them.
        entry.is_some_and(|entry| entry.facts.selector.is_empty())
    }

    /// What was written is known at once, before the watch tells.
    pub(super) fn wrote_slice(&mut self, (namespace, _): &Key, slice: Slice) {
        let Some(name) = slice.name.clone() else {
            return;
        };
        let slice = self.share(slice);
        let space = self.namespaces.entry(Arc::clone(namespace)).or_default();
        space.set_slice(&(Arc::clone(namespace), name), slice, &mut Vec::new());
    }

    pub(super) fn lost_slice(&mut self, (namespace, _): &Key, slice: &Arc<str>) {
        let key = (Arc::clone(namespace), Arc::clone(slice));
        self.within(namespace, |space| space.remove_slice(&key, &mut Vec::new()));
    }

    pub(super) fn wrote_endpoints(&mut self, key: &Key, facts: EndpointsFacts) {
        let space = self.namespaces.entry(Arc::clone(&key.0)).or_default();
        space.set_endpoints(key, facts, &mut Vec::new());
    }

    pub(super) fn lost_endpoints(&mut self, key: &Key) {
        self.within(&key.0, |space| space.remove_endpoints(key, &mut Vec::new()));
    }

    /// What was to be written is still to be written.
    pub(super) fn fell_behind(&mut self, (duty, key): &Task, since: Option<Timestamp>) {
        let space = self.namespaces.get_mut(&key.0);
        if let Some(entry) = space.and_then(|space| space.services.get_mut(&key.1)) {
            entry.fell_behind(*duty, since);
        }
    }

    fn share(&mut self, mut slice: Slice) -> Slice {
        for endpoint in &mut slice.endpoints {
            for text in [&mut endpoint.node, &mut endpoint.zone]
                .into_iter()
                .flatten()
            {
                *text = self.shared.text(text);
            }
        }
        slice
    }

    fn within(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Namespace)) {
        if let Some(namespace) = self.namespaces.get_mut(name) {
            change(namespace);
            self.drop_if_empty(name);
        }
    }

    fn drop_if_empty(&mut self, name: &Arc<str>) {
        if self.namespaces.get(name).is_some_and(Namespace::is_empty) {
            self.namespaces.remove(name);
        }
    }
}

fn keys<'a>(
    namespaces: &'a HashMap<Arc<str>, Namespace>,
    names: impl Fn(&'a Namespace) -> Vec<&'a Arc<str>>,
) -> Vec<Key> {
    let all = namespaces.iter().flat_map(|(space, namespace)| {
        let names = names(namespace).into_iter();
        names.map(|name| (Arc::clone(space), Arc::clone(name)))
    });
    all.collect()
}

impl Entry {
    fn fell_behind(&mut self, duty: Duty, since: Option<Timestamp>) {
        let Some(slot) = place(duty).and_then(|place| self.behind.get_mut(place)) else {
            return;
        };
        *slot = match (*slot, since) {
            (Some(known), Some(since)) => Some(known.min(since)),
            (known, since) => known.or(since),
        };
    }
}

/// Where the time of a duty stands.
fn place(duty: Duty) -> Option<usize> {
    match duty {
        Duty::Slices => Some(0),
        Duty::Endpoints => Some(1),
        Duty::Mirror => None,
    }
}

/// Both forms of a Service's endpoints.
fn both(key: &Key) -> [Task; 2] {
    [(Duty::Slices, key.clone()), (Duty::Endpoints, key.clone())]
}

impl Namespace {
    fn is_empty(&self) -> bool {
        self.pods.is_empty()
            && self.services.is_empty()
            && self.endpoints.is_empty()
            && self.service_of.is_empty()
    }

    fn observe<'a>(
        &'a self,
        name: &'a str,
        entry: &'a Entry,
        nodes: &'a HashMap<Arc<str>, NodeFacts>,
    ) -> Observed<'a> {
        let members = entry.members.iter();
        let slices = self.slices.get(name).into_iter().flatten();
        Observed {
            name,
            service: &entry.facts,
            pods: members
                .filter_map(|pod| self.pods.get_key_value(pod))
                .collect(),
            nodes,
            slices: slices.map(|(_, slice)| slice).collect(),
        }
    }

    /// Returns since when what is about to be written was due.
    fn catch_up(&mut self, name: &str, duty: Duty) -> Option<Timestamp> {
        let entry = self.services.get_mut(name)?;
        entry.behind.get_mut(place(duty)?)?.take()
    }

    /// Returns the Services that select a pod.
    fn selecting<'a>(&'a self, pod: &'a PodFacts) -> impl Iterator<Item = &'a Arc<str>> {
        let candidates = self.selectors.candidates(&pod.labels);
        candidates.filter(|name| {
            let entry = self.services.get(*name);
            entry.is_some_and(|entry| entry.facts.selects(&pod.labels))
        })
    }

    fn set_pod(&mut self, (space, name): &Key, pod: PodFacts, tasks: &mut Vec<Task>) {
        let old = self.pods.get(name);
        let is_same = old.is_some_and(|old| {
            let turned = old.turned;
            *old == PodFacts {
                turned,
                ..pod.clone()
            }
        });
        let turned = pod
            .turned
            .filter(|time| old.and_then(|old| old.turned) != Some(*time));
        let now: HashSet<Arc<str>> = self.selecting(&pod).cloned().collect();
        let before = old.into_iter().flat_map(|old| self.selecting(old));
        let left: Vec<Arc<str>> = before.filter(|one| !now.contains(*one)).cloned().collect();
        self.pods.insert(Arc::clone(name), pod);
        for service in &left {
            if let Some(entry) = self.services.get_mut(service) {
                entry.members.remove(name);
            }
        }
        for service in &now {
            if let Some(entry) = self.services.get_mut(service) {
                entry.members.insert(Arc::clone(name));
                entry.fell_behind(Duty::Slices, turned);
                entry.fell_behind(Duty::Endpoints, turned);
            }
        }
        if !is_same {
            let touched = left.into_iter().chain(now);
            tasks.extend(touched.flat_map(|service| both(&(Arc::clone(space), service))));
        }
    }

    fn remove_pod(&mut self, (space, name): &Key, tasks: &mut Vec<Task>) {
        let Some(pod) = self.pods.remove(name) else {
            return;
        };
        let services: Vec<_> = self.selecting(&pod).cloned().collect();
        for service in services {
            if let Some(entry) = self.services.get_mut(&service) {
                entry.members.remove(name);
            }
            tasks.extend(both(&(Arc::clone(space), service)));
        }
    }

    fn set_service(&mut self, key: &Key, facts: ServiceFacts, tasks: &mut Vec<Task>) {
        let name = &key.1;
        let old = self.services.get(name);
        if old.is_some_and(|old| old.facts == facts) {
            return;
        }
        let is_new = old.is_none_or(|old| old.facts.uid != facts.uid);
        let behind = match old {
            Some(old) if !is_new => old.behind,
            _ => [facts.created; 2],
        };
        self.widowed.remove(name);
        let selector = &facts.selector;
        if is_new || old.is_none_or(|old| old.facts.selector != *selector) {
            self.selectors.set(name, selector);
        }
        let pods = self
            .pods
            .iter()
            .filter(|(_, pod)| facts.selects(&pod.labels));
        let entry = Entry {
            members: pods.map(|(name, _)| Arc::clone(name)).collect(),
            facts,
            behind,
        };
        self.services.insert(Arc::clone(name), entry);
        tasks.extend(both(key));
        self.wake_mirror(key, tasks);
    }

    fn remove_service(&mut self, key: &Key, tasks: &mut Vec<Task>) {
        let name = &key.1;
        if self.services.remove(name).is_none() {
            return;
        }
        self.selectors.remove(name);
        if self.endpoints.contains_key(name) {
            self.widowed.insert(Arc::clone(name));
            tasks.push((Duty::Endpoints, key.clone()));
        }
        self.wake_mirror(key, tasks);
    }

    fn set_endpoints(&mut self, key: &Key, facts: EndpointsFacts, tasks: &mut Vec<Task>) {
        let known = self.endpoints.get(&key.1);
        if known.is_some_and(|known| facts.version.is_before(&known.version) || *known == facts) {
            return;
        }
        self.endpoints.insert(Arc::clone(&key.1), facts);
        tasks.push((Duty::Endpoints, key.clone()));
        self.wake_mirror(key, tasks);
    }

    fn remove_endpoints(&mut self, key: &Key, tasks: &mut Vec<Task>) {
        if self.endpoints.remove(&key.1).is_some() {
            self.widowed.remove(&key.1);
            tasks.push((Duty::Endpoints, key.clone()));
            self.wake_mirror(key, tasks);
        }
    }

    /// There is something to mirror, or something mirrored.
    fn wake_mirror(&self, key: &Key, tasks: &mut Vec<Task>) {
        let entry = self.services.get(&key.1);
        let selects_nothing = entry.is_some_and(|entry| entry.facts.selector.is_empty());
        let written = selects_nothing && self.endpoints.contains_key(&key.1);
        if written || self.mirrors.contains_key(&key.1) {
            tasks.push((Duty::Mirror, key.clone()));
        }
    }

    fn set_slice(&mut self, key: &Key, slice: Slice, tasks: &mut Vec<Task>) {
        let (space, name) = key;
        let label = |label: &str| slice.labels.get(label).map_or("", String::as_str);
        let duty = match label(MANAGED_BY) {
            MANAGER => Some(Duty::Slices),
            MIRROR => Some(Duty::Mirror),
            _ => None,
        };
        let service: Arc<str> = label(SERVICE_NAME).into();
        let place = duty
            .filter(|_| !service.is_empty())
            .map(|duty| (duty, service));
        if self.service_of.get(name) != place.as_ref() {
            self.remove_slice(key, tasks);
        }
        let Some((duty, service)) = place else {
            return;
        };
        let place = (duty, Arc::clone(&service));
        self.service_of.insert(Arc::clone(name), place);
        let task = (duty, (Arc::clone(space), Arc::clone(&service)));
        if duty == Duty::Mirror {
            let mirrors = self.mirrors.entry(service).or_default();
            mirrors.insert(Arc::clone(name));
            return tasks.push(task);
        }
        let slices = self.slices.entry(service).or_default();
        let known = slices.get(name);
        if known.is_some_and(|known| slice.version.is_before(&known.version) || *known == slice) {
            return;
        }
        slices.insert(Arc::clone(name), slice);
        tasks.push(task);
    }

    fn remove_slice(&mut self, (space, name): &Key, tasks: &mut Vec<Task>) {
        let Some((duty, service)) = self.service_of.remove(name) else {
            return;
        };
        if let Some(mirrors) = self.mirrors.get_mut(&service)
            && mirrors.remove(name)
            && mirrors.is_empty()
        {
            self.mirrors.remove(&service);
        }
        if let Some(slices) = self.slices.get_mut(&service)
            && slices.remove(name).is_some()
            && slices.is_empty()
        {
            self.slices.remove(&service);
        }
        tasks.push((duty, (Arc::clone(space), service)));
    }
}

#[cfg(test)]
mod tests;
