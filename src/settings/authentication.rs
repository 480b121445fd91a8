//! `authentication`: how a client shows which user it is.

use std::path::PathBuf;
use std::time::Duration;

use super::file;
use super::reading::{LONGEST_TTL, Reading};

/// `authentication`, without `x509`, which is the listener's.
#[derive(Clone, Debug, PartialEq)]
pub struct Authentication {
    /// `authentication.anonymous.enabled`.
    pub anonymous: bool,
    /// `authentication.webhook.enabled`: bearer tokens by TokenReview.
    pub webhook: bool,
    /// `authentication.webhook.cacheTTL`.
    pub webhook_cache_ttl: Duration,
    /// `authentication.webhook.audiences`: sent with a TokenReview, one of them must come back;
    /// empty means the API server's.
    pub audiences: Vec<String>,
    /// `authentication.denyFiles`: lists of certificates, users and groups that are refused.
    pub deny_files: Vec<PathBuf>,
}

// === impl Authentication ===

impl Authentication {
    pub(super) fn read(reading: &mut Reading<'_>, file: file::Authentication) -> Self {
        Self {
            anonymous: file.anonymous.enabled,
            webhook: file.webhook.enabled,
            webhook_cache_ttl: reading.duration(
                "authentication.webhook.cacheTTL",
                &file.webhook.cache_ttl,
                Duration::ZERO..=LONGEST_TTL,
            ),
            audiences: reading.names("authentication.webhook.audiences", file.webhook.audiences),
            deny_files: reading.paths("authentication.denyFiles", &file.deny_files, "a deny list"),
        }
    }
}
