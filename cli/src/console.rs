//! What a person sees: container output and addresses on stdout, progress on stderr.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use ::console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

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
    let _ = writeln!(io::stderr(), "{head} {error:#}");
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
}

impl Console {
    /// Looks at the process's own streams.
    pub(crate) fn new() -> Self {
        Self {
            bars: io::stderr().is_terminal().then(MultiProgress::new),
            colour: Term::stdout().features().colors_supported(),
            text_only: cfg!(windows) && io::stdout().is_terminal(),
        }
    }

    /// Prints a line of progress on stderr.
    pub(crate) fn progress(&self, line: &str) {
        self.aside(|| {
            let _ = writeln!(io::stderr().lock(), "{line}");
        });
    }

    /// Prints lines on stdout. A reader that has gone away is not an error.
    pub(crate) fn output(&self, lines: &[u8]) {
        let lines = match self.text_only {
            true => Cow::Owned(String::from_utf8_lossy(lines).into_owned().into_bytes()),
            false => Cow::Borrowed(lines),
        };
        self.aside(|| {
            let mut stdout = io::stdout().lock();
            let _ = stdout.write_all(&lines).and_then(|()| stdout.flush());
        });
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

/// Shows pulls: a bar for each layer on a terminal, a line at begin and end elsewhere.
pub(crate) struct PullBars {
    console: Console,
    running: std::sync::Mutex<HashMap<String, ProgressBar>>,
}

impl PullBars {
    /// Draws on `console`.
    pub(crate) fn new(console: Console) -> Arc<Self> {
        Arc::new(Self {
            console,
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

impl coracle_registry::Progress for PullBars {
    fn started(&self, layer: &str, total: u64) {
        let Some(bars) = &self.console.bars else {
            self.console
                .progress(&format!("pulling {layer} ({total} bytes)"));
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
