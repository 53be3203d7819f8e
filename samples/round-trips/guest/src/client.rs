//! Waits for an echo server, connects to it again and again, then sends to and fro over one connection, and
//! says how long each took.
//!
//! Its arguments: the server's address, how many connections, how many round trips.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Bytes of a round trip.
const MESSAGE: [u8; 64] = [7; 64];
/// How long to wait before the server is asked again whether it listens.
const PAUSE: Duration = Duration::from_millis(10);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, server, connections, trips] = arguments.as_slice() else {
        return Err("the arguments are ADDRESS CONNECTIONS TRIPS".into());
    };
    let (connections, trips) = (connections.parse()?, trips.parse()?);
    let mut addresses = server.to_socket_addrs()?;
    let server = addresses.next().ok_or("the server has no address")?;
    wait_for(server)?;
    if let Some(each) = measure(connections, || connect(server))? {
        println!("a connection with one byte to and fro: {each:?}");
    }
    let mut stream = TcpStream::connect(server)?;
    if let Some(each) = measure(trips, || round_trip(&mut stream, &mut [0; MESSAGE.len()]))? {
        println!("a round trip of {} bytes: {each:?}", MESSAGE.len());
    }
    Ok(())
}

/// Returns when the server listens.
fn wait_for(server: SocketAddr) -> std::io::Result<()> {
    while let Err(error) = TcpStream::connect(server) {
        if error.kind() != ErrorKind::ConnectionRefused {
            return Err(error);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Does it so often and returns how long each took; nothing if it was not to be done at all.
fn measure(
    times: u32,
    mut work: impl FnMut() -> std::io::Result<()>,
) -> std::io::Result<Option<Duration>> {
    let begun = Instant::now();
    for _ in 0..times {
        work()?;
    }
    Ok(begun.elapsed().checked_div(times))
}

fn connect(server: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(&MESSAGE[..1])?;
    stream.read_exact(&mut [0])
}

fn round_trip(stream: &mut TcpStream, into: &mut [u8]) -> std::io::Result<()> {
    stream.write_all(&MESSAGE)?;
    stream.read_exact(into)
}
