//! Two records side by side: what became worse beyond the noise.
//!
//! A figure is compared by its ratios to the contender that it stands against, where both records have
//! them: they hold on a machine that others use. Else it is compared by its values.
//!
//! A figure is worse beyond the noise when every round of the new record is worse than every round of the
//! old, and its median is worse by more than the allowed share. The ranges tell what the machine does by
//! itself within a run, the share what it does from run to run. Fewer than [`ROUNDS_MIN`] rounds have no
//! range to speak of; then the share is [`FEW_ROUNDS`] times as large.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use coracle_tests::Spread;

use super::record::{Better, Figure, Key, Machine, Record};

/// Below this the range of the rounds says nothing.
const ROUNDS_MIN: usize = 3;

/// By how much the allowed share grows then.
const FEW_ROUNDS: f64 = 3.0;

/// Processors kept busy by others above which times are not to be trusted.
const FOREIGN_MAX: f64 = 0.2;

/// What came out.
#[derive(Debug)]
pub(super) struct Comparison {
    lines: Vec<Line>,
    remarks: Vec<String>,
}

#[derive(Debug)]
struct Line {
    key: Key,
    what: What,
}

#[derive(Debug, PartialEq)]
enum What {
    /// The quotient new/old of the medians with the least and the largest that the rounds allow, and
    /// what it means.
    Both { quotient: Spread, change: Change },
    /// The benchmark ran, and the figure is gone.
    Gone,
    /// The old record does not have it.
    New,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Within,
    Better,
    Worse,
    /// It would be worse, but is not ours.
    Peer,
}

impl Comparison {
    /// Compares; `noise` is the allowed share, 0.1 for ten percent.
    pub(super) fn of(old: &Record, new: &Record, noise: f64) -> Self {
        let index = |record: &'_ Record| -> BTreeMap<Key, Figure> {
            let figures = record.figures.iter();
            figures
                .map(|figure| (figure.key.clone(), figure.clone()))
                .collect()
        };
        let (before, after) = (index(old), index(new));
        let mut lines = Vec::new();
        for (key, figure) in &after {
            let what = match before.get(key) {
                Some(old) => judge(old, figure, noise),
                None => What::New,
            };
            lines.push(Line {
                key: key.clone(),
                what,
            });
        }
        let ran = |key: &Key| new.benches.iter().any(|bench| bench.name == key.bench);
        let gone = before.keys().filter(|key| !after.contains_key(key));
        lines.extend(gone.filter(|key| ran(key)).map(|key| Line {
            key: key.clone(),
            what: What::Gone,
        }));
        let mut remarks = differences(&old.machine, &new.machine);
        remarks.extend(loads("old", old));
        remarks.extend(loads("new", new));
        Self { lines, remarks }
    }

    /// Returns how many figures became worse beyond the noise.
    pub(super) fn regressions(&self) -> usize {
        let worse = self.lines.iter().filter(|line| {
            matches!(
                line.what,
                What::Both {
                    change: Change::Worse,
                    ..
                }
            )
        });
        worse.count()
    }

    /// Returns the comparison as text, a figure a line.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for remark in &self.remarks {
            let _ = writeln!(text, "note: {remark}");
        }
        let mut bench = "";
        for line in &self.lines {
            if line.key.bench != bench {
                bench = &line.key.bench;
                let _ = writeln!(text, "\n{bench}: new/old (range)");
            }
            let Key {
                name,
                contender,
                unit,
                ..
            } = &line.key;
            let told = match &line.what {
                What::Both { quotient, change } => format!(
                    "{:.2} ({:.2}–{:.2}){}",
                    quotient.median,
                    quotient.least,
                    quotient.most,
                    match change {
                        Change::Within => "",
                        Change::Better => ", better",
                        Change::Worse => ", WORSE beyond the noise",
                        Change::Peer => ", a peer's",
                    }
                ),
                What::Gone => "not measured this time".to_owned(),
                What::New => "new".to_owned(),
            };
            let _ = writeln!(text, "  {name}, {contender} [{unit}]: {told}");
        }
        text
    }
}

fn judge(old: &Figure, new: &Figure, noise: f64) -> What {
    let is_compared = |figure: &Figure| !figure.ratios.is_empty();
    let by_ratio = old.against == new.against && is_compared(old) && is_compared(new);
    let values = |figure: &'_ Figure| -> Vec<f64> {
        match by_ratio {
            true => figure.ratios.clone(),
            false => figure.rounds.clone(),
        }
    };
    let (before, after) = (values(old), values(new));
    let (Some(was), Some(is)) = (Spread::of(&before), Spread::of(&after)) else {
        return What::New;
    };
    let few = before.len().min(after.len()) < ROUNDS_MIN;
    let allowed = if few { noise * FEW_ROUNDS } else { noise };
    let quotient = Spread {
        least: quotient(is.least, was.most),
        median: quotient(is.median, was.median),
        most: quotient(is.most, was.least),
    };
    let rises = is.least > was.most && is.median > was.median * (1.0 + allowed);
    let falls = is.most < was.least && is.median < was.median / (1.0 + allowed);
    let (better, worse) = match new.better {
        Better::Lower => (falls, rises),
        Better::Higher => (rises, falls),
    };
    let change = match (better, worse, new.is_peer) {
        (false, false, _) => Change::Within,
        (_, _, true) => Change::Peer,
        (true, _, _) => Change::Better,
        (_, true, _) => Change::Worse,
    };
    What::Both { quotient, change }
}

/// The quotient of two figures, neither of which is negative; nothing has become nothing when both are 0.
fn quotient(new: f64, old: f64) -> f64 {
    if new == old { 1.0 } else { new / old }
}

fn differences(old: &Machine, new: &Machine) -> Vec<String> {
    let facts = [
        ("processors", old.cores.to_string(), new.cores.to_string()),
        ("processor", old.processor.clone(), new.processor.clone()),
        ("kernel", old.kernel.clone(), new.kernel.clone()),
    ];
    let differ = facts.into_iter().filter(|(_, old, new)| old != new);
    differ
        .map(|(what, old, new)| format!("the {what} differ: `{old}`, now `{new}`"))
        .collect()
}

fn loads(which: &str, record: &Record) -> Vec<String> {
    let loud = record
        .benches
        .iter()
        .filter(|bench| bench.foreign > FOREIGN_MAX);
    loud.map(|bench| {
        let (name, foreign) = (&bench.name, bench.foreign);
        format!("others kept {foreign:.2} processors busy during `{name}` of the {which} record")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::Bench;

    fn figure(better: Better, rounds: &[f64]) -> Figure {
        Figure {
            key: Key {
                bench: "pods".into(),
                name: "start".into(),
                contender: "ours".into(),
                unit: "ms".into(),
            },
            better,
            rounds: rounds.to_vec(),
            is_peer: false,
            against: None,
            ratios: Vec::new(),
            goal: None,
            ratio_goal: None,
        }
    }

    fn record(figures: Vec<Figure>) -> Record {
        Record {
            machine: Machine::default(),
            benches: vec![Bench {
                name: "pods".into(),
                seconds: 1.0,
                foreign: 0.0,
                missing: Vec::new(),
            }],
            figures,
        }
    }

    fn check(better: Better, old: &[f64], new: &[f64], expected: Change) {
        let what = judge(&figure(better, old), &figure(better, new), 0.1);
        let What::Both { change, .. } = what else {
            panic!("both have values");
        };
        assert_eq!(change, expected, "{better:?} {old:?} {new:?}");
    }

    #[test]
    fn noise_is_a_range_that_overlaps_or_a_small_change() {
        use Better::{Higher, Lower};
        check(
            Lower,
            &[10.0, 11.0, 12.0],
            &[13.0, 14.0, 15.0],
            Change::Worse,
        );
        check(
            Higher,
            &[10.0, 11.0, 12.0],
            &[13.0, 14.0, 15.0],
            Change::Better,
        );
        check(
            Higher,
            &[13.0, 14.0, 15.0],
            &[10.0, 11.0, 12.0],
            Change::Worse,
        );
        check(
            Lower,
            &[13.0, 14.0, 15.0],
            &[10.0, 11.0, 12.0],
            Change::Better,
        );
        // One slow round of before is as slow as a fast one of now.
        check(
            Lower,
            &[10.0, 11.0, 13.0],
            &[13.0, 14.0, 15.0],
            Change::Within,
        );
        // Every round is worse, but by less than a tenth.
        check(
            Lower,
            &[10.0, 10.1, 10.2],
            &[10.7, 10.8, 10.9],
            Change::Within,
        );
    }

    #[test]
    fn a_single_round_must_be_worse_by_more() {
        check(Better::Lower, &[10.0], &[12.9], Change::Within);
        check(Better::Lower, &[10.0], &[13.1], Change::Worse);
        check(Better::Lower, &[10.0], &[10.0], Change::Within);
        check(Better::Lower, &[0.0], &[0.0], Change::Within);
        check(Better::Lower, &[0.0], &[1.0], Change::Worse);
    }

    #[test]
    fn ratios_are_compared_where_both_have_them() {
        let with = |rounds: &[f64], ratios: &[f64]| Figure {
            against: Some("haproxy".into()),
            ratios: ratios.to_vec(),
            ..figure(Better::Lower, rounds)
        };
        // The machine is half as fast, for both contenders.
        let old = with(&[10.0, 11.0, 12.0], &[0.5, 0.5, 0.5]);
        let new = with(&[20.0, 22.0, 24.0], &[0.5, 0.5, 0.5]);
        let comparison = Comparison::of(&record(vec![old.clone()]), &record(vec![new]), 0.1);
        assert_eq!(comparison.regressions(), 0);
        let new = with(&[10.0, 11.0, 12.0], &[0.7, 0.7, 0.7]);
        let comparison = Comparison::of(&record(vec![old]), &record(vec![new]), 0.1);
        assert_eq!(comparison.regressions(), 1);
    }

    #[test]
    fn a_peer_cannot_regress() {
        let peer = |rounds: &[f64]| Figure {
            is_peer: true,
            ..figure(Better::Lower, rounds)
        };
        let old = record(vec![peer(&[1.0, 1.0, 1.0])]);
        let new = record(vec![peer(&[9.0, 9.0, 9.0])]);
        assert_eq!(Comparison::of(&old, &new, 0.1).regressions(), 0);
    }

    #[test]
    fn what_is_gone_or_new_is_told_and_fails_nothing() {
        let old = record(vec![figure(Better::Lower, &[1.0])]);
        let mut other = figure(Better::Lower, &[1.0]);
        other.key.contender = "theirs".into();
        let comparison = Comparison::of(&old, &record(vec![other.clone()]), 0.1);
        assert_eq!(comparison.regressions(), 0);
        let text = comparison.text();
        assert!(
            text.contains("start, ours [ms]: not measured this time"),
            "{text}"
        );
        assert!(text.contains("start, theirs [ms]: new"), "{text}");
        // A benchmark that did not run at all is not missed.
        let mut new = record(vec![]);
        new.benches.clear();
        assert_eq!(Comparison::of(&old, &new, 0.1).text(), "");
    }

    #[test]
    fn another_machine_and_a_loud_one_are_remarked() {
        let old = record(vec![]);
        let mut new = record(vec![]);
        new.machine.cores = 64;
        new.benches[0].foreign = 1.5;
        let text = Comparison::of(&old, &new, 0.1).text();
        assert!(
            text.contains("the processors differ: `0`, now `64`"),
            "{text}"
        );
        assert!(
            text.contains("others kept 1.50 processors busy during `pods` of the new"),
            "{text}"
        );
    }
}
