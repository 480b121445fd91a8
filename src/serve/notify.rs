//! What the gate tells systemd, in a unit with `Type=notify`: that it serves, that it reads its files again,
//! and that it ends.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use sd_notify::NotifyState;

/// Another process is the gate now: systemd hears of that one alone.
static HANDED_OVER: AtomicBool = AtomicBool::new(false);

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

    /// Another process is the main process of the unit from here on, and this one says nothing more.
    pub(crate) fn hand_over(self, pid: i32) {
        self.tell(&[NotifyState::MainPid(pid.unsigned_abs())]);
        HANDED_OVER.store(true, Relaxed);
    }

    /// The other process has ended, and did not become the gate.
    pub(crate) fn take_back(self) {
        HANDED_OVER.store(false, Relaxed);
        self.tell(&[NotifyState::MainPid(std::process::id())]);
    }

    fn tell(self, states: &[NotifyState<'_>]) {
        if self.tells
            && !HANDED_OVER.load(Relaxed)
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::warn!(%error, "systemd cannot be told the state of the gate, at NOTIFY_SOCKET");
        }
    }
}
