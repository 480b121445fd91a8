//! The CAs of the bundle, read once.

use std::collections::HashMap;

use rustls::pki_types::{CertificateDer, TrustAnchor};
use webpki::anchor_from_trusted_cert;
use x509_parser::prelude::X509Certificate;

use super::certificate::{CertificateFacts, KeyIds};
use super::marks::Marks;
use super::paths::misfit;
use super::revocation::Revocable;

/// A CA of the bundle that may end a path.
pub(super) struct Anchor {
    pub(super) trust_anchor: TrustAnchor<'static>,
    pub(super) facts: CertificateFacts,
    pub(super) subject: Vec<u8>,
    /// Its SubjectPublicKeyInfo.
    pub(super) key: Vec<u8>,
    pub(super) key_id: Option<Vec<u8>>,
    pub(super) revocable: Revocable,
    pub(super) marks: Marks,
}

/// The CAs that may end a path, by their names.
#[derive(Default)]
pub(super) struct Anchors {
    count: usize,
    named: HashMap<Vec<u8>, Vec<Anchor>>,
}

// === impl Anchors ===

impl Anchors {
    pub(super) fn add(&mut self, anchor: Anchor) {
        self.count += 1;
        let named = self.named.entry(anchor.subject.clone()).or_default();
        named.push(anchor);
        // The longest valid first: of a CA and its renewal, the renewal is used.
        named.sort_by_key(|anchor| std::cmp::Reverse(anchor.facts.not_after()));
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Anchor> {
        self.named.values().flatten()
    }

    /// Whether a CA has this name.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.named.contains_key(name)
    }

    /// The CAs of this name, those first whose key identifier is `key_id`.
    pub(super) fn named(&self, name: &[u8], key_id: Option<&[u8]>) -> Vec<&Anchor> {
        let mut named: Vec<_> = self.named.get(name).into_iter().flatten().collect();
        named.sort_by_key(|anchor| misfit(anchor.key_id.as_deref(), key_id));
        named
    }
}

// === impl Anchor ===

impl Anchor {
    /// `None` for a certificate that webpki cannot use as an anchor.
    pub(super) fn of(der: &CertificateDer<'_>, parsed: &X509Certificate<'_>) -> Option<Self> {
        Some(Self {
            trust_anchor: anchor_from_trusted_cert(der).ok()?.to_owned(),
            facts: CertificateFacts::of(parsed),
            subject: parsed.subject().as_raw().to_vec(),
            key: parsed.public_key().raw.to_vec(),
            key_id: KeyIds::of(parsed).own.map(<[u8]>::to_vec),
            revocable: Revocable::of(parsed),
            marks: Marks::of(parsed),
        })
    }
}
