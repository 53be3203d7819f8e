//! Variables: loads and assigns them, and what happens when one of those that mean something changes.

use std::rc::Rc;

use super::{Machine, mistake};
use crate::applet::Failure;
use crate::applets::awk::code::{Place, Slot, special};
use crate::applets::awk::input::Ending;
use crate::applets::awk::record::Separator;
use crate::applets::awk::text;
use crate::applets::awk::value::{Array, Shape, Value};
use crate::applets::regular::{self, Case, Dialect};

/// What variables say about input and output.
pub(super) struct Settings {
    pub(super) ofs: Rc<str>,
    pub(super) ors: Rc<str>,
    pub(super) subsep: Rc<str>,
    pub(super) convfmt: Shape,
    pub(super) ofmt: Shape,
    pub(super) ending: Ending,
    /// How many records there were, and in this file.
    pub(super) nr: f64,
    pub(super) fnr: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ofs: " ".into(),
            ors: "\n".into(),
            subsep: "\u{1c}".into(),
            convfmt: "%.6g".into(),
            ofmt: "%.6g".into(),
            ending: Ending::Byte(b'\n'),
            nr: 0.0,
            fnr: 0.0,
        }
    }
}

impl Machine {
    /// Gives variables what they are at the start.
    pub(super) fn begin(&mut self) {
        for (slot, value) in [
            (special::FS, " "),
            (special::OFS, " "),
            (special::RS, "\n"),
            (special::ORS, "\n"),
            (special::SUBSEP, "\u{1c}"),
            (special::CONVFMT, "%.6g"),
            (special::OFMT, "%.6g"),
        ] {
            self.globals[slot as usize] = Value::text(value);
        }
        self.globals[special::RLENGTH as usize] = Value::Number(-1.0);
        self.globals[special::RSTART as usize] = Value::Number(0.0);
        let environment = Rc::clone(&self.context.environment);
        let variables = environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        self.globals[special::ENVIRON as usize] = array_of(variables);
    }

    /// Sets the words that `ARGV` has.
    pub(in super::super) fn set_words(&mut self, words: &[String]) {
        let names: Vec<String> = (0..words.len()).map(|at| at.to_string()).collect();
        let elements = names.iter().zip(words);
        let elements = elements.map(|(name, word)| (name.as_str(), word.as_str()));
        self.globals[special::ARGV as usize] = array_of(elements);
        self.globals[special::ARGC as usize] = Value::Number(words.len() as f64);
    }

    /// Assigns `name=value` as it stands among words; says whether it is such.
    pub(in super::super) fn assign_word(&mut self, word: &str) -> Result<bool, Failure> {
        let Some((name, value)) = word.split_once('=') else {
            return Ok(false);
        };
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty()
            || name.starts_with(|c: char| c.is_ascii_digit())
            || !name.chars().all(letter)
        {
            return Ok(false);
        }
        let value = Value::input(text::unescape(value));
        // A name that the program does not have is nowhere to be seen.
        if let Some(slot) = self.program.globals.get(name).copied() {
            self.store(Place::Variable(Slot::Global(slot)), value)?;
        }
        Ok(true)
    }

    /// `$0`.
    pub(super) fn whole(&mut self) -> Rc<str> {
        self.record
            .whole(&self.settings.ofs, &self.settings.convfmt)
    }

    fn name(&self, slot: Slot) -> String {
        let global = match slot {
            Slot::Global(global) => global,
            Slot::Local(_) => return "a parameter".to_owned(),
        };
        let found = self
            .program
            .globals
            .iter()
            .find(|(_, slot)| **slot == global);
        found.map_or_else(String::new, |(name, _)| format!("`{name}`"))
    }

    fn cell(&mut self, slot: Slot) -> &mut Value {
        match slot {
            Slot::Global(global) => &mut self.globals[global as usize],
            Slot::Local(local) => &mut self.stack[self.base + local as usize],
        }
    }

    /// The array of a slot, made when there is nothing yet.
    pub(super) fn array(&mut self, slot: Slot) -> Result<Rc<Array>, Failure> {
        let cell = self.cell(slot);
        let array = match cell {
            Value::Array(array) => return Ok(Rc::clone(array)),
            Value::Perhaps(array) => Rc::clone(array),
            Value::Unset => Rc::new(Array::default()),
            Value::Number(_) | Value::Text(_) | Value::Input(_) | Value::Regex(_) => {
                return Err(mistake(format!("{} is used as an array", self.name(slot))));
            }
        };
        array.used.set(true);
        *cell = Value::Array(Rc::clone(&array));
        Ok(array)
    }

    /// A name as an argument.
    pub(super) fn argument(&mut self, slot: Slot) -> Result<(), Failure> {
        if matches!(slot, Slot::Global(special::NF | special::NR | special::FNR)) {
            let value = self.load_variable(slot)?;
            self.stack.push(value);
            return Ok(());
        }
        let cell = self.cell(slot);
        if let Value::Unset = cell {
            *cell = Value::Perhaps(Rc::new(Array::default()));
        }
        if let Value::Perhaps(array) = cell
            && array.used.get()
        {
            *cell = Value::Array(Rc::clone(array));
        }
        let value = cell.clone();
        self.stack.push(value);
        Ok(())
    }

    /// What names a place on the stack, to do more with it than one thing.
    pub(super) fn named(&self, place: Place) -> Option<Value> {
        match place {
            Place::Variable(_) => None,
            Place::Element(_) | Place::Field => self.stack.last().cloned(),
        }
    }

    /// Takes what names a place off the stack and loads it.
    pub(super) fn load(&mut self, place: Place) -> Result<Value, Failure> {
        match place {
            Place::Variable(slot) => self.load_variable(slot),
            Place::Element(slot) => {
                let array = self.array(slot)?;
                let key = self.pop_text();
                let mut elements = array.elements.borrow_mut();
                Ok(elements.entry(key).or_insert(Value::Unset).clone())
            }
            Place::Field => match self.pop_field()? {
                0 => Ok(Value::Input(self.whole())),
                number => Ok(self.record.field(number)),
            },
        }
    }

    fn load_variable(&mut self, slot: Slot) -> Result<Value, Failure> {
        match slot {
            Slot::Global(special::NF) => return Ok(Value::Number(self.record.count() as f64)),
            Slot::Global(special::NR) => return Ok(Value::Number(self.settings.nr)),
            Slot::Global(special::FNR) => return Ok(Value::Number(self.settings.fnr)),
            Slot::Global(_) | Slot::Local(_) => {}
        }
        match self.cell(slot) {
            Value::Array(_) => {}
            Value::Perhaps(array) if array.used.get() => {}
            Value::Perhaps(_) => return Ok(Value::Unset),
            value => return Ok(value.clone()),
        }
        Err(mistake(format!(
            "the array {} is used as a value",
            self.name(slot)
        )))
    }

    fn pop_field(&mut self) -> Result<usize, Failure> {
        let number = self.pop().number();
        if !(0.0..=f64::from(u32::MAX)).contains(&number) {
            return Err(mistake(format!("there is no field {number}")));
        }
        Ok(number as usize)
    }

    /// Takes what names a place off the stack and assigns it.
    pub(super) fn store(&mut self, place: Place, value: Value) -> Result<(), Failure> {
        let value = match value {
            Value::Regex(_) | Value::Array(_) | Value::Perhaps(_) => Value::Unset,
            value => value,
        };
        match place {
            Place::Variable(Slot::Global(slot)) if slot <= special::OFMT => {
                self.store_special(slot, value)
            }
            Place::Variable(slot) => {
                let cell = self.cell(slot);
                match cell {
                    Value::Array(_) => {}
                    Value::Perhaps(array) if array.used.get() => {}
                    cell => {
                        *cell = value;
                        return Ok(());
                    }
                }
                Err(mistake(format!(
                    "the array {} is used as a value",
                    self.name(slot)
                )))
            }
            Place::Element(slot) => {
                let array = self.array(slot)?;
                let key = self.pop_text();
                array.elements.borrow_mut().insert(key, value);
                Ok(())
            }
            Place::Field => match self.pop_field()? {
                0 => {
                    self.record.set(value.to_text(&self.settings.convfmt));
                    Ok(())
                }
                number => self.record.set_field(number, value).map_err(mistake),
            },
        }
    }

    /// Adds to a place and returns what it was.
    pub(super) fn change(&mut self, place: Place, by: f64) -> Result<f64, Failure> {
        if let Place::Element(slot) = place {
            let array = self.array(slot)?;
            let key = self.pop_text();
            let mut elements = array.elements.borrow_mut();
            let element = elements.entry(key).or_insert(Value::Unset);
            let old = element.number();
            *element = Value::Number(old + by);
            return Ok(old);
        }
        let named = self.named(place);
        let old = self.load(place)?.number();
        self.stack.extend(named);
        self.store(place, Value::Number(old + by))?;
        Ok(old)
    }

    fn store_special(&mut self, slot: u32, value: Value) -> Result<(), Failure> {
        let text = value.to_text(&self.settings.convfmt);
        match slot {
            special::NF => {
                let count = value.number();
                if count < 0.0 {
                    return Err(mistake("there cannot be fewer than 0 fields"));
                }
                return self.record.set_count(count as usize).map_err(mistake);
            }
            special::NR => self.settings.nr = value.number(),
            special::FNR => self.settings.fnr = value.number(),
            special::FS => {
                // What was read is split as it was to be.
                self.record.split();
                self.record.separator = self.separator(&text)?;
            }
            special::OFS => {
                self.whole();
                self.settings.ofs = text;
            }
            special::RS => {
                self.record.split();
                self.record.lines_separate = text.is_empty();
                self.settings.ending = match text.as_bytes() {
                    [] => Ending::Paragraph,
                    [byte] => Ending::Byte(*byte),
                    _ => Ending::Expression(self.expression(text)?),
                };
            }
            special::ORS => self.settings.ors = text,
            special::SUBSEP => self.settings.subsep = text,
            special::CONVFMT => self.settings.convfmt = text,
            _ => self.settings.ofmt = text,
        }
        self.globals[slot as usize] = value;
        Ok(())
    }

    /// What a text says about where fields end.
    pub(super) fn separator(&mut self, text: &Rc<str>) -> Result<Separator, Failure> {
        let mut chars = text.chars();
        Ok(match (chars.next(), chars.next()) {
            (None, _) => Separator::Nothing,
            (Some(' '), None) => Separator::Blanks,
            (Some(c), None) => Separator::Character(c),
            (Some(_), Some(_)) => {
                let expression = regular::compile(text, Dialect::Awk, Case::Matters)?;
                Separator::Expression(Rc::new(expression))
            }
        })
    }
}

fn array_of<'a>(elements: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    let array = Array::default();
    let values = elements.map(|(key, value)| (Rc::from(key), Value::input(value)));
    array.elements.borrow_mut().extend(values);
    array.used.set(true);
    Value::Array(Rc::new(array))
}
