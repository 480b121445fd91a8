//! `upgrade`: how a gate ends that has handed its sockets over to another process.

use std::time::Duration;

use super::file;
use super::reading::{LONGEST_TTL, Reading};
use crate::duration::format;

/// `upgrade`.
#[derive(Clone, Debug, PartialEq)]
pub struct Upgrade {
    /// `drainTimeout`, 1h0m0s: how long the process goes on with the connections and streams it has.
    pub drain_timeout: Duration,
}

// === impl Upgrade ===

impl Upgrade {
    pub(super) fn read(reading: &mut Reading<'_>, file: &file::Upgrade) -> Self {
        let bounds = Duration::from_secs(1)..=LONGEST_TTL;
        Self {
            drain_timeout: reading.duration("upgrade.drainTimeout", &file.drain_timeout, bounds),
        }
    }

    pub(super) fn write(&self) -> file::Upgrade {
        file::Upgrade {
            drain_timeout: format(self.drain_timeout),
        }
    }
}
