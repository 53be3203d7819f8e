//! `grep`, `egrep`, `fgrep`.

use std::collections::VecDeque;

use regex_lite::Regex;

use super::reading::sources;
use super::regular::{self, Case, Dialect, Text};
use super::tree::names;
use crate::applet::{Context, Failure, Outcome, without_end};
use crate::options::Options;
use crate::pattern;
use crate::stream::Handle;

applets! {
    "grep" => grep,
    "egrep" => grep,
    "fgrep" => grep,
}

/// A search in all its inputs.
struct Search {
    context: Context,
    options: Options,
    expressions: Vec<Regex>,
    /// Whether the name of the file stands before each line.
    named: bool,
    before: usize,
    after: usize,
    most: u64,
    found: bool,
    failed: bool,
}

/// Long names of options.
const LONG: &[(&str, char)] = &[
    ("quiet", 'q'),
    ("silent", 'q'),
    ("invert-match", 'v'),
    ("ignore-case", 'i'),
    ("extended-regexp", 'E'),
    ("fixed-strings", 'F'),
    ("recursive", 'r'),
    ("count", 'c'),
    ("line-number", 'n'),
    ("files-with-matches", 'l'),
    ("only-matching", 'o'),
    ("word-regexp", 'w'),
    ("line-regexp", 'x'),
    ("regexp", 'e'),
    ("file", 'f'),
    ("max-count", 'm'),
    ("no-messages", 's'),
    ("include", 'I'),
    ("color", 'K'),
    ("after-context", 'A'),
    ("before-context", 'B'),
    ("context", 'C'),
    ("no-filename", 'h'),
    ("with-filename", 'H'),
    ("files-without-match", 'L'),
    ("text", 'a'),
];

async fn grep(context: Context) -> Outcome {
    let mut options = Options::read(
        context.arguments(),
        "qviEFGrRcnlLowxe:f:m:shHA:B:C:I:aPz",
        LONG,
    )?;
    if options.has('P') || options.has('z') {
        return Err(Failure::usage("-P and -z are not supported"));
    }
    let expressions = expressions(&context, &mut options).await?;
    let recursive = options.has('r') || options.has('R');
    let around = options.number('C')?;
    let lines = |letter: char| -> Result<usize, Failure> {
        let number = options.number(letter)?.or(around).unwrap_or(0);
        Ok(usize::try_from(number).unwrap_or(usize::MAX))
    };
    let (before, after) = (lines('B')?, lines('A')?);
    let named = (options.operands.len() > 1 || recursive || options.has('H')) && !options.has('h');
    let most = options.number('m')?.unwrap_or(u64::MAX);
    let mut search = Search {
        context,
        expressions,
        named,
        before,
        after,
        most,
        found: false,
        failed: false,
        options,
    };
    let mut waiting: Vec<String> = if search.options.operands.is_empty() && recursive {
        vec![".".to_owned()]
    } else {
        sources(&search.options.operands)
    };
    waiting.reverse();
    while let Some(name) = waiting.pop() {
        let path = search.context.path(&name);
        if name != "-" && recursive && path.is_dir() {
            let inner = names(&path)?;
            let base = name.trim_end_matches('/');
            let linked = |name: &String| search.context.path(name).is_symlink();
            let inner = inner.iter().rev().map(|inner| format!("{base}/{inner}"));
            waiting.extend(inner.filter(|name| !linked(name)));
            continue;
        }
        if search.file(&name).await? == Next::Stop {
            break;
        }
    }
    let code = match (search.found, search.failed) {
        (true, _) if search.options.has('q') => 0,
        (_, true) => 2,
        (true, false) => 0,
        (false, false) => 1,
    };
    search.context.end(code).await
}

/// Compiles the expressions of `-e` and `-f`, or the first operand.
async fn expressions(context: &Context, options: &mut Options) -> Result<Vec<Regex>, Failure> {
    let name = context.words.first().map_or("grep", String::as_str);
    let dialect = if options.has('F') || name == "fgrep" {
        Dialect::Fixed
    } else if options.has('E') || name == "egrep" {
        Dialect::Extended
    } else {
        Dialect::Basic
    };
    let case = if options.has('i') {
        Case::Ignored
    } else {
        Case::Matters
    };
    let mut texts: Vec<String> = options.values('e').map(str::to_owned).collect();
    for name in options.values('f') {
        let bytes = context.open(name)?.read_all().await?;
        texts.push(
            String::from_utf8_lossy(&bytes)
                .trim_end_matches('\n')
                .to_owned(),
        );
    }
    if !options.has('e') && !options.has('f') {
        if options.operands.is_empty() {
            return Err(Failure::usage("an expression is expected"));
        }
        texts.push(options.operands.remove(0));
    }
    // Each line is an expression of its own.
    texts
        .iter()
        .flat_map(|text| text.split('\n'))
        .map(|text| regular::compile(text, dialect, case))
        .collect()
}

#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Stop,
}

impl Search {
    async fn file(&mut self, name: &str) -> Result<Next, Failure> {
        let base = name.rsplit('/').next().unwrap_or(name);
        let included = self
            .options
            .values('I')
            .any(|wanted| pattern::matches(wanted, base));
        if self.options.has('I') && !included {
            return Ok(Next::GoOn);
        }
        let input = match self.context.open(name) {
            Ok(input) => input,
            Err(failure) => {
                if !self.options.has('s') {
                    self.context.complain(&failure).await?;
                }
                self.failed = true;
                return Ok(Next::GoOn);
            }
        };
        let shown = if name == "-" {
            "(standard input)"
        } else {
            name
        };
        let count = self.lines(&input, shown).await?;
        if count > 0 && self.options.has('q') {
            return Ok(Next::Stop);
        }
        let prefix = if self.named {
            format!("{shown}:")
        } else {
            String::new()
        };
        if self.options.has('l') || self.options.has('L') {
            if (count > 0) == self.options.has('l') {
                self.context.line(shown).await?;
            }
        } else if self.options.has('c') {
            self.context.line(format!("{prefix}{count}")).await?;
        }
        Ok(Next::GoOn)
    }

    /// Looks through an input and returns how many lines were selected.
    async fn lines(&mut self, input: &Handle, name: &str) -> Result<u64, Failure> {
        let first_only = ['q', 'l', 'L']
            .into_iter()
            .any(|letter| self.options.has(letter));
        let tells = !first_only && !self.options.has('c');
        let (mut count, mut number, mut follows, mut told) = (0, 0_u64, 0, 0);
        let mut past: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
        while count < self.most || follows > 0 {
            let Some(line) = self.context.next_line(input).await? else {
                break;
            };
            number += 1;
            let line = without_end(&line).to_vec();
            let text = Text::of(&line);
            let selected = count < self.most && self.matches(&text.text) != self.options.has('v');
            if selected {
                count += 1;
                self.found = true;
                if first_only {
                    break;
                }
                if !tells {
                    continue;
                }
                let gap = self.before + self.after > 0 && told > 0;
                let first = past.front().map_or(number, |(number, _)| *number);
                if gap && first > told + 1 {
                    self.context.line("--").await?;
                }
                for (number, line) in std::mem::take(&mut past) {
                    self.tell(name, number, '-', &line).await?;
                }
                if self.options.has('o') {
                    self.tell_matches(name, number, &text.text).await?;
                } else {
                    self.tell(name, number, ':', &line).await?;
                }
                (told, follows) = (number, self.after);
            } else if tells && follows > 0 {
                follows -= 1;
                told = number;
                self.tell(name, number, '-', &line).await?;
            } else if tells && self.before > 0 {
                if past.len() == self.before {
                    past.pop_front();
                }
                past.push_back((number, line));
            }
        }
        Ok(count)
    }

    fn matches(&self, text: &str) -> bool {
        self.expressions.iter().any(|expression| {
            expression.find_iter(text).any(|found| {
                let whole = !self.options.has('x') || found.len() == text.len();
                whole && (!self.options.has('w') || is_word(text, found.start(), found.end()))
            }) || (self.options.has('x') && whole_match(expression, text))
        })
    }

    async fn tell(&self, name: &str, number: u64, sign: char, line: &[u8]) -> Result<(), Failure> {
        let mut prefix = String::new();
        if self.named {
            prefix.push_str(name);
            prefix.push(sign);
        }
        if self.options.has('n') {
            prefix.push_str(&format!("{number}{sign}"));
        }
        self.context.write(prefix).await?;
        self.context.line(line).await?;
        Ok(())
    }

    async fn tell_matches(&self, name: &str, number: u64, text: &str) -> Result<(), Failure> {
        let mut found: Vec<(usize, usize)> = self
            .expressions
            .iter()
            .flat_map(|expression| expression.find_iter(text))
            .map(|found| (found.start(), found.end()))
            .filter(|(start, end)| start < end)
            .filter(|(start, end)| !self.options.has('w') || is_word(text, *start, *end))
            .collect();
        found.sort_unstable();
        let mut last = 0;
        for (start, end) in found {
            if start >= last {
                self.tell(name, number, ':', text[start..end].as_bytes())
                    .await?;
                last = end;
            }
        }
        Ok(())
    }
}

/// Whether an expression matches a whole text, by another alternative than the first that fits.
fn whole_match(expression: &Regex, text: &str) -> bool {
    let anchored = Regex::new(&format!("^(?s:{})$", expression.as_str()));
    anchored.is_ok_and(|anchored| anchored.is_match(text))
}

/// Whether no letter stands directly before or after.
fn is_word(text: &str, start: usize, end: usize) -> bool {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    !text[..start].chars().next_back().is_some_and(letter)
        && !text[end..].chars().next().is_some_and(letter)
}
