//! The programs that figures are held against: found on the path, or named as missing.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::workspace::{call, cargo};

/// A program, and how to come by it where it is missing.
struct Peer {
    program: &'static str,
    /// The benchmarks that hold something against it.
    benches: &'static [&'static str],
    hint: &'static str,
}

/// All of them.
const PEERS: &[Peer] = &[
    Peer {
        program: "wrk",
        benches: &["edge", "handler"],
        hint: "the client; without it there are no figures (Debian: wrk)",
    },
    Peer {
        program: "haproxy",
        benches: &["edge"],
        hint: "Debian: haproxy",
    },
    Peer {
        program: "nginx",
        benches: &["edge"],
        hint: "Debian: nginx, libnginx-mod-stream",
    },
    Peer {
        program: "nft",
        benches: &["edge"],
        hint: "Debian: nftables; needs root",
    },
    Peer {
        program: "wasmtime",
        benches: &["handler"],
        hint: "`--build-peers` builds it",
    },
    Peer {
        program: "skopeo",
        benches: &["pull"],
        hint: "Debian: skopeo",
    },
    Peer {
        program: "docker-registry",
        benches: &["pull"],
        hint: "what is pulled from; without it there are no figures (Debian: docker-registry)",
    },
];

/// The line of releases that the engine is taken from, so that both have the same compiler.
const WASMTIME: &str = "^48";

/// What `wasmtime serve` needs and what costs it time as it is handed out; without the other subcommands
/// there is half as much to compile.
const WASMTIME_FEATURES: &str = "run,serve,cranelift,parallel-compilation,pooling-allocator,component-model,\
                                 component-model-async,backtrace,threads,gc,gc-drc";

/// Returns the path with the folder of built peers in front.
pub(super) fn path(target: &Path) -> anyhow::Result<std::ffi::OsString> {
    let given = env::var_os("PATH").unwrap_or_default();
    let folders = [folder(target).join("bin")]
        .into_iter()
        .chain(env::split_paths(&given));
    env::join_paths(folders).context("the target folder's name cannot stand in `PATH`")
}

/// Says which peers of `benches` are found on `path` and which are missing.
pub(super) fn tell(benches: &[&str], path: &std::ffi::OsStr) {
    for peer in PEERS {
        if !peer.benches.iter().any(|bench| benches.contains(bench)) {
            continue;
        }
        match find(peer.program, path) {
            Some(found) => eprintln!("peer {}: {}", peer.program, found.display()),
            None => eprintln!("peer {}: MISSING ({})", peer.program, peer.hint),
        }
    }
}

/// Builds the peers that no distribution has, into the target folder. That takes many minutes; what is
/// built already is kept.
///
/// # Errors
///
/// Fails when cargo does.
pub(super) fn build(target: &Path) -> anyhow::Result<()> {
    let folder = folder(target);
    let target = folder.join("target");
    call(
        cargo()
            .args(["install", "wasmtime-cli", "--version", WASMTIME, "--locked"])
            .args(["--no-default-features", "--features", WASMTIME_FEATURES])
            .arg("--root")
            .arg(&folder)
            .arg("--target-dir")
            .arg(&target)
            // The workspace's configuration is ours, not theirs.
            .current_dir(env::temp_dir()),
    )?;
    // Gigabytes, and of no further use.
    std::fs::remove_dir_all(&target)
        .or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
        .with_context(|| format!("failed to remove `{}`", target.display()))
}

fn folder(target: &Path) -> PathBuf {
    target.join("bench/peers")
}

fn find(program: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    let places = env::split_paths(path).map(|folder| folder.join(program));
    places.into_iter().find(|place| place.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_peers_come_first() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let built = folder.path().join("bench/peers/bin");
        std::fs::create_dir_all(&built).expect("a folder");
        std::fs::write(built.join("wasmtime"), "").expect("a file");
        let path = path(folder.path()).expect("a path");
        assert_eq!(find("wasmtime", &path), Some(built.join("wasmtime")));
        assert_eq!(find("no such program", &path), None);
    }
}
