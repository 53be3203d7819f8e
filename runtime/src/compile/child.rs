//! The child's side: reads one job, writes one file, answers one line.

use super::{Answer, Artefact, Job, footprint, limits};
use crate::adapt;
use crate::engine::{code_config, dense_config, hex};
use crate::judge::{Form, examine};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::io::{Read, Write};
use std::process::ExitCode;
use wasmtime::Engine;

/// A job is a few paths and numbers.
const JOB_MAX_BYTES: u32 = 64 * 1024;
/// The largest program accepted, well above any guest seen and well below the memory limit.
const WASM_MAX_BYTES: u64 = 512 << 20;

/// Runs one compilation: the whole life of a compiler child.
///
/// Reads the job and the program from standard input, lowers its own limits and priority, writes
/// the machine code to the file that the job names, and answers on standard output.
pub fn compile_child() -> ExitCode {
    let answer = match receive(&mut std::io::stdin().lock()) {
        Ok((job, wasm)) => compile(&job, &wasm),
        Err(message) => Answer::Failed(message),
    };
    let code = match answer {
        Answer::Done(_) => ExitCode::SUCCESS,
        Answer::Refused(_) | Answer::Failed(_) => ExitCode::FAILURE,
    };
    let line = serde_json::to_vec(&answer).expect("an answer is plain data");
    match std::io::stdout().lock().write_all(&line) {
        Ok(()) => code,
        Err(_gone) => ExitCode::FAILURE,
    }
}

fn receive(input: &mut impl Read) -> Result<(Job, Vec<u8>), String> {
    let unreadable = |error: std::io::Error| format!("cannot read the job: {error}");
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(unreadable)?;
    let length = u32::from_le_bytes(length);
    if length > JOB_MAX_BYTES {
        return Err(format!("a job of {length} bytes is too long"));
    }
    let mut header = vec![0; length as usize];
    input.read_exact(&mut header).map_err(unreadable)?;
    let job: Job = serde_json::from_slice(&header).map_err(|e| format!("no valid job: {e}"))?;
    limits::apply(job.memory_max_bytes, job.cpu_max_seconds);
    let mut wasm = Vec::new();
    input
        .take(WASM_MAX_BYTES + 1)
        .read_to_end(&mut wasm)
        .map_err(unreadable)?;
    if wasm.len() as u64 > WASM_MAX_BYTES {
        return Err(format!("the program is larger than {WASM_MAX_BYTES} bytes"));
    }
    Ok((job, wasm))
}

fn compile(job: &Job, wasm: &[u8]) -> Answer {
    let digest = format!("sha256:{}", hex(&Sha256::digest(wasm)));
    if digest != job.digest {
        let wanted = &job.digest;
        return Answer::Failed(format!("the program has digest `{digest}`, not `{wanted}`"));
    }
    let judgement = match examine(wasm) {
        Ok(judgement) => judgement,
        Err(refusal) => return Answer::Refused(refusal.to_string()),
    };
    let component = match judgement.form {
        Form::Component => Cow::Borrowed(wasm),
        Form::Preview1 => match adapt::to_component(wasm) {
            Ok(component) => Cow::Owned(component),
            Err(error) => return Answer::Refused(chain(&error)),
        },
    };
    // A handler's instances come and go with requests; the pool has them, and maps their data.
    let dense = !judgement.handler && footprint::is_small(&component);
    let config = if dense { dense_config() } else { code_config() };
    let code = Engine::new(&config).and_then(|e| e.precompile_component(&component));
    let code = match code {
        Ok(code) => code,
        Err(error) => return Answer::Refused(format!("{error:#}")),
    };
    if let Err(error) = std::fs::write(&job.output, &code) {
        return Answer::Failed(format!("cannot write `{}`: {error}", job.output.display()));
    }
    Answer::Done(Artefact {
        sha256: hex(&Sha256::digest(&code)),
        command: judgement.command,
        handler: judgement.handler,
        dense,
    })
}

/// Writes an error and its causes in one line: it crosses a process border as text.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
