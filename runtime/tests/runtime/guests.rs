//! The guests of the tests, in text.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A preview 1 module whose `_start` is `body`. It may call what is imported here.
pub(crate) fn preview1(body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read"
                (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_fdstat_get"
                (func $fdstat (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_sizes_get"
                (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_sizes_get"
                (func $environ (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff"
                (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\08\00\00\00\06\00\00\00hello\0a")
            (func $sleep_for_an_hour
                (i32.store8 (i32.const 136) (i32.const 0))
                (i32.store (i32.const 144) (i32.const 1))
                (i64.store (i32.const 152) (i64.const 3600000000000))
                (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 512))))
            (func (export "_start") {body}))"#
    );
    wat::parse_str(text).expect("the text of a guest is valid")
}

/// Exits with `code`.
pub(crate) fn exits(code: i32) -> Vec<u8> {
    preview1(&format!("(call $exit (i32.const {code}))"))
}

/// Never ends, never calls the host.
pub(crate) fn spins() -> Vec<u8> {
    preview1("(loop $again (br $again))")
}

/// Waits in a call of the host.
pub(crate) fn sleeps() -> Vec<u8> {
    preview1("(call $sleep_for_an_hour)")
}

/// Writes `hello`, then waits in a call of the host.
pub(crate) fn says_and_sleeps() -> Vec<u8> {
    preview1(
        "(drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))
         (call $sleep_for_an_hour)",
    )
}

/// Writes `hello` and a line break to standard output.
pub(crate) fn says_hello() -> Vec<u8> {
    preview1("(drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64)))")
}

/// A component made of the core module `text` in the world `guest` of `wit`.
pub(crate) fn component(wit: &str, text: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).expect("the text of a guest is valid");
    let mut resolve = Resolve::default();
    let package = resolve
        .push_str("guest.wit", wit)
        .expect("the guest's world is valid");
    let world = resolve
        .select_world(&[package], Some("guest"))
        .expect("it has a world");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("the world fits");
    ComponentEncoder::default()
        .module(&module)
        .and_then(|encoder| encoder.validate(true).encode())
        .expect("the module fits its world")
}

/// A component whose `run` is `body`; it may call `$exit` (a result) and `$exit_with_code`.
pub(crate) fn command(body: &str) -> Vec<u8> {
    component(
        r"package test:command;
        world guest { import wasi:cli/exit@0.2.12; export wasi:cli/run@0.2.12; }
        package wasi:cli@0.2.12 {
            interface exit {
                exit: func(status: result);
                exit-with-code: func(status-code: u8);
            }
            interface run { run: func() -> result; }
        }",
        &format!(
            r#"(module
                (import "wasi:cli/exit@0.2.12" "exit" (func $exit (param i32)))
                (import "wasi:cli/exit@0.2.12" "exit-with-code"
                    (func $exit_with_code (param i32)))
                (func (export "wasi:cli/run@0.2.12#run") (result i32) {body}))"#
        ),
    )
}

/// A command that says `hello` when it is at work, waits until its container is asked to end, and exits
/// with 40 plus what `requested` says then.
pub(crate) fn is_told() -> Vec<u8> {
    component(
        r"package test:told;
        world guest {
            import coracle:lifecycle/termination@0.1.0;
            import wasi:io/poll@0.2.0;
            import wasi:cli/exit@0.2.12;
            import wasi:cli/stdout@0.2.0;
            import wasi:io/streams@0.2.0;
            export wasi:cli/run@0.2.12;
        }
        package wasi:io@0.2.0 {
            interface error { resource error; }
            interface poll { resource pollable { block: func(); } }
            interface streams {
                use error.{error};
                variant stream-error { last-operation-failed(error), closed }
                resource output-stream {
                    blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
                }
            }
        }
        package wasi:cli@0.2.0 {
            interface stdout {
                use wasi:io/streams@0.2.0.{output-stream};
                get-stdout: func() -> output-stream;
            }
        }
        package wasi:cli@0.2.12 {
            interface exit {
                exit: func(status: result);
                exit-with-code: func(status-code: u8);
            }
            interface run { run: func() -> result; }
        }
        package coracle:lifecycle@0.1.0 {
            interface termination {
                use wasi:io/poll@0.2.0.{pollable};
                subscribe: func() -> pollable;
                requested: func() -> bool;
            }
        }",
        r#"(module
            (import "coracle:lifecycle/termination@0.1.0" "subscribe"
                (func $subscribe (result i32)))
            (import "coracle:lifecycle/termination@0.1.0" "requested"
                (func $requested (result i32)))
            (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
            (import "wasi:cli/exit@0.2.12" "exit-with-code" (func $exit (param i32)))
            (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
            (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
                (func $say (param i32 i32 i32 i32)))
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
            (data (i32.const 0) "hello")
            (func (export "wasi:cli/run@0.2.12#run") (result i32)
                (local $asked i32)
                (local.set $asked (call $subscribe))
                (if (call $requested) (then unreachable))
                (call $say (call $stdout) (i32.const 0) (i32.const 5) (i32.const 64))
                (call $block (local.get $asked))
                ;; It stays ready.
                (call $block (local.get $asked))
                (call $exit (i32.add (i32.const 40) (call $requested)))
                unreachable))"#,
    )
}

/// A handler that runs `first`, then answers 200 with a digit that counts the requests of its
/// instance, running `middle` between the head and the body of the answer.
pub(crate) fn handler(first: &str, middle: &str) -> Vec<u8> {
    component(
        HANDLER_WIT,
        &HANDLER_WAT
            .replace("$FIRST", first)
            .replace("$MIDDLE", middle),
    )
}

/// A handler that only answers.
pub(crate) fn answers() -> Vec<u8> {
    handler("", "")
}

const HANDLER_WAT: &str = r#"(module
    (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
    (import "wasi:http/types@0.2.0" "[constructor]outgoing-response"
        (func $response (param i32) (result i32)))
    (import "wasi:http/types@0.2.0" "[method]outgoing-response.body"
        (func $body (param i32 i32)))
    (import "wasi:http/types@0.2.0" "[static]response-outparam.set"
        (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (import "wasi:http/types@0.2.0" "[method]outgoing-body.write" (func $write (param i32 i32)))
    (import "wasi:http/types@0.2.0" "[static]outgoing-body.finish"
        (func $finish (param i32 i32 i32 i32)))
    (import "wasi:http/types@0.2.0" "[resource-drop]incoming-request"
        (func $drop_request (param i32)))
    (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
        (func $say (param i32 i32 i32 i32)))
    (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream"
        (func $drop_stream (param i32)))
    (memory (export "memory") 1)
    (global $heap (mut i32) (i32.const 1024))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (global.get $heap)
        (global.set $heap (i32.add (global.get $heap) (local.get 3))))
    (data (i32.const 0) "0")
    (func (export "wasi:http/incoming-handler@0.2.0#handle") (param $request i32) (param $out i32)
        (local $answer i32) (local $outgoing i32) (local $stream i32)
        (i32.store8 (i32.const 0) (i32.add (i32.load8_u (i32.const 0)) (i32.const 1)))
        (call $drop_request (local.get $request))
        $FIRST
        (local.set $answer (call $response (call $fields)))
        (call $body (local.get $answer) (i32.const 64))
        (local.set $outgoing (i32.load (i32.const 68)))
        (call $set (local.get $out) (i32.const 0) (local.get $answer) (i32.const 0) (i64.const 0)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
        (call $write (local.get $outgoing) (i32.const 64))
        (local.set $stream (i32.load (i32.const 68)))
        $MIDDLE
        (call $say (local.get $stream) (i32.const 0) (i32.const 1) (i32.const 64))
        (call $drop_stream (local.get $stream))
        (call $finish (local.get $outgoing) (i32.const 0) (i32.const 0) (i32.const 128))))"#;

/// As much of `wasi:http` as the handler above needs.
pub(crate) const HANDLER_WIT: &str = r"package test:handler;
world guest {
    import wasi:http/types@0.2.0;
    export wasi:http/incoming-handler@0.2.0;
}
package wasi:io@0.2.0 {
    interface error { resource error; }
    interface streams {
        use error.{error};
        variant stream-error { last-operation-failed(error), closed }
        resource output-stream {
            blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
        }
    }
}
package wasi:http@0.2.0 {
    interface types {
        use wasi:io/streams@0.2.0.{output-stream};
        record DNS-error-payload { rcode: option<string>, info-code: option<u16> }
        record TLS-alert-received-payload { alert-id: option<u8>, alert-message: option<string> }
        record field-size-payload { field-name: option<string>, field-size: option<u32> }
        variant error-code {
            DNS-timeout, DNS-error(DNS-error-payload), destination-not-found,
            destination-unavailable, destination-IP-prohibited, destination-IP-unroutable,
            connection-refused, connection-terminated, connection-timeout,
            connection-read-timeout, connection-write-timeout, connection-limit-reached,
            TLS-protocol-error, TLS-certificate-error,
            TLS-alert-received(TLS-alert-received-payload), HTTP-request-denied,
            HTTP-request-length-required, HTTP-request-body-size(option<u64>),
            HTTP-request-method-invalid, HTTP-request-URI-invalid, HTTP-request-URI-too-long,
            HTTP-request-header-section-size(option<u32>),
            HTTP-request-header-size(option<field-size-payload>),
            HTTP-request-trailer-section-size(option<u32>),
            HTTP-request-trailer-size(field-size-payload), HTTP-response-incomplete,
            HTTP-response-header-section-size(option<u32>),
            HTTP-response-header-size(field-size-payload),
            HTTP-response-body-size(option<u64>), HTTP-response-trailer-section-size(option<u32>),
            HTTP-response-trailer-size(field-size-payload),
            HTTP-response-transfer-coding(option<string>),
            HTTP-response-content-coding(option<string>), HTTP-response-timeout,
            HTTP-upgrade-failed, HTTP-protocol-error, loop-detected, configuration-error,
            internal-error(option<string>),
        }
        resource fields { constructor(); }
        type headers = fields;
        type trailers = fields;
        resource incoming-request;
        resource outgoing-body {
            write: func() -> result<output-stream>;
            finish: static func(this: outgoing-body, trailers: option<trailers>)
                -> result<_, error-code>;
        }
        resource outgoing-response {
            constructor(headers: headers);
            body: func() -> result<outgoing-body>;
        }
        resource response-outparam {
            set: static func(param: response-outparam,
                response: result<outgoing-response, error-code>);
        }
    }
    interface incoming-handler {
        use types.{incoming-request, response-outparam};
        handle: func(request: incoming-request, response-out: response-outparam);
    }
}
";
