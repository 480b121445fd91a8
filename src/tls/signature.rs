//! The signature on a certificate or a revocation list, for the two places where webpki does not check it itself. The
//! cryptography is the provider's.

use rustls::pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;

use super::encoding;

/// Whether `key` (a SubjectPublicKeyInfo) made the signature on `signed`, by one of these algorithms.
pub(super) fn is_signed_by(
    signed: &[u8],
    key: &[u8],
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> bool {
    let key = SubjectPublicKeyInfoDer::from(key);
    let (Some((message, algorithm, signature)), Ok(key)) =
        (encoding::signed(signed), RawPublicKeyEntity::try_from(&key))
    else {
        return false;
    };
    // One algorithm's identifier stands for several where the key says the curve.
    algorithms
        .iter()
        .filter(|candidate| candidate.signature_alg_id().as_ref() == algorithm)
        .any(|candidate| key.verify_signature(*candidate, message, signature).is_ok())
}
