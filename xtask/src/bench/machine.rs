//! The machine that a run is taken on, and the commit that is measured.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::record::Machine;
use crate::workspace::{output, root};

/// Looks; what the system does not tell stays empty.
pub(super) fn look() -> Machine {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let cores = std::thread::available_parallelism();
    Machine {
        taken: now.map_or(0, |since| since.as_secs()),
        commit: commit(),
        cores: cores.map_or(0, |cores| cores.get() as u64),
        processor: processor(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        kernel: first_line(fs::read_to_string("/proc/sys/kernel/osrelease").ok()),
    }
}

fn commit() -> String {
    let git =
        |arguments: &[&str]| output(Command::new("git").current_dir(root()).args(arguments)).ok();
    let commit = first_line(git(&["rev-parse", "--short=12", "HEAD"]));
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if !changes.trim().is_empty() => format!("{commit}+"),
        _ => commit,
    }
}

fn processor(cpuinfo: &str) -> String {
    let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut names = lines.filter(|(key, _)| key.trim() == "model name");
    names
        .next()
        .map_or_else(String::new, |(_, name)| name.trim().to_owned())
}

fn first_line(text: Option<String>) -> String {
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_processor_has_a_name() {
        let told = "processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: other\n";
        assert_eq!(super::processor(told), "AMD EPYC");
        assert_eq!(super::processor(""), "");
    }
}
