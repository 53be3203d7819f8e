//! Other systems: there are no such pipes, everything is copied.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::super::side::Side;

/// A pool without pipes.
pub(in crate::edge) struct Pipes;

/// A pipe, of which there are none.
pub(in crate::edge) enum Pipe {}

impl Pipes {
    /// Returns the pool.
    pub(in crate::edge) fn new(_max: usize) -> Arc<Pipes> {
        Arc::new(Pipes)
    }

    /// Returns nothing.
    pub(in crate::edge) fn take(self: &Arc<Self>) -> Option<Pipe> {
        None
    }
}

impl Pipe {
    /// Is never called, for there is no pipe.
    pub(in crate::edge) fn prepare(&self, _to: &Side) {
        match *self {}
    }

    /// Is never called, for there is no pipe.
    pub(in crate::edge) fn fill(&mut self, _from: &Side) -> io::Result<usize> {
        match *self {}
    }

    /// Is never called, for there is no pipe.
    pub(in crate::edge) fn poll_drain(
        &mut self,
        _cx: &mut Context<'_>,
        _to: &Side,
    ) -> Poll<io::Result<()>> {
        match *self {}
    }
}

/// Is never true, for nothing is spliced.
pub(in crate::edge) fn is_impossible(_error: &io::Error) -> bool {
    false
}
