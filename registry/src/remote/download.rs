//! One blob, from the registry to a reader in a worker thread, across broken connections.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use oci_distribution::client::{BlobResponse, LayerDescriptor};
use oci_distribution::errors::OciDistributionError;
use tokio::sync::mpsc;

use super::error::{RegistryError, is_wrong_content};
use super::retry::RetryPolicy;
use super::session::Session;
use crate::image::Progress;
use crate::refusal::FailureClass;
use crate::store::Expected;

/// Chunks between the connection and the worker: enough that neither waits for the other's pauses.
const CHUNKS_AHEAD: usize = 8;
/// The most connections that one blob may use up, however much each of them brings.
const CONNECTIONS_MAX: u32 = 100;

/// Fetches blobs of one repository.
pub(super) struct Downloads<'a> {
    pub(super) session: &'a Session,
    pub(super) retries: RetryPolicy,
    pub(super) progress: &'a dyn Progress,
}

/// The reading end, for a worker thread.
pub(super) struct Arriving {
    chunks: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

/// How one connection ended.
enum Ended {
    /// All bytes are there, or the reader wants no more.
    Complete,
    /// The registry said that this was all, and it was too little.
    Short,
}

/// Returns the two ends of a blob on its way.
pub(super) fn channel() -> (mpsc::Sender<Bytes>, Arriving) {
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    (
        sender,
        Arriving {
            chunks,
            chunk: Bytes::new(),
        },
    )
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

impl Downloads<'_> {
    /// Sends a blob's bytes to a reader, resuming where a connection broke off.
    ///
    /// Nothing is verified here: the reader checks length and digest. Bytes beyond the expected
    /// length are passed on far enough for it to notice.
    pub(super) async fn blob(
        &self,
        expected: Expected,
        sink: mpsc::Sender<Bytes>,
    ) -> Result<(), RegistryError> {
        let name = expected.digest.to_string();
        let (mut arrived, mut failures, mut renewed) = (0, 0, false);
        for _ in 0..CONNECTIONS_MAX {
            if arrived >= expected.size {
                return Ok(());
            }
            let before = arrived;
            let ended = self
                .connection(&name, expected.size, &mut arrived, &sink)
                .await;
            let progressed = arrived > before;
            let error = match ended {
                Ok(Ended::Complete) => return Ok(()),
                // Twice the same end without a byte more: it is no accident.
                Ok(Ended::Short) if !progressed => return Ok(()),
                Ok(Ended::Short) => continue,
                // A token runs out while large layers travel.
                Err(RegistryError::Denied { .. }) if !renewed => {
                    self.session.renew().await?;
                    renewed = true;
                    continue;
                }
                Err(error) if error.class() == FailureClass::Final => return Err(error),
                Err(error) => error,
            };
            failures = if progressed { 1 } else { failures + 1 };
            renewed = false;
            self.pause(&name, failures, error).await?;
        }
        Err(RegistryError::Protocol {
            registry: self.session.registry().to_owned(),
            what: format!("`{name}` broke off {CONNECTIONS_MAX} times"),
        })
    }

    /// Repeats a small request until it succeeds, its failure is final, or it is time to give up.
    ///
    /// An ordinary closure that returns a future, not an asynchronous one: of the latter's future the
    /// compiler cannot tell yet that it may move between threads, and a pull must.
    pub(super) async fn repeat<T, F>(
        &self,
        what: &str,
        mut request: impl FnMut() -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let mut failures = 0;
        loop {
            match request().await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.class() == FailureClass::Final => return Err(error),
                Err(error) => {
                    failures += 1;
                    self.pause(what, failures, error).await?;
                }
            }
        }
    }

    async fn pause(
        &self,
        what: &str,
        failures: u32,
        error: RegistryError,
    ) -> Result<(), RegistryError> {
        let Some(wait) = self.retries.wait(failures, rand::random()) else {
            return Err(error);
        };
        self.progress
            .retrying(&format!("`{what}`: {}", chain(&error)), wait);
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Reads one connection to its end and adds what it brought to `arrived`.
    async fn connection(
        &self,
        name: &str,
        size: u64,
        arrived: &mut u64,
        sink: &mpsc::Sender<Bytes>,
    ) -> Result<Ended, RegistryError> {
        let library = |error| {
            let repository = self.session.reference().repository();
            RegistryError::from_library(self.session.registry(), (repository, name), error)
        };
        let client = self.session.client().await?;
        let layer = LayerDescriptor {
            digest: name,
            urls: &None,
        };
        let reference = self.session.reference().wire();
        // Partial from the first byte on: the library would hash a whole blob a second time.
        let response = client
            .pull_blob_stream_partial(reference, &layer, *arrived, None)
            .await;
        let (mut stream, mut skip) = match response.map_err(library)? {
            BlobResponse::Partial(stream) => (stream, 0),
            // The registry does not resume: what is here already passes by once more.
            BlobResponse::Full(stream) => (stream, *arrived),
        };
        while let Some(chunk) = stream.next().await {
            let mut chunk = match chunk {
                Ok(chunk) => chunk,
                // The library's own check of a whole blob ends here; ours is the reader's.
                Err(_) if *arrived >= size => return Ok(Ended::Complete),
                // The same check of a blob that is too short: the registry has no more of it.
                Err(error) if is_wrong_content(&error) => return Ok(Ended::Short),
                Err(error) => return Err(library(OciDistributionError::IoError(error))),
            };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            chunk.advance(usize::try_from(skipped).unwrap_or(chunk.len()));
            if chunk.is_empty() {
                continue;
            }
            let count = chunk.len() as u64;
            if sink.send(chunk).await.is_err() {
                return Ok(Ended::Complete);
            }
            *arrived += count;
            self.progress.advanced(name, count);
            if *arrived > size {
                return Ok(Ended::Complete);
            }
        }
        Ok(if *arrived < size {
            Ended::Short
        } else {
            Ended::Complete
        })
    }
}

/// Returns an error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    line
}
