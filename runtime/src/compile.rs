//! Compiles in a short-lived child of the same binary, so that a compiler's crash, hunger or
//! endless loop over a hostile file fails one preparation and nothing else.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

mod child;
mod footprint;
mod limits;

pub use child::compile_child;

/// Children at once: one keeps the other processor free for running guests on small machines.
const CHILDREN_MAX: usize = 2;
/// An 18 MB component takes half a minute on a busy machine; this leaves room for ten of them.
const TIME_MAX: Duration = Duration::from_secs(300);
/// Memory of a child. The largest guest measured needed a quarter of it.
const MEMORY_MAX_BYTES: u64 = 4 << 30;
/// How much of a crashed child's last words are kept for the message.
const LAST_WORDS_MAX_BYTES: usize = 2_048;

/// How to start a compiler child: a program that calls [`compile_child`] when started so.
#[derive(Clone, Debug)]
pub struct CompilerCommand {
    /// The program, usually the running one.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
}

/// What the parent asks of the child, sent before the bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    /// The digest that the bytes must have.
    digest: String,
    /// Where to write the machine code.
    output: PathBuf,
    /// The most memory the child may take.
    memory_max_bytes: u64,
    /// The most processor time the child may take.
    cpu_max_seconds: u64,
}

/// What the child answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// The machine code is written.
    Done(Artefact),
    /// The bytes cannot be run here; the text says why.
    Refused(String),
    /// Something of the child's own failed.
    Failed(String),
}

/// The machine code that a child has written.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Artefact {
    /// SHA-256 of the file, in hexadecimal digits.
    pub(crate) sha256: String,
    /// Whether the program exports a command.
    pub(crate) command: bool,
    /// Whether the program exports a handler.
    pub(crate) handler: bool,
    /// Whether it was compiled for the dense engine.
    pub(crate) dense: bool,
}

/// A compilation that did not succeed.
#[derive(Clone, Debug, Error)]
pub enum CompileError {
    /// The child could not be started.
    #[error("failed to start the compiler `{program}`")]
    Start {
        /// The program that was to be started.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The program was examined by the compiler and refused.
    #[error("the compiler refused the program: {0}")]
    Refused(String),
    /// The child met a failure of its own.
    #[error("the compiler failed: {0}")]
    Failed(String),
    /// The child died, or was ended by one of its limits.
    #[error("the compiler ended with {status}{last_words}")]
    Crashed {
        /// How it ended.
        status: String,
        /// What it wrote last, beginning with `: `, or nothing.
        last_words: String,
    },
    /// The child took too long and was ended.
    #[error("the compiler was ended after {} s", TIME_MAX.as_secs())]
    Timeout,
}

/// Starts compiler children, a few at a time.
#[derive(Debug)]
pub(crate) struct Compiler {
    command: CompilerCommand,
    slots: Semaphore,
}

impl Compiler {
    pub(crate) fn new(command: CompilerCommand) -> Self {
        Self {
            command,
            slots: Semaphore::new(CHILDREN_MAX),
        }
    }

    /// Compiles `wasm`, which must have `digest`, into the file `output`.
    ///
    /// Dropping the future ends the child.
    pub(crate) async fn compile(
        &self,
        digest: &str,
        wasm: &[u8],
        output: &Path,
    ) -> Result<Artefact, CompileError> {
        let _slot = self
            .slots
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let job = Job {
            digest: digest.to_owned(),
            output: output.to_owned(),
            memory_max_bytes: MEMORY_MAX_BYTES,
            cpu_max_seconds: TIME_MAX.as_secs(),
        };
        let child = self.start()?;
        match tokio::time::timeout(TIME_MAX, converse(child, &job, wasm)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(CompileError::Timeout),
        }
    }

    fn start(&self) -> Result<Child, CompileError> {
        let mut command = Command::new(&self.command.program);
        command
            .args(&self.command.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        limits::low_priority(&mut command);
        command.spawn().map_err(|source| self.start_error(source))
    }

    fn start_error(&self, source: std::io::Error) -> CompileError {
        CompileError::Start {
            program: self.command.program.clone(),
            source: Arc::new(source),
        }
    }
}

/// Hands the job to the child and reads its answer.
async fn converse(mut child: Child, job: &Job, wasm: &[u8]) -> Result<Artefact, CompileError> {
    let mut stdin = child
        .stdin
        .take()
        .expect("the child was started with a pipe");
    let header = serde_json::to_vec(job).expect("a job is plain data");
    let send = async move {
        let length = u32::try_from(header.len()).expect("a job is small");
        // A child that died already says more by its end than by this broken pipe.
        let _ = stdin.write_all(&length.to_le_bytes()).await;
        let _ = stdin.write_all(&header).await;
        let _ = stdin.write_all(wasm).await;
        let _ = stdin.shutdown().await;
    };
    let (_sent, output) = tokio::join!(send, child.wait_with_output());
    let output = output.map_err(|e| CompileError::Failed(e.to_string()))?;
    match serde_json::from_slice(&output.stdout) {
        Ok(Answer::Done(artefact)) if output.status.success() => Ok(artefact),
        Ok(Answer::Refused(message)) => Err(CompileError::Refused(message)),
        Ok(Answer::Failed(message)) => Err(CompileError::Failed(message)),
        Ok(Answer::Done(_)) | Err(_) => Err(crashed(output.status, &output.stderr)),
    }
}

fn crashed(status: ExitStatus, stderr: &[u8]) -> CompileError {
    let tail = &stderr[stderr.len().saturating_sub(LAST_WORDS_MAX_BYTES)..];
    let tail = String::from_utf8_lossy(tail);
    let last_words = match tail.trim() {
        "" => String::new(),
        words => format!(": {words}"),
    };
    CompileError::Crashed {
        status: status.to_string(),
        last_words,
    }
}
