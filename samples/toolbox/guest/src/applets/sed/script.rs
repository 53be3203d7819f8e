//! Reads scripts of `sed`.

use std::collections::BTreeMap;

use regex_lite::Regex;

use crate::applet::Failure;
use crate::applets::regular::{self, Case, Dialect};

/// Blocks may be nested this deep, and scripts have at most this many commands.
const COMMANDS_MAX: usize = 10_000;

/// A command with the lines it is for.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) first: Option<Address>,
    pub(super) second: Option<Address>,
    pub(super) negated: bool,
    pub(super) function: Function,
}

impl Command {
    /// Whether it has to be known which line is the last.
    pub(super) fn needs_last(&self) -> bool {
        let last = |address: &Option<Address>| matches!(address, Some(Address::Last));
        last(&self.first) || last(&self.second)
    }
}

/// Which lines.
#[derive(Debug)]
pub(super) enum Address {
    Line(u64),
    Last,
    /// `first~step`.
    Step(u64, u64),
    Matches(Regex),
    /// `+count`, as the end of a range.
    Count(u64),
}

/// What is done.
#[derive(Debug)]
pub(super) enum Function {
    /// `{`, with the place of its end.
    Begin(usize),
    End,
    Label,
    Delete,
    DeleteFirst,
    Print,
    PrintFirst,
    Number,
    List,
    Quit {
        code: i32,
        prints: bool,
    },
    Branch(usize),
    /// `t` when true and `T` when false, with the place.
    BranchIf(bool, usize),
    Next,
    Append(String),
    Insert(String),
    Change(String),
    Read(String),
    Write(String),
    Transliterate(Vec<(char, char)>),
    Substitute(Substitution),
    /// What moves text between the spaces, by its letter.
    Space(char),
}

/// `s`.
#[derive(Debug)]
pub(super) struct Substitution {
    pub(super) expression: Regex,
    pub(super) replacement: Vec<Replacement>,
    pub(super) occurrence: u64,
    pub(super) all: bool,
    pub(super) prints: bool,
    pub(super) file: Option<String>,
}

/// A piece of what replaces a match.
#[derive(Debug)]
pub(super) enum Replacement {
    Text(String),
    Group(usize),
}

/// Reads a script.
pub(super) fn parse(text: &str, extended: bool) -> Result<Vec<Command>, Failure> {
    let dialect = if extended {
        Dialect::Extended
    } else {
        Dialect::Basic
    };
    let mut reader = Reader {
        chars: text.chars().collect(),
        at: 0,
        dialect,
        last: None,
        commands: Vec::new(),
        open: Vec::new(),
        labels: BTreeMap::new(),
        jumps: Vec::new(),
    };
    while reader.command()? {}
    reader.finish()
}

struct Reader {
    chars: Vec<char>,
    at: usize,
    dialect: Dialect,
    /// The last expression, which an empty one means.
    last: Option<(String, Case)>,
    commands: Vec<Command>,
    open: Vec<usize>,
    labels: BTreeMap<String, usize>,
    jumps: Vec<(usize, String)>,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    fn skip(&mut self, skipped: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&skipped) {
            self.at += 1;
        }
    }

    /// Reads a command; says whether there was one.
    fn command(&mut self) -> Result<bool, Failure> {
        self.skip(|c| c.is_whitespace() || c == ';');
        if self.peek().is_none() {
            return Ok(false);
        }
        if self.commands.len() >= COMMANDS_MAX {
            return Err(Failure::usage("the script is too long"));
        }
        let first = self.address()?;
        let mut second = None;
        self.skip(|c| c == ' ');
        if first.is_some() && self.take(',') {
            self.skip(|c| c == ' ');
            second = self.address()?;
            if second.is_none() {
                return Err(Failure::usage("an address is expected after `,`"));
            }
        }
        self.skip(|c| c == ' ');
        let mut negated = false;
        while self.take('!') {
            negated = true;
            self.skip(|c| c == ' ');
        }
        let letter = self
            .next()
            .ok_or_else(|| Failure::usage("a command is expected"))?;
        let Some(function) = self.function(letter)? else {
            return Ok(true);
        };
        self.commands.push(Command {
            first,
            second,
            negated,
            function,
        });
        Ok(true)
    }

    fn number(&mut self) -> Option<u64> {
        let start = self.at;
        self.skip(|c| c.is_ascii_digit());
        let digits: String = self.chars[start..self.at].iter().collect();
        digits.parse().ok()
    }

    fn address(&mut self) -> Result<Option<Address>, Failure> {
        match self.peek() {
            Some('0'..='9') => {
                let first = self.number().unwrap_or(0);
                if self.take('~') {
                    let step = self.number().unwrap_or(0);
                    return Ok(Some(Address::Step(first, step)));
                }
                Ok(Some(Address::Line(first)))
            }
            Some('+') => {
                self.at += 1;
                Ok(Some(Address::Count(self.number().unwrap_or(0))))
            }
            Some('$') => {
                self.at += 1;
                Ok(Some(Address::Last))
            }
            Some('/') => {
                self.at += 1;
                self.matching('/').map(Some)
            }
            Some('\\') => {
                self.at += 1;
                let end = self.next().unwrap_or('/');
                self.matching(end).map(Some)
            }
            Some(_) | None => Ok(None),
        }
    }

    fn matching(&mut self, end: char) -> Result<Address, Failure> {
        let text = self.until(end, Place::Expression)?;
        let case = if self.take('I') {
            Case::Ignored
        } else {
            Case::Matters
        };
        self.expression(text, case).map(Address::Matches)
    }

    fn expression(&mut self, text: String, case: Case) -> Result<Regex, Failure> {
        let (text, case) = if text.is_empty() {
            let none = || Failure::usage("there is no expression before");
            self.last.clone().ok_or_else(none)?
        } else {
            (text, case)
        };
        self.last = Some((text.clone(), case));
        regular::compile(&text, self.dialect, case)
    }

    /// Reads up to a character that ends an expression or a text; escaped, it means itself.
    fn until(&mut self, end: char, place: Place) -> Result<String, Failure> {
        let mut text = String::new();
        let mut in_set = false;
        loop {
            match self.next() {
                None => return Err(Failure::usage(format!("`{end}` is expected"))),
                Some(c) if c == end && !in_set => return Ok(text),
                Some('\\') => match self.next() {
                    Some(c) if c == end => text.push(c),
                    Some(c) => text.extend(['\\', c]),
                    None => text.push('\\'),
                },
                Some(c) => {
                    if place == Place::Expression {
                        let first = text.ends_with('[') || text.ends_with("[^");
                        match c {
                            '[' => in_set = true,
                            ']' if in_set && !first => in_set = false,
                            _ => {}
                        }
                    }
                    text.push(c);
                }
            }
        }
    }

    /// The rest of the line.
    fn rest(&mut self) -> String {
        let start = self.at;
        self.skip(|c| c != '\n');
        let text: String = self.chars[start..self.at].iter().collect();
        text.trim().to_owned()
    }

    fn label(&mut self) -> String {
        self.skip(|c| c == ' ');
        let start = self.at;
        self.skip(|c| !matches!(c, '\n' | ';' | '}' | ' '));
        self.chars[start..self.at].iter().collect()
    }

    /// The text of `a`, `i` and `c`: in the same line, or after a backslash and the end of the line.
    fn text(&mut self) -> String {
        self.skip(|c| c == ' ' || c == '\t');
        if self.peek() == Some('\\') {
            self.at += 1;
            self.skip(|c| c == ' ' || c == '\t');
            self.take('\n');
        }
        let mut text = String::new();
        loop {
            match self.next() {
                None | Some('\n') => break,
                Some('\\') => text.extend(self.next()),
                Some(c) => text.push(c),
            }
        }
        text.push('\n');
        text
    }

    fn function(&mut self, letter: char) -> Result<Option<Function>, Failure> {
        Ok(Some(match letter {
            '#' => {
                self.rest();
                return Ok(None);
            }
            '{' => {
                self.open.push(self.commands.len());
                Function::Begin(0)
            }
            '}' => {
                let unopened = || Failure::usage("unexpected `}`");
                let begin = self.open.pop().ok_or_else(unopened)?;
                self.commands[begin].function = Function::Begin(self.commands.len());
                Function::End
            }
            ':' => {
                let label = self.label();
                self.labels.insert(label, self.commands.len());
                Function::Label
            }
            'b' | 't' | 'T' => {
                let label = self.label();
                self.jumps.push((self.commands.len(), label));
                match letter {
                    'b' => Function::Branch(0),
                    letter => Function::BranchIf(letter == 't', 0),
                }
            }
            'd' => Function::Delete,
            'D' => Function::DeleteFirst,
            'p' => Function::Print,
            'P' => Function::PrintFirst,
            '=' => Function::Number,
            'l' => Function::List,
            'n' => Function::Next,
            'q' | 'Q' => {
                self.skip(|c| c == ' ');
                let code = self.number().unwrap_or(0);
                Function::Quit {
                    code: i32::try_from(code).unwrap_or(1),
                    prints: letter == 'q',
                }
            }
            'a' => Function::Append(self.text()),
            'i' => Function::Insert(self.text()),
            'c' => Function::Change(self.text()),
            'r' => Function::Read(self.rest()),
            'w' => Function::Write(self.rest()),
            'y' => self.transliteration()?,
            's' => Function::Substitute(self.substitution()?),
            'g' | 'G' | 'h' | 'H' | 'x' | 'N' | 'z' => Function::Space(letter),
            other => return Err(Failure::usage(format!("unknown command `{other}`"))),
        }))
    }

    fn transliteration(&mut self) -> Result<Function, Failure> {
        let end = self.next().unwrap_or('/');
        let from = plain(&self.until(end, Place::Text)?);
        let to = plain(&self.until(end, Place::Text)?);
        if from.len() != to.len() {
            return Err(Failure::usage("the texts of `y` differ in length"));
        }
        Ok(Function::Transliterate(from.into_iter().zip(to).collect()))
    }

    fn substitution(&mut self) -> Result<Substitution, Failure> {
        let end = self
            .next()
            .ok_or_else(|| Failure::usage("`s` needs an expression"))?;
        let text = self.until(end, Place::Expression)?;
        let replacement = replacement(&self.until(end, Place::Text)?);
        let (mut occurrence, mut all, mut prints) = (1, false, false);
        let (mut case, mut file) = (Case::Matters, None);
        loop {
            match self.peek() {
                Some('g') => all = true,
                Some('p') => prints = true,
                Some('i' | 'I') => case = Case::Ignored,
                Some('1'..='9') => {
                    occurrence = self.number().unwrap_or(1);
                    continue;
                }
                Some('w') => {
                    self.at += 1;
                    file = Some(self.rest());
                    break;
                }
                Some('m' | 'M' | 'e') => {
                    return Err(Failure::usage("the flags `m` and `e` are not supported"));
                }
                Some(_) | None => break,
            }
            self.at += 1;
        }
        Ok(Substitution {
            expression: self.expression(text, case)?,
            replacement,
            occurrence,
            all,
            prints,
            file,
        })
    }

    fn finish(mut self) -> Result<Vec<Command>, Failure> {
        if !self.open.is_empty() {
            return Err(Failure::usage("`}` is expected"));
        }
        let end = self.commands.len();
        for (at, label) in &self.jumps {
            let target = if label.is_empty() {
                end
            } else {
                let missing = || Failure::usage(format!("there is no label `{label}`"));
                *self.labels.get(label).ok_or_else(missing)?
            };
            if let Function::Branch(place) | Function::BranchIf(_, place) =
                &mut self.commands[*at].function
            {
                *place = target;
            }
        }
        Ok(self.commands)
    }
}

/// What is read up to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Expression,
    Text,
}

fn plain(text: &str) -> Vec<char> {
    let mut plain = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(c) => c,
                None => '\\',
            },
            c => c,
        });
    }
    plain
}

fn replacement(text: &str) -> Vec<Replacement> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let group = match c {
            '&' => Some(0),
            '\\' => match chars.next() {
                Some(digit @ '0'..='9') => digit.to_digit(10),
                Some('n') => {
                    plain.push('\n');
                    None
                }
                Some('t') => {
                    plain.push('\t');
                    None
                }
                Some(c) => {
                    plain.push(c);
                    None
                }
                None => None,
            },
            c => {
                plain.push(c);
                None
            }
        };
        if let Some(group) = group {
            pieces.push(Replacement::Text(std::mem::take(&mut plain)));
            pieces.push(Replacement::Group(usize::try_from(group).unwrap_or(0)));
        }
    }
    pieces.push(Replacement::Text(plain));
    pieces
}
