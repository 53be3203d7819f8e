//! The line discipline of a terminal: echo, editing, Ctrl-C, Ctrl-\ and Ctrl-D.
//!
//! The client of `kubectl exec -it` sends every key as it is pressed and shows only what it is sent, and
//! between it and us there is no kernel to do the rest.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;

use crate::{platform, reactor};

/// Lines that the arrows bring back.
const HISTORY_LINES_MAX: usize = 200;
/// How much is read at once.
const CHUNK_BYTES: usize = 1024;
/// A line that is edited may be this long.
const LINE_BYTES_MAX: usize = 4096;

thread_local! {
    static TERMINAL: Terminal = Terminal::default();
}

#[derive(Default)]
struct Terminal {
    keys: RefCell<VecDeque<u8>>,
    ended: Cell<bool>,
    /// How often something was read.
    reads: Cell<u32>,
    /// Interactive shells that run now, each started by the one before.
    shells: Cell<u32>,
    history: RefCell<Vec<String>>,
}

/// What the editor of a line came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line without its end.
    Entered(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D in an empty line, or the client is gone.
    Ended,
}

/// Bytes as a terminal shows them: a new line also returns the carriage.
pub(crate) fn rendered(bytes: &[u8]) -> Vec<u8> {
    let mut rendered = Vec::with_capacity(bytes.len() + 16);
    for byte in bytes {
        if *byte == b'\n' {
            rendered.push(b'\r');
        }
        rendered.push(*byte);
    }
    rendered
}

/// Reads a line for a program, which gets it with its end; nothing is the end.
pub(crate) async fn read() -> io::Result<Vec<u8>> {
    match edit("", Remember::No).await? {
        Line::Entered(line) => Ok(format!("{line}\n").into_bytes()),
        Line::Interrupted | Line::Ended => Ok(Vec::new()),
    }
}

/// A key that ends what runs, as a terminal on Linux turns it into a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-\.
    Quit,
}

impl Signal {
    fn of(key: u8) -> Option<Self> {
        match key {
            3 => Some(Self::Interrupt),
            0x1c => Some(Self::Quit),
            _ => None,
        }
    }

    fn echo(self) -> &'static [u8] {
        match self {
            Self::Interrupt => b"^C\r\n",
            Self::Quit => b"^\\\r\n",
        }
    }

    /// The exit code of what it ends: 128 and the number of the signal.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Interrupt => 130,
            Self::Quit => 131,
        }
    }
}

/// Who is in front of the terminal: the keys that end something end what this one runs, until an
/// interactive shell within that takes its place. Dropping it gives the place back.
pub(crate) struct Foreground {
    level: u32,
    is_shell: bool,
}

impl Foreground {
    /// The program that this instance was started as.
    pub(crate) fn of_program() -> Self {
        Self {
            level: 0,
            is_shell: false,
        }
    }

    /// An interactive shell.
    pub(crate) fn of_shell() -> Self {
        let level = TERMINAL.with(|terminal| {
            terminal.shells.set(terminal.shells.get() + 1);
            terminal.shells.get()
        });
        Self {
            level,
            is_shell: true,
        }
    }

    /// Runs a program until it ends, or a key ends it. Other keys are kept for who reads next.
    pub(crate) async fn run<T>(&self, program: impl Future<Output = T>) -> Result<T, Signal> {
        let hit = Cell::new(Signal::Interrupt);
        let hearing = async { hit.set(self.signal().await) };
        let ended = reactor::unless(program, hearing).await;
        ended.ok_or(hit.get())
    }

    async fn signal(&self) -> Signal {
        loop {
            let is_front = |terminal: &Terminal| terminal.shells.get() == self.level;
            reactor::wait_until_some(|| TERMINAL.with(is_front).then_some(())).await;
            let (signal, ended) = TERMINAL.with(|terminal| {
                let signal = take_signal(&mut terminal.keys.borrow_mut());
                (signal, terminal.ended.get())
            });
            if let Some(signal) = signal {
                let _ = platform::write_stdout(signal.echo()).await;
                return signal;
            }
            if ended {
                return std::future::pending().await;
            }
            fetch().await;
        }
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if self.is_shell {
            TERMINAL.with(|terminal| terminal.shells.set(self.level - 1));
            reactor::progressed();
        }
    }
}

/// Finds a key that ends something, and gives up what was typed before it.
fn take_signal(keys: &mut VecDeque<u8>) -> Option<Signal> {
    let mut signals = keys.iter().enumerate();
    let (position, signal) = signals.find_map(|(at, key)| Some((at, Signal::of(*key)?)))?;
    keys.drain(..=position);
    Some(signal)
}

/// Whether lines are kept for the arrows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remember {
    Yes,
    No,
}

/// Shows a prompt and lets a line be edited.
pub(crate) async fn edit(prompt: &str, remember: Remember) -> io::Result<Line> {
    platform::write_stdout(prompt.as_bytes()).await?;
    let past = match remember {
        Remember::Yes => TERMINAL.with(|terminal| terminal.history.borrow().clone()),
        Remember::No => Vec::new(),
    };
    let mut editor = Editor::new(prompt, past);
    loop {
        let Some(key) = next_key().await else {
            return Ok(Line::Ended);
        };
        if remember == Remember::No && Signal::of(key).is_some() {
            // It ends this program; who runs it knows how.
            TERMINAL.with(|terminal| terminal.keys.borrow_mut().push_front(key));
            reactor::progressed();
            return std::future::pending().await;
        }
        let step = editor.press(key);
        platform::write_stdout(&editor.take_output()).await?;
        let Some(line) = step else { continue };
        if let (Line::Entered(line), Remember::Yes) = (&line, remember) {
            remember_line(line);
        }
        return Ok(line);
    }
}

fn remember_line(line: &str) {
    TERMINAL.with(|terminal| {
        let mut history = terminal.history.borrow_mut();
        if !line.trim().is_empty() && history.last().is_none_or(|last| last != line) {
            if history.len() == HISTORY_LINES_MAX {
                history.remove(0);
            }
            history.push(line.to_owned());
        }
    });
}

async fn next_key() -> Option<u8> {
    loop {
        let (key, ended) = TERMINAL.with(|terminal| {
            let key = terminal.keys.borrow_mut().pop_front();
            (key, terminal.ended.get())
        });
        if key.is_some() || ended {
            return key;
        }
        fetch().await;
    }
}

/// Reads what was typed. Of two who wait, one reads and both go on.
async fn fetch() {
    let reads = || TERMINAL.with(|terminal| terminal.reads.get());
    let before = reads();
    let another = reactor::wait_until_some(|| (reads() != before).then_some(()));
    let Some(bytes) = reactor::unless(platform::read_stdin(CHUNK_BYTES), another).await else {
        return;
    };
    let bytes = bytes.unwrap_or_default();
    TERMINAL.with(|terminal| {
        terminal.reads.set(before.wrapping_add(1));
        if bytes.is_empty() {
            terminal.ended.set(true);
        }
        terminal.keys.borrow_mut().extend(bytes);
    });
    reactor::progressed();
}

/// A line while it is edited: takes keys, gives what the terminal is to show.
struct Editor {
    prompt: String,
    line: Vec<char>,
    cursor: usize,
    /// Bytes of a character or of an escape sequence that is not complete.
    partial: Vec<u8>,
    past: Vec<String>,
    /// Which line of the past is shown; its length means the new one.
    at: usize,
    output: Vec<u8>,
}

impl Editor {
    fn new(prompt: &str, past: Vec<String>) -> Self {
        Self {
            prompt: prompt.to_owned(),
            line: Vec::new(),
            cursor: 0,
            partial: Vec::new(),
            at: past.len(),
            past,
            output: Vec::new(),
        }
    }

    fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    fn press(&mut self, key: u8) -> Option<Line> {
        if !self.partial.is_empty() {
            self.partial.push(key);
            self.complete();
            return None;
        }
        match key {
            b'\r' | b'\n' => {
                self.output.extend_from_slice(b"\r\n");
                return Some(Line::Entered(self.line.iter().collect()));
            }
            3 => {
                self.output.extend_from_slice(b"^C\r\n");
                return Some(Line::Interrupted);
            }
            4 if self.line.is_empty() => return Some(Line::Ended),
            1 => self.cursor = 0,
            5 => self.cursor = self.line.len(),
            8 | 127 if self.cursor > 0 => {
                self.cursor -= 1;
                self.line.remove(self.cursor);
            }
            11 => self.line.truncate(self.cursor),
            12 => self.output.extend_from_slice(b"\x1b[H\x1b[2J"),
            21 => {
                self.line.drain(..self.cursor);
                self.cursor = 0;
            }
            23 => self.erase_word(),
            0x1b | 0x80.. => {
                self.partial.push(key);
                return None;
            }
            b' '..=b'~' => {
                self.insert(char::from(key));
                return None;
            }
            _ => return None,
        }
        self.redraw();
        None
    }

    /// Looks whether the partial sequence is complete, and does what it says.
    fn complete(&mut self) {
        if self.partial[0] != 0x1b {
            if let Ok(text) = std::str::from_utf8(&self.partial) {
                let typed: Vec<char> = text.chars().collect();
                self.partial.clear();
                typed.into_iter().for_each(|c| self.insert(c));
            } else if self.partial.len() >= 4 {
                self.partial.clear();
            }
            return;
        }
        match self.partial.as_slice() {
            [_] | [_, b'[' | b'O'] | [_, b'[', b'0'..=b'9'] => return,
            [_, _, b'A'] => self.recall(self.at.saturating_sub(1)),
            [_, _, b'B'] => self.recall(self.at + 1),
            [_, _, b'C'] => self.cursor = (self.cursor + 1).min(self.line.len()),
            [_, _, b'D'] => self.cursor = self.cursor.saturating_sub(1),
            [_, _, b'H'] => self.cursor = 0,
            [_, _, b'F'] => self.cursor = self.line.len(),
            [_, _, b'3', b'~'] if self.cursor < self.line.len() => {
                self.line.remove(self.cursor);
            }
            _ => {}
        }
        self.partial.clear();
        self.redraw();
    }

    fn insert(&mut self, typed: char) {
        if self.line.len() >= LINE_BYTES_MAX {
            return;
        }
        self.line.insert(self.cursor, typed);
        self.cursor += 1;
        if self.cursor == self.line.len() {
            let mut bytes = [0; 4];
            let bytes = typed.encode_utf8(&mut bytes).as_bytes();
            self.output.extend_from_slice(bytes);
        } else {
            self.redraw();
        }
    }

    fn erase_word(&mut self) {
        let start = self.cursor;
        while self.cursor > 0 && self.line[self.cursor - 1] == ' ' {
            self.cursor -= 1;
        }
        while self.cursor > 0 && self.line[self.cursor - 1] != ' ' {
            self.cursor -= 1;
        }
        self.line.drain(self.cursor..start);
    }

    fn recall(&mut self, index: usize) {
        self.at = index.min(self.past.len());
        let line = self.past.get(self.at).map_or("", String::as_str);
        self.line = line.chars().collect();
        self.cursor = self.line.len();
    }

    /// Draws the line anew and puts the cursor where it belongs.
    fn redraw(&mut self) {
        let line: String = self.line.iter().collect();
        let behind = self.line.len() - self.cursor;
        let back = match behind {
            0 => String::new(),
            columns => format!("\x1b[{columns}D"),
        };
        let drawn = format!("\r{}{line}\x1b[K{back}", self.prompt);
        self.output.extend_from_slice(drawn.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &str, expected: Line) {
        let mut editor = Editor::new("$ ", vec!["first".to_owned(), "second".to_owned()]);
        let mut last = None;
        for key in keys.bytes() {
            last = editor.press(key);
        }
        assert_eq!(last, Some(expected), "for {keys:?}");
    }

    fn entered(line: &str) -> Line {
        Line::Entered(line.to_owned())
    }

    #[test]
    fn keys_edit_the_line() {
        check("ls -l\r", entered("ls -l"));
        check("lx\x7fs\r", entered("ls"));
        check("a b c\x17d\r", entered("a b d"));
        check("wrong\x15right\r", entered("right"));
        check("grün\x7f\r", entered("grü"));
        check("ab\x1b[D\x1b[Dx\r", entered("xab"));
        check("ab\x01x\x05y\r", entered("xaby"));
        check("ab\x1b[D\x1b[3~\r", entered("a"));
    }

    #[test]
    fn arrows_bring_lines_back() {
        check("\x1b[A\r", entered("second"));
        check("\x1b[A\x1b[A\r", entered("first"));
        check("\x1b[A\x1b[A\x1b[B\r", entered("second"));
        check("\x1b[A\x1b[B\r", entered(""));
    }

    #[test]
    fn control_keys_interrupt_and_end() {
        check("abc\x03", Line::Interrupted);
        check("\x04", Line::Ended);
    }

    #[test]
    fn a_key_that_ends_something_gives_up_what_was_typed_before() {
        for (typed, signal, rest) in [
            ("a\x03b", Some(Signal::Interrupt), "b"),
            ("\x1c\x03", Some(Signal::Quit), "\x03"),
            ("a\x1ab\x04", None, "a\x1ab\x04"),
        ] {
            let mut keys = typed.bytes().collect();
            assert_eq!(take_signal(&mut keys), signal, "for {typed:?}");
            assert_eq!(Vec::from(keys), rest.as_bytes(), "for {typed:?}");
        }
    }

    /// Types `keys` while a program runs that ends once it was polled so often.
    fn run_at(foreground: &Foreground, keys: &str) -> Result<(), Signal> {
        TERMINAL.with(|terminal| {
            terminal.keys.borrow_mut().extend(keys.bytes());
            terminal.ended.set(true);
        });
        reactor::run(foreground.run(reactor::yield_now()))
    }

    #[test]
    fn keys_end_what_the_innermost_interactive_shell_runs() {
        let program = Foreground::of_program();
        assert_eq!(run_at(&program, "x"), Ok(()));
        assert_eq!(run_at(&program, "\x03"), Err(Signal::Interrupt));
        let shell = Foreground::of_shell();
        let inner = Foreground::of_shell();
        assert_eq!(run_at(&program, "\x1c"), Ok(()));
        assert_eq!(run_at(&shell, ""), Ok(()));
        assert_eq!(run_at(&inner, ""), Err(Signal::Quit));
        drop(inner);
        assert_eq!(run_at(&shell, "\x03"), Err(Signal::Interrupt));
    }
}
