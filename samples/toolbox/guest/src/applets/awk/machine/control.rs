//! Jumps, loops over keys, and calls.

use std::rc::Rc;

use super::{Ended, Machine, mistake};
use crate::applet::Failure;
use crate::applets::awk::code::{Code, Step};
use crate::applets::awk::value::Value;

/// Calls may be nested this deep: each takes about 100 bytes beside its arguments.
const CALLS_MAX: usize = 10_000;

/// Where a part of a program stands.
pub(super) struct Cursor {
    code: Rc<Code>,
    at: usize,
    /// The calls that are not over.
    frames: Vec<Frame>,
}

/// Where a call goes on when it is over.
struct Frame {
    code: Rc<Code>,
    at: usize,
    /// Where the arguments of the caller begin on the stack.
    base: usize,
    /// How many loops over keys the caller was within.
    loops: usize,
}

impl Cursor {
    /// At the begin of some code.
    pub(super) fn new(code: &Rc<Code>) -> Self {
        Self {
            code: Rc::clone(code),
            at: 0,
            frames: Vec::new(),
        }
    }

    /// The next step and its line. The last step of all code ends it, so there is always one.
    pub(super) fn next(&mut self) -> (Step, u32) {
        let found = (self.code.steps[self.at], self.code.lines[self.at]);
        self.at += 1;
        found
    }

    fn jump(&mut self, to: u32) {
        self.at = to as usize;
    }
}

impl Machine {
    /// A step that may lead elsewhere, or any other that waits for nothing.
    pub(super) fn control(
        &mut self,
        cursor: &mut Cursor,
        step: Step,
    ) -> Result<Option<Ended>, Failure> {
        match step {
            Step::Jump(to) => {
                cursor.jump(to);
                self.steps += 1;
            }
            Step::JumpIfFalse(to) => {
                if !self.pop().holds() {
                    cursor.jump(to);
                }
            }
            Step::JumpIfTrue(to) => {
                if self.pop().holds() {
                    cursor.jump(to);
                }
            }
            Step::JumpInRange(range, to) => {
                if self.ranges[range as usize] {
                    cursor.jump(to);
                }
            }
            Step::NextKey(place, to) => match self.loops.last_mut().and_then(Vec::pop) {
                Some(key) => self.store(place, Value::Text(key))?,
                None => {
                    self.loops.pop();
                    cursor.jump(to);
                }
            },
            Step::Call(function, arguments) => self.call(cursor, function, arguments)?,
            Step::Return => self.leave(cursor),
            Step::Next => return Ok(Some(Ended::Next)),
            Step::NextFile => return Ok(Some(Ended::NextFile)),
            Step::Exit(given) => {
                if given {
                    self.code = (self.pop().number() as i64 & 0xff) as i32;
                }
                return Ok(Some(Ended::Exit));
            }
            Step::End => return Ok(Some(Ended::Finished)),
            step => self.step(step)?,
        }
        Ok(None)
    }

    fn call(&mut self, cursor: &mut Cursor, function: u32, arguments: u32) -> Result<(), Failure> {
        let called = &self.program.functions[function as usize];
        if cursor.frames.len() >= CALLS_MAX {
            let text = format!("calls of `{}` are nested too deep", called.name);
            return Err(mistake(text));
        }
        let inner = Rc::clone(&called.code);
        let missing = called.parameters.saturating_sub(arguments);
        cursor.frames.push(Frame {
            code: std::mem::replace(&mut cursor.code, inner),
            at: std::mem::take(&mut cursor.at),
            base: self.base,
            loops: self.loops.len(),
        });
        self.base = self.stack.len() - arguments as usize;
        let missing = std::iter::repeat_n(Value::Unset, missing as usize);
        self.stack.extend(missing);
        self.steps += 1;
        Ok(())
    }

    fn leave(&mut self, cursor: &mut Cursor) {
        let value = self.pop();
        self.stack.truncate(self.base);
        self.stack.push(value);
        if let Some(frame) = cursor.frames.pop() {
            (cursor.code, cursor.at, self.base) = (frame.code, frame.at, frame.base);
            self.loops.truncate(frame.loops);
        }
    }
}
