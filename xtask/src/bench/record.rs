//! A run's record: what benchmarks found, where and when. `docs/performance.md` describes its JSON.
//!
//! Records outlive the program that wrote them. A field that is not known is passed over, one that may be
//! left out has a meaning when it is; anything else that is wrong is refused by name.

use anyhow::{Context, bail};
use coracle_tests::{Spread, short};
use serde_json::{Value, json};

/// The version of the record's fields that this program writes, and the newest that it reads.
const SCHEMA: u64 = 1;

/// Figures that one record may hold; there are a few hundred.
const FIGURES_MAX: usize = 10_000;

/// Rounds that one figure may hold.
const ROUNDS_MAX: usize = 10_000;

/// Everything about one run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub(super) machine: Machine,
    pub(super) benches: Vec<Bench>,
    pub(super) figures: Vec<Figure>,
}

/// Where and when, and of what.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Machine {
    /// Seconds since 1970.
    pub(super) taken: u64,
    /// The commit, with `+` behind it where files differ from it; empty when nobody knows.
    pub(super) commit: String,
    /// Processors that the run may use.
    pub(super) cores: u64,
    pub(super) processor: String,
    /// The kernel's release.
    pub(super) kernel: String,
}

/// One benchmark as a whole.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bench {
    pub(super) name: String,
    pub(super) seconds: f64,
    /// Processors that others kept busy meanwhile.
    pub(super) foreign: f64,
    /// Contenders that were not measured.
    pub(super) missing: Vec<String>,
}

/// One figure of one contender.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    pub(super) key: Key,
    pub(super) better: Better,
    /// One finite value a round, at least one.
    pub(super) rounds: Vec<f64>,
    /// Somebody else's figure, which is a ruler.
    pub(super) is_peer: bool,
    /// The contender that it is compared with.
    pub(super) against: Option<String>,
    /// The ratios to that contender in the rounds that both have.
    pub(super) ratios: Vec<f64>,
    pub(super) goal: Option<f64>,
    pub(super) ratio_goal: Option<f64>,
}

/// What says that two figures of two records are the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) bench: String,
    pub(super) name: String,
    pub(super) contender: String,
    pub(super) unit: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    Lower,
    Higher,
}

impl Record {
    /// Puts a record together from the lines that benchmarks wrote.
    ///
    /// # Errors
    ///
    /// Fails with the first line that is no figure.
    pub(super) fn collect(machine: Machine, lines: &str) -> anyhow::Result<Self> {
        let mut record = Self {
            machine,
            benches: Vec::new(),
            figures: Vec::new(),
        };
        for (at, line) in lines.lines().enumerate() {
            let reading = || format!("line {} of the figures", at + 1);
            let value: Value = serde_json::from_str(line).with_context(reading)?;
            match value.get("rounds") {
                Some(_) => record
                    .figures
                    .push(Figure::read(&value).with_context(reading)?),
                None => record
                    .benches
                    .push(Bench::read(&value).with_context(reading)?),
            }
        }
        Ok(record)
    }

    /// Reads a record.
    ///
    /// # Errors
    ///
    /// Fails when the text is no record, or one of a newer program.
    pub(super) fn read(text: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(text).context("the record is no JSON")?;
        match value.get("schema").and_then(Value::as_u64) {
            Some(SCHEMA) => {}
            Some(other) => {
                bail!("the record has the schema {other}; this program reads {SCHEMA}")
            }
            None => bail!("the record tells no `schema`: it is no record of `cargo xtask bench`"),
        }
        let figures = array(&value, "figures")?;
        if figures.len() > FIGURES_MAX {
            bail!(
                "the record has {} figures; {FIGURES_MAX} is the limit",
                figures.len()
            );
        }
        let figures = figures.iter().enumerate().map(|(at, figure)| {
            Figure::read(figure).with_context(|| format!("figure {} of the record", at + 1))
        });
        let benches = array(&value, "benches")?.iter().map(Bench::read);
        Ok(Self {
            machine: Machine::read(value.get("machine").unwrap_or(&Value::Null)),
            benches: benches.collect::<Result<_, _>>()?,
            figures: figures.collect::<Result<_, _>>()?,
        })
    }

    /// Returns the record as JSON.
    pub(super) fn json(&self) -> Value {
        json!({
            "schema": SCHEMA,
            "machine": {
                "taken": self.machine.taken,
                "commit": self.machine.commit,
                "cores": self.machine.cores,
                "processor": self.machine.processor,
                "kernel": self.machine.kernel,
            },
            "benches": self.benches.iter().map(Bench::json).collect::<Vec<_>>(),
            "figures": self.figures.iter().map(Figure::json).collect::<Vec<_>>(),
        })
    }
}

impl Machine {
    /// Reads what is there: a fact that is not told is not known.
    fn read(value: &Value) -> Self {
        let text = |key| value.get(key).and_then(Value::as_str).unwrap_or_default();
        let number = |key| value.get(key).and_then(Value::as_u64).unwrap_or_default();
        Self {
            taken: number("taken"),
            commit: text("commit").to_owned(),
            cores: number("cores"),
            processor: text("processor").to_owned(),
            kernel: text("kernel").to_owned(),
        }
    }
}

impl Bench {
    fn read(value: &Value) -> anyhow::Result<Self> {
        let missing = match value.get("missing") {
            None => Vec::new(),
            Some(_) => array(value, "missing")?
                .iter()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect(),
        };
        Ok(Self {
            name: text(value, "bench")?,
            seconds: number(value, "seconds")?,
            foreign: number(value, "foreign")?,
            missing,
        })
    }

    fn json(&self) -> Value {
        json!({
            "bench": self.name,
            "seconds": self.seconds,
            "foreign": self.foreign,
            "missing": self.missing,
        })
    }
}

impl Figure {
    fn read(value: &Value) -> anyhow::Result<Self> {
        let better = match text(value, "better")?.as_str() {
            "lower" => Better::Lower,
            "higher" => Better::Higher,
            other => bail!("`better` is `lower` or `higher`, not `{other}`"),
        };
        let rounds = numbers(value, "rounds")?;
        if rounds.is_empty() {
            bail!("`rounds` holds no value");
        }
        let against = value.get("against").and_then(Value::as_str);
        Ok(Self {
            key: Key {
                bench: text(value, "bench")?,
                name: text(value, "name")?,
                contender: text(value, "contender")?,
                unit: text(value, "unit")?,
            },
            better,
            rounds,
            is_peer: value.get("peer").and_then(Value::as_bool).unwrap_or(false),
            against: against.map(str::to_owned),
            ratios: match value.get("ratios") {
                None | Some(Value::Null) => Vec::new(),
                Some(_) => numbers(value, "ratios")?,
            },
            goal: value.get("goal").and_then(Value::as_f64),
            ratio_goal: value.get("ratio_goal").and_then(Value::as_f64),
        })
    }

    fn json(&self) -> Value {
        json!({
            "bench": self.key.bench,
            "name": self.key.name,
            "contender": self.key.contender,
            "unit": self.key.unit,
            "better": match self.better {
                Better::Lower => "lower",
                Better::Higher => "higher",
            },
            "rounds": self.rounds,
            "peer": self.is_peer,
            "against": self.against,
            "ratios": self.ratios,
            "goal": self.goal,
            "ratio_goal": self.ratio_goal,
        })
    }

    /// Says of each goal whether it is met; empty without one.
    pub(super) fn verdicts(&self) -> Vec<(String, bool)> {
        let sign = match self.better {
            Better::Lower => "≤",
            Better::Higher => "≥",
        };
        let is_met = |found: f64, bound: f64| match self.better {
            Better::Lower => found <= bound,
            Better::Higher => found >= bound,
        };
        let own = self.goal.map(|bound| {
            let found = Spread::of(&self.rounds).map(|spread| spread.median);
            let unit = &self.key.unit;
            (format!("{sign} {} {unit}", short(bound)), bound, found)
        });
        let ratio = self.ratio_goal.map(|bound| {
            let found = Spread::of(&self.ratios).map(|spread| spread.median);
            let against = self.against.as_deref().unwrap_or("nobody");
            (format!("{sign} {} × {against}", short(bound)), bound, found)
        });
        own.into_iter()
            .chain(ratio)
            .filter_map(|(text, bound, found)| Some((text, is_met(found?, bound))))
            .collect()
    }
}

fn array<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a Vec<Value>> {
    let found = value.get(key).and_then(Value::as_array);
    found.with_context(|| format!("`{key}` is no list"))
}

fn text(value: &Value, key: &str) -> anyhow::Result<String> {
    let found = value.get(key).and_then(Value::as_str);
    Ok(found
        .with_context(|| format!("`{key}` is no text"))?
        .to_owned())
}

fn number(value: &Value, key: &str) -> anyhow::Result<f64> {
    let found = value.get(key).and_then(Value::as_f64);
    found.with_context(|| format!("`{key}` is no number"))
}

fn numbers(value: &Value, key: &str) -> anyhow::Result<Vec<f64>> {
    let values = array(value, key)?;
    if values.len() > ROUNDS_MAX {
        bail!(
            "`{key}` holds {} values; {ROUNDS_MAX} is the limit",
            values.len()
        );
    }
    let numbers = values.iter().map(Value::as_f64);
    numbers
        .collect::<Option<_>>()
        .with_context(|| format!("`{key}` holds what is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(text: &str, reason: &str) {
        let error = Record::read(text).expect_err("it is no record");
        let told = format!("{error:#}");
        assert!(told.contains(reason), "{told}");
    }

    fn one(field: &str, value: Value) -> String {
        let mut figure = json!({
            "bench": "pods", "name": "start", "contender": "ours", "unit": "ms", "better": "lower",
            "rounds": [1.0],
        });
        figure[field] = value;
        json!({"schema": 1, "benches": [], "figures": [figure]}).to_string()
    }

    #[test]
    fn what_is_no_record_is_refused_by_name() {
        check_refused("", "no JSON");
        check_refused("[]", "no `schema`");
        check_refused("{\"schema\": 2}", "schema 2; this program reads 1");
        check_refused("{\"schema\": 1}", "`figures` is no list");
        check_refused("{\"schema\": 1, \"figures\": []}", "`benches` is no list");
        check_refused(&one("rounds", json!([])), "`rounds` holds no value");
        check_refused(&one("rounds", json!([1, "2"])), "holds what is no number");
        check_refused(&one("rounds", json!([1, null])), "holds what is no number");
        check_refused(&one("rounds", json!(vec![1; 10_001])), "10000 is the limit");
        check_refused(&one("better", json!("faster")), "not `faster`");
        check_refused(
            &one("unit", json!(7)),
            "figure 1 of the record: `unit` is no text",
        );
        let deep = "[".repeat(100_000);
        check_refused(&deep, "no JSON");
    }

    #[test]
    fn fields_may_be_left_out_and_others_may_be_there() {
        let record = Record::read(&one("color", json!("red"))).expect("a record");
        assert!(record.figures[0].ratios.is_empty());
        assert!(!record.figures[0].is_peer);
        assert_eq!(record.machine, Machine::default());
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let lines = "{\"bench\":\"edge\",\"name\":\"a\",\"contender\":\"ours\",\"unit\":\"1/s\",\"better\":\
                     \"higher\",\"rounds\":[3,1],\"against\":\"haproxy\",\"ratios\":[2.5],\"goal\":3,\
                     \"ratio_goal\":2.0,\"peer\":false}\n\
                     {\"bench\":\"edge\",\"seconds\":2,\"foreign\":0.5,\"missing\":[\"nginx\"]}\n";
        let machine = Machine {
            taken: 7,
            cores: 2,
            ..Machine::default()
        };
        let record = Record::collect(machine, lines).expect("figures");
        let again = Record::read(&record.json().to_string()).expect("a record");
        assert_eq!(again, record);
        assert_eq!(record.benches[0].missing, ["nginx"]);
        let verdicts = record.figures[0].verdicts();
        assert_eq!(
            verdicts,
            [
                ("≥ 3.00 1/s".to_owned(), true),
                ("≥ 2.00 × haproxy".to_owned(), true)
            ]
        );
    }

    /// What writes lines and what reads them are two packages.
    #[test]
    fn the_lines_of_benchmarks_are_read() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut figures = coracle_tests::Figures::begin("edge");
        figures.missing("nginx", "not on the path");
        let ruler = coracle_tests::Figure::lower("connect", "haproxy", "µs", [10.0, f64::NAN]);
        figures.add(ruler.peer());
        let ours = coracle_tests::Figure::lower("connect", "ours", "µs", [5.0, 6.0]);
        figures.add(ours.against("haproxy").goal(7.0).ratio_goal(0.4));
        figures.write_to(file.path());
        let lines = std::fs::read_to_string(file.path()).expect("the lines");
        let record = Record::collect(Machine::default(), &lines).expect("figures");
        assert_eq!(record.figures[0].rounds, [10.0]);
        assert!(record.figures[0].is_peer);
        let ours = &record.figures[1];
        assert_eq!((ours.goal, ours.ratio_goal), (Some(7.0), Some(0.4)));
        assert_eq!(ours.ratios, [0.5]);
        assert_eq!(record.benches[0].missing, ["nginx"]);
    }
}
