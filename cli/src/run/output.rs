//! Container output on its way to stdout: `pod/container | line`, or `namespace/pod/container | line`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::Context;
use coracle_kubelet_shim::OutputLine;
use tokio::sync::mpsc;

use crate::console::Console;

/// Lines between the containers and stdout. A container that writes faster than stdout takes waits, as
/// it would on a pipe.
pub(super) const LINES_MAX: usize = 4096;
/// How many bytes are gathered before they are written, so that a flood costs few system calls.
const BATCH_BYTES: usize = 64 * 1024;
/// How long lines are gathered after others were written, in place of being woken for each of them.
const GATHER_TIME: Duration = Duration::from_millis(1);
/// How long the rest of the output may take once every pod has ended. A reader that has stopped reading
/// must not keep the command from ending.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The thread that writes lines; it ends when every sender of lines is gone.
pub(super) struct Writer {
    ended: Receiver<()>,
}

/// Starts the thread: stdout may block, and nothing else must wait for it.
///
/// # Errors
///
/// Fails when the system gives no thread.
pub(super) fn start(
    console: Console,
    mut lines: mpsc::Receiver<OutputLine>,
) -> anyhow::Result<Writer> {
    let (alive, ended) = channel();
    std::thread::Builder::new()
        .name("stdout".to_owned())
        .spawn(move || {
            let _alive = alive;
            let mut prefixes = Prefixes {
                console,
                known: HashMap::new(),
            };
            let mut batch = Vec::with_capacity(BATCH_BYTES);
            while let Some(line) = lines.blocking_recv() {
                prefixes.append(&line, &mut batch);
                while batch.len() < BATCH_BYTES {
                    let Ok(line) = lines.try_recv() else { break };
                    prefixes.append(&line, &mut batch);
                }
                prefixes.console.output(&batch);
                if batch.len() < BATCH_BYTES {
                    // Who is awake need not be woken, which costs a guest more than its line.
                    std::thread::sleep(GATHER_TIME);
                }
                batch.clear();
            }
        })
        .context("failed to start the thread for stdout")?;
    Ok(Writer { ended })
}

impl Writer {
    /// Waits until what the containers wrote has reached stdout, within limits.
    pub(super) fn finish(self) {
        match self.ended.recv_timeout(DRAIN_TIMEOUT) {
            Ok(()) | Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => {}
        }
    }
}

/// The painted `pod/container | ` of each container that has written.
struct Prefixes {
    console: Console,
    /// By namespace, pod and container.
    known: HashMap<[Arc<str>; 3], String>,
}

impl Prefixes {
    fn append(&mut self, line: &OutputLine, batch: &mut Vec<u8>) {
        let key = [&line.namespace, &line.pod, &line.container].map(Arc::clone);
        let prefix = self.known.entry(key).or_insert_with(|| {
            let pod = super::shown_name(&line.namespace, &line.pod);
            let name = format!("{pod}/{}", line.container);
            format!("{} | ", self.console.paint(&name))
        });
        batch.extend_from_slice(prefix.as_bytes());
        batch.extend_from_slice(&line.line);
        batch.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use coracle_kubelet_shim::StdStream;

    use super::*;

    #[test]
    fn pods_of_one_name_are_told_apart_by_their_namespaces() {
        let mut prefixes = Prefixes {
            console: Console::new(),
            known: HashMap::new(),
        };
        let mut batch = Vec::new();
        for namespace in ["default", "other", "default"] {
            let line = OutputLine {
                namespace: namespace.into(),
                pod: "a".into(),
                container: "c".into(),
                stream: StdStream::Stdout,
                line: bytes::Bytes::from_static(b"x"),
            };
            prefixes.append(&line, &mut batch);
        }
        let text = String::from_utf8(batch).expect("text");
        // A terminal has the names in colours.
        let plain = ::console::strip_ansi_codes(&text);
        assert_eq!(plain, "a/c | x\nother/a/c | x\na/c | x\n");
    }
}
