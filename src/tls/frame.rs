//! The frame of a certificate: its fields, names and extensions, by the exact tags that Go expects.
//!
//! Go compares whole tags: number, class and constructed bit. x509-parser compares numbers alone in some
//! places, and what it reads there Go does not see. So the frame of every certificate is read here first.

use super::encoding::{BOOLEAN, Element, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING};
use super::encoding::{SEQUENCE, SET, Signed, elements, only};

const VERSION: u8 = 0xa0;
const ISSUER_UNIQUE_ID: u8 = 0x81;
const SUBJECT_UNIQUE_ID: u8 = 0x82;
const EXTENSIONS: u8 = 0xa3;
/// Which of the fields that every certificate has the key is.
const KEY: usize = 5;

/// A certificate whose outer parts have the right tags.
pub(super) struct Frame<'a> {
    /// What is signed, by which algorithm, and the signature.
    pub(super) signed: Signed<'a>,
    /// The types and values of its extensions, as contents.
    pub(super) extensions: Vec<(&'a [u8], &'a [u8])>,
}

/// The key of a certificate (SubjectPublicKeyInfo), by its outermost fields alone: nothing else is known
/// about the certificate.
pub(super) fn key_of(certificate: &[u8]) -> Option<&[u8]> {
    let fields = elements(Signed::read(certificate)?.message_content()?)?;
    Some(head(&fields)?.0[KEY].raw)
}

impl<'a> Frame<'a> {
    pub(super) fn read(certificate: &'a [u8]) -> Option<Self> {
        let signed = Signed::read(certificate)?;
        let fields = elements(signed.message_content()?)?;
        let (head, rest) = head(&fields)?;
        let [serial, sequences @ ..] = head;
        let [_, issuer, _, subject, _] = sequences;
        if serial.tag != INTEGER
            || sequences.iter().any(|field| field.tag != SEQUENCE)
            || !rest.is_sorted_by(|one, next| one.tag < next.tag)
        {
            return None;
        }
        check_name(issuer.content)?;
        check_name(subject.content)?;
        let mut read = Vec::new();
        for field in rest {
            match field.tag {
                ISSUER_UNIQUE_ID | SUBJECT_UNIQUE_ID => {}
                EXTENSIONS => read = extensions(field.content)?,
                _ => return None,
            }
        }
        Some(Self {
            signed,
            extensions: read,
        })
    }
}

/// The fields that every certificate has, without the version: serial number, algorithm, issuer, validity,
/// subject and key; and the others.
fn head<'e, 'a>(fields: &'e [Element<'a>]) -> Option<(&'e [Element<'a>; 6], &'e [Element<'a>])> {
    let fields = match fields.first()?.tag {
        VERSION => fields.get(1..)?,
        _ => fields,
    };
    fields.split_first_chunk()
}

/// Each attribute of a name must be a sequence of type and value.
fn check_name(name: &[u8]) -> Option<()> {
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
    Some(())
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
