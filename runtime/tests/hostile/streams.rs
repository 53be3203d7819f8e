//! Guests that flood, wait, and ask for randomness.

use super::preview1::{module, program};
use super::{Fate, check, check_with};
use coracle_runtime::{ExitCause, Output, SandboxSpec};
use std::sync::Arc;
use std::task::{Context, Poll};

/// Writes 64 KiB of `byte` to `descriptor` again and again.
fn floods(descriptor: u32, byte: u8) -> Vec<u8> {
    program(&format!(
        "(memory.fill (i32.const 65536) (i32.const {byte}) (i32.const 65536))
         (i32.store (i32.const 0) (i32.const 65536))
         (i32.store (i32.const 4) (i32.const 65536))
         (loop $again
            (call $must (call $fd_write (i32.const {descriptor}) (i32.const 0) (i32.const 1)
                (i32.const 64)))
            (br $again))"
    ))
}

#[tokio::test]
async fn one_floods_standard_output_with_empty_lines() {
    check(&floods(1, b'\n'), Fate::GoesOn).await;
}

#[tokio::test]
async fn one_floods_standard_error_without_a_line_break() {
    check(&floods(2, b'x'), Fate::GoesOn).await;
}

#[tokio::test]
async fn one_writes_single_bytes_without_end() {
    let writes = program(
        "(i32.store (i32.const 4) (i32.const 1))
         (loop $again
            (call $must (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))
            (br $again))",
    );
    check(&writes, Fate::GoesOn).await;
}

/// Takes nothing, ever.
struct NeverReads;

impl Output for NeverReads {
    fn write(&self, _bytes: &[u8]) -> usize {
        0
    }

    fn poll_ready(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

#[tokio::test]
async fn one_writes_to_a_reader_that_never_reads() {
    let deaf = |spec: &mut SandboxSpec, _: &_| spec.stdout = Arc::new(NeverReads);
    check_with(&floods(1, b'x'), Fate::GoesOn, deaf).await;
}

#[tokio::test]
async fn one_reads_input_that_has_ended_without_end() {
    let reads = program(
        "(i32.store (i32.const 0) (i32.const 65536))
         (i32.store (i32.const 4) (i32.const 65536))
         (loop $again
            (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 64)))
            (br $again))",
    );
    check(&reads, Fate::GoesOn).await;
}

/// Waits on `count` clocks of `nanos` again and again; must have room for them.
fn waits(count: u32, nanos: u64) -> Vec<u8> {
    program(&format!(
        "(local $n i32)
         (loop $fill
            (i32.store8 (i32.add (i32.const 65544) (i32.mul (local.get $n) (i32.const 48)))
                (i32.const 0))
            (i32.store (i32.add (i32.const 65552) (i32.mul (local.get $n) (i32.const 48)))
                (i32.const 1))
            (i64.store (i32.add (i32.const 65560) (i32.mul (local.get $n) (i32.const 48)))
                (i64.const {nanos}))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $fill (i32.lt_u (local.get $n) (i32.const {count}))))
         (loop $again
            (call $must (call $poll_oneoff (i32.const 65536) (i32.const 2048) (i32.const {count})
                (i32.const 64)))
            (br $again))"
    ))
}

#[tokio::test]
async fn one_waits_for_no_time_at_all_without_end() {
    check(&waits(1, 0), Fate::GoesOn).await;
}

#[tokio::test]
async fn one_waits_for_the_longest_time_there_is() {
    check(&waits(1, u64::MAX), Fate::GoesOn).await;
}

#[tokio::test]
async fn one_asks_for_gigabytes_of_randomness() {
    let asks = program("(call $must (call $random_get (i32.const 0) (i32.const 0xfff00000)))");
    check(&asks, Fate::Traps).await;
}

/// What a program of preview 1 asks for in one call it gets in one call.
#[tokio::test]
async fn one_call_for_many_random_bytes_is_served() {
    let hood = super::Neighbourhood::new().await;
    let layer = tempfile::tempdir().expect("a folder");
    // Three mebibytes, of which the last byte is looked at as often as it takes to be another than 0.
    let asks = module(
        "(memory (export \"memory\") 64)",
        "(loop $again
            (call $must (call $random_get (i32.const 65536) (i32.const 3145728)))
            (br_if $again (i32.eqz (i32.load8_u (i32.const 3211263)))))",
    );
    let descriptors = super::open_descriptors();
    let instance = hood.container(&asks, &layer).await.start();
    let exit = instance.exited().await;
    assert_eq!((exit.code, exit.cause), (0, ExitCause::Exited));
    hood.unharmed(instance, descriptors).await;
}

#[tokio::test]
async fn one_asks_for_more_randomness_than_it_may_have() {
    let asks = module(
        "(memory (export \"memory\") 64)",
        "(call $must (call $random_get (i32.const 65536) (i32.const 3145728)))",
    );
    // Its memory fits, and what we would hold for it does not.
    let limited = |spec: &mut SandboxSpec, _: &super::Neighbourhood| {
        spec.limits.memory = Some(6 << 20);
    };
    check_with(&asks, Fate::OutOfMemory, limited).await;
}

#[tokio::test]
async fn one_asks_for_randomness_without_end() {
    let asks = program(
        "(loop $again
            (call $must (call $random_get (i32.const 65536) (i32.const 65536)))
            (br $again))",
    );
    check(&asks, Fate::GoesOn).await;
}
