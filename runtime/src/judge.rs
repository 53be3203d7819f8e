//! Says what a file is and whether this runtime offers everything it asks for.
//!
//! The judgement reads headers, imports and exports only: it validates no function bodies, so it
//! is cheap enough for every arrival at the registry. The compiler validates the rest.

use std::fmt;
use thiserror::Error;
use wasmparser::{
    ComponentExternalKind, ComponentTypeRef, Encoding, ExternalKind, Parser, Payload, TypeRef,
};

mod offered;
mod other_formats;

/// How a program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkloadKind {
    /// Runs once to its end (`wasi:cli/run`).
    Command,
    /// Answers requests that we receive for it (`wasi:http/incoming-handler`).
    Handler,
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WorkloadKind::Command => "command",
            WorkloadKind::Handler => "handler",
        })
    }
}

/// Why some bytes cannot run here. The text is written for whoever built or named the file.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes are something else altogether.
    #[error("not a WebAssembly file: it is {found}")]
    NotWasm {
        /// What it looks like, with an article.
        found: &'static str,
    },
    /// The file begins like Wasm and goes on otherwise.
    #[error("damaged WebAssembly file: {message}")]
    Damaged {
        /// What the parser met, and where.
        message: String,
    },
    /// The program asks for something that is not offered.
    #[error("the program imports `{name}`, which this runtime does not offer{hint}")]
    Import {
        /// The import's full name.
        name: String,
        /// What to do about it, beginning with `: `, or nothing.
        hint: &'static str,
    },
    /// The file offers no entry point that we know.
    #[error("the program has no entry point: {wanted}")]
    NoEntry {
        /// What was looked for.
        wanted: &'static str,
    },
}

/// The form of a program, and the entry points it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) form: Form,
    pub(crate) command: bool,
    pub(crate) handler: bool,
}

impl Judgement {
    /// A program with both entry points is a handler.
    pub(crate) fn kind(self) -> WorkloadKind {
        if self.handler {
            WorkloadKind::Handler
        } else {
            WorkloadKind::Command
        }
    }
}

/// The form of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A core module with preview 1 imports; it becomes a component when prepared.
    Preview1,
    /// A component.
    Component,
}

/// Decides what `wasm` is, or why it cannot run here.
///
/// # Errors
/// Bytes that are no Wasm are named for what they are; a missing import is named in full.
pub fn judge(wasm: &[u8]) -> Result<WorkloadKind, Refusal> {
    examine(wasm).map(Judgement::kind)
}

/// Decides like [`judge`], keeping what the compiler needs to know.
pub(crate) fn examine(wasm: &[u8]) -> Result<Judgement, Refusal> {
    if !wasm.starts_with(b"\0asm") {
        return Err(Refusal::NotWasm {
            found: other_formats::name(wasm),
        });
    }
    let mut payloads = Parser::new(0).parse_all(wasm);
    match payloads.next() {
        Some(Ok(Payload::Version {
            encoding: Encoding::Module,
            ..
        })) => examine_module(payloads),
        Some(Ok(Payload::Version {
            encoding: Encoding::Component,
            ..
        })) => examine_component(payloads),
        Some(Err(error)) => Err(damaged(&error)),
        Some(Ok(_)) | None => Err(Refusal::Damaged {
            message: "no header".into(),
        }),
    }
}

fn damaged(error: &wasmparser::BinaryReaderError) -> Refusal {
    Refusal::Damaged {
        message: error.to_string(),
    }
}

type Payloads<'a> = wasmparser::Result<Payload<'a>>;

fn examine_module<'a>(payloads: impl Iterator<Item = Payloads<'a>>) -> Result<Judgement, Refusal> {
    let (mut start, mut memory) = (false, false);
    for payload in payloads {
        match payload.map_err(|e| damaged(&e))? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(|e| damaged(&e))?;
                    let function = matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_));
                    offered::preview1(import.module, import.name, function)?;
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.map_err(|e| damaged(&e))?;
                    start |= export.name == "_start" && export.kind == ExternalKind::Func;
                    memory |= export.name == "memory" && export.kind == ExternalKind::Memory;
                }
            }
            _ => {}
        }
    }
    if !start {
        return Err(Refusal::NoEntry {
            wanted: "a core module must export the function `_start`",
        });
    }
    if !memory {
        return Err(Refusal::NoEntry {
            wanted: "a core module must export its `memory`",
        });
    }
    Ok(Judgement {
        form: Form::Preview1,
        command: true,
        handler: false,
    })
}

fn examine_component<'a>(
    payloads: impl Iterator<Item = Payloads<'a>>,
) -> Result<Judgement, Refusal> {
    let mut found = Judgement {
        form: Form::Component,
        command: false,
        handler: false,
    };
    // Only the outermost component's imports and exports count; what it contains is its own affair.
    let mut depth = 0_usize;
    for payload in payloads {
        match payload.map_err(|e| damaged(&e))? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import.map_err(|e| damaged(&e))?;
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        offered::component(import.name.name)?;
                    }
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(|e| damaged(&e))?;
                    if export.kind == ComponentExternalKind::Instance {
                        let name = export.name.name;
                        found.command |= offered::is_preview2(name, "wasi:cli/run");
                        found.handler |= offered::is_preview2(name, "wasi:http/incoming-handler");
                    }
                }
            }
            _ => {}
        }
    }
    if !found.command && !found.handler {
        return Err(Refusal::NoEntry {
            wanted: "a component must export `wasi:cli/run@0.2` or `wasi:http/incoming-handler@0.2`",
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
