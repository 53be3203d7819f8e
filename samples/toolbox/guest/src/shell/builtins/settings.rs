//! `set`, `export`, `readonly`, `local`, `unset`: variables and switches.

use std::rc::Rc;

use super::super::parser::is_name;
use super::super::variables::Which;
use super::super::{Ran, Shell, Switches};
use crate::applet::Failure;

/// The switches that `set -o` names, with their letters where they have one.
const NAMED: &[(&str, Option<char>)] = &[
    ("allexport", Some('a')),
    ("errexit", Some('e')),
    ("noglob", Some('f')),
    ("interactive", Some('i')),
    ("noexec", Some('n')),
    ("nounset", Some('u')),
    ("verbose", Some('v')),
    ("xtrace", Some('x')),
    ("noclobber", Some('C')),
    ("pipefail", None),
];

impl Switches {
    fn named(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "allexport" => &mut self.allexport,
            "errexit" => &mut self.errexit,
            "noglob" => &mut self.noglob,
            "interactive" => &mut self.interactive,
            "noexec" => &mut self.noexec,
            "nounset" => &mut self.nounset,
            "verbose" => &mut self.verbose,
            "xtrace" => &mut self.xtrace,
            "noclobber" => &mut self.noclobber,
            "pipefail" => &mut self.pipefail,
            _ => return None,
        })
    }

    /// Turns a switch on or off by its letter.
    pub(in super::super) fn set(&mut self, letter: char, on: bool) -> Result<(), Failure> {
        // Job control and history are accepted and mean nothing here.
        if matches!(letter, 'm' | 'b' | 'h') {
            return Ok(());
        }
        let known = NAMED.iter().find(|(_, known)| *known == Some(letter));
        match known.and_then(|(name, _)| self.named(name)) {
            Some(switch) => *switch = on,
            None => return Err(Failure::usage(format!("illegal option -{letter}"))),
        }
        Ok(())
    }

    /// Turns a switch on or off by its name.
    pub(in super::super) fn set_named(&mut self, name: &str, on: bool) -> Result<(), Failure> {
        match self.named(name) {
            Some(switch) => *switch = on,
            None if matches!(name, "posix" | "monitor" | "emacs" | "vi" | "nolog") => {}
            None => return Err(Failure::usage(format!("illegal option -o {name}"))),
        }
        Ok(())
    }

    /// The letters of what is on, as `$-`.
    pub(in super::super) fn letters(mut self) -> String {
        let on = NAMED
            .iter()
            .filter(|(name, _)| self.named(name).is_some_and(|on| *on));
        on.filter_map(|(_, letter)| *letter).collect()
    }

    fn listing(mut self) -> String {
        let line = |(name, _): &(&str, Option<char>)| {
            let on = self.named(name).is_some_and(|on| *on);
            format!("{name:<16}{}\n", if on { "on" } else { "off" })
        };
        NAMED.iter().map(line).collect()
    }
}

impl Shell {
    pub(super) async fn set(&mut self, arguments: &[String]) -> Ran {
        if arguments.is_empty() {
            let lines: String = self
                .variables
                .listing(Which::Set)
                .into_iter()
                .map(|(name, value)| format!("{name}={}\n", quoted(&value.unwrap_or_default())))
                .collect();
            return self.print(&lines).await;
        }
        let mut words = arguments.iter().peekable();
        let mut positional = false;
        while let Some(word) = words.next_if(|word| word.starts_with(['-', '+'])) {
            let on = word.starts_with('-');
            if word == "--" {
                positional = true;
                break;
            }
            for letter in word.chars().skip(1) {
                let done = match letter {
                    'o' => match words.next() {
                        Some(name) => self.switches.set_named(name, on),
                        None => return self.print(&self.switches.listing()).await,
                    },
                    letter => self.switches.set(letter, on),
                };
                if let Err(failure) = done {
                    let text = format!("set: {}", failure.message());
                    return Err(self.fail(&text).await);
                }
            }
        }
        if positional || words.peek().is_some() {
            self.positional = Rc::new(words.cloned().collect());
        }
        Ok(0)
    }

    pub(super) async fn export(&mut self, arguments: &[String]) -> Ran {
        let (arguments, exported) = match arguments {
            [first, rest @ ..] if first == "-n" => (rest, false),
            arguments => (arguments, true),
        };
        if matches!(arguments, [] | [_] if arguments.first().is_none_or(|word| word == "-p")) {
            return self.list_variables("export", Which::Exported).await;
        }
        for word in arguments {
            let Some(name) = self.declare("export", word).await? else {
                return Ok(1);
            };
            self.variables.export(&name, exported);
        }
        Ok(0)
    }

    pub(super) async fn readonly(&mut self, arguments: &[String]) -> Ran {
        if matches!(arguments, [] | [_] if arguments.first().is_none_or(|word| word == "-p")) {
            return self.list_variables("readonly", Which::ReadOnly).await;
        }
        for word in arguments {
            let Some(name) = self.declare("readonly", word).await? else {
                return Ok(1);
            };
            self.variables.protect(&name);
        }
        Ok(0)
    }

    pub(super) async fn local(&mut self, arguments: &[String]) -> Ran {
        if self.variables.levels() == 0 {
            return Err(self.fail("local: not in a function").await);
        }
        for word in arguments {
            let name = word.split('=').next().unwrap_or_default();
            self.variables.localize(name);
            if self.declare("local", word).await?.is_none() {
                return Ok(1);
            }
        }
        Ok(0)
    }

    pub(super) async fn unset(&mut self, arguments: &[String]) -> Ran {
        let (functions, names) = match arguments {
            [first, rest @ ..] if first == "-f" => (true, rest),
            [first, rest @ ..] if first == "-v" => (false, rest),
            names => (false, names),
        };
        for name in names {
            if functions {
                Rc::make_mut(&mut self.functions).remove(name);
            } else if let Err(error) = self.variables.unset(name) {
                return Err(self.fail(&format!("unset: {error}")).await);
            }
        }
        Ok(0)
    }

    /// Takes `name` or `name=value`, and sets the variable; `None` when it is no name.
    async fn declare(
        &mut self,
        builtin: &str,
        word: &str,
    ) -> Result<Option<String>, super::super::Flow> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word, None),
        };
        if !is_name(name) {
            let text = format!("{builtin}: {name}: bad variable name");
            return Err(self.fail(&text).await);
        }
        if let Some(value) = value {
            self.assign(name, value).await?;
        }
        Ok(Some(name.to_owned()))
    }

    async fn list_variables(&self, word: &str, which: Which) -> Ran {
        let line = |(name, value): (String, Option<String>)| match value {
            Some(value) => format!("{word} {name}={}\n", quoted(&value)),
            None => format!("{word} {name}\n"),
        };
        let lines: String = self
            .variables
            .listing(which)
            .into_iter()
            .map(line)
            .collect();
        self.print(&lines).await
    }
}

/// In quotes, as listings have all values.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
