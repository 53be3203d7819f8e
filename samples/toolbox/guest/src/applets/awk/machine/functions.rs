//! The functions that are built in.

use std::rc::Rc;

use super::{Machine, bounded, mistake};
use crate::applet::Failure;
use crate::applets::awk::code::{Builtin, Place, Slot, special};
use crate::applets::awk::record::{self, Separator};
use crate::applets::awk::substitute::{Style, Which, substitute};
use crate::applets::awk::value::Value;
use crate::applets::time;

/// What `strftime` writes when it is given no format.
const TIME_FORMAT: &str = "%a %b %e %H:%M:%S %Z %Y";

impl Machine {
    /// Runs a function that waits for nothing.
    pub(super) fn builtin(&mut self, builtin: Builtin, arguments: u32) -> Result<(), Failure> {
        match builtin {
            Builtin::Length => return self.length_of_text(arguments),
            Builtin::Index => {
                let wanted = self.pop_text();
                let text = self.pop_text();
                let at = text
                    .find(&*wanted)
                    .map_or(0, |at| characters(&text[..at]) + 1);
                self.push_number(at as f64);
            }
            Builtin::Match => return self.matched(),
            Builtin::Gensub => return self.general_substitution(arguments),
            Builtin::Sprintf => {
                let values = self.pop_all(arguments);
                let text = self.formatted(&values)?;
                self.stack.push(Value::text(text));
            }
            Builtin::Substr => return self.part_of_text(arguments),
            Builtin::Tolower | Builtin::Toupper => {
                let text = self.pop_text();
                let text = if builtin == Builtin::Tolower {
                    text.to_lowercase()
                } else {
                    text.to_uppercase()
                };
                self.stack.push(Value::text(text));
            }
            Builtin::Strftime => {
                let values = self.pop_all(arguments);
                let format = values.first().map(|f| f.to_text(&self.settings.convfmt));
                let moment = match values.get(1) {
                    Some(seconds) => time::Moment::at(seconds.number() as i64),
                    None => time::Moment::now(),
                };
                let text = time::format(moment, format.as_deref().unwrap_or(TIME_FORMAT));
                self.stack.push(Value::text(text));
            }
            _ => {
                let value = self.arithmetic(builtin, arguments)?;
                self.push_number(value);
            }
        }
        Ok(())
    }

    fn arithmetic(&mut self, builtin: Builtin, arguments: u32) -> Result<f64, Failure> {
        let values = self.pop_all(arguments);
        let at = |index: usize| values.get(index).map_or(0.0, Value::number);
        let (first, second) = (at(0), at(1));
        let bits = |value: f64| value as i64 as u64;
        Ok(match builtin {
            Builtin::Atan2 => first.atan2(second),
            Builtin::Cos => first.cos(),
            Builtin::Sin => first.sin(),
            Builtin::Exp => first.exp(),
            Builtin::Log => first.ln(),
            Builtin::Sqrt => first.sqrt(),
            Builtin::Int => first.trunc(),
            Builtin::Rand => self.next_random(),
            Builtin::Srand => {
                let seed = values.first().map_or_else(now, Value::number);
                self.random = seed.to_bits();
                std::mem::replace(&mut self.seed, seed)
            }
            Builtin::Systime => now(),
            Builtin::And => (bits(first) & bits(second)) as f64,
            Builtin::Or => (bits(first) | bits(second)) as f64,
            Builtin::Xor => (bits(first) ^ bits(second)) as f64,
            // As many bits as a number holds exactly.
            Builtin::Compl => (!bits(first) & ((1 << 53) - 1)) as f64,
            Builtin::Lshift => bits(first).checked_shl(second as u32).unwrap_or(0) as f64,
            Builtin::Rshift => bits(first).checked_shr(second as u32).unwrap_or(0) as f64,
            other => return Err(mistake(format!("`{}` is not known here", other.about().0))),
        })
    }

    /// The next number of the SplitMix64 sequence, from 0 to below 1: the same ones for the same seed.
    fn next_random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn length_of_text(&mut self, arguments: u32) -> Result<(), Failure> {
        let text = match arguments {
            0 => self.whole(),
            _ => self.pop_text(),
        };
        self.push_number(characters(&text) as f64);
        Ok(())
    }

    /// `length` of a name: how many elements an array has.
    pub(super) fn length(&mut self, slot: Slot) -> Result<(), Failure> {
        self.argument(slot)?;
        let length = match self.pop() {
            Value::Array(array) => array.elements.borrow().len(),
            value => characters(&value.to_text(&self.settings.convfmt)),
        };
        self.push_number(length as f64);
        Ok(())
    }

    fn part_of_text(&mut self, arguments: u32) -> Result<(), Failure> {
        let count = (arguments > 2).then(|| self.pop().number());
        let start = self.pop().number();
        let text = self.pop_text();
        // As busybox has it: what lies before the first character counts as that.
        let first = start.trunc().max(1.0);
        let count = count.map_or(f64::INFINITY, f64::trunc);
        let part = if count > 0.0 {
            let skipped = (first - 1.0) as usize;
            let taken = count as usize;
            if text.is_ascii() {
                let from = skipped.min(text.len());
                text[from..from.saturating_add(taken).min(text.len())].to_owned()
            } else {
                text.chars().skip(skipped).take(taken).collect()
            }
        } else {
            String::new()
        };
        self.stack.push(Value::text(part));
        Ok(())
    }

    fn matched(&mut self) -> Result<(), Failure> {
        let expression = self.pop_expression()?;
        let text = self.pop_text();
        let (start, length) = match expression.find(&text) {
            Some(found) => {
                let before = characters(&text[..found.start()]);
                ((before + 1) as f64, characters(found.as_str()) as f64)
            }
            None => (0.0, -1.0),
        };
        for (slot, value) in [(special::RSTART, start), (special::RLENGTH, length)] {
            self.globals[slot as usize] = Value::Number(value);
        }
        self.push_number(start);
        Ok(())
    }

    /// `split`: makes the pieces of a text the elements of an array.
    pub(super) fn split(&mut self, slot: Slot, separated: bool) -> Result<(), Failure> {
        let separator = if separated {
            match self.pop() {
                Value::Regex(expression) => Separator::Expression(expression),
                value => {
                    let text = value.to_text(&self.settings.convfmt);
                    self.separator(&text)?
                }
            }
        } else {
            self.record.separator.clone()
        };
        let text = self.pop_text();
        let array = self.array(slot)?;
        let mut elements = array.elements.borrow_mut();
        elements.clear();
        let mut count = 0_u32;
        record::split(&text, &separator, false, &mut |piece| {
            count += 1;
            elements.insert(count.to_string().into(), Value::input(piece));
        });
        drop(elements);
        self.push_number(f64::from(count));
        Ok(())
    }

    /// `sub` and `gsub`: what names the place is on top, below are the replacement and the expression.
    pub(super) fn substitute(&mut self, all: bool, place: Place) -> Result<(), Failure> {
        let named = match place {
            Place::Variable(_) => None,
            Place::Element(_) | Place::Field => Some(self.pop()),
        };
        let replacement = self.pop_text();
        let expression = self.pop_expression()?;
        self.stack.extend(named.clone());
        let text = self.load(place)?.to_text(&self.settings.convfmt);
        let which = if all { Which::All } else { Which::First };
        let (new, count) = substitute(&text, &expression, &replacement, which, Style::Plain);
        if count > 0 {
            bounded(new.len())?;
            self.stack.extend(named);
            self.store(place, Value::text(new))?;
        }
        self.push_number(count as f64);
        Ok(())
    }

    fn general_substitution(&mut self, arguments: u32) -> Result<(), Failure> {
        let text: Rc<str> = if arguments > 3 {
            self.pop_text()
        } else {
            self.whole()
        };
        let which = self.pop_text();
        let replacement = self.pop_text();
        let expression = self.pop_expression()?;
        let which = match which.chars().next() {
            Some('g' | 'G') => Which::All,
            _ => Which::Number((Value::Text(which).number() as u64).max(1)),
        };
        let (new, _) = substitute(&text, &expression, &replacement, which, Style::Groups);
        bounded(new.len())?;
        self.stack.push(Value::text(new));
        Ok(())
    }
}

fn characters(text: &str) -> usize {
    if text.is_ascii() {
        text.len()
    } else {
        text.chars().count()
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    time::Moment::now().seconds as f64
}
