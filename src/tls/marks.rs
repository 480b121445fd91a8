//! By what a deny list knows a certificate: its issuer with its serial number, and its public key.
//!
//! The SHA-256 of a certificate would not do. An ECDSA signature (r, s) can be written as (r, n - s) without
//! the issuer's key: the certificate's bytes change, what it says stays. So no mark covers the signature.

use aws_lc_rs::digest::{Context, SHA256, digest};
use x509_parser::prelude::X509Certificate;

use super::issuer_name::IssuerName;

/// What a deny list compares of a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Marks {
    /// Of its issuer and serial number, as [`issued`] makes it.
    pub(crate) issued: [u8; 32],
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub(crate) key: [u8; 32],
}

// === impl Marks ===

impl Marks {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let issuer = IssuerName::of(certificate.issuer());
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, certificate.public_key().raw).as_ref());
        Self {
            issued: issued(&issuer, certificate.raw_serial()),
            key,
        }
    }
}

/// The mark of the certificate that this issuer gave this serial number, big-endian.
pub(crate) fn issued(issuer: &IssuerName, serial: &[u8]) -> [u8; 32] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    let mut context = Context::new(&SHA256);
    context.update(&issuer.as_bytes().len().to_be_bytes());
    context.update(issuer.as_bytes());
    context.update(&serial[zeros..]);
    let mut mark = [0; 32];
    mark.copy_from_slice(context.finish().as_ref());
    mark
}
