//! Writes three pages and reads each back through its neighbour's server on `localhost`, or through the
//! server that the variable `SERVER` names.

use std::env;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

/// How often the server is tried, which may start later than we do, unless `ATTEMPTS` says otherwise.
const ATTEMPTS_MAX: usize = 100;

/// How long to wait before the server is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

fn main() -> io::Result<()> {
    let server = env::var("SERVER").unwrap_or_else(|_| "127.0.0.1:8080".to_owned());
    let attempts = env::var("ATTEMPTS")
        .ok()
        .and_then(|number| number.parse().ok());
    for page in 1..=3 {
        // A rename, so that a reader never meets half a page.
        std::fs::write("/data/next.txt", format!("page {page} from the writer"))?;
        std::fs::rename("/data/next.txt", "/data/page.txt")?;
        let answer = fetch(&server, attempts.unwrap_or(ATTEMPTS_MAX))?;
        println!("{server} says: {}", answer.trim_end());
    }
    println!("all pages are written");
    Ok(())
}

fn fetch(server: &str, attempts: usize) -> io::Result<String> {
    let mut stream = connect(server, attempts)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned());
    body.ok_or_else(|| io::Error::other("the answer has no body"))
}

fn connect(server: &str, attempts: usize) -> io::Result<TcpStream> {
    for _ in 1..attempts {
        match TcpStream::connect(server) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => sleep(RETRY_AFTER),
            other => return other,
        }
    }
    TcpStream::connect(server)
}
