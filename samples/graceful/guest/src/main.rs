//! A command that is told of its end: it works until it is asked to stop, then finishes in peace.
//!
//! The three functions are declared by hand, to show how little it takes; `wit_bindgen::generate!` with the
//! same WIT writes them for a program that has more of them.

#[link(wasm_import_module = "coracle:lifecycle/termination@0.1.0")]
unsafe extern "C" {
    #[link_name = "subscribe"]
    safe fn subscribe() -> i32;
}

#[link(wasm_import_module = "wasi:io/poll@0.2.0")]
unsafe extern "C" {
    #[link_name = "[method]pollable.block"]
    safe fn block(pollable: i32);
    #[link_name = "[resource-drop]pollable"]
    safe fn drop_pollable(pollable: i32);
}

fn main() {
    println!("working until I am asked to end");
    // Ready beside sockets and timers, if there are any: `wasi:io/poll.poll` waits for several.
    let end = subscribe();
    block(end);
    drop_pollable(end);
    println!("asked to end: finishing what I have begun");
}
