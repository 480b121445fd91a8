//! `streams`: how long a live stream goes on without being allowed again.

use std::time::Duration;

use super::file;
use super::reading::{LONGEST_TTL, Reading};
use crate::duration::format;

/// The shortest interval, which only tests need: each identity with a stream costs a review per interval.
const SHORTEST: Duration = Duration::from_millis(100);

/// `streams`: tunnels and followed logs are judged again while they last.
#[derive(Clone, Debug, PartialEq)]
pub struct Streams {
    /// `recheckInterval`, 30s: how often the API server is asked about a stream, past the caches.
    pub recheck_interval: Duration,
    /// `maxUnverified`, 5m0s: how long a stream lives on from its last allow while reviews fail.
    pub max_unverified: Duration,
    /// `maxLifetime`, none: the age at which a stream is ended.
    pub max_lifetime: Option<Duration>,
}

// === impl Streams ===

impl Streams {
    pub(super) fn read(reading: &mut Reading<'_>, file: &file::Streams) -> Self {
        let recheck_interval = reading.duration(
            "streams.recheckInterval",
            &file.recheck_interval,
            SHORTEST..=Duration::from_secs(3600),
        );
        let max_unverified = reading.duration(
            "streams.maxUnverified",
            &file.max_unverified,
            2 * SHORTEST..=LONGEST_TTL,
        );
        let max_lifetime = reading.duration(
            "streams.maxLifetime",
            &file.max_lifetime,
            Duration::ZERO..=30 * LONGEST_TTL,
        );
        Self {
            recheck_interval,
            max_unverified,
            max_lifetime: Some(max_lifetime).filter(|life| !life.is_zero()),
        }
    }

    pub(super) fn write(&self) -> file::Streams {
        file::Streams {
            recheck_interval: format(self.recheck_interval),
            max_unverified: format(self.max_unverified),
            max_lifetime: format(self.max_lifetime.unwrap_or_default()),
        }
    }
}
