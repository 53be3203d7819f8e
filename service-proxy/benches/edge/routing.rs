//! How soon connections are decided by a slice that has arrived, at 1 and 10,000 Services and for one of
//! 100,000 endpoints.

use coracle_service_proxy::measuring::{Readiness, Routing};
use coracle_tests::{Figure, Figures, percentile};

/// Changes measured, half of them each way.
const TURNS: u32 = 1_000;

/// Endpoints of each Service, as a deployment of some size has.
const ENDPOINTS: u32 = 10;

/// Changes of the largest Service.
const LARGE_TURNS: u32 = 50;

/// Endpoints of the largest Service.
const LARGE_ENDPOINTS: u32 = 100_000;

/// What is measured, as it is told.
const NAME: &str = "a slice's arrival to its routing";

/// Measures once; a figure is of many changes.
pub(crate) fn measure(figures: &mut Figures) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime starts");
    let _entered = runtime.enter();
    let sizes = [
        (1, "one Service of 10 endpoints"),
        (10_000, "one of 10,000 Services"),
    ];
    for (services, name) in sizes {
        let mut routing = Routing::new(services, ENDPOINTS);
        let turns = (0..TURNS).map(|turn| {
            let service = (turn / 2 * 7) % services;
            let took = routing.turn(service, ENDPOINTS, readiness(turn));
            took.as_secs_f64() * 1e6
        });
        let turns: Vec<f64> = turns.collect();
        assert!(routing.decides(0));
        tell(name, &turns, 1_000.0, figures);
    }
    let mut routing = Routing::new(1, LARGE_ENDPOINTS);
    let turns = (0..LARGE_TURNS).map(|turn| {
        let took = routing.turn(0, LARGE_ENDPOINTS, readiness(turn));
        took.as_secs_f64() * 1e6
    });
    let turns: Vec<f64> = turns.collect();
    tell("a Service of 100,000 endpoints", &turns, 10_000.0, figures);
}

/// Tells median and 99th percentile; `goal` is of the latter, in microseconds.
fn tell(who: &str, turns: &[f64], goal: f64, figures: &mut Figures) {
    let at = |share| percentile(turns, share).unwrap_or(f64::NAN);
    figures.add(Figure::lower(format!("{NAME}, p50"), who, "µs", [at(0.5)]));
    let late = Figure::lower(format!("{NAME}, p99"), who, "µs", [at(0.99)]);
    figures.add(late.goal(goal));
}

fn readiness(turn: u32) -> Readiness {
    match turn % 2 {
        0 => Readiness::Unready,
        _ => Readiness::Ready,
    }
}
