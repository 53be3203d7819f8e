//! Guests that fill, tangle and churn their file system. Codes are those of preview 1's `errno`.

use super::preview1::program;
use super::{Fate, check, check_with};
use coracle_runtime::SandboxSpec;

/// `nospc`.
const NO_SPACE: i32 = 51;
/// `nomem`: what the adapter of preview 1 says when its descriptors are used up.
const NO_DESCRIPTORS: i32 = 48;
/// `nametoolong`.
const NAME_TOO_LONG: i32 = 37;
/// `loop`.
const LOOP: i32 = 32;

/// Does `step` with `$n` counting from 0 until it exits.
fn repeats(step: &str) -> Vec<u8> {
    program(&format!(
        "(local $n i32)
         (loop $again
            (call $name (local.get $n))
            {step}
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br $again))"
    ))
}

#[tokio::test]
async fn one_opens_descriptors_without_end() {
    check(
        &repeats("(call $must (call $create))"),
        Fate::Exits(NO_DESCRIPTORS),
    )
    .await;
}

#[tokio::test]
async fn one_creates_files_without_end() {
    let creates = repeats("(call $must (call $create)) (call $close)");
    check(&creates, Fate::Exits(NO_SPACE)).await;
}

#[tokio::test]
async fn one_makes_folders_without_end() {
    let makes = repeats(
        "(call $must (call $path_create_directory (i32.const 3) (i32.const 1024) (i32.const 8)))",
    );
    check(&makes, Fate::Exits(NO_SPACE)).await;
}

/// Names are held in our memory, so they are its own.
#[tokio::test]
async fn one_makes_more_folders_than_it_has_memory_for() {
    let makes = repeats(
        "(call $must (call $path_create_directory (i32.const 3) (i32.const 1024) (i32.const 8)))",
    );
    let limited = |spec: &mut SandboxSpec, _: &super::Neighbourhood| {
        spec.limits.memory = Some(4 << 20);
    };
    check_with(&makes, Fate::OutOfMemory, limited).await;
}

#[tokio::test]
async fn one_makes_links_without_end() {
    // The target has to be text, and a name of it no longer than a name may be.
    let links = repeats(
        "(memory.fill (i32.const 65536) (i32.const 97) (i32.const 200))
         (call $must (call $path_symlink (i32.const 65536) (i32.const 200) (i32.const 3)
            (i32.const 1024) (i32.const 8)))",
    );
    check(&links, Fate::Exits(NO_SPACE)).await;
}

#[tokio::test]
async fn one_fills_its_layer() {
    let fills = program(
        "(call $name (i32.const 0))
         (call $must (call $create))
         (i32.store (i32.const 0) (i32.const 65536))
         (i32.store (i32.const 4) (i32.const 65536))
         (loop $again
            (call $must (call $fd_write (i32.load (i32.const 512)) (i32.const 0) (i32.const 1)
                (i32.const 64)))
            (br $again))",
    );
    check(&fills, Fate::Exits(NO_SPACE)).await;
}

/// Makes a file and does `step` with its descriptor.
fn with_a_file(step: &str) -> Vec<u8> {
    program(&format!(
        "(call $name (i32.const 0)) (call $must (call $create)) {step}"
    ))
}

#[tokio::test]
async fn one_makes_a_huge_sparse_file() {
    let sizes = with_a_file(
        "(call $must (call $fd_filestat_set_size (i32.load (i32.const 512))
            (i64.const 0x3fffffffffffffff)))",
    );
    check(&sizes, Fate::Exits(NO_SPACE)).await;
}

#[tokio::test]
async fn one_writes_far_behind_the_end_of_a_file() {
    let writes = with_a_file(
        "(i32.store (i32.const 0) (i32.const 65536))
         (i32.store (i32.const 4) (i32.const 1))
         (call $must (call $fd_pwrite (i32.load (i32.const 512)) (i32.const 0) (i32.const 1)
            (i64.const 0x3fffffffffffffff) (i32.const 64)))",
    );
    check(&writes, Fate::Exits(NO_SPACE)).await;
}

#[tokio::test]
async fn one_uses_a_very_long_path() {
    let uses = program(
        "(memory.fill (i32.const 65536) (i32.const 97) (i32.const 131072))
         (call $must (call $path_create_directory (i32.const 3) (i32.const 65536)
            (i32.const 131072)))",
    );
    check(&uses, Fate::Exits(NAME_TOO_LONG)).await;
}

#[tokio::test]
async fn one_nests_folders_until_no_path_leads_to_them() {
    // The path at 65536 is `a`, `a/a`, `a/a/a` …
    let nests = program(
        "(local $length i32)
         (local.set $length (i32.const 1))
         (loop $again
            (i32.store8 (i32.add (i32.const 65535) (local.get $length)) (i32.const 97))
            (call $must (call $path_create_directory (i32.const 3) (i32.const 65536)
                (local.get $length)))
            (i32.store8 (i32.add (i32.const 65536) (local.get $length)) (i32.const 47))
            (local.set $length (i32.add (local.get $length) (i32.const 2)))
            (br $again))",
    );
    check(&nests, Fate::Exits(NAME_TOO_LONG)).await;
}

#[tokio::test]
async fn one_follows_links_that_lead_to_each_other() {
    let follows = program(
        "(local $n i32)
         (i32.store8 (i32.const 0) (i32.const 97))
         (i32.store8 (i32.const 1) (i32.const 98))
         (call $must (call $path_symlink (i32.const 0) (i32.const 1) (i32.const 3) (i32.const 1)
            (i32.const 1)))
         (call $must (call $path_symlink (i32.const 1) (i32.const 1) (i32.const 3) (i32.const 0)
            (i32.const 1)))
         (loop $again
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.and
                (i32.lt_u (local.get $n) (i32.const 1000))
                (i32.ne (i32.const 0) (call $path_open (i32.const 3) (i32.const 1) (i32.const 0)
                    (i32.const 1) (i32.const 0) (i64.const 0x42) (i64.const 0) (i32.const 0)
                    (i32.const 512))))))
         (call $must (call $path_open (i32.const 3) (i32.const 1) (i32.const 0) (i32.const 1)
            (i32.const 0) (i64.const 0x42) (i64.const 0) (i32.const 0) (i32.const 512)))",
    );
    check(&follows, Fate::Exits(LOOP)).await;
}

#[tokio::test]
async fn one_renames_in_a_loop() {
    let renames = with_a_file(
        "(memory.copy (i32.const 2048) (i32.const 1024) (i32.const 8))
         (call $name (i32.const 1))
         (loop $again
            (call $must (call $path_rename (i32.const 3) (i32.const 2048) (i32.const 8) (i32.const 3)
                (i32.const 1024) (i32.const 8)))
            (call $must (call $path_rename (i32.const 3) (i32.const 1024) (i32.const 8) (i32.const 3)
                (i32.const 2048) (i32.const 8)))
            (br $again))",
    );
    check(&renames, Fate::GoesOn).await;
}

#[tokio::test]
async fn one_reads_a_folder_while_it_changes_it() {
    let reads = program(
        "(local $n i32)
         (loop $again
            (call $name (i32.rem_u (local.get $n) (i32.const 512)))
            (call $must (call $create))
            (call $close)
            (call $must (call $fd_readdir (i32.const 3) (i32.const 65536) (i32.const 4096)
                (i64.extend_i32_u (i32.rem_u (local.get $n) (i32.const 700))) (i32.const 64)))
            (call $name (i32.rem_u (i32.mul (local.get $n) (i32.const 7)) (i32.const 512)))
            (drop (call $path_unlink_file (i32.const 3) (i32.const 1024) (i32.const 8)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br $again))",
    );
    check(&reads, Fate::GoesOn).await;
}

#[tokio::test]
async fn one_writes_and_removes_in_a_loop() {
    let churns = repeats(
        "(call $must (call $create))
         (i32.store (i32.const 0) (i32.const 65536))
         (i32.store (i32.const 4) (i32.const 65536))
         (call $must (call $fd_write (i32.load (i32.const 512)) (i32.const 0) (i32.const 1)
            (i32.const 64)))
         (call $must (call $path_unlink_file (i32.const 3) (i32.const 1024) (i32.const 8)))
         (call $close)",
    );
    check(&churns, Fate::GoesOn).await;
}

#[tokio::test]
async fn one_uses_names_that_are_no_text() {
    let uses = program(
        "(i32.store (i32.const 1024) (i32.const 0xfffefdff))
         (call $must (call $create))",
    );
    check(&uses, Fate::Traps).await;
}
