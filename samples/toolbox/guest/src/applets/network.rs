//! `nc`, `getent hosts`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::datagrams::Datagrams;
use super::time::duration;
use crate::applet::{Context, Failure, Outcome, describe};
use crate::options::Options;
use crate::platform::{self, Connection, Listener};
use crate::reactor::{self, Boxed};

applets! {
    "nc" => nc,
    "netcat" => nc,
    "getent" => getent,
}

const CHUNK_BYTES: usize = 16 * 1024;
/// How long a connection is tried for unless `-w` says.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a scanned port may take to refuse a datagram.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

async fn nc(context: Context) -> Outcome {
    let options = Options::read(context.arguments(), "zvnw:lp:ktNq:ude:s:46", &[])?;
    for (letter, what) in [('e', "starting programs"), ('s', "a source address")] {
        if options.has(letter) {
            return Err(Failure::usage(format!(
                "-{letter}: {what} is not supported"
            )));
        }
    }
    if options.has('l') {
        return listen(&context, &options).await;
    }
    let [host, ports] = options.operands.as_slice() else {
        return Err(Failure::usage(
            "nc [-uzvw SECONDS] HOST PORT, or nc -l [-uk] -p PORT",
        ));
    };
    let patience = match options.value('w') {
        Some(text) => duration(text)?,
        None => PATIENCE,
    };
    let (first, last) = match ports.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(ports)?, port(ports)?),
    };
    let way = if options.has('u') { "udp" } else { "tcp" };
    let mut code = 1;
    for number in first..=last {
        let reached = match way {
            "udp" => talk(host, number, options.has('z')).await,
            _ => connect(host, number, patience).await.map(Peer::Stream),
        };
        match reached {
            Ok(peer) => {
                code = 0;
                if options.has('v') {
                    let text = format!("Connection to {host} {number} port [{way}/*] succeeded!\n");
                    context.say(&text).await;
                }
                if !options.has('z') {
                    let idle = options.has('w').then_some(patience);
                    exchange(&context, &peer, idle).await?;
                    break;
                }
            }
            Err(failure) => {
                // A scan is silent about closed ports unless it is to be told.
                if !options.has('z') || options.has('v') {
                    let text = format!(
                        "nc: connect to {host} port {number} ({way}) failed: {}\n",
                        failure.message()
                    );
                    context.say(&text).await;
                }
            }
        }
    }
    context.end(code).await
}

/// The other side.
enum Peer {
    Stream(Connection),
    Datagrams(Datagrams),
}

impl Peer {
    /// Takes some bytes, of UDP a datagram; none are the end.
    async fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Peer::Stream(connection) => connection.read(CHUNK_BYTES).await,
            Peer::Datagrams(socket) => loop {
                let piece = socket.receive().await?;
                if !piece.is_empty() {
                    return Ok(piece);
                }
            },
        }
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Peer::Stream(connection) => connection.write(bytes).await,
            Peer::Datagrams(socket) => socket.send(bytes).await,
        }
    }

    /// Says that nothing more will be written; UDP has no word for it.
    fn finish(&self) {
        if let Peer::Stream(connection) = self {
            let _ = connection.finish();
        }
    }
}

/// Makes a socket of UDP for the first address of a name. Whether somebody is there shows only when a
/// datagram is refused, so a scan sends one and waits a moment.
async fn talk(host: &str, port: u16, scans: bool) -> Result<Peer, Failure> {
    let found = addresses(host).await?;
    let address = found.first().copied();
    let address = address.ok_or_else(|| Failure::new("Name does not resolve"))?;
    let failed = |error: io::Error| Failure::new(describe(&error));
    let socket = Datagrams::to(SocketAddr::new(address, port)).map_err(failed)?;
    if scans {
        socket.send(b"X").await.map_err(failed)?;
        let end = platform::now().saturating_add(REFUSAL_TIME);
        let answer = reactor::unless(socket.receive(), reactor::wait_until(end)).await;
        answer.unwrap_or_else(|| Ok(Vec::new())).map_err(failed)?;
    }
    Ok(Peer::Datagrams(socket))
}

fn port(text: &str) -> Result<u16, Failure> {
    text.parse()
        .map_err(|_| Failure::usage(format!("invalid port `{text}`")))
}

/// Connects to the first address of a name that answers.
async fn connect(host: &str, port: u16, patience: Duration) -> Result<Connection, Failure> {
    let end = platform::now().saturating_add(patience);
    let mut last = Failure::new("Name does not resolve");
    for address in addresses(host).await? {
        let connecting = Connection::connect(SocketAddr::new(address, port));
        match reactor::unless(connecting, reactor::wait_until(end)).await {
            Some(Ok(connection)) => return Ok(connection),
            Some(Err(error)) => last = Failure::new(describe(&error)),
            None => return Err(Failure::new("Operation timed out")),
        }
    }
    Err(last)
}

/// Returns the addresses of a name, as the node finds them.
pub(super) async fn addresses(host: &str) -> Result<Vec<IpAddr>, Failure> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Ok(vec![address]);
    }
    let found = platform::resolve(host).await;
    found.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new("Name does not resolve"),
        _ => error.into(),
    })
}

async fn listen(context: &Context, options: &Options) -> Outcome {
    let (host, number) = match (options.value('p'), options.operands.as_slice()) {
        (Some(number), [] | [_]) => (options.operands.first(), number),
        (None, [number]) => (None, number.as_str()),
        (None, [host, number]) => (Some(host), number.as_str()),
        _ => return Err(Failure::usage("nc -l [-uk] [-p] PORT")),
    };
    let address = match host {
        Some(host) => *addresses(host)
            .await?
            .first()
            .ok_or_else(|| Failure::new("no address"))?,
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let address = SocketAddr::new(address, port(number)?);
    if options.has('u') {
        let (socket, first) = Datagrams::of_first(address).await?;
        context.descriptors.get(1)?.write(&first).await?;
        exchange(context, &Peer::Datagrams(socket), None).await?;
        return context.end(0).await;
    }
    let listener = Listener::listen(address)
        .await
        .map_err(|error| Failure::about(address.to_string(), &error))?;
    if options.has('v') {
        context.say(&format!("Listening on {address}\n")).await;
    }
    loop {
        let peer = Peer::Stream(listener.accept().await?);
        exchange(context, &peer, None).await?;
        if !options.has('k') {
            return context.end(0).await;
        }
    }
}

/// Passes standard input on and writes what comes back, until the other side has ended or nothing moved for
/// so long.
async fn exchange(context: &Context, peer: &Peer, idle: Option<Duration>) -> Result<(), Failure> {
    let moved = std::cell::Cell::new(platform::now());
    let sending = async {
        let input = context.input()?;
        loop {
            let piece = input.read(CHUNK_BYTES).await?;
            if piece.is_empty() {
                peer.finish();
                return std::future::pending::<Result<(), Failure>>().await;
            }
            peer.write(&piece).await?;
            moved.set(platform::now());
        }
    };
    let receiving = async {
        let output = context.descriptors.get(1)?;
        loop {
            let piece = peer.read().await?;
            if piece.is_empty() {
                return Ok::<(), Failure>(());
            }
            output.write(&piece).await?;
            moved.set(platform::now());
        }
    };
    let waiting = async {
        let Some(idle) = idle else {
            return std::future::pending().await;
        };
        while platform::now() < moved.get().saturating_add(idle) {
            reactor::wait_until(moved.get().saturating_add(idle)).await;
        }
    };
    let failed = std::cell::RefCell::new(None);
    let sending = async {
        let ended = sending.await;
        *failed.borrow_mut() = ended.err();
    };
    let both = reactor::unless(receiving, sending);
    let ended = reactor::unless(both, waiting).await.flatten();
    match (ended, failed.take()) {
        (Some(Err(failure)), _) | (None, Some(failure)) => Err(failure),
        (Some(Ok(())), _) | (None, None) => Ok(()),
    }
}

async fn getent(context: Context) -> Outcome {
    let (database, names) = match context.arguments() {
        [database, names @ ..] if !names.is_empty() => (database.as_str(), names),
        _ => return Err(Failure::usage("getent hosts NAME")),
    };
    if !matches!(database, "hosts" | "ahosts" | "ahostsv4") {
        return Err(Failure::usage(format!("unknown database `{database}`")));
    }
    let mut code = 0;
    for name in names {
        let finding: Boxed<Result<Vec<IpAddr>, Failure>> = {
            let name = name.clone();
            Box::pin(async move { addresses(&name).await })
        };
        let mut found = finding.await.unwrap_or_default();
        if database == "ahostsv4" {
            found.retain(IpAddr::is_ipv4);
        }
        if found.is_empty() {
            code = 2;
        }
        for address in found {
            context.line(format!("{address:<15} {name}")).await?;
        }
    }
    context.end(code).await
}
