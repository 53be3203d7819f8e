//! Records of the main input, `getline`, and what runs commands or closes them.

use std::rc::Rc;

use super::{Machine, mistake};
use crate::applet::Failure;
use crate::applets::awk::code::{Builtin, LineSource, Place, special};
use crate::applets::awk::input::Reader;
use crate::applets::awk::output::Kind;
use crate::applets::awk::value::Value;

/// Where the main input stands.
#[derive(Default)]
pub(super) struct Main {
    reader: Option<Reader>,
    /// The next of `ARGV`.
    word: u32,
    /// Whether a file was among them.
    named: bool,
    ended: bool,
}

impl Main {
    /// Goes on with the next file.
    pub(super) fn leave_file(&mut self) {
        self.reader = None;
    }
}

impl Machine {
    /// Reads the next record of the main input as `$0`; says whether there was one.
    pub(super) async fn next_record(&mut self) -> Result<bool, Failure> {
        let Some(record) = self.main_record().await? else {
            return Ok(false);
        };
        self.record.set(record);
        Ok(true)
    }

    async fn main_record(&mut self) -> Result<Option<Rc<str>>, Failure> {
        loop {
            if self.main.reader.is_none() && !self.open_next()? {
                return Ok(None);
            }
            let Some(reader) = self.main.reader.as_mut() else {
                return Ok(None);
            };
            if !reader.has_line() {
                self.streams.flush(&self.context).await?;
            }
            let record = reader.record(&self.settings.ending).await;
            if let Some(record) = record.map_err(|error| mistake(error.to_string()))? {
                self.settings.nr += 1.0;
                self.settings.fnr += 1.0;
                return Ok(Some(record.into()));
            }
            self.main.reader = None;
        }
    }

    /// Opens the next file that the words name, or standard input when they name none.
    fn open_next(&mut self) -> Result<bool, Failure> {
        if self.main.ended {
            return Ok(false);
        }
        loop {
            self.main.word += 1;
            let count = self.globals[special::ARGC as usize].number();
            if f64::from(self.main.word) >= count {
                self.main.ended = true;
                if self.main.named {
                    return Ok(false);
                }
                self.open_main("-")?;
                return Ok(true);
            }
            let word = match &self.globals[special::ARGV as usize] {
                Value::Array(array) => {
                    let key: Rc<str> = self.main.word.to_string().into();
                    let elements = array.elements.borrow();
                    let word = elements.get(&key).cloned();
                    word.map(|word| word.to_text(&self.settings.convfmt))
                }
                _ => None,
            };
            let Some(word) = word.filter(|word| !word.is_empty()) else {
                continue;
            };
            if self.assign_word(&word)? {
                continue;
            }
            self.main.named = true;
            self.open_main(&word)?;
            return Ok(true);
        }
    }

    fn open_main(&mut self, name: &str) -> Result<(), Failure> {
        let stream = self.context.open(name)?;
        self.main.reader = Some(Reader::new(stream, None));
        self.settings.fnr = 0.0;
        let shown = if self.main.named { name } else { "" };
        self.globals[special::FILENAME as usize] = Value::text(shown);
        Ok(())
    }

    /// Reads a line and puts 1, 0 at the end, or -1 on the stack.
    pub(super) async fn getline(&mut self, source: LineSource) -> Result<(), Failure> {
        let read = match source {
            LineSource::Main => Ok(self.main_record().await?),
            LineSource::File | LineSource::Command => {
                let name = self.pop_text();
                let kind = match source {
                    LineSource::Command => Kind::Command,
                    LineSource::Main | LineSource::File => Kind::File,
                };
                match self.streams.input(&self.context, kind, &name).await? {
                    Some(reader) => {
                        let record = reader.record(&self.settings.ending).await;
                        record.map(|record| record.map(Rc::from))
                    }
                    None => Err(std::io::ErrorKind::NotFound.into()),
                }
            }
        };
        let status = match read {
            Ok(Some(line)) => {
                self.read = Some(line);
                1.0
            }
            Ok(None) => 0.0,
            Err(_) => -1.0,
        };
        self.push_number(status);
        Ok(())
    }

    /// Assigns what was read; the result of `getline` stays on the stack.
    pub(super) fn store_line(&mut self, place: Place) -> Result<(), Failure> {
        let status = self.pop();
        match self.read.take() {
            Some(line) => self.store(place, Value::Input(line))?,
            None if matches!(place, Place::Variable(_)) => {}
            None => drop(self.pop()),
        }
        self.stack.push(status);
        Ok(())
    }

    /// `system`, `close` and `fflush`.
    pub(super) async fn outside(
        &mut self,
        builtin: Builtin,
        arguments: u32,
    ) -> Result<(), Failure> {
        let name = if arguments > 0 {
            self.pop_text()
        } else {
            Rc::from("")
        };
        let code = match builtin {
            Builtin::Close => self.streams.close(&self.context, &name).await?,
            Builtin::System => {
                self.streams.flush(&self.context).await?;
                let words = ["sh", "-c", &name].map(str::to_owned).to_vec();
                let child = self.context.child(words);
                self.context.run_child(child).await?
            }
            _ => {
                self.streams.flush(&self.context).await?;
                0
            }
        };
        self.push_number(f64::from(code));
        Ok(())
    }
}
