//! Expands words: tildes, parameters, commands, arithmetic, splitting, paths, quotes.

mod fields;
mod paths;
mod slices;

use std::pin::Pin;
use std::rc::Rc;

use super::syntax::{Action, List, Parameter, Part, Word};
use super::variables::ReadOnly;
use super::{Flow, Shell, arithmetic};
use crate::pattern;
use crate::stream::Stream;

use fields::{Fields, Quotes};

/// An expansion that runs commands and may nest.
type Expanding<'a, T> = Pin<Box<dyn Future<Output = Result<T, Flow>> + 'a>>;

impl Shell {
    /// Expands words into fields: split, and with paths for patterns.
    pub(super) async fn expand_words(&mut self, words: &[Word]) -> Result<Vec<String>, Flow> {
        let mut expanded = Vec::new();
        for word in words {
            if let Some(text) = word.as_literal()
                && !text.starts_with('~')
                && !pattern::is_pattern(text)
            {
                expanded.push(text.to_owned());
                continue;
            }
            let mut fields = Fields::splitting(self.separators());
            self.expand_parts(&word.0, Quotes::Open, &mut fields)
                .await?;
            for field in fields.finish() {
                if self.switches.noglob || !pattern::is_pattern(&field) {
                    expanded.push(pattern::unescape(&field));
                } else {
                    expanded.extend(paths::matching(&self.folder, &field));
                }
            }
        }
        Ok(expanded)
    }

    /// Expands a word into one text, neither split nor matched with paths.
    pub(super) async fn expand_text(&mut self, word: &Word) -> Result<String, Flow> {
        Ok(pattern::unescape(&self.expand_pattern(word).await?))
    }

    /// Expands a word into a pattern.
    pub(super) async fn expand_pattern(&mut self, word: &Word) -> Result<String, Flow> {
        let mut fields = Fields::whole();
        self.expand_parts(&word.0, Quotes::Open, &mut fields)
            .await?;
        Ok(fields.finish().join(" "))
    }

    /// Computes an arithmetic expression.
    pub(super) async fn compute(&mut self, word: &Word) -> Result<i64, Flow> {
        let text = self.expand_text(word).await?;
        match arithmetic::evaluate(&text, self) {
            Ok(value) => Ok(value),
            Err(error) => Err(self.fail(&error).await),
        }
    }

    /// Tells an error that ends the shell.
    pub(super) async fn fail(&self, text: &str) -> Flow {
        self.complain(text).await;
        Flow::Fatal(2)
    }

    fn separators(&self) -> String {
        self.variables.get("IFS").unwrap_or(" \t\n").to_owned()
    }

    fn expand_parts<'a>(
        &'a mut self,
        parts: &'a [Part],
        quotes: Quotes,
        fields: &'a mut Fields,
    ) -> Expanding<'a, ()> {
        Box::pin(async move {
            for (index, part) in parts.iter().enumerate() {
                match part {
                    Part::Literal(text) => self.literal(text, index == 0, quotes, fields),
                    Part::Quoted(text) => fields.quoted(text),
                    Part::Double(inner) => {
                        fields.begin_quotes(inner.is_empty());
                        self.expand_parts(inner, Quotes::Double, fields).await?;
                    }
                    Part::Parameter(parameter) => {
                        self.parameter(parameter, quotes, fields).await?;
                    }
                    Part::Command(list) => {
                        let text = self.substitute(list).await?;
                        fields.value(&text, quotes);
                    }
                    Part::Arithmetic(word) => {
                        let value = self.compute(word).await?;
                        fields.value(&value.to_string(), quotes);
                    }
                }
            }
            Ok(())
        })
    }

    fn literal(&self, text: &str, first: bool, quotes: Quotes, fields: &mut Fields) {
        if !first || quotes == Quotes::Double || !text.starts_with('~') {
            return fields.literal(text);
        }
        let end = text.find('/').unwrap_or(text.len());
        let home = (end == 1).then(|| self.variables.get("HOME")).flatten();
        match home {
            Some(home) => {
                fields.quoted(home);
                fields.literal(&text[end..]);
            }
            None => fields.literal(text),
        }
    }

    /// Runs commands and returns what they write, without the ends of the last lines.
    async fn substitute(&mut self, list: &Rc<List>) -> Result<String, Flow> {
        let mut shell = self.subshell();
        let (stream, captured) = Stream::capture();
        shell.descriptors.set(1, stream);
        let code = shell.run_apart(list).await;
        self.status = code;
        self.substituted = Some(code);
        drop(shell);
        let bytes = captured.take();
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.trim_end_matches('\n').replace('\0', ""))
    }

    async fn parameter(
        &mut self,
        parameter: &Parameter,
        quotes: Quotes,
        fields: &mut Fields,
    ) -> Result<(), Flow> {
        let name = &parameter.name;
        if matches!(name.as_str(), "@" | "*") && parameter.action == Action::Get {
            self.all_positional(name == "@", quotes, fields);
            return Ok(());
        }
        let value = self.value(name);
        match &parameter.action {
            Action::Get => {
                let value = self.required(name, value).await?;
                fields.value(&value, quotes);
            }
            Action::Length => {
                let length = match name.as_str() {
                    "@" | "*" => self.positional.len(),
                    _ => self.required(name, value).await?.chars().count(),
                };
                fields.value(&length.to_string(), quotes);
            }
            Action::Unless {
                operator,
                or_empty,
                word,
            } => {
                let present = value.filter(|value| !(*or_empty && value.is_empty()));
                let present = present.filter(|_| name != "@" || !self.positional.is_empty());
                self.unless(name, *operator, present, word, (quotes, fields))
                    .await?;
            }
            Action::Trim {
                from,
                longest,
                pattern,
            } => {
                let value = self.required(name, value).await?;
                let pattern = self.expand_pattern(pattern).await?;
                fields.value(&slices::trim(&value, &pattern, *from, *longest), quotes);
            }
            Action::Slice { offset, length } => {
                let value = self.required(name, value).await?;
                let offset = self.compute(offset).await?;
                let length = match length {
                    Some(length) => Some(self.compute(length).await?),
                    None => None,
                };
                fields.value(&slices::slice(&value, offset, length), quotes);
            }
            Action::Replace { all, pattern, text } => {
                let value = self.required(name, value).await?;
                let pattern = self.expand_pattern(pattern).await?;
                let text = self.expand_text(text).await?;
                fields.value(&slices::replace(&value, &pattern, &text, *all), quotes);
            }
        }
        Ok(())
    }

    async fn unless(
        &mut self,
        name: &str,
        operator: char,
        present: Option<String>,
        word: &Word,
        (quotes, fields): (Quotes, &mut Fields),
    ) -> Result<(), Flow> {
        match (operator, present) {
            ('+', None) => fields.value("", quotes),
            ('+', Some(_)) | ('-', None) => {
                let parts = &word.0;
                self.expand_parts(parts, quotes, fields).await?;
            }
            ('=', None) => {
                let value = self.expand_text(word).await?;
                self.assign(name, value.clone()).await?;
                fields.value(&value, quotes);
            }
            ('?', None) => {
                let mut message = self.expand_text(word).await?;
                if message.is_empty() {
                    "parameter not set".clone_into(&mut message);
                }
                return Err(self.fail(&format!("{name}: {message}")).await);
            }
            (_, Some(_)) if name == "@" => self.all_positional(true, quotes, fields),
            (_, Some(value)) => fields.value(&value, quotes),
            (_, None) => {}
        }
        Ok(())
    }

    /// `$@` or `$*`.
    fn all_positional(&self, apart: bool, quotes: Quotes, fields: &mut Fields) {
        if quotes == Quotes::Double && !apart {
            let separator: String = self.separators().chars().take(1).collect();
            fields.value(&self.positional.join(&separator), quotes);
            return;
        }
        for (index, value) in self.positional.iter().enumerate() {
            if index > 0 {
                fields.next();
            }
            fields.value(value, quotes);
            if quotes == Quotes::Double {
                fields.keep();
            }
        }
    }

    async fn required(&self, name: &str, value: Option<String>) -> Result<String, Flow> {
        match value {
            Some(value) => Ok(value),
            None if self.switches.nounset && !matches!(name, "@" | "*") => {
                Err(self.fail(&format!("{name}: parameter not set")).await)
            }
            None => Ok(String::new()),
        }
    }

    /// The value of a parameter, when it is set.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        match name {
            "#" => Some(self.positional.len().to_string()),
            "?" => Some(self.status.to_string()),
            "$" => Some("1".to_owned()),
            "!" => self.last_job.map(|id| id.to_string()),
            "-" => Some(self.switches.letters()),
            "0" => Some(self.name.clone()),
            "*" | "@" => Some(self.positional.join(" ")),
            "LINENO" => Some(self.line.to_string()),
            _ => match name.parse::<usize>() {
                Ok(number) => self.positional.get(number.checked_sub(1)?).cloned(),
                Err(_) => self.variables.get(name).map(str::to_owned),
            },
        }
    }

    /// Sets a variable; that of a read-only one ends the shell.
    pub(super) async fn assign(&mut self, name: &str, value: String) -> Result<(), Flow> {
        if name == "OPTIND" {
            self.option_offset = 0;
        }
        match self.variables.set(name, value) {
            Ok(()) => {
                if self.switches.allexport {
                    self.variables.export(name, true);
                }
                Ok(())
            }
            Err(error @ ReadOnly(_)) => Err(self.fail(&error.to_string()).await),
        }
    }
}

impl arithmetic::Scope for Shell {
    fn value(&self, name: &str) -> Result<String, String> {
        match Self::value(self, name) {
            Some(value) => Ok(value),
            None if self.switches.nounset => Err(format!("{name}: parameter not set")),
            None => Ok(String::new()),
        }
    }

    fn assign(&mut self, name: &str, value: i64) -> Result<(), String> {
        let set = self.variables.set(name, value.to_string());
        set.map_err(|error| error.to_string())
    }
}
