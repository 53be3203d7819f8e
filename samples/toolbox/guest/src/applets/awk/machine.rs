//! Runs a compiled program: a loop over its steps, with values on a stack of its own, so that neither long
//! expressions nor deep calls take any of the instance's.
//!
//! - `control` jumps and calls;
//! - `variables` loads and assigns;
//! - `functions` are the ones that are built in;
//! - `reading` has records and `getline`.

mod control;
mod functions;
mod reading;
mod variables;

use std::collections::HashMap;
use std::rc::Rc;

use regex_lite::Regex;

use super::code::{Binary, Builtin, Code, Program, Step, Target};
use super::output::Streams;
use super::record::Record;
use super::value::Value;
use super::{format, text};
use crate::applet::{Context, Failure};
use crate::applets::regular::{self, Case, Dialect};
use crate::reactor;
use control::Cursor;
use variables::Settings;

/// After so many jumps and calls others in this instance are let go on.
const STEPS_TILL_OTHERS: u32 = 10_000;
/// A text that a program makes may be this long.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// So many expressions that were made while the program runs are kept compiled.
const EXPRESSIONS_MAX: usize = 64;

/// How a part of a program ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Finished,
    Next,
    NextFile,
    Exit,
}

/// A program that runs.
pub(super) struct Machine {
    program: Rc<Program>,
    pub(super) context: Context,
    stack: Vec<Value>,
    /// Where the arguments of the function that runs begin.
    base: usize,
    globals: Vec<Value>,
    /// The keys that loops have yet to see, the next one last.
    loops: Vec<Vec<Rc<str>>>,
    ranges: Vec<bool>,
    record: Record,
    settings: Settings,
    streams: Streams,
    main: reading::Main,
    /// What `getline` read last.
    read: Option<Rc<str>>,
    expressions: HashMap<Rc<str>, Rc<Regex>>,
    random: u64,
    seed: f64,
    steps: u32,
    /// The code that `exit` named.
    pub(super) code: i32,
}

/// A mistake of the program that runs.
fn mistake(text: impl Into<String>) -> Failure {
    Failure::usage(text)
}

impl Machine {
    /// A machine for a program in the place of a context.
    pub(super) fn new(program: Program, context: Context) -> Self {
        let globals = vec![Value::Unset; program.globals.len()];
        let mut machine = Self {
            ranges: vec![false; program.ranges as usize],
            program: Rc::new(program),
            context,
            stack: Vec::new(),
            base: 0,
            globals,
            loops: Vec::new(),
            record: Record::default(),
            settings: Settings::default(),
            streams: Streams::default(),
            main: reading::Main::default(),
            read: None,
            expressions: HashMap::new(),
            random: 0,
            seed: 0.0,
            steps: 0,
            code: 0,
        };
        machine.begin();
        machine
    }

    /// Runs the whole program and returns its code. What was written before a mistake comes out too.
    pub(super) async fn run(&mut self) -> Result<i32, Failure> {
        let ran = self.parts().await;
        let closed = self.streams.close_all(&self.context).await;
        match ran {
            // All mistakes have one code.
            Err(failure) if !failure.message().is_empty() => Err(mistake(failure.message())),
            Err(failure) => Err(failure),
            Ok(()) => closed.map(|()| self.code),
        }
    }

    async fn parts(&mut self) -> Result<(), Failure> {
        let program = Rc::clone(&self.program);
        let mut ended = self.part(&program.begin).await?;
        if ended != Ended::Exit && program.reads() {
            while ended != Ended::Exit && self.next_record().await? {
                ended = self.part(&program.rules).await?;
                if ended == Ended::NextFile {
                    self.main.leave_file();
                }
            }
        }
        self.part(&program.end).await?;
        Ok(())
    }

    /// Runs a part of the program.
    async fn part(&mut self, code: &Rc<Code>) -> Result<Ended, Failure> {
        self.stack.clear();
        self.loops.clear();
        self.base = 0;
        let mut cursor = Cursor::new(code);
        loop {
            if self.steps >= STEPS_TILL_OTHERS {
                self.steps = 0;
                reactor::yield_now().await;
            }
            let (step, line) = cursor.next();
            let outcome = match step {
                Step::Print(count, target) => self.print(count, target).await.map(|()| None),
                Step::Printf(count, target) => self.printf(count, target).await.map(|()| None),
                Step::Getline(source) => self.getline(source).await.map(|()| None),
                Step::Builtin(
                    builtin @ (Builtin::Close | Builtin::System | Builtin::Fflush),
                    arguments,
                ) => self.outside(builtin, arguments).await.map(|()| None),
                step => self.control(&mut cursor, step),
            };
            if let Some(ended) = outcome.map_err(|failure| placed(failure, line))? {
                return Ok(ended);
            }
        }
    }

    fn pop(&mut self) -> Value {
        self.stack.pop().unwrap_or(Value::Unset)
    }

    /// Takes values off the stack, the first one first.
    fn pop_all(&mut self, count: u32) -> Vec<Value> {
        let from = self.stack.len().saturating_sub(count as usize);
        self.stack.split_off(from)
    }

    fn pop_text(&mut self) -> Rc<str> {
        let value = self.pop();
        value.to_text(&self.settings.convfmt)
    }

    fn push_number(&mut self, value: f64) {
        self.stack.push(Value::Number(value));
    }

    /// A step that waits for nothing.
    fn step(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::Constant(constant) => {
                let value = self.program.constants[constant as usize].clone();
                self.stack.push(value);
            }
            Step::Load(place) => {
                let value = self.load(place)?;
                self.stack.push(value);
            }
            Step::LoadKept(place) => {
                let named = self.named(place);
                let value = self.load(place)?;
                self.stack.extend(named);
                self.stack.push(value);
            }
            Step::Store(place) => {
                let value = self.pop();
                self.store(place, value.clone())?;
                self.stack.push(value);
            }
            Step::Change(place, by) => {
                let new = self.change(place, by)? + by;
                self.push_number(new);
            }
            Step::ChangeAfter(place, by) => {
                let old = self.change(place, by)?;
                self.push_number(old);
            }
            Step::Argument(slot) => self.argument(slot)?,
            Step::Drop => drop(self.pop()),
            Step::Binary(operator) => self.binary(operator)?,
            Step::Negate => {
                let value = self.pop().number();
                self.push_number(-value);
            }
            Step::Plus => {
                let value = self.pop().number();
                self.push_number(value);
            }
            Step::Not => {
                let holds = self.pop().holds();
                self.stack.push(Value::truth(!holds));
            }
            Step::Truth => {
                let holds = self.pop().holds();
                self.stack.push(Value::truth(holds));
            }
            Step::MatchRecord(expression) => {
                let record = self.whole();
                let found = match &self.program.constants[expression as usize] {
                    Value::Regex(expression) => expression.is_match(&record),
                    _ => false,
                };
                self.stack.push(Value::truth(found));
            }
            Step::Match => {
                let expression = self.pop_expression()?;
                let found = expression.is_match(&self.pop_text());
                self.stack.push(Value::truth(found));
            }
            step => self.more(step)?,
        }
        Ok(())
    }

    /// The steps that have to do with arrays, functions and lines.
    fn more(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::JoinKeys(count) => {
                let keys = self.pop_all(count);
                let shape = &self.settings.convfmt;
                let keys: Vec<Rc<str>> = keys.iter().map(|key| key.to_text(shape)).collect();
                let joined = keys.join(&*self.settings.subsep);
                self.stack.push(Value::text(joined));
            }
            Step::Contains(slot) => {
                let array = self.array(slot)?;
                let found = array.elements.borrow().contains_key(&self.pop_text());
                self.stack.push(Value::truth(found));
            }
            Step::Delete(slot) => {
                let array = self.array(slot)?;
                array.elements.borrow_mut().remove(&self.pop_text());
            }
            Step::DeleteAll(slot) => self.array(slot)?.elements.borrow_mut().clear(),
            Step::SetRange(range, inside) => self.ranges[range as usize] = inside,
            Step::Keys(slot) => {
                let mut keys = self.array(slot)?.keys();
                keys.reverse();
                self.loops.push(keys);
            }
            Step::EndKeys => drop(self.loops.pop()),
            Step::Builtin(builtin, arguments) => self.builtin(builtin, arguments)?,
            Step::Length(slot) => self.length(slot)?,
            Step::Split(slot, separated) => self.split(slot, separated)?,
            Step::Substitute { all, place } => self.substitute(all, place)?,
            Step::StoreLine(place) => self.store_line(place)?,
            Step::StoreRecord => {
                if let Some(line) = self.read.take() {
                    self.record.set(line);
                }
            }
            // `control` and `part` do the others.
            _ => {}
        }
        Ok(())
    }

    fn binary(&mut self, operator: Binary) -> Result<(), Failure> {
        let right = self.pop();
        let left = self.pop();
        let numbers = || (left.number(), right.number());
        let value = match operator {
            Binary::Add => Value::Number(left.number() + right.number()),
            Binary::Subtract => Value::Number(left.number() - right.number()),
            Binary::Multiply => Value::Number(left.number() * right.number()),
            Binary::Divide | Binary::Modulo => {
                let (left, right) = numbers();
                if right == 0.0 {
                    return Err(mistake("division by zero"));
                }
                Value::Number(if operator == Binary::Divide {
                    left / right
                } else {
                    left % right
                })
            }
            Binary::Power => {
                let (left, right) = numbers();
                Value::Number(left.powf(right))
            }
            Binary::Concatenate => {
                let shape = &self.settings.convfmt;
                let (left, right) = (left.to_text(shape), right.to_text(shape));
                bounded(left.len() + right.len())?;
                Value::text([&*left, &*right].concat())
            }
            comparison => {
                let order = left.compare(&right, &self.settings.convfmt);
                Value::truth(order.map_or(
                    comparison == Binary::NotEqual,
                    |order| match comparison {
                        Binary::Less => order.is_lt(),
                        Binary::LessEqual => order.is_le(),
                        Binary::Equal => order.is_eq(),
                        Binary::NotEqual => order.is_ne(),
                        Binary::Greater => order.is_gt(),
                        _ => order.is_ge(),
                    },
                ))
            }
        };
        self.stack.push(value);
        Ok(())
    }

    /// Takes an expression off the stack, or compiles the text there.
    fn pop_expression(&mut self) -> Result<Rc<Regex>, Failure> {
        let value = self.pop();
        if let Value::Regex(expression) = value {
            return Ok(expression);
        }
        let text = value.to_text(&self.settings.convfmt);
        self.expression(text)
    }

    fn expression(&mut self, text: Rc<str>) -> Result<Rc<Regex>, Failure> {
        if let Some(expression) = self.expressions.get(&text) {
            return Ok(Rc::clone(expression));
        }
        if self.expressions.len() >= EXPRESSIONS_MAX {
            self.expressions.clear();
        }
        let expression = Rc::new(regular::compile(&text, Dialect::Awk, Case::Matters)?);
        self.expressions.insert(text, Rc::clone(&expression));
        Ok(expression)
    }

    async fn print(&mut self, count: u32, target: Target) -> Result<(), Failure> {
        let name = self.target(target);
        let mut bytes = Vec::new();
        if count == 0 {
            text::encode(&self.whole(), &mut bytes);
        }
        for (at, value) in self.pop_all(count).iter().enumerate() {
            if at > 0 {
                text::encode(&self.settings.ofs, &mut bytes);
            }
            text::encode(&value.to_text(&self.settings.ofmt), &mut bytes);
        }
        text::encode(&self.settings.ors, &mut bytes);
        self.write(target, &name, &bytes).await
    }

    async fn printf(&mut self, count: u32, target: Target) -> Result<(), Failure> {
        let name = self.target(target);
        let values = self.pop_all(count);
        let text = self.formatted(&values)?;
        let mut bytes = Vec::new();
        text::encode(&text, &mut bytes);
        self.write(target, &name, &bytes).await
    }

    fn formatted(&self, values: &[Value]) -> Result<String, Failure> {
        let Some((format, values)) = values.split_first() else {
            return Ok(String::new());
        };
        let shape = &self.settings.convfmt;
        let text = format::format(&format.to_text(shape), values, shape).map_err(mistake)?;
        bounded(text.len())?;
        Ok(text)
    }

    fn target(&mut self, target: Target) -> Rc<str> {
        match target {
            Target::Standard => Rc::from(""),
            Target::File | Target::Append | Target::Command => self.pop_text(),
        }
    }

    async fn write(&mut self, target: Target, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        if target == Target::Standard {
            return Ok(self.context.write(bytes).await?);
        }
        self.streams.write(&self.context, target, name, bytes).await
    }
}

/// Refuses a text that is too long.
fn bounded(length: usize) -> Result<(), Failure> {
    if length > TEXT_BYTES_MAX {
        return Err(mistake("a text is too long"));
    }
    Ok(())
}

/// Says on which line a mistake is.
fn placed(failure: Failure, line: u32) -> Failure {
    if failure.message().is_empty() {
        return failure;
    }
    mistake(format!("line {line}: {}", failure.message()))
}
