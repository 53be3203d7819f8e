//! The shell at a terminal: a prompt, line after line, Ctrl-C and Ctrl-\ for what takes too long.

use super::parser::{self, Parser};
use super::{Flow, Ran, Shell};
use crate::stream::Handle;
use crate::terminal::{self, Foreground, Line, Remember, Signal};

impl Shell {
    /// Runs what is entered until `exit` or the end of the input, and returns the code.
    pub(super) async fn interact(mut self, input: &Handle) -> i32 {
        self.switches.interactive = true;
        let terminal = input.is_terminal().then(Foreground::of_shell);
        loop {
            let text = match self.enter_command(input).await {
                Entered::Text(text) => text,
                Entered::Nothing => continue,
                Entered::End => break,
            };
            let before = self.clone();
            let running = self.run_entered(&text);
            let ran = match &terminal {
                Some(terminal) => terminal.run(running).await,
                None => Ok(running.await),
            };
            match ran {
                Ok(Ok(code)) => self.status = code,
                Ok(Err(Flow::Exit(code))) => return self.finish(Err(Flow::Exit(code))).await,
                Ok(Err(Flow::Fatal(code) | Flow::Return(code))) => {
                    self.unwind(before);
                    self.status = code;
                }
                Ok(Err(Flow::Break(_) | Flow::Continue(_))) => self.unwind(before),
                Err(signal) => {
                    self.unwind(before);
                    self.status = signal.code();
                }
            }
        }
        let status = self.status;
        self.finish(Ok(status)).await
    }

    /// Takes back what a command that was left half-way had changed for its time, and keeps the rest.
    fn unwind(&mut self, before: Self) {
        let functions = std::mem::take(&mut self.functions);
        let (jobs, last_job) = (std::mem::take(&mut self.jobs), self.last_job);
        *self = Self {
            functions,
            jobs,
            last_job,
            folder: self.folder.clone(),
            ..before
        };
    }

    async fn run_entered(&mut self, text: &str) -> Ran {
        self.line = 0;
        let mut parser = Parser::new(text);
        let mut status = self.status;
        loop {
            match parser.next_line() {
                Ok(Some(list)) => status = self.run_list(&list).await?,
                Ok(None) => return Ok(status),
                Err(error) => {
                    self.line = 0;
                    self.complain(&format!("syntax error: {error}")).await;
                    return Ok(2);
                }
            }
        }
    }

    /// Takes lines until they are a complete command.
    async fn enter_command(&mut self, input: &Handle) -> Entered {
        let mut text = String::new();
        loop {
            let name = if text.is_empty() { "PS1" } else { "PS2" };
            let prompt = self.prompt(name);
            let line = if input.is_terminal() {
                terminal::edit(&prompt, Remember::Yes).await
            } else {
                self.plain_line(&prompt, input).await
            };
            match line {
                Ok(Line::Entered(line)) => {
                    text.push_str(&line);
                    text.push('\n');
                }
                Ok(Line::Interrupted) => {
                    self.status = Signal::Interrupt.code();
                    return Entered::Nothing;
                }
                Ok(Line::Ended) | Err(_) => return Entered::End,
            }
            if !parser::is_incomplete(&text) {
                return Entered::Text(text);
            }
        }
    }

    /// `sh -i` without a terminal: prompts on standard error.
    async fn plain_line(&self, prompt: &str, input: &Handle) -> std::io::Result<Line> {
        if let Ok(errors) = self.descriptors.get(2) {
            errors.write(prompt.as_bytes()).await?;
        }
        Ok(match input.read_line().await? {
            Some(line) => {
                let line = String::from_utf8_lossy(&line).into_owned();
                Line::Entered(line.trim_end_matches('\n').to_owned())
            }
            None => Line::Ended,
        })
    }

    /// The prompt, with `\w` and `\h` as the folder and the host.
    fn prompt(&self, name: &str) -> String {
        let prompt = self.variables.get(name).unwrap_or("$ ");
        let host = self.variables.get("HOSTNAME").unwrap_or("pod");
        let folder = self.folder.display().to_string();
        prompt
            .replace("\\w", &folder)
            .replace("\\h", host)
            .replace("\\$", "$")
    }
}

/// What was entered.
enum Entered {
    Text(String),
    Nothing,
    End,
}
