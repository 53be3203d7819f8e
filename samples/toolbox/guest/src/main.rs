//! A toolbox for looking around inside a pod: a shell and small programs, one by the name it is called by.
//!
//! WASI starts no processes, so everything happens in this one instance: each program is a future, a
//! pipeline is futures joined by bounded buffers, and a subshell is a copy of the shell's state.
//!
//! - `reactor` polls the futures and waits for the outside world;
//! - `platform` is that world: WASI, or std when the tests run natively;
//! - `stream` is what stands behind a descriptor; `terminal` edits lines when that is a terminal;
//! - `ownership` reads and writes users, owners and modes;
//! - `applet` finds a program by its name and runs it; `applets` are the programs;
//! - `shell` is `sh`.

mod applet;
mod applets;
mod options;
mod ownership;
mod pattern;
mod platform;
mod reactor;
mod shell;
mod stream;
mod terminal;

use applet::Context;
use terminal::{Foreground, Signal};

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let context = Context::of_process(applet::words_of_program(words));
    let code = reactor::run(async move {
        let program = applet::run(context);
        let code = if platform::is_terminal() {
            let ended = Foreground::of_program().run(program).await;
            ended.unwrap_or_else(Signal::code)
        } else {
            program.await
        };
        platform::flush().await;
        code
    });
    platform::exit(code);
}
