use serde_json::{Value, json};

use super::*;

fn check(query: &str, expected: Result<(&[&str], Wanted), &str>) {
    let found = Asked::parse(query);
    let found = found
        .map(|asked| (asked.command, asked.wanted))
        .map_err(|refusal| refusal.text);
    let expected = expected
        .map(|(command, wanted)| (command.iter().map(ToString::to_string).collect(), wanted))
        .map_err(str::to_owned);
    assert_eq!(found, expected, "{query}");
}

#[test]
fn queries_are_read_as_a_kubelet_reads_them() {
    let none = Wanted::default();
    let out = Wanted {
        stdout: true,
        ..none
    };
    check("command=ls&output=1", Ok((&["ls"], out)));
    check(
        "command=sh&command=-c&command=echo+a%26b&output=1&error=1",
        Ok((
            &["sh", "-c", "echo a&b"],
            Wanted {
                stderr: true,
                ..out
            },
        )),
    );
    // The spelling of the API server's own query does no harm.
    check(
        "command=cat&stdin=true&stdout=true&stderr=true&tty=false&container=c",
        Ok((
            &["cat"],
            Wanted {
                stdin: true,
                stdout: true,
                stderr: true,
                tty: false,
            },
        )),
    );
    check(
        "input=1&output=1&error=1&tty=1",
        Ok((
            &[],
            Wanted {
                stdin: true,
                stdout: true,
                stderr: false,
                tty: true,
            },
        )),
    );
    let nothing = "you must specify at least 1 of stdin, stdout, stderr";
    for query in [
        "",
        "command=ls",
        "command=ls&output=0",
        "output=false",
        "tty=1&error=1",
    ] {
        check(query, Err(nothing));
    }
    let long = format!("output=1&command={}", "x".repeat(COMMAND_BYTES_MAX + 1));
    check(&long, Err("the command is too long"));
    let many = format!("output=1{}", "&command=".repeat(COMMAND_WORDS_MAX + 1));
    check(&many, Err("the command is too long"));
}

fn check_status(status: &Status, expected: &Value) {
    let found = serde_json::to_value(status).expect("a status is JSON");
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(&found[field], value, "{field}");
    }
}

#[test]
fn statuses_are_those_of_a_kubelet() {
    check_status(&success(), &json!({"metadata": {}, "status": "Success"}));
    check_status(
        &failure(3, "error executing command [false], exit code 3"),
        &json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": "command terminated with non-zero exit code: error executing command \
                [false], exit code 3",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
        }),
    );
    check_status(
        &internal("no"),
        &json!({"status": "Failure", "reason": "InternalError", "code": 500,
            "message": "Internal error occurred: no"}),
    );
}

/// A client that takes nothing.
struct Gone;

impl AsyncWrite for Gone {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::task::Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_client_that_takes_no_more_ends_the_program() {
    let pipe = Pipe::default();
    pipe.write(b"x");
    let outputs = play(&pipe, Some(Box::new(Gone)), None);
    let never: Option<()> = finish(pending(), outputs).await;
    assert_eq!(never, None);
}

#[tokio::test]
async fn everything_that_was_written_reaches_the_client_after_the_end() {
    let pipe = Pipe::default();
    let (to, mut client) = tokio::io::duplex(4);
    let program = async {
        pipe.write(b"one\ntwo\n");
        pipe.end();
        7
    };
    let outputs = play(&pipe, Some(Box::new(to)), Some(Discipline::Ours));
    let mut seen = String::new();
    let (ended, read) = tokio::join!(finish(program, outputs), client.read_to_string(&mut seen));
    read.expect("it is shut down");
    assert_eq!((ended, seen.as_str()), (Some(7), "one\r\ntwo\r\n"));
}

/// Notes how it was ended, by the codes.
#[derive(Default)]
struct Ended(std::cell::RefCell<Vec<i32>>);

impl Interruptible for Ended {
    fn interrupt(&self) {
        self.0.borrow_mut().push(130);
    }

    fn quit(&self) {
        self.0.borrow_mut().push(131);
    }
}

async fn typed(keys: &'static [u8], is_awaited: bool) -> (Vec<u8>, Vec<i32>) {
    let (pipe, screen, program) = (Pipe::of_lines(), Pipe::default(), Ended::default());
    if is_awaited {
        assert!(futures::poll!(std::pin::pin!(pipe.next())).is_pending());
    }
    type_in(Box::new(keys), &pipe, &screen, &program).await;
    pipe.end();
    let mut given = Vec::new();
    while let Some(line) = pipe.next().await {
        given.extend_from_slice(&line);
    }
    (given, program.0.into_inner())
}

#[tokio::test]
async fn an_interrupt_gives_up_the_line_or_the_program() {
    assert_eq!(typed(b"ls\r", true).await, (b"ls\n".to_vec(), vec![]));
    assert_eq!(typed(b"l\x03", true).await, (b"\n".to_vec(), vec![]));
    assert_eq!(typed(b"\x03", true).await, (Vec::new(), vec![130]));
    assert_eq!(typed(b"l\x03", false).await, (Vec::new(), vec![130]));
    assert_eq!(typed(b"l\x1c", true).await, (Vec::new(), vec![131]));
}

#[tokio::test]
async fn a_program_that_reads_none_of_its_keys_can_still_be_ended() {
    for (unread, keys, expected) in [
        ("", "\x1c", vec![]),
        ("", "\x03", vec![]),
        ("x", "\x03", vec![]),
        ("\x03", "\x1c", vec![131]),
    ] {
        let (pipe, program) = (Pipe::default(), Ended::default());
        pipe.write(unread.as_bytes());
        pass_keys(Box::new(keys.as_bytes()), &pipe, &program).await;
        pipe.end();
        let all = pipe.next().await.unwrap_or_default();
        assert_eq!(all, format!("{unread}{keys}"), "all keys pass");
        assert_eq!(program.0.into_inner(), expected, "{unread:?} {keys:?}");
    }
}
