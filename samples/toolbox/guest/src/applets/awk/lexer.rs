//! Turns the text of a program into tokens.
//!
//! Whether a slash divides or begins an expression depends on what stood before it, so no parser is needed
//! to tell: after an operand it divides.

use super::code::Builtin;
use super::{Problem, text};

/// A piece of a program.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Token {
    Number(f64),
    Text(String),
    /// An expression between slashes.
    Regex(String),
    Name(String),
    /// A name that a bracket follows at once: a call.
    Call(String),
    /// A function that is built in.
    Builtin(Builtin),
    /// A word of the language.
    Word(&'static str),
    /// An operator or a bracket.
    Sign(&'static str),
    NewLine,
    End,
}

/// A token and the line it stands on.
pub(super) type Placed = (Token, u32);

/// Words of the language.
const WORDS: &[&str] = &[
    "BEGIN", "END", "function", "if", "else", "while", "for", "do", "break", "continue", "next",
    "nextfile", "exit", "return", "delete", "in", "getline", "print", "printf",
];
/// Operators, longer ones first.
const SIGNS: &[&str] = &[
    "**=", "&&", "||", "++", "--", "+=", "-=", "*=", "/=", "%=", "^=", "**", "==", "<=", ">=",
    "!=", "!~", ">>", "{", "}", "(", ")", "[", "]", ";", ",", "+", "-", "*", "/", "%", "^", "!",
    ">", "<", "|", "?", ":", "~", "$", "=",
];

/// Splits a program into tokens; the last is [`Token::End`].
pub(super) fn tokens(program: &str) -> Result<Vec<Placed>, Problem> {
    let mut lexer = Lexer {
        rest: program,
        line: 1,
        tokens: Vec::new(),
    };
    while lexer.skip_blanks() {
        let line = lexer.line;
        let token = lexer.next()?;
        lexer.tokens.push((token, line));
    }
    let line = lexer.line;
    lexer.tokens.push((Token::NewLine, line));
    lexer.tokens.push((Token::End, line));
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    rest: &'a str,
    line: u32,
    tokens: Vec<Placed>,
}

impl<'a> Lexer<'a> {
    /// Passes over blanks, comments and lines that are continued; says whether something follows.
    fn skip_blanks(&mut self) -> bool {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\r']);
            if self.rest.starts_with('#') {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.rest = &self.rest[end..];
            }
            let continued = self.rest.strip_prefix("\\\n");
            match continued.or_else(|| self.rest.strip_prefix("\\\r\n")) {
                Some(behind) => {
                    self.rest = behind;
                    self.line += 1;
                }
                None => return !self.rest.is_empty(),
            }
        }
    }

    fn problem(&self, text: impl Into<String>) -> Problem {
        Problem::new(self.line, text)
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    fn next(&mut self) -> Result<Token, Problem> {
        let rest = self.rest;
        let Some(first) = rest.chars().next() else {
            return Ok(Token::End);
        };
        let digit_at = |at: usize| rest.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
        match first {
            '\n' => {
                self.take(1);
                self.line += 1;
                Ok(Token::NewLine)
            }
            '"' => self.text(),
            '/' if !self.after_operand() => self.regex(),
            '.' | '0'..='9' if digit_at(0) || digit_at(1) => {
                let (value, length) = text::leading_number(rest);
                self.take(length);
                Ok(Token::Number(value))
            }
            'a'..='z' | 'A'..='Z' | '_' => Ok(self.word()),
            _ => {
                let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
                let sign = sign.ok_or_else(|| self.problem(format!("unexpected `{first}`")))?;
                self.take(sign.len());
                Ok(Token::Sign(match *sign {
                    "**" => "^",
                    "**=" => "^=",
                    sign => sign,
                }))
            }
        }
    }

    fn after_operand(&self) -> bool {
        match self.tokens.last() {
            Some((token, _)) => match token {
                Token::Number(_) | Token::Text(_) | Token::Regex(_) | Token::Name(_) => true,
                Token::Builtin(_) => true,
                Token::Sign(sign) => matches!(*sign, ")" | "]" | "$" | "++" | "--"),
                Token::Call(_) | Token::Word(_) | Token::NewLine | Token::End => false,
            },
            None => false,
        }
    }

    fn word(&mut self) -> Token {
        let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = self.rest.find(|c| !name(c)).unwrap_or(self.rest.len());
        let word = self.take(length);
        let word = if word == "func" { "function" } else { word };
        if let Some(word) = WORDS.iter().find(|known| **known == word) {
            return Token::Word(word);
        }
        if let Some(builtin) = Builtin::named(word) {
            return Token::Builtin(builtin);
        }
        if self.rest.starts_with('(') {
            return Token::Call(word.to_owned());
        }
        Token::Name(word.to_owned())
    }

    fn text(&mut self) -> Result<Token, Problem> {
        let inner = &self.rest[1..];
        let mut escaped = false;
        for (at, c) in inner.char_indices() {
            match c {
                '"' if !escaped => {
                    let text = &inner[..at];
                    self.rest = &inner[at + 1..];
                    self.line += lines(text);
                    return Ok(Token::Text(text::unescape(text)));
                }
                '\n' if !escaped => break,
                '\\' => escaped = !escaped,
                _ => escaped = false,
            }
        }
        Err(self.problem("a text is not closed"))
    }

    fn regex(&mut self) -> Result<Token, Problem> {
        let inner = &self.rest[1..];
        let (mut escaped, mut set) = (false, None::<usize>);
        for (at, c) in inner.char_indices() {
            match c {
                '\n' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '[' if set.is_none() => set = Some(at),
                // First in a set it is a member.
                ']' if set.is_some_and(|start| !matches!(&inner[start..at], "[" | "[^")) => {
                    set = None;
                }
                '/' if set.is_none() => {
                    let expression = inner[..at].replace("\\/", "/");
                    self.rest = &inner[at + 1..];
                    return Ok(Token::Regex(expression));
                }
                _ => {}
            }
        }
        Err(self.problem("a regular expression is not closed"))
    }
}

fn lines(text: &str) -> u32 {
    u32::try_from(text.matches('\n').count()).unwrap_or(u32::MAX)
}
