//! Options of sockets that the pod's network has no use for: kept, clamped and given back.
//!
//! Nothing between two pods gets lost or counts hops, and a peer that is gone is noticed at once;
//! programs set these options all the same and may read them back.

use std::time::Duration;
use wasmtime_wasi::p2::SocketResult;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

/// The ranges of Linux.
const KEEP_ALIVE_TIME_MIN: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIME_MAX: Duration = Duration::from_secs(32_767);
const KEEP_ALIVE_COUNT_MAX: u32 = 127;
const BUFFER_BYTES_MIN: u64 = 1_024;
/// As much as a connection buffers at most.
const BUFFER_BYTES_MAX: u64 = 64 * 1024;

/// What a TCP socket hands on to those it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcpOptions {
    pub(super) keep_alive: bool,
    keep_alive_idle: u64,
    keep_alive_interval: u64,
    keep_alive_count: u32,
    pub(super) common: Options,
}

/// What sockets of both kinds have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Options {
    hop_limit: u8,
    receive_buffer: u64,
    send_buffer: u64,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            keep_alive: false,
            keep_alive_idle: nanos(Duration::from_secs(7_200)),
            keep_alive_interval: nanos(Duration::from_secs(75)),
            keep_alive_count: 9,
            common: Options::default(),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hop_limit: 64,
            receive_buffer: BUFFER_BYTES_MAX,
            send_buffer: BUFFER_BYTES_MAX,
        }
    }
}

impl TcpOptions {
    pub(super) fn keep_alive_idle(&self) -> u64 {
        self.keep_alive_idle
    }

    pub(super) fn set_keep_alive_idle(&mut self, nanos: u64) -> SocketResult<()> {
        self.keep_alive_idle = keep_alive_time(nanos)?;
        Ok(())
    }

    pub(super) fn keep_alive_interval(&self) -> u64 {
        self.keep_alive_interval
    }

    pub(super) fn set_keep_alive_interval(&mut self, nanos: u64) -> SocketResult<()> {
        self.keep_alive_interval = keep_alive_time(nanos)?;
        Ok(())
    }

    pub(super) fn keep_alive_count(&self) -> u32 {
        self.keep_alive_count
    }

    pub(super) fn set_keep_alive_count(&mut self, count: u32) -> SocketResult<()> {
        self.keep_alive_count = positive(count)?.min(KEEP_ALIVE_COUNT_MAX);
        Ok(())
    }
}

impl Options {
    pub(super) fn hop_limit(&self) -> u8 {
        self.hop_limit
    }

    pub(super) fn set_hop_limit(&mut self, hops: u8) -> SocketResult<()> {
        self.hop_limit = positive(hops)?;
        Ok(())
    }

    pub(super) fn receive_buffer(&self) -> u64 {
        self.receive_buffer
    }

    pub(super) fn set_receive_buffer(&mut self, bytes: u64) -> SocketResult<()> {
        self.receive_buffer = buffer_size(bytes)?;
        Ok(())
    }

    pub(super) fn send_buffer(&self) -> u64 {
        self.send_buffer
    }

    pub(super) fn set_send_buffer(&mut self, bytes: u64) -> SocketResult<()> {
        self.send_buffer = buffer_size(bytes)?;
        Ok(())
    }
}

/// Refuses 0, as every option of `wasi:sockets` does.
pub(super) fn positive<N: Default + PartialEq>(value: N) -> SocketResult<N> {
    if value == N::default() {
        Err(ErrorCode::InvalidArgument.into())
    } else {
        Ok(value)
    }
}

fn buffer_size(bytes: u64) -> SocketResult<u64> {
    Ok(positive(bytes)?.clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX))
}

/// Rounds up to whole seconds within the range.
fn keep_alive_time(time: u64) -> SocketResult<u64> {
    let time = Duration::from_nanos(positive(time)?);
    let whole = Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0));
    Ok(nanos(whole.clamp(KEEP_ALIVE_TIME_MIN, KEEP_ALIVE_TIME_MAX)))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zero_is_refused_and_changes_nothing() {
        let mut options = TcpOptions::default();
        assert!(options.set_keep_alive_idle(0).is_err());
        assert!(options.set_keep_alive_interval(0).is_err());
        assert!(options.set_keep_alive_count(0).is_err());
        assert!(options.common.set_hop_limit(0).is_err());
        assert!(options.common.set_receive_buffer(0).is_err());
        assert!(options.common.set_send_buffer(0).is_err());
        assert_eq!(options, TcpOptions::default());
    }

    proptest! {
        /// What was read back can be set again and stays.
        #[test]
        fn any_other_value_is_taken_and_settles(value in 1..=u64::MAX) {
            let mut options = TcpOptions::default();
            prop_assert!(options.set_keep_alive_idle(value).is_ok());
            let settled = options.keep_alive_idle();
            prop_assert!(options.set_keep_alive_idle(settled).is_ok());
            prop_assert_eq!(options.keep_alive_idle(), settled);
            prop_assert!(options.common.set_send_buffer(value).is_ok());
            let settled = options.common.send_buffer();
            prop_assert!(settled > 0 && settled <= BUFFER_BYTES_MAX);
        }
    }
}
