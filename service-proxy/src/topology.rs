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
}

/// Chooses the endpoints for each policy.
pub(crate) fn choose(candidates: &[Candidate<'_>], place: &Place) -> Chosen {
    let preference = preference(candidates, place);
    let all = |_: &Candidate<'_>| true;
    let preferred = |one: &Candidate<'_>| match preference {
        Preference::All => true,
        Preference::SameNode => names(one.for_nodes, place.node.as_deref()),
        Preference::SameZone => names(one.for_zones, place.zone.as_deref()),
    };
    let local = |one: &Candidate<'_>| one.is_local(place);
    Chosen {
        cluster: usable(candidates, preferred, all),
        local: usable(candidates, local, local),
    }
}

/// Returns the ready ones of `ready`, else those of `ending` that serve until they end.
fn usable(
    candidates: &[Candidate<'_>],
    ready: impl Fn(&Candidate<'_>) -> bool,
    ending: impl Fn(&Candidate<'_>) -> bool,
) -> Vec<usize> {
    let places = |keep: &dyn Fn(&Candidate<'_>) -> bool| {
        let kept = candidates.iter().enumerate().filter(|(_, one)| keep(one));
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
fn preference(candidates: &[Candidate<'_>], place: &Place) -> Preference {
    let mut ready = candidates.iter().filter(|one| one.condition.is_ready);
    let (mut nodes, mut zones) = (Hints::default(), Hints::default());
    for one in &mut ready {
        nodes.take(one.for_nodes, place.node.as_deref());
        zones.take(one.for_zones, place.zone.as_deref());
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
    fn take(&mut self, hints: &[String], own: Option<&str>) {
        self.is_missing |= hints.is_empty();
        self.is_named |= names(hints, own);
    }

    fn hold(&self) -> bool {
        !self.is_missing && self.is_named
    }
}

fn names(hints: &[String], own: Option<&str>) -> bool {
    own.is_some_and(|own| hints.iter().any(|hint| hint == own))
}

#[cfg(test)]
mod tests;
