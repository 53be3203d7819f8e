//! The plot of one figure: a row for each contender.
//!
//! On the left a bar to the median, a whisker over the range of the rounds, a dashed line at the goal. Bars
//! begin at 0 unless the medians differ so much that the short ones could not be seen; then the axis is
//! logarithmic and says so. On the right, where contenders are compared, a dot at the median ratio and its
//! range, on a logarithmic axis with a line at 1: as far to the left is as much less as to the right is more.

use std::fmt::Write as _;

use coracle_tests::{Spread, short};

use super::escaped;
use crate::bench::record::Figure;

/// From this factor between the largest and the smallest on, the axis is logarithmic.
const LOGARITHMIC_FROM: f64 = 40.0;

const LABEL_WIDTH: f64 = 215.0;
/// What fits into a line of it.
const LABEL_CHARS: usize = 34;
const PLOT_WIDTH: f64 = 300.0;
const TEXT_WIDTH: f64 = 195.0;
const RATIO_WIDTH: f64 = 150.0;
const RATIO_TEXT_WIDTH: f64 = 190.0;
/// Above the rows, where something stands there.
const HEAD_HEIGHT: f64 = 18.0;
const ROW_HEIGHT: f64 = 24.0;
const BAR_HEIGHT: f64 = 14.0;
/// Between a plot and the text beside it.
const GAP: f64 = 10.0;

/// Where the ratios begin.
const RATIO_LEFT: f64 = LABEL_WIDTH + PLOT_WIDTH + TEXT_WIDTH;

/// Returns the plot of a group of figures with one name and one unit.
pub(super) fn svg(group: &[&Figure]) -> String {
    let rows: Vec<Row<'_>> = group.iter().filter_map(|figure| Row::of(figure)).collect();
    let goals = rows.iter().filter_map(|row| row.figure.goal);
    let ends = rows
        .iter()
        .flat_map(|row| [row.spread.median, row.spread.most]);
    let axis = Axis::over(ends.chain(goals), LABEL_WIDTH, PLOT_WIDTH);
    let ratios = ratio_axis(&rows);
    let head = if ratios.is_some() { HEAD_HEIGHT } else { 0.0 };
    let base = head + ROW_HEIGHT * rows.len() as f64;
    let (width, height) = (RATIO_LEFT + RATIO_WIDTH + RATIO_TEXT_WIDTH, base + 16.0);
    let mut svg = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\">\n");
    if let Some(ratios) = &ratios {
        let one = ratios.at(1.0);
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"{head}\" y2=\"{base:.1}\"/>\
             <text class=\"dim\" x=\"{one:.1}\" y=\"{:.1}\" text-anchor=\"middle\">1 ×</text>\
             <text class=\"dim\" x=\"{width}\" y=\"12\" text-anchor=\"end\">{}</text>",
            base + 13.0,
            escaped(&beside(&rows))
        );
    }
    for (at, row) in rows.iter().enumerate() {
        let top = head + ROW_HEIGHT * at as f64;
        svg.push_str(&row.bar(&axis, top));
        if let (Some(ratios), Some(spread)) = (&ratios, row.ratio) {
            svg.push_str(&row.dot(ratios, spread, top));
        }
    }
    let _ = writeln!(
        svg,
        "<line class=\"axis\" x1=\"{LABEL_WIDTH}\" x2=\"{LABEL_WIDTH}\" y1=\"{head}\" y2=\"{base:.1}\"/>\
         <text class=\"dim\" x=\"{LABEL_WIDTH}\" y=\"{:.1}\">{}</text>\
         <text class=\"dim\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n</svg>",
        base + 13.0,
        axis.begin_label(),
        LABEL_WIDTH + PLOT_WIDTH,
        base + 13.0,
        short(axis.most)
    );
    svg
}

/// The name of a row, in two lines where one has no room for it.
fn label(text: &str, middle: f64) -> String {
    let (lines, first, class) = match halves(text) {
        Some((begin, end)) => (vec![begin, end], middle - 1.5, "small"),
        None => (vec![text], middle + 4.0, ""),
    };
    let mut svg = String::new();
    for (at, line) in lines.into_iter().enumerate() {
        let (x, y) = (LABEL_WIDTH - GAP, first + 11.0 * at as f64);
        let _ = write!(
            svg,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>",
            escaped(line)
        );
    }
    svg
}

/// A long text, divided at the space that is nearest to its middle.
fn halves(text: &str) -> Option<(&str, &str)> {
    if text.chars().count() <= LABEL_CHARS {
        return None;
    }
    let spaces = text.match_indices(' ').map(|(at, _)| at);
    let at = spaces.min_by_key(|at| at.abs_diff(text.len() / 2))?;
    Some((&text[..at], &text[at + 1..]))
}

/// A contender's place in the plot.
struct Row<'a> {
    figure: &'a Figure,
    spread: Spread,
    ratio: Option<Spread>,
}

impl<'a> Row<'a> {
    fn of(figure: &'a Figure) -> Option<Self> {
        Some(Self {
            figure,
            spread: Spread::of(&figure.rounds)?,
            ratio: Spread::of(&figure.ratios),
        })
    }

    fn bar(&self, axis: &Axis, top: f64) -> String {
        let Spread {
            least,
            median,
            most,
        } = self.spread;
        let middle = top + ROW_HEIGHT / 2.0;
        let (least, end, most) = (axis.at(least), axis.at(median), axis.at(most));
        let class = if self.figure.is_peer { "peer" } else { "ours" };
        let mut svg = format!(
            "{}<rect class=\"{class}\" x=\"{LABEL_WIDTH}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
            label(&self.figure.key.contender, middle),
            middle - BAR_HEIGHT / 2.0,
            (end - LABEL_WIDTH).max(1.0),
            LABEL_WIDTH + PLOT_WIDTH + GAP,
            middle + 4.0,
            self.spread
        );
        svg.push_str(&whisker(least, most, middle));
        if let Some(goal) = self.figure.goal {
            svg.push_str(&goal_line(axis.at(goal), top));
        }
        svg
    }

    fn dot(&self, axis: &Axis, spread: Spread, top: f64) -> String {
        let middle = top + ROW_HEIGHT / 2.0;
        let mut svg = whisker(axis.at(spread.least), axis.at(spread.most), middle);
        let _ = writeln!(
            svg,
            "<circle class=\"ours\" cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"4\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{spread} ×</text>",
            axis.at(spread.median),
            RATIO_LEFT + RATIO_WIDTH + GAP,
            middle + 4.0
        );
        if let Some(goal) = self.figure.ratio_goal {
            svg.push_str(&goal_line(axis.at(goal), top));
        }
        svg
    }
}

/// The axis of all ratios, with 1 on it; `None` where nobody is compared.
fn ratio_axis(rows: &[Row<'_>]) -> Option<Axis> {
    let spreads = rows.iter().filter_map(|row| row.ratio);
    let mut values: Vec<f64> = spreads.flat_map(|it| [it.least, it.most]).collect();
    if values.is_empty() {
        return None;
    }
    values.extend(rows.iter().filter_map(|row| row.figure.ratio_goal));
    values.retain(|value| *value > 0.0);
    // A quarter more on both sides than anything on it.
    let (mut least, mut most) = (0.8, 1.25);
    for value in values {
        least = (value * 0.8).min(least);
        most = (value * 1.25).max(most);
    }
    Some(Axis {
        least,
        most,
        left: RATIO_LEFT,
        width: RATIO_WIDTH,
    })
}

/// Whom the ratios are to; as a rule everybody is compared with the same.
fn beside(rows: &[Row<'_>]) -> String {
    let compared = rows.iter().filter(|row| row.ratio.is_some());
    let all = compared.filter_map(|row| row.figure.against.as_deref());
    format!("ratio to {}", super::names(all).join(", "))
}

fn whisker(from: f64, to: f64, middle: f64) -> String {
    if to - from < 0.5 {
        return String::new();
    }
    let (up, down) = (middle - 3.0, middle + 3.0);
    format!(
        "<path class=\"whisker\" d=\"M{from:.1} {up:.1}V{down:.1}M{from:.1} {middle:.1}H{to:.1}M{to:.1} {up:.1}V{down:.1}\"/>\n"
    )
}

fn goal_line(x: f64, top: f64) -> String {
    let (from, to) = (top + 1.0, top + ROW_HEIGHT - 1.0);
    format!("<line class=\"goal\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from:.1}\" y2=\"{to:.1}\"/>\n")
}

/// Where a value stands.
struct Axis {
    /// 0 on a linear axis.
    least: f64,
    most: f64,
    left: f64,
    width: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, left: f64, width: f64) -> Self {
        let positive: Vec<f64> = values.filter(|value| *value > 0.0).collect();
        let most = positive.iter().copied().fold(0.0, f64::max);
        let least = positive.iter().copied().fold(f64::INFINITY, f64::min);
        let is_wide = most / least > LOGARITHMIC_FROM;
        Self {
            least: if is_wide { least / 2.0 } else { 0.0 },
            most: if most > 0.0 { most } else { 1.0 },
            left,
            width,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = match self.least > 0.0 {
            true => (value / self.least).ln() / (self.most / self.least).ln(),
            false => value / self.most,
        };
        // Nothing to take a logarithm of stands at the beginning.
        let share = if share.is_finite() { share } else { 0.0 };
        self.left + self.width * share.clamp(0.0, 1.0)
    }

    fn begin_label(&self) -> String {
        match self.least > 0.0 {
            true => format!("{} (logarithmic)", short(self.least)),
            false => "0".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_stands_inside_the_plot() {
        for values in [
            vec![0.0],
            vec![0.0, 1.0],
            vec![1.0, 1e9],
            vec![-1.0, 5.0],
            vec![f64::MAX, f64::MIN_POSITIVE],
        ] {
            let axis = Axis::over(values.iter().copied(), LABEL_WIDTH, PLOT_WIDTH);
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
    fn a_long_name_is_written_in_two_lines() {
        assert_eq!(halves("haproxy"), None);
        let long = "wasmtime-wasi, kernel sockets, one thread";
        assert_eq!(
            halves(long),
            Some(("wasmtime-wasi, kernel", "sockets, one thread"))
        );
        assert_eq!(halves(&"x".repeat(50)), None);
    }

    #[test]
    fn the_axis_of_ratios_holds_one_and_the_goal() {
        let record = crate::bench::record::Record::read(
            "{\"schema\":1,\"benches\":[],\"figures\":[{\"bench\":\"edge\",\"name\":\"a\",\"contender\":\"ours\",\
             \"unit\":\"s\",\"better\":\"lower\",\"rounds\":[2,4],\"against\":\"haproxy\",\"ratios\":[3,5],\
             \"ratio_goal\":0.4}]}",
        )
        .expect("a record");
        let rows = [Row::of(&record.figures[0]).expect("it has rounds")];
        let axis = ratio_axis(&rows).expect("there are ratios");
        let places = [0.4, 1.0, 3.0, 5.0].map(|value| axis.at(value));
        assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
        assert!(places[0] > RATIO_LEFT && places[3] < RATIO_LEFT + RATIO_WIDTH);
        let svg = svg(&[&record.figures[0]]);
        assert!(svg.contains("ratio to haproxy"), "{svg}");
        assert!(svg.contains("5.00 (3.00–5.00) ×"), "{svg}");
    }
}
