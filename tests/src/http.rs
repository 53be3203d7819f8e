//! A plain HTTP/1.1 client for scenarios, so that they depend on nothing that is tested.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long a server may take to answer before the scenario fails.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// An answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, as text.
    pub body: String,
}

/// Sends `GET path` to `http://authority` of `url` and returns the answer.
///
/// # Errors
///
/// Returns the error of the connection, or a description of what is no HTTP.
pub fn get(url: &str, path: &str) -> Result<Answer, String> {
    let authority = url
        .strip_prefix("http://")
        .unwrap_or(url)
        .trim_end_matches('/');
    let mut stream = TcpStream::connect(authority).map_err(|error| error.to_string())?;
    stream
        .set_read_timeout(Some(ANSWER_DEADLINE))
        .map_err(|error| error.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    parse(&bytes).ok_or_else(|| format!("no HTTP answer: {}", String::from_utf8_lossy(&bytes)))
}

/// Asks until somebody answers; for servers whose listening cannot be observed otherwise.
///
/// # Panics
///
/// Panics when nobody answers within half a minute.
pub fn get_ready(url: &str, path: &str) -> Answer {
    let begin = Instant::now();
    loop {
        match get(url, path) {
            Ok(answer) => return answer,
            Err(error) if begin.elapsed() > ANSWER_DEADLINE => panic!("{url}: {error}"),
            Err(_) => std::thread::yield_now(),
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = &bytes[end + 4..];
    let body = if chunked {
        unchunk(body)?
    } else {
        body.to_vec()
    };
    Some(Answer {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        rest = rest.get(end + 2..)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_answer_is_put_together() {
        let text =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let expected = Answer {
            status: 200,
            body: "abcde".to_owned(),
        };
        assert_eq!(parse(text.as_bytes()), Some(expected));
    }
}
