//! What a program may import: the interfaces of WASI 0.2 that we serve, and preview 1.

use super::Refusal;
use crate::{fs, termination};

/// The WASI 0.2 interfaces that the linker serves.
const INTERFACES: [&str; 29] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// The functions of preview 1 that the adapter serves.
const PREVIEW1: [&str; 46] = [
    "args_get",
    "args_sizes_get",
    "environ_get",
    "environ_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_get",
    "fd_prestat_dir_name",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "sched_yield",
    "random_get",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// The module name of preview 1.
pub(super) const PREVIEW1_MODULE: &str = "wasi_snapshot_preview1";

/// Accepts the import `module.name` of a core module if preview 1 has it.
pub(super) fn preview1(module: &str, name: &str, function: bool) -> Result<(), Refusal> {
    let known = module == PREVIEW1_MODULE && PREVIEW1.contains(&name);
    if function && (known || termination::is_core_import(module, name)) {
        return Ok(());
    }
    let hint = match module {
        "wasi_unstable" => ": it was built for preview 0; rebuild it for `wasm32-wasip1` or later",
        "wasi" if name == "thread-spawn" => ": threads are not served",
        "env" => ": it was not built for WASI, or a library is missing from the link",
        _ => "",
    };
    Err(Refusal::Import {
        name: format!("{module}.{name}"),
        hint,
    })
}

/// Accepts the import `name` of a component if we serve that interface.
pub(super) fn component(name: &str) -> Result<(), Refusal> {
    let known = INTERFACES.iter().any(|known| is_preview2(name, known));
    if known || termination::is_interface(name) || fs::is_interface(name) {
        return Ok(());
    }
    let hint = match name.split_once('@') {
        Some((interface, version))
            if interface.starts_with("wasi:") && version.starts_with("0.3") =>
        {
            ": WASI 0.3 is not served yet"
        }
        Some((interface, _)) if interface.starts_with("wasi:") => {
            ": only stable WASI 0.2 is served"
        }
        _ => "",
    };
    Err(Refusal::Import {
        name: name.to_owned(),
        hint,
    })
}

/// Tells whether `name` is `interface` in some release of WASI 0.2.
pub(super) fn is_preview2(name: &str, interface: &str) -> bool {
    let Some((found, version)) = name.split_once('@') else {
        return false;
    };
    found == interface
        && semver::Version::parse(version)
            .is_ok_and(|v| (v.major, v.minor) == (0, 2) && v.pre.is_empty())
}
