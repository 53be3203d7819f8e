//! Modules of WASI preview 1, written as the body of `_start`.

/// Every function of preview 1 with its parameters: `i` for 32 bits, `I` for 64. All return a number, but
/// `proc_exit`.
pub(super) const CALLS: [(&str, &str); 46] = [
    ("args_get", "ii"),
    ("args_sizes_get", "ii"),
    ("environ_get", "ii"),
    ("environ_sizes_get", "ii"),
    ("clock_res_get", "ii"),
    ("clock_time_get", "iIi"),
    ("fd_advise", "iIIi"),
    ("fd_allocate", "iII"),
    ("fd_close", "i"),
    ("fd_datasync", "i"),
    ("fd_fdstat_get", "ii"),
    ("fd_fdstat_set_flags", "ii"),
    ("fd_fdstat_set_rights", "iII"),
    ("fd_filestat_get", "ii"),
    ("fd_filestat_set_size", "iI"),
    ("fd_filestat_set_times", "iIIi"),
    ("fd_pread", "iiiIi"),
    ("fd_prestat_get", "ii"),
    ("fd_prestat_dir_name", "iii"),
    ("fd_pwrite", "iiiIi"),
    ("fd_read", "iiii"),
    ("fd_readdir", "iiiIi"),
    ("fd_renumber", "ii"),
    ("fd_seek", "iIii"),
    ("fd_sync", "i"),
    ("fd_tell", "ii"),
    ("fd_write", "iiii"),
    ("path_create_directory", "iii"),
    ("path_filestat_get", "iiiii"),
    ("path_filestat_set_times", "iiiiIIi"),
    ("path_link", "iiiiiii"),
    ("path_open", "iiiiiIIii"),
    ("path_readlink", "iiiiii"),
    ("path_remove_directory", "iii"),
    ("path_rename", "iiiiii"),
    ("path_symlink", "iiiii"),
    ("path_unlink_file", "iii"),
    ("poll_oneoff", "iiii"),
    ("proc_exit", "i"),
    ("proc_raise", "i"),
    ("sched_yield", ""),
    ("random_get", "ii"),
    ("sock_accept", "iii"),
    ("sock_recv", "iiiiii"),
    ("sock_send", "iiiii"),
    ("sock_shutdown", "ii"),
];

/// A module whose `_start` is `body`, which may call every function of preview 1 by its name, and:
///
/// * `$name n`: writes `n` as eight hexadecimal digits at 1024;
/// * `$must e`: exits with `e` unless it is 0;
/// * `$create`: opens the file named at 1024, made if need be, and returns what that returned; its
///   descriptor is at 512;
/// * `$close`: closes the descriptor at 512.
pub(super) fn program(body: &str) -> Vec<u8> {
    module("(memory (export \"memory\") 4)", body)
}

/// Like [`program`], with `fields` in place of its memory.
pub(super) fn module(fields: &str, body: &str) -> Vec<u8> {
    let code = format!("{fields} {HELPERS} (func (export \"_start\") {body})");
    let imports: String = CALLS
        .iter()
        .filter(|(name, _)| code.contains(&format!("${name} ")) || code.contains(&format!("${name})")))
        .map(|(name, params)| {
            let params: Vec<_> = params.chars().map(wasm_type).collect();
            let result = if *name == "proc_exit" { "" } else { "(result i32)" };
            let params = params.join(" ");
            format!(
                r#"(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {params}) {result}))"#
            )
        })
        .collect();
    wat::parse_str(format!("(module {imports} {code})")).expect("the text of a guest is valid")
}

fn wasm_type(letter: char) -> &'static str {
    match letter {
        'I' => "i64",
        _ => "i32",
    }
}

/// A call of `name` in which every number of 32 bits is `narrow` and every one of 64 is `wide`.
pub(super) fn call(name: &str, params: &str, narrow: u32, wide: u64) -> String {
    let arguments: String = params
        .chars()
        .map(|letter| match letter {
            'I' => format!("(i64.const {wide:#x}) "),
            _ => format!("(i32.const {narrow:#x}) "),
        })
        .collect();
    format!("(call ${name} {arguments})")
}

const HELPERS: &str = "
    (func $name (param $n i32) (local $at i32)
        (local.set $at (i32.const 1032))
        (loop $again
            (local.set $at (i32.sub (local.get $at) (i32.const 1)))
            (i32.store8 (local.get $at)
                (i32.add (i32.const 97) (i32.and (local.get $n) (i32.const 15))))
            (local.set $n (i32.shr_u (local.get $n) (i32.const 4)))
            (br_if $again (i32.gt_u (local.get $at) (i32.const 1024)))))
    (func $must (param $e i32)
        (if (local.get $e) (then (call $proc_exit (local.get $e)) unreachable)))
    (func $create (result i32)
        (call $path_open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 8) (i32.const 1)
            (i64.const 0x42) (i64.const 0) (i32.const 0) (i32.const 512)))
    (func $close (drop (call $fd_close (i32.load (i32.const 512)))))
";
