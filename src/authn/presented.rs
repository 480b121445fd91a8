//! What one connection presents, and what was already found out about it.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;

use super::budget::Budget;
use super::certificate::CertificateVerdict;
use super::identity::Identity;
use crate::tls::MAX_CERTIFICATES;
use crate::tls::Trust;

/// A refused certificate is judged anew after this long: it may have become valid.
const REFUSAL_LIFE: Duration = Duration::from_secs(1);

/// The certificates a client showed in its handshake, with the judgement on them, and the last token it sent.
///
/// The judgement is made once per connection and kept with what it rests on: the trust's generation and a time. Two
/// comparisons per request say whether it still stands, so that expiry and a changed CA bundle bite on connections that
/// are already open. Nothing here is carried over by TLS resumption, which is off.
pub struct Presented {
    peer: IpAddr,
    chain: Vec<CertificateDer<'static>>,
    judgement: Mutex<Option<Judgement>>,
    token: Mutex<Option<RememberedToken>>,
}

struct Judgement {
    generation: u64,
    stands: SystemTime,
    verdict: CertificateVerdict,
}

struct RememberedToken {
    authorization: HeaderValue,
    identity: Identity,
    until: Instant,
}

impl Presented {
    /// What the client of a connection showed: leaf first, empty if nothing.
    pub fn new(chain: Vec<CertificateDer<'static>>, peer: IpAddr) -> Self {
        Self {
            peer: peer.to_canonical(),
            chain,
            judgement: Mutex::new(None),
            token: Mutex::new(None),
        }
    }

    /// Where the client is.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Whether a certificate was shown.
    pub fn has_certificate(&self) -> bool {
        !self.chain.is_empty()
    }

    /// The verdict on the certificate under `trust` at `now`; remembered while it stands. A refusal is charged to
    /// `budget` by the number of certificates that had to be looked at.
    pub(super) fn judge(&self, trust: &Trust, now: SystemTime, budget: &Budget) -> CertificateVerdict {
        if self.chain.is_empty() {
            return CertificateVerdict::NoUser;
        }
        let mut judgement = self.judgement.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = judgement.as_ref()
            && known.generation == trust.generation()
            && now < known.stands
        {
            return known.verdict.clone();
        }
        if !budget.allows(self.peer) {
            return CertificateVerdict::Exhausted;
        }
        let judged = trust.judge(&self.chain, now);
        if judged.is_err() {
            // A longer chain is refused unread, and the number of its entries is the client's to choose.
            let looked_at = if self.chain.len() > MAX_CERTIFICATES {
                1
            } else {
                self.chain.len()
            };
            budget.charge(self.peer, looked_at);
        }
        let stands = judged
            .as_ref()
            .map_or(now + REFUSAL_LIFE, |judged| judged.valid_until);
        let verdict = CertificateVerdict::of(judged);
        *judgement = Some(Judgement {
            generation: trust.generation(),
            stands,
            verdict: verdict.clone(),
        });
        verdict
    }

    /// Who the same `Authorization` value was on this connection a moment ago, while that answer still lives.
    pub(super) fn remembered(&self, authorization: &HeaderValue) -> Option<Identity> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        token
            .as_ref()
            .filter(|known| known.authorization == authorization && Instant::now() < known.until)
            .map(|known| known.identity.clone())
    }

    /// Remembers the last `Authorization` value, so that the next request with it costs no hash.
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
