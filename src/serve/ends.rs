//! The two ways in which a gate that runs is told to end.

use std::future::pending;

use tokio_util::sync::CancellationToken;

/// Cancelled when a gate must end, and how.
#[derive(Clone, Debug)]
pub struct Ends {
    /// It stops: idle connections are closed, and what runs has `limits.shutdownTimeout`.
    pub stop: CancellationToken,
    /// It leaves, since another process has its sockets: what was accepted goes on for
    /// `upgrade.drainTimeout`. A gate that stops leaves as well, so this is cancelled with `stop`.
    pub leave: CancellationToken,
    /// The process that has taken over has ended. If this one stops as well, the service manager waits for
    /// its end before it starts a gate: what is open is cut soon.
    pub alone: CancellationToken,
}

// === impl Ends ===

impl Ends {
    /// None is cancelled.
    #[must_use]
    pub fn new() -> Self {
        let stop = CancellationToken::new();
        Self {
            leave: stop.child_token(),
            alone: CancellationToken::new(),
            stop,
        }
    }

    /// Resolves when the gate leaves, and does not stop.
    pub(super) fn left(&self) -> impl Future<Output = ()> + use<> {
        let Self { stop, leave, .. } = self.clone();
        async move {
            leave.cancelled().await;
            if stop.is_cancelled() {
                pending::<()>().await;
            }
        }
    }
}

impl Default for Ends {
    fn default() -> Self {
        Self::new()
    }
}
