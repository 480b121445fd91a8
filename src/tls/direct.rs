//! Leaves that webpki will not judge though the kubelet does, if a CA of the bundle signed them itself: X.509 v1, which
//! `openssl x509 -req` makes when it is given no extensions, and CA:TRUE, which `openssl req -x509 -CA` makes.
//!
//! Such a leaf has no names that a constraint could be about, or is refused where there are constraints. Its signature is
//! verified by the algorithms that are good enough for other leaves ([`super::signature`]). Longer paths are webpki's alone.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::X509Certificate;

use super::certificate::{self, CertificateFacts};
use super::refusal::Refusal;
use super::signature::is_signed_by;
use super::trust::{Judged, Trust};

impl Trust {
    /// Judges a leaf by the one signature on it. What needs no issuer has been checked. If nobody in the bundle issued
    /// it, that is `unissued`.
    pub(super) fn judge_directly(
        &self,
        der: &CertificateDer<'_>,
        leaf: &X509Certificate<'_>,
        facts: &CertificateFacts,
        now: SystemTime,
        unissued: Refusal,
    ) -> Result<Judged, Refusal> {
        let mut refused = unissued;
        for (anchor, anchor_facts) in &self.known {
            let Ok(anchor) = certificate::parse(anchor) else {
                continue;
            };
            // As in Go: names are compared as bytes, and nobody issues to the key that is their own.
            if anchor.subject().as_raw() != leaf.issuer().as_raw()
                || anchor.public_key().raw == leaf.public_key().raw
            {
                continue;
            }
            match self.issued_directly(der, leaf, facts, &anchor, anchor_facts, now) {
                Ok(valid_until) => return Ok(Judged { valid_until }),
                Err(refusal) => refused = refusal,
            }
        }
        Err(refused)
    }

    fn issued_directly(
        &self,
        der: &CertificateDer<'_>,
        leaf: &X509Certificate<'_>,
        facts: &CertificateFacts,
        anchor: &X509Certificate<'_>,
        anchor_facts: &CertificateFacts,
        now: SystemTime,
    ) -> Result<SystemTime, Refusal> {
        if !is_signed_by(der, anchor.public_key().raw) {
            return Err(Refusal::BadSignature);
        }
        anchor_facts.check_as_anchor(0, now)?;
        if facts.requires_policy {
            return Err(Refusal::Unsupported {
                reason: "policy constraints".to_owned(),
            });
        }
        if facts.has_names && anchor_facts.constrains_names {
            return Err(Refusal::NameConstraints);
        }
        let until = facts.not_after().min(anchor_facts.not_after());
        self.check_revocation(&[leaf, anchor], until, now)
    }
}
