//! `sh`: a POSIX-like shell in one instance.
//!
//! - `parser` turns text into the `syntax` tree;
//! - `expand` turns words into fields, with `arithmetic` and the `variables`;
//! - `execute` runs the tree, `redirect` opens what it names, `builtins` change the shell itself;
//! - `interactive` is the shell at a terminal.
//!
//! What has no meaning without processes: signals never come from outside, so a trap other than `EXIT`
//! runs only for a `kill` within the shell; `umask` and `ulimit` change nothing.

mod arithmetic;
mod builtins;
mod condition;
mod execute;
mod expand;
mod interactive;
mod parser;
mod redirect;
mod syntax;
#[cfg(test)]
pub(crate) mod tests;
mod variables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::applet::{self, Context, Failure, Outcome};
use crate::reactor::{Boxed, Task};
use crate::stream::{Descriptors, Handle, Mode, Stream};

pub(crate) use builtins::quote;
use parser::Parser;
use syntax::Command;
use variables::Variables;

/// As many levels `eval` takes beside the command that it is.
const EVAL_LEVELS: u32 = 3;
/// As many levels a subshell takes.
const SUBSHELL_LEVELS: u32 = 3;
/// A script may be this long.
const SCRIPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What makes a shell leave the ordinary way.
#[derive(Debug)]
pub(crate) enum Flow {
    /// `exit`.
    Exit(i32),
    /// `return`.
    Return(i32),
    /// `break`, out of so many loops.
    Break(u32),
    /// `continue`, of the loop so far out.
    Continue(u32),
    /// An error that ends a shell which is not at a terminal; it has been told.
    Fatal(i32),
}

/// What running something gives: its exit code, or where to go on.
type Ran = Result<i32, Flow>;

/// What `set` switches.
#[derive(Clone, Copy, Default)]
struct Switches {
    errexit: bool,
    nounset: bool,
    xtrace: bool,
    noglob: bool,
    noexec: bool,
    noclobber: bool,
    allexport: bool,
    verbose: bool,
    pipefail: bool,
    interactive: bool,
}

/// The state of a shell; a subshell has a copy of it.
#[derive(Clone)]
pub(crate) struct Shell {
    variables: Variables,
    functions: Rc<BTreeMap<String, Rc<Command>>>,
    /// `$0`.
    name: String,
    /// `$1` and so on.
    positional: Rc<Vec<String>>,
    descriptors: Descriptors,
    folder: PathBuf,
    switches: Switches,
    /// `$?`.
    status: i32,
    /// The jobs this shell started, the last one last.
    jobs: Vec<Rc<Task>>,
    /// `$!`.
    last_job: Option<u32>,
    traps: Rc<BTreeMap<String, String>>,
    /// Within how many conditions, where `set -e` does not apply.
    conditions: u32,
    /// How many levels deep commands are nested.
    depth: u32,
    /// Within how many loops.
    loops: u32,
    /// Within how many functions and scripts read by `.`.
    frames: u32,
    /// Where `getopts` stands within a word.
    option_offset: usize,
    /// Commands since others were let go on.
    steps: u32,
    /// The line of the command that runs.
    line: u32,
    /// The code of the last command substitution, which is that of an assignment.
    substituted: Option<i32>,
}

/// The program `sh`.
pub(crate) fn sh(context: Context) -> Boxed<Outcome> {
    Box::pin(start(context))
}

/// Runs a file that is a script and may be run; anything else cannot be run here.
pub(crate) fn run_file(context: Context, path: &Path) -> Boxed<Outcome> {
    let path = path.to_owned();
    Box::pin(async move {
        if path.is_dir() || !applet::may_run(&path) {
            return Err(Failure::with_code(
                applet::NOT_EXECUTABLE,
                "Permission denied",
            ));
        }
        let text = read_script(&path).await?;
        if let Some(mut words) = interpreter(&text)
            && !words[0].ends_with("sh")
        {
            words.push(path.display().to_string());
            words.extend(context.arguments().iter().cloned());
            let child = context.child(words);
            return context.run_child(child).await;
        }
        let mut shell = Shell::new(&context);
        shell.name = context.words.first().cloned().unwrap_or_default();
        shell.positional = Rc::new(context.arguments().to_vec());
        Ok(shell.run_script(&text).await)
    })
}

/// The words after `#!`.
fn interpreter(text: &str) -> Option<Vec<String>> {
    let line = text.strip_prefix("#!")?.lines().next()?;
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    (!words.is_empty()).then_some(words)
}

async fn read_script(path: &Path) -> Result<String, Failure> {
    let refuse = |text: &str| Failure::with_code(applet::NOT_EXECUTABLE, text);
    let file = Stream::open(path, Mode::Read).map_err(|error| refuse(&applet::describe(&error)))?;
    let start = file.read(4096).await?;
    if start.starts_with(b"\0asm") {
        return Err(refuse(
            "a Wasm program cannot be started from within an instance",
        ));
    }
    if start.contains(&0) {
        return Err(refuse("not a script, and there are no processes here"));
    }
    let mut bytes = start;
    bytes.extend(file.read_all().await?);
    if bytes.len() > SCRIPT_BYTES_MAX {
        return Err(refuse("script too long"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What `sh` was asked to run.
enum Source {
    Text(String),
    File(String),
    Input,
}

async fn start(context: Context) -> Outcome {
    let mut shell = Shell::new(&context);
    let mut words = context.arguments().iter().cloned().peekable();
    let mut source = None;
    let mut wants_text = false;
    while let Some(word) = words.next_if(|word| word.len() > 1 && word.starts_with(['-', '+'])) {
        if word == "--" {
            break;
        }
        if word.starts_with("--") {
            // `--login` and the like.
            continue;
        }
        let on = word.starts_with('-');
        for letter in word.chars().skip(1) {
            match letter {
                'c' => wants_text = true,
                's' => source = Some(Source::Input),
                'i' => shell.switches.interactive = true,
                'l' => {}
                'o' => {
                    let name = words.next().unwrap_or_default();
                    shell.switches.set_named(&name, on)?;
                }
                letter => shell.switches.set(letter, on)?,
            }
        }
    }
    if wants_text {
        let missing = || Failure::usage("-c needs an argument");
        source = Some(Source::Text(words.next().ok_or_else(missing)?));
        if let Some(name) = words.next() {
            shell.name = name;
        }
    } else if source.is_none() {
        source = words.next().map(Source::File);
    }
    shell.positional = Rc::new(words.collect());
    let input = context.input();
    let code = match source.unwrap_or(Source::Input) {
        Source::Text(text) => shell.run_script(&text).await,
        Source::File(name) => {
            let path = context.path(&name);
            let text = read_script(&path).await.map_err(|failure| {
                Failure::with_code(failure.code(), format!("{name}: {}", failure.message()))
            })?;
            shell.name = name;
            shell.run_script(&text).await
        }
        Source::Input => match input {
            Ok(input) if input.is_terminal() || shell.switches.interactive => {
                shell.interact(&input).await
            }
            Ok(input) => shell.run_input(&input).await,
            Err(error) => return Err(error.into()),
        },
    };
    Ok(code)
}

impl Shell {
    /// A shell in the place of a context.
    fn new(context: &Context) -> Self {
        let mut variables = Variables::of_environment(&context.environment);
        variables.set_default("IFS", " \t\n");
        variables.set_default("PS1", "$ ");
        variables.set_default("PS2", "> ");
        variables.set_default("PS4", "+ ");
        variables.set_default("PATH", "/usr/local/bin:/usr/bin:/bin");
        variables.set_default("OPTIND", "1");
        variables.put("PWD", context.folder.display().to_string());
        Self {
            variables,
            functions: Rc::default(),
            name: context.words.first().cloned().unwrap_or_default(),
            positional: Rc::default(),
            descriptors: context.descriptors.clone(),
            folder: context.folder.clone(),
            switches: Switches::default(),
            status: 0,
            jobs: Vec::new(),
            last_job: None,
            traps: Rc::default(),
            conditions: 0,
            depth: context.depth,
            loops: 0,
            frames: 0,
            option_offset: 0,
            steps: 0,
            line: 0,
            substituted: None,
        }
    }

    /// A shell for what runs apart: what it changes stays its own, and traps are not inherited.
    fn subshell(&self) -> Self {
        let mut shell = self.clone();
        shell.traps = Rc::default();
        shell.jobs = Vec::new();
        shell.depth += SUBSHELL_LEVELS;
        shell.switches.interactive = false;
        shell
    }

    /// Runs a script to its end, with its trap.
    async fn run_script(mut self, text: &str) -> i32 {
        let ran = self.run_text(text).await;
        self.finish(ran).await
    }

    /// Runs the commands of a text, each before the next is read.
    fn run_text<'a>(
        &'a mut self,
        text: &'a str,
    ) -> std::pin::Pin<Box<dyn Future<Output = Ran> + 'a>> {
        Box::pin(async move {
            let mut parser = Parser::new(text);
            self.status = 0;
            loop {
                match parser.next_line() {
                    Ok(Some(list)) => {
                        let ran = self.run_list(&list).await;
                        self.status = ran?;
                    }
                    Ok(None) => return Ok(self.status),
                    Err(error) => {
                        let line = format!("syntax error: {error}");
                        self.complain(&line).await;
                        return Err(Flow::Fatal(2));
                    }
                }
            }
        })
    }

    /// Runs what is read from an input that is no terminal.
    async fn run_input(self, input: &Handle) -> i32 {
        // Commands may read what follows them, so one complete command is taken at a time.
        let mut shell = self;
        let mut text = String::new();
        let ran = loop {
            let line = match input.read_line().await {
                Ok(line) => line,
                Err(error) => {
                    shell.complain(&applet::describe(&error)).await;
                    break Err(Flow::Fatal(2));
                }
            };
            let ended = line.is_none();
            text.push_str(&String::from_utf8_lossy(&line.unwrap_or_default()));
            if !ended && text.len() < SCRIPT_BYTES_MAX && parser::is_incomplete(&text) {
                continue;
            }
            let before = shell.status;
            let ran = if text.trim().is_empty() {
                Ok(before)
            } else {
                let text = std::mem::take(&mut text);
                shell.run_piece(&text).await
            };
            text.clear();
            match ran {
                Ok(status) if ended => break Ok(status),
                Ok(status) => shell.status = status,
                Err(flow) => break Err(flow),
            }
        };
        shell.finish(ran).await
    }

    /// Runs a piece of the input, which does not reset `$?`.
    async fn run_piece(&mut self, text: &str) -> Ran {
        let status = self.status;
        let mut parser = Parser::new(text);
        self.status = status;
        loop {
            match parser.next_line() {
                Ok(Some(list)) => self.status = self.run_list(&list).await?,
                Ok(None) => return Ok(self.status),
                Err(error) => {
                    self.complain(&format!("syntax error: {error}")).await;
                    return Err(Flow::Fatal(2));
                }
            }
        }
    }

    /// Turns the end of a script into its code, after the trap for it.
    async fn finish(&mut self, ran: Ran) -> i32 {
        let mut code = match ran {
            Ok(code) | Err(Flow::Exit(code) | Flow::Return(code) | Flow::Fatal(code)) => code,
            Err(Flow::Break(_) | Flow::Continue(_)) => self.status,
        };
        let trap = self.traps.get("EXIT").cloned();
        if let Some(text) = trap {
            Rc::make_mut(&mut self.traps).remove("EXIT");
            self.status = code;
            if let Err(Flow::Exit(changed)) = self.run_piece(&text).await {
                code = changed;
            }
        }
        code
    }

    /// Says on standard error what went wrong.
    async fn complain(&self, text: &str) {
        if let Ok(errors) = self.descriptors.get(2) {
            let place = match self.line {
                0 => String::new(),
                line => format!("{line}: "),
            };
            let line = format!("{}: {place}{text}\n", self.name);
            let _ = errors.write(line.as_bytes()).await;
        }
    }
}
