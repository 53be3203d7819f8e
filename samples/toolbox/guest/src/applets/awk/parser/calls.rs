//! Calls: of functions of the program, and of those that are built in.

use super::{Parser, Problem};
use crate::applets::awk::code::{Builtin, Place, Step};
use crate::applets::awk::lexer::Token;
use crate::applets::awk::value::Value;

impl Parser {
    pub(super) fn call(&mut self, name: &str) -> Result<(), Problem> {
        let line = self.line();
        if self.locals.iter().any(|local| local == name) || self.globals.contains_key(name) {
            return Err(self.problem(format!("the variable `{name}` is used as a function")));
        }
        let function = self.function_number(name);
        self.at += 2;
        let outer = std::mem::take(&mut self.greater);
        let mut count = 0;
        self.skip_lines();
        while !self.skip(")") {
            if count > 0 {
                self.expect(",")?;
                self.skip_lines();
            }
            match (self.peek().clone(), self.peek_at(1)) {
                // It may be an array.
                (Token::Name(name), Token::Sign("," | ")")) => {
                    self.at += 1;
                    let slot = self.slot(&name)?;
                    self.emit(Step::Argument(slot));
                }
                _ => self.expression()?,
            }
            self.skip_lines();
            count += 1;
        }
        self.greater = outer;
        self.calls.push((function, count, line));
        self.emit(Step::Call(function, count));
        Ok(())
    }

    pub(super) fn builtin(&mut self, builtin: Builtin) -> Result<(), Problem> {
        let (name, least, most) = builtin.about();
        if !self.is("(") {
            if builtin == Builtin::Length {
                self.emit(Step::Builtin(builtin, 0));
                return Ok(());
            }
            return Err(self.unexpected(&format!("`(` is expected after `{name}`")));
        }
        self.at += 1;
        let outer = std::mem::take(&mut self.greater);
        self.skip_lines();
        match builtin {
            Builtin::Length => self.length()?,
            Builtin::Split => self.split()?,
            Builtin::Sub | Builtin::Gsub => self.substitution(builtin == Builtin::Gsub)?,
            _ => {
                let mut count = 0;
                while !self.skip(")") {
                    if count > 0 {
                        self.expect(",")?;
                        self.skip_lines();
                    }
                    // Where it is one, an expression between slashes is not matched.
                    let patterns =
                        matches!((builtin, count), (Builtin::Match, 1) | (Builtin::Gensub, 0));
                    if patterns {
                        self.pattern(Self::expression)?;
                    } else {
                        self.expression()?;
                    }
                    self.skip_lines();
                    count += 1;
                }
                if count < least || count > most {
                    let text = format!("`{name}` takes {least} to {most} arguments, not {count}");
                    return Err(self.problem(text));
                }
                self.emit(Step::Builtin(builtin, count));
            }
        }
        self.greater = outer;
        Ok(())
    }

    fn length(&mut self) -> Result<(), Problem> {
        if self.skip(")") {
            self.emit(Step::Builtin(Builtin::Length, 0));
            return Ok(());
        }
        if let (Token::Name(name), Token::Sign(")")) = (self.peek().clone(), self.peek_at(1)) {
            self.at += 2;
            let slot = self.slot(&name)?;
            self.emit(Step::Length(slot));
            return Ok(());
        }
        self.expression()?;
        self.expect(")")?;
        self.emit(Step::Builtin(Builtin::Length, 1));
        Ok(())
    }

    fn split(&mut self) -> Result<(), Problem> {
        self.expression()?;
        self.expect(",")?;
        self.skip_lines();
        let array = self.array()?;
        let separated = self.skip(",");
        if separated {
            self.skip_lines();
            self.pattern(Self::expression)?;
        }
        self.expect(")")?;
        self.emit(Step::Split(array, separated));
        Ok(())
    }

    fn substitution(&mut self, all: bool) -> Result<(), Problem> {
        self.pattern(Self::expression)?;
        self.expect(",")?;
        self.skip_lines();
        self.expression()?;
        let place = if self.skip(",") {
            self.skip_lines();
            self.place()?
        } else {
            let record = self.constant(Value::Number(0.0));
            self.emit(Step::Constant(record));
            Place::Field
        };
        self.expect(")")?;
        self.emit(Step::Substitute { all, place });
        Ok(())
    }
}
