//! The node agent from end to end in one process: embedded API, real runtime, real network.
//!
//! The compiler runs in a child of the program that uses it. Here that is this test program, so it has a
//! `main` of its own: started with the word `compile-child` it compiles, otherwise it lists and runs the
//! tests below with the flags that the usual harness knows.

mod changes;
mod exec;
mod guests;
mod logs;
mod numbers;
mod pods;
mod probes;
mod resources;
mod streams;
mod volumes;
mod world;

use std::process::ExitCode;

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "compile-child") {
        return coracle_runtime::compile_child();
    }
    let wants = |flag: &str| args.iter().any(|arg| arg == flag);
    if wants("--list") {
        if !wants("--ignored") {
            tests().for_each(|(name, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let is_chosen = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|f| {
                if wants("--exact") {
                    **f == name
                } else {
                    name.contains(*f)
                }
            })
    };
    let chosen: Vec<&Test> = tests().filter(|(name, _)| is_chosen(name)).collect();
    for (name, test) in &chosen {
        println!("test {name} ...");
        test();
    }
    println!("test result: ok. {} passed", chosen.len());
    ExitCode::SUCCESS
}

fn tests() -> impl Iterator<Item = &'static Test> {
    let all = [
        pods::TESTS,
        logs::TESTS,
        exec::TESTS,
        probes::TESTS,
        streams::TESTS,
        volumes::TESTS,
        resources::TESTS,
        changes::TESTS,
        numbers::TESTS,
    ];
    all.into_iter().flatten()
}
