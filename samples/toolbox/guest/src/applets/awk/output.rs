//! What `print` writes to besides standard output, the commands that are started, and `close`.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::code::Target;
use super::input::Reader;
use crate::applet::{self, Context, Failure};
use crate::reactor::{self, Boxed, Task};
use crate::stream::{Handle, Mode, Stream};

/// So many files and commands may be open at once.
const OPEN_MAX: usize = 256;
/// Output is passed on when this much has gathered.
const GATHERED_BYTES: usize = 8 * 1024;

/// What something was opened as.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    File,
    Command,
}

type Key = (String, Kind);

struct Output {
    stream: Handle,
    task: Option<Rc<Task>>,
    gathered: Vec<u8>,
}

/// The open files and commands by what they were opened as.
#[derive(Default)]
pub(super) struct Streams {
    outputs: BTreeMap<Key, Output>,
    pub(super) inputs: BTreeMap<Key, Reader>,
}

/// Starts a command of the shell beside this program.
fn start(context: &Context, command: &str, end: u32, stream: Handle) -> Rc<Task> {
    let words = ["sh", "-c", command].map(str::to_owned).to_vec();
    let mut child = context.child(words);
    child.descriptors.set(end, stream);
    let running: Boxed<i32> = Box::pin(applet::run(child));
    reactor::spawn(command.to_owned(), running)
}

impl Streams {
    fn room(&self) -> Result<(), Failure> {
        if self.outputs.len() + self.inputs.len() < OPEN_MAX {
            return Ok(());
        }
        let text = format!("more than {OPEN_MAX} files and commands are open: `close` some");
        Err(Failure::usage(text))
    }

    /// Writes to a file or a command, which is opened at first.
    pub(super) async fn write(
        &mut self,
        context: &Context,
        target: Target,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let kind = match target {
            Target::Command => Kind::Command,
            Target::Standard | Target::File | Target::Append => Kind::File,
        };
        if kind == Kind::File && matches!(name, "/dev/stdout" | "-") {
            return Ok(context.write(bytes).await?);
        }
        let key = (name.to_owned(), kind);
        if !self.outputs.contains_key(&key) {
            self.room()?;
            let output = self.open(context, target, name).await?;
            self.outputs.insert(key.clone(), output);
        }
        let Some(output) = self.outputs.get_mut(&key) else {
            return Ok(());
        };
        output.gathered.extend_from_slice(bytes);
        if output.gathered.len() >= GATHERED_BYTES || name == "/dev/stderr" {
            output.flush().await?;
        }
        Ok(())
    }

    async fn open(
        &mut self,
        context: &Context,
        target: Target,
        name: &str,
    ) -> Result<Output, Failure> {
        if name.is_empty() {
            return Err(Failure::usage("the name of a file or a command is empty"));
        }
        let (stream, task) = match target {
            Target::Command => {
                // What was written before is seen before.
                self.flush(context).await?;
                let (reader, writer) = Stream::pipe();
                (writer, Some(start(context, name, 0, reader)))
            }
            Target::Append => (context.create(name, Mode::Append)?, None),
            Target::Standard | Target::File => (context.create(name, Mode::Write)?, None),
        };
        Ok(Output {
            stream,
            task,
            gathered: Vec::new(),
        })
    }

    /// The input of a file or a command, which is opened at first; nothing when that fails.
    pub(super) async fn input(
        &mut self,
        context: &Context,
        kind: Kind,
        name: &str,
    ) -> Result<Option<&mut Reader>, Failure> {
        let key = (name.to_owned(), kind);
        if !self.inputs.contains_key(&key) {
            self.room()?;
            let reader = match kind {
                Kind::Command => {
                    self.flush(context).await?;
                    let (reader, writer) = Stream::pipe();
                    Reader::new(reader, Some(start(context, name, 1, writer)))
                }
                Kind::File => match context.open(name) {
                    Ok(stream) => Reader::new(stream, None),
                    Err(_) => return Ok(None),
                },
            };
            self.inputs.insert(key.clone(), reader);
        }
        if self
            .inputs
            .get(&key)
            .is_some_and(|reader| !reader.has_line())
        {
            self.flush(context).await?;
        }
        Ok(self.inputs.get_mut(&key))
    }

    /// Passes on all that was written.
    pub(super) async fn flush(&mut self, context: &Context) -> Result<(), Failure> {
        context.flush().await?;
        for output in self.outputs.values_mut() {
            output.flush().await?;
        }
        Ok(())
    }

    /// Closes what was opened by a name: the code of a command, 0 of a file, -1 of what is not open.
    pub(super) async fn close(&mut self, context: &Context, name: &str) -> Result<i32, Failure> {
        let mut code = -1;
        for kind in [Kind::File, Kind::Command] {
            let key = (name.to_owned(), kind);
            if let Some(output) = self.outputs.remove(&key) {
                context.flush().await?;
                code = output.close().await?;
            }
            if let Some(reader) = self.inputs.remove(&key) {
                let task = reader.task.clone();
                drop(reader);
                code = ended(task).await;
            }
        }
        Ok(code)
    }

    /// Closes everything.
    pub(super) async fn close_all(&mut self, context: &Context) -> Result<(), Failure> {
        self.flush(context).await?;
        for (_, output) in std::mem::take(&mut self.outputs) {
            output.close().await?;
        }
        for (_, reader) in std::mem::take(&mut self.inputs) {
            let task = reader.task.clone();
            drop(reader);
            ended(task).await;
        }
        Ok(())
    }
}

impl Output {
    async fn flush(&mut self) -> Result<(), Failure> {
        let gathered = std::mem::take(&mut self.gathered);
        match self.stream.write(&gathered).await {
            // A command that reads no more ends when it likes.
            Err(_) if self.task.is_some() => Ok(()),
            written => Ok(written?),
        }
    }

    async fn close(mut self) -> Result<i32, Failure> {
        self.flush().await?;
        let task = self.task.take();
        drop(self.stream);
        Ok(ended(task).await)
    }
}

async fn ended(task: Option<Rc<Task>>) -> i32 {
    match task {
        Some(task) => reactor::wait_until_some(|| task.outcome()).await,
        None => 0,
    }
}
