//! Station 3: authentication by client certificate, bearer token, token in a WebSocket subprotocol, or as
//! anonymous, in the kubelet's order and with the kubelet's way to combine them.
//!
//! After a credential has failed, the next one may still succeed. If one has failed and none has succeeded,
//! the answer is 401, even where anonymous requests are allowed (`union.NewFailOnError` around `union.New`).

mod budget;
mod certificate;
mod identity;
mod presented;
mod token;

pub(crate) use self::certificate::user_of_certificate;
pub(crate) use self::identity::add_authenticated_group;
pub(crate) use self::identity::{CredentialKind, Identity};
pub(crate) use self::presented::Presented;
pub(crate) use self::token::TokenReviewer;
pub use self::token::{SubprotocolError, WEBSOCKET_TOKEN_PREFIX, bearer, websocket_protocol};

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use http::HeaderMap;

use self::budget::Budget;
use self::certificate::CertificateVerdict;
use self::token::TokenVerdict;
use crate::error::{RequestError, Station};
use crate::metrics::Metrics;
use crate::settings::Limits;
use crate::tls::Serving;

/// Turns what a connection and a request present into an [`Identity`].
pub(crate) struct Authenticator {
    serving: Arc<ArcSwap<Serving>>,
    tokens: Option<TokenReviewer>,
    anonymous: Option<Identity>,
    /// The budget for refused certificates, by address.
    certificates: Arc<Budget>,
    metrics: Arc<Metrics>,
}

impl Authenticator {
    /// `tokens` is `None` while `authentication.webhook.enabled` is false: tokens are then ignored.
    pub(crate) fn new(
        serving: Arc<ArcSwap<Serving>>,
        tokens: Option<TokenReviewer>,
        anonymous: bool,
        limits: &Limits,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            serving,
            tokens,
            anonymous: anonymous.then(Identity::anonymous),
            certificates: Budget::new(limits.refused_certificates_per_address),
            metrics,
        }
    }

    /// Judges the certificate of a connection right after its handshake, on this thread, which is one where
    /// handshakes run. Yields the user that it names, if it is accepted.
    pub(crate) fn judge(&self, presented: &Presented) -> Option<Identity> {
        let serving = self.serving.load();
        match presented.judge(serving.trust.as_ref()?, SystemTime::now(), &self.certificates) {
            CertificateVerdict::Authenticated(identity) => Some(identity),
            // A request of the connection is told.
            CertificateVerdict::NoUser
            | CertificateVerdict::Exhausted
            | CertificateVerdict::Refused { .. } => None,
        }
    }

    /// The user who makes a request. `websocket` says whether the request is a WebSocket upgrade, whose
    /// subprotocols may carry a token.
    ///
    /// # Errors
    /// 401 if no credential is valid, 503 if the TokenReview of a token failed, 429 if a credential was not
    /// checked because too many of this address failed.
    pub(crate) async fn authenticate(
        &self,
        presented: &Presented,
        headers: &HeaderMap,
        websocket: bool,
    ) -> Result<Identity, RequestError> {
        let mut failures = CredentialFailures::default();
        if presented.has_certificate()
            && let Some(trust) = &self.serving.load().trust
        {
            match presented.judge(trust, SystemTime::now(), &self.certificates) {
                CertificateVerdict::Authenticated(identity) => return Ok(identity),
                CertificateVerdict::NoUser => {}
                CertificateVerdict::Exhausted => failures.exhausted("certificates"),
                CertificateVerdict::Refused { reason, detail } => failures.refused(reason, &detail),
            }
        }
        if let Some(tokens) = &self.tokens {
            if let Some(header) = token::authorization(headers) {
                if let Some(identity) = presented.remembered(header) {
                    return Ok(identity);
                }
                if let Some(token) = bearer(header) {
                    // Boxed, like everything rare: the future of every request stays small.
                    let answer = Box::pin(tokens.review(token, presented.peer())).await;
                    match answer.value {
                        TokenVerdict::Authenticated(identity) => {
                            presented.remember(header, &identity, answer.fresh_until);
                            return Ok(identity);
                        }
                        verdict => failures.token(verdict),
                    }
                }
            }
            if websocket {
                match websocket_protocol(headers) {
                    Ok(None) => {}
                    Ok(Some(token)) => match tokens.review(&token, presented.peer()).await.value {
                        TokenVerdict::Authenticated(identity) => return Ok(identity),
                        verdict => failures.token(verdict),
                    },
                    Err(error) => failures.refused("malformed_token", &error.to_string()),
                }
            }
        }
        match (failures.into_error(), &self.anonymous) {
            (Some(error), _) => Err(self.count(error)),
            (None, Some(anonymous)) => Ok(anonymous.clone()),
            (None, None) => Err(self.count(RequestError::unauthorized("no_credentials", "no credentials"))),
        }
    }

    fn count(&self, error: RequestError) -> RequestError {
        self.metrics.authentication_failed(error.reason);
        error
    }
}

/// How the credentials of a request failed.
#[derive(Default)]
struct CredentialFailures {
    reason: Option<&'static str>,
    details: String,
    review_failed: bool,
    exhausted: bool,
}

impl CredentialFailures {
    fn refused(&mut self, reason: &'static str, detail: &str) {
        self.reason.get_or_insert(reason);
        if !self.details.is_empty() {
            self.details.push_str("; ");
        }
        self.details.push_str(detail);
    }

    fn token(&mut self, verdict: TokenVerdict) {
        match verdict {
            TokenVerdict::Authenticated(_) => {}
            TokenVerdict::Exhausted => self.exhausted("tokens"),
            TokenVerdict::Rejected(detail) => self.refused("invalid_token", &detail),
            TokenVerdict::Failed(detail) => {
                self.review_failed = true;
                self.refused("review_failed", &detail);
            }
        }
    }

    fn exhausted(&mut self, what: &str) {
        self.exhausted = true;
        self.refused(
            "exhausted",
            &format!("too many {what} of this address were refused just now"),
        );
    }

    /// A credential that could not be checked outweighs a refused one: the client's next attempt may succeed.
    fn into_error(self) -> Option<RequestError> {
        let reason = self.reason?;
        Some(if self.review_failed {
            RequestError::review_failed(Station::Authn, "TokenReview", self.details)
        } else if self.exhausted {
            RequestError::too_many(
                Station::Authn,
                "credentials",
                "too many credentials of this address were refused just now\n",
            )
        } else {
            RequestError::unauthorized(reason, self.details)
        })
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests;
