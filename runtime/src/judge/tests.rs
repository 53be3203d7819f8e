use super::*;
use proptest::prelude::*;

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the test's text is valid")
}

#[track_caller]
fn accepts(text: &str, kind: WorkloadKind) {
    assert_eq!(judge(&wasm(text)), Ok(kind), "{text}");
}

#[track_caller]
fn refuses(bytes: &[u8], expected: &str) {
    let refusal = judge(bytes).expect_err("it cannot run here").to_string();
    assert!(
        refusal.contains(expected),
        "`{refusal}` does not say `{expected}`"
    );
}

/// A component that imports and exports empty instances of the given names.
fn component(imports: &[&str], exports: &[&str]) -> Vec<u8> {
    let mut text = String::from("(component ");
    for import in imports {
        text.push_str(&format!("(import \"{import}\" (instance)) "));
    }
    for (i, export) in exports.iter().enumerate() {
        text.push_str(&format!(
            "(instance $e{i}) (export \"{export}\" (instance $e{i})) "
        ));
    }
    text.push(')');
    wasm(&text)
}

#[test]
fn a_preview1_module_is_a_command() {
    accepts(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
            (memory (export "memory") 1) (func (export "_start")))"#,
        WorkloadKind::Command,
    );
}

#[test]
fn the_exports_of_a_component_decide_its_kind() {
    let check = |exports: &[&str], kind| {
        assert_eq!(judge(&component(&[], exports)), Ok(kind), "{exports:?}");
    };
    check(&["wasi:cli/run@0.2.0"], WorkloadKind::Command);
    check(&["wasi:cli/run@0.2.12"], WorkloadKind::Command);
    check(&["wasi:http/incoming-handler@0.2.3"], WorkloadKind::Handler);
    check(
        &["wasi:cli/run@0.2.0", "wasi:http/incoming-handler@0.2.0"],
        WorkloadKind::Handler,
    );
}

#[test]
fn everything_of_wasi_0_2_may_be_imported() {
    let imports = [
        "wasi:cli/environment@0.2.0",
        "wasi:io/streams@0.2.6",
        "wasi:sockets/udp@0.2.12",
        "wasi:http/outgoing-handler@0.2.1",
    ];
    let kind = judge(&component(&imports, &["wasi:cli/run@0.2.0"]));
    assert_eq!(kind, Ok(WorkloadKind::Command));
}

#[test]
fn a_missing_import_is_refused_by_name() {
    let check = |import: &str, expected: &str| {
        refuses(&component(&[import], &["wasi:cli/run@0.2.0"]), expected);
    };
    check("fermyon:spin/llm@2.0.0", "`fermyon:spin/llm@2.0.0`");
    check(
        "wasi:keyvalue/store@0.2.0-draft",
        "`wasi:keyvalue/store@0.2.0-draft`",
    );
    check("wasi:cli/environment@0.3.0", "WASI 0.3 is not served yet");
    check("wasi:cli/environment", "`wasi:cli/environment`");
}

#[test]
fn a_missing_import_of_a_module_is_refused_by_name() {
    let check = |module: &str, name: &str, expected: &str| {
        let text = format!(
            r#"(module (import "{module}" "{name}" (func)) (memory (export "memory") 1)
                (func (export "_start")))"#
        );
        refuses(&wasm(&text), expected);
    };
    check("env", "emscripten_sleep", "`env.emscripten_sleep`");
    check("wasi_unstable", "fd_write", "preview 0");
    check("wasi", "thread-spawn", "threads are not served");
    check(
        "wasi_snapshot_preview1",
        "sock_open",
        "`wasi_snapshot_preview1.sock_open`",
    );
}

#[test]
fn a_program_without_an_entry_point_is_refused() {
    refuses(&wasm("(module)"), "`_start`");
    refuses(&wasm(r#"(module (func (export "_start")))"#), "`memory`");
    refuses(&component(&[], &[]), "wasi:cli/run@0.2");
    refuses(&component(&[], &["wasi:cli/run@0.3.0"]), "wasi:cli/run@0.2");
}

#[test]
fn exports_of_inner_components_do_not_count() {
    let inner =
        r#"(component (component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i))))"#;
    refuses(&wasm(inner), "wasi:cli/run@0.2");
}

#[test]
fn other_formats_are_named() {
    let mut tar = vec![0_u8; 512];
    tar[257..262].copy_from_slice(b"ustar");
    let check = |bytes: &[u8], expected| refuses(bytes, expected);
    check(b"", "an empty file");
    check(b"\x7fELF\x02\x01\x01", "an ELF file");
    check(b"MZ\x90\0", "Windows");
    check(b"\x1f\x8b\x08", "gzip");
    check(b"PK\x03\x04", "zip");
    check(b"#!/bin/sh\n", "a script");
    check(&tar, "a tar archive");
    check(b"  (module)", "WebAssembly text");
    check(b"{\"a\":1}", "JSON");
    check("grüße".as_bytes(), "it is text");
    check(&[0xff, 0xfe, 0, 1], "no format that is known");
}

#[test]
fn a_file_cut_short_is_damaged() {
    let whole = component(&["wasi:io/poll@0.2.0"], &["wasi:cli/run@0.2.0"]);
    refuses(&whole[..whole.len() - 3], "damaged");
    refuses(b"\0asm", "damaged");
}

proptest! {
    /// Whatever arrives, the judgement is an answer and never a panic.
    #[test]
    fn no_bytes_are_too_strange_to_judge(tail in proptest::collection::vec(any::<u8>(), 0..256)) {
        for head in [&b""[..], b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"] {
            let _ = judge(&[head, &tail].concat());
        }
    }
}
