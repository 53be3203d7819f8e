//! `POST /run/{namespace}/{pod}[/{uid}]/{container}?cmd=`: a program's output as one answer (contract E.2).

use http::{Response, StatusCode, header};

use super::session::Place;
use super::{KubeletBody, Refusal, Shared, whole};
use crate::images::describe;

/// Most output that is kept, as container runtimes have it for commands that nobody watches.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

impl Shared {
    pub(super) async fn run(
        &self,
        place: Place<'_>,
        query: &str,
    ) -> Result<Response<KubeletBody>, Refusal> {
        let target = self.running(place)?;
        let command = command(query);
        let failed = |text| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text);
        let done = target.run(&command, OUTPUT_BYTES_MAX).await;
        let done = done.map_err(|error| failed(describe(&error)))?;
        if done.code != 0 {
            return Err(failed(format!(
                "command '{}' exited with {}: {}",
                command.join(" "),
                done.code,
                String::from_utf8_lossy(&done.output)
            )));
        }
        let mut response = Response::new(whole(done.output));
        // A kubelet says so, whatever the program wrote.
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        Ok(response)
    }
}

/// Reads the command: words with single blanks between them, without quoting.
fn command(query: &str) -> Vec<String> {
    let found = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "cmd");
    let line = found.map(|(_, value)| value).unwrap_or_default();
    match line.is_empty() {
        true => Vec::new(),
        false => line.split(' ').map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_at_blanks() {
        for (query, expected) in [
            ("cmd=ls", &["ls"][..]),
            ("cmd=ls+-l%20%2Ftmp&x=y", &["ls", "-l", "/tmp"]),
            ("cmd=a++b", &["a", "", "b"]),
            ("cmd=", &[]),
            ("", &[]),
        ] {
            assert_eq!(command(query), expected, "{query}");
        }
    }
}
