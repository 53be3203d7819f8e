//! The table of figures: medians over the rounds, ratios of one round, their range.

use std::collections::BTreeMap;

use super::load::{Sample, Test};

/// The contender that others are compared with.
const RULER: &str = "haproxy";

/// All samples.
#[derive(Default)]
pub(crate) struct Report {
    /// By test, then by contender in the order they came.
    samples: BTreeMap<Test, Vec<(&'static str, Rounds)>>,
}

/// The samples of one contender in one test, by round.
type Rounds = BTreeMap<usize, Sample>;

impl Report {
    /// Adds a sample.
    pub(crate) fn add(&mut self, round: usize, test: Test, name: &'static str, sample: Sample) {
        let contenders = self.samples.entry(test).or_default();
        let known = contenders.iter().position(|(known, _)| *known == name);
        let at = known.unwrap_or_else(|| {
            contenders.push((name, Rounds::new()));
            contenders.len() - 1
        });
        contenders[at].1.insert(round, sample);
    }

    /// Prints a table for each test.
    pub(crate) fn print(&self) {
        for (test, contenders) in &self.samples {
            println!("\n{test}");
            println!(
                "{:<28} {:>22} {:>22} {:>12} {:>22} {:>10} {:>8}",
                "",
                "CPU-s/M own (range)",
                "CPU-s/M whole (range)",
                "rate/s",
                "rate to haproxy",
                "p99 µs",
                "foreign"
            );
            let ruler = contenders.iter().find(|(name, _)| *name == RULER);
            for (name, samples) in contenders {
                let ruler = ruler.map(|(_, samples)| samples);
                println!("{}", line(*test, name, samples, ruler));
            }
        }
    }
}

fn line(test: Test, name: &str, samples: &Rounds, ruler: Option<&Rounds>) -> String {
    // Bulk is in gigabytes, and its processor time for one of them.
    let million = match test {
        Test::Bulk => 1.0,
        Test::Requests | Test::Connections => 1e6,
    };
    let of = |figure: &dyn Fn(&Sample) -> f64| samples.values().map(figure).collect::<Vec<_>>();
    let rate = |sample: &Sample| sample.operations / sample.seconds;
    let ratios = samples.iter().filter_map(|(round, sample)| {
        let ruler = ruler?.get(round)?;
        Some(rate(sample) / rate(ruler))
    });
    format!(
        "{name:<28} {:>22} {:>22} {:>12.1} {:>22} {:>10.0} {:>8.2}",
        spread(of(
            &|sample| sample.own_seconds / sample.operations * million
        )),
        spread(of(
            &|sample| sample.whole_seconds / sample.operations * million
        )),
        median(of(&rate)),
        spread(ratios.collect()),
        median(of(&|sample| sample.p99)),
        median(of(&|sample| sample.foreign)),
    )
}

fn spread(figures: Vec<f64>) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    if figures.is_empty() {
        return "–".to_owned();
    }
    format!("{:.2} ({least:.2}–{most:.2})", median(figures))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
