//! Compiled code: once per machine, believed only while it is unharmed.

use crate::guests;
use crate::world::{World, compiler, digest, prepare, runtime};
use bytes::Bytes;
use coracle_runtime::{Code, CodeBytes, CompilerCommand, PrepareError, Program, Runtime};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A cache of its own, with a file that counts the compiler's starts.
struct Lonely {
    folder: TempDir,
}

impl Lonely {
    fn new() -> Self {
        Self {
            folder: TempDir::new().expect("a folder"),
        }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn runtime(&self) -> Runtime {
        let count = self.folder.path().join("count");
        let count = count
            .to_str()
            .expect("a temporary folder has a readable name");
        runtime(&self.cache(), compiler(&["--count", count]))
    }

    fn compilations(&self) -> u64 {
        fs::metadata(self.folder.path().join("count")).map_or(0, |meta| meta.len())
    }

    /// The only file of the cache that ends with `extension`.
    fn file(&self, extension: &str) -> PathBuf {
        let mut found = Vec::new();
        for folder in fs::read_dir(self.cache()).expect("the cache is there") {
            for file in fs::read_dir(folder.expect("readable").path()).expect("readable") {
                let path = file.expect("readable").path();
                if path.extension().is_some_and(|e| e == extension) {
                    found.push(path);
                }
            }
        }
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }
}

/// A compiler that cannot be started.
fn no_compiler() -> CompilerCommand {
    CompilerCommand {
        program: Path::new("/nowhere/compiler").to_owned(),
        args: Vec::new(),
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn works(program: &Result<Program, PrepareError>) {
    if let Err(error) = program {
        panic!("{}", chain(error));
    }
}

#[tokio::test]
async fn a_warm_start_compiles_nothing() {
    let place = Lonely::new();
    works(&prepare(&place.runtime(), &guests::exits(1)).await);
    let warm = runtime(&place.cache(), no_compiler());
    works(&prepare(&warm, &guests::exits(1)).await);
    let cold = prepare(&warm, &guests::exits(2))
        .await
        .expect_err("nothing compiles it");
    assert!(
        chain(&cold).contains("/nowhere/compiler"),
        "{}",
        chain(&cold)
    );
}

#[tokio::test]
async fn prepared_code_is_shared_and_loaded_once() {
    let place = Lonely::new();
    let runtime = place.runtime();
    let wasm = guests::exits(1);
    let programs = futures_util::future::join_all((0..8).map(|_| prepare(&runtime, &wasm))).await;
    programs.iter().for_each(works);
    assert_eq!(place.compilations(), 1);
}

#[tokio::test]
async fn processes_that_share_a_folder_compile_once() {
    let place = Lonely::new();
    let wasm = guests::exits(1);
    let (one, two) = (place.runtime(), place.runtime());
    let (one, two) = tokio::join!(prepare(&one, &wasm), prepare(&two, &wasm));
    works(&one);
    works(&two);
    assert_eq!(place.compilations(), 1);
}

async fn recovers_from(damage: impl FnOnce(&Lonely)) {
    let place = Lonely::new();
    works(&prepare(&place.runtime(), &guests::exits(1)).await);
    damage(&place);
    works(&prepare(&place.runtime(), &guests::exits(1)).await);
    assert_eq!(place.compilations(), 2);
    works(&prepare(&runtime(&place.cache(), no_compiler()), &guests::exits(1)).await);
}

#[tokio::test]
async fn damaged_code_is_made_again() {
    recovers_from(|place| {
        let path = place.file("cwasm");
        let mut code = fs::read(&path).expect("readable");
        let middle = code.len() / 2;
        code[middle] ^= 1;
        fs::write(&path, code).expect("writable");
    })
    .await;
}

#[tokio::test]
async fn code_cut_short_is_made_again() {
    recovers_from(|place| {
        let path = place.file("cwasm");
        let code = fs::read(&path).expect("readable");
        fs::write(&path, &code[..code.len() / 2]).expect("writable");
    })
    .await;
}

#[tokio::test]
async fn code_without_its_sidecar_is_made_again() {
    recovers_from(|place| fs::remove_file(place.file("json")).expect("removable")).await;
}

// Right by its checksum, and still nothing that the engine takes.
#[tokio::test]
async fn code_that_does_not_load_is_made_again() {
    recovers_from(|place| {
        let junk = b"this is no machine code";
        fs::write(place.file("cwasm"), junk).expect("writable");
        let sum = digest(junk).trim_start_matches("sha256:").to_owned();
        let sidecar = format!(r#"{{"sha256":"{sum}","command":true,"handler":false}}"#);
        fs::write(place.file("json"), sidecar).expect("writable");
    })
    .await;
}

#[tokio::test]
async fn a_crash_of_the_compiler_fails_one_preparation() {
    let place = Lonely::new();
    let crashing = runtime(&place.cache(), compiler(&["--crash"]));
    let error = prepare(&crashing, &guests::exits(1))
        .await
        .expect_err("it crashes");
    let text = chain(&error);
    assert!(text.contains("the compiler ended with"), "{text}");
    assert!(text.contains("the compiler met its end"), "{text}");
    works(&prepare(&place.runtime(), &guests::exits(1)).await);
}

#[tokio::test]
async fn bytes_with_another_digest_are_not_kept_under_it() {
    let place = Lonely::new();
    let runtime = place.runtime();
    let bytes = CodeBytes::InMemory(Bytes::from(guests::exits(1)));
    let lie = Code {
        digest: digest(b"something else"),
        bytes: bytes.clone(),
    };
    let error = runtime.prepare(lie).await.expect_err("the digest lies");
    assert!(chain(&error).contains("not `sha256:"), "{}", chain(&error));
    let nonsense = Code {
        digest: "../../etc/passwd".into(),
        bytes,
    };
    let error = runtime.prepare(nonsense).await.expect_err("no digest");
    assert!(matches!(error, PrepareError::Digest(_)), "{error}");
}

#[tokio::test]
async fn a_program_that_cannot_run_here_is_refused_by_name() {
    let world = World::new();
    let check = async |wasm: &[u8], expected: &str| {
        let error = prepare(&world.runtime, wasm).await.expect_err("refused");
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    };
    check(b"\x7fELF\x02\x01\x01", "an ELF file").await;
    let missing = wat::parse_str(
        r#"(component (import "a:b/c@1.0.0" (instance))
        (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#,
    );
    check(&missing.expect("valid"), "`a:b/c@1.0.0`").await;
    // Its imports are all known, but one of them has another type than ours.
    let twisted = wat::parse_str(
        r#"(component
        (import "wasi:cli/exit@0.2.0" (instance (export "exit" (func (param "code" string)))))
        (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#,
    );
    check(&twisted.expect("valid"), "wasi:cli/exit@0.2.0").await;
}
