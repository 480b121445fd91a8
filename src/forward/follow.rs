//! A followed log on its way to the client.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::tunnel::{EndedBy, StreamEnd};

/// What the body of a followed log, the connection that carries it, and the task that judges it share.
pub(crate) struct Follow {
    /// The client may take no byte for so long.
    stall: Duration,
    sent: AtomicU64,
    ended_by: OnceLock<EndedBy>,
    /// Cancelled when the body is gone.
    over: CancellationToken,
    /// Cancelled when the gate ends it.
    cut: CancellationToken,
}

// === impl Follow ===

impl Follow {
    /// A log whose client may take no byte for `stall`.
    pub(crate) fn new(stall: Duration) -> Self {
        Self {
            stall,
            sent: AtomicU64::new(0),
            ended_by: OnceLock::new(),
            over: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// How long its client may take no byte.
    pub(crate) fn stall(&self) -> Duration {
        self.stall
    }

    /// Notes what ends it. The first note counts.
    pub(crate) fn note_end(&self, by: EndedBy) {
        // A later cause is an effect of the first.
        let _ = self.ended_by.set(by);
    }

    /// Has its connection end it now, also while the client takes no byte.
    pub(crate) fn cut(&self, by: EndedBy) {
        self.note_end(by);
        self.cut.cancel();
    }

    /// Resolves when the gate has ended it.
    pub(crate) fn until_cut(&self) -> impl Future<Output = ()> + Send + use<> {
        self.cut.clone().cancelled_owned()
    }

    /// Resolves when its body is gone.
    pub(crate) async fn until_over(&self) {
        self.over.cancelled().await;
    }

    /// How it ended. A client that leaves is the only end that is not noted.
    pub(crate) fn end(&self) -> StreamEnd {
        StreamEnd {
            received: 0,
            sent: self.sent.load(Relaxed),
            by: self.ended_by.get().copied().unwrap_or(EndedBy::Client),
        }
    }

    pub(super) fn note_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn note_over(&self) {
        self.over.cancel();
    }
}
