//! Lines and columns: `sort`, `uniq`, `cut`, `tr`, `rev`, `nl`, `tac`, `paste`, `fold`.

mod order;
mod sets;

use super::reading::sources;
use crate::applet::{Context, Failure, Outcome, without_end};
use crate::options::Options;
use crate::stream::Mode;

applets! {
    "sort" => order::sort,
    "uniq" => uniq,
    "cut" => cut,
    "tr" => sets::tr,
    "rev" => rev,
    "tac" => tac,
    "nl" => nl,
    "paste" => paste,
    "fold" => fold,
}

/// All lines of the operands, without their ends.
async fn lines(context: &Context, operands: &[String]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut lines = Vec::new();
    for name in sources(operands) {
        let input = context.open(&name)?;
        while let Some(line) = input.read_line().await? {
            lines.push(without_end(&line).to_vec());
        }
    }
    Ok(lines)
}

async fn uniq(context: Context) -> Outcome {
    let options = Options::read(
        context.arguments(),
        "cduif:s:w:",
        &[("count", 'c'), ("repeated", 'd')],
    )?;
    let input = context.open(options.operands.first().map_or("-", String::as_str))?;
    let output = match options.operands.get(1) {
        Some(name) => Some(context.create(name, Mode::Write)?),
        None => None,
    };
    let fields = options.number('f')?.unwrap_or(0);
    let skipped = options.number('s')?.unwrap_or(0);
    let key = |line: &[u8]| -> String {
        let text = String::from_utf8_lossy(line).into_owned();
        let mut rest = text.as_str();
        for _ in 0..fields {
            rest = rest.trim_start();
            rest = &rest[rest.find(char::is_whitespace).unwrap_or(rest.len())..];
        }
        let rest: String = rest
            .chars()
            .skip(usize::try_from(skipped).unwrap_or(0))
            .collect();
        if options.has('i') {
            rest.to_lowercase()
        } else {
            rest
        }
    };
    let mut current: Option<(Vec<u8>, u64)> = None;
    loop {
        let line = context.next_line(&input).await?;
        let line = line.map(|line| without_end(&line).to_vec());
        if let (Some(line), Some((first, count))) = (&line, &mut current)
            && key(line) == key(first)
        {
            *count += 1;
            continue;
        }
        if let Some((first, count)) = current.take() {
            let wanted = match (options.has('d'), options.has('u')) {
                (true, _) => count > 1,
                (false, true) => count == 1,
                (false, false) => true,
            };
            if wanted {
                let mut text = Vec::new();
                if options.has('c') {
                    text.extend_from_slice(format!("{count:7} ").as_bytes());
                }
                text.extend_from_slice(&first);
                text.push(b'\n');
                match &output {
                    Some(output) => output.write(&text).await?,
                    None => context.write(text).await?,
                }
            }
        }
        match line {
            Some(line) => current = Some((line, 1)),
            None => return context.end(0).await,
        }
    }
}

/// Reads ranges such as `1,3-5,7-`, each from 1.
fn ranges(list: &str) -> Result<Vec<(usize, usize)>, Failure> {
    let invalid = || Failure::usage(format!("invalid list `{list}`"));
    let number = |text: &str, otherwise: usize| match text {
        "" => Ok(otherwise),
        text => text.parse::<usize>().map_err(|_| invalid()),
    };
    let parts = list.split([',', ' ']).filter(|part| !part.is_empty());
    let ranges: Vec<(usize, usize)> = parts
        .map(|part| {
            let range = match part.split_once('-') {
                Some((first, last)) => (number(first, 1)?, number(last, usize::MAX)?),
                None => (number(part, 0)?, number(part, 0)?),
            };
            if range.0 == 0 || range.1 < range.0 {
                return Err(invalid());
            }
            Ok(range)
        })
        .collect::<Result<_, _>>()?;
    if ranges.is_empty() {
        return Err(invalid());
    }
    Ok(ranges)
}

async fn cut(context: Context) -> Outcome {
    let long = &[
        ("bytes", 'b'),
        ("characters", 'c'),
        ("fields", 'f'),
        ("delimiter", 'd'),
        ("only-delimited", 's'),
        ("output-delimiter", 'O'),
        ("complement", 'C'),
    ];
    let options = Options::read(context.arguments(), "b:c:f:d:snO:C", long)?;
    let list = options
        .value('b')
        .or(options.value('c'))
        .or(options.value('f'));
    let ranges = ranges(list.ok_or_else(|| Failure::usage("-b, -c or -f is expected"))?)?;
    let wanted = |place: usize| {
        let listed = ranges
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&place));
        listed != options.has('C')
    };
    let delimiter = options.value('d').unwrap_or("\t");
    let joined = options.value('O').unwrap_or(delimiter);
    for name in sources(&options.operands) {
        let input = context.open(&name)?;
        while let Some(line) = context.next_line(&input).await? {
            let line = without_end(&line);
            if options.has('b') {
                let bytes = line.iter().enumerate().filter(|(at, _)| wanted(at + 1));
                context
                    .line(bytes.map(|(_, byte)| *byte).collect::<Vec<u8>>())
                    .await?;
                continue;
            }
            let text = String::from_utf8_lossy(line);
            if options.has('c') {
                let chars = text.chars().enumerate().filter(|(at, _)| wanted(at + 1));
                context
                    .line(chars.map(|(_, c)| c).collect::<String>())
                    .await?;
            } else if delimiter.is_empty() || !text.contains(delimiter) {
                if !options.has('s') {
                    context.line(line).await?;
                }
            } else {
                let fields = text.split(delimiter).enumerate();
                let fields: Vec<&str> = fields
                    .filter(|(at, _)| wanted(at + 1))
                    .map(|f| f.1)
                    .collect();
                context.line(fields.join(joined)).await?;
            }
        }
    }
    context.end(0).await
}

async fn rev(context: Context) -> Outcome {
    for name in sources(context.arguments()) {
        let input = context.open(&name)?;
        while let Some(line) = context.next_line(&input).await? {
            let text = String::from_utf8_lossy(without_end(&line)).into_owned();
            context.line(text.chars().rev().collect::<String>()).await?;
        }
    }
    context.end(0).await
}

async fn tac(context: Context) -> Outcome {
    for line in lines(&context, context.arguments()).await?.iter().rev() {
        context.line(line).await?;
    }
    context.end(0).await
}

async fn nl(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "b:w:s:v:i:", &[])?;
    let width = usize::try_from(options.number('w')?.unwrap_or(6))
        .unwrap_or(6)
        .min(100);
    let mut number = options.number('v')?.unwrap_or(1);
    let separator = options.value('s').unwrap_or("\t");
    let all = options.value('b') == Some("a");
    for line in lines(&context, &options.operands).await? {
        if line.is_empty() && !all {
            context.line(" ".repeat(width + separator.len())).await?;
            continue;
        }
        context
            .write(format!("{number:>width$}{separator}"))
            .await?;
        context.line(line).await?;
        number += options.number('i')?.unwrap_or(1);
    }
    context.end(0).await
}

async fn paste(context: Context) -> Outcome {
    let options = Options::read(
        context.arguments(),
        "d:s",
        &[("delimiters", 'd'), ("serial", 's')],
    )?;
    let delimiters = super::escapes::unescape(options.value('d').unwrap_or("\t"));
    let mut columns = Vec::new();
    for name in sources(&options.operands) {
        columns.push(lines(&context, &[name]).await?);
    }
    let join = |cells: &[&[u8]]| {
        let mut text = Vec::new();
        for (at, cell) in cells.iter().enumerate() {
            if at > 0 && !delimiters.is_empty() {
                text.push(delimiters[(at - 1) % delimiters.len()]);
            }
            text.extend_from_slice(cell);
        }
        text
    };
    if options.has('s') {
        for column in &columns {
            let cells: Vec<&[u8]> = column.iter().map(Vec::as_slice).collect();
            context.line(join(&cells)).await?;
        }
        return context.end(0).await;
    }
    let rows = columns.iter().map(Vec::len).max().unwrap_or(0);
    for row in 0..rows {
        let cell = |column: &'_ Vec<Vec<u8>>| column.get(row).cloned().unwrap_or_default();
        let cells: Vec<Vec<u8>> = columns.iter().map(cell).collect();
        let cells: Vec<&[u8]> = cells.iter().map(Vec::as_slice).collect();
        context.line(join(&cells)).await?;
    }
    context.end(0).await
}

async fn fold(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "w:bs", &[("width", 'w')])?;
    let width = usize::try_from(options.number('w')?.unwrap_or(80))
        .unwrap_or(80)
        .max(1);
    for line in lines(&context, &options.operands).await? {
        let chars: Vec<char> = String::from_utf8_lossy(&line).chars().collect();
        if chars.is_empty() {
            context.line("").await?;
        }
        let mut rest = chars.as_slice();
        while !rest.is_empty() {
            let mut length = rest.len().min(width);
            if options.has('s') && length < rest.len() {
                let space = rest[..length].iter().rposition(|c| *c == ' ');
                length = space.map_or(length, |at| at + 1);
            }
            let (row, behind) = rest.split_at(length);
            context.line(row.iter().collect::<String>()).await?;
            rest = behind;
        }
    }
    context.end(0).await
}
