//! Two files held against each other: `comm`, `diff`. (`cmp` is beside the other programs for bytes.)

use std::cmp::Ordering;

use crate::applet::{Context, Failure, Outcome, without_end};
use crate::options::Options;

applets! {
    "comm" => comm,
    "diff" => diff,
}

/// Lines that stay the same are shown around changes.
const AROUND: usize = 3;
/// What two files have in common is searched in a table of so many cells at most, one byte each. Beyond,
/// what lies between equal starts and ends counts as changed.
const CELLS_MAX: usize = 16 << 20;

type Lines = Vec<Vec<u8>>;

async fn both(context: &Context, options: &Options) -> Result<(Lines, Lines), Failure> {
    let [left, right] = options.operands.as_slice() else {
        return Err(Failure::usage("two files are expected"));
    };
    Ok((lines(context, left).await?, lines(context, right).await?))
}

async fn lines(context: &Context, name: &str) -> Result<Lines, Failure> {
    let failed = |failure: Failure| Failure::usage(failure.message());
    let input = context.open(name).map_err(failed)?;
    let mut lines = Vec::new();
    while let Some(line) = input.read_line().await? {
        lines.push(line);
    }
    Ok(lines)
}

/// Lines of two sorted files: of the first only, of the second only, of both.
async fn comm(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "123", &[])?;
    let (left, right) = both(&context, &options).await?;
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return context.end(0).await,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => without_end(left).cmp(without_end(right)),
        };
        let (column, line) = match order {
            Ordering::Less => ('1', left.next()),
            Ordering::Greater => ('2', right.next()),
            Ordering::Equal => {
                right.next();
                ('3', left.next())
            }
        };
        if options.has(column) {
            continue;
        }
        let before = ('1'..column).filter(|column| !options.has(*column)).count();
        context.write("\t".repeat(before)).await?;
        context
            .line(without_end(line.map_or(b"", Vec::as_slice)))
            .await?;
    }
}

/// What became of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Kept,
    Removed,
    Added,
}

async fn diff(context: Context) -> Outcome {
    let options = Options::read(
        context.arguments(),
        "uqsNabBwiU:",
        &[
            ("unified", 'u'),
            ("brief", 'q'),
            ("report-identical-files", 's'),
        ],
    )?;
    if options.has('w') || options.has('b') || options.has('B') || options.has('i') {
        return Err(Failure::usage("-b, -B, -i and -w are not supported"));
    }
    let (left, right) = both(&context, &options).await?;
    let (old, new) = (&options.operands[0], &options.operands[1]);
    if left == right {
        if options.has('s') {
            context
                .line(format!("Files {old} and {new} are identical"))
                .await?;
        }
        return context.end(0).await;
    }
    if options.has('q') {
        context
            .line(format!("Files {old} and {new} differ"))
            .await?;
        return context.end(1).await;
    }
    let around = options
        .number('U')?
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(AROUND);
    context.line(format!("--- {old}\n+++ {new}")).await?;
    for hunk in hunks(&changes(&left, &right), around) {
        show(&context, &hunk, &left, &right).await?;
    }
    context.end(1).await
}

/// Finds the longest sequence of lines that both have.
fn changes(left: &Lines, right: &Lines) -> Vec<Change> {
    let same = |pair: &(&Vec<u8>, &Vec<u8>)| pair.0 == pair.1;
    let start = left.iter().zip(right).take_while(same).count();
    let (inner_left, inner_right) = (&left[start..], &right[start..]);
    let end = inner_left
        .iter()
        .rev()
        .zip(inner_right.iter().rev())
        .take_while(same)
        .count();
    let inner_left = &inner_left[..inner_left.len() - end];
    let inner_right = &inner_right[..inner_right.len() - end];
    let mut changes = vec![Change::Kept; start];
    changes.extend(inner_changes(inner_left, inner_right));
    changes.extend(vec![Change::Kept; end]);
    changes
}

fn inner_changes(left: &[Vec<u8>], right: &[Vec<u8>]) -> Vec<Change> {
    let width = right.len() + 1;
    let cells = (left.len() + 1)
        .checked_mul(width)
        .filter(|cells| *cells <= CELLS_MAX);
    let Some(cells) = cells else {
        let removed = left.iter().map(|_| Change::Removed);
        return removed.chain(right.iter().map(|_| Change::Added)).collect();
    };
    // For each pair of places where to go from there; only two rows of lengths are needed.
    let mut ways = vec![Change::Added; cells];
    let mut below = vec![0_u32; width];
    for at in (0..left.len()).rev() {
        let mut row = vec![0_u32; width];
        ways[at * width + right.len()] = Change::Removed;
        for other in (0..right.len()).rev() {
            let (length, way) = if left[at] == right[other] {
                (below[other + 1] + 1, Change::Kept)
            } else if below[other] >= row[other + 1] {
                (below[other], Change::Removed)
            } else {
                (row[other + 1], Change::Added)
            };
            (row[other], ways[at * width + other]) = (length, way);
        }
        below = row;
    }
    let (mut at, mut other, mut changes) = (0, 0, Vec::new());
    while at < left.len() || other < right.len() {
        let way = ways[at * width + other];
        at += usize::from(way != Change::Added);
        other += usize::from(way != Change::Removed);
        changes.push(way);
    }
    changes
}

/// Changes that are shown together, and the lines of both files where they begin.
struct Hunk {
    changes: Vec<Change>,
    left: usize,
    right: usize,
}

fn hunks(changes: &[Change], around: usize) -> Vec<Hunk> {
    let mut shown = vec![false; changes.len()];
    for (at, _) in changes
        .iter()
        .enumerate()
        .filter(|(_, change)| **change != Change::Kept)
    {
        let end = (at + around + 1).min(changes.len());
        shown[at.saturating_sub(around)..end].fill(true);
    }
    let (mut left, mut right) = (0, 0);
    let mut hunks: Vec<Hunk> = Vec::new();
    for (at, change) in changes.iter().enumerate() {
        if shown[at] {
            if at == 0 || !shown[at - 1] {
                let changes = Vec::new();
                hunks.push(Hunk {
                    changes,
                    left,
                    right,
                });
            }
            if let Some(hunk) = hunks.last_mut() {
                hunk.changes.push(*change);
            }
        }
        left += usize::from(*change != Change::Added);
        right += usize::from(*change != Change::Removed);
    }
    hunks
}

async fn show(context: &Context, hunk: &Hunk, left: &Lines, right: &Lines) -> Result<(), Failure> {
    let count = |not: Change| hunk.changes.iter().filter(|change| **change != not).count();
    // One line is only named; none come after the line before.
    let range = |start: usize, count: usize| match count {
        0 => format!("{start},0"),
        1 => (start + 1).to_string(),
        count => format!("{},{count}", start + 1),
    };
    let old = range(hunk.left, count(Change::Added));
    let new = range(hunk.right, count(Change::Removed));
    context.line(format!("@@ -{old} +{new} @@")).await?;
    let (mut at, mut other) = (hunk.left, hunk.right);
    for change in &hunk.changes {
        let (sign, line) = match change {
            Change::Kept => (" ", &left[at]),
            Change::Removed => ("-", &left[at]),
            Change::Added => ("+", &right[other]),
        };
        context.write(sign).await?;
        context.line(without_end(line)).await?;
        if !line.ends_with(b"\n") {
            context.line("\\ No newline at end of file").await?;
        }
        at += usize::from(*change != Change::Added);
        other += usize::from(*change != Change::Removed);
    }
    Ok(())
}
