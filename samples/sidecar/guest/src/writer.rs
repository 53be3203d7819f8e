//! Writes three pages and reads each back through its neighbour's server on `localhost`.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

/// How often the server is tried, which may start later than we do.
const ATTEMPTS_MAX: usize = 100;

/// How long to wait before the server is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

fn main() -> io::Result<()> {
    for page in 1..=3 {
        // A rename, so that a reader never meets half a page.
        std::fs::write("/data/next.txt", format!("page {page} from the writer"))?;
        std::fs::rename("/data/next.txt", "/data/page.txt")?;
        println!("127.0.0.1:8080 says: {}", fetch()?.trim_end());
    }
    println!("all pages are written");
    Ok(())
}

fn fetch() -> io::Result<String> {
    let mut stream = connect()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned());
    body.ok_or_else(|| io::Error::other("the answer has no body"))
}

fn connect() -> io::Result<TcpStream> {
    for _ in 1..ATTEMPTS_MAX {
        match TcpStream::connect("127.0.0.1:8080") {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => sleep(RETRY_AFTER),
            other => return other,
        }
    }
    TcpStream::connect("127.0.0.1:8080")
}
