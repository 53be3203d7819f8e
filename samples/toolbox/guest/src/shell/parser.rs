//! Reads commands from text, a line's worth at a time.

mod commands;
mod words;

use std::cell::RefCell;
use std::rc::Rc;

use super::syntax::{List, Word};
pub(crate) use words::is_name;

/// How deep commands and substitutions may be nested: the stack is bounded.
const NESTING_MAX: u32 = 60;

/// Why a text is no command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SyntaxError {
    /// It ends before it is complete.
    Incomplete(String),
    /// Something stands where it cannot.
    Unexpected { line: u32, what: String },
}

impl std::fmt::Display for SyntaxError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Incomplete(wanted) => write!(formatter, "end of file, {wanted} expected"),
            Self::Unexpected { line, what } => write!(formatter, "line {line}: {what}"),
        }
    }
}

type Parsed<T> = Result<T, SyntaxError>;

/// A here-document whose body comes after the line.
struct Pending {
    end: String,
    quoted: bool,
    strips_tabs: bool,
    body: Rc<RefCell<Word>>,
}

/// Reads commands from a text.
pub(crate) struct Parser {
    chars: Vec<char>,
    at: usize,
    line: u32,
    pending: Vec<Pending>,
    nesting: u32,
}

/// Whether more lines are needed before a text can be run.
pub(crate) fn is_incomplete(text: &str) -> bool {
    if text.ends_with("\\\n") {
        return true;
    }
    let mut parser = Parser::new(text);
    loop {
        match parser.next_line() {
            Ok(Some(_)) => {}
            Ok(None) | Err(SyntaxError::Unexpected { .. }) => return false,
            Err(SyntaxError::Incomplete(_)) => return true,
        }
    }
}

impl Parser {
    /// A parser at the start of a text.
    pub(crate) fn new(text: &str) -> Self {
        Self {
            chars: text.chars().collect(),
            at: 0,
            line: 1,
            pending: Vec::new(),
            nesting: 0,
        }
    }

    /// Reads the commands up to the next end of a line that ends a command; `None` at the end.
    pub(crate) fn next_line(&mut self) -> Parsed<Option<List>> {
        self.skip_lines()?;
        if self.peek().is_none() {
            self.check_pending()?;
            return Ok(None);
        }
        let list = self.list(&[], LineEnd::Ends)?;
        if list.is_empty() {
            return Err(self.unexpected());
        }
        match self.peek() {
            None => {}
            Some('\n') => self.new_line()?,
            Some(_) => return Err(self.unexpected()),
        }
        self.check_pending()?;
        Ok(Some(list))
    }

    fn check_pending(&self) -> Parsed<()> {
        match self.pending.first() {
            Some(here) => Err(SyntaxError::Incomplete(format!("`{}`", here.end))),
            None => Ok(()),
        }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn peek_at(&self, offset: usize) -> Option<char> {
        self.chars.get(self.at + offset).copied()
    }

    fn looking_at(&self, text: &str) -> bool {
        text.chars()
            .enumerate()
            .all(|(offset, c)| self.peek_at(offset) == Some(c))
    }

    /// Takes the text if it is what comes next.
    fn take(&mut self, text: &str) -> bool {
        let found = self.looking_at(text);
        if found {
            self.at += text.chars().count();
        }
        found
    }

    fn next_char(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        if c == '\n' {
            self.line += 1;
        }
        Some(c)
    }

    /// Skips blanks, comments and continued lines.
    fn skip_blanks(&mut self) {
        loop {
            match self.peek() {
                Some(' ' | '\t' | '\r') => self.at += 1,
                Some('\\') if self.peek_at(1) == Some('\n') => {
                    self.at += 2;
                    self.line += 1;
                }
                Some('#') => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                Some(_) | None => return,
            }
        }
    }

    /// Skips blanks and empty lines.
    fn skip_lines(&mut self) -> Parsed<()> {
        loop {
            self.skip_blanks();
            if self.peek() != Some('\n') {
                return Ok(());
            }
            self.new_line()?;
        }
    }

    /// Takes the end of a line and the here-documents that begin after it.
    fn new_line(&mut self) -> Parsed<()> {
        self.next_char();
        for here in std::mem::take(&mut self.pending) {
            self.here_document(&here)?;
        }
        Ok(())
    }

    fn here_document(&mut self, here: &Pending) -> Parsed<()> {
        let mut body = String::new();
        loop {
            if self.peek().is_none() {
                return Err(SyntaxError::Incomplete(format!("`{}`", here.end)));
            }
            let mut line = String::new();
            while self.peek().is_some_and(|c| c != '\n') {
                line.extend(self.next_char());
            }
            let ended = self.next_char().is_some();
            let text = if here.strips_tabs {
                line.trim_start_matches('\t')
            } else {
                &line
            };
            if text == here.end {
                break;
            }
            body.push_str(text);
            if ended {
                body.push('\n');
            }
        }
        let word = if here.quoted {
            Word(vec![super::syntax::Part::Quoted(body)])
        } else {
            let mut inner = Self::new(&body);
            inner.nesting = self.nesting + 1;
            inner.here_body()?
        };
        *here.body.borrow_mut() = word;
        Ok(())
    }

    fn enter(&mut self) -> Parsed<()> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            let what = format!("commands are nested more than {NESTING_MAX} deep");
            return Err(self.error(what));
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.nesting -= 1;
    }

    fn error(&self, what: impl Into<String>) -> SyntaxError {
        SyntaxError::Unexpected {
            line: self.line,
            what: what.into(),
        }
    }

    /// The error that what comes next cannot stand here.
    fn unexpected(&self) -> SyntaxError {
        let what = match self.peek() {
            None => return SyntaxError::Incomplete("a command".to_owned()),
            Some('\n') => "end of line".to_owned(),
            Some(c) if words::ends_word(c) => format!("`{c}`"),
            Some(_) => {
                let rest = &self.chars[self.at..];
                let word: String = rest.iter().take_while(|c| !words::ends_word(**c)).collect();
                format!("`{word}`")
            }
        };
        self.error(format!("unexpected {what}"))
    }
}

/// What the end of a line means for a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    /// The list ends.
    Ends,
    /// The next command follows.
    Separates,
}
