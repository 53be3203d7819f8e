//! What a machine does beside a benchmark: busy processors that are not the benchmark's own.

use std::collections::HashMap;
use std::time::Instant;

/// In what the kernel counts processor time for programs, whatever it uses itself: hundredths of a second.
const TICKS_A_SECOND: f64 = 100.0;

/// From when others are counted.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    begun: Instant,
    busy: f64,
    own: f64,
}

impl Load {
    /// Begins to count.
    pub fn begin() -> Self {
        Self {
            begun: Instant::now(),
            busy: busy_seconds(),
            own: own_seconds(),
        }
    }

    /// Returns how many processors others have kept busy since [`Load::begin`], on average; 0 where the
    /// system does not tell it in `/proc`.
    ///
    /// Ours are this process and all below it, also those that ended and were waited for.
    pub fn foreign(&self) -> f64 {
        let own = own_seconds() - self.own;
        let busy = busy_seconds() - self.busy;
        let took = self.begun.elapsed().as_secs_f64();
        ((busy - own) / took.max(f64::MIN_POSITIVE)).max(0.0)
    }
}

/// Busy time of all processors since the machine started.
fn busy_seconds() -> f64 {
    let told = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(&told) as f64 / TICKS_A_SECOND
}

/// All but idle and waiting for disks; what guests of this machine used is in user time already.
fn busy_ticks(stat: &str) -> u64 {
    let line = stat.lines().next().unwrap_or_default();
    let fields = line.split_whitespace().skip(1).enumerate();
    let busy = fields.filter(|(at, _)| !matches!(at, 3 | 4 | 8..));
    busy.filter_map(|(_, field)| field.parse::<u64>().ok())
        .sum()
}

/// Processor time of this process and all below it, with those that were waited for.
fn own_seconds() -> f64 {
    let all: HashMap<u32, Accounted> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|id: u32| {
            let told = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            Some((id, Accounted::read(&told)?))
        })
        .collect();
    below(std::process::id(), &all) as f64 / TICKS_A_SECOND
}

/// What a line of `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Accounted {
    parent: u32,
    ticks: u64,
}

impl Accounted {
    fn read(stat: &str) -> Option<Self> {
        // A name may hold anything, parentheses and spaces too; nothing after it does.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>());
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            ticks: ticks.sum::<Result<_, _>>().ok()?,
        })
    }
}

/// The ticks of `root` and of all that descend from it.
fn below(root: u32, all: &HashMap<u32, Accounted>) -> u64 {
    let descends = |id: u32| {
        let mut at = id;
        // As many steps as there are processes: a listing that is not of one moment may hold a circle.
        for _ in 0..=all.len() {
            if at == root {
                return true;
            }
            match all.get(&at) {
                Some(process) => at = process.parent,
                None => return false,
            }
        }
        false
    };
    let ours = all.iter().filter(|(id, _)| descends(**id));
    ours.map(|(_, process)| process.ticks).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busy_time_leaves_out_waiting_and_counts_guests_once() {
        let stat = "cpu  1 2 4 100 200 8 16 32 400 800\ncpu0 9 9 9 9\n";
        assert_eq!(busy_ticks(stat), 63);
        assert_eq!(busy_ticks("nothing"), 0);
    }

    #[test]
    fn a_process_is_read_behind_any_name() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5\n";
        let expected = Accounted {
            parent: 3,
            ticks: 100,
        };
        assert_eq!(Accounted::read(stat), Some(expected));
        assert_eq!(Accounted::read("7 (a) S x"), None);
        assert_eq!(Accounted::read(""), None);
    }

    #[test]
    fn descendants_are_ours_and_others_are_not() {
        let process = |parent, ticks| Accounted { parent, ticks };
        let all = HashMap::from([
            (1, process(0, 1000)),
            (10, process(1, 1)),
            (11, process(10, 2)),
            (12, process(11, 4)),
            (20, process(1, 100)),
            (30, process(31, 100)),
            (31, process(30, 100)),
        ]);
        assert_eq!(below(10, &all), 7);
    }
}
