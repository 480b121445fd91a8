//! Bearer tokens: from the `Authorization` header or a WebSocket subprotocol, reviewed by the API server.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::budget::Budget;
use super::identity::{CredentialKind, Identity, add_authenticated_group};
use crate::apiserver::{ApiServer, ReviewError, TokenAnswer};
use crate::cache::{Cache, Remembered, ReviewOutcome};
use crate::metrics::{CacheKind, Metrics};
use crate::quota::Quota;
use crate::settings::{Authentication, Limits};

/// What a WebSocket subprotocol that carries a token starts with; base64url without padding follows.
pub const WEBSOCKET_TOKEN_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// How long a review that failed is remembered for its token.
const FAILURE_LIFE: Duration = Duration::from_secs(1);
/// How long a rejected token stays rejected. The kubelet asks again each time, so that a flood of bad tokens reaches
/// the API server.
const REJECTED_LIFE: Duration = Duration::from_secs(10);

/// Asks the API server who a token is, and remembers the answer.
pub struct TokenReviewer {
    api_server: ApiServer,
    audiences: Arc<[String]>,
    /// `authentication.webhook.cacheTTL`.
    ttl: Duration,
    /// Tokens are remembered under a keyed hash, never as text: a dump of the cache is worth nothing.
    key: hmac::Key,
    cache: Cache<[u8; 32], TokenVerdict>,
    /// Reviews under way, by who made the gate ask: a stranger with ever new tokens must not take the places of
    /// everybody's SubjectAccessReviews.
    asking: Arc<Quota<IpAddr>>,
    /// Tokens that were rejected, by whose they were.
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
}

/// The API server's word on a token.
#[derive(Clone, Debug)]
pub(super) enum TokenVerdict {
    /// Not asked, or not answered.
    Failed(Arc<str>),
    /// Nobody.
    Rejected(Arc<str>),
    /// Nobody asked: too many tokens from this address were rejected just now.
    Exhausted,
    /// A user.
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
    /// Bytes that are no text.
    #[error("the subprotocol's token is not UTF-8")]
    NotUtf8,
    /// No protocol for the connection itself.
    #[error("a token is the only subprotocol")]
    OnlyToken,
}

// === impl TokenReviewer ===

impl TokenReviewer {
    /// `audiences` empty means the API server's own.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn new(
        api_server: ApiServer,
        settings: &Authentication,
        limits: &Limits,
        control: Handle,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Unspecified> {
        let mut key = [0u8; 32];
        aws_lc_rs::rand::fill(&mut key)?;
        Ok(Self {
            api_server,
            audiences: settings.audiences.as_slice().into(),
            ttl: settings.webhook_cache_ttl,
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            cache: Cache::new(
                limits.cache_entries,
                control,
                TokenVerdict::Failed(Arc::from("the review was lost")),
            ),
            asking: Quota::new(
                (limits.concurrent_reviews / 2).max(1),
                (limits.concurrent_reviews / 8).max(1),
            ),
            budget: Budget::new(limits.rejected_tokens_per_address),
            metrics,
        })
    }

    /// Who `token` is, as far as `peer` may make the gate ask.
    pub(super) async fn review(&self, token: &str, peer: IpAddr) -> Remembered<TokenVerdict> {
        let mut key = [0u8; 32];
        key.copy_from_slice(hmac::sign(&self.key, token.as_bytes()).as_ref());
        if let Some(known) = self.cache.get(&key) {
            self.metrics.cache_hit(CacheKind::Token);
            if known.is_due() {
                self.cache.renew(key, || self.ask(token, peer));
            }
            return known;
        }
        if !self.budget.allows(peer) {
            return Remembered {
                value: TokenVerdict::Exhausted,
                fresh_until: Instant::now(),
            };
        }
        self.metrics.cache_miss(CacheKind::Token);
        self.cache.get_or_review(key, || self.ask(token, peer)).await
    }

    /// The review itself, free of the request that wants it.
    fn ask(
        &self,
        token: &str,
        peer: IpAddr,
    ) -> impl Future<Output = ReviewOutcome<TokenVerdict>> + Send + use<> {
        let share = self.asking.take(peer);
        let (api_server, audiences, ttl) = (self.api_server.clone(), self.audiences.clone(), self.ttl);
        let (metrics, budget, token) = (self.metrics.clone(), self.budget.clone(), token.to_owned());
        async move {
            // Held to the review's end, which does not end when the client leaves.
            let Ok(_share) = share else {
                let verdict = TokenVerdict::Failed("too many token reviews are under way".into());
                return ReviewOutcome::Failed(verdict, Duration::ZERO);
            };
            let answer = api_server.review_token(&token, &audiences).await;
            metrics.review("tokenreviews", &answer);
            let outcome = judge(answer, &token, &audiences, ttl);
            if let ReviewOutcome::Refused(..) = outcome {
                budget.charge(peer, 1);
            }
            outcome
        }
    }
}

/// What an answer means, and how long it may live.
fn judge(
    answer: Result<TokenAnswer, ReviewError>,
    token: &str,
    audiences: &[String],
    ttl: Duration,
) -> ReviewOutcome<TokenVerdict> {
    match answer {
        Err(error) => ReviewOutcome::Failed(TokenVerdict::Failed(error.to_string().into()), FAILURE_LIFE),
        Ok(TokenAnswer::Rejected { error }) => {
            let detail = error.unwrap_or_else(|| "invalid bearer token".into());
            ReviewOutcome::Refused(
                TokenVerdict::Rejected(format!("token: {detail}").into()),
                REJECTED_LIFE,
            )
        }
        Ok(TokenAnswer::Authenticated {
            audiences: granted, ..
        }) if !audience_granted(audiences, &granted) => {
            let detail = format!("token: it is for other audiences than {}", audiences.join(", "));
            ReviewOutcome::Refused(TokenVerdict::Rejected(detail.into()), REJECTED_LIFE)
        }
        Ok(TokenAnswer::Authenticated { mut user, .. }) => {
            add_authenticated_group(&mut user);
            let expires = expiry(token);
            let life = match expires.map(|at| at.duration_since(SystemTime::now())) {
                None => ttl,
                Some(Ok(left)) => left.min(ttl),
                // The API server has just said it is good; its clock decides, but nothing is remembered.
                Some(Err(_)) => Duration::ZERO,
            };
            let identity = Identity::new(user, CredentialKind::Token, expires);
            ReviewOutcome::Granted(TokenVerdict::Authenticated(identity), life)
        }
    }
}

/// An answer is good for us if one of the audiences that were asked for came back. An API server that knows nothing of
/// audiences sends none back; its answer is then for its own audience, which is not one that was asked for.
fn audience_granted(asked: &[String], granted: &[String]) -> bool {
    asked.is_empty() || asked.iter().any(|audience| granted.contains(audience))
}

/// The first `Authorization` header's value; the kubelet reads no other.
pub(super) fn authorization(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(AUTHORIZATION)
}

/// The token in an `Authorization` value: scheme `bearer` in any case, one space, the token; what follows a second
/// space is ignored. Two spaces give an empty token, which is none; a tab separates nothing.
pub fn bearer(authorization: &HeaderValue) -> Option<&str> {
    let value = str::from_utf8(authorization.as_bytes()).ok()?.trim();
    let mut parts = value.splitn(3, ' ');
    let scheme = parts.next()?;
    let token = parts.next()?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The token in the `Sec-WebSocket-Protocol` headers, if one is there and not empty.
///
/// # Errors
/// Two tokens, bad encoding, or a token without another subprotocol: the kubelet answers 401 unless another credential
/// succeeds.
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

/// The `exp` of a JSON web token, unverified: it can only shorten what the API server granted.
fn expiry(token: &str) -> Option<SystemTime> {
    #[derive(serde::Deserialize)]
    struct Claims {
        exp: Option<f64>,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let seconds = serde_json::from_slice::<Claims>(&payload).ok()?.exp?;
    let since_epoch = Duration::try_from_secs_f64(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}
