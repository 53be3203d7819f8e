//! Objects as these controllers see them: a few facts, everything else is skipped while it is read.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, runtime::watcher::Event};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

pub(super) type Labels = BTreeMap<String, String>;

/// Namespace and name.
pub(super) type Key = (Arc<str>, Arc<str>);

/// When what endpoints depend on has changed, for those who measure how long the change takes.
pub(super) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// An object reduced to facts.
#[derive(Clone, Debug)]
pub(super) struct Seen<F> {
    /// Its names and its version.
    pub(super) metadata: ObjectMeta,
    pub(super) facts: F,
}

/// What is kept of objects of a kind.
pub(super) trait Facts: Clone + std::fmt::Debug + Send + 'static {
    /// The kind.
    type Kind: Resource<DynamicType = ()>;
    /// The fields that are read.
    type Wire: for<'de> Deserialize<'de>;

    fn of(wire: Self::Wire) -> (WireMeta, Self);
}

/// The fields of an object's metadata that are read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireMeta {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) creation_timestamp: Option<Timestamp>,
    deletion_timestamp: Option<IgnoredAny>,
    pub(super) labels: Option<Labels>,
    pub(super) annotations: Option<Labels>,
    pub(super) owner_references: Option<Vec<OwnerReference>>,
    pub(super) finalizers: Option<Vec<String>>,
}

/// What an object of ours has beside what we put there, kept when it is written anew.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Extras {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: Labels,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) owner_references: Vec<OwnerReference>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) finalizers: Vec<String>,
}

/// Which state of an object is known. Later states have greater numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Version(pub(super) String);

/// What an event says of one object.
#[derive(Debug)]
pub(super) enum Change<F> {
    Is(Key, F),
    IsGone(Key),
}

/// How far the list of a kind has come; what a new list does not name is gone at its end.
#[derive(Debug, Default)]
pub(super) struct Listing {
    seen: Option<HashSet<Key>>,
    once: bool,
}

impl WireMeta {
    pub(super) fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// Takes what is kept when the object is written anew; the trigger time belongs to one write.
    pub(super) fn extras(&mut self) -> Extras {
        let mut annotations = self.annotations.take().unwrap_or_default();
        annotations.remove(TRIGGER_TIME);
        Extras {
            annotations,
            owner_references: self.owner_references.take().unwrap_or_default(),
            finalizers: self.finalizers.take().unwrap_or_default(),
        }
    }

    pub(super) fn version(&self) -> Version {
        Version(self.resource_version.clone().unwrap_or_default())
    }
}

impl Version {
    /// Says whether this state comes before another one; unknown if one of them is no number.
    pub(super) fn is_before(&self, other: &Version) -> bool {
        let number = |version: &Version| version.0.parse::<u64>().ok();
        matches!((number(self), number(other)), (Some(a), Some(b)) if a < b)
    }
}

impl<F> Seen<F> {
    pub(super) fn key(&self) -> Key {
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        (text(&self.metadata.namespace), text(&self.metadata.name))
    }
}

impl Listing {
    /// Says whether a list has been read to its end at least once.
    pub(super) fn is_known(&self) -> bool {
        self.once
    }

    /// Returns what an event changes, given which objects are known.
    pub(super) fn take<F>(
        &mut self,
        event: Event<Seen<F>>,
        known: impl FnOnce() -> Vec<Key>,
    ) -> Vec<Change<F>> {
        match event {
            Event::Apply(object) => vec![Change::Is(object.key(), object.facts)],
            Event::Delete(object) => vec![Change::IsGone(object.key())],
            Event::Init => {
                self.seen = Some(HashSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let key = object.key();
                if let Some(seen) = &mut self.seen {
                    seen.insert(key.clone());
                }
                vec![Change::Is(key, object.facts)]
            }
            Event::InitDone => {
                let seen = self.seen.take().unwrap_or_default();
                let first = !std::mem::replace(&mut self.once, true);
                // Before the first list, nothing was known that could be gone.
                let known = if first { Vec::new() } else { known() };
                let gone = known.into_iter().filter(|key| !seen.contains(key));
                gone.map(Change::IsGone).collect()
            }
        }
    }
}

/// Equal values are kept once.
#[derive(Debug)]
pub(super) struct Pool<T: ?Sized + Eq + Hash> {
    values: HashSet<Arc<T>>,
    /// Above so many, those that nobody holds are dropped.
    look_at: usize,
}

/// So many values that nobody holds may stay, so that they are not looked for all the time.
const STALE_MAX: usize = 256;

impl<T: ?Sized + Eq + Hash> Default for Pool<T> {
    fn default() -> Self {
        Pool {
            values: HashSet::new(),
            look_at: STALE_MAX,
        }
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    pub(super) fn share(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.values.get(&value) {
            return Arc::clone(known);
        }
        if self.values.len() >= self.look_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            // Doubling keeps the cost of looking through them small against that of adding them.
            self.look_at = self.values.len() * 2 + STALE_MAX;
        }
        self.values.insert(Arc::clone(&value));
        value
    }
}

impl<'de, F: Facts> Deserialize<'de> for Seen<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (wire, facts) = F::of(F::Wire::deserialize(deserializer)?);
        let metadata = ObjectMeta {
            name: wire.name,
            namespace: wire.namespace,
            uid: wire.uid,
            resource_version: wire.resource_version,
            ..ObjectMeta::default()
        };
        Ok(Seen { metadata, facts })
    }
}

impl<F: Facts> Resource for Seen<F> {
    type DynamicType = ();
    type Scope = <F::Kind as Resource>::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        F::Kind::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        F::Kind::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        F::Kind::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        F::Kind::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
