//! Ports for programs that are started beside a benchmark, and its settings.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The longest that a program takes to listen; some compile first.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it is looked whether it does.
const LOOK: Duration = Duration::from_millis(20);

/// Returns an address of loopback at which nobody listens now.
///
/// # Panics
///
/// Panics when no port is free.
pub fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound")
}

/// Waits until somebody listens at an address; false when nobody does after a minute.
pub fn comes_up(at: SocketAddr) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < START_TIMEOUT {
        if TcpStream::connect(at).is_ok() {
            return true;
        }
        std::thread::sleep(LOOK);
    }
    false
}

/// Returns the number that the environment has as `CORACLE_BENCH_` and the name, else the other.
pub fn setting(name: &str, otherwise: usize) -> usize {
    let given = std::env::var(format!("CORACLE_BENCH_{name}")).ok();
    given
        .and_then(|given| given.parse().ok())
        .unwrap_or(otherwise)
}

/// Returns the program that benchmarks measure: the one that `CORACLE_BENCH_BINARY` names, so that the
/// binary that is handed out can be measured, else `built`.
pub fn measured_binary(built: &str) -> String {
    std::env::var("CORACLE_BENCH_BINARY").unwrap_or_else(|_| built.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_has_come_up() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        assert!(comes_up(listener.local_addr().expect("it is bound")));
    }
}
