//! The output of a program that nobody reads while it runs: a prefix of bounded length is kept.

use std::task::{Context, Poll};

use coracle_runtime::Output;
use parking_lot::Mutex;

/// Keeps the first bytes that are written and takes the others without keeping them, so that a program
/// that writes much is not held up for ever.
pub(super) struct Collected {
    bytes: Mutex<Vec<u8>>,
    max: usize,
}

impl Collected {
    pub(super) fn new(max: usize) -> Collected {
        Collected {
            bytes: Mutex::default(),
            max,
        }
    }

    /// Returns what was kept.
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.bytes.lock())
    }
}

impl Output for Collected {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut kept = self.bytes.lock();
        let room = self.max - kept.len();
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        bytes.len()
    }

    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_and_never_held_up() {
        let collected = Collected::new(5);
        assert_eq!(collected.write(b"abc"), 3);
        assert_eq!(collected.write(b"defg"), 4);
        assert_eq!(collected.write(b"h"), 1);
        assert_eq!(collected.take(), b"abcde");
    }
}
