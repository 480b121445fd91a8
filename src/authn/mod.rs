//! Station 3: authentication by client certificate, bearer token, token in a WebSocket subprotocol, or as
//! anonymous, in the kubelet's order and with the kubelet's way to combine them.
//!
//! After a credential has failed, the next one may still succeed. If one has failed and none has succeeded,
//! the answer is 401, even where anonymous requests are allowed (`union.NewFailOnError` around `union.New`).

mod budget;
mod certificate;
mod deny_list;
mod identity;
mod jwt;
mod presented;
mod stale;
mod token;
mod verdicts;

pub(crate) use self::budget::Budget;
pub(crate) use self::certificate::user_of_certificate;
pub(crate) use self::deny_list::{Denial, DenyList, KnownApiServer};
pub use self::deny_list::{DenyFile, DenyListError};
pub(crate) use self::identity::add_authenticated_group;
pub(crate) use self::identity::{CredentialKind, Identity};
pub(crate) use self::presented::Presented;
pub(crate) use self::stale::StaleAnswers;
pub(crate) use self::token::TokenReviewer;
pub use self::token::{SubprotocolError, WEBSOCKET_TOKEN_PREFIX, bearer, websocket_protocol};
pub(crate) use self::verdicts::Verdicts;

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

use self::certificate::CertificateVerdict;
use self::presented::Unjudged;
use self::token::TokenVerdict;
use crate::attributes::{Checks, Protocol};
use crate::cache::Freshness;
use crate::error::{RequestError, Station};
use crate::metrics::Metrics;
use crate::quota::Exhausted;

/// Turns what a connection and a request present into an [`Identity`].
pub(crate) struct Authenticator {
    tokens: Option<TokenReviewer>,
    anonymous: Option<Identity>,
    verdicts: Arc<Verdicts>,
    metrics: Arc<Metrics>,
}

impl Authenticator {
    /// `tokens` is `None` while `authentication.webhook.enabled` is false: tokens are then ignored. All
    /// authenticators of the process share `verdicts`.
    pub(crate) fn new(
        verdicts: Arc<Verdicts>,
        tokens: Option<TokenReviewer>,
        anonymous: bool,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            tokens,
            anonymous: anonymous.then(Identity::anonymous),
            verdicts,
            metrics,
        }
    }

    /// Judges the certificate of a connection right after its handshake, on this thread, which is one where
    /// handshakes run. Yields the user that it names, if it is accepted.
    pub(crate) fn judge(&self, presented: &Presented) -> Option<Identity> {
        match presented.certificate()?.judge(&self.verdicts) {
            Ok(CertificateVerdict::Authenticated(identity)) => Some(identity),
            // A request of the connection is told.
            Ok(CertificateVerdict::NoUser | CertificateVerdict::Refused { .. }) | Err(_) => None,
        }
    }

    /// What a deny list says against `identity` now, if anything. Every use of an identity that was proven
    /// before asks this again.
    pub(crate) fn denies(&self, identity: &Identity) -> Option<Denial> {
        self.verdicts.denied().load().denies(identity)
    }

    /// The user who makes a request for `checks`. The subprotocols of a WebSocket upgrade may carry
    /// a token. A token is judged by a review that is fresh enough; a certificate, which needs
    /// none, by the trust in force.
    ///
    /// # Errors
    /// 401 if no credential is valid, 503 if the TokenReview of a token failed or the certificate was not
    /// judged anew in time, 429 if a credential was not checked because too many have failed.
    pub(crate) async fn authenticate(
        &self,
        presented: &Presented,
        headers: &HeaderMap,
        checks: &Checks,
        freshness: Freshness,
    ) -> Result<Identity, RequestError> {
        let mut failures = CredentialFailures::default();
        if let Some(certificate) = presented.certificate()
            && let Some(generation) = self.verdicts.generation()
        {
            let verdict = match certificate.standing(generation, SystemTime::now()) {
                Some(verdict) => Ok(verdict),
                // Boxed, like everything rare: the future of every request stays small.
                None => Box::pin(certificate.judge_anew(&self.verdicts)).await,
            };
            match verdict {
                Ok(CertificateVerdict::Authenticated(identity)) => return Ok(identity),
                Ok(CertificateVerdict::NoUser) => {}
                Ok(CertificateVerdict::Refused { reason, detail }) => failures.refused(reason, &detail),
                Err(Unjudged::Exhausted(bound)) => failures.exhausted(bound, "certificates"),
                Err(Unjudged::Late) => return Err(self.count(RequestError::judged_late())),
            }
        }
        if let Some(tokens) = &self.tokens {
            if let Some(header) = token::authorization(headers) {
                if let Freshness::Remembered = freshness
                    && let Some(identity) = presented.remembered(tokens, header)
                {
                    return Ok(identity);
                }
                if let Some(token) = bearer(header) {
                    let review = tokens.review(token, presented.source(), checks, freshness);
                    let answer = Box::pin(review).await;
                    match answer.value {
                        TokenVerdict::Authenticated(identity) => {
                            presented.remember(tokens, header, &identity, answer.fresh_until);
                            return Ok(identity);
                        }
                        verdict => failures.token(verdict),
                    }
                }
            }
            if checks.upgrade() == Some(Protocol::WebSocket) {
                match websocket_protocol(headers) {
                    Ok(None) => {}
                    Ok(Some(token)) => {
                        let review = tokens.review(&token, presented.source(), checks, freshness);
                        match review.await.value {
                            TokenVerdict::Authenticated(identity) => return Ok(identity),
                            verdict => failures.token(verdict),
                        }
                    }
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
    exhausted: Option<Exhausted>,
}

impl CredentialFailures {
    fn refused(&mut self, reason: &'static str, detail: &str) {
        // A token that was accepted before is named in any case: it may be stolen.
        if self.reason.is_none() || reason == token::REVOKED {
            self.reason = Some(reason);
        }
        if !self.details.is_empty() {
            self.details.push_str("; ");
        }
        self.details.push_str(detail);
    }

    fn token(&mut self, verdict: TokenVerdict) {
        match verdict {
            TokenVerdict::Authenticated(_) => {}
            TokenVerdict::Exhausted(bound) => self.exhausted(bound, "tokens"),
            TokenVerdict::Busy => {
                self.exhausted = Some(Exhausted::Total);
                self.refused("exhausted", "too many token reviews are under way");
            }
            TokenVerdict::Rejected { reason, detail } => self.refused(reason, &detail),
            TokenVerdict::Failed { detail, .. } => {
                self.review_failed = true;
                self.refused("review_failed", &detail);
            }
        }
    }

    fn exhausted(&mut self, bound: Exhausted, what: &str) {
        self.exhausted = Some(bound);
        let whose = match bound {
            Exhausted::Each => "of this address",
            Exhausted::Total => "of all addresses",
        };
        self.refused(
            "exhausted",
            &format!("too many {what} {whose} were refused just now"),
        );
    }

    /// A credential that could not be checked outweighs a refused one: the client's next attempt may succeed.
    fn into_error(self) -> Option<RequestError> {
        let reason = self.reason?;
        Some(match (self.review_failed, self.exhausted) {
            (true, _) => RequestError::review_failed(Station::Authn, "TokenReview", self.details),
            (false, Some(Exhausted::Each)) => RequestError::too_many(
                Station::Authn,
                "credentials",
                "too many credentials of this address were refused just now\n",
            ),
            (false, Some(Exhausted::Total)) => RequestError::too_many(
                Station::Authn,
                "credentials_total",
                "too many credentials of all addresses were refused or are being checked just now\n",
            ),
            (false, None) => RequestError::unauthorized(reason, self.details),
        })
    }
}

#[cfg(test)]
mod tests;
