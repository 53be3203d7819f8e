//! The syntax tree of the shell.

use std::cell::RefCell;
use std::rc::Rc;

/// A word before it is expanded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Word(pub(crate) Vec<Part>);

/// A part of a word.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    /// Text as it is, in which patterns and tildes count.
    Literal(String),
    /// Text that was quoted.
    Quoted(String),
    /// What stood between double quotes.
    Double(Vec<Part>),
    /// `$name` and `${…}`.
    Parameter(Parameter),
    /// `$(…)` and backquotes.
    Command(Rc<List>),
    /// `$((…))`.
    Arithmetic(Word),
}

/// A parameter and what is done with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) action: Action,
}

/// What is done with the value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Nothing.
    Get,
    /// `${#name}`.
    Length,
    /// `-`, `=`, `?` or `+`, also when the value is empty if a colon stood before it.
    Unless {
        operator: char,
        or_empty: bool,
        word: Word,
    },
    /// `#`, `##`, `%`, `%%`: takes a pattern off an end.
    Trim {
        from: End,
        longest: bool,
        pattern: Word,
    },
    /// `${name:offset:length}`.
    Slice { offset: Word, length: Option<Word> },
    /// `${name/pattern/text}`, as in larger shells.
    Replace {
        all: bool,
        pattern: Word,
        text: Word,
    },
}

/// An end of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Start,
    Finish,
}

/// Commands one after another.
pub(crate) type List = Vec<Item>;

/// Pipelines joined by `&&` and `||`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) first: Pipeline,
    pub(crate) rest: Vec<(Join, Pipeline)>,
    /// Whether `&` stood behind it.
    pub(crate) background: bool,
    /// Its text, for `jobs`.
    pub(crate) title: String,
}

/// Between two pipelines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    And,
    Or,
}

/// Commands joined by `|`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pipeline {
    pub(crate) negated: bool,
    pub(crate) commands: Vec<Rc<Command>>,
}

/// A command and its redirections.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    pub(crate) kind: Kind,
    pub(crate) redirects: Vec<Redirect>,
    /// The line it stands in, from 1.
    pub(crate) line: u32,
}

/// What a command is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Assignments, then a command with its words.
    Simple {
        assignments: Vec<(String, Word)>,
        words: Vec<Word>,
    },
    /// `{ …; }`.
    Group(List),
    /// `( … )`.
    Subshell(List),
    /// `if`: conditions with what follows each, and `else`.
    If {
        branches: Vec<(List, List)>,
        otherwise: Option<List>,
    },
    /// `for`; without `in`, over the positional parameters.
    For {
        name: String,
        words: Option<Vec<Word>>,
        body: List,
    },
    /// `while`, or `until`.
    While {
        until: bool,
        condition: List,
        body: List,
    },
    /// `case`: patterns, what follows them, and whether the next arm follows too (`;&`).
    Case { word: Word, arms: Vec<Arm> },
    /// `name() …`.
    Function { name: String, body: Rc<Command> },
    /// `[[ … ]]`.
    Condition(Vec<Word>),
    /// `(( … ))`.
    Arithmetic(Word),
}

/// An arm of a `case`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Arm {
    pub(crate) patterns: Vec<Word>,
    pub(crate) body: List,
    pub(crate) falls_through: bool,
}

/// A redirection of a descriptor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Redirect {
    pub(crate) descriptor: u32,
    pub(crate) target: Target,
}

/// Where a descriptor is redirected to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// `<`, `>`, `>>`, `<>`, `>|`.
    File { operator: Operator, name: Word },
    /// `<&` and `>&`: a number, or `-`.
    Copy(Word),
    /// `<<` and `<<-`: filled when the line has ended.
    Here(Rc<RefCell<Word>>),
    /// `<<<`, as in larger shells.
    HereString(Word),
    /// `&>`, as in larger shells: output and errors.
    Both { append: bool, name: Word },
}

/// How a redirection opens its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Read,
    Write,
    Clobber,
    Append,
    ReadWrite,
}

impl Word {
    /// A word that is this text.
    pub(crate) fn literal(text: &str) -> Self {
        Self(vec![Part::Literal(text.to_owned())])
    }

    /// Its text when nothing in it has to be expanded and nothing is quoted.
    pub(crate) fn as_literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }
}
