//! The credentials that a client presents on one connection, and the verdicts on them.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout};

use super::certificate::CertificateVerdict;
use super::identity::Identity;
use super::token::TokenReviewer;
use super::verdicts::{Chain, Generation, Verdict, Verdicts};
use crate::quota::Exhausted;
use crate::source::Source;

/// How long a request waits for a new verdict on the certificate of its connection.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The certificates that a client sent in its handshake, the verdict on them, and the last token that it
/// sent.
///
/// The chain is judged right after the handshake. A request only compares the time, and the generations
/// of the trust and the deny lists, with those of the verdict, so that expiry and a change of the CA
/// bundle or of a deny list take effect on open connections. TLS resumption is off, so nothing here
/// outlives the connection.
pub(crate) struct Presented {
    source: Source,
    certificate: Option<Arc<PresentedCertificate>>,
    token: Mutex<Option<RememberedToken>>,
}

/// The chain of a client that has proven possession of the leaf's key.
pub(super) struct PresentedCertificate {
    chain: Chain,
    source: Source,
    /// The last verdict; `None` as long as the chain was not judged.
    verdict: ArcSwapOption<Verdict>,
    /// Held while the chain is judged anew. Requests that need the same verdict wait for it.
    judging: Arc<tokio::sync::Mutex<()>>,
}

/// Why there is no verdict on a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unjudged {
    /// Too many certificates were refused just now.
    Exhausted(Exhausted),
    /// The last verdict is out of date, and the new one has taken too long.
    Late,
}

struct RememberedToken {
    /// The number of the reviewer that accepted it.
    reviewer: u64,
    authorization: HeaderValue,
    identity: Identity,
    until: Instant,
}

// === impl Presented ===

impl Presented {
    /// The chain that a client sent: leaf first, empty if it sent none. The handshake has proven that the
    /// client holds the leaf's key.
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>, peer: IpAddr) -> Self {
        let source = Source::of(peer);
        Self {
            source,
            certificate: Chain::new(chain).map(|chain| Arc::new(PresentedCertificate::new(chain, source))),
            token: Mutex::new(None),
        }
    }

    /// The source of the connection.
    pub(super) fn source(&self) -> Source {
        self.source
    }

    /// The chain that the client sent.
    pub(super) fn certificate(&self) -> Option<&Arc<PresentedCertificate>> {
        self.certificate.as_ref()
    }

    /// The identity that the same `Authorization` value had on this connection, while that answer is fresh.
    /// Only the reviewer that accepted it may have remembered it: its successor knows none of its answers.
    pub(super) fn remembered(&self, tokens: &TokenReviewer, authorization: &HeaderValue) -> Option<Identity> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        token
            .as_ref()
            .filter(|known| {
                known.reviewer == tokens.number()
                    && known.authorization == authorization
                    && Instant::now() < known.until
            })
            .map(|known| known.identity.clone())
    }

    /// Remembers the last `Authorization` value: the next request with it needs no hash of the token.
    pub(super) fn remember(
        &self,
        tokens: &TokenReviewer,
        authorization: &HeaderValue,
        identity: &Identity,
        until: Instant,
    ) {
        let mut authorization = authorization.clone();
        authorization.set_sensitive(true);
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(RememberedToken {
            reviewer: tokens.number(),
            authorization,
            identity: identity.clone(),
            until,
        });
    }
}

// === impl PresentedCertificate ===

impl PresentedCertificate {
    fn new(chain: Chain, source: Source) -> Self {
        Self {
            chain,
            source,
            verdict: ArcSwapOption::empty(),
            judging: Arc::default(),
        }
    }

    /// The last verdict, if it still counts at `now` under the trust of this generation.
    pub(super) fn standing(&self, generation: Generation, now: SystemTime) -> Option<CertificateVerdict> {
        let verdict = self.verdict.load();
        let verdict = verdict.as_ref()?;
        verdict
            .stands(generation, now)
            .then(|| verdict.certificate().clone())
    }

    /// Judges the chain on this thread.
    pub(super) fn judge(&self, verdicts: &Verdicts) -> Result<CertificateVerdict, Exhausted> {
        let previous = self.verdict.load_full();
        let verdict = verdicts.judge(&self.chain, self.source, previous, SystemTime::now())?;
        let certificate = verdict.certificate().clone();
        self.verdict.store(Some(verdict));
        Ok(certificate)
    }

    /// The verdict after the last one has ceased to count. The chain is judged once for all requests that
    /// wait for it, on a thread of its own. If this future is dropped meanwhile, the judgement goes on.
    pub(super) async fn judge_anew(
        self: &Arc<Self>,
        verdicts: &Arc<Verdicts>,
    ) -> Result<CertificateVerdict, Unjudged> {
        let judged = async {
            let judging = self.judging.clone().lock_owned().await;
            let generation = verdicts.generation().unwrap_or_default();
            if let Some(verdict) = self.standing(generation, SystemTime::now()) {
                return Ok(verdict);
            }
            let previous = self.verdict.load_full();
            let now = SystemTime::now();
            if let Err(bound) = verdicts.check_budget(&self.chain, self.source, previous.as_deref(), now) {
                // As in `Verdicts::judge`, the last refusal counts on.
                let refused = previous.map(|verdict| verdict.certificate().clone());
                return refused.ok_or(Unjudged::Exhausted(bound));
            }
            let place = verdicts.place(previous.as_deref());
            let place = place.acquire_owned().await.map_err(|_| Unjudged::Late)?;
            let (certificate, verdicts) = (self.clone(), verdicts.clone());
            let judged = tokio::task::spawn_blocking(move || {
                let judged = certificate.judge(&verdicts);
                drop((judging, place));
                judged
            });
            match judged.await {
                Ok(judged) => judged.map_err(Unjudged::Exhausted),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Err(Unjudged::Late),
                },
            }
        };
        timeout(LONGEST_WAIT, judged).await.unwrap_or(Err(Unjudged::Late))
    }
}
