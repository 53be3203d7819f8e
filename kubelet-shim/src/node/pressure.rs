//! Whether the machine runs short of something: the conditions of pressure, by the kubelet's thresholds
//! (contract A.3, B.10).

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::spec::bytes_text;
use crate::time::Moment;

/// `pid.available`, in hundredths. A kubelet has none by default; guests have no processes, so what runs short
/// here are threads of others.
const PIDS_LEAST_PERCENT: u64 = 5;

/// A condition stays this long after its cause was seen last (`evictionPressureTransitionPeriod`).
const STAYS_FOR: Duration = Duration::from_secs(5 * 60);

/// When the disk of the data folder runs full: `nodefs.available` and `imagefs.available` in one, since both lie
/// there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskLeast {
    /// With less than so many hundredths of it left, as a kubelet has it.
    Percent(u64),
    /// With less than so many bytes left.
    Bytes(u64),
}

/// What is to be left of everything that a node can run short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Least {
    /// `memory.available`, in bytes.
    pub(crate) memory: u64,
    pub(crate) disk: DiskLeast,
}

/// What a node can run short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pressure {
    Memory,
    Disk,
    Pids,
}

impl Pressure {
    pub(crate) const ALL: [Pressure; 3] = [Pressure::Memory, Pressure::Disk, Pressure::Pids];
}

/// What there is left. What cannot be measured is not short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signals {
    pub(crate) memory_available: Option<u64>,
    /// Available and total bytes.
    pub(crate) disk: Option<(u64, u64)>,
    /// Threads that may still be made, and all there may be.
    pub(crate) pids: Option<(u64, u64)>,
}

/// Remembers when something was short.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watchman {
    least: Least,
    seen: [Option<Moment>; 3],
}

impl Signals {
    /// Measures the machine. Touches the disk.
    pub(crate) fn measure(data_dir: &Path) -> Signals {
        let disk = fs4::available_space(data_dir).ok();
        Signals {
            memory_available: memory_available(),
            disk: disk.zip(fs4::total_space(data_dir).ok()),
            pids: pids(),
        }
    }

    fn is_short(&self, of: Pressure, least: Least) -> bool {
        let below = |pair: Option<(u64, u64)>, percent: u64| {
            pair.is_some_and(|(left, all)| {
                all > 0 && u128::from(left) * 100 < u128::from(all) * u128::from(percent)
            })
        };
        match of {
            Pressure::Memory => self
                .memory_available
                .is_some_and(|left| left < least.memory),
            Pressure::Disk => match least.disk {
                DiskLeast::Percent(percent) => below(self.disk, percent),
                DiskLeast::Bytes(bytes) => self.disk.is_some_and(|(left, _)| left < bytes),
            },
            Pressure::Pids => below(self.pids, PIDS_LEAST_PERCENT),
        }
    }
}

/// Returns the bytes that the machine has left.
pub(crate) fn memory_available() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    Some(system.available_memory())
}

/// Linux says how many threads there are and may be.
fn pids() -> Option<(u64, u64)> {
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let most = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok()?;
    parse_pids(&load, &most)
}

fn parse_pids(load: &str, most: &str) -> Option<(u64, u64)> {
    let (_, threads) = load.split_whitespace().nth(3)?.split_once('/')?;
    let (threads, most): (u64, u64) = (threads.parse().ok()?, most.trim().parse().ok()?);
    Some((most.saturating_sub(threads), most))
}

impl Watchman {
    pub(crate) fn new(least: Least) -> Watchman {
        Watchman {
            least,
            seen: [None; 3],
        }
    }

    /// Takes a measurement in, and says of each kind whether it is short, or was until lately.
    pub(crate) fn note(&mut self, signals: Signals, now: Moment) -> [bool; 3] {
        let mut all = [false; 3];
        let least = self.least;
        for ((of, seen), is_short) in Pressure::ALL.iter().zip(&mut self.seen).zip(&mut all) {
            if signals.is_short(*of, least) {
                *seen = Some(now);
            }
            *is_short = seen.is_some_and(|at| now.since(at) < STAYS_FOR);
        }
        all
    }
}

/// The thresholds as a kubelet's configuration writes them.
pub(crate) fn thresholds(least: Least) -> Value {
    let disk = match least.disk {
        DiskLeast::Percent(percent) => format!("{percent}%"),
        DiskLeast::Bytes(bytes) => bytes.to_string(),
    };
    json!({
        "memory.available": bytes_text(least.memory),
        "nodefs.available": disk,
        "imagefs.available": disk,
        "pid.available": format!("{PIDS_LEAST_PERCENT}%"),
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::time::Clock;

    const LEAST: Least = Least {
        memory: 100 << 20,
        disk: DiskLeast::Percent(15),
    };

    #[test]
    fn the_kubelets_thresholds_decide() {
        let well = Signals {
            memory_available: Some(LEAST.memory),
            disk: Some((15, 100)),
            pids: Some((5, 100)),
        };
        let check = |signals: Signals, expected: [bool; 3]| {
            let found = Pressure::ALL.map(|of| signals.is_short(of, LEAST));
            assert_eq!(found, expected, "{signals:?}");
        };
        check(well, [false; 3]);
        check(Signals::default(), [false; 3]);
        let memory_available = Some(LEAST.memory - 1);
        let signals = Signals {
            memory_available,
            ..well
        };
        check(signals, [true, false, false]);
        let disk = Some((149, 1000));
        check(Signals { disk, ..well }, [false, true, false]);
        let full = |left: u64| Signals {
            disk: Some((left, 1 << 40)),
            ..well
        };
        for (left, expected) in [(100, false), (99, true)] {
            let least = Least {
                disk: DiskLeast::Bytes(100),
                ..LEAST
            };
            let found = full(left).is_short(Pressure::Disk, least);
            assert_eq!(found, expected, "{left}");
        }
        let pids = Some((4, 100));
        check(Signals { pids, ..well }, [false, false, true]);
    }

    #[test]
    fn a_condition_stays_for_five_minutes_after_its_cause() {
        let (clock, hand) = Clock::manual(Timestamp::UNIX_EPOCH);
        let mut watchman = Watchman::new(LEAST);
        let short = Signals {
            memory_available: Some(0),
            ..Signals::default()
        };
        assert_eq!(watchman.note(Signals::default(), clock.now()), [false; 3]);
        assert_eq!(watchman.note(short, clock.now()), [true, false, false]);
        hand.advance(STAYS_FOR - Duration::from_millis(1));
        let after = watchman.note(Signals::default(), clock.now());
        assert_eq!(after, [true, false, false]);
        hand.advance(Duration::from_millis(1));
        assert_eq!(watchman.note(Signals::default(), clock.now()), [false; 3]);
    }

    #[test]
    fn linux_counts_threads() {
        let load = "0.20 0.18 0.12 1/80 11206\n";
        assert_eq!(parse_pids(load, "32768\n"), Some((32688, 32768)));
        assert_eq!(parse_pids("x", "1"), None);
    }
}
