//! Which pods have to leave so that a more important one fits. Pure.

use std::{cmp::Reverse, sync::Arc};

use super::{
    cluster::{Cluster, Course, Placed, PodKey},
    facts::Preempts,
    fit::{self, Candidate, Unfit},
};

/// Where a pod will fit when its victims are gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) node: Arc<str>,
    pub(super) victims: Vec<Victim>,
}

/// A pod that has to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Victim {
    pub(super) key: PodKey,
    pub(super) uid: Arc<str>,
    pub(super) course: Course,
    priority: i32,
    since: i64,
}

/// Why nobody is asked to leave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hopeless {
    /// Nothing changes: the pod waits for its earlier victims, or may not push others away.
    NotEligible(&'static str),
    /// It would not help on any node; a nomination is void.
    Everywhere(String),
}

impl Hopeless {
    pub(super) fn text(&self) -> &str {
        match self {
            Hopeless::NotEligible(text) => text,
            Hopeless::Everywhere(text) => text,
        }
    }
}

/// Finds the node where the least important pods have to go.
///
/// The cluster is taken apart and put together again, so that every check is the one of placement.
pub(super) fn plan(
    cluster: &mut Cluster,
    pod: Candidate<'_>,
    unfit: &Unfit,
) -> Result<Plan, Hopeless> {
    if pod.facts.preempts == Preempts::Never {
        return Err(Hopeless::NotEligible(
            "not eligible due to preemptionPolicy=Never.",
        ));
    }
    if awaits_victims(cluster, pod, unfit) {
        return Err(Hopeless::NotEligible(
            "not eligible due to a terminating pod on the nominated node.",
        ));
    }
    let (mut plans, mut answers) = (Vec::new(), Unfit::default());
    let nodes: Vec<Arc<str>> = cluster.nodes.keys().cloned().collect();
    for node in nodes {
        if !unfit.crowded.contains(&node) {
            answers.add(["Preemption is not helpful for scheduling"]);
            continue;
        }
        match victims(cluster, pod, &node) {
            Ok(victims) => plans.push(Plan { node, victims }),
            Err(reason) => answers.add([reason.as_str()]),
        }
    }
    let best = plans.into_iter().min_by_key(cost);
    best.ok_or_else(|| Hopeless::Everywhere(answers.message()))
}

/// Says whether pods are leaving the node that the pod was promised.
fn awaits_victims(cluster: &Cluster, pod: Candidate<'_>, unfit: &Unfit) -> bool {
    let Some(nominee) = cluster.nominees.get(pod.key) else {
        return false;
    };
    let load = cluster.load(&nominee.node);
    let mut groups = load.iter().flat_map(|load| load.groups.keys());
    unfit.crowded.contains(&nominee.node)
        && groups.any(|group| group.is_leaving && group.facts.priority < pod.facts.priority)
}

/// Returns the fewest pods of lower priority that have to leave a node.
fn victims(
    cluster: &mut Cluster,
    pod: Candidate<'_>,
    node: &Arc<str>,
) -> Result<Vec<Victim>, String> {
    let mut lower = lower_priority(cluster, pod, node);
    if lower.is_empty() {
        return Err("No preemption victims found for incoming pod".to_owned());
    }
    let mut gone: Vec<(PodKey, Placed)> = Vec::with_capacity(lower.len());
    for victim in &lower {
        if let Some(placed) = cluster.take(&victim.key) {
            gone.push((victim.key.clone(), placed));
        }
    }
    let verdict = fit::fits_on(cluster, pod, node);
    let mut leaving = Vec::new();
    if verdict.is_ok() {
        // The most important and longest running ones come back first, if there is room.
        lower.sort_by_key(|victim| (Reverse(victim.priority), victim.since, victim.key.clone()));
        for victim in lower {
            let placed = gone.iter().find(|(key, _)| *key == victim.key);
            let Some((key, placed)) = placed else {
                continue;
            };
            cluster.put(key.clone(), placed.clone());
            if fit::fits_on(cluster, pod, node).is_err() {
                cluster.take(key);
                leaving.push(victim);
            }
        }
    }
    for (key, placed) in gone {
        cluster.put(key, placed);
    }
    verdict.map(|()| leaving)
}

fn lower_priority(cluster: &Cluster, pod: Candidate<'_>, node: &str) -> Vec<Victim> {
    let load = cluster.load(node);
    let mut groups = load.iter().flat_map(|load| load.groups.keys());
    if !groups.any(|group| group.facts.priority < pod.facts.priority) {
        return Vec::new();
    }
    let keys = load.iter().flat_map(|load| &load.pods);
    let lower = keys.filter_map(|key| {
        let placed = cluster.placed(key)?;
        (placed.facts.priority < pod.facts.priority).then(|| Victim {
            key: key.clone(),
            uid: Arc::clone(&placed.uid),
            course: placed.course,
            priority: placed.facts.priority,
            since: placed.since,
        })
    });
    lower.collect()
}

/// Orders plans: unimportant victims, a small sum of priorities, few victims, short-lived ones.
fn cost(plan: &Plan) -> (i32, i64, usize, Reverse<i64>, Arc<str>) {
    let victims = || plan.victims.iter();
    let highest = victims().map(|one| one.priority).max().unwrap_or(i32::MIN);
    // Priorities may be negative; shifted, more victims never weigh less.
    let shifted = |priority: i32| i64::from(priority) + i64::from(i32::MAX) + 1;
    let sum = victims().map(|one| shifted(one.priority)).sum();
    let most_important = victims().filter(|one| one.priority == highest);
    let earliest = most_important.map(|one| one.since).min().unwrap_or(0);
    let count = plan.victims.len();
    (
        highest,
        sum,
        count,
        Reverse(earliest),
        Arc::clone(&plan.node),
    )
}
