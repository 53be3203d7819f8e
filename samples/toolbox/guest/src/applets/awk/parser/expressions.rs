//! Expressions, by how tightly their operators bind.

use super::{Greater, Parser, Problem};
use crate::applets::awk::code::{Binary, LineSource, Place, Slot, Step};
use crate::applets::awk::lexer::Token;
use crate::applets::awk::value::Value;
use crate::applets::regular::{self, Case, Dialect};

/// How tightly operators bind, loosest first.
mod level {
    pub(super) const OR: u8 = 0;
    pub(super) const AND: u8 = 1;
    pub(super) const IN: u8 = 2;
    pub(super) const MATCH: u8 = 3;
    pub(super) const COMPARE: u8 = 4;
    pub(super) const PIPE: u8 = 5;
    pub(super) const JOIN: u8 = 6;
    pub(super) const ADD: u8 = 7;
    pub(super) const MULTIPLY: u8 = 8;
}

/// What an operator between two operands does.
enum Operator {
    Or,
    And,
    In,
    Match,
    MatchNot,
    Pipe,
    /// No sign: the next operand begins.
    Join,
    Computes(Binary),
}

impl Parser {
    /// An expression, with `? :` and assignments.
    pub(super) fn expression(&mut self) -> Result<(), Problem> {
        self.nested()?;
        let mut ends = Vec::new();
        self.binary(level::OR)?;
        while self.skip("?") {
            self.skip_lines();
            let other = self.emit(Step::JumpIfFalse(0));
            self.expression()?;
            ends.push(self.emit(Step::Jump(0)));
            self.skip_lines();
            self.expect(":")?;
            self.skip_lines();
            self.land(other);
            self.binary(level::OR)?;
        }
        for end in ends {
            self.land(end);
        }
        self.nesting -= 1;
        Ok(())
    }

    /// Texts one after the other, without comparisons.
    pub(super) fn joined(&mut self) -> Result<(), Problem> {
        self.binary(level::JOIN)
    }

    fn operator(&self) -> Option<(u8, Operator)> {
        let found = match self.peek() {
            Token::Sign("||") => (level::OR, Operator::Or),
            Token::Sign("&&") => (level::AND, Operator::And),
            Token::Word("in") => (level::IN, Operator::In),
            Token::Sign("~") => (level::MATCH, Operator::Match),
            Token::Sign("!~") => (level::MATCH, Operator::MatchNot),
            Token::Sign("<") => (level::COMPARE, Operator::Computes(Binary::Less)),
            Token::Sign("<=") => (level::COMPARE, Operator::Computes(Binary::LessEqual)),
            Token::Sign("==") => (level::COMPARE, Operator::Computes(Binary::Equal)),
            Token::Sign("!=") => (level::COMPARE, Operator::Computes(Binary::NotEqual)),
            Token::Sign(">=") => (level::COMPARE, Operator::Computes(Binary::GreaterEqual)),
            Token::Sign(">") if self.greater == Greater::Compares => {
                (level::COMPARE, Operator::Computes(Binary::Greater))
            }
            Token::Sign("|") if *self.peek_at(1) == Token::Word("getline") => {
                (level::PIPE, Operator::Pipe)
            }
            Token::Sign("+") => (level::ADD, Operator::Computes(Binary::Add)),
            Token::Sign("-") => (level::ADD, Operator::Computes(Binary::Subtract)),
            Token::Sign("*") => (level::MULTIPLY, Operator::Computes(Binary::Multiply)),
            Token::Sign("/") => (level::MULTIPLY, Operator::Computes(Binary::Divide)),
            Token::Sign("%") => (level::MULTIPLY, Operator::Computes(Binary::Modulo)),
            Token::Number(_) | Token::Text(_) | Token::Regex(_) | Token::Name(_) => {
                (level::JOIN, Operator::Join)
            }
            Token::Call(_) | Token::Builtin(_) | Token::Sign("$" | "(" | "!" | "++" | "--") => {
                (level::JOIN, Operator::Join)
            }
            _ => return None,
        };
        Some(found)
    }

    fn binary(&mut self, least: u8) -> Result<(), Problem> {
        self.unary()?;
        while let Some((binds, operator)) = self.operator() {
            if binds < least {
                break;
            }
            if !matches!(operator, Operator::Join | Operator::Pipe) {
                self.at += 1;
            }
            match operator {
                Operator::Or => self.short(Step::JumpIfTrue(0), binds)?,
                Operator::And => self.short(Step::JumpIfFalse(0), binds)?,
                Operator::In => {
                    let array = self.array()?;
                    self.emit(Step::Contains(array));
                }
                Operator::Match => self.matching(binds + 1)?,
                Operator::MatchNot => {
                    self.matching(binds + 1)?;
                    self.emit(Step::Not);
                }
                Operator::Pipe => {
                    self.at += 1;
                    self.getline(LineSource::Command)?;
                }
                Operator::Join => {
                    self.binary(binds + 1)?;
                    self.emit(Step::Binary(Binary::Concatenate));
                }
                Operator::Computes(operator) => {
                    self.binary(binds + 1)?;
                    self.emit(Step::Binary(operator));
                }
            }
        }
        Ok(())
    }

    /// `&&` and `||`: the second operand counts only when the first does not decide.
    fn short(&mut self, decided: Step, binds: u8) -> Result<(), Problem> {
        self.skip_lines();
        let outcome = matches!(decided, Step::JumpIfTrue(_));
        let over = self.emit(decided);
        self.binary(binds + 1)?;
        self.emit(Step::Truth);
        let end = self.emit(Step::Jump(0));
        self.land(over);
        let outcome = self.constant(Value::truth(outcome));
        self.emit(Step::Constant(outcome));
        self.land(end);
        Ok(())
    }

    fn matching(&mut self, least: u8) -> Result<(), Problem> {
        self.pattern(|parser| parser.binary(least))?;
        self.emit(Step::Match);
        Ok(())
    }

    /// An operand that is used as an expression: one between slashes is itself, and is not matched.
    pub(super) fn pattern(
        &mut self,
        operand: impl FnOnce(&mut Self) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let start = self.code.steps.len();
        operand(self)?;
        if let [Step::MatchRecord(expression)] = self.code.steps[start..] {
            self.code.steps[start] = Step::Constant(expression);
        }
        Ok(())
    }

    fn unary(&mut self) -> Result<(), Problem> {
        self.nested()?;
        let step = match self.peek() {
            Token::Sign("!") => Some(Step::Not),
            Token::Sign("-") => Some(Step::Negate),
            Token::Sign("+") => Some(Step::Plus),
            _ => None,
        };
        if let Some(step) = step {
            self.at += 1;
            self.unary()?;
            self.emit(step);
        } else {
            self.changed()?;
            if self.skip("^") {
                self.unary()?;
                self.emit(Step::Binary(Binary::Power));
            }
        }
        self.nesting -= 1;
        Ok(())
    }

    /// An operand with what changes it: `++`, `--`, an assignment.
    fn changed(&mut self) -> Result<(), Problem> {
        if let Some(by) = self.step_by() {
            self.at += 1;
            let place = self.place()?;
            self.emit(Step::Change(place, by));
            return Ok(());
        }
        if !matches!(self.peek(), Token::Name(_) | Token::Sign("$")) {
            return self.operand();
        }
        let place = self.place()?;
        if let Some(by) = self.step_by() {
            self.at += 1;
            self.emit(Step::ChangeAfter(place, by));
            return Ok(());
        }
        let computes = match self.peek() {
            Token::Sign("=") => None,
            Token::Sign("+=") => Some(Binary::Add),
            Token::Sign("-=") => Some(Binary::Subtract),
            Token::Sign("*=") => Some(Binary::Multiply),
            Token::Sign("/=") => Some(Binary::Divide),
            Token::Sign("%=") => Some(Binary::Modulo),
            Token::Sign("^=") => Some(Binary::Power),
            _ => {
                self.emit(Step::Load(place));
                return Ok(());
            }
        };
        self.at += 1;
        self.skip_lines();
        if computes.is_some() {
            self.emit(Step::LoadKept(place));
        }
        self.expression()?;
        if let Some(operator) = computes {
            self.emit(Step::Binary(operator));
        }
        self.emit(Step::Store(place));
        Ok(())
    }

    fn step_by(&self) -> Option<f64> {
        match self.peek() {
            Token::Sign("++") => Some(1.0),
            Token::Sign("--") => Some(-1.0),
            _ => None,
        }
    }

    /// What can be assigned to.
    pub(super) fn place(&mut self) -> Result<Place, Problem> {
        self.nested()?;
        let place = match self.peek().clone() {
            Token::Name(name) => {
                self.at += 1;
                let slot = self.slot(&name)?;
                if self.skip("[") {
                    self.keys()?;
                    Place::Element(slot)
                } else {
                    Place::Variable(slot)
                }
            }
            Token::Sign("$") => {
                self.at += 1;
                match self.peek() {
                    Token::Sign("++" | "--") => self.changed()?,
                    Token::Sign("-" | "+" | "!") => self.unary()?,
                    _ => self.operand()?,
                }
                Place::Field
            }
            _ => return Err(self.unexpected("a variable is expected")),
        };
        self.nesting -= 1;
        Ok(place)
    }

    /// The keys of an element, up to the bracket.
    pub(super) fn keys(&mut self) -> Result<(), Problem> {
        let count = self.list("]")?;
        if count == 0 {
            return Err(self.problem("syntax error: a key is expected"));
        }
        if count > 1 {
            self.emit(Step::JoinKeys(count));
        }
        Ok(())
    }

    /// Expressions up to a bracket; returns how many.
    pub(super) fn list(&mut self, close: &str) -> Result<u32, Problem> {
        let outer = std::mem::take(&mut self.greater);
        let mut count = 0;
        self.skip_lines();
        while !self.skip(close) {
            if count > 0 {
                self.expect(",")?;
                self.skip_lines();
            }
            self.expression()?;
            self.skip_lines();
            count += 1;
        }
        self.greater = outer;
        Ok(count)
    }

    pub(super) fn array(&mut self) -> Result<Slot, Problem> {
        let Token::Name(name) = self.peek().clone() else {
            return Err(self.unexpected("an array is expected"));
        };
        self.at += 1;
        self.slot(&name)
    }

    /// An operand without any operator.
    pub(super) fn operand(&mut self) -> Result<(), Problem> {
        match self.peek().clone() {
            Token::Number(value) => self.literal(Value::Number(value)),
            Token::Text(text) => self.literal(Value::text(text)),
            Token::Regex(text) => {
                self.at += 1;
                let compiled = regular::compile(&text, Dialect::Awk, Case::Matters);
                let compiled = compiled.map_err(|failure| self.problem(failure.message()))?;
                let expression = self.constant(Value::Regex(compiled.into()));
                self.emit(Step::MatchRecord(expression));
                Ok(())
            }
            Token::Name(_) | Token::Sign("$") => {
                let place = self.place()?;
                self.emit(Step::Load(place));
                Ok(())
            }
            Token::Sign("(") => self.bracketed(),
            Token::Call(name) => self.call(&name),
            Token::Builtin(builtin) => {
                self.at += 1;
                self.builtin(builtin)
            }
            Token::Word("getline") => self.getline(LineSource::Main),
            Token::Sign("-" | "+" | "!") => self.unary(),
            _ => Err(self.unexpected("an expression is expected")),
        }
    }

    fn literal(&mut self, value: Value) -> Result<(), Problem> {
        self.at += 1;
        let constant = self.constant(value);
        self.emit(Step::Constant(constant));
        Ok(())
    }

    /// How far the bracket is that closes the one here.
    pub(super) fn closing(&self) -> Option<usize> {
        let mut depth = 0_usize;
        for (ahead, (token, _)) in self.tokens[self.at..].iter().enumerate() {
            match token {
                Token::Sign("(") => depth += 1,
                Token::Sign(")") => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(ahead);
                    }
                }
                Token::Sign("{" | "}" | ";") | Token::End => return None,
                _ => {}
            }
        }
        None
    }

    /// `( … )`, or `(i, j) in array`.
    fn bracketed(&mut self) -> Result<(), Problem> {
        let close = self.closing();
        self.at += 1;
        let keys = close.is_some_and(|close| *self.peek_at(close) == Token::Word("in"));
        let count = self.list(")")?;
        match count {
            1 => Ok(()),
            0 => Err(self.problem("syntax error: an expression is expected")),
            count if keys => {
                self.emit(Step::JoinKeys(count));
                self.at += 1;
                let array = self.array()?;
                self.emit(Step::Contains(array));
                Ok(())
            }
            _ => Err(self.unexpected("`in` is expected")),
        }
    }
}
