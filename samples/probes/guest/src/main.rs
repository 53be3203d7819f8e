//! A server that takes a while to start, is ready a little later, and can be broken: it answers the
//! probes and hooks of its manifest.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// From the start to the first answer.
const STARTS_IN: Duration = Duration::from_secs(2);

/// From the first answer to being ready.
const READY_IN: Duration = Duration::from_secs(2);

struct Server {
    listening_since: Instant,
    is_ready: bool,
    is_broken: bool,
}

fn main() -> io::Result<()> {
    println!("warming up");
    thread::sleep(STARTS_IN);
    let listener = TcpListener::bind("0.0.0.0:8080")?;
    println!("started");
    let mut server = Server {
        listening_since: Instant::now(),
        is_ready: false,
        is_broken: false,
    };
    loop {
        let (stream, _) = listener.accept()?;
        // A client that has gone away is no failure of ours.
        let _ = server.serve(stream);
    }
}

impl Server {
    fn serve(&mut self, mut stream: TcpStream) -> io::Result<()> {
        let mut head = vec![0; 4096];
        let mut length = 0;
        while length < head.len() && !head[..length].ends_with(b"\r\n\r\n") {
            match stream.read(&mut head[length..])? {
                // The startup probe only connects.
                0 => return Ok(()),
                count => length += count,
            }
        }
        let head = String::from_utf8_lossy(&head[..length]);
        let (status, text) = self.answer(head.split(' ').nth(1).unwrap_or_default());
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        )
    }

    fn answer(&mut self, path: &str) -> (&'static str, &'static str) {
        match path {
            "/ready" if self.listening_since.elapsed() < READY_IN => {
                ("503 Service Unavailable", "not yet\n")
            }
            "/ready" => {
                if !self.is_ready {
                    println!("ready");
                }
                self.is_ready = true;
                ("200 OK", "ready\n")
            }
            "/healthz" if self.is_broken => ("500 Internal Server Error", "broken\n"),
            "/healthz" => ("200 OK", "fine\n"),
            "/break" => {
                println!("broken: the liveness probe will find out");
                self.is_broken = true;
                ("200 OK", "broken\n")
            }
            "/goodbye" => {
                println!("goodbye");
                ("200 OK", "goodbye\n")
            }
            _ => ("200 OK", "Try /break.\n"),
        }
    }
}
