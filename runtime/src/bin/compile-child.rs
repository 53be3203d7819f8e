//! A compiler child and nothing else: what this crate's tests start, since they cannot start the
//! real program. `--count FILE` notes each start in a file, `--crash` dies as a bug would.

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {}
        ["--count", file] => {
            let noted = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(file)
                .and_then(|mut file| file.write_all(b"."));
            if let Err(error) = noted {
                eprintln!("cannot note the start: {error}");
                return ExitCode::FAILURE;
            }
        }
        ["--crash"] => {
            eprintln!("the compiler met its end");
            crash();
        }
        _ => {
            eprintln!("usage: compile-child [--count FILE | --crash]");
            return ExitCode::from(2);
        }
    }
    coracle_runtime::compile_child()
}

#[expect(
    clippy::disallowed_methods,
    reason = "what a crash of the compiler does is what is tested"
)]
fn crash() -> ! {
    std::process::abort()
}
