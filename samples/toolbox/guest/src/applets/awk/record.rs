//! The record `$0` and its fields, each made of the other only when it is asked for.

use std::rc::Rc;

use regex_lite::Regex;

use super::text::BLANKS;
use super::value::Value;

/// A record has at most so many fields.
const FIELDS_MAX: usize = 1_000_000;

/// What stands between fields.
#[derive(Clone, Debug)]
pub(super) enum Separator {
    /// Blanks, and none count at the ends.
    Blanks,
    /// A character.
    Character(char),
    /// Nothing: each character is a field.
    Nothing,
    Expression(Rc<Regex>),
}

/// A record.
pub(super) struct Record {
    whole: Rc<str>,
    fields: Vec<Value>,
    /// Whether the fields are those of the record.
    split: bool,
    /// Whether the record has to be made of its fields.
    changed: bool,
    pub(super) separator: Separator,
    /// Whether a new line separates too, as when records are paragraphs.
    pub(super) lines_separate: bool,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            whole: Rc::from(""),
            fields: Vec::new(),
            split: true,
            changed: false,
            separator: Separator::Blanks,
            lines_separate: false,
        }
    }
}

impl Record {
    /// Replaces the record.
    pub(super) fn set(&mut self, whole: Rc<str>) {
        self.whole = whole;
        self.split = false;
        self.changed = false;
    }

    /// The record; `joint` stands between fields that were changed.
    pub(super) fn whole(&mut self, joint: &str, shape: &str) -> Rc<str> {
        if self.changed {
            let fields: Vec<Rc<str>> = self.fields.iter().map(|f| f.to_text(shape)).collect();
            self.whole = fields.join(joint).into();
            self.changed = false;
        }
        Rc::clone(&self.whole)
    }

    /// Makes the fields.
    pub(super) fn split(&mut self) {
        if self.split {
            return;
        }
        self.split = true;
        self.fields.clear();
        let fields = &mut self.fields;
        let mut add = |field: &str| fields.push(Value::input(field));
        split(&self.whole, &self.separator, self.lines_separate, &mut add);
    }

    /// How many fields there are.
    pub(super) fn count(&mut self) -> usize {
        self.split();
        self.fields.len()
    }

    /// A field from 1 on.
    pub(super) fn field(&mut self, number: usize) -> Value {
        self.split();
        let field = number.checked_sub(1).and_then(|at| self.fields.get(at));
        field.cloned().unwrap_or(Value::Unset)
    }

    /// Changes a field from 1 on; those before it are made if need be.
    pub(super) fn set_field(&mut self, number: usize, value: Value) -> Result<(), String> {
        if number > self.count() {
            self.set_count(number)?;
        }
        if let Some(field) = number.checked_sub(1).and_then(|at| self.fields.get_mut(at)) {
            *field = value;
        }
        self.changed = true;
        Ok(())
    }

    /// Changes how many fields there are.
    pub(super) fn set_count(&mut self, count: usize) -> Result<(), String> {
        self.split();
        if count > FIELDS_MAX {
            return Err(format!("more than {FIELDS_MAX} fields"));
        }
        self.fields.resize(count, Value::input(""));
        self.changed = true;
        Ok(())
    }
}

/// Gives the pieces of a text to `add`.
pub(super) fn split(text: &str, separator: &Separator, lines: bool, add: &mut dyn FnMut(&str)) {
    if text.is_empty() {
        return;
    }
    match separator {
        Separator::Blanks => text
            .split(BLANKS)
            .filter(|piece| !piece.is_empty())
            .for_each(add),
        Separator::Nothing => {
            let mut bytes = [0; 4];
            for c in text.chars() {
                add(c.encode_utf8(&mut bytes));
            }
        }
        Separator::Character(c) if lines => text.split([*c, '\n']).for_each(add),
        Separator::Character(c) => text.split(*c).for_each(add),
        Separator::Expression(expression) if lines => {
            for line in text.split('\n') {
                pieces(line, expression, add);
            }
        }
        Separator::Expression(expression) => pieces(text, expression, add),
    }
}

fn pieces(text: &str, expression: &Regex, add: &mut dyn FnMut(&str)) {
    let mut from = 0;
    for found in expression.find_iter(text) {
        // Nothing separates nothing.
        if !found.is_empty() {
            add(&text[from..found.start()]);
            from = found.end();
        }
    }
    add(&text[from..]);
}
