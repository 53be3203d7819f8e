//! One `exec` or `attach`, whatever protocol carries its streams (contract E.4).
//!
//! ```text
//! query ── Shared::session ──▶ Session ── streams are open ──▶ run ──▶ Status
//! ```
//!
//! A session is one future and spawns nothing: dropping it ends the program of an `exec` by force, and
//! detaches an `attach`.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use coracle_runtime::{Output, Terminal};
use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{Refusal, Shared};
use crate::exec::{
    Attached, CTRL_BACKSLASH, Discipline, ExecError, ExecStreams, ExecTarget, LineEditor, Located,
    Pipe, Running, Typed, to_screen,
};
use crate::images::describe;
use crate::logs::{Look, Missing};

/// How long a terminal's first size is waited for. Clients send it at once; a program that starts without it
/// believes in 80 columns.
const FIRST_SIZE_TIMEOUT: Duration = Duration::from_millis(250);

/// Bytes taken from a client at once.
const READ_BYTES_MAX: usize = 16 * 1024;

/// Words of one command, and bytes of all together: what Linux takes for one program by default is more.
const COMMAND_WORDS_MAX: usize = 4096;
const COMMAND_BYTES_MAX: usize = 128 * 1024;

/// Which of the two a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionKind {
    /// A program of the client's own.
    Exec,
    /// The container's own program.
    Attach,
}

/// Which container a path names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) namespace: &'a str,
    pub(super) pod: &'a str,
    /// Of the pod; nothing means whichever has the name.
    pub(super) uid: Option<&'a str>,
    pub(super) container: &'a str,
}

/// One exec or attach that was found and may begin. Nothing runs before [`Session::run`].
pub(super) struct Session {
    target: Arc<ExecTarget>,
    work: Work,
    wanted: Wanted,
}

enum Work {
    Exec(Vec<String>),
    Attach,
}

/// The streams that a client opens for a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    /// A terminal: `stderr` is false then, and sizes are told.
    pub(super) tty: bool,
}

/// What comes from a client.
pub(super) type Source = Box<dyn AsyncRead + Send + Unpin>;

/// What goes to a client.
pub(super) type Sink = Box<dyn AsyncWrite + Send + Unpin>;

/// Open streams. One that was not wanted is nothing.
pub(super) struct Streams {
    /// Its end, or an error, is the end of the input.
    pub(super) stdin: Option<Source>,
    /// Shut down when everything is written; an error ends the session.
    pub(super) stdout: Option<Sink>,
    /// As `stdout`.
    pub(super) stderr: Option<Sink>,
    /// Width and height in characters.
    pub(super) resize: Option<mpsc::Receiver<(u16, u16)>>,
}

/// What a query asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    command: Vec<String>,
    wanted: Wanted,
}

/// How the output of a session ended.
enum Played {
    /// Everything was written.
    ToTheEnd,
    /// The client takes no more.
    Refused,
}

impl Shared {
    /// Finds what a request is about.
    ///
    /// # Errors
    ///
    /// Fails with the plain answer to the request when no session can begin.
    pub(super) fn session(
        &self,
        kind: SessionKind,
        place: Place<'_>,
        query: &str,
    ) -> Result<Session, Refusal> {
        let Asked { command, wanted } = Asked::parse(query)?;
        let target = self.running(place)?;
        let work = match kind {
            SessionKind::Exec if command.is_empty() => {
                let text = "you must specify a command";
                return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
            }
            SessionKind::Exec => Work::Exec(command),
            SessionKind::Attach => Work::Attach,
        };
        Ok(Session {
            target,
            work,
            wanted,
        })
    }

    /// Finds a container that runs.
    ///
    /// # Errors
    ///
    /// Fails with 404 in a kubelet's words when there is none.
    pub(super) fn running(&self, place: Place<'_>) -> Result<Arc<ExecTarget>, Refusal> {
        let Place {
            namespace,
            pod,
            uid,
            container,
        } = place;
        if let Some(target) = self.execs.find(namespace, pod, uid, container) {
            return Ok(target);
        }
        let is_known = match self.book.find(namespace, pod, container, Look::Present) {
            Ok(log) => uid.is_none_or(|uid| *log.pod.uid == *uid),
            Err(missing) => missing != Missing::Pod,
        };
        let text = match is_known {
            true => format!("container not found (\"{container}\")"),
            false => "pod does not exist".to_owned(),
        };
        Err(Refusal::new(StatusCode::NOT_FOUND, text))
    }
}

impl Asked {
    /// Reads a query in the spelling of the kubelet's API.
    fn parse(query: &str) -> Result<Asked, Refusal> {
        let mut asked = Asked::default();
        let mut bytes = 0;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let is_set = value == "1" || value == "true";
            match &*name {
                "command" => {
                    bytes += value.len();
                    asked.command.push(value.into_owned());
                }
                "input" | "stdin" => asked.wanted.stdin = is_set,
                "output" | "stdout" => asked.wanted.stdout = is_set,
                "error" | "stderr" => asked.wanted.stderr = is_set,
                "tty" => asked.wanted.tty = is_set,
                _ => (),
            }
        }
        if asked.command.len() > COMMAND_WORDS_MAX || bytes > COMMAND_BYTES_MAX {
            let text = "the command is too long";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        }
        let wanted = &mut asked.wanted;
        if wanted.tty {
            // A terminal has one output; which of its streams was written to is not to be told.
            wanted.stderr = false;
        }
        if !wanted.stdin && !wanted.stdout && !wanted.stderr {
            let text = "you must specify at least 1 of stdin, stdout, stderr";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        }
        Ok(asked)
    }
}

impl Session {
    /// Returns the streams that the client is to open.
    pub(super) fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// Runs to the end, and returns after the output streams are shut down.
    pub(super) async fn run(self, streams: Streams) -> Status {
        let Session {
            target,
            work,
            wanted,
        } = self;
        match work {
            Work::Exec(command) => exec(&target, command, wanted, streams).await,
            Work::Attach => match target.console.attach(wanted.stdin) {
                Some(attached) => attach(&target, attached, wanted, streams).await,
                None => internal("too many clients are attached to the container"),
            },
        }
    }
}

/// The streams of one exec, between the client's and the program's.
struct Plumbing {
    /// Nothing without a terminal.
    discipline: Option<Discipline>,
    stdin: Option<Arc<Pipe>>,
    stdout: Arc<Pipe>,
    /// The same as `stdout` at a terminal.
    stderr: Arc<Pipe>,
}

impl Plumbing {
    fn new(wanted: Wanted, discipline: Discipline) -> Plumbing {
        let discipline = wanted.tty.then_some(discipline);
        let stdin = match discipline {
            Some(Discipline::Ours) => Pipe::of_lines(),
            Some(Discipline::Theirs) | None => Pipe::default(),
        };
        let stdout = Arc::<Pipe>::default();
        Plumbing {
            discipline,
            stdin: wanted.stdin.then(|| stdin.into()),
            stderr: match discipline {
                Some(_) => stdout.clone(),
                None => Arc::default(),
            },
            stdout,
        }
    }

    /// The ends for the program.
    fn streams(&self, env: Vec<(String, String)>) -> ExecStreams {
        ExecStreams {
            stdin: self.stdin.clone().map(|pipe| pipe as _),
            stdout: self.stdout.clone(),
            stderr: self.stderr.clone(),
            terminal: match self.discipline {
                Some(_) => Terminal::Present,
                None => Terminal::Absent,
            },
            env,
        }
    }

    /// Gives the program what the client sends; never returns.
    async fn type_in(&self, from: Option<Source>, running: &Running) {
        if let Some(pipe) = &self.stdin {
            match (from, self.discipline) {
                (Some(from), Some(Discipline::Ours)) => {
                    type_in(from, pipe, &self.stdout, running).await;
                }
                (Some(from), Some(Discipline::Theirs)) => pass_keys(from, pipe, running).await,
                (Some(from), None) => feed(from, pipe).await,
                (None, _) => (),
            }
            pipe.end();
        }
        pending().await
    }

    /// Brings what the program writes to the client, to the end of both streams.
    async fn play(&self, stdout: Option<Sink>, stderr: Option<Sink>) -> Played {
        let first = play(&self.stdout, stdout, self.discipline);
        match self.discipline {
            Some(_) => first.await,
            None => both(first, play(&self.stderr, stderr, None)).await,
        }
    }

    fn end(&self) {
        self.stdout.end();
        self.stderr.end();
    }
}

async fn exec(
    target: &ExecTarget,
    command: Vec<String>,
    wanted: Wanted,
    mut streams: Streams,
) -> Status {
    let located = target.locate(&command).await;
    let discipline = located
        .as_ref()
        .map_or(Discipline::Ours, Located::discipline);
    let plumbing = Plumbing::new(wanted, discipline);
    let env = match (&located, plumbing.discipline) {
        (Ok(_), Some(_)) => screen_variables(&mut streams).await,
        (Ok(_), None) | (Err(_), _) => Vec::new(),
    };
    let outputs = plumbing.play(streams.stdout, streams.stderr);
    let program = async {
        let ended = match located {
            Ok(located) => program(target, located, &plumbing, env, streams.stdin).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &ended {
            // For a person; a client that reads no error stream finds it in the status.
            let line = format!("{}\r\n", describe(error));
            let line = match plumbing.discipline {
                Some(Discipline::Theirs) => line,
                Some(Discipline::Ours) | None => line.replace('\r', ""),
            };
            plumbing.stderr.write(line.as_bytes());
        }
        plumbing.end();
        ended
    };
    match finish(program, outputs).await {
        Some(Ok(0)) => success(),
        Some(Ok(code)) => {
            let words = command.join(" ");
            failure(
                code,
                &format!("error executing command [{words}], exit code {code}"),
            )
        }
        Some(Err(error)) => failure(error.code(), &describe(&error)),
        None => internal("the client takes no more output"),
    }
}

/// Runs a program to its end and returns its code.
async fn program(
    target: &ExecTarget,
    located: Located,
    plumbing: &Plumbing,
    env: Vec<(String, String)>,
    from: Option<Source>,
) -> Result<i32, ExecError> {
    let running = target.start(located, plumbing.streams(env)).await?;
    tokio::select! {
        // Safe to cancel: the wait changes nothing, and what a program that has ended did not read is
        // nobody's.
        exit = running.ended() => Ok(exit.code),
        () = plumbing.type_in(from, &running) => pending().await,
    }
}

/// Drives a program and its output to the end of both; nothing when the client takes no more output, and
/// the program has been dropped.
async fn finish<T>(
    program: impl Future<Output = T>,
    outputs: impl Future<Output = Played>,
) -> Option<T> {
    let mut outputs = std::pin::pin!(outputs);
    let ended = tokio::select! {
        ended = program => ended,
        // Before the end of the program, output ends only when the client refuses it.
        _ = &mut outputs => return None,
    };
    match outputs.await {
        Played::ToTheEnd => Some(ended),
        Played::Refused => None,
    }
}

async fn attach(
    target: &ExecTarget,
    attached: Attached,
    wanted: Wanted,
    streams: Streams,
) -> Status {
    let discipline = match wanted.tty {
        true => target.console.terminal(),
        false => None,
    };
    let outputs = both(
        play(&attached.stdout, streams.stdout, discipline),
        play(&attached.stderr, streams.stderr, discipline),
    );
    let keyboard = async {
        if let (Some(from), Some(pipe)) = (streams.stdin, target.console.keyboard()) {
            match discipline {
                Some(Discipline::Ours) => {
                    type_in(from, pipe, &attached.stdout, &target.instance).await;
                }
                Some(Discipline::Theirs) => pass_keys(from, pipe, &target.instance).await,
                None => feed(from, pipe).await,
            }
            if attached.end_input() {
                return;
            }
        }
        pending().await
    };
    let program = async {
        tokio::select! {
            // Safe to cancel: the wait changes nothing, and nobody is left to read what is typed.
            _ = target.instance.exited() => (),
            () = keyboard => (),
        }
        attached.stdout.end();
        attached.stderr.end();
    };
    match finish(program, outputs).await {
        Some(()) => success(),
        None => internal("the client takes no more output"),
    }
}

/// Waits for the size of the client's terminal, and says it as shells do.
async fn screen_variables(streams: &mut Streams) -> Vec<(String, String)> {
    let Some(resize) = &mut streams.resize else {
        return Vec::new();
    };
    match tokio::time::timeout(FIRST_SIZE_TIMEOUT, resize.recv()).await {
        Ok(Some((width, height))) if width > 0 && height > 0 => vec![
            ("COLUMNS".to_owned(), width.to_string()),
            ("LINES".to_owned(), height.to_string()),
        ],
        Ok(Some(_) | None) | Err(_) => Vec::new(),
    }
}

async fn both(one: impl Future<Output = Played>, other: impl Future<Output = Played>) -> Played {
    let refused = async |output| match output {
        Played::ToTheEnd => Ok(()),
        Played::Refused => Err(()),
    };
    let ended = tokio::try_join!(async { refused(one.await).await }, async {
        refused(other.await).await
    });
    match ended {
        Ok(_) => Played::ToTheEnd,
        Err(()) => Played::Refused,
    }
}

/// Writes what comes out of a pipe to the client until the pipe ends; drops it when no client wants it.
async fn play(pipe: &Pipe, to: Option<Sink>, discipline: Option<Discipline>) -> Played {
    let Some(mut to) = to else {
        while pipe.next().await.is_some() {}
        return Played::ToTheEnd;
    };
    let written: io::Result<()> = async {
        while let Some(bytes) = pipe.next().await {
            match discipline {
                Some(Discipline::Ours) => to.write_all(&to_screen(&bytes)).await?,
                Some(Discipline::Theirs) | None => to.write_all(&bytes).await?,
            }
            to.flush().await?;
        }
        to.shutdown().await
    }
    .await;
    match written {
        Ok(()) => Played::ToTheEnd,
        Err(error) => {
            tracing::debug!(%error, "a client takes no more output");
            Played::Refused
        }
    }
}

/// Gives a program what the client sends, as fast as it reads, until the client sends no more.
async fn feed(mut from: Source, pipe: &Pipe) {
    let mut buffer = vec![0; READ_BYTES_MAX];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => pipe.write_all(&buffer[..count]).await,
        }
    }
}

/// What a person at a terminal can end.
trait Interruptible {
    /// What `^C` does: 130.
    fn interrupt(&self);

    /// What `^\` does: 131.
    fn quit(&self);
}

impl Interruptible for Running {
    fn interrupt(&self) {
        Running::interrupt(self);
    }

    fn quit(&self) {
        Running::quit(self);
    }
}

impl Interruptible for coracle_runtime::Instance {
    fn interrupt(&self) {
        coracle_runtime::Instance::interrupt(self);
    }

    fn quit(&self) {
        coracle_runtime::Instance::quit(self);
    }
}

/// Gives keys to a program that does a terminal's work itself, until the client sends no more. What ends
/// a command within is the program's to know; one that computes and reads no keys is ended by `^\`, so that
/// nothing a person starts is out of reach.
async fn pass_keys(mut from: Source, pipe: &Pipe, program: &impl Interruptible) {
    let mut buffer = vec![0; READ_BYTES_MAX];
    loop {
        let keys = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => &buffer[..count],
        };
        if keys.contains(&CTRL_BACKSLASH) && pipe.holds_bytes() {
            program.quit();
        }
        pipe.write_all(keys).await;
    }
}

/// Does a terminal's work between a person and a program until the client sends no more. Never waits for
/// the program: what it does not read is dropped with a bell, so that the keys that end it are always heard.
async fn type_in(mut from: Source, pipe: &Pipe, screen: &Pipe, program: &impl Interruptible) {
    let mut editor = LineEditor::default();
    let mut buffer = vec![0; READ_BYTES_MAX];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        for typed in editor.typed(&buffer[..count]) {
            match typed {
                Typed::Echo(bytes) => show(screen, &bytes),
                Typed::Line(line) if pipe.room() < line.len() => show(screen, b"\x07"),
                Typed::Line(line) => {
                    pipe.write(&line);
                }
                Typed::EndOfInput => pipe.pause(),
                Typed::Interrupt { had_line: true } if pipe.is_awaited() => {
                    // A shell writes its prompt again.
                    pipe.write(b"\n");
                }
                Typed::Interrupt { .. } => program.interrupt(),
                Typed::Quit => program.quit(),
            }
        }
    }
}

/// Shows something on a screen if the client keeps up with it.
fn show(screen: &Pipe, bytes: &[u8]) {
    screen.write(bytes);
}

fn success() -> Status {
    Status {
        status: Some("Success".to_owned()),
        ..Status::default()
    }
}

/// The program ran and failed, or a shell would have said so in its place.
fn failure(code: i32, text: &str) -> Status {
    Status {
        status: Some("Failure".to_owned()),
        reason: Some("NonZeroExitCode".to_owned()),
        message: Some(format!(
            "command terminated with non-zero exit code: {text}"
        )),
        details: Some(StatusDetails {
            causes: Some(vec![StatusCause {
                reason: Some("ExitCode".to_owned()),
                message: Some(code.to_string()),
                field: None,
            }]),
            ..StatusDetails::default()
        }),
        ..Status::default()
    }
}

fn internal(text: &str) -> Status {
    Status {
        status: Some("Failure".to_owned()),
        reason: Some("InternalError".to_owned()),
        message: Some(format!("Internal error occurred: {text}")),
        code: Some(500),
        ..Status::default()
    }
}

#[cfg(test)]
mod tests;
