//! Opens what redirections name.

use std::io;

use super::syntax::{Operator, Redirect, Target, Word};
use super::{Flow, Shell};
use crate::applet;
use crate::stream::{Descriptors, Handle, Mode, Stream};

/// Why a redirection was not made.
pub(super) enum Refused {
    /// An expansion left the ordinary way.
    Flow(Flow),
    /// It failed, and that has been told.
    Told,
}

impl From<Flow> for Refused {
    fn from(flow: Flow) -> Self {
        Self::Flow(flow)
    }
}

impl Shell {
    /// Returns the shell's descriptors with the redirections made, each after the one before.
    pub(super) async fn redirected(
        &mut self,
        redirects: &[Redirect],
    ) -> Result<Descriptors, Refused> {
        let mut descriptors = self.descriptors.clone();
        for redirect in redirects {
            self.redirect(redirect, &mut descriptors).await?;
        }
        Ok(descriptors)
    }

    async fn redirect(
        &mut self,
        redirect: &Redirect,
        descriptors: &mut Descriptors,
    ) -> Result<(), Refused> {
        let number = redirect.descriptor;
        match &redirect.target {
            Target::File { operator, name } => {
                let name = self.expand_text(name).await?;
                let opened = self.open(&name, *operator, descriptors);
                let handle = self.opened(&name, *operator, opened).await?;
                descriptors.set(number, handle);
            }
            Target::Both { append, name } => {
                let name = self.expand_text(name).await?;
                let operator = if *append {
                    Operator::Append
                } else {
                    Operator::Write
                };
                let opened = self.open(&name, operator, descriptors);
                let handle = self.opened(&name, operator, opened).await?;
                descriptors.set(1, handle.clone());
                descriptors.set(2, handle);
            }
            Target::Copy(word) => self.copy(number, word, descriptors).await?,
            Target::Here(word) => {
                let word: Word = word.borrow().clone();
                let text = self.expand_text(&word).await?;
                descriptors.set(number, Stream::of_bytes(text.into_bytes()));
            }
            Target::HereString(word) => {
                let mut text = self.expand_text(word).await?;
                text.push('\n');
                descriptors.set(number, Stream::of_bytes(text.into_bytes()));
            }
        }
        Ok(())
    }

    async fn copy(
        &mut self,
        number: u32,
        word: &Word,
        descriptors: &mut Descriptors,
    ) -> Result<(), Refused> {
        let text = self.expand_text(word).await?;
        if text == "-" {
            descriptors.close(number);
            return Ok(());
        }
        let source = match text.parse::<u32>() {
            Ok(source) => descriptors.get(source),
            Err(_) => Err(io::Error::other("bad file descriptor")),
        };
        let handle = self.told(&text, source).await?;
        descriptors.set(number, handle);
        Ok(())
    }

    fn open(&self, name: &str, operator: Operator, open: &Descriptors) -> io::Result<Handle> {
        let number = match name {
            "/dev/stdin" => Some(0),
            "/dev/stdout" => Some(1),
            "/dev/stderr" => Some(2),
            name => name
                .strip_prefix("/dev/fd/")
                .and_then(|number| number.parse().ok()),
        };
        if let Some(number) = number {
            return open.get(number);
        }
        if name.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let path = self.folder.join(name);
        let mode = match operator {
            Operator::Read => Mode::Read,
            Operator::Write if self.switches.noclobber && path.is_file() => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Operator::Write | Operator::Clobber => Mode::Write,
            Operator::Append => Mode::Append,
            Operator::ReadWrite => Mode::ReadWrite,
        };
        Stream::open(&path, mode)
    }

    /// Tells of a file that was not opened in the words of busybox, which tests of others compare.
    async fn opened(
        &self,
        name: &str,
        operator: Operator,
        opened: io::Result<Handle>,
    ) -> Result<Handle, Refused> {
        let error = match opened {
            Ok(handle) => return Ok(handle),
            Err(error) => error,
        };
        let what = match operator {
            Operator::Read => "open",
            Operator::Write | Operator::Clobber | Operator::Append | Operator::ReadWrite => {
                "create"
            }
        };
        if let Ok(errors) = self.descriptors.get(2) {
            let why = applet::describe(&error);
            let line = format!("{}: can't {what} {name}: {why}\n", self.name);
            let _ = errors.write(line.as_bytes()).await;
        }
        Err(Refused::Told)
    }

    async fn told(&self, name: &str, opened: io::Result<Handle>) -> Result<Handle, Refused> {
        match opened {
            Ok(handle) => Ok(handle),
            Err(error) => {
                let text = format!("{name}: {}", applet::describe(&error));
                self.complain(&text).await;
                Err(Refused::Told)
            }
        }
    }
}
