//! A record as a page of plots: one file, no scripts, nothing from elsewhere, light or dark as the reader has it.

mod plot;

use std::fmt::Write as _;

use coracle_tests::Spread;

use super::record::{Bench, Better, Figure, Machine, Record};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2733; --dim: #66727f; --ours: #2f7ed8; --peer: #b9c2cc; \
--goal: #c2410c; --good: #15803d; --paper: #fff; --line: #e3e8ed; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e9ee; --dim: #9aa7b4; --ours: #5b9ff0; \
--peer: #55606c; --goal: #fb923c; --good: #4ade80; --paper: #14191f; --line: #2a323b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); \
max-width: 1060px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .2rem; padding-top: .6rem; \
border-top: 1px solid var(--line); } h3 { font-size: .95rem; margin: 1.1rem 0 .1rem; }
p { color: var(--dim); margin: .2rem 0; } h3 span { color: var(--dim); font-weight: normal; }
nav a { margin-right: .8rem; } a { color: var(--ours); }
svg { display: block; width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); \
font-variant-numeric: tabular-nums; } svg .small { font-size: 10.5px; } svg .dim { fill: var(--dim); }
.ours { fill: var(--ours); } .peer { fill: var(--peer); } .whisker { stroke: var(--ink); stroke-width: 1.3; fill: none; }
.goal { stroke: var(--goal); stroke-width: 1.8; stroke-dasharray: 4 3; } .axis { stroke: var(--dim); }
table { border-collapse: collapse; width: 100%; font-size: 14px; } tr { border-bottom: 1px solid var(--line); }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; } .whole { white-space: nowrap; }
.bad { color: var(--goal); } .good { color: var(--good); }
";

/// Returns the page.
pub(super) fn html(record: &Record) -> String {
    let benches = names(
        record
            .figures
            .iter()
            .map(|figure| figure.key.bench.as_str()),
    );
    let links: String = benches
        .iter()
        .map(|bench| format!("<a href=\"#{0}\">{0}</a>", escaped(bench)))
        .collect();
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Coracle: figures</title>\n\
         <style>{STYLE}</style>\n<h1>Coracle: figures</h1>\n<p>{}</p>\n<p>Bars are medians, whiskers the range of \
         the rounds, dashed lines goals. On the right are ratios of contenders that were measured in the same \
         round.</p>\n<nav>{links}</nav>\n",
        escaped(&facts(&record.machine))
    );
    page.push_str(&goals(record));
    for bench in benches {
        let about = record.benches.iter().find(|about| about.name == bench);
        let _ = writeln!(page, "<h2 id=\"{0}\">{0}</h2>", escaped(bench));
        if let Some(about) = about {
            let _ = writeln!(page, "<p>{}</p>", escaped(&conditions(about)));
        }
        let of_bench = || {
            let figures = record.figures.iter();
            figures.filter(move |figure| figure.key.bench == bench)
        };
        let titles: Vec<String> = of_bench().map(title).collect();
        for wanted in names(titles.iter().map(String::as_str)) {
            let group: Vec<_> = of_bench()
                .filter(|figure| title(figure) == wanted)
                .collect();
            let better = match group.first().map(|figure| figure.better) {
                Some(Better::Higher) => "higher is better",
                Some(Better::Lower) | None => "lower is better",
            };
            let _ = writeln!(page, "<h3>{} <span>· {better}</span></h3>", escaped(wanted));
            page.push_str(&plot::svg(&group));
        }
    }
    page.push_str("</html>\n");
    page
}

/// What a plot shows, and in which unit.
fn title(figure: &Figure) -> String {
    let (name, unit) = (&figure.key.name, &figure.key.unit);
    match unit.as_str() {
        "" => name.clone(),
        unit => format!("{name}, {unit}"),
    }
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
    let (mut met, mut all) = (0, 0);
    for figure in &record.figures {
        for (goal, is_met) in figure.verdicts() {
            let key = &figure.key;
            let (class, verdict) = match is_met {
                true => ("good", "met"),
                false => ("bad", "missed"),
            };
            met += u32::from(is_met);
            all += 1;
            let _ = writeln!(
                rows,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"whole\">{}</td><td>{}</td>\
                 <td class=\"{class}\">{verdict}</td></tr>",
                escaped(&key.bench),
                escaped(&key.name),
                escaped(&key.contender),
                escaped(&goal),
                escaped(&told(figure))
            );
        }
    }
    if rows.is_empty() {
        return rows;
    }
    format!(
        "<h2>Goals: {met} of {all} met</h2>\n<table><tr><th>bench<th>what<th>who<th>goal<th>found<th></tr>\n\
         {rows}</table>\n"
    )
}

/// The median with its range and, beside somebody, the ratio.
fn told(figure: &Figure) -> String {
    let mut text = Spread::of(&figure.rounds).map_or_else(String::new, |spread| spread.to_string());
    if !figure.key.unit.is_empty() {
        let _ = write!(text, " {}", figure.key.unit);
    }
    if let (Some(ratios), Some(against)) = (Spread::of(&figure.ratios), &figure.against) {
        let _ = write!(text, "; {ratios} × {against}");
    }
    text
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
        assert!(page.contains("2.00 (1.00–9.00) ms"), "{page}");
        assert!(page.contains("Goals: 1 of 1 met"), "{page}");
        assert!(page.contains(">met<"), "{page}");
    }

    #[test]
    fn a_day_has_a_date() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_783), (2026, 11, 26));
    }
}
