//! A command that listens: sends back what it receives, one connection after another.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

fn main() -> io::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:7")?;
    println!("listening on port 7");
    loop {
        let (stream, peer) = listener.accept()?;
        match echo(stream) {
            Ok(bytes) => println!("echoed {bytes} bytes to {}", peer.ip()),
            Err(error) => println!("lost {}: {error}", peer.ip()),
        }
    }
}

fn echo(mut stream: TcpStream) -> io::Result<usize> {
    let mut buffer = vec![0; 16 * 1024];
    let mut total = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(total);
        }
        stream.write_all(&buffer[..count])?;
        total += count;
    }
}
