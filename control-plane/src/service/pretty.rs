//! Answers for people: JSON with a line for each value, as `?pretty=true` asks for.

use bytes::Bytes;
use http::{HeaderMap, Uri, header};

use super::gzip::Source;

/// Programs whose users read what they get, by the beginning of their names.
const PEOPLE: &[&str] = &["curl", "Wget", "Mozilla/5.0"];

const STEP: &[u8] = b"  ";

/// Lays out JSON as it is read; holds a piece of it at a time.
#[derive(Debug)]
pub(super) struct Indenter {
    source: Source,
    layout: Layout,
}

/// Where in the text the writer is.
#[derive(Debug, Default)]
struct Layout {
    depth: usize,
    in_text: bool,
    escaped: bool,
    /// Whether a bracket has just been opened.
    opened: bool,
}

/// Says whether the answer shall be laid out: the query decides, or else who asks.
pub(crate) fn is_wanted(headers: &HeaderMap, uri: &Uri) -> bool {
    let query = uri.query().unwrap_or_default();
    let asked = form_urlencoded::parse(query.as_bytes())
        .find(|(name, value)| name == "pretty" && !value.is_empty());
    if let Some((_, value)) = asked {
        return matches!(&*value, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers.get(header::USER_AGENT);
    let agent = agent
        .and_then(|agent| agent.to_str().ok())
        .unwrap_or_default();
    PEOPLE.iter().any(|people| agent.starts_with(people))
}

impl Indenter {
    pub(super) fn new(source: Source) -> Indenter {
        let layout = Layout::default();
        Indenter { source, layout }
    }

    /// Returns the next piece.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let piece = self.source.next()?;
        let mut laid_out = Vec::with_capacity(2 * piece.len());
        for byte in piece {
            self.layout.write(byte, &mut laid_out);
        }
        Some(Bytes::from(laid_out))
    }
}

impl Layout {
    fn write(&mut self, byte: u8, out: &mut Vec<u8>) {
        if self.in_text {
            out.push(byte);
            self.in_text = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return;
        }
        let closing = matches!(byte, b'}' | b']');
        if closing {
            self.depth = self.depth.saturating_sub(1);
        }
        // An empty bracket is closed where it was opened.
        if self.opened != closing {
            self.line(out);
        }
        self.opened = false;
        out.push(byte);
        match byte {
            b'{' | b'[' => {
                self.depth += 1;
                self.opened = true;
            }
            b',' => self.line(out),
            b':' => out.push(b' '),
            b'"' => self.in_text = true,
            _ => (),
        }
    }

    fn line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(STEP, self.depth).flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_laid_out_as_go_does_it() {
        for json in [
            r#"{"a":{},"b":[],"c":[1,{"d":"x,:{[\\"}],"e":"\"]","f":null}"#,
            "[]",
            "true",
        ] {
            let mut indenter = Indenter::new(Source::Bytes(Bytes::from(json)));
            let found = std::iter::from_fn(|| indenter.next());
            let found: Vec<u8> = found.flatten().collect();
            let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
            let expected = serde_json::to_string_pretty(&value).expect("JSON");
            assert_eq!(String::from_utf8_lossy(&found), expected);
        }
    }

    #[test]
    fn the_query_decides_or_else_who_asks() {
        for (agent, uri, expected) in [
            ("kubectl/v1.36", "/api", false),
            ("kubectl/v1.36", "/api?pretty=true", true),
            ("curl/8.5", "/api", true),
            ("curl/8.5", "/api?pretty=false", false),
            ("curl/8.5", "/api?pretty", true),
            ("Wget/1.2", "/api?pretty=x", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::USER_AGENT, agent.parse().expect("a header value"));
            let found = is_wanted(&headers, &uri.parse().expect("a URI"));
            assert_eq!(found, expected, "{agent} {uri}");
        }
    }
}
