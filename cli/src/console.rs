//! What a person sees: container output and addresses on stdout, progress on stderr.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::console::Term;
use anyhow::Context;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::exit::Exit;

/// Returns whether stderr is a terminal that shows colour and `NO_COLOR` is not set. On Windows this
/// switches its console to colours, of which it otherwise prints the codes.
pub(crate) fn stderr_shows_colour() -> bool {
    Term::stderr().features().colors_supported()
}

/// Prints an error with its causes, once, on stderr.
pub(crate) fn print_error(error: &anyhow::Error) {
    let head = if stderr_shows_colour() {
        "\x1b[1;31merror:\x1b[0m"
    } else {
        "error:"
    };
    write_line(&mut io::stderr(), &format!("{head} {error:#}"));
}

/// Prints on stderr what is not as it was meant to be, though the command goes on.
pub(crate) fn print_warning(text: &str) {
    write_line(&mut io::stderr(), &format!("warning: {text}"));
}

/// Prints on stdout. A reader that has gone away is not an error.
///
/// # Errors
///
/// Fails where the text cannot be written, as on a full disk.
pub(crate) fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    forgive_reader(stdout.write_all(text).and_then(|()| stdout.flush()))
        .context("failed to write to standard output")
}

/// Writes a line by one call: stderr has no buffer, and where stdout goes to the same place, lines of
/// containers would come between a line and its end.
fn write_line(to: &mut impl Write, line: &str) {
    // There is no other place where it could be told.
    let _ = to.write_all(format!("{line}\n").as_bytes());
}

/// Whoever reads only the beginning, as `head` does, has what it wants.
pub(crate) fn forgive_reader(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes lines so that they never tear a progress bar apart. Clones share the terminal.
#[derive(Clone)]
pub(crate) struct Console {
    /// Bars, when stderr is a terminal.
    bars: Option<MultiProgress>,
    /// The colours of pods' names are for a terminal on stdout.
    colour: bool,
    /// Windows' console takes text only, and nothing of a write that has other bytes in it.
    text_only: bool,
    /// Set once lines for stdout could not be written.
    has_lost: Arc<AtomicBool>,
}

impl Console {
    /// Looks at the process's own streams.
    pub(crate) fn new() -> Self {
        Self {
            bars: io::stderr().is_terminal().then(MultiProgress::new),
            colour: Term::stdout().features().colors_supported(),
            text_only: cfg!(windows) && io::stdout().is_terminal(),
            has_lost: Arc::default(),
        }
    }

    /// Prints a line of progress on stderr.
    pub(crate) fn progress(&self, line: &str) {
        self.aside(|| write_line(&mut io::stderr().lock(), line));
    }

    /// Prints lines on stdout. A reader that has gone away is not an error; any other is told once, and
    /// counts at the [end](Self::outcome).
    pub(crate) fn output(&self, lines: &[u8]) {
        let lines = match self.text_only {
            true => Cow::Owned(String::from_utf8_lossy(lines).into_owned().into_bytes()),
            false => Cow::Borrowed(lines),
        };
        self.aside(|| self.note_written(print(&lines)));
    }

    /// Returns how a command ends that would end with `exit`: one whose output is lost has not succeeded.
    pub(crate) fn outcome(&self, exit: Exit) -> Exit {
        match exit {
            Exit::Success if self.has_lost.load(Ordering::Relaxed) => Exit::Refused,
            exit => exit,
        }
    }

    fn note_written(&self, written: anyhow::Result<()>) {
        if let Err(error) = written
            && !self.has_lost.swap(true, Ordering::Relaxed)
        {
            print_error(&error);
        }
    }

    /// Returns a name as it stands before a container's line, in a colour of its own on a terminal.
    pub(crate) fn paint(&self, name: &str) -> String {
        if !self.colour {
            return name.to_owned();
        }
        let sum = name.bytes().fold(0u32, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        format!("\x1b[3{}m{name}\x1b[0m", 1 + sum % 6)
    }

    fn aside(&self, print: impl FnOnce()) {
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }
}

/// What happens to layers, as a line about one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    Pulling,
    Pushing,
    Loading,
}

/// Shows layers on their way: a bar for each on a terminal, a line at the beginning elsewhere.
pub(crate) struct LayerBars {
    console: Console,
    doing: Doing,
    running: std::sync::Mutex<HashMap<String, ProgressBar>>,
}

impl Doing {
    fn line(self, layer: &str, bytes: u64) -> String {
        let verb = match self {
            Self::Pulling => "pulling",
            Self::Pushing => "pushing",
            Self::Loading => "loading",
        };
        format!("{verb} {layer} ({bytes} bytes)")
    }
}

impl LayerBars {
    /// Draws on `console`.
    pub(crate) fn new(console: Console, doing: Doing) -> Arc<Self> {
        Arc::new(Self {
            console,
            doing,
            running: std::sync::Mutex::default(),
        })
    }

    fn with_running(&self, change: impl FnOnce(&mut HashMap<String, ProgressBar>)) {
        // A thread that panicked while drawing leaves the map whole: every change is one call.
        let mut running = self
            .running
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut running);
    }
}

impl coracle_registry::Progress for LayerBars {
    fn started(&self, layer: &str, total: u64) {
        let Some(bars) = &self.console.bars else {
            self.console.progress(&self.doing.line(layer, total));
            return;
        };
        let bar = bars.add(ProgressBar::new(total).with_style(bar_style()));
        bar.set_prefix(layer.chars().take(19).collect::<String>());
        self.with_running(|running| {
            running.insert(layer.to_owned(), bar);
        });
    }

    fn advanced(&self, layer: &str, bytes: u64) {
        self.with_running(|running| {
            if let Some(bar) = running.get(layer) {
                bar.inc(bytes);
            }
        });
    }

    fn finished(&self, layer: &str) {
        self.with_running(|running| {
            if let Some(bar) = running.remove(layer) {
                bar.finish_and_clear();
            }
        });
    }

    fn retrying(&self, what: &str, wait: Duration) {
        self.console.progress(&format!(
            "{what}; trying again in {:.1} s",
            wait.as_secs_f64()
        ));
    }
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:19} {bar:30} {bytes:>10}/{total_bytes:10} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps each write apart.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_write_with_its_end() {
        let mut writes = Writes::default();
        write_line(&mut writes, "a line");
        assert_eq!(writes.0, [b"a line\n"]);
    }

    #[test]
    fn lost_output_is_no_success_and_a_reader_that_is_gone_loses_nothing() {
        let console = Console::new();
        let gone = forgive_reader(Err(ErrorKind::BrokenPipe.into()));
        console.note_written(gone.map_err(Into::into));
        assert_eq!(console.outcome(Exit::Success), Exit::Success);
        let full = forgive_reader(Err(ErrorKind::StorageFull.into()));
        console.clone().note_written(full.map_err(Into::into));
        assert_eq!(console.outcome(Exit::Success), Exit::Refused);
        assert_eq!(console.outcome(Exit::Container(3)), Exit::Container(3));
    }

    #[test]
    fn a_layer_is_told_with_what_happens_to_it() {
        for (doing, expected) in [
            (Doing::Pulling, "pulling sha256:00 (5 bytes)"),
            (Doing::Pushing, "pushing sha256:00 (5 bytes)"),
            (Doing::Loading, "loading sha256:00 (5 bytes)"),
        ] {
            assert_eq!(doing.line("sha256:00", 5), expected);
        }
    }
}
