//! What the samples come to, as figures.

use coracle_tests::{Figure, Figures};

use super::contenders::{Contender, DNAT, HANDLER, HAPROXY, POD, POD_OF_MANY, RELAYED};
use super::load::{Sample, Test};

/// All samples.
#[derive(Default)]
pub(crate) struct Report {
    /// By test and contender, in the order they came.
    rows: Vec<Row>,
    idle: Vec<(&'static str, f64)>,
}

/// The samples of one contender in one test, one a round; `None` where it failed.
struct Row {
    test: Test,
    name: &'static str,
    /// Nothing but the kernel stands between client and backend.
    is_kernel: bool,
    rounds: Vec<Option<Sample>>,
}

impl Report {
    /// Adds the sample of a round.
    pub(crate) fn add(&mut self, test: Test, contender: &Contender, sample: Option<Sample>) {
        let is_it = |row: &&mut Row| (row.test, row.name) == (test, contender.name);
        match self.rows.iter_mut().find(is_it) {
            Some(row) => row.rounds.push(sample),
            None => self.rows.push(Row {
                test,
                name: contender.name,
                is_kernel: contender.own.is_empty(),
                rounds: vec![sample],
            }),
        }
    }

    /// Adds what an idle connection costs, in bytes.
    pub(crate) fn add_idle(&mut self, contender: &Contender, bytes: Option<f64>) {
        self.idle.extend(bytes.map(|bytes| (contender.name, bytes)));
    }

    /// Tells the figures; processor time comes first.
    pub(crate) fn tell(&self, figures: &mut Figures) {
        for test in Test::ALL {
            self.tell_spent(test, figures);
            self.tell_rate(test, figures);
        }
        for (name, bytes) in &self.idle {
            let figure = Figure::lower("memory of an idle connection", *name, "B", [*bytes]);
            let figure = against_ruler(figure, name);
            figures.add(match *name {
                RELAYED => figure.goal(1_500.0),
                _ => figure,
            });
        }
    }

    fn of(&self, test: Test) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.test == test)
    }

    fn tell_spent(&self, test: Test, figures: &mut Figures) {
        let (unit, factor) = match test {
            Test::Bulk => ("CPU-s/GB", 1.0),
            Test::Requests | Test::Connections => ("µs", 1e6),
        };
        let own = format!("{test}: processor time of the contender for each");
        for row in self.of(test).filter(|row| !row.is_kernel) {
            let spent = row.values(|sample| sample.own_seconds / sample.operations * factor);
            let figure = against_ruler(Figure::lower(&own, row.name, unit, spent), row.name);
            figures.add(match (test, row.name) {
                (Test::Requests, RELAYED) => figure.goal(12.0),
                (Test::Requests, HANDLER) => figure.goal(25.0),
                (Test::Bulk, RELAYED) => figure.ratio_goal(0.4),
                _ => figure,
            });
        }
        let whole = format!("{test}: processor time of all who take part");
        for row in self.of(test) {
            let spent = row.values(|sample| sample.whole_seconds / sample.operations * factor);
            let figure = against_ruler(Figure::lower(&whole, row.name, unit, spent), row.name);
            figures.add(match (test, row.name) {
                (Test::Requests, POD | POD_OF_MANY) => figure.goal(14.0),
                _ => figure,
            });
        }
    }

    fn tell_rate(&self, test: Test, figures: &mut Figures) {
        let unit = match test {
            Test::Bulk => "GB/s",
            Test::Requests | Test::Connections => "1/s",
        };
        let rate = |row: &Row| row.values(|sample| sample.operations / sample.seconds);
        let name = test.to_string();
        for row in self.of(test) {
            let figure = Figure::higher(&name, row.name, unit, rate(row));
            let figure = against_ruler(figure, row.name);
            figures.add(match (test, row.name) {
                (Test::Requests | Test::Connections, POD | POD_OF_MANY) => figure.ratio_goal(2.0),
                (_, RELAYED) if test != Test::Bulk => figure.ratio_goal(1.0),
                (Test::Bulk, RELAYED) => figure.ratio_goal(1.5),
                _ => figure,
            });
        }
        if test == Test::Bulk {
            return;
        }
        let name = format!("{test}, beside the kernel's translation");
        for row in self.of(test) {
            let figure = Figure::higher(&name, row.name, unit, rate(row));
            match row.name {
                DNAT => figures.add(figure.peer()),
                POD => figures.add(figure.against(DNAT).ratio_goal(1.0)),
                _ => {}
            }
        }
        let name = format!("{test}: 99th percentile of an answer");
        for row in self.of(test) {
            let late = row.values(|sample| sample.p99);
            let figure = Figure::lower(&name, row.name, "µs", late);
            figures.add(against_ruler(figure, row.name));
        }
    }
}

impl Row {
    fn values(&self, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        let rounds = self.rounds.iter();
        rounds
            .map(|sample| sample.as_ref().map_or(f64::NAN, &of))
            .collect()
    }
}

/// Ours are compared with haproxy; all else are rulers.
fn against_ruler(figure: Figure, name: &str) -> Figure {
    match name.starts_with("ours") {
        true => figure.against(HAPROXY),
        false => figure.peer(),
    }
}
