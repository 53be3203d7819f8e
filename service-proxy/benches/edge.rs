//! Holds the edge beside direct connections, haproxy, nginx and the kernel's DNAT, in one run.
//!
//! All contenders are up at once, in a network namespace of their own where the user may make one, and
//! are measured in turn within each round; ratios are of one round. The first figure is processor time
//! for a million operations, of the contender alone and of everything that took part (contender,
//! backend, client), for it is steady where rates are not. A contender that is not on the path is named
//! as missing. Before all that, how soon news of an endpoint are routed; after it, what an idle connection
//! costs in memory.
//!
//! `CORACLE_BENCH_ROUNDS` (7), `CORACLE_BENCH_SECONDS` (1) for a sample, `CORACLE_BENCH_THREADS` (1) for
//! each contender, `CORACLE_BENCH_IDLE` (2,000) idle connections for the memory of one,
//! `CORACLE_BENCH_BINARY` for another program than the `coracle` that was built beside the benchmark.

#[cfg(target_os = "linux")]
mod edge {
    pub(super) mod contenders;
    pub(super) mod load;
    pub(super) mod machine;
    pub(super) mod report;
    pub(super) mod routing;
    pub(super) mod serve;
}

#[cfg(target_os = "linux")]
fn main() {
    use coracle_tests::{Figures, setting};
    use edge::{contenders::Contenders, load, machine, report::Report, routing, serve};

    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("serve-backend") => return serve::backend(arguments),
        Some("serve-pod") => return serve::pod(arguments),
        Some("serve-relay") => return serve::relay(arguments),
        Some("read-bulk") => return load::read_bulk(arguments),
        _ => {}
    }
    machine::enter_namespace();
    machine::raise_descriptors();
    let mut figures = Figures::begin("edge");
    routing::measure(&mut figures);
    let contenders = Contenders::start(&mut figures);
    let tests = load::Test::ALL.into_iter().filter(|test| test.can_run());
    let tests: Vec<_> = tests.collect();
    if tests.len() < load::Test::ALL.len() {
        figures.missing("wrk", "the client of requests and connections");
    }
    let mut report = Report::default();
    for _ in 0..setting("ROUNDS", 7) {
        for test in &tests {
            for contender in contenders.all() {
                report.add(*test, contender, load::measure(contender, *test));
            }
        }
    }
    for contender in contenders.all() {
        report.add_idle(contender, load::idle_memory(contender));
    }
    report.tell(&mut figures);
    figures.finish();
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("what the kernel accounts to each process is read on Linux only");
}
