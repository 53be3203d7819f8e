//! Reads lists, pipelines and commands.

use std::rc::Rc;

use super::super::syntax::{
    Arm, Command, Item, Join, Kind, List, Operator, Pipeline, Redirect, Target, Word,
};
use super::words::{ends_word, is_name};
use super::{LineEnd, Parsed, Parser, Pending, SyntaxError};

/// Words that mean something where a command may begin.
const RESERVED: &[&str] = &[
    "if", "then", "elif", "else", "fi", "do", "done", "case", "esac", "while", "until", "for", "{",
    "}", "!", "in",
];
/// The operators of redirections, longest first.
const REDIRECTIONS: &[&str] = &[
    "&>>", "<<<", "<<-", "&>", "<<", ">>", "<&", ">&", "<>", ">|", "<", ">",
];
/// The text of a job has at most this many characters.
const TITLE_CHARS_MAX: usize = 80;

impl Parser {
    /// Reads commands until one of the words `ends`, which is left, or a bracket that closes.
    pub(super) fn list(&mut self, ends: &[&str], line_end: LineEnd) -> Parsed<List> {
        let mut list = List::new();
        loop {
            match line_end {
                LineEnd::Separates => self.skip_lines()?,
                LineEnd::Ends => self.skip_blanks(),
            }
            match self.peek() {
                None | Some(')' | '\n') => return Ok(list),
                Some(';') if self.looking_at(";;") || self.looking_at(";&") => return Ok(list),
                Some(_) => {}
            }
            if ends.iter().any(|end| self.at_word(end)) {
                return Ok(list);
            }
            let mut item = self.item()?;
            self.skip_blanks();
            if self.peek() == Some('&') && self.peek_at(1) != Some('&') {
                self.at += 1;
                item.background = true;
            } else if self.peek() == Some(';') && !matches!(self.peek_at(1), Some(';' | '&')) {
                self.at += 1;
            } else {
                list.push(item);
                if line_end == LineEnd::Separates && self.peek() == Some('\n') {
                    continue;
                }
                return Ok(list);
            }
            list.push(item);
        }
    }

    /// Reads a list that has something in it, up to one of the words `ends`.
    fn body(&mut self, ends: &[&str]) -> Parsed<List> {
        let list = self.list(ends, LineEnd::Separates)?;
        if list.is_empty() {
            if self.peek().is_none() {
                return Err(SyntaxError::Incomplete(format!(
                    "`{}`",
                    ends.join("` or `")
                )));
            }
            return Err(self.unexpected());
        }
        Ok(list)
    }

    fn item(&mut self) -> Parsed<Item> {
        let start = self.at;
        let first = self.pipeline()?;
        let mut rest = Vec::new();
        loop {
            self.skip_blanks();
            let join = if self.take("&&") {
                Join::And
            } else if self.take("||") {
                Join::Or
            } else {
                break;
            };
            self.skip_lines()?;
            rest.push((join, self.pipeline()?));
        }
        let text = &self.chars[start..self.at];
        let title: String = text.iter().take(TITLE_CHARS_MAX).collect();
        Ok(Item {
            first,
            rest,
            background: false,
            title: title.trim_end().to_owned(),
        })
    }

    fn pipeline(&mut self) -> Parsed<Pipeline> {
        let mut negated = false;
        self.skip_blanks();
        while self.take_word("!") {
            negated = !negated;
            self.skip_blanks();
        }
        let mut commands = vec![Rc::new(self.command()?)];
        loop {
            self.skip_blanks();
            if self.peek() != Some('|') || self.peek_at(1) == Some('|') {
                break;
            }
            self.at += 1;
            self.skip_lines()?;
            commands.push(Rc::new(self.command()?));
        }
        Ok(Pipeline { negated, commands })
    }

    fn command(&mut self) -> Parsed<Command> {
        self.enter()?;
        let line = self.line;
        let kind = self.kind();
        self.leave();
        let mut kind = kind?;
        let mut redirects = Vec::new();
        if let Kind::Simple { assignments, words } = &mut kind {
            self.simple(assignments, words, &mut redirects)?;
            if assignments.is_empty() && words.is_empty() && redirects.is_empty() {
                return Err(self.unexpected());
            }
            if let Some(name) = self.function_name(assignments, words, &redirects) {
                kind = self.function(name)?;
            }
        } else {
            loop {
                self.skip_blanks();
                match self.redirect()? {
                    Some(redirect) => redirects.push(redirect),
                    None => break,
                }
            }
        }
        Ok(Command {
            kind,
            redirects,
            line,
        })
    }

    /// Reads a compound command; a simple one is returned empty and still to be read.
    fn kind(&mut self) -> Parsed<Kind> {
        self.skip_blanks();
        if self.looking_at("((")
            && let Some(kind) = self.arithmetic_command()?
        {
            return Ok(kind);
        }
        if self.take("(") {
            let list = self.body(&[])?;
            self.expect(")")?;
            return Ok(Kind::Subshell(list));
        }
        if self.take_word("{") {
            let list = self.body(&["}"])?;
            self.expect_word("}")?;
            return Ok(Kind::Group(list));
        }
        if self.take_word("if") {
            return self.conditional();
        }
        if self.take_word("for") {
            return self.for_loop();
        }
        if self.take_word("while") {
            return self.while_loop(false);
        }
        if self.take_word("until") {
            return self.while_loop(true);
        }
        if self.take_word("case") {
            return self.case();
        }
        if self.take_word("[[") {
            return self.condition();
        }
        if self.take_word("function") {
            self.skip_blanks();
            let name = self.plain_word()?;
            self.skip_blanks();
            self.take("()");
            return self.function(name);
        }
        if let Some(word) = RESERVED.iter().find(|word| self.at_word(word)) {
            return Err(self.error(format!("unexpected `{word}`")));
        }
        Ok(Kind::Simple {
            assignments: Vec::new(),
            words: Vec::new(),
        })
    }

    fn arithmetic_command(&mut self) -> Parsed<Option<Kind>> {
        let (at, line) = (self.at, self.line);
        self.at += 2;
        match self.arithmetic() {
            Ok(Some(word)) => Ok(Some(Kind::Arithmetic(word))),
            Ok(None) => {
                (self.at, self.line) = (at, line);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn conditional(&mut self) -> Parsed<Kind> {
        let mut branches = Vec::new();
        let mut otherwise = None;
        loop {
            let condition = self.body(&["then"])?;
            self.expect_word("then")?;
            let body = self.body(&["elif", "else", "fi"])?;
            branches.push((condition, body));
            if self.take_word("elif") {
                continue;
            }
            if self.take_word("else") {
                otherwise = Some(self.body(&["fi"])?);
            }
            self.expect_word("fi")?;
            return Ok(Kind::If {
                branches,
                otherwise,
            });
        }
    }

    fn for_loop(&mut self) -> Parsed<Kind> {
        self.skip_blanks();
        let name = self.plain_word()?;
        if !is_name(&name) {
            return Err(self.error(format!("`{name}` is no name of a variable")));
        }
        self.skip_lines()?;
        let mut words = None;
        if self.take_word("in") {
            let mut given = Vec::new();
            loop {
                self.skip_blanks();
                match self.word()? {
                    Some(word) => given.push(word),
                    None => break,
                }
            }
            words = Some(given);
        }
        self.skip_blanks();
        self.take(";");
        self.skip_lines()?;
        let body = self.do_group()?;
        Ok(Kind::For { name, words, body })
    }

    fn while_loop(&mut self, until: bool) -> Parsed<Kind> {
        let condition = self.body(&["do"])?;
        let body = self.do_group()?;
        Ok(Kind::While {
            until,
            condition,
            body,
        })
    }

    fn do_group(&mut self) -> Parsed<List> {
        self.expect_word("do")?;
        let body = self.body(&["done"])?;
        self.expect_word("done")?;
        Ok(body)
    }

    fn case(&mut self) -> Parsed<Kind> {
        self.skip_blanks();
        let word = self.word()?.ok_or_else(|| self.unexpected())?;
        self.skip_lines()?;
        self.expect_word("in")?;
        let mut arms = Vec::new();
        loop {
            self.skip_lines()?;
            if self.take_word("esac") {
                return Ok(Kind::Case { word, arms });
            }
            self.take("(");
            let mut patterns = Vec::new();
            loop {
                self.skip_blanks();
                patterns.push(self.word()?.ok_or_else(|| self.unexpected())?);
                self.skip_blanks();
                if !self.take("|") {
                    break;
                }
            }
            self.expect(")")?;
            let body = self.list(&["esac"], LineEnd::Separates)?;
            let falls_through = self.take(";&");
            let more = falls_through || self.take(";;");
            arms.push(Arm {
                patterns,
                body,
                falls_through,
            });
            if !more {
                self.skip_lines()?;
                self.expect_word("esac")?;
                return Ok(Kind::Case { word, arms });
            }
        }
    }

    /// The words between `[[` and `]]`; within them `&&`, `||`, `<`, `>` and brackets are words.
    fn condition(&mut self) -> Parsed<Kind> {
        let mut words = Vec::new();
        loop {
            self.skip_lines()?;
            if self.take_word("]]") {
                return Ok(Kind::Condition(words));
            }
            let operator = ["&&", "||", "(", ")", "<", ">"]
                .into_iter()
                .find(|operator| self.take(operator));
            if let Some(operator) = operator {
                words.push(Word::literal(operator));
                continue;
            }
            let after_match = words.last().and_then(Word::as_literal) == Some("=~");
            let word = if after_match {
                Some(self.regular_expression()?)
            } else {
                self.word()?
            };
            match word {
                Some(word) => words.push(word),
                None if self.peek().is_none() => {
                    return Err(SyntaxError::Incomplete("`]]`".to_owned()));
                }
                None => return Err(self.unexpected()),
            }
        }
    }

    fn function_name(
        &mut self,
        assignments: &[(String, Word)],
        words: &[Word],
        redirects: &[Redirect],
    ) -> Option<String> {
        let [word] = words else { return None };
        if !assignments.is_empty() || !redirects.is_empty() || self.peek() != Some('(') {
            return None;
        }
        let name = word.as_literal()?.to_owned();
        let before = self.at;
        self.at += 1;
        self.skip_blanks();
        if self.take(")") {
            return Some(name);
        }
        self.at = before;
        None
    }

    fn function(&mut self, name: String) -> Parsed<Kind> {
        self.skip_lines()?;
        let body = self.command()?;
        if matches!(body.kind, Kind::Simple { .. }) {
            return Err(self.error(format!("the body of `{name}` is no compound command")));
        }
        Ok(Kind::Function {
            name,
            body: Rc::new(body),
        })
    }

    fn simple(
        &mut self,
        assignments: &mut Vec<(String, Word)>,
        words: &mut Vec<Word>,
        redirects: &mut Vec<Redirect>,
    ) -> Parsed<()> {
        loop {
            self.skip_blanks();
            if let Some(redirect) = self.redirect()? {
                redirects.push(redirect);
                continue;
            }
            if words.is_empty()
                && let Some(name) = self.assignment_name()
            {
                let value = self.word()?.unwrap_or_default();
                assignments.push((name, value));
                continue;
            }
            match self.word()? {
                Some(word) => words.push(word),
                None => return Ok(()),
            }
        }
    }

    /// Takes `name=`.
    fn assignment_name(&mut self) -> Option<String> {
        let rest = &self.chars[self.at..];
        let end = rest
            .iter()
            .position(|c| !(c.is_ascii_alphanumeric() || *c == '_'))?;
        let name: String = rest[..end].iter().collect();
        if rest[end] != '=' || !is_name(&name) {
            return None;
        }
        self.at += end + 1;
        Some(name)
    }

    fn redirect(&mut self) -> Parsed<Option<Redirect>> {
        let before = self.at;
        let mut digits = String::new();
        while let Some(c) = self.peek().filter(char::is_ascii_digit) {
            digits.push(c);
            self.at += 1;
        }
        let operator = REDIRECTIONS
            .iter()
            .find(|operator| self.looking_at(operator))
            .filter(|operator| digits.is_empty() || !operator.starts_with('&'));
        let Some(operator) = operator else {
            self.at = before;
            return Ok(None);
        };
        self.take(operator);
        self.skip_blanks();
        let default = u32::from(!operator.starts_with('<'));
        let descriptor = match digits.as_str() {
            "" => default,
            digits => digits
                .parse()
                .map_err(|_| self.error(format!("bad descriptor `{digits}`")))?,
        };
        let target = self.target(operator)?;
        Ok(Some(Redirect { descriptor, target }))
    }

    fn target(&mut self, operator: &str) -> Parsed<Target> {
        if let "<<" | "<<-" = operator {
            let (end, quoted) = self.here_end()?;
            let body = Rc::default();
            self.pending.push(Pending {
                end,
                quoted,
                strips_tabs: operator == "<<-",
                body: Rc::clone(&body),
            });
            return Ok(Target::Here(body));
        }
        let name = self.word()?.ok_or_else(|| self.unexpected())?;
        let file = |operator| Target::File {
            operator,
            name: name.clone(),
        };
        Ok(match operator {
            "<" => file(Operator::Read),
            ">" => file(Operator::Write),
            ">|" => file(Operator::Clobber),
            ">>" => file(Operator::Append),
            "<>" => file(Operator::ReadWrite),
            "<<<" => Target::HereString(name),
            "&>" => Target::Both {
                append: false,
                name,
            },
            "&>>" => Target::Both { append: true, name },
            _ => Target::Copy(name),
        })
    }

    fn plain_word(&mut self) -> Parsed<String> {
        let word = self.word()?.ok_or_else(|| self.unexpected())?;
        let text = word.as_literal().map(str::to_owned);
        text.ok_or_else(|| self.error("a plain word is expected"))
    }

    /// Whether a reserved word comes next.
    fn at_word(&self, word: &str) -> bool {
        self.looking_at(word) && self.peek_at(word.chars().count()).is_none_or(ends_word)
    }

    fn take_word(&mut self, word: &str) -> bool {
        self.at_word(word) && self.take(word)
    }

    fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.take_word(word) {
            return Ok(());
        }
        Err(self.missing(word))
    }

    fn expect(&mut self, text: &str) -> Parsed<()> {
        self.skip_blanks();
        if self.take(text) {
            return Ok(());
        }
        Err(self.missing(text))
    }

    fn missing(&self, text: &str) -> SyntaxError {
        match self.peek() {
            None => SyntaxError::Incomplete(format!("`{text}`")),
            Some(_) => self.unexpected(),
        }
    }
}
