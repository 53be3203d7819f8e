//! Runs the benchmarks whose figures `docs/performance.md` tells, one after the other, and keeps what they
//! found: as JSON, as a page of plots, beside an older run.

mod compare;
mod machine;
mod page;
mod peers;
mod record;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use coracle_tests::FIGURES_FILE;

use self::compare::Comparison;
use self::record::Record;
use crate::workspace::{call, cargo, metadata, read};

/// Each benchmark: its name, what it tells.
const BENCHES: &[(&str, &str)] = &[
    ("durable", "writes of the store, in memory and durable"),
    (
        "api",
        "the API in one process: creates, lists, watches, memory",
    ),
    (
        "up",
        "`coracle up` from outside: start, memory, durable creates over HTTPS",
    ),
    ("start", "what a fresh instance costs before it runs"),
    (
        "handler",
        "requests to a handler, fresh and reused, beside `wasmtime serve` and hyper",
    ),
    ("fabric", "connections and streams between pods"),
    (
        "guests",
        "connections and round trips of guests through a Service, beside kernel sockets",
    ),
    (
        "edge",
        "Services from outside, beside haproxy, nginx and DNAT",
    ),
    ("neighbour", "what a hostile pod costs a handler beside it"),
    (
        "pods",
        "starts of pods, what waiting ones cost, and back after a kill",
    ),
    ("probes", "processor time of probing 1,000 and 10,000 pods"),
    ("pull", "pulling an image of 116 MB, beside skopeo"),
];

/// Which benchmarks to run, and what to do with their figures.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these, by their names
    names: Vec<String>,
    /// Compare with an older run's record; a figure that is worse beyond the noise is an error
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// By how many percent a median may be worse before it counts, if the ranges do not overlap either
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    noise: f64,
    /// Run nothing: make the page of this record, and compare it
    #[arg(long, value_name = "RECORD.json", conflicts_with_all = ["names", "build_peers"])]
    from: Option<PathBuf>,
    /// First build the peers that no distribution has (`wasmtime serve`; many minutes)
    #[arg(long)]
    build_peers: bool,
}

/// Runs them; tables go to stdout, the record and the page to `bench/run.json` and `bench/run.html` of the
/// target folder.
///
/// # Errors
///
/// Fails with the first benchmark that fails, when no benchmark has a name, when a record cannot be read or
/// written, and when a figure is worse than in the record that is compared with, beyond the noise.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !options.noise.is_finite() || options.noise < 0.0 {
        bail!("`--noise` is a number of percent, not below 0");
    }
    // Read first: a run takes an hour, and a wrong file is known at once.
    let old = options.compare.as_deref().map(open).transpose()?;
    let record = match &options.from {
        Some(file) => {
            let record = open(file)?;
            write(&file.with_extension("html"), &page::html(&record))?;
            record
        }
        None => measure(options)?,
    };
    let Some(old) = old else {
        return Ok(());
    };
    let comparison = Comparison::of(&old, &record, options.noise / 100.0);
    println!("{}", comparison.text());
    match comparison.regressions() {
        0 => Ok(()),
        count => bail!("{count} figures are worse beyond the noise"),
    }
}

fn measure(options: &Options) -> anyhow::Result<Record> {
    let chosen = choose(&options.names)?;
    let target = metadata()?["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .context("`cargo metadata` names no target folder")?;
    if options.build_peers {
        peers::build(&target)?;
    }
    let folder = target.join("bench");
    fs::create_dir_all(&folder)
        .with_context(|| format!("failed to make the folder `{}`", folder.display()))?;
    let lines = folder.join("run.lines");
    write(&lines, "")?;
    let path = peers::path(&target)?;
    let names: Vec<&str> = chosen.iter().map(|(name, _)| *name).collect();
    peers::tell(&names, &path);
    for (name, about) in &chosen {
        println!("== {name}: {about}");
        bench(name, &lines, &path)?;
    }
    let record = Record::collect(machine::look(), &read(&lines)?)?;
    let file = folder.join("run.json");
    write(&file, &format!("{:#}\n", record.json()))?;
    write(&file.with_extension("html"), &page::html(&record))?;
    println!("the record is `{}`; beside it, its page", file.display());
    Ok(record)
}

fn bench(name: &str, lines: &Path, path: &OsStr) -> anyhow::Result<()> {
    // The whole workspace is named so that dependencies have the features they are tested with and
    // are not compiled anew. Backtraces would be captured for errors that are part of the work.
    call(
        cargo()
            .args(["bench", "--quiet", "--workspace", "--bench", name])
            .env(FIGURES_FILE, lines)
            .env("PATH", path)
            .env_remove("RUST_BACKTRACE"),
    )
}

fn choose(names: &[String]) -> anyhow::Result<Vec<(&'static str, &'static str)>> {
    let is_known = |name: &String| BENCHES.iter().any(|(known, _)| known == name);
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        let known: Vec<_> = BENCHES.iter().map(|(name, _)| *name).collect();
        bail!(
            "no benchmark is `{unknown}`; there are: {}",
            known.join(", ")
        );
    }
    let asked = |name: &str| names.is_empty() || names.iter().any(|asked| asked == name);
    Ok(BENCHES
        .iter()
        .copied()
        .filter(|(name, _)| asked(name))
        .collect())
}

fn open(file: &Path) -> anyhow::Result<Record> {
    Record::read(&read(file)?).with_context(|| format!("`{}` cannot be used", file.display()))
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("failed to write `{}`", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benchmarks_are_chosen_by_name_and_run_in_their_order() {
        let chosen = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            choose(&names).map(|chosen| chosen.iter().map(|(name, _)| *name).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&["up", "api"]).expect("known"), ["api", "up"]);
        assert_eq!(chosen(&[]).expect("all").len(), BENCHES.len());
        let error = chosen(&["upp"]).expect_err("unknown");
        assert!(
            error.to_string().contains("no benchmark is `upp`"),
            "{error}"
        );
    }

    #[test]
    fn every_benchmark_is_a_target_of_a_package() {
        if coracle_tests::beyond_wine("cargo and rustc are programs of Linux there") {
            return;
        }
        let metadata = metadata().expect("cargo tells");
        let packages = metadata["packages"].as_array().expect("packages");
        let targets = packages
            .iter()
            .flat_map(|package| package["targets"].as_array().into_iter().flatten());
        let mut found: Vec<&str> = targets
            .filter(|target| target["kind"][0] == "bench")
            .filter_map(|target| target["name"].as_str())
            .collect();
        let mut listed: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        found.sort_unstable();
        listed.sort_unstable();
        assert_eq!(found, listed);
    }

    #[test]
    fn a_regression_is_an_error_and_the_page_is_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let record = |value: f64| {
            format!(
                "{{\"schema\":1,\"benches\":[],\"figures\":[{{\"bench\":\"up\",\"name\":\"a\",\"contender\":\"b\",\
                 \"unit\":\"ms\",\"better\":\"lower\",\"rounds\":[{value}]}}]}}"
            )
        };
        let (old, new) = (
            folder.path().join("old.json"),
            folder.path().join("new.json"),
        );
        fs::write(&old, record(1.0)).expect("a file");
        let compared = |value: f64| {
            fs::write(&new, record(value)).expect("a file");
            run(&Options {
                names: Vec::new(),
                compare: Some(old.clone()),
                noise: 10.0,
                from: Some(new.clone()),
                build_peers: false,
            })
        };
        compared(1.2).expect("within the noise of one round");
        let error = compared(2.0).expect_err("worse");
        assert!(error.to_string().contains("1 figures are worse"), "{error}");
        assert!(new.with_extension("html").is_file());
    }
}
