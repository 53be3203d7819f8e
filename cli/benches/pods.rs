//! Measures pods on `coracle up` from outside: how fast they start, what they cost while they wait, how
//! fast they are back after a crash. Client and watcher run on the same machine, inside the figures.
//!
//! "Running" is what a watch shows; the clock starts when the create is acknowledged, as in the goals.
//! Every round is a cluster of its own for each workload, and a run of a manifest with as many pods as a
//! burst, which has no clients. At the end, once, as many pods as a node is to hold.
//!
//! `CORACLE_BENCH_ROUNDS` (3), `CORACLE_BENCH_IDLE_SECONDS` (20) that waiting pods are left alone,
//! `CORACLE_BENCH_MANY` (10,000) pods at the end, 0 for none, `CORACLE_BENCH_BINARY` for another program
//! than the one that was built with the benchmark.

#[path = "from_outside/client.rs"]
mod client;
mod pods {
    pub(super) mod world;
}

use std::time::{Duration, Instant};

use coracle_tests::{
    Coracle, Figure, Figures, cpu_time, descriptors, mappings, measured_binary, percentile,
    resident_bytes, setting, short, threads,
};
use pods::world::{Burst, Manifest, Workload, World};

/// Pods started one after the other.
const ALONE: usize = 200;
/// Pods of a burst.
const BURST: usize = 1_000;
/// What a node is to hold; only at this number do goals of many pods count.
const MANY: usize = 10_000;

/// What was found of one workload, a value a round.
#[derive(Default)]
struct Found {
    alone_p50: Vec<f64>,
    alone_p99: Vec<f64>,
    burst_p50: Vec<f64>,
    burst_p99: Vec<f64>,
    /// Seconds until all of the burst run again after a kill.
    back: Vec<f64>,
    /// Of pods that a manifest names: a second, and microseconds of the program for each.
    manifest_rate: Vec<f64>,
    manifest_processor: Vec<f64>,
    waiting: Waiting,
}

/// What pods cost that were started as fast as they were taken, and then wait; a value a round.
#[derive(Default)]
struct Waiting {
    /// Microseconds of the process for each start.
    processor: Vec<f64>,
    /// A second, until all run.
    rate: Vec<f64>,
    ready: Vec<f64>,
    ready_count: Vec<f64>,
    /// Percent of a core.
    idle: Vec<f64>,
    /// Kilobytes of resident memory for each.
    memory: Vec<f64>,
    descriptors: Vec<f64>,
    threads: Vec<f64>,
    mappings: Vec<f64>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime starts").block_on(async {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut figures = Figures::begin("pods");
        let mut found = Workload::ALL.map(|workload| (workload, Found::default()));
        for _ in 0..setting("ROUNDS", 3) {
            for (workload, found) in &mut found {
                round(*workload, found).await;
            }
        }
        tell(&found, &mut figures);
        let count = setting("MANY", MANY);
        if count > 0 {
            let mut many = Workload::ALL.map(|workload| (workload, Waiting::default()));
            for (workload, waiting) in &mut many {
                let coracle = coracle();
                let mut world = World::with(&coracle, *workload).await;
                waiting.take(&mut world, *workload, count).await;
                world.kill();
            }
            tell_waiting(many.each_ref().map(|(w, it)| (*w, it)), count, &mut figures);
        }
        figures.finish();
    });
}

fn coracle() -> Coracle {
    Coracle::new(&measured_binary(env!("CARGO_BIN_EXE_coracle")))
}

async fn round(workload: Workload, found: &mut Found) {
    let coracle = coracle();
    let mut world = World::with(&coracle, workload).await;
    let mut alone = Vec::new();
    for number in 0..ALONE {
        let took = world.start_pod(&format!("alone-{number}"), workload).await;
        alone.push(took.as_secs_f64() * 1e3);
    }
    found.alone_p50.extend(percentile(&alone, 0.5));
    found.alone_p99.extend(percentile(&alone, 0.99));
    world.kill();

    // A cluster without history, for what its pods weigh.
    let coracle = self::coracle();
    let mut world = World::with(&coracle, workload).await;
    let burst = found.waiting.take(&mut world, workload, BURST).await;
    found.burst_p50.extend(percentile(&burst.each, 0.5));
    found.burst_p99.extend(percentile(&burst.each, 0.99));
    world.kill();
    let begun = Instant::now();
    let mut world = World::start(&coracle).await;
    world.all_restarted(BURST).await;
    found.back.push(begun.elapsed().as_secs_f64());
    world.kill();

    let manifest = Manifest::run(&coracle, workload, BURST);
    let pods = BURST as f64;
    let seconds = manifest.running.as_secs_f64();
    found.manifest_rate.push(pods / seconds);
    let spent = manifest.processor.as_secs_f64();
    found.manifest_processor.push(spent * 1e6 / pods);
}

impl Waiting {
    /// Starts pods and leaves them alone.
    async fn take(&mut self, world: &mut World, workload: Workload, count: usize) -> Burst {
        let id = world.cluster.run.id();
        let before = resident_bytes(id);
        let burst = world.burst(workload, count).await;
        let cpu = cpu_time(id);
        let idle = Duration::from_secs(setting("IDLE_SECONDS", 20) as u64);
        tokio::time::sleep(idle).await;
        let idle = cpu_time(id).saturating_sub(cpu).as_secs_f64() / idle.as_secs_f64();
        let pods = count as f64;
        let spent = burst.processor.as_secs_f64();
        self.processor.push(spent * 1e6 / pods);
        self.rate.push(pods / burst.running.as_secs_f64());
        self.ready.push(burst.ready.as_secs_f64());
        self.ready_count.push(burst.ready_count as f64);
        self.idle.push(idle * 100.0);
        let memory = resident_bytes(id).saturating_sub(before) as f64;
        self.memory.push(memory / 1e3 / pods);
        self.descriptors.push(descriptors(id) as f64);
        self.threads.push(threads(id) as f64);
        self.mappings.push(mappings(id) as f64);
        burst
    }
}

/// What a waiting pod may weigh, in kilobytes.
fn memory_goal(workload: Workload) -> f64 {
    match workload {
        Workload::Handler => 150.0,
        Workload::Command => 500.0,
    }
}

fn tell(all: &[(Workload, Found); 2], figures: &mut Figures) {
    let mut add = |name: &str, unit, goal: Option<f64>, of: &dyn Fn(&Found) -> &Vec<f64>| {
        for (workload, found) in all {
            let figure = Figure::lower(name, workload.name(), unit, of(found).iter().copied());
            figures.add(match goal {
                Some(goal) => figure.goal(goal),
                None => figure,
            });
        }
    };
    let alone = "acknowledged to Running, one after the other";
    add(&format!("{alone}, p50"), "ms", Some(5.0), &|found| {
        &found.alone_p50
    });
    add(&format!("{alone}, p99"), "ms", None, &|found| {
        &found.alone_p99
    });
    let burst = "acknowledged to Running, 1,000 by 8 clients";
    add(&format!("{burst}, p50"), "ms", None, &|found| {
        &found.burst_p50
    });
    add(&format!("{burst}, p99"), "ms", Some(50.0), &|found| {
        &found.burst_p99
    });
    add(
        "1,000 Running again after the start that follows a kill",
        "s",
        None,
        &|found| &found.back,
    );
    let manifest = "1,000 of a manifest by `coracle run`, its own start included";
    let spent = format!("{manifest}: processor time of each");
    add(&spent, "µs", None, &|found| &found.manifest_processor);
    for (workload, found) in all {
        let rate = found.manifest_rate.iter().copied();
        let name = format!("{manifest}: started a second");
        figures.add(Figure::higher(name, workload.name(), "1/s", rate).goal(2_000.0));
    }
    let waiting = all.each_ref().map(|(w, found)| (*w, &found.waiting));
    tell_waiting(waiting, BURST, figures);
}

fn tell_waiting(all: [(Workload, &Waiting); 2], count: usize, figures: &mut Figures) {
    let pods = format!("{} pods", short(count as f64));
    for (workload, found) in all {
        let spent = found.processor.iter().copied();
        let name = format!("{pods}: processor time of a start");
        figures.add(Figure::lower(name, workload.name(), "µs", spent));
    }
    for (workload, found) in all {
        let rate = found.rate.iter().copied();
        let name = format!("{pods} by 8 clients: started a second");
        let figure = Figure::higher(name, workload.name(), "1/s", rate);
        figures.add(match count {
            BURST => figure.goal(2_000.0),
            _ => figure,
        });
    }
    for (workload, found) in all {
        let name = format!("{pods}: Ready at once");
        let ready = found.ready_count.iter().copied();
        let figure = Figure::higher(name, workload.name(), "pods", ready);
        figures.add(match count {
            MANY => figure.goal(MANY as f64),
            _ => figure,
        });
    }
    for (workload, found) in all {
        let name = format!("{pods}: memory of each");
        let figure = Figure::lower(name, workload.name(), "KB", found.memory.iter().copied());
        figures.add(figure.goal(memory_goal(workload)));
    }
    let mut add = |what: &str, unit, of: &dyn Fn(&Waiting) -> &Vec<f64>| {
        for (workload, found) in all {
            let values = of(found).iter().copied();
            let name = format!("{pods}: {what}");
            figures.add(Figure::lower(name, workload.name(), unit, values));
        }
    };
    add("first create to all Ready", "s", &|found| &found.ready);
    add("waiting, each probed every 10 s", "% of a core", &|found| {
        &found.idle
    });
    add("descriptors of the process", "", &|found| {
        &found.descriptors
    });
    add("threads of the process", "", &|found| &found.threads);
    add("memory mappings of the process", "", &|found| {
        &found.mappings
    });
}
