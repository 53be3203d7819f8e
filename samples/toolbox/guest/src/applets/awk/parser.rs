//! Compiles a program as it is read: rules and functions here, then `statements`, `expressions`
//! and `calls`.
//!
//! There is no tree between: a chain of operators or of `else if` takes no stack however long it is, and
//! what is nested is counted.

mod calls;
mod expressions;
mod statements;

use std::collections::BTreeMap;
use std::rc::Rc;

use super::Problem;
use super::code::{Code, Function, Program, Slot, Step, Target, special};
use super::lexer::{self, Placed, Token};
use super::value::Value;

/// Statements, brackets and signs before operands may be nested this deep. A pair of brackets counts twice,
/// and takes less than 1 KiB of the stack, of which the deepest shell leaves about 200 KiB.
const NESTING_MAX: u32 = 200;

/// Compiles a program.
pub(super) fn compile(text: &str) -> Result<Program, Problem> {
    let mut parser = Parser {
        tokens: lexer::tokens(text)?,
        globals: (0..)
            .zip(special::NAMES)
            .map(|(slot, name)| ((*name).to_owned(), slot))
            .collect(),
        ..Parser::default()
    };
    parser.program()?;
    parser.finish()
}

/// What the steps that are compiled now belong to.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Part {
    #[default]
    Begin,
    Rules,
    End,
    Function,
}

/// What `>` means.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Greater {
    #[default]
    Compares,
    Redirects,
}

/// A function that was called or defined.
#[derive(Default)]
struct Declared {
    name: String,
    parameters: u32,
    code: Option<Rc<Code>>,
}

/// A loop that is being compiled: the jumps that leave it and that begin it again.
#[derive(Default)]
struct Loop {
    breaks: Vec<usize>,
    continues: Vec<usize>,
}

#[derive(Default)]
struct Parser {
    tokens: Vec<Placed>,
    at: usize,
    code: Code,
    parts: [Code; 3],
    part: Part,
    functions: Vec<Declared>,
    numbers: BTreeMap<String, u32>,
    calls: Vec<(u32, u32, u32)>,
    globals: BTreeMap<String, u32>,
    locals: Vec<String>,
    constants: Vec<Value>,
    loops: Vec<Loop>,
    nesting: u32,
    ranges: u32,
    greater: Greater,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens
            .get(self.at)
            .map_or(&Token::End, |(token, _)| token)
    }

    fn peek_at(&self, ahead: usize) -> &Token {
        let token = self.tokens.get(self.at + ahead);
        token.map_or(&Token::End, |(token, _)| token)
    }

    fn line(&self) -> u32 {
        let last = self
            .tokens
            .get(self.at.min(self.tokens.len().saturating_sub(1)));
        last.map_or(1, |(_, line)| *line)
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(found) if *found == sign)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(found) if *found == word)
    }

    fn skip(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        self.at += usize::from(found);
        found
    }

    fn skip_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn skip_lines(&mut self) {
        while *self.peek() == Token::NewLine {
            self.at += 1;
        }
    }

    fn skip_ends(&mut self) {
        while *self.peek() == Token::NewLine || self.is(";") {
            self.at += 1;
        }
    }

    fn expect(&mut self, sign: &str) -> Result<(), Problem> {
        if self.skip(sign) {
            return Ok(());
        }
        Err(self.unexpected(&format!("`{sign}` is expected")))
    }

    fn problem(&self, text: impl Into<String>) -> Problem {
        Problem::new(self.line(), text)
    }

    fn unexpected(&self, wanted: &str) -> Problem {
        let found = match self.peek() {
            Token::Number(number) => format!("`{number}`"),
            Token::Text(text) => format!("\"{text}\""),
            Token::Regex(text) => format!("`/{text}/`"),
            Token::Name(name) | Token::Call(name) => format!("`{name}`"),
            Token::Builtin(builtin) => format!("`{}`", builtin.about().0),
            Token::Word(word) | Token::Sign(word) => format!("`{word}`"),
            Token::NewLine => "the end of the line".to_owned(),
            Token::End => "the end".to_owned(),
        };
        self.problem(format!("syntax error: {found} where {wanted}"))
    }

    fn nested(&mut self) -> Result<(), Problem> {
        self.nesting += 1;
        if self.nesting > NESTING_MAX {
            return Err(self.problem(format!("nested more than {NESTING_MAX} deep")));
        }
        Ok(())
    }

    fn emit(&mut self, step: Step) -> usize {
        let line = self
            .tokens
            .get(self.at.saturating_sub(1))
            .map_or(1, |(_, line)| *line);
        self.code.steps.push(step);
        self.code.lines.push(line);
        self.code.steps.len() - 1
    }

    fn here(&self) -> u32 {
        u32::try_from(self.code.steps.len()).unwrap_or(u32::MAX)
    }

    /// Lets a jump lead to what comes next.
    fn land(&mut self, jump: usize) {
        let here = self.here();
        match &mut self.code.steps[jump] {
            Step::Jump(to) | Step::JumpIfFalse(to) | Step::JumpIfTrue(to) => *to = here,
            Step::JumpInRange(_, to) | Step::NextKey(_, to) => *to = here,
            _ => {}
        }
    }

    fn constant(&mut self, value: Value) -> u32 {
        self.constants.push(value);
        u32::try_from(self.constants.len() - 1).unwrap_or(u32::MAX)
    }

    /// The slot of a variable.
    fn slot(&mut self, name: &str) -> Result<Slot, Problem> {
        if let Some(local) = self.locals.iter().position(|local| local == name) {
            return Ok(Slot::Local(u32::try_from(local).unwrap_or(u32::MAX)));
        }
        if self.numbers.contains_key(name) {
            return Err(self.problem(format!("the function `{name}` is used as a variable")));
        }
        let next = u32::try_from(self.globals.len()).unwrap_or(u32::MAX);
        let global = *self.globals.entry(name.to_owned()).or_insert(next);
        Ok(Slot::Global(global))
    }

    fn function_number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.functions.len()).unwrap_or(u32::MAX);
        self.functions.push(Declared {
            name: name.to_owned(),
            ..Declared::default()
        });
        self.numbers.insert(name.to_owned(), number);
        number
    }

    fn program(&mut self) -> Result<(), Problem> {
        loop {
            self.skip_ends();
            match self.peek() {
                Token::End => return Ok(()),
                Token::Word("function") => self.function()?,
                Token::Word("BEGIN") => self.begin_or_end(Part::Begin)?,
                Token::Word("END") => self.begin_or_end(Part::End)?,
                _ => self.rule()?,
            }
            if !matches!(self.peek(), Token::NewLine | Token::Sign(";")) && !self.after_block() {
                return Err(self.unexpected("the end of a rule is expected"));
            }
        }
    }

    fn after_block(&self) -> bool {
        let before = self.at.checked_sub(1).and_then(|at| self.tokens.get(at));
        matches!(before, Some((Token::Sign("}"), _)))
    }

    fn begin_or_end(&mut self, part: Part) -> Result<(), Problem> {
        self.at += 1;
        if !self.is("{") {
            return Err(self.unexpected("`{` is expected"));
        }
        self.within(part, Self::block)
    }

    /// Compiles into a part of the program.
    fn within(
        &mut self,
        part: Part,
        compile: impl FnOnce(&mut Self) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        self.part = part;
        let at = part as usize;
        self.code = std::mem::take(&mut self.parts[at]);
        compile(self)?;
        self.parts[at] = std::mem::take(&mut self.code);
        Ok(())
    }

    fn rule(&mut self) -> Result<(), Problem> {
        self.within(Part::Rules, |parser| {
            let mut over = None;
            if parser.is_range() {
                over = Some(parser.range()?);
            } else if !parser.is("{") {
                parser.expression()?;
                over = Some(parser.emit(Step::JumpIfFalse(0)));
            }
            if parser.is("{") {
                parser.block()?;
            } else {
                parser.emit(Step::Print(0, Target::Standard));
            }
            if let Some(over) = over {
                parser.land(over);
            }
            Ok(())
        })
    }

    /// Whether the pattern that begins here has two parts.
    fn is_range(&self) -> bool {
        let mut depth = 0_u32;
        let mut continues = false;
        for (token, _) in &self.tokens[self.at..] {
            match token {
                Token::Sign("(" | "[") => depth += 1,
                Token::Sign(")" | "]") => depth = depth.saturating_sub(1),
                Token::Sign(",") if depth == 0 => return true,
                Token::Sign("{" | ";") | Token::End => return false,
                Token::NewLine if depth == 0 && !continues => return false,
                _ => {}
            }
            continues = matches!(token, Token::Sign("&&" | "||"))
                || (continues && *token == Token::NewLine);
        }
        false
    }

    /// A range; returns the jump of the records outside.
    fn range(&mut self) -> Result<usize, Problem> {
        let range = self.ranges;
        self.ranges += 1;
        let inside = self.emit(Step::JumpInRange(range, 0));
        self.expression()?;
        let over = self.emit(Step::JumpIfFalse(0));
        self.emit(Step::SetRange(range, true));
        self.expect(",")?;
        self.skip_lines();
        self.land(inside);
        self.expression()?;
        let stays = self.emit(Step::JumpIfFalse(0));
        self.emit(Step::SetRange(range, false));
        self.land(stays);
        Ok(over)
    }

    fn function(&mut self) -> Result<(), Problem> {
        self.at += 1;
        let name = match self.peek().clone() {
            Token::Name(name) | Token::Call(name) => name,
            _ => return Err(self.unexpected("the name of a function is expected")),
        };
        if self.globals.contains_key(&name) {
            return Err(self.problem(format!("`{name}` is a variable")));
        }
        let number = self.function_number(&name) as usize;
        if self.functions[number].code.is_some() {
            return Err(self.problem(format!("the function `{name}` is there already")));
        }
        self.at += 1;
        self.expect("(")?;
        self.skip_lines();
        while !self.skip(")") {
            let Token::Name(parameter) = self.peek().clone() else {
                return Err(self.unexpected("a parameter is expected"));
            };
            if self.locals.contains(&parameter) || parameter == name {
                return Err(self.problem(format!("the parameter `{parameter}` is there already")));
            }
            self.locals.push(parameter);
            self.at += 1;
            self.skip_lines();
            if !self.is(")") {
                self.expect(",")?;
                self.skip_lines();
            }
        }
        self.skip_lines();
        self.functions[number].parameters = u32::try_from(self.locals.len()).unwrap_or(u32::MAX);
        self.part = Part::Function;
        self.code = Code::default();
        self.block()?;
        let nothing = self.constant(Value::Unset);
        self.emit(Step::Constant(nothing));
        self.emit(Step::Return);
        self.functions[number].code = Some(Rc::new(std::mem::take(&mut self.code)));
        self.locals.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<Program, Problem> {
        for (number, arguments, line) in &self.calls {
            let called = &self.functions[*number as usize];
            let name = &called.name;
            if called.code.is_none() {
                return Err(Problem::new(
                    *line,
                    format!("there is no function `{name}`"),
                ));
            }
            if *arguments > called.parameters {
                let text = format!("too many arguments for the function `{name}`");
                return Err(Problem::new(*line, text));
            }
        }
        let mut parts = std::mem::take(&mut self.parts).map(|mut code| {
            code.steps.push(Step::End);
            code.lines.push(0);
            Rc::new(code)
        });
        let mut part = |part: Part| std::mem::take(&mut parts[part as usize]);
        Ok(Program {
            begin: part(Part::Begin),
            rules: part(Part::Rules),
            end: part(Part::End),
            functions: self
                .functions
                .into_iter()
                .map(|declared| Function {
                    name: declared.name,
                    parameters: declared.parameters,
                    code: declared.code.unwrap_or_default(),
                })
                .collect(),
            constants: self.constants,
            globals: self.globals,
            ranges: self.ranges,
        })
    }
}
