//! Gathers the fields that a word becomes. Each is a pattern in which quoted text is escaped.

use crate::pattern;

/// Whether what is expanded stands between double quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Quotes {
    Open,
    Double,
}

/// The fields of a word.
pub(super) struct Fields {
    /// What values are split at; `None` when they are not.
    separators: Option<String>,
    done: Vec<String>,
    current: String,
    /// Whether the current field is one even when empty.
    kept: bool,
    /// Whether the last value ended with a separator that is a blank, so that the next text begins a field.
    broken: bool,
}

impl Fields {
    /// Fields of values that are split at any of the characters.
    pub(super) fn splitting(separators: String) -> Self {
        Self::new(Some(separators))
    }

    /// A single field.
    pub(super) fn whole() -> Self {
        Self::new(None)
    }

    fn new(separators: Option<String>) -> Self {
        Self {
            separators,
            done: Vec::new(),
            current: String::new(),
            kept: false,
            broken: false,
        }
    }

    /// Adds text in which patterns count.
    pub(super) fn literal(&mut self, text: &str) {
        self.mend();
        self.current.push_str(text);
    }

    /// Adds text that means itself.
    pub(super) fn quoted(&mut self, text: &str) {
        self.mend();
        self.current.push_str(&pattern::escape(text));
        self.kept = true;
    }

    /// Quotes begin: there is a field even if they turn out empty, unless it is only `$@`.
    pub(super) fn begin_quotes(&mut self, empty: bool) {
        self.mend();
        if empty {
            self.kept = true;
        }
    }

    /// The current field is one even when empty.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    /// Ends the current field.
    pub(super) fn next(&mut self) {
        self.done.push(std::mem::take(&mut self.current));
        self.kept = false;
        self.broken = false;
    }

    /// Adds the value of an expansion.
    pub(super) fn value(&mut self, text: &str, quotes: Quotes) {
        if quotes == Quotes::Double {
            self.mend();
            self.current.push_str(&pattern::escape(text));
            self.kept = true;
            return;
        }
        let Some(separators) = self.separators.clone() else {
            self.current.push_str(&escape_backslashes(text));
            return;
        };
        for c in text.chars() {
            if !separators.contains(c) {
                self.mend();
                if c == '\\' {
                    self.current.push('\\');
                }
                self.current.push(c);
            } else if matches!(c, ' ' | '\t' | '\n') {
                if !self.current.is_empty() || self.kept {
                    self.broken = true;
                }
            } else {
                // Each of the others ends a field, also an empty one.
                self.next();
            }
        }
    }

    /// The fields.
    pub(super) fn finish(mut self) -> Vec<String> {
        let whole = self.separators.is_none();
        if !self.current.is_empty() || self.kept || whole {
            self.next();
        }
        self.done
    }

    fn mend(&mut self) {
        if self.broken {
            self.next();
        }
    }
}

/// Values keep their patterns, but not their backslashes.
fn escape_backslashes(text: &str) -> String {
    text.replace('\\', "\\\\")
}
