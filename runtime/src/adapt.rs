//! Turns a core module with preview 1 imports into a component.
//!
//! The public adapter maps every non-zero `proc_exit` to `wasi:cli/exit.exit(err)`, which loses
//! the code. So the module's import of `proc_exit` is renamed to `exit-with-code` of the same
//! interface, which has the same core signature, and the module is given a world that says so.

use crate::termination;
use std::borrow::Cow;
use thiserror::Error;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};
use wasm_encoder::reencode::{Reencode, RoundtripReencoder};
use wasm_encoder::{ImportSection, Module, RawSection};
use wasmparser::{ImportSectionReader, Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Part of the key of compiled code: raise it with every change of what this module produces.
pub(crate) const ADAPTATION: u32 = 1;

/// The interface that keeps exit codes, at the version of the adapter.
const EXIT_INTERFACE: &str = "wasi:cli/exit@0.2.12";
const EXIT_FUNCTION: &str = "exit-with-code";

/// What a module that imports the interface above declares.
const EXIT_WORLD: &str = r#"
package coracle:adaptation;
world keeps-exit-code { import wasi:cli/exit@0.2.12; }
package wasi:cli@0.2.12 {
    interface exit {
        exit: func(status: result);
        exit-with-code: func(status-code: u8);
    }
}
"#;

/// A step of the adaptation that failed.
#[derive(Debug, Error)]
pub(crate) enum AdaptError {
    #[error("failed to read the module")]
    Read(#[source] wasmparser::BinaryReaderError),
    #[error("failed to rewrite the module's imports: {0}")]
    Rewrite(String),
    #[error("failed to adapt the module to WASI 0.2")]
    Encode(#[source] anyhow::Error),
}

/// Returns the component that runs `module` on WASI 0.2.
pub(crate) fn to_component(module: &[u8]) -> Result<Vec<u8>, AdaptError> {
    let mut declared = Cow::Borrowed(module);
    if let Some(renamed) = rename_proc_exit(module)? {
        declared = Cow::Owned(renamed);
        declare(declared.to_mut(), EXIT_WORLD, "keeps-exit-code").map_err(AdaptError::Encode)?;
    }
    if is_told(module)? {
        let world = (termination::WIT, termination::WORLD);
        declare(declared.to_mut(), world.0, world.1).map_err(AdaptError::Encode)?;
    }
    let module = declared;
    encode(&module).map_err(AdaptError::Encode)
}

fn encode(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    ComponentEncoder::default()
        .validate(true)
        .module(module)?
        .adapter(
            WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
            WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
        )?
        .encode()
}

/// Gives the module a world, beside those it has.
fn declare(module: &mut Vec<u8>, wit: &str, world: &str) -> anyhow::Result<()> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("world.wit", wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    embed_component_metadata(module, &resolve, world, StringEncoding::UTF8)
}

/// Tells whether the module imports something of our termination interface.
fn is_told(module: &[u8]) -> Result<bool, AdaptError> {
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ImportSection(section) = payload.map_err(AdaptError::Read)? {
            for import in section.into_imports() {
                let import = import.map_err(AdaptError::Read)?;
                if termination::is_core_import(import.module, import.name) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// Copies the module with its import of `proc_exit` renamed; nothing if it has none.
fn rename_proc_exit(module: &[u8]) -> Result<Option<Vec<u8>>, AdaptError> {
    let mut copy = Module::new();
    let mut renamed = false;
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(AdaptError::Read)?;
        if let Payload::ImportSection(section) = payload {
            let (imports, found) = rename_imports(section)?;
            renamed |= found;
            copy.section(&imports);
        } else if let Some((id, range)) = payload.as_section() {
            copy.section(&RawSection {
                id,
                data: &module[range],
            });
        }
    }
    Ok(renamed.then(|| copy.finish()))
}

fn rename_imports(section: ImportSectionReader<'_>) -> Result<(ImportSection, bool), AdaptError> {
    let mut imports = ImportSection::new();
    let mut found = false;
    for import in section.into_imports() {
        let import = import.map_err(AdaptError::Read)?;
        let ty = RoundtripReencoder
            .entity_type(import.ty)
            .map_err(|e| AdaptError::Rewrite(e.to_string()))?;
        if (import.module, import.name) == (WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, "proc_exit") {
            found = true;
            imports.import(EXIT_INTERFACE, EXIT_FUNCTION, ty);
        } else {
            imports.import(import.module, import.name, ty);
        }
    }
    Ok((imports, found))
}
