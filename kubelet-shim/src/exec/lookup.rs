//! From a command line to a program: the container's files first, then the toolbox.

use std::io;
use std::sync::Arc;

use coracle_runtime::fs::{FileSource, FileSystem, FsError};
use coracle_runtime::{Code, CodeBytes};

use super::{ExecError, Tools};
use crate::images::{SharedImage, candidates};

/// The first bytes of WebAssembly, module or component.
const WASM_MAGIC: &[u8] = b"\0asm";

/// Longest first line of a script that is read, as Linux has it.
const SCRIPT_LINE_BYTES_MAX: usize = 256;

/// Largest program that is taken from a container's writable files and volumes: it is read into memory.
/// Those of an image are not.
const PROGRAM_BYTES_MAX: u64 = 64 << 20;

/// Scripts whose interpreter is a script, in a row, as Linux has it.
const SCRIPTS_MAX: usize = 4;

/// Where a program is looked for.
pub(super) struct Lookup {
    pub(super) image: Arc<SharedImage>,
    pub(super) files: Arc<FileSystem>,
    pub(super) working_dir: String,
    /// `PATH` of the container's environment.
    pub(super) path: Option<String>,
    pub(super) tools: Arc<Tools>,
}

/// What is to be started.
pub(super) struct Found {
    /// The arguments, which an interpreter may have come before.
    pub(super) args: Vec<String>,
    /// Nothing means the toolbox.
    pub(super) code: Option<Code>,
}

/// What a file is to someone who wants to run it.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    Wasm,
    /// `#!`, an interpreter, and at most one argument.
    Script(String, Option<String>),
    Other,
}

/// What became of one name.
enum Hit {
    Code(Code),
    Script(String, Option<String>, String),
    NotRunnable,
    Nowhere,
}

impl Lookup {
    /// Finds what argv names. May block.
    pub(super) fn find(&self, mut argv: Vec<String>) -> Result<Found, ExecError> {
        let asked = argv.first().cloned().ok_or(ExecError::NoCommand)?;
        let mut name = asked.clone();
        for _ in 0..=SCRIPTS_MAX {
            let is_there = match self.look(&name) {
                Hit::Code(code) => {
                    return Ok(Found {
                        args: argv,
                        code: Some(code),
                    });
                }
                Hit::Script(interpreter, argument, path) => {
                    let rest = argv.drain(1..);
                    let line = [Some(interpreter.clone()), argument, Some(path)];
                    argv = line.into_iter().flatten().chain(rest).collect();
                    name = interpreter;
                    continue;
                }
                Hit::NotRunnable => true,
                Hit::Nowhere => false,
            };
            // Also in the place of a program for another machine, such as an image's own `/bin/sh`.
            if self.tools.has(&name) {
                return Ok(Found {
                    args: argv,
                    code: None,
                });
            }
            return Err(match is_there {
                true => ExecError::NotRunnable(asked),
                false if name.contains('/') => ExecError::NoFile(name),
                false => ExecError::NotFound(name),
            });
        }
        Err(ExecError::NotRunnable(asked))
    }

    fn look(&self, name: &str) -> Hit {
        let mut found = Hit::Nowhere;
        for path in candidates(name, &self.working_dir, self.path.as_deref()) {
            let source = match self.files.open_extent(&path) {
                Ok(source) => source,
                Err(FsError::Read { source, .. }) if is_absence(&source) => continue,
                Err(_) => {
                    found = Hit::NotRunnable;
                    continue;
                }
            };
            let head = source.head(SCRIPT_LINE_BYTES_MAX).unwrap_or_default();
            match content(&head) {
                Content::Wasm => match self.code(&path, source) {
                    Some(code) => return Hit::Code(code),
                    None => found = Hit::NotRunnable,
                },
                Content::Script(interpreter, argument) => {
                    return Hit::Script(interpreter, argument, path);
                }
                Content::Other => found = Hit::NotRunnable,
            }
        }
        found
    }

    /// Names the code of a file: known already if the image has it, else by reading the whole.
    fn code(&self, path: &str, source: FileSource) -> Option<Code> {
        if let FileSource::Extent(extent) = &source
            && let Some(digest) = self.image.digest_of(path, extent)
        {
            return Some(Code {
                digest: digest.to_owned(),
                bytes: CodeBytes::Extent(extent.clone()),
            });
        }
        match source {
            FileSource::Bytes(bytes) => Some(Code::of(bytes)),
            FileSource::Extent(extent) if extent.len > PROGRAM_BYTES_MAX => None,
            FileSource::Extent(_) => self.files.read_file(path).ok().map(Code::of),
        }
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Tells from a file's first bytes how it is run.
fn content(head: &[u8]) -> Content {
    if head.starts_with(WASM_MAGIC) {
        return Content::Wasm;
    }
    let Some(rest) = head.strip_prefix(b"#!") else {
        return Content::Other;
    };
    let end = rest.iter().position(|byte| *byte == b'\n');
    let Ok(line) = std::str::from_utf8(&rest[..end.unwrap_or(rest.len())]) else {
        return Content::Other;
    };
    let (interpreter, argument) = match line.trim().split_once([' ', '\t']) {
        Some((interpreter, argument)) => (interpreter, Some(argument.trim().to_owned())),
        None => (line.trim(), None),
    };
    if interpreter.is_empty() {
        return Content::Other;
    }
    Content::Script(interpreter.to_owned(), argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &[u8], expected: Content) {
        assert_eq!(content(head), expected, "{:?}", head.escape_ascii());
    }

    #[test]
    fn files_are_told_apart_by_their_first_bytes() {
        let script = |interpreter: &str, argument: Option<&str>| {
            Content::Script(interpreter.to_owned(), argument.map(str::to_owned))
        };
        check(b"\0asm\x01\0\0\0", Content::Wasm);
        check(b"\0asm\x0d\0\x01\0", Content::Wasm);
        check(b"\x7fELF", Content::Other);
        check(b"", Content::Other);
        check(b"#!/bin/sh\necho", script("/bin/sh", None));
        check(b"#! /bin/sh -e x \n", script("/bin/sh", Some("-e x")));
        check(
            b"#!/usr/bin/env\tbash\r\n",
            script("/usr/bin/env", Some("bash")),
        );
        check(b"#!/bin/sh", script("/bin/sh", None));
        check(b"#!\n/bin/sh", Content::Other);
        check(b"#!\xff\n", Content::Other);
    }
}
