//! Every sample through the real binary: what its README promises is what happens.

use coracle_tests::{Coracle, get, repository};

fn coracle() -> Coracle {
    Coracle::new(env!("CARGO_BIN_EXE_coracle"))
}

fn sample(path: &str) -> String {
    repository().join("samples").join(path).display().to_string()
}

/// The first thing a newcomer types.
#[test]
fn hello_http_answers_and_ends_with_success_on_a_signal() {
    let coracle = coracle();
    let mut run = coracle.start(&["run", &sample("hello-http")], "");
    let url = run.wait_for_address("http");
    assert_eq!(url, "http://127.0.0.1:8080");
    let answer = get(&url, "/").expect("the pod answers");
    assert_eq!((answer.status, answer.body.as_str()), (200, "Hello from a Coracle pod!\n"));
    #[cfg(unix)]
    {
        run.interrupt();
        let ended = run.end();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
}
