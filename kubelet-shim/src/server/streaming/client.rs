//! A SPDY client for tests: says what `kubectl` says, and what it never would.

use std::collections::HashMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::frames::{Control, HEAD_BYTES, Head, Last, StreamId};
use super::header_block::{BlockReader, BlockWriter};

/// What a server sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Data(StreamId, Vec<u8>, Last),
    Control(Control),
}

/// The client's end of a connection.
pub(super) struct SpdyClient {
    pub(super) io: DuplexStream,
    reader: BlockReader,
    writer: BlockWriter,
    /// What streams said that nobody asked for yet.
    kept: HashMap<StreamId, (Vec<u8>, Last)>,
}

impl SpdyClient {
    pub(super) fn new(io: DuplexStream) -> SpdyClient {
        SpdyClient {
            io,
            reader: BlockReader::new(),
            writer: BlockWriter::new(),
            kept: HashMap::new(),
        }
    }

    pub(super) async fn say(&mut self, control: Control) {
        let frame = control.write(&mut self.writer);
        self.io.write_all(&frame).await.expect("the server reads");
    }

    pub(super) async fn open(&mut self, stream: StreamId, headers: &[(&str, &str)]) {
        let open = Control::Open {
            stream,
            last: Last::No,
            headers: headers.iter().copied().collect(),
        };
        self.say(open).await;
    }

    pub(super) async fn send(&mut self, stream: StreamId, bytes: &[u8], last: Last) {
        let head = Head::data(stream, last, bytes.len());
        self.io.write_all(&head).await.expect("the server reads");
        self.io.write_all(bytes).await.expect("the server reads");
    }

    /// Returns the next frame; nothing at the end of the connection.
    pub(super) async fn hear(&mut self) -> Option<Heard> {
        let mut head = [0; HEAD_BYTES];
        self.io.read_exact(&mut head).await.ok()?;
        match Head::read(head).expect("a frame") {
            Head::Data {
                stream,
                last,
                length,
            } => {
                let mut bytes = vec![0; length as usize];
                self.io.read_exact(&mut bytes).await.expect("the rest");
                Some(Heard::Data(stream, bytes, last))
            }
            Head::Control(head) => {
                let mut payload = vec![0; head.length()];
                self.io.read_exact(&mut payload).await.expect("the rest");
                let control = Control::read(head, &payload, &mut self.reader);
                Some(Heard::Control(control.expect("a frame")))
            }
        }
    }

    /// Returns everything that is sent on a stream until its end, or that of the connection.
    pub(super) async fn all(&mut self, wanted: StreamId) -> String {
        while self
            .kept
            .get(&wanted)
            .is_none_or(|(_, last)| *last == Last::No)
        {
            match self.hear().await {
                Some(Heard::Data(stream, bytes, last)) => {
                    let kept = self.kept.entry(stream).or_insert((Vec::new(), last));
                    kept.0.extend(bytes);
                    kept.1 = last;
                }
                Some(Heard::Control(_)) => (),
                None => break,
            }
        }
        let (text, _) = self.kept.remove(&wanted).unwrap_or((Vec::new(), Last::Yes));
        String::from_utf8(text).expect("text")
    }
}
