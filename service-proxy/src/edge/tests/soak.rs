//! Endpoints that come and go under load: no request is lost that had reached a ready one.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use tokio::io::{AsyncRead, AsyncWrite};

use super::*;

/// How many endpoints are replaced, one after the other, unless it goes on for longer.
const ROUNDS: usize = 24;

/// Names for how many seconds endpoints are replaced, where a test's patience is not the measure.
const SECONDS: &str = "CORACLE_SOAK_SECONDS";

/// Endpoints at any time.
const ENDPOINTS: usize = 3;

/// Clients that connect for each request, and as many that keep their connection.
const CLIENTS: usize = 4;

/// The server answers and keeps the connection.
const KEEPS: u8 = b'k';

/// The server answers and closes the connection.
const CLOSES: u8 = b'c';

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

enum Accepting {
    Here(Listener),
    Elsewhere(TcpListener),
}

/// An endpoint as a well-behaved program is one: told to leave, it says with its next answer on each
/// connection that it was the last.
struct Server {
    at: SocketAddr,
    is_leaving: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    accepts: tokio::task::JoinHandle<()>,
    _pod: Option<PodNetwork>,
}

/// What clients did.
#[derive(Default)]
struct Tally {
    is_over: AtomicBool,
    answered: AtomicUsize,
    lost: AtomicUsize,
}

impl Accepting {
    async fn accept(&self) -> Option<Box<dyn Connection>> {
        match self {
            Accepting::Here(listener) => Some(Box::new(listener.accept().await.ok()?)),
            Accepting::Elsewhere(listener) => Some(Box::new(listener.accept().await.ok()?.0)),
        }
    }
}

impl Server {
    async fn start(fabric: &Fabric, number: usize) -> Server {
        let (accepting, at, pod) = if number.is_multiple_of(2) {
            let pod = pod(fabric, &format!("pod-{number}"));
            let (listener, at) = listen(&pod, 128);
            (Accepting::Here(listener), at, Some(pod))
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = listener.local_addr().unwrap();
            (Accepting::Elsewhere(listener), at, None)
        };
        let is_leaving = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(AtomicUsize::new(0));
        let (leaves, open) = (Arc::clone(&is_leaving), Arc::clone(&connections));
        let accepts = tokio::spawn(async move {
            while let Some(connection) = accepting.accept().await {
                let (leaves, open) = (Arc::clone(&leaves), Arc::clone(&open));
                open.fetch_add(1, Ordering::AcqRel);
                tokio::spawn(async move {
                    answer(connection, &leaves).await;
                    open.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
        Server {
            at,
            is_leaving,
            connections,
            accepts,
            _pod: pod,
        }
    }

    async fn leave(self) {
        self.is_leaving.store(true, Ordering::Release);
        let drained = || self.connections.load(Ordering::Acquire) == 0;
        until("an endpoint is drained", drained).await;
        self.accepts.abort();
    }
}

async fn answer(mut connection: Box<dyn Connection>, is_leaving: &AtomicBool) {
    let mut question = [0];
    while connection.read_exact(&mut question).await.is_ok() {
        let last = is_leaving.load(Ordering::Acquire);
        let answer = if last { CLOSES } else { KEEPS };
        if connection.write_all(&[answer]).await.is_err() || last {
            return;
        }
    }
}

async fn asks(tally: Arc<Tally>, to: SocketAddr, keeps: bool) {
    let mut kept = None;
    while !tally.is_over.load(Ordering::Acquire) {
        match ask(to, kept.take()).await {
            Ok((stream, KEEPS)) if keeps => kept = Some(stream),
            Ok(_) => {}
            Err(error) => {
                eprintln!("lost: {error}");
                tally.lost.fetch_add(1, Ordering::AcqRel);
            }
        }
        tally.answered.fetch_add(1, Ordering::AcqRel);
    }
}

async fn ask(to: SocketAddr, kept: Option<TcpStream>) -> std::io::Result<(TcpStream, u8)> {
    let mut stream = match kept {
        Some(stream) => stream,
        None => TcpStream::connect(to).await?,
    };
    stream.write_all(b"?").await?;
    let mut answer = [0];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await;
    read.map_err(|_| std::io::ErrorKind::TimedOut)??;
    Ok((stream, answer[0]))
}

/// Returns how long endpoints are replaced, if that was said.
fn soaks_for() -> Option<Duration> {
    let seconds = std::env::var(SECONDS).ok()?;
    Some(Duration::from_secs(
        seconds.parse().expect("a number of seconds"),
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_endpoints_are_replaced() {
    let fabric = fabric();
    let web = service("web");
    let mut servers = std::collections::VecDeque::new();
    for number in 0..ENDPOINTS {
        servers.push_back(Server::start(&fabric, number).await);
    }
    let addresses = |servers: &std::collections::VecDeque<Server>| {
        servers.iter().map(|server| server.at).collect::<Vec<_>>()
    };
    route(&web, &addresses(&servers));
    let edge = start(Some(fabric.clone()));
    let table = fronts(&[(cluster_ip(), front(&web, FrontKind::ClusterIp))]);
    edge.apply(Arc::clone(&table));
    let outside = published(&edge, cluster_ip()).await;
    let mut clients = tokio::task::JoinSet::new();
    let tallies = (0..2 * CLIENTS).map(|number| {
        let tally = Arc::new(Tally::default());
        let keeps = number.is_multiple_of(2);
        clients.spawn(asks(Arc::clone(&tally), outside, keeps));
        tally
    });
    let tallies = tallies.collect::<Vec<_>>();
    let answered = || {
        let each = tallies
            .iter()
            .map(|tally| tally.answered.load(Ordering::Acquire));
        each.collect::<Vec<_>>()
    };
    let soaks_for = soaks_for();
    let began = std::time::Instant::now();
    let goes_on = |number: usize| match soaks_for {
        None => number < ENDPOINTS + ROUNDS,
        Some(time) => began.elapsed() < time,
    };
    let mut replaced = 0;
    for number in (ENDPOINTS..).take_while(|number| goes_on(*number)) {
        replaced += 1;
        servers.push_back(Server::start(&fabric, number).await);
        let leaving = servers.pop_front().expect("there are some");
        route(&web, &addresses(&servers));
        edge.apply(Arc::clone(&table));
        // What was decided before the change belongs to a request that each client has had answered
        // when it is two further.
        let before = answered();
        until("each client is two requests further", || {
            let now = answered();
            before
                .iter()
                .zip(&now)
                .all(|(before, now)| *now >= before + 2)
        })
        .await;
        leaving.leave().await;
    }
    tallies
        .iter()
        .for_each(|tally| tally.is_over.store(true, Ordering::Release));
    clients.join_all().await;
    let lost: usize = tallies
        .iter()
        .map(|tally| tally.lost.load(Ordering::Acquire))
        .sum();
    let all: usize = answered().iter().sum();
    let seconds = began.elapsed().as_secs();
    println!("{all} requests, {lost} lost, {replaced} endpoints replaced in {seconds} s");
    assert_eq!(lost, 0);
}
