//! The handshake of an upgrade: which protocol a client speaks, and the answer that agrees. Pure.

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::super::{KubeletBody, Refusal, whole};

/// Names the protocols that a SPDY client knows, one or several to a field.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

const SPDY: &str = "SPDY/3.1";

/// Protocols of one path, each with what it means there.
pub(super) struct Offer<P: 'static> {
    pub(super) spdy: &'static [(&'static str, P)],
    pub(super) web_socket: &'static [(&'static str, P)],
    /// What a WebSocket client means that names no protocol.
    pub(super) unnamed: P,
}

/// What client and server agreed on.
#[derive(Debug)]
pub(super) struct Agreed<P> {
    pub(super) protocol: P,
    pub(super) answer: Response<()>,
}

/// Agrees on a protocol.
///
/// # Errors
///
/// Refuses a client that asks for no upgrade, or names no protocol that is offered.
pub(super) fn agree<P: Copy>(head: &Parts, offer: &Offer<P>) -> Result<Agreed<P>, Refusal> {
    let headers = &head.headers;
    let upgrades = words(headers, &header::CONNECTION).any(|word| is(word, "upgrade"));
    let asks_for = |name: &str| words(headers, &header::UPGRADE).any(|word| is(word, name));
    if upgrades && asks_for("websocket") {
        web_socket(headers, offer)
    } else if upgrades && asks_for(SPDY) {
        spdy(headers, offer)
    } else {
        let text = "unable to upgrade: missing upgrade headers in request";
        Err(Refusal::new(StatusCode::BAD_REQUEST, text))
    }
}

/// Writes the answer as the connection sends it.
pub(super) fn switching(answer: Response<()>) -> Response<KubeletBody> {
    answer.map(|()| whole(Vec::new()))
}

fn spdy<P: Copy>(headers: &HeaderMap, offer: &Offer<P>) -> Result<Agreed<P>, Refusal> {
    let known: Vec<&str> = words(headers, &STREAM_PROTOCOL).collect();
    if known.is_empty() {
        let text = "unable to upgrade: X-Stream-Protocol-Version is required";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    let (name, protocol) = choose(&known, offer.spdy)?;
    let answer = answer(SPDY, &[(STREAM_PROTOCOL, name)]);
    Ok(Agreed { protocol, answer })
}

fn web_socket<P: Copy>(headers: &HeaderMap, offer: &Offer<P>) -> Result<Agreed<P>, Refusal> {
    let refuse = |text: &str| Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    let version = headers.get(header::SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version != "13") {
        return refuse("unable to upgrade: the version of WebSocket must be 13");
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return refuse("unable to upgrade: Sec-WebSocket-Key is required");
    };
    let key = derive_accept_key(key.as_bytes());
    let known: Vec<&str> = words(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    let mut fields = vec![(header::SEC_WEBSOCKET_ACCEPT, key.as_str())];
    let protocol = if known.is_empty() {
        offer.unnamed
    } else {
        let (name, protocol) = choose(&known, offer.web_socket)?;
        fields.push((header::SEC_WEBSOCKET_PROTOCOL, name));
        protocol
    };
    Ok(Agreed {
        protocol,
        answer: answer("websocket", &fields),
    })
}

/// Chooses the first that the client names.
fn choose<P: Copy>(
    known: &[&str],
    offered: &'static [(&'static str, P)],
) -> Result<(&'static str, P), Refusal> {
    let find = |name: &&str| offered.iter().find(|(offered, _)| offered == name);
    known.iter().find_map(find).copied().ok_or_else(|| {
        let names: Vec<_> = offered.iter().map(|(name, _)| *name).collect();
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server \
             accepts [{}]",
            known.join(" "),
            names.join(" ")
        );
        Refusal::new(StatusCode::FORBIDDEN, text)
    })
}

fn answer(protocol: &'static str, fields: &[(HeaderName, &str)]) -> Response<()> {
    let mut answer = Response::new(());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    answer
}

/// Returns the words of a field that may be written in several, with commas between.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let fields = headers.get_all(name).into_iter();
    let texts = fields.filter_map(|field| field.to_str().ok());
    let words = texts.flat_map(|text| text.split(','));
    words.map(str::trim).filter(|word| !word.is_empty())
}

fn is(word: &str, name: &str) -> bool {
    word.eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const OFFER: Offer<u8> = Offer {
        spdy: &[("v4", 4), ("v3", 3)],
        web_socket: &[("v5", 5), ("v4", 40)],
        unnamed: 1,
    };

    fn check(fields: &[(&str, &str)], expected: Result<(u8, &str), u16>) {
        let mut request = Request::get("/exec/d/p/c");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let found = agree(&head, &OFFER).map(|agreed| {
            assert_eq!(agreed.answer.status(), 101);
            let headers = agreed.answer.headers();
            let named = headers
                .get(STREAM_PROTOCOL)
                .or(headers.get(header::SEC_WEBSOCKET_PROTOCOL));
            let named = named.map_or("", |name| name.to_str().expect("text"));
            (agreed.protocol, named.to_owned())
        });
        let found = found.map_err(|refusal| refusal.code.as_u16());
        let expected = expected.map(|(protocol, name)| (protocol, name.to_owned()));
        assert_eq!(found, expected, "{fields:?}");
    }

    #[test]
    fn the_first_protocol_that_both_know_is_agreed_on() {
        let upgrade = ("connection", "keep-alive, Upgrade");
        let spdy = ("upgrade", "spdy/3.1");
        let version = "x-stream-protocol-version";
        check(&[upgrade, spdy, (version, "v4")], Ok((4, "v4")));
        check(
            &[upgrade, spdy, (version, "v9"), (version, "v3")],
            Ok((3, "v3")),
        );
        check(&[upgrade, spdy, (version, "v3, v4")], Ok((3, "v3")));
        check(&[upgrade, spdy, (version, "v5")], Err(403));
        check(&[upgrade, spdy], Err(400));
        check(&[spdy, (version, "v4")], Err(400));
        check(&[upgrade, ("upgrade", "h2c"), (version, "v4")], Err(400));
        check(&[], Err(400));
        let socket = ("upgrade", "WebSocket");
        let (one, key) = (
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        );
        let names = "sec-websocket-protocol";
        check(
            &[upgrade, socket, one, key, (names, "v5, v4")],
            Ok((5, "v5")),
        );
        check(&[upgrade, socket, one, key, (names, "v4")], Ok((40, "v4")));
        check(&[upgrade, socket, one, key], Ok((1, "")));
        check(&[upgrade, socket, one, key, (names, "chat")], Err(403));
        check(&[upgrade, socket, one], Err(400));
        check(&[upgrade, socket, key], Err(400));
    }

    #[test]
    fn a_websocket_client_is_told_that_its_key_was_read() {
        let request = Request::get("/")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let agreed = agree(&head, &OFFER).expect("agreed");
        // The example of RFC 6455, section 1.3.
        let accept = &agreed.answer.headers()["sec-websocket-accept"];
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
