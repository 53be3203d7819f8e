//! What records are read from: files, commands, standard input.

use std::io;
use std::rc::Rc;

use regex_lite::Regex;

use super::text;
use crate::reactor::Task;
use crate::stream::Handle;

/// A record may be this long.
const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How much is read at once where records end by an expression.
const CHUNK_BYTES: usize = 32 * 1024;

/// What ends a record.
#[derive(Clone)]
pub(super) enum Ending {
    Byte(u8),
    /// Lines that are empty.
    Paragraph,
    Expression(Rc<Regex>),
}

/// An open input.
pub(super) struct Reader {
    stream: Handle,
    /// The command that writes it.
    pub(super) task: Option<Rc<Task>>,
    /// What was read beyond a record that ended by an expression.
    ahead: Vec<u8>,
}

impl Reader {
    /// Reads from a stream, which a command may write.
    pub(super) fn new(stream: Handle, task: Option<Rc<Task>>) -> Self {
        Self {
            stream,
            task,
            ahead: Vec::new(),
        }
    }

    /// Whether a line can be taken without waiting.
    pub(super) fn has_line(&self) -> bool {
        self.ahead.contains(&b'\n') || self.stream.has_line()
    }

    /// The next record without its end.
    pub(super) async fn record(&mut self, ending: &Ending) -> io::Result<Option<String>> {
        let bytes = match ending {
            Ending::Byte(byte) => self.until(*byte).await?,
            Ending::Paragraph => self.paragraph().await?,
            Ending::Expression(expression) => return self.until_match(expression).await,
        };
        Ok(bytes.map(|bytes| text::decode(&bytes)))
    }

    async fn until(&mut self, end: u8) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = match self.ahead.iter().position(|byte| *byte == end) {
            Some(at) => self.ahead.drain(..=at).collect(),
            None => {
                let mut bytes = std::mem::take(&mut self.ahead);
                match self.stream.read_until(end).await? {
                    Some(more) => bytes.extend(more),
                    None if bytes.is_empty() => return Ok(None),
                    None => {}
                }
                bytes
            }
        };
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
        Ok(Some(bytes))
    }

    async fn paragraph(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut paragraph: Option<Vec<u8>> = None;
        while let Some(line) = self.until(b'\n').await? {
            match (&mut paragraph, line.is_empty()) {
                (None, true) => {}
                (None, false) => paragraph = Some(line),
                (Some(_), true) => break,
                (Some(paragraph), false) => {
                    paragraph.push(b'\n');
                    paragraph.extend(line);
                }
            }
            if paragraph
                .as_ref()
                .is_some_and(|bytes| bytes.len() > RECORD_BYTES_MAX)
            {
                return Err(io::Error::other("record too long"));
            }
        }
        Ok(paragraph)
    }

    async fn until_match(&mut self, expression: &Regex) -> io::Result<Option<String>> {
        let mut ended = false;
        loop {
            let text = text::decode(&self.ahead);
            let found = expression.find_iter(&text).find(|found| !found.is_empty());
            // What touches the end of what is there may go on behind it.
            if let Some(found) = found.filter(|found| ended || found.end() < text.len()) {
                let mut rest = Vec::new();
                text::encode(&text[found.end()..], &mut rest);
                self.ahead = rest;
                return Ok(Some(text[..found.start()].to_owned()));
            }
            if ended {
                self.ahead.clear();
                // The end of the last line ends the last record too.
                let text = text.strip_suffix('\n').unwrap_or(&text);
                return Ok((!text.is_empty()).then(|| text.to_owned()));
            }
            if self.ahead.len() > RECORD_BYTES_MAX {
                return Err(io::Error::other("record too long"));
            }
            let more = self.stream.read(CHUNK_BYTES).await?;
            ended = more.is_empty();
            self.ahead.extend(more);
        }
    }
}
