//! Judges leaves that the kubelet accepts and webpki does not, if a CA of the bundle signed them itself:
//! X.509 v1, which `openssl x509 -req` makes without extensions, and CA:TRUE, which `openssl req -x509 -CA`
//! makes.
//!
//! If the CA has name constraints, such a leaf is refused unless it has no alternative names. Its signature
//! is verified with the algorithms that other leaves may use ([`super::signature`]). Longer paths are left to
//! webpki.

use std::time::SystemTime;

use super::anchor::Anchor;
use super::certificate::ChainCertificate;
use super::refusal::Refusal;
use super::signature::Signatures;

/// Judges a leaf by the one signature on it, which `anchor` should have made; the checks that need no issuer
/// have been made. Yields how long the verdict holds without revocation lists.
pub(super) fn judge<'a>(
    anchor: &'a Anchor,
    leaf: &'a ChainCertificate<'a>,
    now: SystemTime,
    signatures: &mut Signatures<'a>,
) -> Result<SystemTime, Refusal> {
    let facts = &leaf.facts;
    signatures.check(leaf.signed, &anchor.key)?;
    anchor.facts.check_as_anchor(0, now)?;
    if facts.requires_policy {
        return Err(Refusal::Unsupported {
            reason: "policy constraints".to_owned(),
        });
    }
    if facts.has_names && anchor.facts.constraints > 0 {
        return Err(Refusal::NameConstraints);
    }
    Ok(facts.not_after().min(anchor.facts.not_after()))
}
