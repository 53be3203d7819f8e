//! Sends back what it receives, one connection after another, and says nothing about it.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// Where to listen without an argument.
const ADDRESS: &str = "0.0.0.0:7";

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or(ADDRESS))?;
    println!("listening on {}", listener.local_addr()?);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let (stream, _) = listener.accept()?;
        if let Err(error) = echo(stream, &mut buffer) {
            println!("lost a client: {error}");
        }
    }
}

fn echo(mut stream: TcpStream, buffer: &mut [u8]) -> std::io::Result<()> {
    loop {
        match stream.read(buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}
