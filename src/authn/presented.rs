//! The credentials that a client presents on one connection, and the verdicts on them.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;

use super::budget::Budget;
use super::certificate::CertificateVerdict;
use super::identity::Identity;
use crate::tls::Trust;

/// A refused certificate is judged again after this time: it may have become valid.
const REFUSAL_LIFE: Duration = Duration::from_secs(1);

/// The certificates that a client sent in its handshake, the judgement on them, and the last token that it
/// sent.
///
/// The chain is parsed and judged once per connection. The judgement is kept with the generation of the trust
/// and the time until which it holds. Two comparisons per request show whether it still holds, so that expiry
/// and a change of the CA bundle take effect on open connections; then the chain is judged again. TLS
/// resumption is off, so nothing here outlives the connection.
pub(crate) struct Presented {
    peer: IpAddr,
    chain: Vec<CertificateDer<'static>>,
    judgement: Mutex<Option<Judgement>>,
    token: Mutex<Option<RememberedToken>>,
}

struct Judgement {
    generation: u64,
    holds_until: SystemTime,
    verdict: CertificateVerdict,
}

struct RememberedToken {
    authorization: HeaderValue,
    identity: Identity,
    until: Instant,
}

impl Presented {
    /// The chain that a client sent: leaf first, empty if it sent none.
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>, peer: IpAddr) -> Self {
        Self {
            peer: peer.to_canonical(),
            chain,
            judgement: Mutex::new(None),
            token: Mutex::new(None),
        }
    }

    /// The client's address.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Whether the client sent a certificate.
    pub(crate) fn has_certificate(&self) -> bool {
        !self.chain.is_empty()
    }

    /// The verdict on the certificate under `trust` at `now`, remembered while it holds. A refusal charges
    /// `budget` with the work that it cost.
    pub(super) fn judge(&self, trust: &Trust, now: SystemTime, budget: &Budget) -> CertificateVerdict {
        if self.chain.is_empty() {
            return CertificateVerdict::NoUser;
        }
        let mut judgement = self.judgement.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = judgement.as_ref()
            && known.generation == trust.generation()
            && now < known.holds_until
        {
            return known.verdict.clone();
        }
        if !budget.allows(self.peer) {
            return CertificateVerdict::Exhausted;
        }
        let (judged, work) = trust.judge(&self.chain, now);
        if judged.is_err() {
            budget.charge(self.peer, work.units() as usize);
        }
        let holds_until = judged
            .as_ref()
            .map_or(now + REFUSAL_LIFE, |judged| judged.valid_until);
        let verdict = CertificateVerdict::of(judged);
        *judgement = Some(Judgement {
            generation: trust.generation(),
            holds_until,
            verdict: verdict.clone(),
        });
        verdict
    }

    /// The identity that the same `Authorization` value had on this connection, while that answer is fresh.
    pub(super) fn remembered(&self, authorization: &HeaderValue) -> Option<Identity> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        token
            .as_ref()
            .filter(|known| known.authorization == authorization && Instant::now() < known.until)
            .map(|known| known.identity.clone())
    }

    /// Remembers the last `Authorization` value: the next request with it needs no hash of the token.
    pub(super) fn remember(&self, authorization: &HeaderValue, identity: &Identity, until: Instant) {
        let mut authorization = authorization.clone();
        authorization.set_sensitive(true);
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(RememberedToken {
            authorization,
            identity: identity.clone(),
            until,
        });
    }
}
