//! Measures a pull with everything that belongs to it (verify, decompress, index), beside skopeo, which
//! verifies and unpacks nothing.
//!
//! The image has 116 MB in five layers of gzip, and a registry of Debian's serves it on loopback. A pull
//! goes into an empty store; those after it, each by a store that is opened anew, fetch nothing. Without a
//! registry on the path there is nothing to measure, which is said. `CORACLE_BENCH_ROUNDS` (5).

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coracle_registry::{ImageStore, Judge, Progress, PullOptions, Reference};
use coracle_tests::{Figure, Figures, children_time, comes_up, cpu_time, free_port, setting};
use flate2::Compression;
use flate2::write::GzEncoder;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const LAYERS: u64 = 5;
/// Files of a layer.
const FILES: u64 = 25;
/// What a file weighs, as a program of some size; 534 MB in all.
const FILE_BYTES: usize = 4_272_000;
/// Of every `RUN` bytes of a file, the first few are noise and the rest repeats them: gzip makes of it about
/// what it makes of programs, a fifth, and so 116 MB of the image.
const RUN: usize = 96;
const NOISE: usize = 19;
/// Pulls of a round that fetch nothing.
const AGAIN: u32 = 50;
/// Less than that was no pull of the image.
const WIRE_BYTES_MIN: u64 = 100_000_000;

/// Everything runs here.
struct Anything;

impl Judge for Anything {
    fn judge(&self, _wasm: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// Counts what arrives.
#[derive(Default)]
struct Counter(AtomicU64);

impl Progress for Counter {
    fn started(&self, _layer: &str, _total: u64) {}
    fn advanced(&self, _layer: &str, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
    fn finished(&self, _layer: &str) {}
    fn retrying(&self, _what: &str, _wait: Duration) {}
}

/// A registry with the image; ended when dropped.
struct Served {
    process: Child,
    reference: Reference,
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime starts").block_on(measure());
}

async fn measure() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut figures = Figures::begin("pull");
    let Some(served) = Served::start(folder.path()) else {
        figures.missing("docker-registry", "what is pulled from; not on the path");
        return figures.finish();
    };
    let (wire, unpacked) = publish(&served.reference).await;
    println!("the image: {wire} bytes compressed, {unpacked} unpacked");
    let has_skopeo = Command::new("skopeo")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !has_skopeo {
        figures.missing("skopeo copy", "skopeo is not on the path");
    }
    let mut ours = Taken::default();
    let mut theirs = Taken::default();
    let (mut again, mut fetched) = (Taken::default(), Vec::new());
    for round in 0..setting("ROUNDS", 5) {
        let store = folder.path().join(format!("store-{round}"));
        ours.take_pull(&store, &served.reference).await;
        fetched.push(again.take_again(&store, &served.reference).await as f64);
        fs::remove_dir_all(&store).expect("the store can be removed");
        if has_skopeo {
            theirs.take_skopeo(&folder.path().join("skopeo"), &served.reference);
        }
    }
    let (name, skopeo) = (
        "pull of 116 MB in 5 layers",
        "skopeo copy, nothing unpacked",
    );
    figures.add(Figure::lower(name, skopeo, "CPU-s", theirs.processor).peer());
    figures.add(
        Figure::lower(name, "ours, verified and indexed", "CPU-s", ours.processor).against(skopeo),
    );
    figures.add(Figure::lower(name, skopeo, "s", theirs.clock).peer());
    let ours = Figure::lower(name, "ours, verified and indexed", "s", ours.clock);
    figures.add(ours.against(skopeo).goal(1.3));
    let milliseconds =
        |seconds: Vec<f64>| -> Vec<_> { seconds.iter().map(|each| each * 1e3).collect() };
    let (clock, processor) = (milliseconds(again.clock), milliseconds(again.processor));
    figures.add(Figure::lower("the same again", "ours", "CPU-ms", processor));
    figures.add(Figure::lower("the same again", "ours", "ms", clock).goal(5.0));
    figures.add(Figure::lower("bytes of layers fetched again", "ours", "B", fetched).goal(0.0));
    figures.finish();
}

/// Seconds of each round.
#[derive(Default)]
struct Taken {
    clock: Vec<f64>,
    processor: Vec<f64>,
}

impl Taken {
    async fn take_pull(&mut self, store: &Path, reference: &Reference) {
        let id = std::process::id();
        let cpu = cpu_time(id);
        let (took, bytes) = pull(store, reference).await;
        assert!(bytes > WIRE_BYTES_MIN, "the layers were fetched");
        self.clock.push(took.as_secs_f64());
        self.processor
            .push(cpu_time(id).saturating_sub(cpu).as_secs_f64());
    }

    /// Takes the mean of some pulls of what is there, and returns the bytes of layers that came.
    async fn take_again(&mut self, store: &Path, reference: &Reference) -> u64 {
        let cpu = cpu_time(std::process::id());
        let (mut clock, mut fetched) = (Duration::ZERO, 0);
        for _ in 0..AGAIN {
            let (took, bytes) = pull(store, reference).await;
            clock += took;
            fetched += bytes;
        }
        let cpu = cpu_time(std::process::id()).saturating_sub(cpu);
        self.clock.push((clock / AGAIN).as_secs_f64());
        self.processor.push((cpu / AGAIN).as_secs_f64());
        fetched
    }

    fn take_skopeo(&mut self, target: &Path, reference: &Reference) {
        let (begun, cpu) = (Instant::now(), children_time(std::process::id()));
        let copied = Command::new("skopeo")
            .args(["copy", "--quiet", "--src-tls-verify=false"])
            .arg(format!("docker://{reference}"))
            .arg(format!("oci:{}", target.display()))
            .status();
        assert!(copied.is_ok_and(|status| status.success()), "skopeo copies");
        self.clock.push(begun.elapsed().as_secs_f64());
        let cpu = children_time(std::process::id()).saturating_sub(cpu);
        self.processor.push(cpu.as_secs_f64());
        fs::remove_dir_all(target).expect("the copy can be removed");
    }
}

/// Pulls into the store of a folder, opened anew as by a process that has just begun, and returns how long
/// the pull took and how many bytes of layers came.
async fn pull(folder: &Path, reference: &Reference) -> (Duration, u64) {
    let store = ImageStore::open(folder).expect("a store");
    let counter = Arc::new(Counter::default());
    let options = PullOptions {
        credentials: None,
        judge: Arc::new(Anything),
        progress: counter.clone(),
    };
    let begun = Instant::now();
    store
        .pull(reference, &options)
        .await
        .expect("the image is taken");
    (begun.elapsed(), counter.0.load(Ordering::Relaxed))
}

/// Makes the image, sends it to the registry as any client would, and returns what its layers weigh
/// compressed and unpacked.
async fn publish(reference: &Reference) -> (u64, u64) {
    let client = reqwest::Client::new();
    let repository = format!(
        "http://{}/v2/{}",
        reference.registry(),
        reference.repository()
    );
    let (mut layers, mut diff_ids, mut unpacked) = (Vec::new(), Vec::new(), 0);
    for number in 0..LAYERS {
        let tar = layer(number);
        unpacked += tar.len() as u64;
        diff_ids.push(digest(&tar));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&tar).expect("memory");
        let bytes = gzip.finish().expect("memory");
        let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
        layers.push(upload(&client, &repository, kind, bytes).await);
    }
    let config = json!({
        "architecture": "wasm", "os": "wasip1", "config": {"Entrypoint": ["/app.wasm"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let kind = "application/vnd.oci.image.config.v1+json";
    let config = upload(&client, &repository, kind, config.to_string().into_bytes()).await;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers,
    });
    let sent = client
        .put(format!("{repository}/manifests/1"))
        .header("content-type", kind)
        .body(manifest.to_string());
    let answer = sent.send().await.expect("the registry answers");
    assert!(answer.status().is_success(), "{answer:?}");
    let sizes = layers.iter().filter_map(|layer| layer["size"].as_u64());
    (sizes.sum(), unpacked)
}

/// A tar with files of about a layer's share; the last layer holds the program.
fn layer(number: u64) -> Vec<u8> {
    let mut random = SmallRng::seed_from_u64(number);
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).expect("memory");
    };
    for file in 0..FILES {
        add(format!("usr/lib/{number}/{file}.so"), &program(&mut random));
    }
    if number + 1 == LAYERS {
        add("app.wasm".to_owned(), b"\0asm\x01\0\0\0");
    }
    tar.into_inner().expect("memory")
}

/// Bytes that compress as programs do.
fn program(random: &mut SmallRng) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FILE_BYTES);
    while bytes.len() < FILE_BYTES {
        let begin = bytes.len();
        let mut noise = [0; NOISE];
        random.fill_bytes(&mut noise);
        bytes.extend_from_slice(&noise);
        while bytes.len() < begin + RUN {
            bytes.push(bytes[bytes.len() - NOISE]);
        }
    }
    bytes
}

async fn upload(client: &reqwest::Client, repository: &str, kind: &str, bytes: Vec<u8>) -> Value {
    let begun = client.post(format!("{repository}/blobs/uploads/")).send();
    let begun = begun.await.expect("the registry answers");
    let place = begun.headers()["location"].to_str().expect("an address");
    let mut place = begun.url().join(place).expect("an address");
    let digest = digest(&bytes);
    place.query_pairs_mut().append_pair("digest", &digest);
    let described = json!({"mediaType": kind, "digest": digest, "size": bytes.len()});
    let sent = client
        .put(place)
        .header("content-type", "application/octet-stream")
        .body(bytes);
    let answer = sent.send().await.expect("the registry answers");
    assert!(answer.status().is_success(), "{answer:?}");
    described
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

impl Served {
    /// Starts a registry with an empty folder; `None` when there is none on the path.
    fn start(folder: &Path) -> Option<Self> {
        let at = free_port();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: \
             {{rootdirectory: {}}}\nhttp: {{addr: '{at}'}}\n",
            folder.join("registry").display()
        );
        let file = folder.join("registry.yml");
        fs::write(&file, config).expect("a temporary file");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let reference = format!("{at}/bench/image:1").parse();
        let served = Self {
            process,
            reference: reference.expect("a reference"),
        };
        assert!(comes_up(at), "the registry listens");
        Some(served)
    }
}
