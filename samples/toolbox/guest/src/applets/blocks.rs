//! Bytes by the block: `dd`, `cmp`, `hexdump`, `od`, `xxd`, `strings`.

use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use crate::stream::{Handle, Mode};

applets! {
    "dd" => dd,
    "cmp" => cmp,
    "hexdump" => hexdump,
    "hd" => hexdump,
    "xxd" => xxd,
    "od" => od,
}

/// A block of `dd` may be this long.
const BLOCK_BYTES_MAX: u64 = 16 << 20;
const ROW: usize = 16;

/// Reads a size such as `512`, `4k`, `1M`, `1G`.
pub(crate) fn size(text: &str) -> Result<u64, Failure> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "c" | "B" => 1,
        "b" => 512,
        "k" | "K" | "kB" | "KiB" => 1 << 10,
        "m" | "M" | "MB" | "MiB" => 1 << 20,
        "g" | "G" | "GB" | "GiB" => 1 << 30,
        _ => 0,
    };
    let number = digits.parse::<u64>().ok().filter(|_| factor > 0);
    number
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| Failure::new(format!("invalid number `{text}`")))
}

struct Transfer {
    block: usize,
    count: Option<u64>,
    skip: u64,
    seek: u64,
    input: String,
    output: String,
    keeps: bool,
    status: bool,
}

async fn dd(context: Context) -> Outcome {
    let transfer = Transfer::read(context.arguments())?;
    let input = match transfer.input.as_str() {
        "" => context.input()?,
        name => context.open(name)?,
    };
    let mode = if transfer.keeps || transfer.seek > 0 {
        Mode::ReadWrite
    } else {
        Mode::Write
    };
    let output = match transfer.output.as_str() {
        "" => context.descriptors.get(1)?,
        name => context.create(name, mode)?,
    };
    for _ in 0..transfer.skip {
        full_block(&input, transfer.block).await?;
    }
    for _ in 0..transfer.seek {
        full_block(&output, transfer.block).await?;
    }
    let (mut full, mut partial, mut bytes) = (0_u64, 0_u64, 0_u64);
    while transfer.count.is_none_or(|count| full + partial < count) {
        let block = full_block(&input, transfer.block).await?;
        if block.is_empty() {
            break;
        }
        bytes += block.len() as u64;
        if block.len() == transfer.block {
            full += 1;
        } else {
            partial += 1;
        }
        output.write(&block).await?;
    }
    if transfer.status {
        let text = format!(
            "{full}+{partial} records in\n{full}+{partial} records out\n{bytes} bytes copied\n"
        );
        context.say(&text).await;
    }
    Ok(0)
}

impl Transfer {
    fn read(words: &[String]) -> Result<Self, Failure> {
        let mut transfer = Self {
            block: 512,
            count: None,
            skip: 0,
            seek: 0,
            input: String::new(),
            output: String::new(),
            keeps: false,
            status: true,
        };
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "if" => value.clone_into(&mut transfer.input),
                "of" => value.clone_into(&mut transfer.output),
                "bs" | "ibs" | "obs" => {
                    let size = size(value)?;
                    if !(1..=BLOCK_BYTES_MAX).contains(&size) {
                        return Err(Failure::new(format!("invalid number `{value}`")));
                    }
                    transfer.block = usize::try_from(size).unwrap_or(512);
                }
                "count" => transfer.count = Some(size(value)?),
                "skip" => transfer.skip = size(value)?,
                "seek" => transfer.seek = size(value)?,
                "status" => transfer.status = value != "none",
                "conv" => transfer.keeps = value.split(',').any(|name| name == "notrunc"),
                "iflag" | "oflag" => {}
                other => return Err(Failure::usage(format!("unknown operand `{other}`"))),
            }
        }
        Ok(transfer)
    }
}

/// Reads a block, shorter only at the end.
async fn full_block(input: &Handle, length: usize) -> Result<Vec<u8>, Failure> {
    let mut block = Vec::new();
    while block.len() < length {
        let piece = input.read(length - block.len()).await?;
        if piece.is_empty() {
            break;
        }
        block.extend_from_slice(&piece);
    }
    Ok(block)
}

async fn cmp(context: Context) -> Outcome {
    let options = Options::read(
        context.arguments(),
        "sl",
        &[("quiet", 's'), ("silent", 's')],
    )?;
    let [first, second, ..] = options.operands.as_slice() else {
        return Err(Failure::usage("two names are expected"));
    };
    let (left, right) = (context.open(first)?, context.open(second)?);
    let (mut at, mut line) = (1_u64, 1_u64);
    loop {
        let a = full_block(&left, 4096).await?;
        let b = full_block(&right, 4096).await?;
        for (x, y) in a.iter().zip(&b) {
            if x != y {
                if !options.has('s') {
                    let text = format!("{first} {second} differ: char {at}, line {line}");
                    context.line(text).await?;
                }
                return context.end(1).await;
            }
            at += 1;
            line += u64::from(*x == b'\n');
        }
        if a.len() != b.len() {
            let shorter = if a.len() < b.len() { first } else { second };
            if !options.has('s') {
                context.say(&format!("cmp: EOF on {shorter}\n")).await;
            }
            return context.end(1).await;
        }
        if a.is_empty() {
            return context.end(0).await;
        }
    }
}

/// Writes rows of bytes as `row` shows them, with a line for the length at the end if it is wanted.
async fn rows(
    context: &Context,
    options: &Options,
    row: impl Fn(u64, &[u8]) -> String,
) -> Result<u64, Failure> {
    let limit = match options.value('n') {
        Some(text) => size(text)?,
        None => u64::MAX,
    };
    let mut at = 0;
    for name in super::reading::sources(&options.operands) {
        let input = context.open(&name)?;
        loop {
            let length = usize::try_from(limit - at).unwrap_or(ROW).min(ROW);
            let bytes = full_block(&input, length).await?;
            if bytes.is_empty() {
                break;
            }
            context.line(row(at, &bytes)).await?;
            at += bytes.len() as u64;
        }
    }
    Ok(at)
}

fn shown(bytes: &[u8]) -> String {
    let visible = |byte: &u8| {
        if (32..127).contains(byte) {
            char::from(*byte)
        } else {
            '.'
        }
    };
    bytes.iter().map(visible).collect()
}

async fn hexdump(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "Cvn:s:", &[("canonical", 'C')])?;
    let canonical = options.has('C') || context.words.first().is_some_and(|name| name == "hd");
    let end = rows(&context, &options, |at, bytes| {
        if canonical {
            let half = |bytes: &[u8]| {
                bytes
                    .iter()
                    .map(|b| format!("{b:02x} "))
                    .collect::<String>()
            };
            let (left, right) = bytes.split_at(bytes.len().min(8));
            let cells = format!("{:<24} {:<24}", half(left), half(right));
            format!("{at:08x}  {cells} |{}|", shown(bytes))
        } else {
            let words = bytes.chunks(2).map(|pair| {
                let high = pair.get(1).copied().unwrap_or(0);
                format!(" {high:02x}{:02x}", pair[0])
            });
            format!("{at:07x}{}", words.collect::<String>())
        }
    })
    .await?;
    if end > 0 {
        let text = if canonical {
            format!("{end:08x}")
        } else {
            format!("{end:07x}")
        };
        context.line(text).await?;
    }
    context.end(0).await
}

async fn xxd(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "l:p", &[])?;
    if options.has('p') {
        for name in super::reading::sources(&options.operands) {
            let bytes = context.open(&name)?.read_all().await?;
            for row in bytes.chunks(30) {
                let text: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
                context.line(text).await?;
            }
        }
        return context.end(0).await;
    }
    rows(&context, &options, |at, bytes| {
        let pairs = bytes.chunks(2).map(|pair| {
            let text: String = pair.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{text:<4} ")
        });
        format!(
            "{at:08x}: {:<40} {}",
            pairs.collect::<String>(),
            shown(bytes)
        )
    })
    .await?;
    context.end(0).await
}

async fn od(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "A:t:N:n:vcxbd", &[])?;
    let format = options.value('t').unwrap_or("o2").to_owned();
    let addresses = options.value('A') != Some("n");
    let end = rows(&context, &options, |at, bytes| {
        let address = if addresses {
            format!("{at:07o}")
        } else {
            String::new()
        };
        let cells: String = if options.has('c') || format == "c" {
            bytes
                .iter()
                .map(|byte| format!(" {:>3}", character(*byte)))
                .collect()
        } else if options.has('x') || format == "x2" {
            bytes
                .chunks(2)
                .map(|pair| format!(" {:02x}{:02x}", pair.get(1).unwrap_or(&0), pair[0]))
                .collect()
        } else if format.starts_with('x') {
            bytes.iter().map(|byte| format!(" {byte:02x}")).collect()
        } else if format.starts_with("u1") || format.starts_with("d1") {
            bytes.iter().map(|byte| format!(" {byte:3}")).collect()
        } else if options.has('b') || format == "o1" {
            bytes.iter().map(|byte| format!(" {byte:03o}")).collect()
        } else {
            bytes
                .chunks(2)
                .map(|pair| {
                    let low = u16::from(pair[0]);
                    let high = u16::from(pair.get(1).copied().unwrap_or(0));
                    format!(" {:06o}", high << 8 | low)
                })
                .collect()
        };
        format!("{address}{cells}")
    })
    .await?;
    if addresses {
        context.line(format!("{end:07o}")).await?;
    }
    context.end(0).await
}

fn character(byte: u8) -> String {
    match byte {
        0 => "\\0".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'\r' => "\\r".to_owned(),
        32..127 => char::from(byte).to_string(),
        byte => format!("{byte:03o}"),
    }
}
