use super::StopReason;
use std::io;

/// Waits for the signals that ask a process to stop: SIGTERM and SIGINT, or Ctrl-C where there
/// are no signals.
///
/// From the moment this is made until the process ends, those signals no longer kill the process.
#[derive(Debug)]
pub struct StopSignals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
}

impl StopSignals {
    /// Starts to listen.
    ///
    /// # Errors
    ///
    /// When the operating system refuses to install a handler.
    ///
    /// # Panics
    ///
    /// When called outside a Tokio runtime whose I/O driver is enabled.
    pub fn new() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            })
        }
        #[cfg(windows)]
        Ok(Self {
            interrupt: tokio::signal::windows::ctrl_c()?,
        })
    }

    /// Waits for the next signal.
    ///
    /// # Cancel safety
    ///
    /// No signal is lost when the future is dropped.
    pub async fn recv(&mut self) -> StopReason {
        #[cfg(unix)]
        tokio::select! {
            Some(()) = self.terminate.recv() => StopReason::Terminate,
            Some(()) = self.interrupt.recv() => StopReason::Interrupt,
            // Both streams end only with the runtime.
            else => std::future::pending().await,
        }
        #[cfg(windows)]
        match self.interrupt.recv().await {
            Some(()) => StopReason::Interrupt,
            None => std::future::pending().await,
        }
    }
}
