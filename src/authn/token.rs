//! Bearer tokens from the `Authorization` header or a WebSocket subprotocol, reviewed by the API server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::budget::Budget;
use super::identity::{CredentialKind, Identity, add_authenticated_group};
use super::jwt;
use super::stale::StaleAnswers;
use crate::apiserver::{ApiServer, ReviewError, TokenAnswer};
use crate::attributes::Checks;
use crate::cache::{Cache, Freshness, Remembered, ReviewOutcome};
use crate::metrics::{CacheKind, Metrics};
use crate::quota::{Exhausted, Quota, Share};
use crate::settings::{Authentication, Limits};
use crate::source::{Known, Source};

/// The start of a WebSocket subprotocol that carries a token. The token follows in base64url without padding.
pub const WEBSOCKET_TOKEN_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// How long a failed review is remembered for its token.
const FAILURE_LIFE: Duration = Duration::from_secs(1);
/// How long a rejected token stays rejected. The kubelet reviews it again each time, so that a flood of bad
/// tokens reaches the API server.
const REJECTED_LIFE: Duration = Duration::from_secs(10);

/// How long a review waits for its place among the running ones.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The reason for a token that the API server rejects.
const INVALID: &str = "invalid_token";
/// The reason for a JSON web token that has expired.
const EXPIRED: &str = "expired_token";
/// The reason for a token that was accepted lately, and is rejected now.
pub(super) const REVOKED: &str = "revoked_token";

/// Has the API server review tokens, and remembers the answers.
pub(crate) struct TokenReviewer {
    number: u64,
    api_server: ApiServer,
    audiences: Arc<[String]>,
    /// `authentication.webhook.cacheTTL`.
    ttl: Duration,
    /// Tokens are remembered under a keyed hash, never as text: a dump of the cache reveals none.
    key: hmac::Key,
    cache: Cache<[u8; 32], TokenVerdict>,
    /// The tokens that were accepted lately, under the same hash.
    accepted: Arc<quick_cache::sync::Cache<[u8; 32], ()>>,
    /// The places of running reviews: tokens must not use up the review slots that SubjectAccessReviews need.
    asking: Arc<Semaphore>,
    /// Those that sources may have that are not known: three quarters.
    asking_unknown: Arc<Semaphore>,
    /// Those that one source may have or wait for: half.
    asking_each: Arc<Quota<Source>>,
    known: Arc<Known>,
    /// The budget for tokens that are not accepted, by source and in total.
    budget: Arc<Budget>,
    stale: Option<Arc<StaleAnswers>>,
    metrics: Arc<Metrics>,
}

/// The number of the next reviewer of this process.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// A place among the running reviews.
struct Place {
    _all: OwnedSemaphorePermit,
    _unknown: Option<OwnedSemaphorePermit>,
    _of_source: Share<Source>,
}

/// The verdict on a token.
#[derive(Clone, Debug)]
pub(super) enum TokenVerdict {
    /// It was not reviewed, or the review failed.
    Failed {
        /// Why, for the operator.
        detail: Arc<str>,
        /// The failure shows that the API server is unreachable.
        is_outage: bool,
    },
    /// The API server rejected it, or it is for other audiences, or it has expired.
    Rejected {
        /// One word for metrics and audit.
        reason: &'static str,
        /// Why, for the operator.
        detail: Arc<str>,
    },
    /// It was not reviewed: too many tokens were rejected just now.
    Exhausted(Exhausted),
    /// It was not reviewed: too many reviews are under way.
    Busy,
    /// It is this user's.
    Authenticated(Identity),
}

/// Why the subprotocols of a WebSocket request carry no usable token.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SubprotocolError {
    /// Two tokens.
    #[error("more than one subprotocol carries a token")]
    SeveralTokens,
    /// Another encoding.
    #[error("the subprotocol's token is not base64url")]
    NotBase64,
    /// Bytes that are not UTF-8.
    #[error("the subprotocol's token is not UTF-8")]
    NotUtf8,
    /// No subprotocol for the connection itself.
    #[error("a token is the only subprotocol")]
    OnlyToken,
}

// === impl TokenReviewer ===

impl TokenReviewer {
    /// A reviewer with the settings' audiences; none means the API server's own. `budget` is for rejected
    /// tokens, and `stale` for an outage.
    ///
    /// # Errors
    /// The operating system provides no randomness.
    #[expect(clippy::too_many_arguments, reason = "each is another part of the process")]
    pub(crate) fn new(
        api_server: ApiServer,
        settings: &Authentication,
        limits: &Limits,
        control: Handle,
        budget: Arc<Budget>,
        known: Arc<Known>,
        stale: Option<Arc<StaleAnswers>>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Unspecified> {
        let mut key = [0u8; 32];
        aws_lc_rs::rand::fill(&mut key)?;
        let asking = (limits.concurrent_reviews / 2).max(1);
        Ok(Self {
            number: NUMBERS.fetch_add(1, Relaxed),
            api_server,
            audiences: settings.audiences.as_slice().into(),
            ttl: settings.webhook_cache_ttl,
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            cache: Cache::new(
                limits.cache_entries,
                control,
                TokenVerdict::Failed {
                    detail: Arc::from("the review was lost"),
                    is_outage: false,
                },
            ),
            accepted: Arc::new(quick_cache::sync::Cache::new(limits.cache_entries)),
            asking: Arc::new(Semaphore::new(asking)),
            asking_each: Quota::new(usize::MAX, (asking / 2).max(1)),
            asking_unknown: Arc::new(Semaphore::new((asking * 3 / 4).max(1))),
            budget,
            known,
            stale,
            metrics,
        })
    }

    /// No other reviewer of the process has this number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The verdict on `token`, which a client of `source` sent with a request for `checks`. Reviews and
    /// rejections count against that source. If the API server is unreachable, an earlier review may do. A
    /// verdict that must be fresh is about a token that was accepted: it is asked for whatever other clients
    /// of the source have spent, as a renewal is.
    pub(super) async fn review(
        &self,
        token: &str,
        source: Source,
        checks: &Checks,
        freshness: Freshness,
    ) -> Remembered<TokenVerdict> {
        let mut key = [0u8; 32];
        key.copy_from_slice(hmac::sign(&self.key, token.as_bytes()).as_ref());
        let covers = |stale: &&Arc<StaleAnswers>| stale.cover(checks, freshness);
        let stale = self.stale.as_ref().filter(covers);
        let answer = self.review_or_know(key, token, source, stale, freshness).await;
        if let (TokenVerdict::Failed { is_outage: true, .. }, Some(stale)) = (&answer.value, stale)
            && let Some(user) = stale.user_of(&key, true).await
        {
            return unasked(TokenVerdict::Authenticated(user));
        }
        answer
    }

    async fn review_or_know(
        &self,
        key: [u8; 32],
        token: &str,
        source: Source,
        stale: Option<&Arc<StaleAnswers>>,
        freshness: Freshness,
    ) -> Remembered<TokenVerdict> {
        let is_renewal = matches!(freshness, Freshness::Since(_));
        if let Some(known) = self.cache.get_fresh(&key, freshness) {
            self.metrics.cache_hit(CacheKind::Token);
            if known.is_due() && !is_renewal {
                self.cache.renew(key, || self.ask(key, token, source, true));
            }
            return known;
        }
        if jwt::is_past(token, SystemTime::now()) {
            let was_accepted = self.accepted.get(&key).is_some();
            return unasked(TokenVerdict::rejected(was_accepted, EXPIRED, "it has expired"));
        }
        // While it is known that the API server is unreachable, no request waits for a review to fail.
        if let Some(stale) = stale
            && let Some(user) = stale.user_of(&key, false).await
        {
            return unasked(TokenVerdict::Authenticated(user));
        }
        if !is_renewal && let Err(bound) = self.budget.allows(source) {
            return unasked(TokenVerdict::Exhausted(bound));
        }
        self.metrics.cache_miss(CacheKind::Token);
        self.cache
            .get_or_review(key, freshness, || self.ask(key, token, source, is_renewal))
            .await
    }

    /// The review itself, independent of the request that needs it. What it may cost is reserved first; a
    /// renewal, which is about a token that was accepted, is asked for in any case.
    fn ask(
        &self,
        key: [u8; 32],
        token: &str,
        source: Source,
        is_renewal: bool,
    ) -> impl Future<Output = ReviewOutcome<TokenVerdict>> + Send + use<> {
        let reserved = self.budget.reserve(source);
        let place = self.place(source);
        let (api_server, audiences, ttl) = (self.api_server.clone(), self.audiences.clone(), self.ttl);
        let (metrics, accepted, token) = (self.metrics.clone(), self.accepted.clone(), token.to_owned());
        let stale = self.stale.clone();
        async move {
            let reserved = match reserved {
                Ok(reserved) => Some(reserved),
                Err(_) if is_renewal => None,
                Err(bound) => {
                    return ReviewOutcome::Failed(TokenVerdict::Exhausted(bound), Duration::ZERO);
                }
            };
            // Held until the review ends; it goes on when the client leaves.
            let Ok(Some(_place)) = timeout(LONGEST_WAIT, place).await else {
                return ReviewOutcome::Failed(TokenVerdict::Busy, Duration::ZERO);
            };
            let asked = Instant::now();
            let answer = api_server.review_token(&token, &audiences).await;
            metrics.review("tokenreviews", &answer);
            let was_accepted = accepted.get(&key).is_some();
            let outcome = judge(answer, &token, &audiences, ttl, was_accepted);
            match (&outcome, &stale) {
                (ReviewOutcome::Granted(TokenVerdict::Authenticated(identity), _), Some(stale)) => {
                    stale.keep_token(key, identity, asked);
                }
                (ReviewOutcome::Refused(..), Some(stale)) => stale.forget_token(&key),
                _ => {}
            }
            match (&outcome, reserved) {
                // What was reserved is given back.
                (ReviewOutcome::Granted(..), _) => accepted.insert(key, ()),
                // A failed review has cost the API server a question, too.
                (ReviewOutcome::Refused(..) | ReviewOutcome::Failed(..), Some(reserved)) => reserved.spend(1),
                (ReviewOutcome::Refused(..) | ReviewOutcome::Failed(..), None) => {}
            }
            outcome
        }
    }

    /// A place among the running reviews, as soon as there is one; `None` if `source` has too many of them.
    fn place(&self, source: Source) -> impl Future<Output = Option<Place>> + Send + use<> {
        let of_source = self.asking_each.take(source);
        let unknown = (!self.known.has(source)).then(|| self.asking_unknown.clone());
        let all = self.asking.clone();
        async move {
            let of_source = of_source.ok()?;
            let unknown = match unknown {
                Some(unknown) => Some(unknown.acquire_owned().await.ok()?),
                None => None,
            };
            Some(Place {
                _all: all.acquire_owned().await.ok()?,
                _unknown: unknown,
                _of_source: of_source,
            })
        }
    }
}

/// A verdict without a new review, which nothing may remember.
fn unasked(value: TokenVerdict) -> Remembered<TokenVerdict> {
    Remembered {
        value,
        fresh_until: Instant::now(),
    }
}

/// The verdict of an answer, and how long it may be kept.
fn judge(
    answer: Result<TokenAnswer, ReviewError>,
    token: &str,
    audiences: &[String],
    ttl: Duration,
    was_accepted: bool,
) -> ReviewOutcome<TokenVerdict> {
    match answer {
        Err(error) => {
            let (detail, is_outage) = (error.to_string().into(), error.is_outage());
            ReviewOutcome::Failed(TokenVerdict::Failed { detail, is_outage }, FAILURE_LIFE)
        }
        Ok(TokenAnswer::Rejected { error }) => {
            let detail = error.unwrap_or_else(|| "invalid bearer token".into());
            let verdict = TokenVerdict::rejected(was_accepted, INVALID, &detail);
            ReviewOutcome::Refused(verdict, REJECTED_LIFE)
        }
        Ok(TokenAnswer::Authenticated {
            audiences: granted, ..
        }) if !audience_granted(audiences, &granted) => {
            let detail = format!("it is for other audiences than {}", audiences.join(", "));
            let verdict = TokenVerdict::rejected(was_accepted, INVALID, &detail);
            ReviewOutcome::Refused(verdict, REJECTED_LIFE)
        }
        Ok(TokenAnswer::Authenticated { mut user, .. }) => {
            add_authenticated_group(&mut user);
            let expires = jwt::expiry(token);
            let life = match expires.map(|at| at.duration_since(SystemTime::now())) {
                None => ttl,
                Some(Ok(left)) => left.min(ttl),
                // The API server has just accepted it, and its clock decides. The answer is not remembered.
                Some(Err(_)) => Duration::ZERO,
            };
            let identity = Identity::new(user, CredentialKind::Token, expires);
            ReviewOutcome::Granted(TokenVerdict::Authenticated(identity), life)
        }
    }
}

// === impl TokenVerdict ===

impl TokenVerdict {
    /// The rejection of a token for `reason`, or because it is no longer the good token that it was.
    fn rejected(was_accepted: bool, reason: &'static str, detail: &str) -> Self {
        Self::Rejected {
            reason: if was_accepted { REVOKED } else { reason },
            detail: format!("token: {detail}").into(),
        }
    }
}

/// Whether a token is for one of the audiences `asked` for. An API server that does not support audiences
/// returns none; its answer is then for its own audience, which was not asked for.
fn audience_granted(asked: &[String], granted: &[String]) -> bool {
    asked.is_empty() || asked.iter().any(|audience| granted.contains(audience))
}

/// The value of the first `Authorization` header; the kubelet reads no other.
pub(super) fn authorization(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(AUTHORIZATION)
}

/// The token in an `Authorization` value: scheme `bearer` in any case, one space, the token. Text after a
/// second space is ignored. After two spaces there is no token, and a tab is no separator.
pub fn bearer(authorization: &HeaderValue) -> Option<&str> {
    let value = str::from_utf8(authorization.as_bytes()).ok()?.trim();
    let mut parts = value.splitn(3, ' ');
    let scheme = parts.next()?;
    let token = parts.next()?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The token in the `Sec-WebSocket-Protocol` headers, if there is one and it is not empty.
///
/// # Errors
/// Two tokens, a bad encoding, or a token without another subprotocol. The kubelet then answers 401 unless
/// another credential succeeds.
pub fn websocket_protocol(headers: &HeaderMap) -> Result<Option<String>, SubprotocolError> {
    let mut token = None;
    let mut others = false;
    for protocol in headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
    {
        match protocol.strip_prefix(WEBSOCKET_TOKEN_PREFIX.as_bytes()) {
            None => others = true,
            Some(_) if token.is_some() => return Err(SubprotocolError::SeveralTokens),
            Some(encoded) => token = Some(encoded),
        }
    }
    let Some(encoded) = token else { return Ok(None) };
    let decoded = URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| SubprotocolError::NotBase64)?;
    let decoded = String::from_utf8(decoded).map_err(|_| SubprotocolError::NotUtf8)?;
    if decoded.is_empty() {
        return Ok(None);
    }
    if others {
        Ok(Some(decoded))
    } else {
        Err(SubprotocolError::OnlyToken)
    }
}
