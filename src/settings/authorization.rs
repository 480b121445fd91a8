//! `authorization`: what an authenticated user may do.

use std::time::Duration;

use super::document::quoted;
use super::file;
use super::reading::{LONGEST_TTL, Reading};
use super::scraping::{StaleAllow, StaticRule};
use super::writing::lasting;
use crate::named::Named;

/// `authorization`.
#[derive(Clone, Debug, PartialEq)]
pub struct Authorization {
    /// `authorization.mode`.
    pub mode: AuthorizationMode,
    /// `authorization.static`: what needs no review.
    pub static_rules: Vec<StaticRule>,
    /// `authorization.webhook.cacheAuthorizedTTL`.
    pub cache_authorized_ttl: Duration,
    /// `authorization.webhook.cacheUnauthorizedTTL`.
    pub cache_unauthorized_ttl: Duration,
    /// `authorization.webhook.staleAllow`.
    pub stale_allow: StaleAllow,
    /// `authorization.interactive`.
    pub interactive: Interactive,
    /// `authorization.paths.deny`: path prefixes (whole segments) refused for every caller, each
    /// starting with `/`.
    pub deny_paths: Vec<String>,
}

/// `authorization.mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuthorizationMode {
    /// Every authenticated user may do everything.
    AlwaysAllow,
    /// SubjectAccessReview.
    Webhook,
}

/// `authorization.interactive`: exec, attach, run, portForward and `/cri/`.
#[derive(Clone, Debug, PartialEq)]
pub struct Interactive {
    /// `requireCreate`: these need the verb `create`, whatever the method.
    pub require_create: bool,
    /// `allowedUsers`: if not empty, all other users are refused.
    pub allowed_users: Vec<String>,
    /// `cacheAuthorizedTTL`: how long an allow for them is remembered.
    pub cache_authorized_ttl: Duration,
}

impl Named for AuthorizationMode {
    const NAMES: &'static [(&'static str, Self)] =
        &[("Webhook", Self::Webhook), ("AlwaysAllow", Self::AlwaysAllow)];
}

// === impl Authorization ===

impl Authorization {
    pub(super) fn read(reading: &mut Reading<'_>, file: file::Authorization) -> Self {
        let ttl = Duration::ZERO..=LONGEST_TTL;
        Self {
            mode: reading.choice("authorization.mode", &file.mode),
            cache_authorized_ttl: reading.duration(
                "authorization.webhook.cacheAuthorizedTTL",
                &file.webhook.cache_authorized_ttl,
                ttl.clone(),
            ),
            cache_unauthorized_ttl: reading.duration(
                "authorization.webhook.cacheUnauthorizedTTL",
                &file.webhook.cache_unauthorized_ttl,
                ttl.clone(),
            ),
            stale_allow: StaleAllow::read(reading, &file.webhook.stale_allow),
            static_rules: file
                .static_rules
                .into_iter()
                .enumerate()
                .map(|(index, rule)| {
                    StaticRule::read(reading, &format!("authorization.static[{index}]"), rule)
                })
                .collect(),
            interactive: Interactive {
                require_create: file.interactive.require_create,
                allowed_users: reading.names(
                    "authorization.interactive.allowedUsers",
                    file.interactive.allowed_users,
                ),
                cache_authorized_ttl: reading.duration(
                    "authorization.interactive.cacheAuthorizedTTL",
                    &file.interactive.cache_authorized_ttl,
                    ttl,
                ),
            },
            deny_paths: deny_paths(reading, file.paths.deny),
        }
    }

    pub(super) fn write(&self) -> file::Authorization {
        file::Authorization {
            mode: self.mode.name().to_owned(),
            webhook: file::AuthorizationWebhook {
                cache_authorized_ttl: lasting(self.cache_authorized_ttl),
                cache_unauthorized_ttl: lasting(self.cache_unauthorized_ttl),
                stale_allow: self.stale_allow.write(),
            },
            static_rules: self.static_rules.iter().map(StaticRule::write).collect(),
            interactive: file::Interactive {
                require_create: self.interactive.require_create,
                allowed_users: self.interactive.allowed_users.clone(),
                cache_authorized_ttl: lasting(self.interactive.cache_authorized_ttl),
            },
            paths: file::Paths {
                deny: self.deny_paths.clone(),
            },
        }
    }
}

/// Prefixes are compared with the decoded path, whole segments at a time: one that never matches would be no
/// refusal.
fn deny_paths(reading: &mut Reading<'_>, prefixes: Vec<String>) -> Vec<String> {
    for (index, prefix) in prefixes.iter().enumerate() {
        let inner = prefix
            .strip_prefix('/')
            .map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let why = match inner {
            None => "does not begin with /",
            Some("") => "denies everything",
            Some(inner) if inner.split('/').any(|segment| matches!(segment, "" | "." | "..")) => {
                "has an empty segment, . or .., which no path that gets this far has"
            }
            Some(inner) if inner.contains(['?', '#', '*', '\\', '\0']) => "is more than a path",
            Some(inner) if inner.contains('%') => "is percent-encoded",
            Some(_) => continue,
        };
        reading.refuse(
            &format!("authorization.paths.deny[{index}]"),
            format!(
                "{} {why}; write the beginning of a decoded path, such as /debug/pprof",
                quoted(prefix)
            ),
        );
    }
    prefixes
}
