//! `cat`, `head`, `tail`, `tee`, `wc`.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use crate::applet::{Context, Failure, Outcome, without_end};
use crate::options::Options;
use crate::reactor;
use crate::stream::{Handle, Mode};

applets! {
    "cat" => cat,
    "head" => head,
    "tail" => tail,
    "tee" => tee,
    "wc" => wc,
}

const CHUNK_BYTES: usize = 32 * 1024;
/// How often `tail -f` looks for more: a file tells nobody when it grows.
const FOLLOW: Duration = Duration::from_millis(250);

/// The operands, or standard input when there are none.
pub(crate) fn sources(operands: &[String]) -> Vec<String> {
    if operands.is_empty() {
        vec!["-".to_owned()]
    } else {
        operands.to_vec()
    }
}

async fn cat(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "nbsuvetAET", &[])?;
    let (mut code, mut number, mut blank) = (0, 0, false);
    let plain = options.given().all(|(letter, _)| letter == 'u');
    for name in sources(&options.operands) {
        let input = match context.open(&name) {
            Ok(input) => input,
            Err(failure) => {
                context.complain(&failure).await?;
                code = 1;
                continue;
            }
        };
        if plain {
            loop {
                let piece = input.read(CHUNK_BYTES).await?;
                if piece.is_empty() {
                    break;
                }
                context.write(&piece).await?;
                context.flush().await?;
            }
            continue;
        }
        while let Some(line) = context.next_line(&input).await? {
            let empty = without_end(&line).is_empty();
            if empty && blank && options.has('s') {
                continue;
            }
            blank = empty;
            if options.has('n') && !options.has('b') || (options.has('b') && !empty) {
                number += 1;
                context.write(format!("{number:6}\t")).await?;
            }
            context.write(visible(&line, &options)).await?;
        }
    }
    context.end(code).await
}

/// A line with what `-v`, `-e`, `-t` and `-A` show of it.
fn visible(line: &[u8], options: &Options) -> Vec<u8> {
    let all = options.has('A');
    let ends = all || options.has('e') || options.has('E');
    let tabs = all || options.has('t') || options.has('T');
    let control = all || options.has('v') || options.has('e') || options.has('t');
    let mut shown = Vec::with_capacity(line.len());
    for byte in line {
        match byte {
            b'\n' if ends => shown.extend_from_slice(b"$\n"),
            b'\t' if tabs => shown.extend_from_slice(b"^I"),
            b'\n' | b'\t' => shown.push(*byte),
            0..32 if control => shown.extend_from_slice(&[b'^', byte + 64]),
            127 if control => shown.extend_from_slice(b"^?"),
            128.. if control => {
                shown.extend_from_slice(b"M-");
                match byte & 127 {
                    low @ 0..32 => shown.extend_from_slice(&[b'^', low + 64]),
                    127 => shown.extend_from_slice(b"^?"),
                    low => shown.push(low),
                }
            }
            byte => shown.push(*byte),
        }
    }
    shown
}

/// Turns `-5` into `-n 5`.
fn with_counts(words: &[String]) -> Vec<String> {
    let count = |word: &String| {
        let digits = word.strip_prefix('-')?;
        let counted = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
        counted.then(|| format!("-n{digits}"))
    };
    words
        .iter()
        .map(|word| count(word).unwrap_or_else(|| word.clone()))
        .collect()
}

/// A count as `head` and `tail` take it: a sign, digits, a unit.
fn count(text: &str) -> Result<(Option<char>, u64), Failure> {
    let sign = text.chars().next().filter(|c| matches!(c, '+' | '-'));
    let digits = text.trim_start_matches(['+', '-']);
    let (digits, unit) = match digits.chars().last() {
        Some('k' | 'K') => (&digits[..digits.len() - 1], 1024),
        Some('m' | 'M') => (&digits[..digits.len() - 1], 1024 * 1024),
        Some('b') => (&digits[..digits.len() - 1], 512),
        _ => (digits, 1),
    };
    let number = digits.parse::<u64>().ok();
    let number = number.and_then(|number| number.checked_mul(unit));
    let invalid = || Failure::new(format!("invalid number `{text}`"));
    Ok((sign, number.ok_or_else(invalid)?))
}

async fn header(context: &Context, name: &str, index: usize) -> Result<(), Failure> {
    let gap = if index > 0 { "\n" } else { "" };
    let name = if name == "-" { "standard input" } else { name };
    context.write(format!("{gap}==> {name} <==\n")).await?;
    Ok(())
}

async fn head(context: Context) -> Outcome {
    let long = &[
        ("lines", 'n'),
        ("bytes", 'c'),
        ("quiet", 'q'),
        ("verbose", 'v'),
    ];
    let options = Options::read(&with_counts(context.arguments()), "n:c:qv", long)?;
    let bytes = options.value('c').map(count).transpose()?;
    let lines = count(options.value('n').unwrap_or("10"))?;
    let names = sources(&options.operands);
    let mut code = 0;
    for (index, name) in names.iter().enumerate() {
        let input = match context.open(name) {
            Ok(input) => input,
            Err(failure) => {
                context.complain(&failure).await?;
                code = 1;
                continue;
            }
        };
        if (names.len() > 1 && !options.has('q')) || options.has('v') {
            header(&context, name, index).await?;
        }
        match (bytes, lines) {
            (Some((Some('-'), last)), _) => {
                let all = input.read_all().await?;
                let keep = all
                    .len()
                    .saturating_sub(usize::try_from(last).unwrap_or(usize::MAX));
                context.write(&all[..keep]).await?;
            }
            (Some((_, mut left)), _) => {
                while left > 0 {
                    let most = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
                    let piece = input.read(most).await?;
                    if piece.is_empty() {
                        break;
                    }
                    left -= piece.len() as u64;
                    context.write(&piece).await?;
                }
            }
            (None, (Some('-'), last)) => {
                let mut kept = std::collections::VecDeque::new();
                while let Some(line) = context.next_line(&input).await? {
                    kept.push_back(line);
                    if kept.len() as u64 > last
                        && let Some(line) = kept.pop_front()
                    {
                        context.write(line).await?;
                    }
                }
            }
            (None, (_, most)) => {
                for _ in 0..most {
                    match context.next_line(&input).await? {
                        Some(line) => context.write(line).await?,
                        None => break,
                    }
                }
            }
        }
    }
    context.end(code).await
}

async fn tail(context: Context) -> Outcome {
    let long = &[
        ("lines", 'n'),
        ("bytes", 'c'),
        ("quiet", 'q'),
        ("verbose", 'v'),
        ("follow", 'f'),
        ("retry", 'F'),
    ];
    let options = Options::read(&with_counts(context.arguments()), "n:c:qvfFs:", long)?;
    let bytes = options.value('c').map(count).transpose()?;
    let lines = count(options.value('n').unwrap_or("10"))?;
    let names = sources(&options.operands);
    let (mut code, mut followed) = (0, Vec::new());
    for (index, name) in names.iter().enumerate() {
        let input = match context.open(name) {
            Ok(input) => input,
            Err(failure) => {
                context.complain(&failure).await?;
                code = 1;
                // `-F` waits for it to appear.
                if options.has('F') {
                    followed.push((name.clone(), context.path(name), 0));
                }
                continue;
            }
        };
        if (names.len() > 1 && !options.has('q')) || options.has('v') {
            header(&context, name, index).await?;
        }
        let read = match bytes {
            Some(bytes) => tail_bytes(&context, &input, bytes).await?,
            None => tail_lines(&context, &input, lines).await?,
        };
        if name != "-" {
            followed.push((name.clone(), context.path(name), read));
        }
    }
    if (options.has('f') || options.has('F')) && !followed.is_empty() {
        follow(&context, followed).await?;
    }
    context.end(code).await
}

/// Writes the last bytes, or all from a place on; returns how many there were.
async fn tail_bytes(
    context: &Context,
    input: &Handle,
    (sign, count): (Option<char>, u64),
) -> Result<u64, Failure> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let (mut kept, mut read) = (Vec::new(), 0_u64);
    loop {
        let piece = input.read(CHUNK_BYTES).await?;
        if piece.is_empty() {
            break;
        }
        read += piece.len() as u64;
        kept.extend_from_slice(&piece);
        if sign != Some('+') && kept.len() / 2 > count.max(CHUNK_BYTES) {
            kept.drain(..kept.len() - count);
        }
    }
    let start = match sign {
        Some('+') => count.saturating_sub(1).min(kept.len()),
        _ => kept.len().saturating_sub(count),
    };
    context.write(&kept[start..]).await?;
    Ok(read)
}

/// As [`tail_bytes`], by lines.
async fn tail_lines(
    context: &Context,
    input: &Handle,
    (sign, count): (Option<char>, u64),
) -> Result<u64, Failure> {
    let (mut kept, mut read, mut number) = (std::collections::VecDeque::new(), 0_u64, 0_u64);
    while let Some(line) = context.next_line(input).await? {
        read += line.len() as u64;
        number += 1;
        if sign == Some('+') {
            if number >= count {
                context.write(line).await?;
            }
            continue;
        }
        kept.push_back(line);
        if kept.len() as u64 > count {
            kept.pop_front();
        }
    }
    for line in kept {
        context.write(line).await?;
    }
    Ok(read)
}

/// Writes what files grow by, for ever. One that became shorter is begun anew; one that is not there
/// is looked for again.
async fn follow(context: &Context, mut files: Vec<(String, PathBuf, u64)>) -> Result<(), Failure> {
    let several = files.len() > 1;
    let mut shown = files.len() - 1;
    loop {
        context.flush().await?;
        reactor::sleep(FOLLOW).await;
        for (index, (name, path, read)) in files.iter_mut().enumerate() {
            let Ok(metadata) = fs::metadata(&*path) else {
                continue;
            };
            if metadata.len() < *read {
                *read = 0;
            }
            if metadata.len() == *read {
                continue;
            }
            let Ok(mut file) = fs::File::open(&*path) else {
                continue;
            };
            file.seek(SeekFrom::Start(*read))?;
            let mut more = Vec::new();
            file.take(CHUNK_BYTES as u64).read_to_end(&mut more)?;
            *read += more.len() as u64;
            if several && std::mem::replace(&mut shown, index) != index {
                header(context, name, 1).await?;
            }
            context.write(more).await?;
        }
    }
}

async fn tee(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "ai", &[("append", 'a')])?;
    let mode = if options.has('a') {
        Mode::Append
    } else {
        Mode::Write
    };
    let (mut outputs, mut code) = (Vec::new(), 0);
    for name in &options.operands {
        match context.create(name, mode) {
            Ok(output) => outputs.push(output),
            Err(failure) => {
                context.complain(&failure).await?;
                code = 1;
            }
        }
    }
    let input = context.input()?;
    loop {
        let piece = input.read(CHUNK_BYTES).await?;
        if piece.is_empty() {
            return context.end(code).await;
        }
        for output in &outputs {
            output.write(&piece).await?;
        }
        context.write(&piece).await?;
        context.flush().await?;
    }
}

#[derive(Clone, Copy, Default)]
struct Counts {
    lines: u64,
    words: u64,
    chars: u64,
    bytes: u64,
    longest: u64,
}

async fn wc(context: Context) -> Outcome {
    let long = &[
        ("lines", 'l'),
        ("words", 'w'),
        ("bytes", 'c'),
        ("chars", 'm'),
    ];
    let options = Options::read(context.arguments(), "lwcmL", long)?;
    let (mut code, mut total) = (0, Counts::default());
    let names = sources(&options.operands);
    let alone = options.given().count() == 1 && names.len() == 1;
    for name in &names {
        let input = match context.open(name) {
            Ok(input) => input,
            Err(failure) => {
                context.complain(&failure).await?;
                code = 1;
                continue;
            }
        };
        let mut counts = Counts::default();
        while let Some(line) = input.read_line().await? {
            counts.add(&line);
        }
        let name = (!options.operands.is_empty()).then_some(name.as_str());
        context.line(counts.shown(&options, alone, name)).await?;
        total.lines += counts.lines;
        total.words += counts.words;
        total.chars += counts.chars;
        total.bytes += counts.bytes;
        total.longest = total.longest.max(counts.longest);
    }
    if names.len() > 1 {
        context
            .line(total.shown(&options, alone, Some("total")))
            .await?;
    }
    context.end(code).await
}

impl Counts {
    fn add(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        self.lines += u64::from(line.ends_with(b"\n"));
        self.words += text.split_whitespace().count() as u64;
        self.chars += text.chars().count() as u64;
        self.bytes += line.len() as u64;
        let columns = text.trim_end_matches('\n').chars().count() as u64;
        self.longest = self.longest.max(columns);
    }

    fn shown(self, options: &Options, alone: bool, name: Option<&str>) -> String {
        let all = options.given().count() == 0;
        let columns = [
            ('l', all, self.lines),
            ('w', all, self.words),
            ('m', false, self.chars),
            ('c', all, self.bytes),
            ('L', false, self.longest),
        ];
        let wanted = columns
            .iter()
            .filter(|(letter, usual, _)| *usual || options.has(*letter));
        let numbers: Vec<String> = wanted
            .map(|(_, _, number)| match alone {
                true => number.to_string(),
                false => format!("{number:9}"),
            })
            .collect();
        let mut text = numbers.join(" ");
        if let Some(name) = name {
            text.push(' ');
            text.push_str(name);
        }
        text
    }
}
