//! Reads words: quotes, parameters, substitutions.

use std::rc::Rc;

use super::super::syntax::{Action, End, Parameter, Part, Word};
use super::{LineEnd, Parsed, Parser, SyntaxError};

/// Whether a character ends a word that is not quoted.
pub(super) fn ends_word(c: char) -> bool {
    matches!(
        c,
        ' ' | '\t' | '\r' | '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')'
    )
}

/// Whether a text is the name of a variable.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Where a part of a word stands, which decides what is special there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the open.
    Open,
    /// Between double quotes.
    Double,
    /// In a here-document or an arithmetic expression: as double quotes, which are no quotes here.
    Text,
}

/// Gathers the parts of a word.
#[derive(Default)]
struct Parts {
    parts: Vec<Part>,
}

impl Parts {
    fn literal(&mut self, c: char) {
        match self.parts.last_mut() {
            Some(Part::Literal(text)) => text.push(c),
            _ => self.parts.push(Part::Literal(c.to_string())),
        }
    }

    fn quoted(&mut self, more: &str) {
        match self.parts.last_mut() {
            Some(Part::Quoted(text)) => text.push_str(more),
            _ => self.parts.push(Part::Quoted(more.to_owned())),
        }
    }

    fn push(&mut self, part: Part) {
        self.parts.push(part);
    }
}

impl Parser {
    /// Reads a word, if one comes next.
    pub(super) fn word(&mut self) -> Parsed<Option<Word>> {
        let mut parts = Parts::default();
        while let Some(c) = self.peek() {
            if ends_word(c) {
                break;
            }
            self.open_part(&mut parts)?;
        }
        Ok((!parts.parts.is_empty()).then_some(Word(parts.parts)))
    }

    /// Reads what comes after `=~`, where brackets and bars belong to the word.
    pub(super) fn regular_expression(&mut self) -> Parsed<Word> {
        let mut parts = Parts::default();
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' | '\n' => break,
                '(' | ')' | '|' | '<' | '>' | ';' | '&' => {
                    self.next_char();
                    parts.literal(c);
                }
                '\\' => {
                    self.next_char();
                    parts.literal('\\');
                    if let Some(c) = self.next_char() {
                        parts.literal(c);
                    }
                }
                _ => self.open_part(&mut parts)?,
            }
        }
        Ok(Word(parts.parts))
    }

    /// Reads one part of a word in the open.
    fn open_part(&mut self, parts: &mut Parts) -> Parsed<()> {
        match self.next_char() {
            Some('\\') => match self.next_char() {
                Some('\n') => {}
                Some(c) => parts.quoted(&c.to_string()),
                None => parts.literal('\\'),
            },
            Some('\'') => {
                let text = self.single_quoted()?;
                parts.quoted(&text);
            }
            Some('"') => {
                let inner = self.parts_until('"', Place::Double)?;
                parts.push(Part::Double(inner));
            }
            Some('$') if self.peek() == Some('\'') => {
                self.next_char();
                let text = self.dollar_quoted()?;
                parts.quoted(&text);
            }
            Some('$') => self.dollar(parts, Place::Open)?,
            Some('`') => {
                let part = self.backquoted(Place::Open)?;
                parts.push(part);
            }
            Some(c) => parts.literal(c),
            None => {}
        }
        Ok(())
    }

    fn single_quoted(&mut self) -> Parsed<String> {
        let mut text = String::new();
        loop {
            match self.next_char() {
                Some('\'') => return Ok(text),
                Some(c) => text.push(c),
                None => return Err(SyntaxError::Incomplete("`'`".to_owned())),
            }
        }
    }

    /// `$'…'`, as in larger shells.
    fn dollar_quoted(&mut self) -> Parsed<String> {
        let mut text = String::new();
        loop {
            match self.next_char() {
                Some('\'') => {
                    let bytes = crate::applets::escapes::unescape(&text);
                    return Ok(String::from_utf8_lossy(&bytes).into_owned());
                }
                Some('\\') if self.peek() == Some('\'') => text.extend(self.next_char()),
                Some('\\') => {
                    text.push('\\');
                    text.extend(self.next_char());
                }
                Some(c) => text.push(c),
                None => return Err(SyntaxError::Incomplete("`'`".to_owned())),
            }
        }
    }

    /// Reads parts up to a character, which is taken.
    fn parts_until(&mut self, end: char, place: Place) -> Parsed<Vec<Part>> {
        self.enter()?;
        let mut parts = Parts::default();
        loop {
            match self.peek() {
                None => return Err(SyntaxError::Incomplete(format!("`{end}`"))),
                Some(c) if c == end => {
                    self.next_char();
                    self.leave();
                    return Ok(parts.parts);
                }
                Some(_) => self.part_in(&mut parts, place)?,
            }
        }
    }

    fn part_in(&mut self, parts: &mut Parts, place: Place) -> Parsed<()> {
        if place == Place::Open {
            return self.open_part(parts);
        }
        match self.next_char() {
            Some('\\') => match self.peek() {
                Some('\n') => {
                    self.next_char();
                }
                Some(c @ ('$' | '`' | '\\')) => {
                    self.next_char();
                    parts.quoted(&c.to_string());
                }
                Some(c @ ('"' | '}')) if place == Place::Double => {
                    self.next_char();
                    if c == '}' {
                        parts.quoted("\\");
                    }
                    parts.quoted(&c.to_string());
                }
                Some(_) | None => parts.quoted("\\"),
            },
            Some('$') => self.dollar(parts, place)?,
            Some('`') => {
                let part = self.backquoted(place)?;
                parts.push(part);
            }
            Some(c) => parts.quoted(&c.to_string()),
            None => {}
        }
        Ok(())
    }

    /// The body of a here-document.
    pub(super) fn here_body(&mut self) -> Parsed<Word> {
        let mut parts = Parts::default();
        while self.peek().is_some() {
            self.part_in(&mut parts, Place::Text)?;
        }
        Ok(Word(vec![Part::Double(parts.parts)]))
    }

    /// The word that ends a here-document, and whether it was quoted.
    pub(super) fn here_end(&mut self) -> Parsed<(String, bool)> {
        let (mut end, mut quoted) = (String::new(), false);
        while let Some(c) = self.peek().filter(|c| !ends_word(*c)) {
            self.next_char();
            match c {
                '\\' => {
                    quoted = true;
                    end.extend(self.next_char());
                }
                '\'' | '"' => {
                    quoted = true;
                    loop {
                        match self.next_char() {
                            Some(inner) if inner == c => break,
                            Some(inner) => end.push(inner),
                            None => return Err(SyntaxError::Incomplete(format!("`{c}`"))),
                        }
                    }
                }
                c => end.push(c),
            }
        }
        if end.is_empty() && !quoted {
            return Err(self.unexpected());
        }
        Ok((end, quoted))
    }

    /// Reads what follows a dollar sign.
    fn dollar(&mut self, parts: &mut Parts, place: Place) -> Parsed<()> {
        match self.peek() {
            Some('(') if self.peek_at(1) == Some('(') => {
                let (at, line) = (self.at, self.line);
                self.at += 2;
                if let Some(word) = self.arithmetic()? {
                    parts.push(Part::Arithmetic(word));
                    return Ok(());
                }
                (self.at, self.line) = (at, line);
                self.substitution(parts)
            }
            Some('(') => self.substitution(parts),
            Some('{') => {
                self.next_char();
                let parameter = self.braced(place)?;
                parts.push(Part::Parameter(parameter));
                Ok(())
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let name = self.name();
                parts.push(get(name));
                Ok(())
            }
            Some(c) if c.is_ascii_digit() || is_special(c) => {
                self.next_char();
                parts.push(get(c.to_string()));
                Ok(())
            }
            Some(_) | None => {
                match place {
                    Place::Open => parts.literal('$'),
                    Place::Double | Place::Text => parts.quoted("$"),
                }
                Ok(())
            }
        }
    }

    fn substitution(&mut self, parts: &mut Parts) -> Parsed<()> {
        self.next_char();
        self.enter()?;
        // A here-document of the line around it begins after that line.
        let pending = std::mem::take(&mut self.pending);
        let list = self.list(&[], LineEnd::Separates)?;
        self.check_pending()?;
        self.pending = pending;
        self.leave();
        match self.next_char() {
            Some(')') => {
                parts.push(Part::Command(Rc::new(list)));
                Ok(())
            }
            None => Err(SyntaxError::Incomplete("`)`".to_owned())),
            Some(_) => {
                self.at -= 1;
                Err(self.unexpected())
            }
        }
    }

    fn backquoted(&mut self, place: Place) -> Parsed<Part> {
        let mut text = String::new();
        loop {
            match self.next_char() {
                Some('`') => break,
                Some('\\') => match self.next_char() {
                    Some(c @ ('$' | '`' | '\\')) => text.push(c),
                    Some('"') if place == Place::Double => text.push('"'),
                    Some(c) => text.extend(['\\', c]),
                    None => text.push('\\'),
                },
                Some(c) => text.push(c),
                None => return Err(SyntaxError::Incomplete("a backquote".to_owned())),
            }
        }
        let mut inner = Self::new(&text);
        inner.nesting = self.nesting + 1;
        inner.line = self.line;
        let list = inner.list(&[], LineEnd::Separates)?;
        if inner.peek().is_some() {
            return Err(inner.unexpected());
        }
        Ok(Part::Command(Rc::new(list)))
    }

    /// Reads an arithmetic expression after its two brackets, and those that close it; `None` when it is
    /// none, because single brackets close it.
    pub(super) fn arithmetic(&mut self) -> Parsed<Option<Word>> {
        self.enter()?;
        let mut parts = Parts::default();
        let mut open = 0;
        let found = loop {
            match self.peek() {
                None => return Err(SyntaxError::Incomplete("`))`".to_owned())),
                Some(')') if open == 0 => break self.take("))"),
                Some(')') => open -= 1,
                Some('(') => open += 1,
                Some(_) => {}
            }
            if self.take("\"") {
                continue;
            }
            self.part_in(&mut parts, Place::Text)?;
        };
        self.leave();
        Ok(found.then(|| Word(vec![Part::Double(parts.parts)])))
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self
            .peek()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        {
            name.push(c);
            self.at += 1;
        }
        name
    }

    /// Reads `${…}` after its bracket.
    fn braced(&mut self, place: Place) -> Parsed<Parameter> {
        if self.peek() == Some('#') && !matches!(self.peek_at(1), Some('}' | '#' | '%' | ':' | '-'))
        {
            self.next_char();
            let name = self.parameter_name()?;
            if self.next_char() != Some('}') {
                return Err(self.error(format!("bad substitution of `{name}`")));
            }
            return Ok(Parameter {
                name,
                action: Action::Length,
            });
        }
        let name = self.parameter_name()?;
        let action = self.action(&name, place)?;
        Ok(Parameter { name, action })
    }

    fn parameter_name(&mut self) -> Parsed<String> {
        match self.peek() {
            Some(c) if c.is_ascii_alphanumeric() || c == '_' => Ok(self.name()),
            Some(c) if is_special(c) => {
                self.next_char();
                Ok(c.to_string())
            }
            Some(c) => Err(self.error(format!("bad substitution: `{c}`"))),
            None => Err(SyntaxError::Incomplete("`}`".to_owned())),
        }
    }

    fn action(&mut self, name: &str, place: Place) -> Parsed<Action> {
        let or_empty =
            self.peek() == Some(':') && matches!(self.peek_at(1), Some('-' | '=' | '?' | '+'));
        if or_empty {
            self.next_char();
        }
        match self.next_char() {
            Some('}') => Ok(Action::Get),
            Some(operator @ ('-' | '=' | '?' | '+')) => Ok(Action::Unless {
                operator,
                or_empty,
                word: Word(self.parts_until('}', place)?),
            }),
            Some(sign @ ('#' | '%')) => {
                let longest = self.peek() == Some(sign);
                if longest {
                    self.next_char();
                }
                Ok(Action::Trim {
                    from: if sign == '#' { End::Start } else { End::Finish },
                    longest,
                    pattern: Word(self.parts_until('}', Place::Open)?),
                })
            }
            Some('/') => self.replacement(place),
            Some(':') => self.slice(),
            Some(_) => Err(self.error(format!("bad substitution of `{name}`"))),
            None => Err(SyntaxError::Incomplete("`}`".to_owned())),
        }
    }

    fn replacement(&mut self, place: Place) -> Parsed<Action> {
        let all = self.take("/");
        let mut pattern = Parts::default();
        loop {
            match self.peek() {
                None => return Err(SyntaxError::Incomplete("`}`".to_owned())),
                Some('}') => {
                    self.next_char();
                    let (pattern, text) = (Word(pattern.parts), Word::default());
                    return Ok(Action::Replace { all, pattern, text });
                }
                Some('/') => {
                    self.next_char();
                    let (pattern, text) =
                        (Word(pattern.parts), Word(self.parts_until('}', place)?));
                    return Ok(Action::Replace { all, pattern, text });
                }
                Some(_) => self.open_part(&mut pattern)?,
            }
        }
    }

    fn slice(&mut self) -> Parsed<Action> {
        let mut pieces = vec![Parts::default()];
        loop {
            match self.peek() {
                None => return Err(SyntaxError::Incomplete("`}`".to_owned())),
                Some('}') => {
                    self.next_char();
                    let mut words = pieces.into_iter().map(|p| Word(p.parts));
                    return Ok(Action::Slice {
                        offset: words.next().unwrap_or_default(),
                        length: words.next(),
                    });
                }
                Some(':') if pieces.len() == 1 => {
                    self.next_char();
                    pieces.push(Parts::default());
                }
                Some(_) => {
                    let last = pieces.len() - 1;
                    self.part_in(&mut pieces[last], Place::Text)?;
                }
            }
        }
    }
}

fn get(name: String) -> Part {
    Part::Parameter(Parameter {
        name,
        action: Action::Get,
    })
}

fn is_special(c: char) -> bool {
    matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!')
}
