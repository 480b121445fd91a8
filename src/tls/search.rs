//! The search for a path that holds, from a leaf to a CA of the bundle, within bounds on the work.
//!
//! Candidates come from names ([`Candidates`]). On each, the signatures are verified first, and from the top:
//! only what a CA of the bundle has signed leads on, so a stranger's certificates cost one signature a path.
//! A path with good signatures is given to webpki by itself.

use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage, VerifiedPath};

use super::anchor::{Anchor, Anchors};
use super::bounds::{MAX_EFFORT, MAX_NAME_COMPARISONS, MAX_PATHS};
use super::certificate::ChainCertificate;
use super::denials::DeniedBy;
use super::direct;
use super::marks::Marks;
use super::paths::Candidates;
use super::refusal::{Malformed, Refusal, unknown_issuer};
use super::revocation::{self, Revocable, RevocationList};
use super::signature::Signatures;
use super::work::Work;

/// What a path is searched in.
pub(super) struct Search<'a> {
    pub(super) anchors: &'a Anchors,
    pub(super) lists: &'a [RevocationList],
    /// Where a certificate is denied, if it is.
    pub(super) denied: &'a DeniedBy<'a>,
    /// The chain as sent, leaf first.
    pub(super) chain: &'a [ChainCertificate<'a>],
    /// The same for the lists; empty if there are none.
    pub(super) revocable: &'a [Revocable],
    pub(super) now: SystemTime,
    /// The effort of reading the chain and of the handshake's signature.
    pub(super) spent: u64,
    pub(super) signatures: Signatures<'a>,
    /// How many paths webpki was given.
    pub(super) paths: u32,
}

/// A path that holds.
pub(super) struct Path {
    /// The intermediates by their numbers in the chain, from the leaf's issuer up.
    pub(super) intermediates: Vec<usize>,
    pub(super) valid_until: SystemTime,
    /// Of each certificate, from the leaf to the anchor.
    pub(super) marks: Vec<Marks>,
}

/// Accepts clientAuth, any usage, or no usage at all. As in Go, each certificate of the chain is checked by
/// itself.
struct ForClients;

impl<'a> Search<'a> {
    /// Notes in `work` what the search cost.
    pub(super) fn note(&self, work: &mut Work) {
        work.paths += self.paths;
        work.signatures += self.signatures.count();
        work.effort += self.signatures.effort();
    }

    /// Judges a leaf that is in the bundle itself and needs no issuer.
    pub(super) fn pinned(&mut self) -> Result<Path, Refusal> {
        let until = self.chain[0].facts.not_after();
        self.unrevoked(Vec::new(), None, until)
    }

    /// Judges a leaf that webpki does not accept. `unissued` is the refusal if no CA of the bundle has its
    /// issuer's name.
    pub(super) fn direct(&mut self, unissued: Refusal) -> Result<Path, Refusal> {
        let leaf = &self.chain[0];
        let mut refused = unissued;
        for anchor in self.anchors.named(leaf.issuer(), leaf.key_ids.issuer) {
            // As in Go, no CA issues a certificate for its own key.
            if anchor.key == leaf.key() {
                continue;
            }
            if self.signatures.count() > 0 && self.is_exhausted() {
                return Err(Refusal::TooComplex);
            }
            let judged = direct::judge(anchor, leaf, self.now, &mut self.signatures)
                .and_then(|until| self.unrevoked(Vec::new(), Some(anchor), until));
            match judged {
                Ok(path) => return Ok(path),
                Err(refusal) => refused = refusal,
            }
        }
        Err(refused)
    }

    /// Judges any other leaf, by the paths that its chain offers.
    pub(super) fn built(&mut self) -> Result<Path, Refusal> {
        let leaf = &self.chain[0];
        let end_entity =
            EndEntityCert::try_from(leaf.der).map_err(|error| Refusal::from_webpki(error, &leaf.parsed))?;
        check_agreement(&end_entity, leaf)?;

        let candidates = Candidates::find(self.chain, |name| self.anchors.has(name));
        let mut refused = None;
        for path in &candidates.paths {
            let top = path.last().map_or(leaf, |at| &self.chain[*at]);
            for anchor in self.anchors.named(top.issuer(), top.key_ids.issuer) {
                if refused.is_some() && self.is_exhausted() {
                    return Err(Refusal::TooComplex);
                }
                match self.check_path(&end_entity, path, anchor) {
                    Ok(valid_until) => match self.unrevoked(path.clone(), Some(anchor), valid_until) {
                        Ok(path) => return Ok(path),
                        Err(refusal) => refused = Some(refusal),
                    },
                    // A bad signature may only mean that another CA of the same name is meant.
                    Err(Refusal::BadSignature) if refused.is_some() => {}
                    Err(refusal) => refused = Some(refusal),
                }
            }
        }
        if candidates.is_cut {
            return Err(Refusal::TooComplex);
        }
        Err(refused.unwrap_or_else(|| unknown_issuer(&leaf.parsed)))
    }

    /// Whether nothing more is tried once something has failed. What a CA of the bundle has signed is
    /// verified whatever its keys cost.
    fn is_exhausted(&self) -> bool {
        self.spent + self.signatures.effort() >= MAX_EFFORT || self.paths as usize >= MAX_PATHS
    }

    /// Checks one path to one anchor; yields how long it is valid without the lists.
    fn check_path(
        &mut self,
        end_entity: &EndEntityCert<'_>,
        path: &[usize],
        anchor: &'a Anchor,
    ) -> Result<SystemTime, Refusal> {
        let leaf = &self.chain[0];
        let issuers: Vec<&'a ChainCertificate<'a>> = path.iter().map(|at| &self.chain[*at]).collect();
        let mut key = &anchor.key[..];
        for certificate in issuers.iter().copied().rev().chain([leaf]) {
            self.signatures.check(certificate.signed, key)?;
            key = certificate.key();
        }
        anchor.facts.check_as_anchor(issuers.len() as u32, self.now)?;
        check_name_comparisons(&issuers, leaf, anchor)?;
        self.verify(end_entity, &issuers, anchor)?;
        self.check_facts(&issuers, anchor)
    }

    /// Has webpki verify this path and no other.
    fn verify(
        &mut self,
        end_entity: &EndEntityCert<'_>,
        issuers: &[&ChainCertificate<'_>],
        anchor: &Anchor,
    ) -> Result<(), Refusal> {
        self.paths += 1;
        let since_epoch = self
            .now
            .duration_since(UNIX_EPOCH)
            .map_err(|_| Refusal::NotYetValid)?;
        let ders: Vec<_> = issuers
            .iter()
            .map(|issuer| CertificateDer::from(&issuer.der[..]))
            .collect();
        let is_this_path = |verified: &VerifiedPath<'_>| {
            let verified = verified.intermediate_certificates().map(webpki::Cert::der);
            let is_same = verified.eq(ders.iter().cloned());
            is_same.then_some(()).ok_or(webpki::Error::UnknownIssuer)
        };
        let algorithms = self.signatures.algorithms();
        let algorithms: Vec<&dyn SignatureVerificationAlgorithm> =
            algorithms.iter().map(|algorithm| algorithm as _).collect();
        end_entity
            .verify_for_usage(
                &algorithms,
                std::slice::from_ref(&anchor.trust_anchor),
                &ders,
                UnixTime::since_unix_epoch(since_epoch),
                ForClients,
                None,
                Some(&is_this_path),
            )
            .map_err(|error| Refusal::from_webpki(error, &self.chain[0].parsed))?;
        Ok(())
    }

    /// The checks of a path that Go makes and webpki does not; yields how long the path is valid.
    fn check_facts(&self, issuers: &[&ChainCertificate<'_>], anchor: &Anchor) -> Result<SystemTime, Refusal> {
        let leaf = &self.chain[0].facts;
        let mut valid_until = leaf.not_after().min(anchor.facts.not_after());
        let mut requires_policy = leaf.requires_policy;
        let mut is_constrained = anchor.facts.constraints > 0;
        let mut has_odd_names = leaf.has_odd_names;
        for issuer in issuers.iter().map(|issuer| &issuer.facts) {
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
            if issuer.has_ended(self.now) {
                return Err(Refusal::Expired);
            }
            requires_policy |= issuer.requires_policy;
            is_constrained |= issuer.constraints > 0;
            has_odd_names |= issuer.has_odd_names;
            valid_until = valid_until.min(issuer.not_after());
        }
        if requires_policy {
            return Err(Refusal::Unsupported {
                reason: "policy constraints".to_owned(),
            });
        }
        if is_constrained && has_odd_names {
            return Err(Refusal::NameConstraints);
        }
        Ok(valid_until)
    }

    /// The path, unless a list denies or revokes a certificate of it.
    fn unrevoked(
        &mut self,
        intermediates: Vec<usize>,
        anchor: Option<&'a Anchor>,
        until: SystemTime,
    ) -> Result<Path, Refusal> {
        let mut valid_until = until;
        let marks: Vec<Marks> = [0]
            .iter()
            .chain(&intermediates)
            .map(|at| Marks::of(&self.chain[*at].parsed))
            .chain(anchor.map(|anchor| anchor.marks))
            .collect();
        if let Some(by) = marks.iter().find_map(self.denied) {
            return Err(Refusal::Denied { by });
        }
        if !self.lists.is_empty() {
            let numbers = [0].into_iter().chain(intermediates.iter().copied());
            let path: Vec<_> = numbers
                .map(|at| &self.revocable[at])
                .chain(anchor.map(|anchor| &anchor.revocable))
                .collect();
            valid_until = revocation::check_path(self.lists, &path, until, self.now, &mut self.signatures)?;
        }
        Ok(Path {
            intermediates,
            valid_until,
            marks,
        })
    }
}

/// Two parsers read the leaf: webpki to verify it, x509-parser to find the user. They must agree.
fn check_agreement(end_entity: &EndEntityCert<'_>, leaf: &ChainCertificate<'_>) -> Result<(), Refusal> {
    if end_entity.subject_public_key_info().as_ref() != leaf.key()
        || !leaf.subject().ends_with(end_entity.subject())
        || !leaf.issuer().ends_with(end_entity.issuer())
        || end_entity.serial() != leaf.parsed.raw_serial()
    {
        return Err(Refusal::Malformed {
            number: 1,
            reason: Malformed("read differently by two parsers"),
        });
    }
    Ok(())
}

/// webpki compares each name with each constraint of the CAs above it.
fn check_name_comparisons(
    issuers: &[&ChainCertificate<'_>],
    leaf: &ChainCertificate<'_>,
    anchor: &Anchor,
) -> Result<(), Refusal> {
    let (mut names, mut comparisons) = (leaf.facts.names, 0_usize);
    for facts in issuers.iter().map(|issuer| &issuer.facts).chain([&anchor.facts]) {
        comparisons = comparisons.saturating_add(names.saturating_mul(facts.constraints));
        names += facts.names;
    }
    if comparisons > MAX_NAME_COMPARISONS {
        return Err(Refusal::TooComplex);
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
