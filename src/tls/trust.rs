//! The trust in client certificates: the CA bundle, and the judgement of a chain against it.
//!
//! A chain is judged after the handshake, against the bundle of that time, as the kubelet does
//! (`request/x509/x509.go`). webpki verifies each path that is found ([`super::search`]), except for the
//! leaves that it does not accept ([`super::direct`]). The gate adds what Go's verifier checks and webpki
//! does not: the anchors' dates, usage, basic constraints and key usage, the issuers' key usage, policies,
//! and a stricter parser. Where the two differ, the stricter one wins. A certificate that the kubelet would
//! refuse is never accepted.

use std::cmp::Reverse;
use std::fmt;
use std::time::SystemTime;

use rustls::DistinguishedName;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use thiserror::Error;
use x509_parser::prelude::X509Version;

use super::anchor::{Anchor, Anchors};
use super::bounds::{MAX_BYTES, MAX_CERTIFICATES};
use super::certificate::{self, CertificateFacts, ChainCertificate};
use super::denials::DeniedBy;
use super::frame::key_of;
use super::refusal::{Judged, Malformed, Refusal, Refused, unknown_issuer};
use super::revocation::{Revocable, RevocationError, RevocationList};
use super::search::{Path, Search};
use super::signature::{Signatures, effort_of};
use super::subject::{Subject, fingerprint};
use super::work::Work;

/// A CA bundle, and the revocation lists that go with it.
pub struct Trust {
    bundle: Vec<CertificateDer<'static>>,
    anchors: Anchors,
    legacy_v1: bool,
    revocation: Vec<RevocationList>,
    hints: Vec<DistinguishedName>,
    generation: u64,
}

/// Why a bundle cannot be used.
#[derive(Debug, Error)]
pub enum TrustError {
    /// It is empty.
    #[error("no certificate in the CA bundle: name a PEM file with at least one CA certificate")]
    Empty,
    /// A certificate cannot be parsed. The kubelet refuses the whole file, too.
    #[error(
        "certificate {number} of the CA bundle is unusable ({reason}): remove it, or have it issued anew"
    )]
    Malformed {
        /// Its number in the file, from 1.
        number: usize,
        /// What is wrong.
        reason: Malformed,
    },
}

/// When a chain is judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// In the handshake, with `clientCertificates: Require`: only leaves with a path that webpki verifies get
    /// through, and the revocation lists are left for later.
    Handshake,
    /// For the requests of a connection.
    Request,
}

// === impl Trust ===

impl Trust {
    /// Takes a bundle. `generation` tells it from earlier ones.
    pub fn new(bundle: Vec<CertificateDer<'static>>, generation: u64) -> Result<Self, TrustError> {
        if bundle.is_empty() {
            return Err(TrustError::Empty);
        }
        let mut anchors = Anchors::default();
        let mut hints = Vec::<DistinguishedName>::new();
        for (at, der) in bundle.iter().enumerate() {
            let parsed = certificate::parse(der).map_err(|reason| TrustError::Malformed {
                number: at + 1,
                reason,
            })?;
            let subject = parsed.subject().as_raw();
            if !hints.iter().any(|hint| hint.as_ref() == subject) {
                hints.push(subject.to_vec().into());
            }
            // A certificate that webpki cannot use as an anchor is still accepted as a leaf.
            if let Some(anchor) = Anchor::of(der, &parsed) {
                anchors.add(anchor);
            }
        }
        Ok(Self {
            bundle,
            anchors,
            legacy_v1: false,
            revocation: Vec::new(),
            hints,
            generation,
        })
    }

    /// Accepts X.509 v1 leaves as well (`authentication.x509.legacyV1Certificates`).
    pub fn allow_version1(&mut self) {
        self.legacy_v1 = true;
    }

    /// Adds a revocation list. With `any_signer` it is accepted even if the CA of its name has not signed it;
    /// then no certificate of that CA is accepted.
    pub fn add_revocation_list(
        &mut self,
        list: &CertificateRevocationListDer<'_>,
        any_signer: bool,
    ) -> Result<(), RevocationError> {
        self.revocation
            .push(RevocationList::new(list, &self.bundle, any_signer)?);
        Ok(())
    }

    /// The subject of every CA, once each. The request for a client certificate carries them, and clients
    /// choose their certificate by them.
    pub(crate) fn hints(&self) -> &[DistinguishedName] {
        &self.hints
    }

    /// When the first of the revocation lists expires. From then on certificates of its issuer are refused,
    /// unless there is a newer list.
    pub(crate) fn lists_expire(&self) -> Option<SystemTime> {
        self.revocation.iter().map(RevocationList::next_update).min()
    }

    /// The issuers of the lists that `before` has and for which this trust has none that is as new, though it
    /// may still accept what they have issued: only a list of a CA that has left the bundle is not missed.
    /// Each of several lists of one CA needs a successor of its own.
    pub(super) fn lost_lists(&self, before: &Self) -> Vec<String> {
        let has_left = |list: &&RevocationList| before.has_issuer(list) && !self.has_issuer(list);
        let mut needed: Vec<_> = before.revocation.iter().filter(|list| !has_left(list)).collect();
        // The newest first: the fewest can replace it.
        needed.sort_by_key(|list| Reverse(list.this_update()));
        let mut successors = Vec::<(usize, &RevocationList)>::new();
        let mut lost = Vec::new();
        for list in needed {
            let is_free = |at: usize| {
                let mut others = successors.iter().filter(|(taken, _)| *taken == at);
                others.all(|(_, other)| !other.is_beside(list))
            };
            let mut found = self.revocation.iter().enumerate();
            match found.find(|(at, other)| other.replaces(list) && is_free(*at)) {
                Some((at, _)) => successors.push((at, list)),
                None => lost.push(list.issuer_text()),
            }
        }
        lost.dedup();
        lost
    }

    /// Whether a CA of the bundle has the name of the list's issuer.
    fn has_issuer(&self, list: &RevocationList) -> bool {
        self.hints.iter().any(|hint| hint.as_ref() == list.issuer())
    }

    /// The certificates of the bundle.
    pub(super) fn bundle(&self) -> &[CertificateDer<'static>] {
        &self.bundle
    }

    /// The number of this bundle.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a CA of the bundle can end a path.
    pub(super) fn has_anchors(&self) -> bool {
        self.anchors.len() > 0
    }

    /// Judges the chain that a client sent, leaf first, and says what that cost. The handshake has proven
    /// that the client holds the leaf's key, which is part of the work.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> (Result<Judged, Refused>, Work) {
        self.judge_unless(chain, now, &|_| None)
    }

    /// As [`Self::judge`]. A path with a certificate that is `denied` does not hold; if the chain offers
    /// another one without it, that one counts.
    pub(crate) fn judge_unless(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
        denied: &DeniedBy<'_>,
    ) -> (Result<Judged, Refused>, Work) {
        self.judge_at(Stage::Request, chain, now, denied)
    }

    /// Judges a chain in the handshake, where [`ClientCertificates::Require`] refuses some that are accepted
    /// otherwise.
    ///
    /// [`ClientCertificates::Require`]: super::ClientCertificates::Require
    pub(super) fn judge_in_handshake(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Judged, Refused> {
        self.judge_at(Stage::Handshake, chain, now, &|_| None).0
    }

    fn judge_at(
        &self,
        stage: Stage,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
        denied: &DeniedBy<'_>,
    ) -> (Result<Judged, Refused>, Work) {
        let mut work = Work::default();
        let key = chain.first().and_then(|leaf| key_of(leaf));
        work.effort += key.map_or(0, effort_of);
        let mut begins = None;
        let judged = self.read_and_judge(stage, chain, now, denied, &mut begins, &mut work);
        let judged = judged.map_err(|refusal| {
            let begins = begins.into_iter().chain(
                self.anchors
                    .iter()
                    .filter_map(|anchor| anchor.facts.begins_after(now)),
            );
            Refused {
                stands_until: begins.min().filter(|_| refusal.may_pass()),
                refusal,
            }
        });
        (judged, work)
    }

    /// `begins` becomes the first `notBefore` in the chain that is yet to come.
    fn read_and_judge(
        &self,
        stage: Stage,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
        denied: &DeniedBy<'_>,
        begins: &mut Option<SystemTime>,
        work: &mut Work,
    ) -> Result<Judged, Refusal> {
        let bytes = chain.iter().map(|der| der.len()).sum();
        if chain.len() > MAX_CERTIFICATES || bytes > MAX_BYTES {
            return Err(Refusal::TooLong {
                certificates: chain.len(),
                bytes,
            });
        }
        let chain = chain
            .iter()
            .enumerate()
            .map(|(at, der)| ChainCertificate::read(at + 1, der, work))
            .collect::<Result<Vec<_>, _>>()?;
        *begins = chain
            .iter()
            .filter_map(|certificate| certificate.facts.begins_after(now))
            .min();
        let leaf = chain.first().ok_or(Refusal::Malformed {
            number: 1,
            reason: Malformed("missing"),
        })?;
        check_leaf(&leaf.facts, now)?;

        let lists = match stage {
            Stage::Handshake => &[],
            Stage::Request => &self.revocation[..],
        };
        let revocable: Vec<_> = match lists {
            [] => Vec::new(),
            _ => chain
                .iter()
                .map(|certificate| Revocable::of(&certificate.parsed))
                .collect(),
        };
        let mut search = Search {
            anchors: &self.anchors,
            lists,
            denied,
            chain: &chain,
            revocable: &revocable,
            now,
            spent: work.effort,
            signatures: Signatures::default(),
            paths: 0,
        };
        let path = self.choose(stage, &mut search);
        search.note(work);
        let path = path?;
        let intermediates = path.intermediates.iter().map(|at| fingerprint(chain[*at].der));
        Ok(Judged {
            judged_at: now,
            valid_until: path.valid_until,
            subject: Subject::of(leaf.der, &leaf.parsed),
            path: intermediates.collect(),
            marks: path.marks,
        })
    }

    /// Judges the leaf in the way that its kind needs.
    fn choose(&self, stage: Stage, search: &mut Search<'_>) -> Result<Path, Refusal> {
        let leaf = &search.chain[0];
        let is_request = stage == Stage::Request;
        // A leaf that is in the bundle itself needs no issuer, as in Go.
        if is_request && self.bundle.contains(leaf.der) {
            return search.pinned();
        }
        match leaf.parsed.version {
            X509Version::V1 if is_request && self.legacy_v1 => search.direct(unknown_issuer(&leaf.parsed)),
            X509Version::V1 => Err(Refusal::Version1),
            X509Version::V2 => Err(Refusal::Version2),
            _ if is_request && leaf.facts.is_ca => search.direct(Refusal::CaAsClient),
            _ => search.built(),
        }
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Trust")
            .field("certificates", &self.bundle.len())
            .field("anchors", &self.anchors.len())
            .field("revocation", &self.revocation.len())
            .field("generation", &self.generation)
            .finish()
    }
}

/// The checks of a leaf that need no issuer. A leaf in the bundle must pass them as well.
fn check_leaf(leaf: &CertificateFacts, now: SystemTime) -> Result<(), Refusal> {
    if leaf.unhandled_critical {
        return Err(Refusal::Unsupported {
            reason: "a critical extension".to_owned(),
        });
    }
    if !leaf.has_begun(now) {
        return Err(Refusal::NotYetValid);
    }
    if leaf.has_ended(now) {
        return Err(Refusal::Expired);
    }
    if !leaf.for_clients {
        return Err(Refusal::BadUsage);
    }
    Ok(())
}
