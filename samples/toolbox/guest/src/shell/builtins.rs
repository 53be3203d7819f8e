//! The commands that change the shell itself.

mod jobs;
mod read;
mod settings;

use std::rc::Rc;

use super::parser::Parser;
use super::{Flow, Ran, Shell};
use crate::applet;
use crate::stream::Descriptors;

/// Builtins whose assignments stay, and whose errors end the shell.
const SPECIAL: &[&str] = &[
    ":", ".", "break", "continue", "eval", "exec", "exit", "export", "readonly", "return", "set",
    "shift", "trap", "unset",
];
/// The other builtins.
const PLAIN: &[&str] = &[
    "alias", "bg", "cd", "command", "fg", "getopts", "hash", "jobs", "kill", "let", "local", "pwd",
    "read", "source", "times", "type", "ulimit", "umask", "unalias", "wait", "builtin",
];

/// Whether a word names a special builtin.
pub(super) fn is_special(word: &str) -> bool {
    SPECIAL.contains(&word)
}

/// Whether a word names any builtin.
fn is_builtin(word: &str) -> bool {
    is_special(word) || PLAIN.contains(&word)
}

/// Runs a builtin; `None` when the first word names none.
pub(super) async fn run(shell: &mut Shell, words: &[String]) -> Option<Ran> {
    let (name, arguments) = words.split_first()?;
    if !is_builtin(name) {
        return None;
    }
    Some(match name.as_str() {
        ":" | "hash" => Ok(0),
        "." | "source" => shell.source(arguments).await,
        "break" => shell.leave_loop(arguments, Flow::Break).await,
        "continue" => shell.leave_loop(arguments, Flow::Continue).await,
        "eval" => shell.eval(&arguments.join(" ")).await,
        "exit" => shell.exit(arguments, Flow::Exit).await,
        "return" => shell.exit(arguments, Flow::Return).await,
        "export" => shell.export(arguments).await,
        "readonly" => shell.readonly(arguments).await,
        "local" => shell.local(arguments).await,
        "set" => shell.set(arguments).await,
        "shift" => shell.shift(arguments).await,
        "trap" => shell.trap(arguments).await,
        "unset" => shell.unset(arguments).await,
        "cd" => shell.cd(arguments).await,
        "pwd" => shell.print(&format!("{}\n", shell.folder.display())).await,
        "command" | "builtin" => shell.command(arguments).await,
        "type" => shell.describe_all(arguments).await,
        "getopts" => shell.getopts(arguments).await,
        "read" => shell.read(arguments).await,
        "let" => shell.let_all(arguments).await,
        "jobs" => shell.list_jobs().await,
        "wait" => shell.wait(arguments).await,
        "kill" => shell.kill(arguments).await,
        "umask" => match arguments {
            [] => shell.print("0022\n").await,
            _ => Ok(0),
        },
        "times" => shell.print("0m0.00s 0m0.00s\n0m0.00s 0m0.00s\n").await,
        "ulimit" => {
            shell
                .refuse("ulimit", "limits are set by the pod's resources")
                .await
        }
        "alias" | "unalias" => match arguments {
            [] => Ok(0),
            _ => shell.refuse(name, "use a function instead").await,
        },
        "bg" | "fg" => {
            shell
                .refuse(name, "jobs cannot be stopped here, use `wait`")
                .await
        }
        _ => return None,
    })
}

/// Writes a value so that a shell reads it as one word.
pub(crate) fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%^".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl Shell {
    async fn print(&self, text: &str) -> Ran {
        let written = match self.descriptors.get(1) {
            Ok(output) => output.write(text.as_bytes()).await,
            Err(error) => Err(error),
        };
        Ok(i32::from(written.is_err()))
    }

    /// Says why a builtin does not do what it is asked.
    async fn refuse(&self, name: &str, why: &str) -> Ran {
        self.complain(&format!("{name}: {why}")).await;
        Ok(1)
    }

    /// Runs a text as if it stood in the place of the command.
    pub(super) async fn eval(&mut self, text: &str) -> Ran {
        let mut parser = Parser::new(text);
        let mut status = 0;
        self.depth += super::EVAL_LEVELS;
        let ran = loop {
            match parser.next_line() {
                Ok(Some(list)) => {
                    let running: std::pin::Pin<Box<dyn Future<Output = Ran> + '_>> =
                        Box::pin(self.run_list(&list));
                    match running.await {
                        Ok(code) => status = code,
                        Err(flow) => break Err(flow),
                    }
                }
                Ok(None) => break Ok(status),
                Err(error) => break Err(self.fail(&format!("syntax error: {error}")).await),
            }
        };
        self.depth -= super::EVAL_LEVELS;
        ran
    }

    async fn source(&mut self, arguments: &[String]) -> Ran {
        let Some((name, positional)) = arguments.split_first() else {
            return self.refuse(".", "the name of a file is expected").await;
        };
        let mut path = self.folder.join(name);
        if !name.contains('/') && !path.is_file() {
            let folders = self.variables.get("PATH").unwrap_or_default();
            let along = folders
                .split(':')
                .map(|folder| self.folder.join(folder).join(name));
            path = along
                .into_iter()
                .find(|path| path.is_file())
                .unwrap_or(path);
        }
        let text = match super::read_script(&path).await {
            Ok(text) => text,
            Err(failure) => {
                let line = format!("{name}: {}", failure.message());
                return Err(self.fail(&line).await);
            }
        };
        let before = (!positional.is_empty())
            .then(|| std::mem::replace(&mut self.positional, Rc::new(positional.to_vec())));
        self.frames += 1;
        let ran = self.eval(&text).await;
        self.frames -= 1;
        if let Some(before) = before {
            self.positional = before;
        }
        match ran {
            Err(Flow::Return(code)) => Ok(code),
            ran => ran,
        }
    }

    async fn leave_loop(&mut self, arguments: &[String], flow: fn(u32) -> Flow) -> Ran {
        let levels = match arguments.first().map(|text| text.parse::<u32>()) {
            None => 1,
            Some(Ok(levels)) if levels > 0 => levels,
            Some(_) => return Err(self.fail("break: a number of loops is expected").await),
        };
        if self.loops == 0 {
            return Ok(0);
        }
        Err(flow(levels.min(self.loops)))
    }

    async fn exit(&mut self, arguments: &[String], flow: fn(i32) -> Flow) -> Ran {
        let code = match arguments.first() {
            None => self.status,
            Some(text) => match text.parse::<i32>() {
                Ok(code) => code & 0xff,
                Err(_) => {
                    let line = format!("exit: invalid number `{text}`");
                    return Err(self.fail(&line).await);
                }
            },
        };
        Err(flow(code))
    }

    async fn shift(&mut self, arguments: &[String]) -> Ran {
        let count = match arguments.first().map(|text| text.parse::<usize>()) {
            None => 1,
            Some(Ok(count)) => count,
            Some(Err(_)) => usize::MAX,
        };
        if count > self.positional.len() {
            return Err(self.fail("shift: can't shift that many").await);
        }
        Rc::make_mut(&mut self.positional).drain(..count);
        Ok(0)
    }

    async fn cd(&mut self, arguments: &[String]) -> Ran {
        let operand = arguments
            .iter()
            .find(|word| !matches!(word.as_str(), "-P" | "-L" | "--"));
        let target = match operand.map(String::as_str) {
            None => self.variables.get("HOME").unwrap_or("/").to_owned(),
            Some("-") => match self.variables.get("OLDPWD") {
                Some(before) => before.to_owned(),
                None => return self.refuse("cd", "OLDPWD not set").await,
            },
            Some(target) => target.to_owned(),
        };
        let path = applet::resolve(&self.folder, std::path::Path::new(&target));
        let metadata = std::fs::metadata(&path);
        let problem = match metadata {
            Ok(metadata) if metadata.is_dir() => None,
            Ok(_) => Some("Not a directory".to_owned()),
            Err(error) => Some(applet::describe(&error)),
        };
        if let Some(problem) = problem {
            self.complain(&format!("cd: {target}: {problem}")).await;
            return Ok(2);
        }
        let before = std::mem::replace(&mut self.folder, path);
        self.variables.put("OLDPWD", before.display().to_string());
        self.variables.put("PWD", self.folder.display().to_string());
        if operand.is_some_and(|word| word == "-") {
            return self.print(&format!("{}\n", self.folder.display())).await;
        }
        Ok(0)
    }

    /// `exec`: the redirections stay, and a program takes the shell's place.
    pub(super) async fn exec(&mut self, words: &[String], descriptors: Descriptors) -> Ran {
        self.descriptors = descriptors;
        if words.is_empty() {
            return Ok(0);
        }
        let code = self.run_program(words.to_vec()).await;
        // What takes the shell's place knows nothing of its traps.
        self.traps = Rc::default();
        Err(Flow::Exit(code))
    }

    async fn command(&mut self, arguments: &[String]) -> Ran {
        match arguments.first().map(String::as_str) {
            None => Ok(0),
            Some("-v" | "-V") => {
                let mut status = 0;
                for name in &arguments[1..] {
                    match self.kind_of(name) {
                        Some((path, _)) => status = self.print(&format!("{path}\n")).await?,
                        None => status = 127,
                    }
                }
                Ok(status)
            }
            Some("-p") => self.run_plain(arguments[1..].to_vec()).await,
            Some(_) => self.run_plain(arguments.to_vec()).await,
        }
    }

    /// Runs a builtin or a program, but no function.
    async fn run_plain(&mut self, words: Vec<String>) -> Ran {
        let Some(name) = words.first() else {
            return Ok(0);
        };
        if name == "exec" {
            return self.exec(&words[1..], self.descriptors.clone()).await;
        }
        if is_builtin(name) {
            let running: std::pin::Pin<Box<dyn Future<Output = Option<Ran>> + '_>> =
                Box::pin(run(self, &words));
            return running.await.unwrap_or(Ok(0));
        }
        Ok(self.run_program(words).await)
    }

    async fn describe_all(&mut self, names: &[String]) -> Ran {
        let mut status = 0;
        for name in names {
            match self.kind_of(name) {
                Some((_, kind)) => status |= self.print(&format!("{name} is {kind}\n")).await?,
                None => {
                    self.complain(&format!("{name}: not found")).await;
                    status = 127;
                }
            }
        }
        Ok(status)
    }

    /// What a name stands for: as `command -v` and as `type` tell it.
    fn kind_of(&self, name: &str) -> Option<(String, String)> {
        if self.functions.contains_key(name) {
            return Some((name.to_owned(), "a function".to_owned()));
        }
        if is_builtin(name) {
            return Some((name.to_owned(), "a shell builtin".to_owned()));
        }
        if name.contains('/') {
            let path = self.folder.join(name);
            let path = path.is_file().then(|| name.to_owned())?;
            return Some((path.clone(), path));
        }
        if applet::find(name).is_some() {
            return Some((name.to_owned(), "a program of the toolbox".to_owned()));
        }
        let folders = self.variables.get("PATH")?;
        let found = folders
            .split(':')
            .map(|folder| self.folder.join(folder).join(name))
            .find(|path| path.is_file())?;
        let path = found.display().to_string();
        Some((path.clone(), path))
    }

    async fn let_all(&mut self, expressions: &[String]) -> Ran {
        let mut value = 0;
        for text in expressions {
            match super::arithmetic::evaluate(text, self) {
                Ok(computed) => value = computed,
                Err(error) => return Err(self.fail(&error).await),
            }
        }
        Ok(i32::from(value == 0))
    }
}
