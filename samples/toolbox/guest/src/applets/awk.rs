//! `awk`, as POSIX describes it, with what busybox adds: `nextfile`, `gensub`, `systime`, `strftime`, the
//! functions on bits, and records that end by an expression.
//!
//! - `lexer` and `parser` compile a program to the steps in `code`, which the `machine` runs;
//! - `value` is what it computes with, `text` reads numbers and escapes, `format` is `printf`;
//! - `record` splits into fields, `substitute` replaces, `input` and `output` read and write.
//!
//! Characters are those of UTF-8; bytes that are none come out as they came in. Of alternatives in an
//! expression the first that matches is taken, as in all programs here. Two things that others have are
//! missing: locales, and arrays of arrays.

mod code;
mod format;
mod input;
mod lexer;
mod machine;
mod output;
mod parser;
mod record;
mod substitute;
#[cfg(test)]
mod tests;
mod text;
mod value;

use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use machine::Machine;

applets! {
    "awk" => awk,
}

/// A mistake in a program and the line it is on.
#[derive(Debug)]
struct Problem {
    line: u32,
    text: String,
}

impl Problem {
    fn new(line: u32, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { line, text }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::usage(format!("line {}: {}", problem.line, problem.text))
    }
}

async fn awk(context: Context) -> Outcome {
    let mut options = Options::read_leading(context.arguments(), "F:v:f:e:", &[])?;
    let mut pieces = Vec::new();
    for (letter, value) in options.given() {
        match letter {
            'f' => {
                let bytes = context.open(value)?.read_all().await?;
                pieces.push(text::decode(&bytes));
            }
            'e' => pieces.push(value.to_owned()),
            _ => {}
        }
    }
    if pieces.is_empty() {
        if options.operands.is_empty() {
            let usage = "awk [-F SEPARATOR] [-v NAME=VALUE] (PROGRAM | -f FILE) [FILE]";
            return Err(Failure::usage(usage));
        }
        pieces.push(options.operands.remove(0));
    }
    let program = parser::compile(&pieces.join("\n"))?;
    let mut words = vec!["awk".to_owned()];
    words.append(&mut options.operands);
    let mut machine = Machine::new(program, context);
    machine.set_words(&words);
    for (letter, value) in options.given() {
        let assigned = match (letter, value) {
            ('F', separator) => machine.assign_word(&format!("FS={separator}"))?,
            ('v', word) => machine.assign_word(word)?,
            _ => true,
        };
        if !assigned {
            return Err(Failure::usage(format!("`{value}` is no NAME=VALUE")));
        }
    }
    let code = machine.run().await?;
    machine.context.end(code).await
}
