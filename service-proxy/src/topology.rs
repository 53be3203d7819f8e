//! Which endpoints of a port are used from here: readiness, then hints, then those that are ending.

use crate::facts::Condition;

/// Where routing happens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The node's name; nothing where no endpoint is local.
    pub(crate) node: Option<String>,
    /// The node's zone.
    pub(crate) zone: Option<String>,
}

/// What the choice depends on, of one endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    /// What it can do now.
    pub(crate) condition: Condition,
    /// The node it is on.
    pub(crate) node: Option<&'a str>,
    /// The nodes that shall use it.
    pub(crate) for_nodes: &'a [String],
    /// The zones that shall use it.
    pub(crate) for_zones: &'a [String],
}

/// What the choice at one place depends on, of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// What it can do now.
    pub(crate) condition: Condition,
    /// Whether it is on this node.
    pub(crate) is_local: bool,
    /// What its hints for nodes say.
    pub(crate) for_nodes: Hint,
    /// What its hints for zones say.
    pub(crate) for_zones: Hint,
}

/// What the hints of one kind say of an endpoint, at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    /// It has none.
    Missing,
    /// Others shall use it.
    Elsewhere,
    /// This place shall.
    Here,
}

/// The endpoints for each policy, as places in the list of candidates.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// Under the policy `Cluster`.
    pub(crate) cluster: Vec<usize>,
    /// Under the policy `Local`.
    pub(crate) local: Vec<usize>,
}

/// Which hints are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preference {
    All,
    SameNode,
    SameZone,
}

impl Candidate<'_> {
    /// Tells whether the endpoint is on this node.
    pub(crate) fn is_local(&self, place: &Place) -> bool {
        self.node.is_some() && self.node == place.node.as_deref()
    }

    /// Returns what the choice depends on at a place.
    pub(crate) fn standing(&self, place: &Place) -> Standing {
        Standing {
            condition: self.condition,
            is_local: self.is_local(place),
            for_nodes: Hint::of(self.for_nodes, place.node.as_deref()),
            for_zones: Hint::of(self.for_zones, place.zone.as_deref()),
        }
    }
}

/// Chooses the endpoints for each policy.
pub(crate) fn choose(all: impl Iterator<Item = Standing> + Clone) -> Chosen {
    let preference = preference(all.clone());
    let preferred = |one: &Standing| match preference {
        Preference::All => true,
        Preference::SameNode => one.for_nodes == Hint::Here,
        Preference::SameZone => one.for_zones == Hint::Here,
    };
    let local = |one: &Standing| one.is_local;
    Chosen {
        cluster: usable(all.clone(), preferred, |_| true),
        local: usable(all, local, local),
    }
}

/// Returns the ready ones of `ready`, else those of `ending` that serve until they end.
fn usable(
    all: impl Iterator<Item = Standing> + Clone,
    ready: impl Fn(&Standing) -> bool,
    ending: impl Fn(&Standing) -> bool,
) -> Vec<usize> {
    let places = |keep: &dyn Fn(&Standing) -> bool| {
        let kept = all.clone().enumerate().filter(|(_, one)| keep(one));
        kept.map(|(place, _)| place).collect::<Vec<_>>()
    };
    let found = places(&|one| one.condition.is_ready && ready(one));
    if !found.is_empty() {
        return found;
    }
    places(&|one| one.condition.is_last_resort() && ending(one))
}

/// Hints count only if every ready endpoint has them and at least one names this place; otherwise a
/// half-written set would send all clients of a zone to one endpoint.
fn preference(all: impl Iterator<Item = Standing>) -> Preference {
    let (mut nodes, mut zones) = (Hints::default(), Hints::default());
    for one in all.filter(|one| one.condition.is_ready) {
        nodes.take(one.for_nodes);
        zones.take(one.for_zones);
    }
    match (nodes.hold(), zones.hold()) {
        (true, _) => Preference::SameNode,
        (false, true) => Preference::SameZone,
        (false, false) => Preference::All,
    }
}

/// What the hints of one kind say together.
#[derive(Default)]
struct Hints {
    is_missing: bool,
    is_named: bool,
}

impl Hints {
    fn take(&mut self, hint: Hint) {
        self.is_missing |= hint == Hint::Missing;
        self.is_named |= hint == Hint::Here;
    }

    fn hold(&self) -> bool {
        !self.is_missing && self.is_named
    }
}

impl Hint {
    fn of(hints: &[String], own: Option<&str>) -> Hint {
        match (hints.is_empty(), names(hints, own)) {
            (true, _) => Hint::Missing,
            (false, true) => Hint::Here,
            (false, false) => Hint::Elsewhere,
        }
    }
}

fn names(hints: &[String], own: Option<&str>) -> bool {
    own.is_some_and(|own| hints.iter().any(|hint| hint == own))
}

#[cfg(test)]
mod tests;
