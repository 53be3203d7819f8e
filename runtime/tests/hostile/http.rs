//! Handlers that never answer, answer too much or too often, and guests that ask without end.

use super::{Fate, Neighbourhood, ask, check_with, open_descriptors};
use crate::guests;
use crate::world::PORT;
use coracle_runtime::{ExitCause, SandboxSpec};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What a client of a hostile handler sees.
enum Seen {
    /// An answer that begins so.
    Answer(&'static str),
    /// An answer that is not whole.
    BrokenOff,
    /// A body that goes on; the client leaves after a mebibyte of it. Its guest may linger then.
    Endless,
}

/// Serves `wasm` beside a well-behaved neighbour, asks both, and ends it.
async fn check_handler(wasm: &[u8], seen: Seen) {
    let hood = Neighbourhood::new().await;
    let layer = tempfile::tempdir().expect("a folder");
    let container = hood.container(wasm, &layer).await.with(|spec| {
        spec.handler.request_deadline = Duration::from_millis(200);
    });
    let descriptors = open_descriptors();
    let address = SocketAddr::from((container.spec.network.ip(), PORT));
    let hostile = container.start();
    for _ in 0..4 {
        match seen {
            Seen::Answer(start) => {
                let (answer, ()) =
                    tokio::join!(ask(&hood.world, address), hood.neighbour_answers());
                assert!(answer.starts_with(start), "{answer}");
                super::until(|| hostile.usage().memory == 0).await;
            }
            Seen::BrokenOff => {
                let (answer, ()) =
                    tokio::join!(ask(&hood.world, address), hood.neighbour_answers());
                assert_eq!(guests::body_of(&answer), None, "{answer}");
                super::until(|| hostile.usage().memory == 0).await;
            }
            Seen::Endless => {
                let mut stream = hood.world.fabric.dial(address).await.expect("it listens");
                let request = b"GET / HTTP/1.1\r\nhost: pod\r\n\r\n";
                stream.write_all(request).await.expect("it reads");
                let mut much = vec![0; 1 << 20];
                stream.read_exact(&mut much).await.expect("it goes on");
                hood.neighbour_answers().await;
            }
        }
    }
    assert_eq!(hostile.exit(), None);
    hostile.kill();
    let exit = hostile.exited().await;
    assert_eq!((exit.code, exit.cause), (137, ExitCause::Killed));
    hood.unharmed(hostile, descriptors).await;
}

#[tokio::test]
async fn a_handler_never_answers() {
    let never = guests::handler("(loop $again (br $again))", "");
    check_handler(&never, Seen::Answer("HTTP/1.1 504 ")).await;
}

#[tokio::test]
async fn a_handler_returns_without_an_answer() {
    let silent = guests::handler("return", "");
    check_handler(&silent, Seen::Answer("HTTP/1.1 500 ")).await;
}

#[tokio::test]
async fn a_handler_answers_twice() {
    let twice = guests::handler(
        "",
        "(call $set (local.get $out) (i32.const 0) (call $response (call $fields)) (i32.const 0)
            (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))",
    );
    check_handler(&twice, Seen::BrokenOff).await;
}

#[tokio::test]
async fn a_handler_answers_with_a_body_without_end() {
    let endless = guests::handler(
        "",
        "(loop $again
            (call $say (local.get $stream) (i32.const 0) (i32.const 4096) (i32.const 64))
            (br $again))",
    );
    check_handler(&endless, Seen::Endless).await;
}

#[tokio::test]
async fn a_handler_makes_header_fields_without_end() {
    let fields = guests::handler("(loop $again (drop (call $fields)) (br $again))", "");
    check_handler(&fields, Seen::Answer("HTTP/1.1 50")).await;
}

/// The world of the tests' handlers, with a field that can be added and requests that go out.
fn wit(world: &str) -> String {
    guests::HANDLER_WIT
        .replace("export wasi:http/incoming-handler@0.2.0;", world)
        .replace(
            "resource fields { constructor(); }",
            "variant header-error { invalid-syntax, forbidden, immutable }
             variant scheme { HTTP, HTTPS, other(string) }
             resource fields {
                constructor();
                append: func(name: string, value: list<u8>) -> result<_, header-error>;
             }
             resource request-options;
             resource future-incoming-response;
             resource outgoing-request {
                constructor(headers: headers);
                set-scheme: func(scheme: option<scheme>) -> result;
                set-authority: func(authority: option<string>) -> result;
                set-path-with-query: func(path-with-query: option<string>) -> result;
             }",
        )
        .replace(
            "interface incoming-handler {",
            "interface outgoing-handler {
                use types.{outgoing-request, request-options, future-incoming-response, error-code};
                handle: func(request: outgoing-request, options: option<request-options>)
                    -> result<future-incoming-response, error-code>;
             }
             interface incoming-handler {",
        )
        + "package wasi:cli@0.2.0 { interface run { run: func() -> result; } }"
}

/// A command whose `run` is `body`, with the neighbour's authority at 0.
fn command(authority: &str, body: &str) -> Vec<u8> {
    let length = authority.len();
    guests::component(
        &wit("import wasi:http/outgoing-handler@0.2.0; export wasi:cli/run@0.2.0;"),
        &format!(
            r#"(module
                (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
                (import "wasi:http/types@0.2.0" "[method]fields.append"
                    (func $append (param i32 i32 i32 i32 i32 i32)))
                (import "wasi:http/types@0.2.0" "[constructor]outgoing-request"
                    (func $request (param i32) (result i32)))
                (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-scheme"
                    (func $set_scheme (param i32 i32 i32 i32 i32) (result i32)))
                (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-authority"
                    (func $set_authority (param i32 i32 i32 i32) (result i32)))
                (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-path-with-query"
                    (func $set_path (param i32 i32 i32 i32) (result i32)))
                (import "wasi:http/outgoing-handler@0.2.0" "handle"
                    (func $handle (param i32 i32 i32 i32)))
                (import "wasi:http/types@0.2.0" "[resource-drop]future-incoming-response"
                    (func $drop_future (param i32)))
                (memory (export "memory") 8)
                (data (i32.const 0) "{authority}")
                (data (i32.const 512) "/")
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                    (i32.const 65536))
                (func $asks (local $r i32)
                    (local.set $r (call $request (call $fields)))
                    (drop (call $set_scheme (local.get $r) (i32.const 1) (i32.const 0)
                        (i32.const 0) (i32.const 0)))
                    (drop (call $set_authority (local.get $r) (i32.const 1) (i32.const 0)
                        (i32.const {length})))
                    (drop (call $set_path (local.get $r) (i32.const 1) (i32.const 512)
                        (i32.const 1)))
                    (call $handle (local.get $r) (i32.const 0) (i32.const 0) (i32.const 1024)))
                (func (export "wasi:cli/run@0.2.0#run") (result i32) (local $n i32)
                    {body} (i32.const 0)))"#
        ),
    )
}

/// The neighbour's address: the same in every world.
async fn neighbour() -> String {
    Neighbourhood::new().await.address.to_string()
}

#[tokio::test]
async fn one_asks_its_neighbour_without_end_and_keeps_what_it_is_promised() {
    let asks = command(&neighbour().await, "(loop $again (call $asks) (br $again))");
    let nothing = |_: &mut SandboxSpec, _: &Neighbourhood| {};
    check_with(&asks, Fate::Traps, nothing).await;
}

#[tokio::test]
async fn one_asks_its_neighbour_and_leaves_in_a_loop() {
    let asks = command(
        &neighbour().await,
        "(loop $again
            (call $asks)
            (if (i32.load8_u (i32.const 1024)) (then unreachable))
            (call $drop_future (i32.load (i32.const 1032)))
            (br $again))",
    );
    let nothing = |_: &mut SandboxSpec, _: &Neighbourhood| {};
    check_with(&asks, Fate::GoesOn, nothing).await;
}

#[tokio::test]
async fn one_makes_a_field_without_end() {
    let grows = command(
        "x",
        "(i32.store8 (i32.const 0) (i32.const 120))
         (memory.fill (i32.const 65536) (i32.const 120) (i32.const 65536))
         (local.set $n (call $fields))
         (loop $again
            (call $append (local.get $n) (i32.const 0) (i32.const 1) (i32.const 65536)
                (i32.const 4096) (i32.const 1024))
            (br $again))",
    );
    let nothing = |_: &mut SandboxSpec, _: &Neighbourhood| {};
    check_with(&grows, Fate::Traps, nothing).await;
}

#[tokio::test]
async fn one_makes_many_large_fields() {
    let grows = command(
        "x",
        "(i32.store8 (i32.const 0) (i32.const 120))
         (memory.fill (i32.const 65536) (i32.const 120) (i32.const 65536))
         (loop $again
            (call $append (call $fields) (i32.const 0) (i32.const 1) (i32.const 65536)
                (i32.const 16384) (i32.const 1024))
            (br $again))",
    );
    let nothing = |_: &mut SandboxSpec, _: &Neighbourhood| {};
    check_with(&grows, Fate::Traps, nothing).await;
}
