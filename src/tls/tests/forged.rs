//! Certificates that no library would make: assembled byte by byte, and signed.

use super::*;

pub(super) const CN: &[u8] = &[0x55, 0x04, 0x03];

/// The parts of a certificate that a test chooses. The rest is as in any good one.
pub(super) struct Forged<'a> {
    pub(super) issuer: Vec<u8>,
    pub(super) subject: Vec<u8>,
    /// Its SubjectPublicKeyInfo.
    pub(super) key: Vec<u8>,
    pub(super) signer: &'a KeyPair,
    pub(super) extensions: Vec<Vec<u8>>,
}

impl Forged<'_> {
    pub(super) fn make(&self) -> CertificateDer<'static> {
        let algorithm = element(
            0x30,
            &[&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]],
        );
        let validity = element(
            0x30,
            &[
                &element(0x17, &[b"200101000000Z"]),
                &element(0x18, &[b"21200101000000Z"]),
            ],
        );
        let extensions = element(0xa3, &[&element(0x30, &[&self.extensions.concat()])]);
        let to_be_signed = element(
            0x30,
            &[
                &[0xa0, 0x03, 0x02, 0x01, 0x02],
                &[0x02, 0x01, 0x07],
                &algorithm,
                &self.issuer,
                &validity,
                &self.subject,
                &self.key,
                if self.extensions.is_empty() {
                    &[]
                } else {
                    &extensions
                },
            ],
        );
        let signature = self.signer.sign(&to_be_signed).unwrap();
        element(
            0x30,
            &[&to_be_signed, &algorithm, &element(0x03, &[&[0], &signature])],
        )
        .into()
    }
}

/// One element of DER.
pub(super) fn element(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match content.len() {
        0..128 => vec![tag, length[1]],
        128..256 => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [head, content].concat()
}

/// An attribute of a name, alone in its set.
pub(super) fn attribute(oid: &[u8], value: &[u8]) -> Vec<u8> {
    element(0x31, &[&element(0x30, &[&element(0x06, &[oid]), value])])
}

/// A name of one CN.
pub(super) fn named(name: &str) -> Vec<u8> {
    element(0x30, &[&attribute(CN, &element(0x0c, &[name.as_bytes()]))])
}

/// An extension that is not critical.
pub(super) fn extension(oid: &[u8], value: &[u8]) -> Vec<u8> {
    element(0x30, &[&element(0x06, &[oid]), &element(0x04, &[value])])
}

/// The extensions of a CA.
pub(super) fn may_issue() -> Vec<Vec<u8>> {
    vec![extension(&[0x55, 0x1d, 0x13], &[0x30, 0x03, 0x01, 0x01, 0xff])]
}
