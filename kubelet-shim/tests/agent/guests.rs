//! Guests small enough to be read: preview 1 modules in text form.

/// Writes a line and ends with `code`.
pub(crate) fn says_and_exits(line: &str, code: u32) -> Vec<u8> {
    prints_and_exits(&format!("{line}\\n"), line.len() + 1, code)
}

/// Writes a line without its line feed and ends with `code`.
pub(crate) fn breaks_off_and_exits(line: &str, code: u32) -> Vec<u8> {
    prints_and_exits(line, line.len(), code)
}

fn prints_and_exits(text: &str, length: usize, code: u32) -> Vec<u8> {
    module(&format!(
        r#"(data (i32.const 16) "{text}")
           (func (export "_start")
             (i32.store (i32.const 0) (i32.const 16))
             (i32.store (i32.const 4) (i32.const {length}))
             (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
             (call $exit (i32.const {code})))"#
    ))
}

/// Never ends by itself.
pub(crate) fn spins() -> Vec<u8> {
    module(r#"(func (export "_start") (loop $again (br $again)))"#)
}

/// Writes a line and never ends by itself.
pub(crate) fn says_and_spins(line: &str) -> Vec<u8> {
    let text = format!("{line}\\n");
    let length = line.len() + 1;
    module(&format!(
        r#"(data (i32.const 16) "{text}")
           (func (export "_start")
             (i32.store (i32.const 0) (i32.const 16))
             (i32.store (i32.const 4) (i32.const {length}))
             (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
             (loop $again (br $again)))"#
    ))
}

/// Breaks a rule.
pub(crate) fn traps() -> Vec<u8> {
    module(r#"(func (export "_start") unreachable)"#)
}

/// Writes its environment, then a file, to standard output.
pub(crate) fn shows_environment_and(path: &str) -> Vec<u8> {
    let length = path.len();
    module(&format!(
        r#"(data (i32.const 64) "{path}")
           (global $size (mut i32) (i32.const 0))
           (func $say (param $at i32) (param $length i32)
             (i32.store (i32.const 0) (local.get $at))
             (i32.store (i32.const 4) (local.get $length))
             (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
           (func (export "_start")
             (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
             (drop (call $environ_get (i32.const 1024) (i32.const 4096)))
             (call $say (i32.const 4096) (i32.load (i32.const 20)))
             (drop (call $path_open (i32.const 3) (i32.const 1) (i32.const 64) (i32.const {length})
               (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 24)))
             (i32.store (i32.const 0) (i32.const 32768))
             (i32.store (i32.const 4) (i32.const 4096))
             (drop (call $fd_read (i32.load (i32.const 24)) (i32.const 0) (i32.const 1) (i32.const 28)))
             (call $say (i32.const 32768) (i32.load (i32.const 28)))
             (i32.store8 (i32.const 40) (i32.const 10))
             (call $say (i32.const 40) (i32.const 1)))"#
    ))
}

/// Writes its arguments to standard output, each with a NUL behind it.
pub(crate) fn says_arguments() -> Vec<u8> {
    module(
        r#"(func (export "_start")
             (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
             (drop (call $args_get (i32.const 1024) (i32.const 4096)))
             (i32.store (i32.const 0) (i32.const 4096))
             (i32.store (i32.const 4) (i32.load (i32.const 20)))
             (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))"#,
    )
}

/// Writes a file, and never ends by itself when `then` is `again`.
pub(crate) fn writes(path: &str, content: &str, then: &str) -> Vec<u8> {
    let (path_length, length) = (path.len(), content.len());
    let last = if then == "again" {
        "(loop $again (br $again))"
    } else {
        ""
    };
    module(&format!(
        r#"(data (i32.const 64) "{path}")
           (data (i32.const 4096) "{content}")
           (func (export "_start")
             (drop (call $path_open (i32.const 3) (i32.const 1) (i32.const 64) (i32.const {path_length})
               (i32.const 9) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 24)))
             (i32.store (i32.const 0) (i32.const 4096))
             (i32.store (i32.const 4) (i32.const {length}))
             (drop (call $fd_write (i32.load (i32.const 24)) (i32.const 0) (i32.const 1) (i32.const 28)))
             {last})"#
    ))
}

fn module(body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
             (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
             (import "wasi_snapshot_preview1" "fd_write"
               (func $fd_write (param i32 i32 i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "fd_read"
               (func $fd_read (param i32 i32 i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "args_sizes_get"
               (func $args_sizes_get (param i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "args_get"
               (func $args_get (param i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "environ_sizes_get"
               (func $environ_sizes_get (param i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "environ_get"
               (func $environ_get (param i32 i32) (result i32)))
             (import "wasi_snapshot_preview1" "path_open"
               (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
             (memory (export "memory") 2)
             {body})"#
    );
    wat::parse_str(text).expect("a module")
}
