//! The trust in client certificates: the CA bundle, and the judgement of a chain against it.
//!
//! A chain is judged after the handshake, against the bundle of that time, as the kubelet does
//! (`request/x509/x509.go`). webpki verifies signatures and names and builds the path, except for the leaves
//! that it does not accept ([`super::direct`]). The gate adds what Go's verifier checks and webpki does not:
//! the anchors' dates, usage, basic constraints and key usage, the issuers' key usage, policies, and a
//! stricter parser. Where the two differ, the stricter one wins. A certificate that the kubelet would refuse
//! is never accepted.

use std::cell::Cell;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::DistinguishedName;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use thiserror::Error;
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage, VerifiedPath,
    anchor_from_trusted_cert,
};
use x509_parser::prelude::X509Version;

use super::bounds::{MAX_BYTES, MAX_CERTIFICATES};
use super::certificate::{self, CertificateFacts, ChainCertificate};
use super::direct;
use super::refusal::{Judged, Malformed, Refusal, unknown_issuer};
use super::revocation::{self, RevocationError, RevocationList};
use super::signature::ALGORITHMS;
use super::subject::Subject;

/// A CA bundle, and the revocation lists that go with it.
pub struct Trust {
    bundle: Vec<CertificateDer<'static>>,
    /// The anchors that webpki can use, the longest valid first: of a CA and its renewal, the renewal is
    /// used.
    anchors: Vec<TrustAnchor<'static>>,
    /// The certificate of each anchor, in the same order, and its facts.
    known: Vec<(CertificateDer<'static>, CertificateFacts)>,
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

/// Accepts clientAuth, any usage, or no usage at all. As in Go, each certificate of the chain is checked by
/// itself.
struct ForClients;

// === impl Trust ===

impl Trust {
    /// Takes a bundle. `generation` tells it from earlier ones.
    pub fn new(bundle: Vec<CertificateDer<'static>>, generation: u64) -> Result<Self, TrustError> {
        if bundle.is_empty() {
            return Err(TrustError::Empty);
        }
        let mut usable = Vec::new();
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
            if let Ok(anchor) = anchor_from_trusted_cert(der) {
                usable.push(((der.clone(), CertificateFacts::of(&parsed)), anchor.to_owned()));
            }
        }
        usable.sort_by_key(|((_, facts), _)| std::cmp::Reverse(facts.not_after()));
        let (known, anchors) = usable.into_iter().unzip();
        Ok(Self {
            bundle,
            anchors,
            known,
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

    /// The number of this bundle.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The certificates of the bundle.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.bundle
    }

    /// Judges the chain that a client sent, leaf first. The handshake has proven that the client holds the
    /// leaf's key.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Judged, Refusal> {
        let bytes = chain.iter().map(|der| der.len()).sum();
        if chain.len() > MAX_CERTIFICATES || bytes > MAX_BYTES {
            return Err(Refusal::TooLong {
                certificates: chain.len(),
                bytes,
            });
        }
        let malformed = |number, reason| Refusal::Malformed { number, reason };
        let chain = chain
            .iter()
            .enumerate()
            .map(|(at, der)| ChainCertificate::read(der).map_err(|reason| malformed(at + 1, reason)))
            .collect::<Result<Vec<_>, _>>()?;
        let (leaf, intermediates) = chain
            .split_first()
            .ok_or_else(|| malformed(1, Malformed("missing")))?;
        let valid_until = self.judge_parsed(leaf, intermediates, now)?;
        Ok(Judged {
            valid_until,
            subject: Subject::of(leaf.der, &leaf.parsed),
        })
    }

    /// Judges a chain that has been parsed; yields how long the verdict holds.
    fn judge_parsed(
        &self,
        leaf: &ChainCertificate<'_>,
        intermediates: &[ChainCertificate<'_>],
        now: SystemTime,
    ) -> Result<SystemTime, Refusal> {
        check_leaf(&leaf.facts, now)?;
        // A leaf that is in the bundle itself needs no issuer, as in Go.
        if self.bundle.contains(leaf.der) {
            let until = leaf.facts.not_after();
            return revocation::check_path(&self.revocation, &[&leaf.parsed], until, now);
        }
        // Leaves that webpki does not accept.
        let unissued = match leaf.parsed.version {
            X509Version::V1 if self.legacy_v1 => unknown_issuer(&leaf.parsed),
            X509Version::V1 => return Err(Refusal::Version1),
            X509Version::V2 => return Err(Refusal::Version2),
            _ if leaf.facts.is_ca => Refusal::CaAsClient,
            _ => return self.build_path(leaf, intermediates, now),
        };
        direct::judge(&self.known, &self.revocation, leaf, now, unissued)
    }

    fn build_path(
        &self,
        leaf: &ChainCertificate<'_>,
        intermediates: &[ChainCertificate<'_>],
        now: SystemTime,
    ) -> Result<SystemTime, Refusal> {
        let parsed = &leaf.parsed;
        let since_epoch = now.duration_since(UNIX_EPOCH).map_err(|_| Refusal::NotYetValid)?;
        let end_entity =
            EndEntityCert::try_from(leaf.der).map_err(|error| Refusal::from_webpki(error, parsed))?;
        // Two parsers read the leaf: webpki to verify it, x509-parser to find the user. They must agree.
        if end_entity.subject_public_key_info().as_ref() != parsed.public_key().raw
            || !parsed.subject().as_raw().ends_with(end_entity.subject())
            || !parsed.issuer().as_raw().ends_with(end_entity.issuer())
            || end_entity.serial() != parsed.raw_serial()
        {
            return Err(Refusal::Malformed {
                number: 1,
                reason: Malformed("read differently by two parsers"),
            });
        }

        // webpki may find several paths. If one is refused here, it goes on to the next.
        let refused = Cell::new(None);
        let accepted = Cell::new(None);
        let check = |path: &VerifiedPath<'_>| match self.check_path(path, leaf, intermediates, now) {
            Ok(valid_until) => {
                accepted.set(Some(valid_until));
                Ok(())
            }
            Err(refusal) => {
                refused.set(Some(refusal));
                Err(webpki::Error::UnknownIssuer)
            }
        };
        let ders: Vec<_> = intermediates
            .iter()
            .map(|issuer| CertificateDer::from(issuer.der.as_ref()))
            .collect();
        let verified = end_entity.verify_for_usage(
            &ALGORITHMS,
            &self.anchors,
            &ders,
            UnixTime::since_unix_epoch(since_epoch),
            ForClients,
            None,
            Some(&check),
        );
        match (verified, accepted.take(), refused.take()) {
            (Ok(_), Some(valid_until), _) => Ok(valid_until),
            (Ok(_), None, _) => Err(Refusal::TooComplex),
            (Err(_), _, Some(refused)) => Err(refused),
            (Err(error), _, None) => Err(Refusal::from_webpki(error, parsed)),
        }
    }

    /// The checks of a path that Go makes and webpki does not; yields how long the path is valid.
    fn check_path(
        &self,
        path: &VerifiedPath<'_>,
        leaf: &ChainCertificate<'_>,
        intermediates: &[ChainCertificate<'_>],
        now: SystemTime,
    ) -> Result<SystemTime, Refusal> {
        let mut certificates = vec![&leaf.parsed];
        let mut valid_until = leaf.facts.not_after();
        let mut requires_policy = leaf.facts.requires_policy;
        let (mut constrained, mut has_odd_names) = (false, leaf.facts.has_odd_names);
        let mut below = 0_u32;
        for certificate in path.intermediate_certificates() {
            let der = certificate.der();
            let issuer = intermediates.iter().find(|issuer| **issuer.der == *der);
            let Some(ChainCertificate {
                parsed,
                facts: issuer,
                ..
            }) = issuer
            else {
                return Err(Refusal::TooComplex);
            };
            certificates.push(parsed);
            if !issuer.may_issue {
                return Err(Refusal::BadIssuer {
                    reason: "its key usage lacks keyCertSign",
                });
            }
            if issuer.unhandled_critical {
                return Err(Refusal::Unsupported {
                    reason: "a critical extension".to_owned(),
                });
            }
            if issuer.has_ended(now) {
                return Err(Refusal::Expired);
            }
            requires_policy |= issuer.requires_policy;
            constrained |= issuer.constrains_names;
            has_odd_names |= issuer.has_odd_names;
            valid_until = valid_until.min(issuer.not_after());
            below += 1;
        }
        if requires_policy {
            return Err(Refusal::Unsupported {
                reason: "policy constraints".to_owned(),
            });
        }

        let anchor = self
            .anchors
            .iter()
            .position(|anchor| std::ptr::eq(anchor, path.anchor()));
        let Some((der, anchor)) = anchor.and_then(|at| self.known.get(at)) else {
            return Err(Refusal::TooComplex);
        };
        anchor.check_as_anchor(below, now)?;
        if (constrained || anchor.constrains_names) && has_odd_names {
            return Err(Refusal::NameConstraints);
        }
        let anchor_parsed = certificate::parse(der).map_err(|_| Refusal::TooComplex)?;
        certificates.push(&anchor_parsed);
        let valid_until = valid_until.min(anchor.not_after());
        revocation::check_path(&self.revocation, &certificates, valid_until, now)
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

// === impl ForClients ===

impl ExtendedKeyUsageValidator for ForClients {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        const ANY_USAGE: &[usize] = &[2, 5, 29, 37, 0];
        let mut present = false;
        for usage in usages {
            let usage = usage?.to_decoded_oid();
            if usage == KeyUsage::CLIENT_AUTH_REPR || usage == ANY_USAGE {
                return Ok(());
            }
            present = true;
        }
        if present {
            Err(webpki::Error::EmptyEkuExtension)
        } else {
            Ok(())
        }
    }
}
