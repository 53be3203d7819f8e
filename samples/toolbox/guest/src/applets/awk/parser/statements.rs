//! Statements.

use super::{Greater, Loop, Parser, Part, Problem};
use crate::applets::awk::code::{LineSource, Place, Step, Target};
use crate::applets::awk::lexer::Token;
use crate::applets::awk::value::Value;

impl Parser {
    /// `{ … }`.
    pub(super) fn block(&mut self) -> Result<(), Problem> {
        self.expect("{")?;
        loop {
            self.skip_ends();
            if self.skip("}") {
                return Ok(());
            }
            if *self.peek() == Token::End {
                return Err(self.unexpected("`}` is expected"));
            }
            self.statement()?;
        }
    }

    /// A statement with what ends it.
    fn statement(&mut self) -> Result<(), Problem> {
        self.nested()?;
        match self.peek().clone() {
            Token::Sign("{") => self.block()?,
            Token::Sign(";") => self.at += 1,
            Token::Word("if") => self.conditions()?,
            Token::Word("while") => self.while_loop()?,
            Token::Word("do") => self.do_loop()?,
            Token::Word("for") => self.for_loop()?,
            _ => {
                self.simple()?;
                self.ends()?;
            }
        }
        self.nesting -= 1;
        Ok(())
    }

    fn ends(&mut self) -> Result<(), Problem> {
        match self.peek() {
            Token::NewLine | Token::Sign(";") => self.at += 1,
            Token::Sign("}") | Token::End => {}
            _ => return Err(self.unexpected("the end of a statement is expected")),
        }
        Ok(())
    }

    /// The body of a condition or a loop.
    fn body(&mut self) -> Result<(), Problem> {
        self.skip_lines();
        self.statement()
    }

    fn condition(&mut self) -> Result<usize, Problem> {
        self.expect("(")?;
        self.expression()?;
        self.expect(")")?;
        Ok(self.emit(Step::JumpIfFalse(0)))
    }

    /// `if`, with all its `else if`.
    fn conditions(&mut self) -> Result<(), Problem> {
        let mut ends = Vec::new();
        while self.skip_word("if") {
            let over = self.condition()?;
            self.body()?;
            let before = self.at;
            self.skip_ends();
            if !self.skip_word("else") {
                self.at = before;
                self.land(over);
                break;
            }
            ends.push(self.emit(Step::Jump(0)));
            self.land(over);
            self.skip_lines();
            if !self.is_word("if") {
                self.statement()?;
                break;
            }
        }
        for end in ends {
            self.land(end);
        }
        Ok(())
    }

    /// Compiles the body of a loop, and returns its jumps.
    fn loop_body(&mut self) -> Result<Loop, Problem> {
        self.loops.push(Loop::default());
        self.body()?;
        Ok(self.loops.pop().unwrap_or_default())
    }

    fn land_all(&mut self, jumps: Vec<usize>) {
        for jump in jumps {
            self.land(jump);
        }
    }

    fn while_loop(&mut self) -> Result<(), Problem> {
        self.at += 1;
        let start = self.here();
        let over = self.condition()?;
        let jumps = self.loop_body()?;
        self.land_all(jumps.continues);
        self.emit(Step::Jump(start));
        self.land(over);
        self.land_all(jumps.breaks);
        Ok(())
    }

    fn do_loop(&mut self) -> Result<(), Problem> {
        self.at += 1;
        let start = self.here();
        let jumps = self.loop_body()?;
        self.skip_ends();
        if !self.skip_word("while") {
            return Err(self.unexpected("`while` is expected"));
        }
        self.land_all(jumps.continues);
        let over = self.condition()?;
        self.emit(Step::Jump(start));
        self.land(over);
        self.land_all(jumps.breaks);
        self.ends()
    }

    fn for_loop(&mut self) -> Result<(), Problem> {
        self.at += 1;
        self.expect("(")?;
        if let (Token::Name(key), Token::Word("in"), Token::Name(array), Token::Sign(")")) = (
            self.peek(),
            self.peek_at(1),
            self.peek_at(2),
            self.peek_at(3),
        ) {
            let (key, array) = (key.clone(), array.clone());
            self.at += 4;
            return self.for_keys(&key, &array);
        }
        if !self.is(";") {
            self.simple()?;
        }
        self.expect(";")?;
        self.skip_lines();
        let start = self.here();
        let mut over = None;
        if !self.is(";") {
            self.expression()?;
            over = Some(self.emit(Step::JumpIfFalse(0)));
        }
        self.expect(";")?;
        self.skip_lines();
        let begins = self.emit(Step::Jump(0));
        let again = self.here();
        if !self.is(")") {
            self.simple()?;
        }
        self.expect(")")?;
        self.emit(Step::Jump(start));
        self.land(begins);
        let jumps = self.loop_body()?;
        self.land_all(jumps.continues);
        self.emit(Step::Jump(again));
        if let Some(over) = over {
            self.land(over);
        }
        self.land_all(jumps.breaks);
        Ok(())
    }

    fn for_keys(&mut self, key: &str, array: &str) -> Result<(), Problem> {
        let key = Place::Variable(self.slot(key)?);
        let array = self.slot(array)?;
        self.emit(Step::Keys(array));
        let start = self.emit(Step::NextKey(key, 0));
        let jumps = self.loop_body()?;
        self.land_all(jumps.continues);
        self.emit(Step::Jump(u32::try_from(start).unwrap_or(u32::MAX)));
        self.land_all(jumps.breaks);
        // At its end a loop jumps behind what leaves it early.
        self.emit(Step::EndKeys);
        self.land(start);
        Ok(())
    }

    /// A statement without what ends it.
    fn simple(&mut self) -> Result<(), Problem> {
        match self.peek().clone() {
            Token::Word("print") => self.print(),
            Token::Word("printf") => self.printf(),
            Token::Word("delete") => self.delete(),
            Token::Word(word @ ("break" | "continue")) => {
                self.at += 1;
                let jump = self.emit(Step::Jump(0));
                let Some(innermost) = self.loops.last_mut() else {
                    return Err(self.problem(format!("`{word}` outside a loop")));
                };
                if word == "break" {
                    innermost.breaks.push(jump);
                } else {
                    innermost.continues.push(jump);
                }
                Ok(())
            }
            Token::Word(word @ ("next" | "nextfile")) => {
                self.at += 1;
                if matches!(self.part, Part::Begin | Part::End) {
                    return Err(self.problem(format!("`{word}` outside a rule for records")));
                }
                let next = if word == "next" {
                    Step::Next
                } else {
                    Step::NextFile
                };
                self.emit(next);
                Ok(())
            }
            Token::Word("exit") => {
                self.at += 1;
                let given = !self.at_end();
                if given {
                    self.expression()?;
                }
                self.emit(Step::Exit(given));
                Ok(())
            }
            Token::Word("return") => {
                self.at += 1;
                if self.part != Part::Function {
                    return Err(self.problem("`return` outside a function"));
                }
                if self.at_end() {
                    let nothing = self.constant(Value::Unset);
                    self.emit(Step::Constant(nothing));
                } else {
                    self.expression()?;
                }
                self.emit(Step::Return);
                Ok(())
            }
            _ => {
                self.expression()?;
                self.emit(Step::Drop);
                Ok(())
            }
        }
    }

    fn at_end(&self) -> bool {
        matches!(
            self.peek(),
            Token::NewLine | Token::End | Token::Sign(";" | "}")
        )
    }

    fn delete(&mut self) -> Result<(), Problem> {
        self.at += 1;
        let Token::Name(array) = self.peek().clone() else {
            return Err(self.unexpected("an array is expected"));
        };
        self.at += 1;
        let array = self.slot(&array)?;
        if self.skip("[") {
            self.keys()?;
            self.emit(Step::Delete(array));
        } else {
            self.emit(Step::DeleteAll(array));
        }
        Ok(())
    }

    fn print(&mut self) -> Result<(), Problem> {
        self.at += 1;
        let count = self.printed()?;
        let target = self.target()?;
        self.emit(Step::Print(count, target));
        Ok(())
    }

    fn printf(&mut self) -> Result<(), Problem> {
        self.at += 1;
        let count = self.printed()?;
        if count == 0 {
            return Err(self.unexpected("a format is expected"));
        }
        let target = self.target()?;
        self.emit(Step::Printf(count, target));
        Ok(())
    }

    fn ends_print(&self, token: &Token, next: &Token) -> bool {
        match token {
            Token::NewLine | Token::End | Token::Sign(";" | "}" | ">" | ">>") => true,
            Token::Sign("|") => *next != Token::Word("getline"),
            _ => false,
        }
    }

    /// What is printed, which may stand in brackets; returns how many.
    fn printed(&mut self) -> Result<u32, Problem> {
        if self.ends_print(self.peek(), self.peek_at(1)) {
            return Ok(0);
        }
        let close = self.is("(").then(|| self.closing()).flatten();
        if let Some(close) = close
            && self.ends_print(self.peek_at(close + 1), self.peek_at(close + 2))
        {
            self.at += 1;
            return self.list(")");
        }
        let outer = std::mem::replace(&mut self.greater, Greater::Redirects);
        let mut count = 1;
        self.expression()?;
        while self.skip(",") {
            self.skip_lines();
            self.expression()?;
            count += 1;
        }
        self.greater = outer;
        Ok(count)
    }

    fn target(&mut self) -> Result<Target, Problem> {
        let target = match self.peek() {
            Token::Sign(">") => Target::File,
            Token::Sign(">>") => Target::Append,
            Token::Sign("|") => Target::Command,
            _ => return Ok(Target::Standard),
        };
        self.at += 1;
        let outer = std::mem::replace(&mut self.greater, Greater::Redirects);
        self.joined()?;
        self.greater = outer;
        Ok(target)
    }

    /// `getline`, after where it reads from.
    pub(super) fn getline(&mut self, source: LineSource) -> Result<(), Problem> {
        self.at += 1;
        let place = match self.peek() {
            Token::Name(_) | Token::Sign("$") => Some(self.place()?),
            _ => None,
        };
        let mut source = source;
        if source == LineSource::Main && self.skip("<") {
            self.operand()?;
            source = LineSource::File;
        }
        self.emit(Step::Getline(source));
        self.emit(place.map_or(Step::StoreRecord, Step::StoreLine));
        Ok(())
    }
}
