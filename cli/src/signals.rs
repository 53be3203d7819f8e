//! Ctrl-C, SIGTERM and their like, as one stream of "the user wants this to end".

use anyhow::Context;
use tokio::sync::mpsc;

use crate::exit::Exit;

/// Signals that may wait before they are seen; the first two decide everything.
const SIGNALS_MAX: usize = 4;

/// The signals that end a run, in the order they came.
pub(crate) struct Signals {
    received: mpsc::Receiver<()>,
}

impl Signals {
    /// Takes over the process's signals. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// Fails when the platform refuses a handler.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let (sender, received) = mpsc::channel(SIGNALS_MAX);
        platform::forward(sender).context("failed to install a signal handler")?;
        Ok(Self { received })
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) {
        if self.received.recv().await.is_none() {
            // No handler is left, so no signal can come.
            std::future::pending::<()>().await;
        }
    }

    /// Ends the process when another signal arrives, whatever it is doing then.
    pub(crate) fn exit_on_next(mut self, exit: Exit) {
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(exit.code().into());
        });
    }
}

#[cfg(unix)]
mod platform {
    use std::io;

    use tokio::signal::unix::{SignalKind, signal};
    use tokio::sync::mpsc;

    pub(super) fn forward(sender: mpsc::Sender<()>) -> io::Result<()> {
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ] {
            let mut signals = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    // A full queue already says all there is to say.
                    let _ = sender.try_send(());
                }
            });
        }
        Ok(())
    }
}

#[cfg(windows)]
mod platform {
    use std::io;

    use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
    use tokio::sync::mpsc;

    macro_rules! forward_each {
        ($sender:expr, $($source:expr),+) => {$(
            let mut signals = $source?;
            let sender = $sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    // A full queue already says all there is to say.
                    let _ = sender.try_send(());
                }
            });
        )+};
    }

    pub(super) fn forward(sender: mpsc::Sender<()>) -> io::Result<()> {
        forward_each!(
            sender,
            ctrl_c(),
            ctrl_break(),
            ctrl_close(),
            ctrl_shutdown()
        );
        Ok(())
    }
}
