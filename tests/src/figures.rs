//! What a benchmark found, as a table for people and as lines of JSON for `cargo xtask bench`.
//!
//! A line is one figure of one contender; the last line of a benchmark tells how long it took, what else
//! was busy and who was missing. `docs/performance.md` describes the fields; `xtask` reads them.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::Load;
use crate::spread::{Spread, short};

/// The environment variable with the path of the file to which figures are appended.
pub const FIGURES_FILE: &str = "CORACLE_BENCH_FIGURES";

/// The figures of one benchmark, and what else the machine did meanwhile.
pub struct Figures {
    bench: &'static str,
    figures: Vec<Figure>,
    missing: Vec<String>,
    begun: Instant,
    load: Load,
}

/// One figure of one contender, in each round.
///
/// The values of the same position of two contenders were taken side by side, so their ratio holds even
/// where the values themselves do not.
#[derive(Debug, Clone)]
pub struct Figure {
    name: String,
    contender: String,
    unit: &'static str,
    better: Better,
    rounds: Vec<f64>,
    is_peer: bool,
    against: Option<String>,
    goals: Vec<Goal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    Lower,
    Higher,
}

/// A bound of the median, of the values or of the ratios to the contender it stands against.
#[derive(Debug, Clone, Copy)]
struct Goal {
    of: Of,
    bound: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Value,
    Ratio,
}

impl Figures {
    /// Begins a benchmark; what others do on the machine is counted from here.
    pub fn begin(bench: &'static str) -> Self {
        Self {
            bench,
            figures: Vec::new(),
            missing: Vec::new(),
            begun: Instant::now(),
            load: Load::begin(),
        }
    }

    /// Says that a contender is not measured, and why: a peer that is not on the path, say.
    pub fn missing(&mut self, contender: &str, why: &str) {
        println!("missing: {contender} ({why})");
        self.missing.push(contender.to_owned());
    }

    /// Adds a figure. One without a finite value is left out: nothing was measured.
    pub fn add(&mut self, figure: Figure) {
        if figure.rounds.iter().any(|value| value.is_finite()) {
            self.figures.push(figure);
        }
    }

    /// Prints the table, and appends the lines to the file that the environment names, if it names one.
    ///
    /// # Panics
    ///
    /// Panics when that file cannot be written.
    pub fn finish(self) {
        println!("{}", self.table());
        println!(
            "others kept {:.2} processors busy meanwhile",
            self.load.foreign()
        );
        if let Some(path) = std::env::var_os(FIGURES_FILE) {
            self.write_to(Path::new(&path));
        }
    }

    /// Appends the lines to a file.
    ///
    /// # Panics
    ///
    /// Panics when it cannot be written.
    pub fn write_to(&self, path: &Path) {
        let lines = self
            .figures
            .iter()
            .map(|figure| figure.line(self.bench, &self.figures));
        let whole = json!({
            "bench": self.bench,
            "seconds": self.begun.elapsed().as_secs_f64(),
            "foreign": self.load.foreign(),
            "missing": self.missing,
        });
        let lines: String = lines
            .chain([whole])
            .map(|line| format!("{line}\n"))
            .collect();
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("the file for figures can be opened");
        file.write_all(lines.as_bytes())
            .expect("the file for figures can be written");
    }

    fn table(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for figure in &self.figures {
            if !names.contains(&figure.name.as_str()) {
                names.push(&figure.name);
            }
        }
        let mut text = String::new();
        for name in names {
            text.push_str(&format!("\n{name}\n"));
            for figure in self.figures.iter().filter(|figure| figure.name == name) {
                text.push_str(&figure.row(&self.figures));
            }
        }
        text
    }
}

impl Figure {
    /// Describes what is better when it is lower: times, bytes, shares of a processor.
    pub fn lower(
        name: impl Into<String>,
        contender: impl Into<String>,
        unit: &'static str,
        rounds: impl IntoIterator<Item = f64>,
    ) -> Self {
        Self {
            name: name.into(),
            contender: contender.into(),
            unit,
            better: Better::Lower,
            rounds: rounds.into_iter().collect(),
            is_peer: false,
            against: None,
            goals: Vec::new(),
        }
    }

    /// Describes what is better when it is higher: rates.
    pub fn higher(
        name: impl Into<String>,
        contender: impl Into<String>,
        unit: &'static str,
        rounds: impl IntoIterator<Item = f64>,
    ) -> Self {
        Self {
            better: Better::Higher,
            ..Self::lower(name, contender, unit, rounds)
        }
    }

    /// Marks the figure as somebody else's: it is a ruler, and cannot be our regression.
    #[must_use]
    pub fn peer(mut self) -> Self {
        self.is_peer = true;
        self
    }

    /// Compares with another contender of the same name, round by round.
    #[must_use]
    pub fn against(mut self, contender: impl Into<String>) -> Self {
        self.against = Some(contender.into());
        self
    }

    /// Sets the goal: the median is to be at most this, or at least this where higher is better.
    #[must_use]
    pub fn goal(mut self, bound: f64) -> Self {
        self.goals.push(Goal {
            of: Of::Value,
            bound,
        });
        self
    }

    /// Sets the goal for the median of the ratios to the contender given to [`Figure::against`]; at
    /// least this where higher is better, else at most.
    #[must_use]
    pub fn ratio_goal(mut self, bound: f64) -> Self {
        self.goals.push(Goal {
            of: Of::Ratio,
            bound,
        });
        self
    }

    /// The ratios of the rounds that both have; empty where nobody is compared with, or was measured.
    fn ratios(&self, all: &[Figure]) -> Vec<f64> {
        let ruler = all.iter().find(|ruler| {
            Some(&ruler.contender) == self.against.as_ref()
                && (&ruler.name, ruler.unit) == (&self.name, self.unit)
        });
        let pairs = self
            .rounds
            .iter()
            .zip(ruler.into_iter().flat_map(|ruler| &ruler.rounds));
        pairs
            .map(|(ours, ruler)| ours / ruler)
            .filter(|ratio| ratio.is_finite())
            .collect()
    }

    fn row(&self, all: &[Figure]) -> String {
        let spread = Spread::of(&self.rounds).map_or_else(|| "–".to_owned(), |it| it.to_string());
        let mut row = format!("  {:<36} {spread} {}", self.contender, self.unit);
        let ratios = self.ratios(all);
        if let (Some(against), Some(spread)) = (&self.against, Spread::of(&ratios)) {
            row.push_str(&format!(", {spread} × {against}"));
        }
        for goal in &self.goals {
            let (values, of) = match goal.of {
                Of::Value => (&self.rounds, ""),
                Of::Ratio => (&ratios, " ×"),
            };
            let Some(found) = Spread::of(values).map(|spread| spread.median) else {
                continue;
            };
            let (sign, is_met) = match self.better {
                Better::Lower => ("≤", found <= goal.bound),
                Better::Higher => ("≥", found >= goal.bound),
            };
            let verdict = if is_met { "met" } else { "missed" };
            row.push_str(&format!(
                "; goal {sign} {}{of}: {verdict}",
                short(goal.bound)
            ));
        }
        row.push('\n');
        row
    }

    fn line(&self, bench: &str, all: &[Figure]) -> Value {
        let goal = |of| {
            let goal = self.goals.iter().find(|goal| goal.of == of);
            goal.map(|goal| goal.bound)
        };
        let finite: Vec<f64> = self
            .rounds
            .iter()
            .copied()
            .filter(|value| value.is_finite())
            .collect();
        json!({
            "bench": bench,
            "name": self.name,
            "contender": self.contender,
            "unit": self.unit,
            "better": match self.better {
                Better::Lower => "lower",
                Better::Higher => "higher",
            },
            "rounds": finite,
            "peer": self.is_peer,
            "against": self.against,
            "ratios": self.ratios(all),
            "goal": goal(Of::Value),
            "ratio_goal": goal(Of::Ratio),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Figures {
        let mut figures = Figures::begin("edge");
        figures.add(Figure::higher("requests", "haproxy", "1/s", [10.0, 20.0, 30.0]).peer());
        let ours = Figure::higher("requests", "ours", "1/s", [22.0, 30.0, 75.0]);
        figures.add(ours.against("haproxy").ratio_goal(2.0).goal(40.0));
        figures
    }

    #[test]
    fn a_ratio_is_one_of_the_same_round() {
        let figures = two();
        assert_eq!(figures.figures[1].ratios(&figures.figures), [2.2, 1.5, 2.5]);
    }

    #[test]
    fn a_table_tells_range_ratio_and_verdict() {
        let table = two().table();
        let expected = "\nrequests\n  haproxy                              20.0 (10.0–30.0) 1/s\n  ours                                 \
             30.0 (22.0–75.0) 1/s, 2.20 (1.50–2.50) × haproxy; goal ≥ 2.00 ×: met; goal ≥ 40.0: missed\n";
        assert_eq!(table, expected);
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let mut figures = Figures::begin("edge");
        figures.add(Figure::lower("requests", "ours", "us", []));
        figures.add(Figure::lower("requests", "theirs", "us", [f64::NAN]));
        assert_eq!(figures.table(), "");
    }
}
