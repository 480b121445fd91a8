//! The subject of a certificate, read for the user that it names.

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::asn1_rs::{Class, Tag};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

/// What a certificate says about its holder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Subject {
    /// The attributes of the subject, in order.
    pub(crate) attributes: Vec<SubjectAttribute>,
    /// SHA-256 of the certificate.
    pub(crate) fingerprint: [u8; 32],
}

/// One attribute of a subject.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SubjectAttribute {
    /// Its type, as the content of a DER OBJECT IDENTIFIER.
    pub(crate) oid: Vec<u8>,
    /// Its value; `None` if it is not of a string type that Go reads.
    pub(crate) text: Option<String>,
}

// === impl Subject ===

impl Subject {
    /// The subject of any certificate that x509-parser can read; `None` if it cannot.
    pub(crate) fn of_der(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self::of(der, &certificate))
    }

    /// The subject of `certificate`, which was read from `der`.
    pub(super) fn of(der: &[u8], certificate: &X509Certificate<'_>) -> Self {
        let attributes = certificate.subject().iter_attributes();
        Self {
            attributes: attributes.map(SubjectAttribute::of).collect(),
            fingerprint: fingerprint(der),
        }
    }
}

/// SHA-256 of a certificate.
pub(super) fn fingerprint(der: &[u8]) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, der).as_ref());
    fingerprint
}

// === impl SubjectAttribute ===

impl SubjectAttribute {
    pub(super) fn of(attribute: &AttributeTypeAndValue<'_>) -> Self {
        Self {
            oid: attribute.attr_type().as_bytes().to_vec(),
            text: text(attribute),
        }
    }
}

/// The value of an attribute of a string type that Go reads: UTF8, Printable, IA5, T61, Numeric and BMP.
///
/// Go compares whole tags, with class and constructed bit; x509-parser keeps the three apart.
fn text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let value = attribute.attr_value();
    if value.class() != Class::Universal || value.header.is_constructed() {
        return None;
    }
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            str::from_utf8(value.data).ok().map(str::to_owned)
        }
        // Go reads T61String as Latin-1: each byte is the character of that number.
        Tag::T61String => Some(value.data.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let (units, rest) = value.data.as_chunks::<2>();
            // Go takes one U+0000 at the end for a terminator.
            let units = units.strip_suffix(&[[0, 0]]).unwrap_or(units);
            let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
            if rest.is_empty() {
                String::from_utf16(&units).ok()
            } else {
                None
            }
        }
        _ => None,
    }
}
