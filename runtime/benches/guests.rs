//! Measures guest to guest: the two programs of `samples/round-trips`, as pods that meet through a
//! Service, and the same two under plain `wasmtime-wasi` that meet over the kernel's loopback.
//!
//! All are in this process and take turns within each round, so processor time is that of the whole
//! process: client, server and what is between them. The peer runs once with a thread for each of the
//! two, as ours does, and once with one for both, which spares it the waking of threads.
//!
//! `CORACLE_BENCH_ROUNDS` (7).

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/runtime/world.rs"]
mod world;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_network::{
    Endpoint, Fabric, Front, FrontAddress, FrontKind, Fronts, Protocol, Routes, ServicePort,
    ServicePortName,
};
use coracle_runtime::{ExitCause, Instance};
use coracle_tests::{Figure, Figures, comes_up, cpu_time, free_port, repository, setting};
use tokio::runtime::Runtime as Tokio;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use world::World;

const OURS: &str = "ours, through a Service";
const KERNEL: &str = "wasmtime-wasi, kernel sockets";
const KERNEL_ALONE: &str = "wasmtime-wasi, kernel sockets, one thread";

/// The Service that is connected to, and the port the server listens on.
const VIP: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 1), 80));
const SERVER_PORT: u16 = 7;

/// Enough that processor time, told in hundredths of a second, is known to some percent. Connections over
/// the kernel are also few enough for its ports to be free again.
const OURS_TIMES: Times = Times {
    connections: 40_000,
    trips: 200_000,
};
const KERNEL_TIMES: Times = Times {
    connections: 5_000,
    trips: 30_000,
};

/// The longest a server takes to listen.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How often each is done in a round.
#[derive(Clone, Copy)]
struct Times {
    connections: u32,
    trips: u32,
}

/// What was found of one contender, in microseconds, a value a round.
#[derive(Default)]
struct Found {
    connection: Spent,
    trip: Spent,
}

#[derive(Default)]
struct Spent {
    clock: Vec<f64>,
    processor: Vec<f64>,
}

/// One of the two things that were done.
type Part = fn(&Found) -> &Spent;
/// One of the two kinds of time.
type Kind = fn(&Spent) -> &Vec<f64>;

/// Two pods of which one is behind a Service.
struct Ours {
    world: World,
    client: Vec<u8>,
    _server: Instance,
}

/// The same two programs under a host that has nothing of ours.
struct Kernel {
    tokio: Tokio,
    client: CommandPre<Host>,
    server: SocketAddr,
}

/// The data of a store of that host.
struct Host {
    wasi: WasiCtx,
    table: ResourceTable,
}

fn main() {
    let mut figures = Figures::begin("guests");
    let tokio = tokio(1);
    let ours = tokio.block_on(Ours::start());
    let kernel = [2, 1].map(Kernel::start);
    let round = |[of_ours, of_kernel, of_alone]: &mut [Found; 3]| {
        of_ours.take(OURS_TIMES, |times| tokio.block_on(ours.run(times)));
        of_kernel.take(KERNEL_TIMES, |times| kernel[0].run(times));
        of_alone.take(KERNEL_TIMES, |times| kernel[1].run(times));
    };
    // The first of each loads and warms up.
    round(&mut Default::default());
    let mut found: [Found; 3] = Default::default();
    for _ in 0..setting("ROUNDS", 7) {
        round(&mut found);
    }
    tell(&found, &mut figures);
    figures.finish();
    tokio.block_on(ours.world.runtime.shutdown());
}

fn tell(found: &[Found; 3], figures: &mut Figures) {
    let parts: [(&str, Part); 2] = [
        ("a connection, a byte to and fro", |found| &found.connection),
        ("a round trip of 64 bytes", |found| &found.trip),
    ];
    let kinds: [(&str, Kind); 2] = [
        ("time", |spent| &spent.clock),
        ("processor time", |spent| &spent.processor),
    ];
    for (part, spent) in parts {
        for (kind, values) in kinds {
            let all = [OURS, KERNEL, KERNEL_ALONE].into_iter().zip(found);
            for (contender, found) in all {
                let values = values(spent(found)).iter().copied();
                let name = format!("{part}: {kind}");
                let figure = Figure::lower(name, contender, "µs", values);
                let figure = match (contender, kind) {
                    (OURS, "time") => figure.against(KERNEL).ratio_goal(0.2),
                    (OURS, _) => figure.against(KERNEL),
                    _ => figure.peer(),
                };
                figures.add(figure);
            }
        }
    }
}

impl Found {
    fn take(&mut self, times: Times, run: impl Fn(Times)) {
        let Times { connections, trips } = times;
        let only = |connections, trips| Times { connections, trips };
        self.connection
            .take(connections, || run(only(connections, 0)));
        self.trip.take(trips, || run(only(0, trips)));
    }
}

impl Spent {
    fn take(&mut self, count: u32, work: impl FnOnce()) {
        let id = std::process::id();
        let (begun, cpu) = (Instant::now(), cpu_time(id));
        work();
        let (clock, cpu) = (begun.elapsed(), cpu_time(id).saturating_sub(cpu));
        let each = |spent: Duration| spent.as_secs_f64() * 1e6 / f64::from(count);
        self.clock.push(each(clock));
        self.processor.push(each(cpu));
    }
}

impl Times {
    fn arguments(self, server: SocketAddr) -> [String; 4] {
        let Self { connections, trips } = self;
        [
            "client".to_owned(),
            server.to_string(),
            connections.to_string(),
            trips.to_string(),
        ]
    }
}

impl Ours {
    async fn start() -> Self {
        let world = World::new();
        let container = world.container(&guest("server")).await;
        let at = SocketAddr::from((container.spec.network.ip(), SERVER_PORT));
        let server = container.start();
        serve(&world.fabric, at);
        let begun = Instant::now();
        while world.fabric.dial(at).await.is_err() {
            assert!(begun.elapsed() < START_TIMEOUT, "the server listens");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self {
            world,
            client: guest("client"),
            _server: server,
        }
    }

    /// Runs the client to its end.
    async fn run(&self, times: Times) {
        let container = self.world.container(&self.client).await;
        let stderr = container.stderr.clone();
        let container = container.with(|spec| spec.args = times.arguments(VIP).into());
        let exit = container.start().exited().await;
        assert_eq!(
            (exit.code, exit.cause),
            (0, ExitCause::Exited),
            "{}",
            stderr.text()
        );
    }
}

/// Puts the Service into the fabric's table.
fn serve(fabric: &Fabric, endpoint: SocketAddr) {
    let range = ipnet::IpNet::new(VIP.ip(), 12).expect("a prefix of IPv4");
    let name = ServicePortName {
        namespace: "default".to_owned(),
        service: "echo".to_owned(),
        port: String::new(),
        protocol: Protocol::Tcp,
    };
    let service = Arc::new(ServicePort::new(name, None));
    let endpoints: Arc<[_]> = [Endpoint::new(endpoint)].into();
    service.set_routes(Routes {
        cluster: Arc::clone(&endpoints),
        local: endpoints,
        ..Routes::default()
    });
    let address = FrontAddress {
        ip: Some(VIP.ip()),
        port: VIP.port(),
        protocol: Protocol::Tcp,
    };
    let front = Front {
        service,
        kind: FrontKind::ClusterIp,
        source_ranges: None,
    };
    let mut fronts = Fronts::new(vec![range.trunc()], []);
    fronts.insert(address, front);
    fabric.services().set_fronts(fronts);
}

impl Kernel {
    /// Starts the server on a free port of the loopback, with so many threads for both.
    fn start(threads: usize) -> Self {
        let tokio = tokio(threads);
        let engine = Engine::default();
        let server = program(&engine, "server");
        let at = free_port();
        let arguments = ["server".to_owned(), at.to_string()];
        tokio.spawn(async move { run(&server, &arguments).await });
        assert!(comes_up(at), "`{at}` listens");
        Self {
            client: program(&engine, "client"),
            tokio,
            server: at,
        }
    }

    /// Runs the client to its end.
    fn run(&self, times: Times) {
        let (client, arguments) = (self.client.clone(), times.arguments(self.server));
        let running = async move { run(&client, &arguments).await };
        let ended = self.tokio.block_on(self.tokio.spawn(running));
        ended
            .expect("it does not panic")
            .expect("it ends with success");
    }
}

async fn run(program: &CommandPre<Host>, arguments: &[String]) -> Result<(), ()> {
    let wasi = WasiCtx::builder()
        .args(arguments)
        .inherit_stderr()
        .inherit_network()
        .allow_tcp(true)
        .build();
    let host = Host {
        wasi,
        table: ResourceTable::new(),
    };
    let mut store = Store::new(program.engine(), host);
    let command = program.instantiate_async(&mut store).await;
    let command = command.expect("it needs nothing but WASI");
    let ran = command.wasi_cli_run().call_run(&mut store).await;
    ran.expect("it does not trap")
}

fn program(engine: &Engine, name: &str) -> CommandPre<Host> {
    let component = Component::new(engine, guest(name)).expect("a component");
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("nothing is there twice");
    let pre = linker.instantiate_pre(&component).expect("WASI is there");
    CommandPre::new(pre).expect("a command")
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

fn guest(name: &str) -> Vec<u8> {
    let path: PathBuf = repository().join(format!("samples/round-trips/{name}.wasm"));
    std::fs::read(path).expect("the sample is there")
}

fn tokio(threads: usize) -> Tokio {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .expect("a runtime starts")
}
