//! Whose client certificates count: the CA bundle, and the judgement of a chain against it.
//!
//! Judged after the handshake and against the bundle of this moment, as the kubelet does
//! (`request/x509/x509.go`). Signatures, names and chain building are webpki's, but for the leaves that it will
//! not look at ([`super::direct`]). Beside it stands what Go's
//! verifier checks and webpki does not: the anchors' dates, usage, basic constraints and key usage, the
//! issuers' key usage, policies, and a stricter parser. Where the two differ the stricter one wins, so a
//! certificate is never believed that the kubelet would refuse.

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
use x509_parser::prelude::{X509Certificate, X509Version};

use super::bounds::{MAX_BYTES, MAX_CERTIFICATES};
use super::certificate::{self, CertificateFacts};
use super::direct;
use super::refusal::{Judged, Malformed, Refusal, unknown_issuer};
use super::revocation::{self, RevocationError, RevocationList};
use super::signature::ALGORITHMS;
use super::subject::Subject;

/// A CA bundle, and the revocation lists that go with it.
pub struct Trust {
    bundle: Vec<CertificateDer<'static>>,
    /// What webpki can use of the bundle, the longest valid first, so that of a CA and its renewal the
    /// renewal counts.
    anchors: Vec<TrustAnchor<'static>>,
    /// The certificate of the anchor at the same place, and its facts.
    known: Vec<(CertificateDer<'static>, CertificateFacts)>,
    legacy_v1: bool,
    revocation: Vec<RevocationList>,
    hints: Vec<DistinguishedName>,
    generation: u64,
}

/// A bundle that cannot be used.
#[derive(Debug, Error)]
pub enum TrustError {
    /// It is empty.
    #[error("no certificate in the CA bundle: name a PEM file with at least one CA certificate")]
    Empty,
    /// One of it cannot be parsed; the kubelet refuses the whole file, too.
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

/// Accepts clientAuth, any usage, and no usage at all, in each certificate of the chain for itself, as Go
/// does.
struct ForClients;

// === impl Trust ===

impl Trust {
    /// Takes a bundle; `generation` tells it from the ones before it.
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
            // One that webpki cannot use as an anchor still counts as a pinned leaf.
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

    /// Takes X.509 v1 leaves as well (`authentication.x509.legacyV1Certificates`).
    pub fn allow_version1(&mut self) {
        self.legacy_v1 = true;
    }

    /// Judges by this revocation list as well. With `any_signer` it may be one that the CA of its name has not signed: then
    /// nobody of that CA is believed.
    pub fn add_revocation_list(
        &mut self,
        list: &CertificateRevocationListDer<'_>,
        any_signer: bool,
    ) -> Result<(), RevocationError> {
        self.revocation
            .push(RevocationList::new(list, &self.bundle, any_signer)?);
        Ok(())
    }

    /// The subject of every CA, once each, as sent with the request for a client certificate: clients pick or
    /// withhold theirs by it.
    pub fn hints(&self) -> &[DistinguishedName] {
        &self.hints
    }

    /// When the first of the revocation lists expires: from then on nobody of its issuer is let in, unless there is a newer
    /// one.
    pub fn lists_expire(&self) -> Option<SystemTime> {
        self.revocation.iter().map(RevocationList::next_update).min()
    }

    /// Which bundle this is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The bundle as read.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.bundle
    }

    /// Judges the chain that a client sent, leaf first, whose key the handshake has proven to be the
    /// client's.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Judged, Refusal> {
        let bytes = chain.iter().map(|der| der.len()).sum();
        if chain.len() > MAX_CERTIFICATES || bytes > MAX_BYTES {
            return Err(Refusal::TooLong {
                certificates: chain.len(),
                bytes,
            });
        }
        let parsed = chain
            .iter()
            .enumerate()
            .map(|(at, der)| {
                certificate::parse(der).map_err(|reason| Refusal::Malformed {
                    number: at + 1,
                    reason,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (Some((der, intermediates)), Some(leaf)) = (chain.split_first(), parsed.first()) else {
            return Err(Refusal::Malformed {
                number: 1,
                reason: Malformed("missing"),
            });
        };
        let facts = parsed.iter().map(CertificateFacts::of).collect::<Vec<_>>();
        let valid_until = self.judge_parsed(der, intermediates, &parsed, &facts, now)?;
        Ok(Judged {
            valid_until,
            subject: Subject::of(der, leaf),
        })
    }

    /// Judges a chain that has been parsed; yields how long the verdict holds.
    fn judge_parsed(
        &self,
        der: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        parsed: &[X509Certificate<'_>],
        facts: &[CertificateFacts],
        now: SystemTime,
    ) -> Result<SystemTime, Refusal> {
        let leaf = &parsed[0];
        check_leaf(&facts[0], now)?;
        // A leaf that is itself in the bundle needs no issuer, as in Go.
        if self.bundle.iter().any(|pinned| pinned.as_ref() == der.as_ref()) {
            return revocation::check_path(&self.revocation, &[leaf], facts[0].not_after(), now);
        }
        // Those that webpki does not take for leaves.
        let unissued = match leaf.version {
            X509Version::V1 if self.legacy_v1 => unknown_issuer(leaf),
            X509Version::V1 => return Err(Refusal::Version1),
            X509Version::V2 => return Err(Refusal::Version2),
            _ if facts[0].is_ca => Refusal::CaAsClient,
            _ => return self.build_path(der, intermediates, parsed, facts, now),
        };
        let leaf = direct::Leaf {
            der,
            parsed: leaf,
            facts: &facts[0],
        };
        direct::judge(&self.known, &self.revocation, &leaf, now, unissued)
    }

    fn build_path(
        &self,
        der: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        parsed: &[X509Certificate<'_>],
        facts: &[CertificateFacts],
        now: SystemTime,
    ) -> Result<SystemTime, Refusal> {
        let leaf = &parsed[0];
        let since_epoch = now.duration_since(UNIX_EPOCH).map_err(|_| Refusal::NotYetValid)?;
        let end_entity = EndEntityCert::try_from(der).map_err(|error| Refusal::from_webpki(error, leaf))?;
        // Two parsers read the leaf: webpki what is verified, x509-parser who it is. They must have read the
        // same.
        if end_entity.subject_public_key_info().as_ref() != leaf.public_key().raw
            || !leaf.subject().as_raw().ends_with(end_entity.subject())
            || !leaf.issuer().as_raw().ends_with(end_entity.issuer())
            || end_entity.serial() != leaf.raw_serial()
        {
            return Err(Refusal::Malformed {
                number: 1,
                reason: Malformed("read differently by two parsers"),
            });
        }

        // A path that webpki verified and that is refused here is one of several: it goes on to look for
        // others.
        let refused = Cell::new(None);
        let believed = Cell::new(None);
        let check = |path: &VerifiedPath<'_>| match self.check_path(path, intermediates, parsed, facts, now) {
            Ok(valid_until) => {
                believed.set(Some(valid_until));
                Ok(())
            }
            Err(refusal) => {
                refused.set(Some(refusal));
                Err(webpki::Error::UnknownIssuer)
            }
        };
        let verified = end_entity.verify_for_usage(
            &ALGORITHMS,
            &self.anchors,
            intermediates,
            UnixTime::since_unix_epoch(since_epoch),
            ForClients,
            None,
            Some(&check),
        );
        match (verified, believed.take(), refused.take()) {
            (Ok(_), Some(valid_until), _) => Ok(valid_until),
            (Ok(_), None, _) => Err(Refusal::TooComplex),
            (Err(_), _, Some(refused)) => Err(refused),
            (Err(error), _, None) => Err(Refusal::from_webpki(error, leaf)),
        }
    }

    /// What Go asks of a path beyond webpki; yields how long the path holds.
    fn check_path(
        &self,
        path: &VerifiedPath<'_>,
        intermediates: &[CertificateDer<'_>],
        parsed: &[X509Certificate<'_>],
        facts: &[CertificateFacts],
        now: SystemTime,
    ) -> Result<SystemTime, Refusal> {
        let mut certificates = vec![&parsed[0]];
        let mut valid_until = facts[0].not_after();
        let mut requires_policy = facts[0].requires_policy;
        let (mut constrained, mut has_odd_names) = (false, facts[0].has_odd_names);
        let mut below = 0_u32;
        for certificate in path.intermediate_certificates() {
            let at = intermediates
                .iter()
                .position(|der| der.as_ref() == certificate.der().as_ref());
            let Some((at, issuer)) = at.and_then(|at| Some((at + 1, facts.get(at + 1)?))) else {
                return Err(Refusal::TooComplex);
            };
            certificates.push(&parsed[at]);
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

/// What needs no issuer; a pinned leaf is held to it as well.
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
