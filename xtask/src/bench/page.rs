//! A record as a page of plots: one file, no scripts, nothing from elsewhere.
//!
//! A plot holds the contenders of one figure: a bar to the median, a whisker over the range of the rounds,
//! a dashed line at the goal. Bars begin at 0 unless the medians differ so much that the short ones could
//! not be seen; then the axis is logarithmic and says so.

use std::fmt::Write as _;

use super::record::{Bench, Better, Figure, Machine, Record, Spread};

/// From this factor between the largest and the smallest on, the axis is logarithmic.
const LOGARITHMIC_FROM: f64 = 40.0;

const LABEL_WIDTH: f64 = 250.0;
const PLOT_WIDTH: f64 = 420.0;
const TEXT_WIDTH: f64 = 330.0;
const ROW_HEIGHT: f64 = 26.0;
const BAR_HEIGHT: f64 = 14.0;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2733; --dim: #66727f; --ours: #2f7ed8; --peer: #b9c2cc; \
--goal: #c2410c; --good: #15803d; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e9ee; --dim: #9aa7b4; --ours: #5b9ff0; \
--peer: #55606c; --goal: #fb923c; --good: #4ade80; --paper: #14191f; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); \
max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin: 1rem 0 .2rem; }
p { color: var(--dim); margin: .2rem 0; } svg { max-width: 100%; height: auto; } svg text { font: 12px system-ui, \
sans-serif; fill: var(--ink); } svg .dim { fill: var(--dim); } svg .good { fill: var(--good); } svg .bad { fill: var(--goal); }
.ours { fill: var(--ours); } .peer { fill: var(--peer); } .whisker { stroke: var(--ink); stroke-width: 1.5; }
.goal { stroke: var(--goal); stroke-width: 1.5; stroke-dasharray: 4 3; } .axis { stroke: var(--dim); }
table { border-collapse: collapse; } td, th { text-align: left; padding: .15rem .8rem .15rem 0; } .bad { color: var(--goal); }
.good { color: var(--good); }
";

/// Returns the page.
pub(super) fn html(record: &Record) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Coracle: figures</title>\n\
         <style>{STYLE}</style>\n<h1>Coracle: figures</h1>\n<p>{}</p>\n<p>Bars are medians, whiskers the range of \
         the rounds, dashed lines goals.</p>\n",
        escaped(&facts(&record.machine))
    );
    page.push_str(&goals(record));
    for bench in names(
        record
            .figures
            .iter()
            .map(|figure| figure.key.bench.as_str()),
    ) {
        let about = record.benches.iter().find(|about| about.name == bench);
        let _ = writeln!(page, "<h2>{}</h2>", escaped(bench));
        if let Some(about) = about {
            let _ = writeln!(page, "<p>{}</p>", escaped(&conditions(about)));
        }
        let of_bench = || {
            let figures = record.figures.iter();
            figures.filter(move |figure| figure.key.bench == bench)
        };
        let title = |figure: &Figure| format!("{} [{}]", figure.key.name, figure.key.unit);
        let titles: Vec<String> = of_bench().map(title).collect();
        for wanted in names(titles.iter().map(String::as_str)) {
            let group: Vec<_> = of_bench()
                .filter(|figure| title(figure) == wanted)
                .collect();
            let _ = writeln!(page, "<h3>{}</h3>", escaped(wanted));
            page.push_str(&plot(&group));
        }
    }
    page.push_str("</html>\n");
    page
}

fn facts(machine: &Machine) -> String {
    let Machine {
        taken,
        commit,
        cores,
        processor,
        kernel,
    } = machine;
    let (days, seconds) = (taken / 86_400, taken % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute) = (seconds / 3600, seconds % 3600 / 60);
    format!(
        "Commit {commit}, {year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC; {cores} processors, {processor}, \
         kernel {kernel}."
    )
}

/// The civil date of a day since 1970, as in <https://howardhinnant.github.io/date_algorithms.html>.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

fn conditions(bench: &Bench) -> String {
    let mut text = format!(
        "{:.0} s; others kept {:.2} processors busy meanwhile.",
        bench.seconds, bench.foreign
    );
    if !bench.missing.is_empty() {
        let _ = write!(text, " Missing: {}.", bench.missing.join(", "));
    }
    text
}

/// All goals and whether they are met, as a table.
fn goals(record: &Record) -> String {
    let mut rows = String::new();
    for figure in &record.figures {
        for (goal, is_met) in figure.verdicts() {
            let key = &figure.key;
            let (class, verdict) = match is_met {
                true => ("good", "met"),
                false => ("bad", "missed"),
            };
            let cells = [&key.bench, &key.name, &key.contender, &goal];
            let cells: String = cells
                .iter()
                .map(|cell| format!("<td>{}</td>", escaped(cell)))
                .collect();
            let found = escaped(&told(figure));
            let _ = writeln!(
                rows,
                "<tr>{cells}<td>{found}</td><td class=\"{class}\">{verdict}</td></tr>"
            );
        }
    }
    if rows.is_empty() {
        return rows;
    }
    format!(
        "<h2>Goals</h2>\n<table><tr><th>bench<th>what<th>who<th>goal<th>found<th></tr>\n{rows}</table>\n"
    )
}

fn plot(group: &[&Figure]) -> String {
    let spreads: Vec<_> = group
        .iter()
        .filter_map(|figure| Some((*figure, Spread::of(&figure.rounds)?)))
        .collect();
    let goals: Vec<f64> = group.iter().filter_map(|figure| figure.goal).collect();
    let ends = spreads
        .iter()
        .flat_map(|(_, spread)| [spread.median, spread.most]);
    let axis = Axis::over(ends.chain(goals.iter().copied()));
    let height = ROW_HEIGHT * spreads.len() as f64 + 18.0;
    let width = LABEL_WIDTH + PLOT_WIDTH + TEXT_WIDTH;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\n"
    );
    for (row, (figure, spread)) in spreads.iter().enumerate() {
        let top = ROW_HEIGHT * row as f64;
        let middle = top + ROW_HEIGHT / 2.0;
        let class = if figure.is_peer { "peer" } else { "ours" };
        let (least, median, most) = (
            axis.at(spread.least),
            axis.at(spread.median),
            axis.at(spread.most),
        );
        let (label, told) = (escaped(&figure.key.contender), escaped(&told(figure)));
        let (end, baseline) = (LABEL_WIDTH + PLOT_WIDTH + 12.0, middle + 4.0);
        let bar = (median - LABEL_WIDTH).max(1.0);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\">{label}</text>\
             <rect class=\"{class}\" x=\"{LABEL_WIDTH}\" y=\"{:.1}\" width=\"{bar:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\"/>\
             <line class=\"whisker\" x1=\"{least:.1}\" x2=\"{most:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
             <text x=\"{end:.1}\" y=\"{baseline:.1}\">{told}</text>",
            LABEL_WIDTH - 10.0,
            middle - BAR_HEIGHT / 2.0,
        );
        if let Some(goal) = figure.goal {
            let x = axis.at(goal);
            let _ = writeln!(
                svg,
                "<line class=\"goal\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
                top + 2.0,
                top + ROW_HEIGHT - 2.0
            );
        }
    }
    let base = height - 16.0;
    let _ = writeln!(
        svg,
        "<line class=\"axis\" x1=\"{LABEL_WIDTH}\" x2=\"{LABEL_WIDTH}\" y1=\"0\" y2=\"{base:.1}\"/>\
         <text class=\"dim\" x=\"{LABEL_WIDTH}\" y=\"{:.1}\">{}</text>\
         <text class=\"dim\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n</svg>",
        height - 3.0,
        axis.begin_label(),
        LABEL_WIDTH + PLOT_WIDTH,
        height - 3.0,
        short(axis.most)
    );
    svg
}

/// Where a value stands.
struct Axis {
    /// 0 on a linear axis.
    least: f64,
    most: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let positive: Vec<f64> = values.filter(|value| *value > 0.0).collect();
        let most = positive.iter().copied().fold(0.0, f64::max);
        let least = positive.iter().copied().fold(f64::INFINITY, f64::min);
        let is_wide = most / least > LOGARITHMIC_FROM;
        Self {
            least: if is_wide { least / 2.0 } else { 0.0 },
            most: if most > 0.0 { most } else { 1.0 },
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = match self.least > 0.0 {
            true => (value / self.least).ln() / (self.most / self.least).ln(),
            false => value / self.most,
        };
        // Nothing to take a logarithm of stands at the beginning.
        let share = if share.is_finite() { share } else { 0.0 };
        LABEL_WIDTH + PLOT_WIDTH * share.clamp(0.0, 1.0)
    }

    fn begin_label(&self) -> String {
        match self.least > 0.0 {
            true => format!("{} (logarithmic)", short(self.least)),
            false => "0".to_owned(),
        }
    }
}

/// The median with its range and, beside somebody, the ratio.
fn told(figure: &Figure) -> String {
    let mut text = Spread::of(&figure.rounds).map_or_else(String::new, |spread| spread.short());
    if let (Some(ratios), Some(against)) = (Spread::of(&figure.ratios), &figure.against) {
        let _ = write!(text, "; {} × {against}", ratios.short());
    }
    let better = match figure.better {
        Better::Lower => "",
        Better::Higher => " ↑",
    };
    text + better
}

impl Spread {
    fn short(self) -> String {
        if self.least == self.most {
            return short(self.median);
        }
        let Self {
            least,
            median,
            most,
        } = self;
        format!("{} ({}–{})", short(median), short(least), short(most))
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        ..0.1 => format!("{value:.4}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Every name once, in the order they come.
fn names<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for name in all {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Text as it may stand in HTML, between tags.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::Key;

    fn figure(contender: &str, rounds: &[f64]) -> Figure {
        Figure {
            key: Key {
                bench: "pods".into(),
                name: "start".into(),
                contender: contender.into(),
                unit: "ms".into(),
            },
            better: Better::Lower,
            rounds: rounds.to_vec(),
            is_peer: false,
            against: None,
            ratios: Vec::new(),
            goal: Some(5.0),
            ratio_goal: None,
        }
    }

    #[test]
    fn a_page_needs_nothing_else_and_shows_text_as_text() {
        let record = Record {
            machine: Machine {
                commit: "<script>".into(),
                ..Machine::default()
            },
            benches: Vec::new(),
            figures: vec![figure("<b>ours</b>", &[1.0, 2.0, 9.0])],
        };
        let page = html(&record);
        for banned in ["<script", "<b>", "http:", "https:", "url(", "@import"] {
            assert!(!page.contains(banned), "{banned}");
        }
        assert!(page.contains("&lt;b&gt;ours&lt;/b&gt;"), "{page}");
        assert!(page.contains("2.00 (1.00–9.00)"), "{page}");
        assert!(page.contains(">met<"), "{page}");
    }

    #[test]
    fn every_value_stands_inside_the_plot() {
        for values in [
            vec![0.0],
            vec![0.0, 1.0],
            vec![1.0, 1e9],
            vec![-1.0, 5.0],
            vec![f64::MAX, f64::MIN_POSITIVE],
        ] {
            let axis = Axis::over(values.iter().copied());
            for value in values {
                let at = axis.at(value);
                assert!(
                    (LABEL_WIDTH..=LABEL_WIDTH + PLOT_WIDTH).contains(&at),
                    "{value} at {at}"
                );
            }
        }
    }

    #[test]
    fn a_day_has_a_date() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_783), (2026, 11, 26));
    }
}
