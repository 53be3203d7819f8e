//! Streams of programs and ports through the kubelet API, over every generation of channels.

use std::collections::HashMap;

use base64::Engine as _;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::exec::{real_toolbox, spinning};
use crate::pods::{is_running, run};
use crate::world::{PATIENCE, World, container};

pub(crate) const TESTS: &[(&str, fn())] = &[
    (
        "a_program_is_heard_over_every_generation_of_channels",
        || run(heard()),
    ),
    ("a_stream_that_cannot_be_opened_is_refused", || {
        run(refused())
    }),
    (
        "keys_end_what_a_terminal_runs_and_not_its_container",
        || run(keys_end()),
    ),
];

/// Asks on a connection of its own.
async fn ask(world: &World, path: &str, fields: &[(&str, &str)]) -> Response<Incoming> {
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(world.agent.kubelet().serve(far));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near))
        .await
        .expect("a connection");
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::get(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    sender.send_request(request).await.expect("an answer")
}

fn fields(protocol: &str) -> Vec<(&str, &str)> {
    let mut fields = vec![
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    if !protocol.is_empty() {
        fields.push(("sec-websocket-protocol", protocol));
    }
    fields
}

/// Returns what was said on each channel, and the channel of the first message.
async fn listen(world: &World, path: &str, protocol: &str) -> (HashMap<u8, Vec<u8>>, Option<u8>) {
    let answer = ask(world, path, &fields(protocol)).await;
    assert_eq!(answer.status(), 101, "{protocol}");
    let agreed = answer.headers().get("sec-websocket-protocol");
    assert_eq!(
        agreed.map_or("", |name| name.to_str().expect("text")),
        protocol
    );
    let io = hyper::upgrade::on(answer).await.expect("upgraded");
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Client, None).await;
    let (mut said, mut first) = (HashMap::<u8, Vec<u8>>::new(), None);
    while let Some(message) = socket.next().await {
        let (channel, bytes) = match message.expect("a message") {
            Message::Binary(bytes) => (bytes[0], bytes[1..].to_vec()),
            Message::Text(text) => {
                let (channel, text) = text.as_str().split_at(1);
                let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                let channel = channel.parse().expect("a digit");
                (channel, bytes.expect("base64"))
            }
            Message::Close(_) => break,
            other => panic!("{other:?}"),
        };
        first.get_or_insert((channel, bytes.len()));
        said.entry(channel).or_default().extend(bytes);
    }
    (
        said,
        first
            .filter(|(_, length)| *length == 0)
            .map(|(channel, _)| channel),
    )
}

async fn heard() {
    let world = World::new().await;
    spinning(&world).await;
    for protocol in [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
        "",
    ] {
        let has_status = protocol.starts_with('v');
        let path = "/exec/default/p/main?command=/tools/args.wasm&command=a%20b&output=1&error=1";
        let (said, first) = listen(&world, path, protocol).await;
        assert_eq!(
            first,
            Some(1),
            "{protocol}: an empty message opens the connection"
        );
        assert_eq!(said[&1], b"/tools/args.wasm\0a b\0", "{protocol}");
        let end = said.get(&3).cloned().unwrap_or_default();
        if has_status {
            let status: Value = serde_json::from_slice(&end).expect("JSON");
            assert_eq!(status["status"], "Success", "{protocol}");
        } else {
            assert_eq!(end, b"", "{protocol}");
        }
        let path = "/exec/default/p/main?command=/tools/fails.wasm&output=1";
        let (said, _) = listen(&world, path, protocol).await;
        if has_status {
            let status: Value = serde_json::from_slice(&said[&3]).expect("JSON");
            assert_eq!(status["reason"], "NonZeroExitCode", "{protocol}");
            let causes = json!([{"reason": "ExitCode", "message": "3"}]);
            assert_eq!(status["details"]["causes"], causes, "{protocol}");
        } else {
            let text = String::from_utf8(said[&3].clone()).expect("text");
            assert!(text.contains("exit"), "{protocol}: {text}");
        }
    }
    world.stop().await;
}

/// Sends keys to a program at a terminal, each time once its screen shows something, and returns its exit
/// code and the screen.
async fn type_at(world: &World, command: &str, keys: &[(&str, &str)]) -> (i32, String) {
    let path = format!("/exec/default/p/main?{command}&input=1&output=1&tty=1");
    let answer = ask(world, &path, &fields("v5.channel.k8s.io")).await;
    assert_eq!(answer.status(), 101, "{command}");
    let io = hyper::upgrade::on(answer).await.expect("upgraded");
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Client, None).await;
    let (mut screen, mut shown, mut keys) = (String::new(), 0, keys.iter().peekable());
    let mut status = Vec::new();
    loop {
        while let Some((_, typed)) = keys.next_if(|(awaited, _)| screen[shown..].contains(awaited))
        {
            shown = screen.len();
            let mut message = vec![0];
            message.extend_from_slice(typed.as_bytes());
            let sent = socket.send(Message::Binary(message.into())).await;
            sent.expect("the keys are taken");
        }
        let message = tokio::time::timeout(PATIENCE, socket.next()).await;
        let Ok(message) = message else {
            panic!("{command} did not end: {screen:?}")
        };
        match message {
            Some(Ok(Message::Binary(bytes))) if bytes[0] == 1 => {
                screen.push_str(&String::from_utf8_lossy(&bytes[1..]));
            }
            Some(Ok(Message::Binary(bytes))) => status.extend_from_slice(&bytes[1..]),
            Some(Ok(Message::Ping(_))) => panic!("{command} {keys:?} does not go on: {screen:?}"),
            Some(Ok(Message::Close(_))) | None => break,
            other => panic!("{other:?}"),
        }
    }
    let status: Value = serde_json::from_slice(&status).expect("JSON");
    let code = match status["status"].as_str() {
        Some("Success") => 0,
        _ => status["details"]["causes"][0]["message"]
            .as_str()
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("no code: {status}")),
    };
    (code, screen)
}

/// Commands at a terminal, the keys that are pressed once something is on the screen, the exit code, and all that
/// is on the screen then.
type KeysCase = (
    &'static str,
    &'static [(&'static str, &'static str)],
    i32,
    &'static str,
);

const KEYS: &[KeysCase] = &[
    ("command=sleep&command=1000", &[("", "\x03")], 130, "^C\r\n"),
    (
        "command=sleep&command=1000",
        &[("", "\x1c")],
        131,
        "^\\\r\n",
    ),
    ("command=sleep&command=1", &[("", "\x1a")], 0, ""),
    (
        "command=cat",
        &[("", "ab\r"), ("ab\r\nab\r\n", "\x03")],
        130,
        "ab\r\nab\r\n^C\r\n",
    ),
    // A program of a shell reads what was typed, too.
    (
        "command=sh",
        &[
            ("$ ", "cat\r"),
            ("cat\r\n", "ab\r"),
            ("ab\r\nab\r\n", "\x04"),
            ("$ ", "exit 3\r"),
        ],
        3,
        "$ cat\r\nab\r\nab\r\n$ exit 3\r\n",
    ),
    (
        "command=sh&command=-c&command=sleep+1000;echo+on",
        &[("", "\x03")],
        130,
        "^C\r\n",
    ),
    // What graphical clients start: a shell within a shell, which hears the keys itself.
    (
        "command=sh&command=-c&command=true;(bash+||+sh)",
        &[
            ("$ ", "ab\x03"),
            ("^C\r\n$ ", "sleep 1000\r\x03"),
            ("^C\r\n$ ", "\x1ctest $? = 130 && exit\r"),
        ],
        0,
        "$ ab^C\r\n$ sleep 1000\r\n^C\r\n$ test $? = 130 && exit\r\n",
    ),
    (
        "command=/tools/spins.wasm",
        &[("round", "\x03")],
        130,
        "round\r\n^C\r\n",
    ),
    (
        "command=/tools/spins.wasm",
        &[("round", "\x1c")],
        131,
        "round\r\n^\\\r\n",
    ),
];

async fn keys_end() {
    let world = World::with_toolbox(Some(real_toolbox())).await;
    spinning(&world).await;
    for (command, keys, code, screen) in KEYS {
        let found = type_at(&world, command, keys).await;
        assert_eq!(found, (*code, (*screen).to_owned()), "{command} {keys:?}");
    }
    let pod = world.until("p", is_running).await;
    assert_eq!(
        container(&pod).map(|container| container.restart_count),
        Some(0)
    );
    world.stop().await;
}

async fn refused() {
    let world = World::new().await;
    spinning(&world).await;
    let path = "/exec/default/p/main?command=/tools/args.wasm&output=1";
    for (path, protocol, code, expected) in [
        (
            "/exec/default/p/nobody?command=a&output=1",
            "v4.channel.k8s.io",
            404,
            "container not found",
        ),
        (
            "/exec/default/q/main?command=a&output=1",
            "v4.channel.k8s.io",
            404,
            "pod does not exist",
        ),
        (
            "/portForward/default/q",
            "v4.channel.k8s.io",
            404,
            "pod does not exist",
        ),
        (
            "/portForward/default/p/other",
            "v4.channel.k8s.io",
            404,
            "pod does not exist",
        ),
        (
            "/portForward/default/p",
            "v4.channel.k8s.io",
            400,
            "\"port\" is required",
        ),
        (
            "/exec/default/p/main?command=a",
            "v4.channel.k8s.io",
            400,
            "at least 1 of stdin, stdout, stderr",
        ),
        (path, "chat", 403, "unable to negotiate protocol"),
    ] {
        let answer = ask(&world, path, &fields(protocol)).await;
        assert_eq!(answer.status(), code, "{path}");
        let text = answer
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains(expected), "{path}: {text}");
    }
    let answer = ask(&world, path, &[]).await;
    assert_eq!(answer.status(), 400);
    world.stop().await;
}
