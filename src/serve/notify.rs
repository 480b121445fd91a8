//! What the gate tells systemd, in a unit with `Type=notify`: that it serves, that it reads its files again,
//! and that it ends.

use sd_notify::NotifyState;

/// Tells systemd. Without `NOTIFY_SOCKET` in the environment it says nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notifier {
    tells: bool,
}

impl Notifier {
    /// Of a process that systemd may have started.
    pub(crate) const SYSTEMD: Self = Self { tells: true };
    /// Of a gate that is part of the laboratory.
    #[cfg(feature = "lab")]
    pub(crate) const SILENT: Self = Self { tells: false };

    /// The gate serves, and its files are read.
    pub(crate) fn ready(self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// The gate reads its files again. `Type=notify-reload` tells this from an earlier reload by its time.
    pub(crate) fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!(%error, "the monotonic clock cannot be read"),
        }
    }

    /// The gate accepts nothing new.
    pub(crate) fn stopping(self) {
        self.tell(&[NotifyState::Stopping]);
    }

    fn tell(self, states: &[NotifyState<'_>]) {
        if self.tells
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::warn!(%error, "systemd cannot be told the state of the gate, at NOTIFY_SOCKET");
        }
    }
}
