//! Guests that want all descriptors of the process, which has few: the test starts itself with a limit.

use super::preview1::program;
use super::{Fate, Neighbourhood, check, check_with};
use coracle_runtime::SandboxSpec;
use coracle_runtime::fs::{
    Access, FileSystem, FileSystemSpec, Mount, MountSource, Tree, Upper, User,
};
use std::sync::Arc;

/// Says that this process is the one with the limit.
const LIMITED: &str = "CORACLE_TEST_FEW_DESCRIPTORS";
/// What the process may open: little more than the 125 files that the adapter of preview 1 lets a guest have.
const DESCRIPTORS: usize = 128;
/// What a pod has, however few there are.
const OF_POD: usize = 16;
/// `nomem`: what a guest is told for want of descriptors, its own or its pod's.
const NO_DESCRIPTORS: i32 = 48;

/// Runs a test in a process of its own, since the limit is the process's.
fn limited(name: &str, test: impl Future<Output = ()>) {
    if std::env::var_os(LIMITED).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        return runtime.expect("a runtime for the test").block_on(test);
    }
    let exe = std::env::current_exe().expect("the test has a path");
    let ended = std::process::Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\""),
        ])
        .arg(exe)
        .args(["--exact", name])
        .env(LIMITED, "1")
        .output()
        .expect("the test starts");
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{told}");
    assert!(told.contains("1 passed"), "{told}");
}

/// Makes files without end, does `step` with each, and keeps them open.
fn opens(step: &str) -> Vec<u8> {
    program(&format!(
        "(local $n i32)
         (i32.store (i32.const 0) (i32.const 65536))
         (i32.store (i32.const 4) (i32.const 1))
         (loop $again
            (call $name (local.get $n))
            {step}
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br $again))"
    ))
}

/// In a folder of the machine, mounted at `/m`, each open file is a descriptor.
#[test]
fn one_keeps_files_of_a_host_folder_open_without_end() {
    limited(
        "descriptors::one_keeps_files_of_a_host_folder_open_without_end",
        async {
            let folder = tempfile::tempdir().expect("a folder");
            let mounted = |spec: &mut SandboxSpec, _: &Neighbourhood| {
                let files = FileSystem::new(FileSystemSpec {
                    root: Arc::new(Tree::empty()),
                    upper: Upper::ReadOnly,
                    mounts: vec![Mount {
                        path: "/m".to_owned(),
                        source: MountSource::HostDir(folder.path().to_owned()),
                        sub_path: None,
                        access: Access::ReadWrite,
                        group: None,
                    }],
                    user: User::default(),
                });
                spec.files = files.expect("a root with a mount");
            };
            // `m/` in place of the first two digits.
            let guest = opens(
                "(i32.store16 (i32.const 1024) (i32.const 0x2f6d)) (call $must (call $create))",
            );
            check_with(&guest, Fate::Exits(NO_DESCRIPTORS), mounted).await;
            let made = std::fs::read_dir(folder.path()).expect("it is there");
            assert_eq!(made.count(), OF_POD);
        },
    );
}

/// In its own layer they are closed and opened again, so that it has as many as any container.
#[test]
fn one_keeps_more_written_files_open_than_there_are_descriptors() {
    const MORE: usize = 120;
    limited(
        "descriptors::one_keeps_more_written_files_open_than_there_are_descriptors",
        async {
            let guest = opens(&format!(
                "(if (i32.eq (local.get $n) (i32.const {MORE})) (then (call $proc_exit (i32.const 7))))
                 (call $must (call $create))
                 (call $must (call $fd_write (i32.load (i32.const 512)) (i32.const 0)
                    (i32.const 1) (i32.const 64)))"
            ));
            check(&guest, Fate::Exits(7)).await;
        },
    );
}
