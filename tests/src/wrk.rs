//! The client `wrk`: what it is asked for and what it says.

use std::process::Command;

/// What one run of `wrk` found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wrk {
    /// Answers that came.
    pub requests: f64,
    /// Their bytes.
    pub bytes: f64,
    /// How long it took.
    pub seconds: f64,
    /// The longest of the fastest half of the answers, in microseconds.
    pub p50: f64,
    /// The longest of the fastest 99 of 100 answers, in microseconds.
    pub p99: f64,
    /// Connections that failed, and answers that told of a failure.
    pub errors: u64,
}

impl Wrk {
    /// Runs `wrk --latency` with more arguments, the last of them an address; `None` when it is not on the
    /// path or says nothing that is understood.
    pub fn run(arguments: &[&str]) -> Option<Self> {
        Self::of(Command::new("wrk").arg("--latency").args(arguments))
    }

    /// Runs a program that speaks as `wrk` does, `wrk` in another namespace of the network say; `None` when
    /// it cannot be started or says nothing that is understood.
    pub fn of(client: &mut Command) -> Option<Self> {
        let output = client.output().ok()?;
        Self::read(&String::from_utf8_lossy(&output.stdout))
    }

    /// Reads what it printed.
    pub fn read(text: &str) -> Option<Self> {
        let line = text.lines().find(|line| line.contains(" requests in "))?;
        let mut words = line.split_whitespace();
        let requests = words.next()?.parse().ok()?;
        let seconds = quantity(words.nth(2)?.trim_end_matches(','))?;
        let bytes = quantity(words.next()?)?;
        let after = |label| {
            let lines = text.lines().map(str::trim);
            let found = lines
                .filter_map(move |line| line.strip_prefix(label))
                .next();
            quantity(found?.trim())
        };
        let numbers_after = |label| {
            let lines = text.lines().map(str::trim);
            let rest = lines.filter_map(move |line| line.strip_prefix(label));
            let words = rest.flat_map(|rest| rest.split([' ', ',']));
            words
                .filter_map(|word| word.parse::<u64>().ok())
                .sum::<u64>()
        };
        Some(Self {
            requests,
            bytes,
            seconds,
            p50: after("50%")? * 1e6,
            p99: after("99%")? * 1e6,
            errors: numbers_after("Socket errors:") + numbers_after("Non-2xx or 3xx responses:"),
        })
    }
}

/// Reads a number with wrk's unit, in bytes or seconds.
fn quantity(text: &str) -> Option<f64> {
    let split = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "B" | "s" => 1.0,
        "KB" => 1024.0,
        "MB" => 1024.0 * 1024.0,
        "GB" => 1024.0 * 1024.0 * 1024.0,
        "us" => 1e-6,
        "ms" => 1e-3,
        "m" => 60.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As wrk 4.1.0 prints it.
    const TOLD: &str = "Running 1s test @ http://127.0.0.1:8080/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   410.51us  100.02us   4.52ms   90.01%
    Req/Sec    77.51k     1.20k   79.00k    80.00%
  Latency Distribution
     50%  400.00us
     75%  420.00us
     90%  450.00us
     99%    1.25ms
  77123 requests in 1.00s, 6.50MB read
  Socket errors: connect 0, read 3, write 0, timeout 1
  Non-2xx or 3xx responses: 5
Requests/sec:  77000.00
Transfer/sec:      6.49MB
";

    #[test]
    fn what_it_prints_is_read() {
        let read = Wrk::read(TOLD).expect("understood");
        assert_eq!(
            (read.requests, read.seconds, read.errors),
            (77_123.0, 1.0, 9)
        );
        assert!((read.p50 - 400.0).abs() < 1e-6 && (read.p99 - 1250.0).abs() < 1e-6);
        assert_eq!(read.bytes, 6.5 * 1024.0 * 1024.0);
        assert_eq!(Wrk::read("unable to connect"), None);
    }
}
