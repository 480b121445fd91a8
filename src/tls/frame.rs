//! The frame of a certificate: its fields, names and extensions, by the exact tags that Go expects.
//!
//! Go compares whole tags: number, class and constructed bit. x509-parser compares numbers alone in some
//! places, and what it reads there Go does not see. So the frame of every certificate is read here first.
//! Only this reader is fast enough for a handshake, where nothing is known about the client yet.

use super::encoding::{BIT_STRING, BOOLEAN, Element, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING};
use super::encoding::{SEQUENCE, SET, Signed, elements, only};

const VERSION: u8 = 0xa0;
const ISSUER_UNIQUE_ID: u8 = 0x81;
const SUBJECT_UNIQUE_ID: u8 = 0x82;
const EXTENSIONS: u8 = 0xa3;

/// A certificate whose outer parts have the right tags.
pub(super) struct Frame<'a> {
    /// What is signed, by which algorithm, and the signature.
    pub(super) signed: Signed<'a>,
    /// Its public key, as SubjectPublicKeyInfo.
    pub(super) key: &'a [u8],
    /// The types and values of its extensions, as contents.
    pub(super) extensions: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Frame<'a> {
    pub(super) fn read(certificate: &'a [u8]) -> Option<Self> {
        let parts = elements(only(certificate, SEQUENCE)?)?;
        let [SEQUENCE, SEQUENCE, BIT_STRING] = tags(&parts)[..] else {
            return None;
        };
        let fields = elements(parts.first()?.content)?;
        let fields = match fields.first()?.tag {
            VERSION => fields.get(1..)?,
            _ => &fields,
        };
        let ([serial, algorithm, issuer, validity, subject, key], rest) = fields.split_first_chunk()?;
        let is_framed = serial.tag == INTEGER
            && [algorithm, issuer, validity, subject, key]
                .iter()
                .all(|field| field.tag == SEQUENCE)
            && is_name(issuer.content)?
            && is_name(subject.content)?
            && rest.is_sorted_by(|one, next| one.tag < next.tag);
        let mut read = Vec::new();
        for field in rest {
            match field.tag {
                ISSUER_UNIQUE_ID | SUBJECT_UNIQUE_ID => {}
                EXTENSIONS => read = extensions(field.content)?,
                _ => return None,
            }
        }
        is_framed.then_some(Self {
            signed: Signed::read(certificate)?,
            key: key.raw,
            extensions: read,
        })
    }
}

/// Whether each attribute of a name is a sequence of type and value.
fn is_name(name: &[u8]) -> Option<bool> {
    for set in elements(name)? {
        for attribute in elements(set.content)? {
            let [OBJECT_IDENTIFIER, _] = tags(&elements(attribute.content)?)[..] else {
                return None;
            };
            if (set.tag, attribute.tag) != (SET, SEQUENCE) {
                return None;
            }
        }
    }
    Some(true)
}

fn extensions(field: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut read = Vec::new();
    for extension in elements(only(field, SEQUENCE)?)? {
        let fields = elements(extension.content)?;
        let good = matches!(
            tags(&fields)[..],
            [OBJECT_IDENTIFIER, OCTET_STRING] | [OBJECT_IDENTIFIER, BOOLEAN, OCTET_STRING]
        );
        if extension.tag != SEQUENCE || !good {
            return None;
        }
        read.push((fields.first()?.content, fields.last()?.content));
    }
    Some(read)
}

fn tags(elements: &[Element<'_>]) -> Vec<u8> {
    elements.iter().map(|element| element.tag).collect()
}
