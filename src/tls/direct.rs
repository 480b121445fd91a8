//! Judges leaves that the kubelet accepts and webpki does not, if a CA of the bundle signed them itself:
//! X.509 v1, which `openssl x509 -req` makes without extensions, and CA:TRUE, which `openssl req -x509 -CA`
//! makes.
//!
//! If the CA has name constraints, such a leaf is refused unless it has no alternative names. Its signature
//! is verified with the algorithms that other leaves may use ([`super::signature`]). Longer paths are left to
//! webpki.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::X509Certificate;

use super::certificate::{self, CertificateFacts, ChainCertificate};
use super::refusal::Refusal;
use super::revocation::{self, RevocationList};
use super::signature::is_signed_by;

/// Judges a leaf by the one signature on it; the checks that need no issuer have been made. Yields how long
/// the verdict holds, or `unissued` if no CA in `anchors` issued the leaf.
pub(super) fn judge(
    anchors: &[(CertificateDer<'static>, CertificateFacts)],
    lists: &[RevocationList],
    leaf: &ChainCertificate<'_>,
    now: SystemTime,
    unissued: Refusal,
) -> Result<SystemTime, Refusal> {
    let mut refused = unissued;
    for (anchor, anchor_facts) in anchors {
        let Ok(anchor) = certificate::parse(anchor) else {
            continue;
        };
        // As in Go: names are compared as bytes, and no CA issues a certificate for its own key.
        if anchor.subject().as_raw() != leaf.parsed.issuer().as_raw()
            || anchor.public_key().raw == leaf.parsed.public_key().raw
        {
            continue;
        }
        match judge_issued_by(&anchor, anchor_facts, lists, leaf, now) {
            Ok(valid_until) => return Ok(valid_until),
            Err(refusal) => refused = refusal,
        }
    }
    Err(refused)
}

fn judge_issued_by(
    anchor: &X509Certificate<'_>,
    anchor_facts: &CertificateFacts,
    lists: &[RevocationList],
    leaf: &ChainCertificate<'_>,
    now: SystemTime,
) -> Result<SystemTime, Refusal> {
    let facts = &leaf.facts;
    if !is_signed_by(leaf.der, anchor.public_key().raw) {
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
    revocation::check_path(lists, &[&leaf.parsed, anchor], until, now)
}
