//! `tr`: characters into others.

use crate::applet::{Context, Failure, Outcome};
use crate::applets::escapes;
use crate::options::Options;
use crate::pattern;

const CHUNK_BYTES: usize = 32 * 1024;

pub(super) async fn tr(context: Context) -> Outcome {
    let long = &[
        ("delete", 'd'),
        ("squeeze-repeats", 's'),
        ("complement", 'c'),
    ];
    let options = Options::read_leading(context.arguments(), "dscCt", long)?;
    let (deletes, squeezes) = (options.has('d'), options.has('s'));
    let complement = options.has('c') || options.has('C');
    let Some(first) = options.operands.first() else {
        return Err(Failure::usage("a set is expected"));
    };
    let from = set(first);
    let to = options.operands.get(1).map(|text| set(text));
    if to.is_none() && !deletes && !squeezes {
        return Err(Failure::usage("a second set is expected"));
    }
    let table = Table::new(&from, complement, to.as_deref(), deletes);
    let squeezed: Option<Vec<u8>> = squeezes.then(|| to.clone().unwrap_or_default());
    let squeezed_first = squeezes && to.is_none();
    let input = context.input()?;
    let mut last = None;
    loop {
        let piece = input.read(CHUNK_BYTES).await?;
        if piece.is_empty() {
            return context.end(0).await;
        }
        let mut out = Vec::with_capacity(piece.len());
        for byte in piece {
            let Some(mapped) = table.0[usize::from(byte)] else {
                continue;
            };
            let squeezable = match &squeezed {
                None => false,
                Some(_) if squeezed_first => from.contains(&mapped) != complement,
                Some(set) => set.contains(&mapped),
            };
            if squeezable && last == Some(mapped) {
                continue;
            }
            last = Some(mapped);
            out.push(mapped);
        }
        context.write(out).await?;
        context.flush().await?;
    }
}

/// What each byte becomes; `None` is nothing.
struct Table([Option<u8>; 256]);

impl Table {
    fn new(from: &[u8], complement: bool, to: Option<&[u8]>, deletes: bool) -> Self {
        let mut table: [Option<u8>; 256] = std::array::from_fn(|byte| u8::try_from(byte).ok());
        let all: Vec<u8> = if complement {
            (0..=u8::MAX).filter(|byte| !from.contains(byte)).collect()
        } else {
            from.to_vec()
        };
        for (place, byte) in all.iter().enumerate() {
            let slot = &mut table[usize::from(*byte)];
            if deletes {
                *slot = None;
            } else if let Some(to) = to
                && let Some(last) = to.last()
            {
                // The last character stands for all that are missing.
                *slot = Some(*to.get(place).unwrap_or(last));
            }
        }
        Self(table)
    }
}

/// Expands ranges, classes and escapes.
fn set(text: &str) -> Vec<u8> {
    let mut rest = text;
    let mut bytes = Vec::new();
    while !rest.is_empty() {
        let class = rest
            .strip_prefix("[:")
            .and_then(|inner| inner.split_once(":]"));
        if let Some((name, behind)) = class {
            let members = (0..128).filter(|b| pattern::in_class(name, char::from(*b)));
            bytes.extend(members);
            rest = behind;
            continue;
        }
        let (first, behind) = one(rest);
        rest = behind;
        if let (Some(inner), [low]) = (rest.strip_prefix('-'), first.as_slice())
            && !inner.is_empty()
        {
            let (last, behind) = one(inner);
            if let [high] = last.as_slice() {
                bytes.extend(*low..=*high);
                rest = behind;
                continue;
            }
        }
        bytes.extend(first);
    }
    bytes
}

/// The bytes of one character or escape, and what follows.
fn one(text: &str) -> (Vec<u8>, &str) {
    let mut chars = text.chars();
    let first = chars.next().unwrap_or_default();
    if first != '\\' {
        return (first.to_string().into_bytes(), chars.as_str());
    }
    let digits = text[1..]
        .chars()
        .take(3)
        .take_while(|c| c.is_digit(8))
        .count();
    let length = match (digits, text[1..].chars().next()) {
        (0, None) => return (vec![b'\\'], ""),
        (0, Some(c)) => 1 + c.len_utf8(),
        (digits, _) => 1 + digits,
    };
    let escaped = escapes::unescape(&text[..length]);
    // What is no escape means itself.
    let bytes = escaped.strip_prefix(b"\\").filter(|rest| !rest.is_empty());
    (
        bytes.map(<[u8]>::to_vec).unwrap_or(escaped),
        &text[length..],
    )
}
