//! `sed`.

mod script;

use std::collections::VecDeque;
use std::path::PathBuf;

use super::reading::sources;
use super::regular::Text;
use crate::applet::{Context, Failure, Outcome};
use crate::options::Options;
use crate::stream::{Handle, Mode, Stream};

use script::{Address, Command, Function, Replacement, Substitution};

applets! {
    "sed" => sed,
}

/// A script that jumps may take so many steps for one line.
const STEPS_MAX: u32 = 1_000_000;
/// Spaces may grow to this size.
const SPACE_BYTES_MAX: usize = 64 << 20;

async fn sed(context: Context) -> Outcome {
    let long = &[
        ("quiet", 'n'),
        ("silent", 'n'),
        ("in-place", 'i'),
        ("expression", 'e'),
        ("file", 'f'),
        ("regexp-extended", 'E'),
    ];
    // A suffix of `-i` is attached to it, so it is no option with a value.
    let mut suffix = None;
    let words: Vec<String> = context
        .arguments()
        .iter()
        .map(|word| match word.strip_prefix("-i") {
            Some(text) if !text.is_empty() && text.starts_with(['.', '~']) => {
                suffix = Some(text.to_owned());
                "-i".to_owned()
            }
            _ => word.clone(),
        })
        .collect();
    let mut options = Options::read(&words, "nie:f:Ersu", long)?;
    let mut text = String::new();
    for (letter, value) in options.given() {
        match letter {
            'e' => text.push_str(&format!("{value}\n")),
            'f' => {
                let bytes = context.open(value)?.read_all().await?;
                text.push_str(&String::from_utf8_lossy(&bytes));
                text.push('\n');
            }
            _ => {}
        }
    }
    if !options.has('e') && !options.has('f') {
        if options.operands.is_empty() {
            return Err(Failure::usage("a script is expected"));
        }
        text = options.operands.remove(0);
    }
    let extended = options.has('E') || options.has('r');
    let commands = script::parse(&text, extended)?;
    let quiet = options.has('n') || text.starts_with("#n\n");
    let names = sources(&options.operands);
    if !options.has('i') {
        let mut editor = Editor::new(&context, &commands, quiet, names);
        let code = editor.run().await?;
        return context.end(code).await;
    }
    let mut code = 0;
    for name in names {
        match in_place(&context, &commands, quiet, &name, suffix.as_deref()).await {
            Ok(ended) => code = ended,
            Err(failure) => {
                context.complain(&failure).await?;
                code = 1;
            }
        }
    }
    context.end(code).await
}

/// Edits a file and puts the result into its place.
async fn in_place(
    context: &Context,
    commands: &[Command],
    quiet: bool,
    name: &str,
    suffix: Option<&str>,
) -> Outcome {
    let path = context.path(name);
    let about = |error| Failure::about(name, &error);
    let before = std::fs::read(&path).map_err(about)?;
    let (output, captured) = Stream::capture();
    let mut editor = Editor::new(context, commands, quiet, vec![name.to_owned()]);
    editor.output = Some(output);
    let code = editor.run().await?;
    if let Some(suffix) = suffix {
        let backup = PathBuf::from(format!("{}{suffix}", path.display()));
        std::fs::write(backup, before).map_err(about)?;
    }
    let edited = captured.take();
    std::fs::write(&path, edited).map_err(about)?;
    Ok(code)
}

/// The lines of all inputs one after another, with one known in advance.
struct Lines<'a> {
    context: &'a Context,
    names: VecDeque<String>,
    current: Option<Handle>,
    next: Option<Vec<u8>>,
}

impl Lines<'_> {
    async fn fetch(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(input) = &self.current {
                if let Some(line) = self.context.next_line(input).await? {
                    return Ok(Some(line));
                }
                self.current = None;
            }
            match self.names.pop_front() {
                Some(name) => match self.context.open(&name) {
                    Ok(input) => self.current = Some(input),
                    Err(failure) => self.context.complain(&failure).await?,
                },
                None => return Ok(None),
            }
        }
    }

    async fn take(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        match self.next.take() {
            Some(line) => Ok(Some(line)),
            None => self.fetch().await,
        }
    }

    async fn is_last(&mut self) -> Result<bool, Failure> {
        if self.next.is_none() {
            self.next = self.fetch().await?;
        }
        Ok(self.next.is_none())
    }
}

/// What follows a command.
enum Next {
    Go(usize),
    EndCycle,
    /// Begins anew without reading, as `D` with something left.
    Again,
    Delete,
    Quit {
        code: i32,
        prints: bool,
    },
}

struct Editor<'a> {
    context: &'a Context,
    commands: &'a [Command],
    lines: Lines<'a>,
    output: Option<Handle>,
    quiet: bool,
    pattern: String,
    hold: String,
    source: Text,
    ended_line: bool,
    number: u64,
    active: Vec<bool>,
    until: Vec<u64>,
    queue: Vec<Vec<u8>>,
    replaced: bool,
    looks_ahead: bool,
}

impl<'a> Editor<'a> {
    fn new(context: &'a Context, commands: &'a [Command], quiet: bool, names: Vec<String>) -> Self {
        let looks_ahead = commands.iter().any(Command::needs_last);
        Self {
            context,
            commands,
            lines: Lines {
                context,
                names: names.into(),
                current: None,
                next: None,
            },
            output: None,
            quiet,
            pattern: String::new(),
            hold: String::new(),
            source: Text::of(b""),
            ended_line: true,
            number: 0,
            active: vec![false; commands.len()],
            until: vec![0; commands.len()],
            queue: Vec::new(),
            replaced: false,
            looks_ahead,
        }
    }

    async fn run(&mut self) -> Outcome {
        let mut reads = true;
        loop {
            if reads && !self.read(false).await? {
                return Ok(0);
            }
            reads = true;
            self.replaced = false;
            let (mut at, mut steps) = (0, 0);
            let end = loop {
                if at >= self.commands.len() {
                    break Next::EndCycle;
                }
                steps += 1;
                if steps > STEPS_MAX {
                    return Err(Failure::new("the script does not come to an end"));
                }
                match self.step(at).await? {
                    Next::Go(next) => at = next,
                    other => break other,
                }
            };
            let prints = match end {
                Next::Go(_) | Next::EndCycle => true,
                Next::Again => {
                    reads = false;
                    false
                }
                Next::Delete => false,
                Next::Quit { prints, .. } => prints,
            };
            if prints && !self.quiet {
                self.print_pattern().await?;
            }
            self.print_queue().await?;
            if let Next::Quit { code, .. } = end {
                return Ok(code);
            }
        }
    }

    /// Reads the next line into the pattern space, or adds it; says whether there was one.
    async fn read(&mut self, adds: bool) -> Result<bool, Failure> {
        let Some(line) = self.lines.take().await? else {
            return Ok(false);
        };
        self.number += 1;
        self.ended_line = line.ends_with(b"\n");
        let text = Text::of(crate::applet::without_end(&line));
        if adds {
            self.pattern.push('\n');
            self.pattern.push_str(&text.text);
        } else {
            self.pattern.clone_from(&text.text);
            self.source = text;
        }
        if self.pattern.len() > SPACE_BYTES_MAX {
            return Err(Failure::new("the pattern space is full"));
        }
        Ok(true)
    }

    async fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        match &self.output {
            Some(output) => output.write(bytes).await?,
            None => self.context.write(bytes).await?,
        }
        Ok(())
    }

    async fn print_pattern(&mut self) -> Result<(), Failure> {
        let text = self.pattern.clone();
        self.print(&text, self.ended_line).await
    }

    async fn print(&mut self, text: &str, ends: bool) -> Result<(), Failure> {
        self.source.text = text.to_owned();
        let mut bytes = self.source.bytes();
        // The last line of the input keeps its missing end.
        if ends || !self.lines_over().await? {
            bytes.push(b'\n');
        }
        self.write(&bytes).await
    }

    async fn lines_over(&mut self) -> Result<bool, Failure> {
        self.lines.is_last().await
    }

    async fn print_queue(&mut self) -> Result<(), Failure> {
        for bytes in std::mem::take(&mut self.queue) {
            self.write(&bytes).await?;
        }
        Ok(())
    }

    async fn selected(&mut self, at: usize) -> Result<bool, Failure> {
        let command = &self.commands[at];
        let last = self.looks_ahead && self.lines.is_last().await?;
        let hit = |address: &Address, editor: &Self| match address {
            Address::Line(number) => editor.number == *number,
            Address::Last => last,
            Address::Step(first, step) => {
                if *step == 0 {
                    editor.number == *first
                } else {
                    editor.number >= *first && (editor.number - first).is_multiple_of(*step)
                }
            }
            Address::Matches(expression) => expression.is_match(&editor.pattern),
            Address::Count(_) => false,
        };
        let chosen = match (&command.first, &command.second) {
            (None, _) => true,
            (Some(first), None) => hit(first, self),
            (Some(first), Some(second)) => {
                if self.active[at] {
                    let over = match second {
                        Address::Count(_) => self.number >= self.until[at],
                        Address::Line(number) => self.number >= *number,
                        other => hit(other, self),
                    };
                    self.active[at] = !over;
                    match second {
                        // A range whose end has passed is only its first line.
                        Address::Line(number) => self.number <= *number,
                        _ => true,
                    }
                } else if hit(first, self) {
                    self.active[at] = match second {
                        Address::Line(number) => *number > self.number,
                        Address::Count(count) => {
                            self.until[at] = self.number + count;
                            *count > 0
                        }
                        _ => true,
                    };
                    true
                } else {
                    false
                }
            }
        };
        Ok(chosen != command.negated)
    }

    async fn step(&mut self, at: usize) -> Result<Next, Failure> {
        let commands = self.commands;
        let next = Next::Go(at + 1);
        if !self.selected(at).await? {
            return Ok(match &commands[at].function {
                Function::Begin(end) => Next::Go(*end),
                _ => next,
            });
        }
        match &commands[at].function {
            Function::Begin(_) | Function::End | Function::Label => {}
            Function::Delete => return Ok(Next::Delete),
            Function::DeleteFirst => return Ok(self.delete_first()),
            Function::Print => {
                let text = self.pattern.clone();
                self.print(&text, true).await?;
            }
            Function::PrintFirst => {
                let text = self
                    .pattern
                    .split('\n')
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                self.print(&text, true).await?;
            }
            Function::Number => self.write(format!("{}\n", self.number).as_bytes()).await?,
            Function::List => self.write(&listed(&self.pattern)).await?,
            Function::Quit { code, prints } => {
                let (code, prints) = (*code, *prints);
                return Ok(Next::Quit { code, prints });
            }
            Function::Branch(target) => return Ok(Next::Go(*target)),
            Function::BranchIf(wanted, target) => {
                if std::mem::take(&mut self.replaced) == *wanted {
                    return Ok(Next::Go(*target));
                }
            }
            Function::Next => return self.next_line(at).await,
            Function::Append(text) => self.queue.push(text.clone().into_bytes()),
            Function::Insert(text) => self.write(text.as_bytes()).await?,
            Function::Change(text) => {
                // Of a range it is written once, at its end.
                if commands[at].second.is_none() || !self.active[at] {
                    self.write(text.as_bytes()).await?;
                }
                return Ok(Next::Delete);
            }
            Function::Read(name) => {
                if let Ok(bytes) = std::fs::read(self.context.path(name)) {
                    self.queue.push(bytes);
                }
            }
            Function::Write(name) => self.append_to(name).await?,
            Function::Transliterate(pairs) => {
                let mapped = |c: char| pairs.iter().find(|(from, _)| *from == c).map_or(c, |p| p.1);
                self.pattern = self.pattern.chars().map(mapped).collect();
            }
            Function::Substitute(substitution) => self.substitute(substitution).await?,
            Function::Space(letter) => return self.space(*letter, at).await,
        }
        Ok(next)
    }

    fn delete_first(&mut self) -> Next {
        match self.pattern.split_once('\n') {
            Some((_, rest)) => {
                self.pattern = rest.to_owned();
                Next::Again
            }
            None => Next::Delete,
        }
    }

    async fn next_line(&mut self, at: usize) -> Result<Next, Failure> {
        if self.lines.is_last().await? {
            return Ok(Next::Quit {
                code: 0,
                prints: true,
            });
        }
        if !self.quiet {
            self.print_pattern().await?;
        }
        self.print_queue().await?;
        self.read(false).await?;
        Ok(Next::Go(at + 1))
    }

    /// `g`, `G`, `h`, `H`, `x`, `N`, `z`.
    async fn space(&mut self, letter: char, at: usize) -> Result<Next, Failure> {
        match letter {
            'g' => self.pattern.clone_from(&self.hold),
            'G' => self.pattern = format!("{}\n{}", self.pattern, self.hold),
            'h' => self.hold.clone_from(&self.pattern),
            'H' => self.hold = format!("{}\n{}", self.hold, self.pattern),
            'x' => std::mem::swap(&mut self.pattern, &mut self.hold),
            'z' => self.pattern.clear(),
            _ => {
                self.print_queue().await?;
                if !self.read(true).await? {
                    return Ok(Next::Quit {
                        code: 0,
                        prints: true,
                    });
                }
            }
        }
        if self.pattern.len().max(self.hold.len()) > SPACE_BYTES_MAX {
            return Err(Failure::new("a space is full"));
        }
        Ok(Next::Go(at + 1))
    }

    async fn append_to(&self, name: &str) -> Result<(), Failure> {
        let line = format!("{}\n", self.pattern);
        match name {
            "/dev/stdout" => self.write(line.as_bytes()).await,
            name => {
                let output = self.context.create(name, Mode::Append)?;
                output.write(line.as_bytes()).await?;
                Ok(())
            }
        }
    }

    async fn substitute(&mut self, substitution: &Substitution) -> Result<(), Failure> {
        let Some(text) = replace(&self.pattern, substitution) else {
            return Ok(());
        };
        self.pattern = text;
        self.replaced = true;
        if self.pattern.len() > SPACE_BYTES_MAX {
            return Err(Failure::new("the pattern space is full"));
        }
        if substitution.prints {
            let text = self.pattern.clone();
            self.print(&text, true).await?;
        }
        if let Some(name) = &substitution.file {
            self.append_to(name).await?;
        }
        Ok(())
    }
}

/// Replaces what matches; `None` when nothing does.
fn replace(text: &str, substitution: &Substitution) -> Option<String> {
    let mut replaced = String::new();
    let (mut last, mut count, mut done) = (0, 0, false);
    for captures in substitution.expression.captures_iter(text) {
        let Some(found) = captures.get(0) else {
            continue;
        };
        // An empty match directly behind another one is none.
        if found.is_empty() && found.start() == last && count > 0 {
            continue;
        }
        count += 1;
        if count < substitution.occurrence {
            continue;
        }
        replaced.push_str(&text[last..found.start()]);
        for piece in &substitution.replacement {
            match piece {
                Replacement::Text(text) => replaced.push_str(text),
                Replacement::Group(number) => {
                    replaced.push_str(captures.get(*number).map_or("", |group| group.as_str()));
                }
            }
        }
        last = found.end();
        done = true;
        if !substitution.all {
            break;
        }
    }
    replaced.push_str(&text[last..]);
    done.then_some(replaced)
}

/// As `l` shows a line.
fn listed(text: &str) -> Vec<u8> {
    let mut shown = String::new();
    for byte in text.bytes() {
        match byte {
            b'\\' => shown.push_str("\\\\"),
            b'\n' => shown.push_str("\\n"),
            b'\t' => shown.push_str("\\t"),
            32..127 => shown.push(char::from(byte)),
            byte => shown.push_str(&format!("\\{byte:03o}")),
        }
    }
    shown.push_str("$\n");
    shown.into_bytes()
}
