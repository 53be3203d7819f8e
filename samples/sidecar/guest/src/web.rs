//! A small HTTP/1.0 server: sends the page its neighbour wrote, and counts the requests.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

/// Where the volume that both containers mount holds the page.
const PAGE: &str = "/data/page.txt";

/// The lines of a request that are read before it is answered anyway.
const HEADER_LINES_MAX: usize = 100;

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:8080")?;
    println!("serving {PAGE} on port 8080");
    for number in 1_u64.. {
        let (stream, peer) = listener.accept()?;
        if let Err(error) = answer(&stream, number) {
            println!("request {number} from {} failed: {error}", peer.ip());
        }
    }
    Ok(())
}

fn answer(mut stream: &TcpStream, number: u64) -> io::Result<()> {
    for line in BufReader::new(stream).lines().take(HEADER_LINES_MAX) {
        if line?.is_empty() {
            break;
        }
    }
    let (status, body) = match std::fs::read_to_string(PAGE) {
        Ok(page) => ("200 OK", format!("{}, request {number}\n", page.trim_end())),
        Err(error) => ("503 Service Unavailable", format!("no page yet: {error}\n")),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.0 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}
