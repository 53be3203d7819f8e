//! Who owns whom, as far as the watches have told.
//!
//! Of most objects only is kept that they exist. Those that have owners, or wait for what they
//! own, are nodes.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::watcher::Event;
use uuid::Uuid;

use super::{
    super::{
        catalogue::{Catalogue, Kind},
        thin::Thin,
    },
    work::{Dependents, Job, Object, Task},
};

/// The finalizer of an object that goes after what it owns.
pub(super) const FOREGROUND: &str = "foregroundDeletion";

/// The finalizer of an object whose dependents stay.
pub(super) const ORPHAN: &str = "orphan";

/// A UID in the little room that most UIDs need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Uid(u128);

/// What there is to do about an object.
#[derive(Debug)]
pub(super) enum Next {
    Nothing,
    /// These are to be looked at first.
    LookAt(Vec<Uid>),
    Do(Job),
}

/// The objects and their ties.
#[derive(Debug)]
pub(super) struct Graph {
    catalogue: Arc<Catalogue>,
    /// Every object that exists.
    present: HashMap<Uid, Place>,
    nodes: HashMap<Uid, Node>,
    /// By owner, whether or not the owner exists.
    dependents: HashMap<Uid, HashSet<Uid>>,
    /// What each list that is under way has shown so far.
    lists: HashMap<usize, HashSet<Uid>>,
    /// The kinds whose first list is not complete yet.
    unlisted: HashSet<usize>,
}

/// Where an object is: its kind, and its namespace and name in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    kind: u16,
    namespace: u32,
    name: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    object: Object,
    owners: Box<[Edge]>,
    life: Life,
}

/// One reference to an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Edge {
    owner: Uid,
    /// Where the reference says the owner is; none if the server has no such kind.
    place: Option<Place>,
    /// Whether an owner that is deleted in the foreground waits for this object.
    blocks: bool,
}

/// What an object waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Nothing: it has not been deleted.
    Living,
    /// It has been deleted and waits for someone else.
    Ending,
    /// It has been deleted and waits until what it owns has gone.
    Foreground,
    /// It has been deleted and waits until what it owns is free.
    Orphaning,
}

impl Uid {
    pub(super) fn of(text: &str) -> Uid {
        match Uuid::try_parse(text) {
            Ok(uuid) => Uid(uuid.as_u128()),
            // Other servers may draw other UIDs.
            Err(_) => Uid(u128::from(hash(&(text, 0))) << 64 | u128::from(hash(&(text, 1)))),
        }
    }
}

impl Graph {
    pub(super) fn new(catalogue: Arc<Catalogue>, watched: fn(&Kind) -> bool) -> Graph {
        let kinds = catalogue.preferred.iter().enumerate();
        let unlisted = kinds
            .filter(|(_, kind)| watched(kind))
            .map(|(index, _)| index);
        Graph {
            unlisted: unlisted.collect(),
            catalogue,
            present: HashMap::new(),
            nodes: HashMap::new(),
            dependents: HashMap::new(),
            lists: HashMap::new(),
        }
    }

    /// Says whether every kind has been listed.
    pub(super) fn is_ready(&self) -> bool {
        self.unlisted.is_empty()
    }

    /// Takes in what a watch tells; returns which objects have to be looked at.
    pub(super) fn apply(&mut self, kind: usize, event: &Event<Thin>) -> Vec<Uid> {
        match event {
            Event::Apply(object) => self.observe(kind, object),
            Event::Delete(object) => self.remove(Uid::of(object.uid())),
            Event::Init => {
                self.lists.insert(kind, HashSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let seen = self.lists.entry(kind).or_default();
                seen.insert(Uid::of(object.uid()));
                self.observe(kind, object)
            }
            Event::InitDone => {
                let seen = self.lists.remove(&kind).unwrap_or_default();
                self.unlisted.remove(&kind);
                let gone = self
                    .present
                    .iter()
                    .filter(|(uid, place)| usize::from(place.kind) == kind && !seen.contains(uid));
                let gone: Vec<_> = gone.map(|(uid, _)| *uid).collect();
                gone.into_iter().flat_map(|uid| self.remove(uid)).collect()
            }
        }
    }

    fn observe(&mut self, kind: usize, object: &Thin) -> Vec<Uid> {
        let uid = Uid::of(object.uid());
        let place = Place::new(kind, object.namespace(), object.name());
        self.present.insert(uid, place);
        let fresh = self.node(kind, object);
        let before = self.nodes.get(&uid);
        if before == fresh.as_ref() {
            return Vec::new();
        }
        let life = |node: Option<&Node>| node.map(|node| node.life);
        let begins_to_wait = life(fresh.as_ref()) == Some(Life::Foreground)
            && life(before) != Some(Life::Foreground);
        let mut keys = self.detach(uid);
        if let Some(node) = fresh {
            for edge in &node.owners {
                self.dependents.entry(edge.owner).or_default().insert(uid);
                keys.extend(Some(edge.owner).filter(|owner| self.waits(owner)));
            }
            self.nodes.insert(uid, node);
            keys.push(uid);
        }
        if begins_to_wait {
            keys.extend(self.dependents_of(uid));
        }
        keys
    }

    /// An object is gone; returns which others have to be looked at.
    pub(super) fn remove(&mut self, uid: Uid) -> Vec<Uid> {
        self.present.remove(&uid);
        let mut keys = self.detach(uid);
        keys.extend(self.dependents_of(uid));
        keys
    }

    /// Takes an object's node out; returns the owners that waited for it.
    fn detach(&mut self, uid: Uid) -> Vec<Uid> {
        let Some(node) = self.nodes.remove(&uid) else {
            return Vec::new();
        };
        for edge in &node.owners {
            if let Some(dependents) = self.dependents.get_mut(&edge.owner) {
                dependents.remove(&uid);
                if dependents.is_empty() {
                    self.dependents.remove(&edge.owner);
                }
            }
        }
        let owners = node.owners.iter().map(|edge| edge.owner);
        owners.filter(|owner| self.waits(owner)).collect()
    }

    fn waits(&self, uid: &Uid) -> bool {
        let node = self.nodes.get(uid);
        node.is_some_and(|node| node.life == Life::Foreground)
    }

    fn dependents_of(&self, uid: Uid) -> impl Iterator<Item = Uid> {
        let dependents = self.dependents.get(&uid);
        dependents.into_iter().flatten().copied()
    }

    /// Decides what there is to do about an object; `absent` owners need not be asked for again.
    pub(super) fn next(&self, uid: Uid, absent: &HashSet<Uid>) -> Next {
        let Some(node) = self.nodes.get(&uid) else {
            return Next::Nothing;
        };
        let task = match node.life {
            Life::Ending => return Next::Nothing,
            Life::Living if self.is_settled(node) => return Next::Nothing,
            Life::Living => Task::Check {
                dependents: self.own_dependents(uid),
                absent: node
                    .owners
                    .iter()
                    .map(|edge| edge.owner)
                    .filter(|owner| absent.contains(owner) && !self.present.contains_key(owner))
                    .collect(),
            },
            Life::Foreground => {
                let blocking: Vec<_> = self.blocking(uid).collect();
                if !blocking.is_empty() {
                    let idle = blocking.into_iter().filter(|uid| !self.waits(uid));
                    return Next::LookAt(idle.collect());
                }
                Task::Release(FOREGROUND)
            }
            Life::Orphaning => {
                let nodes = self
                    .dependents_of(uid)
                    .filter_map(|uid| self.nodes.get(&uid));
                Task::Orphan(nodes.map(|node| node.object.clone()).collect())
            }
        };
        Next::Do(Job {
            object: node.object.clone(),
            task,
            misplaced: self.misplaced(node),
        })
    }

    /// Says whether all owners are there, and none waits for the object.
    fn is_settled(&self, node: &Node) -> bool {
        node.owners.iter().all(|edge| {
            let found = self.present.get(&edge.owner);
            found.is_some() && found == edge.place.as_ref() && !self.waits(&edge.owner)
        })
    }

    fn own_dependents(&self, uid: Uid) -> Dependents {
        if self.dependents_of(uid).next().is_none() {
            Dependents::None
        } else if self.dependents_of(uid).any(|uid| self.waits(&uid)) {
            Dependents::Waiting
        } else {
            Dependents::Some
        }
    }

    /// Returns the dependents for which an owner in foreground deletion waits.
    fn blocking(&self, owner: Uid) -> impl Iterator<Item = Uid> {
        self.dependents_of(owner).filter(move |&uid| {
            let node = self.nodes.get(&uid);
            let mut edges = node.into_iter().flat_map(|node| &node.owners);
            // What owns itself would wait for ever.
            uid != owner && edges.any(|edge| edge.owner == owner && edge.blocks)
        })
    }

    /// Returns the owners of a node that live in another namespace than it does.
    fn misplaced(&self, node: &Node) -> Vec<Uid> {
        let namespace = short(&node.object.namespace);
        let elsewhere = |place: &Place| {
            let kind = self.catalogue.preferred.get(usize::from(place.kind));
            kind.is_some_and(|kind| kind.namespaced) && place.namespace != namespace
        };
        let owners = node.owners.iter().map(|edge| edge.owner);
        owners
            .filter(|owner| self.present.get(owner).is_some_and(elsewhere))
            .collect()
    }

    /// Returns what is kept of an object, if it has ties.
    fn node(&self, kind: usize, object: &Thin) -> Option<Node> {
        let life = match object.is_deleting() {
            false => Life::Living,
            true if object.has_finalizer(ORPHAN) => Life::Orphaning,
            true if object.has_finalizer(FOREGROUND) => Life::Foreground,
            true => Life::Ending,
        };
        if object.owners().is_empty() && matches!(life, Life::Living | Life::Ending) {
            return None;
        }
        let edges = object.owners().iter();
        let edges = edges.map(|owner| self.edge(object.namespace(), owner));
        Some(Node {
            object: Object {
                kind,
                namespace: object.namespace().into(),
                name: object.name().into(),
                uid: object.uid().into(),
            },
            owners: edges.collect(),
            life,
        })
    }

    fn edge(&self, namespace: &str, owner: &OwnerReference) -> Edge {
        let kind = self
            .catalogue
            .preferred_index(&owner.api_version, &owner.kind);
        let place = kind.map(|(index, kind)| {
            let namespace = if kind.namespaced { namespace } else { "" };
            Place::new(index, namespace, &owner.name)
        });
        Edge {
            owner: Uid::of(&owner.uid),
            place,
            blocks: owner.block_owner_deletion == Some(true),
        }
    }
}

impl Place {
    fn new(kind: usize, namespace: &str, name: &str) -> Place {
        Place {
            kind: u16::try_from(kind).unwrap_or(u16::MAX),
            namespace: short(namespace),
            name: short(name),
        }
    }
}

/// Shortens a text; two texts that happen to look alike only hide a wrong reference.
fn short(text: &str) -> u32 {
    let [_, _, _, _, rest @ ..] = hash(&text).to_be_bytes();
    u32::from_be_bytes(rest)
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
