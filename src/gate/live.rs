//! A stream that is open, and whether it still may be: a tunnel or a followed log may last for days, and so
//! outlive the right to it.
//!
//! A stream is judged again as a new request with the same credentials would be, by the rules in force. The
//! local part of that (certificate, deny lists, the gate's own policy) is done whenever the trust or the
//! rules change. Reviews are asked for every `streams.recheckInterval`, past the caches, and their answers
//! replace the remembered ones.
//!
//! All streams of one user are judged at the same moments, and so share the reviews that they have in common:
//! the cache has one review at a time for a question ([`Freshness::Since`]). The moments differ by user and
//! by process, at random, so that the API server is not asked about all streams of all nodes at once. There
//! is no list of streams: nothing has to be found or locked when one begins or ends.

use std::future::pending;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, StatusCode};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::connection::Connection;
use super::rules::Rules;
use crate::attributes::Checks;
use crate::authn::{CredentialKind, Identity};
use crate::cache::Freshness;
use crate::error::{ErrorOrigin, RequestError};
use crate::forward::EndedBy;

/// No point in time is further away: a timer has to end somewhere.
const FAR: Duration = Duration::from_secs(30 * 86_400);

/// After the gate itself could not judge a stream, it tries again.
const AGAIN: Duration = Duration::from_secs(1);

/// What it takes to judge a stream again.
pub(super) struct LiveStream {
    /// Those in force.
    rules: Arc<ArcSwap<Rules>>,
    connection: Arc<Connection>,
    /// The request's headers with a token. The API server judges a token by its text, which is therefore kept
    /// as long as the stream. No `Debug` shows it.
    credentials: HeaderMap,
    identity: Identity,
    checks: Checks,
    began: Instant,
    /// Announcements since before it was allowed.
    changes: watch::Receiver<()>,
}

/// Why the gate ends a stream.
pub(super) struct Ending {
    pub(super) by: EndedBy,
    /// The refusal, or the last failure.
    pub(super) why: Option<RequestError>,
}

// === impl LiveStream ===

impl LiveStream {
    /// The stream of a request that has just been allowed. `changes` was subscribed to before that.
    pub(super) fn new(
        rules: &Arc<ArcSwap<Rules>>,
        connection: &Arc<Connection>,
        headers: &HeaderMap,
        identity: &Identity,
        checks: Checks,
        changes: watch::Receiver<()>,
    ) -> Self {
        let mut credentials = HeaderMap::new();
        for name in [AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL] {
            for value in headers.get_all(&name) {
                let mut value = value.clone();
                value.set_sensitive(true);
                credentials.append(&name, value);
            }
        }
        Self {
            rules: rules.clone(),
            connection: connection.clone(),
            credentials,
            identity: identity.clone(),
            checks,
            began: Instant::now(),
            changes,
        }
    }

    /// The connection that it is on.
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Resolves when the gate must end the stream. `rules` are those it was allowed by.
    pub(super) async fn until_refused(&self, mut rules: Arc<Rules>) -> Ending {
        let mut changes = self.changes.clone();
        if !Arc::ptr_eq(&rules, &self.rules.load()) {
            changes.mark_changed();
        }
        let (mut allowed, mut judged, mut failure) = (self.began, self.began, None);
        let (mut again, mut valid_until) = (None, self.identity.valid_until());
        loop {
            let interval = rules.streams.recheck_interval;
            // A round that passed during a judgement is made up for; of several, only the last.
            let last = judged.max(Instant::now().checked_sub(interval).unwrap_or(judged));
            let round = round(&self.identity, interval, last);
            // The time since when reviews count, if new ones are asked for.
            let since = tokio::select! {
                biased;
                ending = self.until_overdue(&rules, allowed) => return Ending { why: failure, ..ending },
                _ = changes.changed() => None,
                () = until(valid_until) => None,
                () = sleep_until(round) => Some(round),
                () = sleep_until(again.unwrap_or(round)) => None,
            };
            (judged, again) = (since.unwrap_or(judged), None);
            // A change while a review is running begins again: what needs no review must not wait for it.
            let outcome = loop {
                rules = self.rules.load_full();
                let freshness = since.map_or(Freshness::Remembered, Freshness::Since);
                tokio::select! {
                    biased;
                    ending = self.until_overdue(&rules, allowed) => return Ending { why: failure, ..ending },
                    _ = changes.changed() => {}
                    outcome = self.judge(&rules, freshness) => break outcome,
                }
            };
            match outcome {
                Ok(until) => {
                    valid_until = until;
                    // A remembered answer proves nothing about now.
                    if since.is_some() {
                        (allowed, failure) = (Instant::now(), None);
                    }
                }
                Err(error) => match self.refused_as(&error) {
                    Some(by) => return Ending { by, why: Some(error) },
                    None => {
                        // The certificates of many streams may have to be judged at once.
                        if error.origin == ErrorOrigin::Gate {
                            again = Some(Instant::now() + AGAIN);
                        }
                        failure = Some(error);
                    }
                },
            }
        }
    }

    /// Judges the stream as a new request; yields until when its credential is valid: a certificate is so
    /// for longer than before if a new revocation list has come. What needs no review comes first.
    async fn judge(&self, rules: &Rules, freshness: Freshness) -> Result<Option<SystemTime>, RequestError> {
        if self.has_expired() && self.identity.credential() == CredentialKind::Token {
            return Err(RequestError::unauthorized(
                "expired_token",
                "token: it has expired",
            ));
        }
        let source = self.connection.peer.ip();
        rules.judge_source(source)?;
        let checks = self.checks.under(rules.interactive_requires_create);
        if self.identity.credential() != CredentialKind::Certificate {
            // The review of a token may take long. A certificate needs none, and is judged first.
            rules
                .authorizer
                .judge_by_policy(&self.identity, &checks, source)?;
        }
        let presented = &self.connection.presented;
        let identity = rules
            .authenticator
            .authenticate(presented, &self.credentials, &checks, freshness)
            .await?;
        if identity.user().username != self.identity.user().username {
            return Err(RequestError::unauthorized(
                "other_user",
                "the credential is now another user's",
            ));
        }
        let valid_until = identity.valid_until();
        rules
            .authorizer
            .authorize(identity, &checks, source, freshness)
            .await?;
        Ok(valid_until)
    }

    /// What a refusal ends the stream as; `None` if the stream could not be judged.
    fn refused_as(&self, error: &RequestError) -> Option<EndedBy> {
        let is_expired = match self.identity.credential() {
            CredentialKind::Token => self.has_expired(),
            CredentialKind::Anonymous | CredentialKind::Certificate => error.reason == "expired",
        };
        match error.status {
            StatusCode::UNAUTHORIZED if is_expired => Some(EndedBy::Expired),
            StatusCode::UNAUTHORIZED => Some(EndedBy::Revoked),
            StatusCode::FORBIDDEN => Some(EndedBy::NotAllowed),
            _ => None,
        }
    }

    fn has_expired(&self) -> bool {
        let until = self.identity.valid_until();
        until.is_some_and(|until| until <= SystemTime::now())
    }

    /// Resolves when the stream has gone on for too long since it was `allowed`, or altogether.
    async fn until_overdue(&self, rules: &Rules, allowed: Instant) -> Ending {
        let settings = &rules.streams;
        let unverified = allowed + settings.max_unverified;
        let lifetime = settings.max_lifetime.map(|life| self.began + life);
        match lifetime.filter(|lifetime| *lifetime <= unverified) {
            Some(lifetime) => {
                sleep_until(lifetime).await;
                Ending::of(EndedBy::Lifetime)
            }
            None => {
                sleep_until(unverified).await;
                Ending::of(EndedBy::Unverified)
            }
        }
    }
}

// === impl Ending ===

impl Ending {
    pub(super) fn of(by: EndedBy) -> Self {
        Self { by, why: None }
    }
}

/// Resolves when a credential that is valid until then expires; never if it has already, which was noticed.
async fn until(end: Option<SystemTime>) {
    match end.map(|end| end.duration_since(SystemTime::now())) {
        None | Some(Err(_)) => pending().await,
        Some(Ok(left)) => sleep(left.min(FAR)).await,
    }
}

/// The next moment at which the streams of `identity` are judged by new reviews: the same for all of them.
fn round(identity: &Identity, interval: Duration, now: Instant) -> Instant {
    static START: LazyLock<(Instant, RandomState)> = LazyLock::new(|| (Instant::now(), RandomState::new()));
    let (start, hasher) = &*START;
    let share = hasher.hash_one(identity) as f64 / u64::MAX as f64;
    let first = *start + interval.mul_f64(share);
    let passed = now.saturating_duration_since(first);
    let rounds = passed.as_nanos() / interval.as_nanos().max(1) + 1;
    if now < first {
        return first;
    }
    first + interval * u32::try_from(rounds).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::apiserver::UserInfo;

    fn identity(name: &str) -> Identity {
        let user = UserInfo {
            username: name.to_owned(),
            ..UserInfo::default()
        };
        Identity::of(user, None)
    }

    /// Seen red: with the same moments for all users.
    #[test]
    fn the_streams_of_a_user_are_judged_together_and_those_of_users_apart() {
        let interval = Duration::from_secs(30);
        let now = Instant::now() + Duration::from_secs(3600);
        let mut moments = HashSet::new();
        for name in 0..20 {
            let name = name.to_string();
            let next = round(&identity(&name), interval, now);
            assert!(next > now && next <= now + interval);
            assert_eq!(
                round(&identity(&name), interval, next - Duration::from_nanos(1)),
                next
            );
            assert_eq!(round(&identity(&name), interval, next), next + interval);
            moments.insert(next);
        }
        assert_eq!(moments.len(), 20);
    }
}
