//! The back end: a small HTTP/1.0 server that counts the visits of its life, and ends when it is told to.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

/// The lines of a request that are read before it is answered anyway.
const HEADER_LINES_MAX: usize = 100;

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:8080")?;
    println!("counting visits on port 8080");
    let mut visits = 0;
    loop {
        let (stream, peer) = listener.accept()?;
        match answer(&stream, &mut visits) {
            Ok(true) => {}
            Ok(false) => {
                println!("told to end after {visits} visits");
                std::process::exit(1);
            }
            Err(error) => println!("a request from {} failed: {error}", peer.ip()),
        }
    }
}

/// Answers one request and tells whether to go on.
fn answer(mut stream: &TcpStream, visits: &mut u64) -> io::Result<bool> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines.take(HEADER_LINES_MAX) {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let (status, body) = match path {
        "/visit" => {
            *visits += 1;
            ("200 OK", format!("visit {visits}"))
        }
        "/end" => ("200 OK", "ending".to_owned()),
        "/ready" => ("200 OK", "ready".to_owned()),
        _ => ("404 Not Found", "not here".to_owned()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.0 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    Ok(path != "/end")
}
