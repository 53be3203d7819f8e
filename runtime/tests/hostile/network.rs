//! Guests that use up, flood and churn the network.

use super::{Fate, Neighbourhood, check, check_with};
use crate::guests;
use coracle_runtime::SandboxSpec;

/// The octets of a pod's own loopback.
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

const WIT: &str = r"package test:sockets;
world guest {
    import wasi:io/poll@0.2.0;
    import wasi:io/streams@0.2.0;
    import wasi:sockets/network@0.2.0;
    import wasi:sockets/instance-network@0.2.0;
    import wasi:sockets/tcp@0.2.0;
    import wasi:sockets/tcp-create-socket@0.2.0;
    export wasi:cli/run@0.2.0;
}
package wasi:cli@0.2.0 { interface run { run: func() -> result; } }
package wasi:io@0.2.0 {
    interface poll { resource pollable { block: func(); } }
    interface streams { resource input-stream; resource output-stream; }
}
package wasi:sockets@0.2.0 {
    interface network {
        resource network;
        enum error-code {
            unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout,
            concurrency-conflict, not-in-progress, would-block, invalid-state, new-socket-limit,
            address-not-bindable, address-in-use, remote-unreachable, connection-refused,
            connection-reset, connection-aborted, datagram-too-large, name-unresolvable,
            temporary-resolver-failure, permanent-resolver-failure,
        }
        enum ip-address-family { ipv4, ipv6 }
        type ipv4-address = tuple<u8, u8, u8, u8>;
        type ipv6-address = tuple<u16, u16, u16, u16, u16, u16, u16, u16>;
        record ipv4-socket-address { port: u16, address: ipv4-address }
        record ipv6-socket-address {
            port: u16, flow-info: u32, address: ipv6-address, scope-id: u32,
        }
        variant ip-socket-address { ipv4(ipv4-socket-address), ipv6(ipv6-socket-address) }
    }
    interface instance-network {
        use network.{network};
        instance-network: func() -> network;
    }
    interface tcp {
        use network.{network, error-code, ip-socket-address};
        use wasi:io/poll@0.2.0.{pollable};
        use wasi:io/streams@0.2.0.{input-stream, output-stream};
        resource tcp-socket {
            start-bind: func(network: borrow<network>, local-address: ip-socket-address)
                -> result<_, error-code>;
            finish-bind: func() -> result<_, error-code>;
            start-connect: func(network: borrow<network>, remote-address: ip-socket-address)
                -> result<_, error-code>;
            finish-connect: func() -> result<tuple<input-stream, output-stream>, error-code>;
            start-listen: func() -> result<_, error-code>;
            finish-listen: func() -> result<_, error-code>;
            subscribe: func() -> pollable;
        }
    }
    interface tcp-create-socket {
        use network.{error-code, ip-address-family};
        use tcp.{tcp-socket};
        create-tcp-socket: func(address-family: ip-address-family) -> result<tcp-socket, error-code>;
    }
}";

/// A command whose `run` is `body`. It may call:
///
/// * `$socket`: makes a socket into the local `$s`; 0 if it was refused;
/// * `$listens port`: whether `$s` listens there now;
/// * `$begin_connect port`: whether `$s` connects there;
/// * `$connected`: waits for that and tells whether it worked; its streams are at 68 and 72.
fn command(peer: [u8; 4], body: &str) -> Vec<u8> {
    let address = |octets: [u8; 4]| {
        let octets = octets.map(|octet| format!("(i32.const {octet})")).join(" ");
        format!("{octets} {}", "(i32.const 0) ".repeat(6))
    };
    let (any, peer) = (address([0; 4]), address(peer));
    let text = format!(
        r#"(module
            (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
            (import "wasi:io/poll@0.2.0" "[resource-drop]pollable"
                (func $drop_pollable (param i32)))
            (import "wasi:io/streams@0.2.0" "[resource-drop]input-stream"
                (func $drop_input (param i32)))
            (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream"
                (func $drop_output (param i32)))
            (import "wasi:sockets/instance-network@0.2.0" "instance-network"
                (func $network (result i32)))
            (import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket"
                (func $create (param i32 i32)))
            (import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.start-bind" (func $start_bind
                (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
            (import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.finish-bind"
                (func $finish_bind (param i32 i32)))
            (import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.start-connect"
                (func $start_connect
                (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
            (import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.finish-connect"
                (func $finish_connect (param i32 i32)))
            (import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.start-listen"
                (func $start_listen (param i32 i32)))
            (import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.finish-listen"
                (func $finish_listen (param i32 i32)))
            (import "wasi:sockets/tcp@0.2.0" "[method]tcp-socket.subscribe"
                (func $subscribe (param i32) (result i32)))
            (import "wasi:sockets/tcp@0.2.0" "[resource-drop]tcp-socket"
                (func $drop_socket (param i32)))
            (memory (export "memory") 1)
            (global $s (mut i32) (i32.const 0))
            (global $net (mut i32) (i32.const 0))
            (func $fine (result i32) (i32.eqz (i32.load8_u (i32.const 64))))
            (func $socket (result i32)
                (call $create (i32.const 0) (i32.const 64))
                (global.set $s (i32.load (i32.const 68)))
                (call $fine))
            (func $listens (param $port i32) (result i32)
                (call $start_bind (global.get $s) (global.get $net) (i32.const 0)
                    (local.get $port) {any} (i32.const 64))
                (if (i32.eqz (call $fine)) (then (return (i32.const 0))))
                (call $finish_bind (global.get $s) (i32.const 64))
                (if (i32.eqz (call $fine)) (then (return (i32.const 0))))
                (call $start_listen (global.get $s) (i32.const 64))
                (if (i32.eqz (call $fine)) (then (return (i32.const 0))))
                (call $finish_listen (global.get $s) (i32.const 64))
                (call $fine))
            (func $begin_connect (param $port i32) (result i32)
                (call $start_connect (global.get $s) (global.get $net) (i32.const 0)
                    (local.get $port) {peer} (i32.const 64))
                (call $fine))
            (func $connected (result i32) (local $p i32)
                (local.set $p (call $subscribe (global.get $s)))
                (call $block (local.get $p))
                (call $drop_pollable (local.get $p))
                (call $finish_connect (global.get $s) (i32.const 64))
                (call $fine))
            (func (export "wasi:cli/run@0.2.0#run") (result i32) (local $n i32)
                (global.set $net (call $network))
                {body}))"#
    );
    guests::component(WIT, &text)
}

#[tokio::test]
async fn one_opens_every_port() {
    // Most are refused; that it got through all of them is a success.
    let opens = command(
        LOOPBACK,
        "(loop $again
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (if (call $socket) (then (drop (call $listens (local.get $n)))))
            (br_if $again (i32.lt_u (local.get $n) (i32.const 65535))))
         (i32.const 0)",
    );
    check(&opens, Fate::Exits(0)).await;
}

#[tokio::test]
async fn one_opens_and_closes_every_port_without_end() {
    let opens = command(
        LOOPBACK,
        "(loop $again
            (local.set $n (i32.add (i32.rem_u (local.get $n) (i32.const 65535)) (i32.const 1)))
            (if (i32.eqz (call $socket)) (then unreachable))
            (if (i32.eqz (call $listens (local.get $n))) (then unreachable))
            (call $drop_socket (global.get $s))
            (br $again))
         unreachable",
    );
    check(&opens, Fate::GoesOn).await;
}

#[tokio::test]
async fn one_floods_its_own_backlog_and_never_accepts() {
    let floods = command(
        LOOPBACK,
        "(if (i32.eqz (call $socket)) (then unreachable))
         (if (i32.eqz (call $listens (i32.const 7))) (then unreachable))
         (loop $again
            (if (call $socket) (then (drop (call $begin_connect (i32.const 7)))))
            (br $again))
         unreachable",
    );
    check(&floods, Fate::GoesOn).await;
}

#[tokio::test]
async fn one_connects_to_its_neighbour_until_it_has_no_sockets_left() {
    let hood = Neighbourhood::new().await;
    let std::net::IpAddr::V4(neighbour) = hood.address.ip() else {
        panic!("pods have addresses of four octets")
    };
    drop(hood);
    // A new world hands out the same addresses.
    let floods = command(
        neighbour.octets(),
        "(loop $again
            (if (call $socket) (then
                (if (i32.eqz (call $begin_connect (i32.const 80))) (then unreachable))
                (if (i32.eqz (call $connected)) (then unreachable))))
            (br $again))
         unreachable",
    );
    let same = |_: &mut SandboxSpec, hood: &Neighbourhood| {
        assert_eq!(hood.address.ip(), std::net::IpAddr::V4(neighbour));
    };
    check_with(&floods, Fate::GoesOn, same).await;
}

#[tokio::test]
async fn one_connects_to_its_neighbour_and_leaves_in_a_loop() {
    let hood = Neighbourhood::new().await;
    let std::net::IpAddr::V4(neighbour) = hood.address.ip() else {
        panic!("pods have addresses of four octets")
    };
    drop(hood);
    let churns = command(
        neighbour.octets(),
        "(loop $again
            (if (i32.eqz (call $socket)) (then unreachable))
            (if (i32.eqz (call $begin_connect (i32.const 80))) (then unreachable))
            (if (i32.eqz (call $connected)) (then unreachable))
            (call $drop_input (i32.load (i32.const 68)))
            (call $drop_output (i32.load (i32.const 72)))
            (call $drop_socket (global.get $s))
            (br $again))
         unreachable",
    );
    check(&churns, Fate::GoesOn).await;
}

#[tokio::test]
async fn one_connects_where_nobody_listens_without_end() {
    let knocks = command(
        LOOPBACK,
        "(loop $again
            (if (i32.eqz (call $socket)) (then unreachable))
            (drop (call $begin_connect (i32.const 9)))
            (if (call $connected) (then unreachable))
            (call $drop_socket (global.get $s))
            (br $again))
         unreachable",
    );
    check(&knocks, Fate::GoesOn).await;
}
