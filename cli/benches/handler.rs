//! Holds a handler of `coracle run` beside `wasmtime serve` with the same component and beside plain hyper,
//! in one run: processor time of the server for a request, and requests a second.
//!
//! Ours is the program as it is shipped: behind a published port, with limits, a probe and logs. `wrk` asks
//! with 32 connections that are kept. All servers are up at once and take turns within each round. Who is
//! not on the path is named as missing.
//!
//! `CORACLE_BENCH_ROUNDS` (7), `CORACLE_BENCH_SECONDS` (2) for a sample, `CORACLE_BENCH_BINARY` for another
//! program than the one that was built with the benchmark.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use coracle_tests::{
    Coracle, Figure, Figures, Run, Wrk, comes_up, cpu_time, free_port, measured_binary, repository,
    setting,
};
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

/// The argument that makes this program the plain server.
const SERVE: &str = "serve-hyper";
const HYPER: &str = "hyper, native";
const WASMTIME: &str = "wasmtime serve";
const WASMTIME_TUNED: &str = "wasmtime serve, tuned";
const FRESH: &str = "ours, fresh instance";
const REUSED: &str = "ours, instances reused";

/// What brings most for `wasmtime serve`: dirty pages are found and put back instead of mapped anew.
const TUNED: &[&str] = &[
    "-Opooling-allocator=y",
    "-Opooling-memory-keep-resident=2097152",
    "-Opooling-table-keep-resident=65536",
    "-Opooling-pagemap-scan=y",
];

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: fresh}
spec:
  containers:
  - name: web
    image: FILE
    ports: [{name: http, containerPort: 80, hostPort: FRESH}]
    resources: {requests: {cpu: 500m, memory: 16Mi}, limits: {cpu: '4', memory: 256Mi}}
    readinessProbe: {httpGet: {port: http}, periodSeconds: 10}
---
apiVersion: v1
kind: Pod
metadata: {name: reused, annotations: {coracle.dev/instances: reuse}}
spec:
  containers:
  - name: web
    image: FILE
    ports: [{name: http, containerPort: 80, hostPort: REUSED}]
    resources: {requests: {cpu: 500m, memory: 16Mi}, limits: {cpu: '4', memory: 256Mi}}
    readinessProbe: {httpGet: {port: http}, periodSeconds: 10}
";

/// Who answers, at which address, in which process.
struct Server {
    name: &'static str,
    at: SocketAddr,
    process: u32,
}

/// All of them; ended when dropped.
struct Servers {
    all: Vec<Server>,
    children: Vec<Child>,
    _run: Run,
}

/// What was found of one server, a value a round.
#[derive(Default)]
struct Found {
    /// Microseconds of processors for a request.
    processor: Vec<f64>,
    rate: Vec<f64>,
    /// Microseconds.
    p99: Vec<f64>,
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some(SERVE) {
        return serve_hyper();
    }
    let mut figures = Figures::begin("handler");
    let coracle = Coracle::new(&measured_binary(env!("CARGO_BIN_EXE_coracle")));
    let servers = Servers::start(&coracle, &mut figures);
    let mut found: Vec<Found> = servers.all.iter().map(|_| Found::default()).collect();
    for _ in 0..setting("ROUNDS", 7) {
        for (server, found) in servers.all.iter().zip(&mut found) {
            if !server.sample(found) {
                figures.missing("wrk", "it asks; without it there are no figures");
                return figures.finish();
            }
        }
    }
    tell(&servers, &found, &mut figures);
    figures.finish();
}

fn tell(servers: &Servers, found: &[Found], figures: &mut Figures) {
    let all = || servers.all.iter().map(|server| server.name).zip(found);
    for (name, found) in all() {
        let values = found.processor.iter().copied();
        let figure = Figure::lower(
            "processor time of the server, a request",
            name,
            "µs",
            values,
        );
        figures.add(match name {
            FRESH => figure.against(WASMTIME).goal(25.0),
            REUSED => figure.against(HYPER).goal(16.0),
            _ => figure.peer(),
        });
    }
    for (name, found) in all() {
        let values = found.rate.iter().copied();
        let figure = Figure::higher("requests on kept connections", name, "1/s", values);
        figures.add(match name {
            FRESH => figure.against(WASMTIME).ratio_goal(4.0),
            REUSED => figure.against(HYPER).goal(65_000.0),
            _ => figure.peer(),
        });
    }
    for (name, found) in all() {
        let values = found.p99.iter().copied();
        let figure = Figure::lower("99th percentile of an answer", name, "µs", values);
        let is_ours = [FRESH, REUSED].contains(&name);
        figures.add(if is_ours { figure } else { figure.peer() });
    }
}

impl Server {
    /// Takes one sample; false when there is no client.
    fn sample(&self, found: &mut Found) -> bool {
        let seconds = format!("-d{}s", setting("SECONDS", 2));
        let url = format!("http://{}/", self.at);
        let cpu = cpu_time(self.process);
        let Some(told) = Wrk::run(&["-t1", "-c32", &seconds, &url]) else {
            return false;
        };
        let cpu = cpu_time(self.process).saturating_sub(cpu);
        if told.errors > 0 {
            println!("{}: {} errors", self.name, told.errors);
        }
        found
            .processor
            .push(cpu.as_secs_f64() * 1e6 / told.requests);
        found.rate.push(told.requests / told.seconds);
        found.p99.push(told.p99);
        true
    }
}

impl Servers {
    fn start(coracle: &Coracle, figures: &mut Figures) -> Self {
        let component = repository().join("samples/hello-http/hello-http.wasm");
        let component = component.to_str().expect("the path is text").to_owned();
        let [fresh, reused] = [free_port(), free_port()];
        let manifest = PODS
            .replace("FILE", &component)
            .replace("FRESH", &fresh.port().to_string())
            .replace("REUSED", &reused.port().to_string());
        let run = coracle.start(&["run", "-"], &manifest);
        let process = run.id();
        let mut servers = Self {
            all: Vec::new(),
            children: Vec::new(),
            _run: run,
        };
        servers.start_hyper();
        servers.start_wasmtime(WASMTIME, &["-Opooling-allocator=y"], &component, figures);
        servers.start_wasmtime(WASMTIME_TUNED, TUNED, &component, figures);
        for (name, at) in [(FRESH, fresh), (REUSED, reused)] {
            assert!(comes_up(at), "`{name}` listens");
            servers.all.push(Server { name, at, process });
        }
        servers
    }

    fn start_hyper(&mut self) {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .arg(SERVE)
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output)
            .read_line(&mut line)
            .expect("it says where it listens");
        self.all.push(Server {
            name: HYPER,
            at: line.trim().parse().expect("an address"),
            process: child.id(),
        });
        self.children.push(child);
    }

    fn start_wasmtime(
        &mut self,
        name: &'static str,
        options: &[&str],
        component: &str,
        figures: &mut Figures,
    ) {
        let at = free_port();
        let child = Command::new("wasmtime")
            .arg("serve")
            .args(options)
            .args(["-Scli", "--addr", &at.to_string(), component])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            return figures.missing(name, "`cargo xtask bench --build-peers` builds it");
        };
        let process = child.id();
        self.children.push(child);
        if !comes_up(at) {
            return figures.missing(name, "it does not listen");
        }
        self.all.push(Server { name, at, process });
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The plain server: hyper on one thread, the answer of the sample.
fn serve_hyper() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime starts").block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port is free");
        println!("{}", listener.local_addr().expect("bound"));
        std::io::stdout().flush().expect("the bench reads");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            let service = service_fn(async |_request| {
                let body = Bytes::from_static(b"Hello from a Coracle pod!\n");
                Ok::<_, Infallible>(Response::new(Full::new(body)))
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
}
