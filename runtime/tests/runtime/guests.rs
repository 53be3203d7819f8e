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

/// Returns the body of an answer that is whole. It came with its length, or in chunks if its guest gave its
/// thread back while it answered, as all do that have used up a slice.
pub(crate) fn body_of(answer: &str) -> Option<String> {
    let (head, mut rest) = answer.split_once("\r\n\r\n")?;
    if !head.contains("transfer-encoding: chunked") {
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("content-length: "))?;
        return (rest.len().to_string() == length).then(|| rest.to_owned());
    }
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return (after == "\r\n").then_some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
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

/// A handler that tells what it was asked, in an answer of 201: the number of the method, path, authority, the
/// number of the scheme, the fields `x-test` and how many there are of `host`, whether the body can be had
/// twice, and the body. Then what comes of fields: of the answer's own, which are final, of `host`, of a name
/// that is none, and of `x-test`; and of a second body of the answer.
pub(crate) fn tells_what_it_was_asked() -> Vec<u8> {
    let wit = HANDLER_WIT
        .replace(
            "resource output-stream {",
            "resource input-stream {
                blocking-read: func(len: u64) -> result<list<u8>, stream-error>;
            }
            resource output-stream {",
        )
        .replace("{output-stream};", "{input-stream, output-stream};")
        .replace(
            "resource fields { constructor(); }",
            "variant header-error { invalid-syntax, forbidden, immutable }
            variant method {
                get, head, post, put, delete, connect, options, trace, patch, other(string),
            }
            variant scheme { HTTP, HTTPS, other(string) }
            resource fields {
                constructor();
                get: func(name: string) -> list<list<u8>>;
                append: func(name: string, value: list<u8>) -> result<_, header-error>;
            }
            resource incoming-body { %stream: func() -> result<input-stream>; }",
        )
        .replace(
            "resource incoming-request;",
            "resource incoming-request {
                method: func() -> method;
                path-with-query: func() -> option<string>;
                scheme: func() -> option<scheme>;
                authority: func() -> option<string>;
                headers: func() -> headers;
                consume: func() -> result<incoming-body>;
            }",
        )
        .replace(
            "body: func() -> result<outgoing-body>;",
            "status-code: func() -> u16;
            set-status-code: func(status-code: u16) -> result;
            headers: func() -> headers;
            body: func() -> result<outgoing-body>;",
        );
    component(&wit, ASKED_WAT)
}

const ASKED_WAT: &str = r#"(module
    (import "wasi:http/types@0.2.0" "[method]incoming-request.method"
        (func $method (param i32 i32)))
    (import "wasi:http/types@0.2.0" "[method]incoming-request.path-with-query"
        (func $path (param i32 i32)))
    (import "wasi:http/types@0.2.0" "[method]incoming-request.scheme"
        (func $scheme (param i32 i32)))
    (import "wasi:http/types@0.2.0" "[method]incoming-request.authority"
        (func $authority (param i32 i32)))
    (import "wasi:http/types@0.2.0" "[method]incoming-request.headers"
        (func $headers (param i32) (result i32)))
    (import "wasi:http/types@0.2.0" "[method]incoming-request.consume"
        (func $consume (param i32 i32)))
    (import "wasi:http/types@0.2.0" "[method]incoming-body.stream" (func $stream (param i32 i32)))
    (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
    (import "wasi:http/types@0.2.0" "[method]fields.get" (func $get (param i32 i32 i32 i32)))
    (import "wasi:http/types@0.2.0" "[method]fields.append"
        (func $append (param i32 i32 i32 i32 i32 i32)))
    (import "wasi:http/types@0.2.0" "[constructor]outgoing-response"
        (func $response (param i32) (result i32)))
    (import "wasi:http/types@0.2.0" "[method]outgoing-response.status-code"
        (func $status (param i32) (result i32)))
    (import "wasi:http/types@0.2.0" "[method]outgoing-response.set-status-code"
        (func $set_status (param i32 i32) (result i32)))
    (import "wasi:http/types@0.2.0" "[method]outgoing-response.headers"
        (func $response_headers (param i32) (result i32)))
    (import "wasi:http/types@0.2.0" "[method]outgoing-response.body"
        (func $body (param i32 i32)))
    (import "wasi:http/types@0.2.0" "[static]response-outparam.set"
        (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (import "wasi:http/types@0.2.0" "[method]outgoing-body.write" (func $write (param i32 i32)))
    (import "wasi:http/types@0.2.0" "[static]outgoing-body.finish"
        (func $finish (param i32 i32 i32 i32)))
    (import "wasi:io/streams@0.2.0" "[method]input-stream.blocking-read"
        (func $read (param i32 i64 i32)))
    (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
        (func $write_and_flush (param i32 i32 i32 i32)))
    (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream"
        (func $drop_stream (param i32)))
    (memory (export "memory") 1)
    (global $heap (mut i32) (i32.const 4096))
    (global $out (mut i32) (i32.const 0))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (global.set $heap (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
        (global.get $heap)
        (global.set $heap (i32.add (global.get $heap) (local.get 3))))
    (data (i32.const 0) "x-test")
    (data (i32.const 16) "host")
    (data (i32.const 32) "no name")
    (data (i32.const 48) "value")
    (data (i32.const 64) ";")
    ;; Says so many bytes and a semicolon.
    (func $say (param $at i32) (param $length i32)
        (call $write_and_flush (global.get $out) (local.get $at) (local.get $length)
            (i32.const 128))
        (call $write_and_flush (global.get $out) (i32.const 64) (i32.const 1) (i32.const 128)))
    (func $digit (param $number i32)
        (i32.store8 (i32.const 80) (i32.add (local.get $number) (i32.const 48)))
        (call $say (i32.const 80) (i32.const 1)))
    ;; Says the text whose address and length are there.
    (func $text (param $at i32)
        (call $say (i32.load (local.get $at)) (i32.load offset=4 (local.get $at))))
    ;; Says what comes of a field: 0, or one more than the number of the error.
    (func $try (param $fields i32) (param $name i32) (param $length i32)
        (call $append (local.get $fields) (local.get $name) (local.get $length) (i32.const 48)
            (i32.const 5) (i32.const 144))
        (call $digit (select
            (i32.add (i32.load8_u (i32.const 145)) (i32.const 1))
            (i32.const 0)
            (i32.load8_u (i32.const 144)))))
    (func (export "wasi:http/incoming-handler@0.2.0#handle") (param $request i32) (param $to i32)
        (local $answer i32) (local $outgoing i32) (local $fields i32)
        (local.set $answer (call $response (call $fields)))
        (if (i32.ne (call $status (local.get $answer)) (i32.const 200)) (then unreachable))
        (if (call $set_status (local.get $answer) (i32.const 201)) (then unreachable))
        (if (i32.eqz (call $set_status (local.get $answer) (i32.const 99))) (then unreachable))
        (if (i32.ne (call $status (local.get $answer)) (i32.const 201)) (then unreachable))
        (call $body (local.get $answer) (i32.const 160))
        (local.set $outgoing (i32.load (i32.const 164)))
        (call $write (local.get $outgoing) (i32.const 168))
        (global.set $out (i32.load (i32.const 172)))

        (call $method (local.get $request) (i32.const 200))
        (call $digit (i32.load8_u (i32.const 200)))
        (call $path (local.get $request) (i32.const 220))
        (call $text (i32.const 224))
        (call $authority (local.get $request) (i32.const 232))
        (call $text (i32.const 236))
        (call $scheme (local.get $request) (i32.const 244))
        (call $digit (i32.load8_u (i32.const 248)))
        (local.set $fields (call $headers (local.get $request)))
        (call $get (local.get $fields) (i32.const 0) (i32.const 6) (i32.const 272))
        (call $text (i32.load (i32.const 272)))
        (call $get (local.get $fields) (i32.const 16) (i32.const 4) (i32.const 280))
        (call $digit (i32.load (i32.const 284)))
        (call $consume (local.get $request) (i32.const 288))
        (call $consume (local.get $request) (i32.const 296))
        (call $digit (i32.load8_u (i32.const 296)))
        (call $stream (i32.load (i32.const 292)) (i32.const 304))
        (call $read (i32.load (i32.const 308)) (i64.const 100) (i32.const 312))
        (call $text (i32.const 316))

        (call $try (call $response_headers (local.get $answer)) (i32.const 0) (i32.const 6))
        (local.set $fields (call $fields))
        (call $try (local.get $fields) (i32.const 16) (i32.const 4))
        (call $try (local.get $fields) (i32.const 32) (i32.const 7))
        (call $try (local.get $fields) (i32.const 0) (i32.const 6))
        (call $body (local.get $answer) (i32.const 336))
        (call $digit (i32.load8_u (i32.const 336)))

        (call $set (local.get $to) (i32.const 0) (local.get $answer) (i32.const 0) (i64.const 0)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
        (call $drop_stream (global.get $out))
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
