//! Judging client certificates, and the verdicts that are remembered for all connections.
//!
//! Verifying a chain costs signature checks, so a verdict is remembered: an acceptance by its leaf, a
//! refusal by the whole chain. A remembered verdict counts for a connection whose client has proven
//! possession of the leaf's key in its handshake, as long as the trust and the deny lists are the same and
//! the time is within that of the verdict. Acceptances and refusals have a memory each, so that refused
//! clients do not push accepted ones out.
//!
//! An acceptance holds for the leaf together with the intermediates of its verified path. Other certificates
//! that the client sent with them are not looked at. A leaf that was accepted is never charged to the budget
//! of its source: others behind the same address cannot use it up for it.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{Context, SHA256, digest};
use quick_cache::sync::Cache;
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;

use super::budget::Budget;
use super::certificate::CertificateVerdict;
use super::deny_list::DenyList;
use crate::metrics::Metrics;
use crate::quota::Exhausted;
use crate::source::Source;
use crate::tls::{Marks, Serving, Trust};

/// Most acceptances that are remembered. A kubelet has a few dozen clients with certificates.
const ACCEPTED: usize = 4096;
/// Most refusals that are remembered.
const REFUSED: usize = 1024;

/// SHA-256 over certificates, each after its length.
type Fingerprint = [u8; 32];

/// Judges client certificates, and remembers the verdicts.
pub(crate) struct Verdicts {
    serving: Arc<ArcSwap<Serving>>,
    denied: Arc<ArcSwap<DenyList>>,
    /// The verdicts on chains that were accepted, by the leaf.
    accepted: Cache<Fingerprint, Arc<Verdict>>,
    /// The verdicts on chains that were refused, by the whole chain.
    refused: Cache<Fingerprint, Arc<Verdict>>,
    /// What each source may spend on chains whose leaf was not accepted before.
    budget: Arc<Budget>,
    /// One place each for judging an open connection anew: if its certificate was accepted before, and if it
    /// was not. Refused clients thus do not delay the others.
    places: [Arc<Semaphore>; 2],
    metrics: Arc<Metrics>,
}

/// What certificates are judged by.
struct Basis {
    trust: Arc<Trust>,
    denied: Arc<DenyList>,
}

/// The numbers of what a verdict was made by.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Generation {
    /// Of the CAs and revocation lists.
    trust: u64,
    /// Of the deny lists.
    denied: u64,
}

/// The certificates that a client sent, leaf first, and by what they are remembered.
pub(super) struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    leaf: Fingerprint,
    whole: Fingerprint,
}

/// A verdict on a chain.
#[derive(Debug)]
pub(super) struct Verdict {
    generation: Generation,
    judged_at: SystemTime,
    /// When it may become another one; `None` if only another trust or deny list can change it.
    stands_until: Option<SystemTime>,
    /// SHA-256 of each intermediate of the verified path, in order. Empty if it was refused.
    path: Vec<Fingerprint>,
    certificate: CertificateVerdict,
}

/// What a judgement found out, and what it cost.
struct Judgement {
    verdict: Verdict,
    units: u32,
}

// === impl Verdicts ===

impl Verdicts {
    /// `budget` is for refused certificates.
    pub(crate) fn new(
        serving: Arc<ArcSwap<Serving>>,
        denied: Arc<ArcSwap<DenyList>>,
        budget: Arc<Budget>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            serving,
            denied,
            accepted: Cache::new(ACCEPTED),
            refused: Cache::new(REFUSED),
            budget,
            places: [(); 2].map(|()| Arc::new(Semaphore::new(1))),
            metrics,
        }
    }

    /// What is in force; `None` if client certificates are not asked for.
    fn basis(&self) -> Option<Basis> {
        let trust = self.serving.load().trust.clone()?;
        let denied = self.denied.load_full();
        Some(Basis { trust, denied })
    }

    /// The generation of the trust and the deny lists in force; `None` if client certificates are not asked
    /// for.
    pub(super) fn generation(&self) -> Option<Generation> {
        let trust = self
            .serving
            .load()
            .trust
            .as_ref()
            .map(|trust| trust.generation())?;
        let denied = self.denied.load().generation();
        Some(Generation { trust, denied })
    }

    /// The deny lists in force.
    pub(super) fn denied(&self) -> &ArcSwap<DenyList> {
        &self.denied
    }

    /// The place in which a connection is judged anew whose last verdict was `previous`.
    pub(super) fn place(&self, previous: Option<&Verdict>) -> Arc<Semaphore> {
        self.places[usize::from(previous.is_some_and(Verdict::is_accepted))].clone()
    }

    /// The verdict on `chain` by the trust in force: remembered, or judged now. `previous` is the last one on
    /// the same connection.
    ///
    /// # Errors
    /// The budget of the source, or of all sources, is spent, and no refusal is known. A client that could
    /// turn its refusal into this one, by spending its budget, would keep its live streams.
    pub(super) fn judge(
        &self,
        chain: &Chain,
        source: Source,
        previous: Option<Arc<Verdict>>,
        now: SystemTime,
    ) -> Result<Arc<Verdict>, Exhausted> {
        let Some(basis) = self.basis() else {
            return Ok(Arc::new(Verdict::without_user(now)));
        };
        let (previous, mut refused) = match previous {
            Some(verdict) if verdict.is_accepted() => (Some(verdict), None),
            refused => (None, refused),
        };
        if let Some(known) = self.accepted.get(&chain.leaf).or(previous)
            && let Some(path) = known.path_in(chain)
        {
            if known.stands(basis.generation(), now) {
                self.metrics.certificate_judgement("remembered");
                return Ok(known);
            }
            // The client did nothing that this judgement should be charged for: the trust has changed, or the
            // time is over. If it ends with a refusal, it is the last one without a charge.
            let Judgement { verdict, .. } = self.judge_by(&basis, &path, now);
            if verdict.is_accepted() {
                return Ok(self.accept(chain, verdict));
            }
            self.accepted.remove(&chain.leaf);
            if path.len() == chain.certificates.len() {
                return Ok(self.refuse(chain, verdict));
            }
            // The other certificates of the chain may make another path. Without a budget for that this
            // refusal counts, on this connection alone.
            refused = Some(Arc::new(verdict));
        }
        if let Some(known) = self.refusal(chain, basis.generation(), now) {
            self.metrics.certificate_judgement("remembered");
            return Ok(known);
        }
        let reserved = match self.budget.reserve(source) {
            Ok(reserved) => reserved,
            Err(bound) => {
                self.count_exhausted();
                return refused.ok_or(bound);
            }
        };
        let Judgement { verdict, units } = self.judge_by(&basis, &chain.certificates, now);
        reserved.spend(units);
        Ok(if verdict.is_accepted() {
            self.accept(chain, verdict)
        } else {
            self.refuse(chain, verdict)
        })
    }

    /// Whether [`Self::judge`] is worth its place: it is not if the budget does not suffice for it.
    ///
    /// # Errors
    /// The budget of the source, or of all sources, is spent.
    pub(super) fn check_budget(
        &self,
        chain: &Chain,
        source: Source,
        previous: Option<&Verdict>,
        now: SystemTime,
    ) -> Result<(), Exhausted> {
        let is_free = previous.is_some_and(Verdict::is_accepted)
            || self.accepted.get(&chain.leaf).is_some()
            || self
                .refusal(chain, self.generation().unwrap_or_default(), now)
                .is_some();
        if is_free {
            return Ok(());
        }
        self.budget.allows(source).inspect_err(|_| self.count_exhausted())
    }

    /// The remembered refusal of `chain`, if it still counts.
    fn refusal(&self, chain: &Chain, generation: Generation, now: SystemTime) -> Option<Arc<Verdict>> {
        self.refused
            .get(&chain.whole)
            .filter(|known| known.stands(generation, now))
    }

    /// How many acceptances and refusals are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> [usize; 2] {
        [self.accepted.len(), self.refused.len()]
    }

    fn count_exhausted(&self) {
        self.metrics.certificate_judgement("exhausted");
    }

    fn judge_by(&self, basis: &Basis, chain: &[CertificateDer<'_>], now: SystemTime) -> Judgement {
        let judgement = Judgement::of(basis, chain, now);
        self.metrics
            .certificate_judgement(if judgement.verdict.is_accepted() {
                "accepted"
            } else {
                "refused"
            });
        judgement
    }

    fn accept(&self, chain: &Chain, verdict: Verdict) -> Arc<Verdict> {
        let verdict = Arc::new(verdict);
        self.accepted.insert(chain.leaf, verdict.clone());
        verdict
    }

    fn refuse(&self, chain: &Chain, verdict: Verdict) -> Arc<Verdict> {
        let verdict = Arc::new(verdict);
        self.refused.insert(chain.whole, verdict.clone());
        verdict
    }
}

// === impl Basis ===

impl Basis {
    fn generation(&self) -> Generation {
        Generation {
            trust: self.trust.generation(),
            denied: self.denied.generation(),
        }
    }
}

// === impl Chain ===

impl Chain {
    /// The chain of these certificates; `None` if there are none.
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Option<Self> {
        Some(Self {
            leaf: fingerprint(certificates.get(..1)?),
            whole: fingerprint(&certificates),
            certificates,
        })
    }
}

// === impl Verdict ===

impl Verdict {
    /// Whether it still counts at `now` under the trust of this generation. It does not if the clock was set
    /// back to before the judgement.
    pub(super) fn stands(&self, generation: Generation, now: SystemTime) -> bool {
        self.generation == generation
            && now >= self.judged_at
            && self.stands_until.is_none_or(|until| now < until)
    }

    /// The verdict on a connection whose client sent no certificate, or was not asked for one.
    fn without_user(now: SystemTime) -> Self {
        Self {
            generation: Generation::default(),
            judged_at: now,
            stands_until: None,
            path: Vec::new(),
            certificate: CertificateVerdict::NoUser,
        }
    }

    /// What it says about the client's certificate.
    pub(super) fn certificate(&self) -> &CertificateVerdict {
        &self.certificate
    }

    fn is_accepted(&self) -> bool {
        !matches!(self.certificate, CertificateVerdict::Refused { .. })
    }

    /// The leaf and the intermediates of the path, if all of these are in `chain`.
    fn path_in<'a>(&self, chain: &'a Chain) -> Option<Vec<CertificateDer<'a>>> {
        let (leaf, sent) = chain.certificates.split_first()?;
        let mut found = vec![None; self.path.len()];
        if !found.is_empty() {
            for certificate in sent {
                let fingerprint = digest(&SHA256, certificate);
                let at = self.path.iter().position(|member| member == fingerprint.as_ref());
                if let Some(at) = at {
                    found[at] = Some(certificate);
                }
            }
        }
        std::iter::once(Some(leaf))
            .chain(found)
            .map(|certificate| certificate.map(|der| CertificateDer::from(der.as_ref())))
            .collect()
    }
}

// === impl Judgement ===

impl Judgement {
    /// Judges `chain` by `basis` at `now`.
    fn of(basis: &Basis, chain: &[CertificateDer<'_>], now: SystemTime) -> Self {
        let denied = |marks: &Marks| basis.denied.denies_certificate(marks);
        let (mut judged, work) = basis.trust.judge_unless(chain, now, &denied);
        let (stands_until, path) = match &mut judged {
            Ok(judged) => (Some(judged.valid_until), std::mem::take(&mut judged.path)),
            Err(refused) => (refused.stands_until, Vec::new()),
        };
        let verdict = Verdict {
            generation: basis.generation(),
            judged_at: now,
            stands_until,
            path,
            certificate: CertificateVerdict::of(judged),
        };
        // A client of ours is judged once for all its connections, and pays a quarter for that.
        let units = match verdict.is_accepted() {
            true => work.units().div_ceil(4),
            false => work.units(),
        };
        Self { verdict, units }
    }
}

/// SHA-256 over `certificates`, each after its length: no two chains have the same input.
fn fingerprint(certificates: &[CertificateDer<'_>]) -> Fingerprint {
    let mut context = Context::new(&SHA256);
    for certificate in certificates {
        context.update(&certificate.len().to_be_bytes());
        context.update(certificate);
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}
