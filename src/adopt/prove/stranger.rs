//! A client certificate that no CA issued, made anew for every run.

use std::io;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// `ecdsa-with-SHA256`, as an AlgorithmIdentifier.
const ECDSA_SHA256: [u8; 12] = [0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
/// `id-at-commonName`.
const COMMON_NAME: [u8; 5] = [6, 3, 0x55, 4, 3];
const NAME: &[u8] = b"kubelet-gate-prove";
/// UTCTime: from 2020 to 2049.
const VALIDITY: [&[u8]; 2] = [b"200101000000Z", b"491231235959Z"];

/// A key and a self-signed certificate of version 1: every server that verifies client certificates refuses
/// it.
pub(super) fn certified_key() -> io::Result<Arc<CertifiedKey>> {
    let failed = |what: &'static str| move |_| io::Error::other(what);
    let pair =
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed("no key can be made"))?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed("no public key"))?;
    let common_name = tlv(0x30, &[&COMMON_NAME[..], &tlv(0x0c, NAME)].concat());
    let name = tlv(0x30, &tlv(0x31, &common_name));
    let validity = tlv(0x30, &VALIDITY.map(|time| tlv(0x17, time)).concat());
    let body = [
        &tlv(2, &[1])[..],
        &ECDSA_SHA256,
        &name,
        &validity,
        &name,
        public.as_ref(),
    ]
    .concat();
    let body = tlv(0x30, &body);
    let signature = pair
        .sign(&SystemRandom::new(), &body)
        .map_err(failed("nothing can be signed"))?;
    let signature = tlv(3, &[&[0], signature.as_ref()].concat());
    let certificate = tlv(0x30, &[&body[..], &ECDSA_SHA256, &signature].concat());
    let key = pair.to_pkcs8v1().map_err(failed("no private key"))?;
    let key = PrivatePkcs8KeyDer::from(key.as_ref().to_vec());
    let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key.into()).map_err(io::Error::other)?;
    Ok(Arc::new(CertifiedKey::new(
        vec![CertificateDer::from(certificate)],
        key,
    )))
}

/// DER: tag, length, value.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let mut bytes = vec![tag];
    match u8::try_from(length) {
        Ok(short @ ..0x80) => bytes.push(short),
        Ok(long) => bytes.extend([0x81, long]),
        // Nothing in here is longer than 64 KiB.
        Err(_) => bytes.extend([0x82, (length >> 8) as u8, (length & 0xff) as u8]),
    }
    bytes.extend_from_slice(value);
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_one_and_signed_by_its_own_key() {
        let key = certified_key().unwrap();
        let parsed = crate::tls::certificate::parse(&key.cert[0]).unwrap();
        assert_eq!(parsed.subject().to_string(), "CN=kubelet-gate-prove");
        let signature = aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
            parsed.public_key().subject_public_key.data.as_ref(),
        );
        let body: &[u8] = parsed.tbs_certificate.as_ref();
        signature
            .verify(body, parsed.signature_value.data.as_ref())
            .unwrap();
        assert_ne!(
            key.cert[0],
            certified_key().unwrap().cert[0],
            "each run has its own"
        );
    }
}
