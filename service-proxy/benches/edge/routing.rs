//! How soon connections are decided by a slice that has arrived, at 1 and 10,000 Services and for one of
//! 100,000 endpoints.

use std::time::Duration;

use coracle_service_proxy::measuring::{Readiness, Routing};

/// Changes measured, half of them each way.
const TURNS: u32 = 1_000;

/// Endpoints of each Service, as a deployment of some size has.
const ENDPOINTS: u32 = 10;

/// Changes of the largest Service.
const LARGE_TURNS: u32 = 50;

/// Endpoints of the largest Service.
const LARGE_ENDPOINTS: u32 = 100_000;

/// Prints the times.
pub(crate) fn measure() {
    if std::env::var_os("CORACLE_BENCH_NAMESPACE").is_some() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime starts");
    let _entered = runtime.enter();
    println!("a slice's arrival to its routing, microseconds, p50 / p99");
    for services in [1, 10_000] {
        let mut routing = Routing::new(services, ENDPOINTS);
        let turns = (0..TURNS).map(|turn| {
            let service = (turn / 2 * 7) % services;
            routing.turn(service, ENDPOINTS, readiness(turn))
        });
        let turns = turns.collect();
        assert!(routing.decides(0));
        print(
            &format!("{services} Services of {ENDPOINTS} endpoints"),
            turns,
        );
    }
    let mut routing = Routing::new(1, LARGE_ENDPOINTS);
    let turns = (0..LARGE_TURNS).map(|turn| routing.turn(0, LARGE_ENDPOINTS, readiness(turn)));
    let turns = turns.collect();
    print(&format!("a Service of {LARGE_ENDPOINTS} endpoints"), turns);
}

fn readiness(turn: u32) -> Readiness {
    match turn % 2 {
        0 => Readiness::Unready,
        _ => Readiness::Ready,
    }
}

fn print(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{name:<40} {:>10.1} {:>10.1}",
        microseconds(at(50)),
        microseconds(at(99))
    );
}
