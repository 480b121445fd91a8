//! The signature algorithms, and the check of a signature on a certificate or a revocation list where webpki
//! does not make it. The cryptography is the provider's.

use std::sync::LazyLock;

use rustls::SignatureScheme;
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::alg_id::{ECDSA_P256, ECDSA_P384, ECDSA_P521, ED25519, RSA_ENCRYPTION};
use rustls::pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::{ALL_VERIFICATION_ALGS, RawPublicKeyEntity};

use super::encoding;

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

/// The algorithms that the kubelet's TLS library has as well. webpki also has ML-DSA.
pub(super) static ALGORITHMS: LazyLock<Vec<Algorithm>> =
    LazyLock::new(|| ALL_VERIFICATION_ALGS.iter().copied().filter(is_known).collect());

/// The provider's schemes that use only these algorithms.
static SCHEMES: LazyLock<Vec<(SignatureScheme, &'static [Algorithm])>> = LazyLock::new(|| {
    let provider = aws_lc_rs::default_provider().signature_verification_algorithms;
    let schemes = provider.mapping.iter().copied();
    schemes
        .filter(|(_, algorithms)| algorithms.iter().all(is_known))
        .collect()
});

fn is_known(algorithm: &Algorithm) -> bool {
    [RSA_ENCRYPTION, ECDSA_P256, ECDSA_P384, ECDSA_P521, ED25519].contains(&algorithm.public_key_alg_id())
}

/// The algorithms offered and accepted in handshakes.
pub(super) fn in_handshakes() -> WebPkiSupportedAlgorithms {
    WebPkiSupportedAlgorithms {
        all: &ALGORITHMS,
        mapping: &SCHEMES,
    }
}

/// Whether `key` (a SubjectPublicKeyInfo) made the signature on `signed`.
pub(super) fn is_signed_by(signed: &[u8], key: &[u8]) -> bool {
    let key = SubjectPublicKeyInfoDer::from(key);
    let (Some((message, algorithm, signature)), Ok(key)) =
        (encoding::signed(signed), RawPublicKeyEntity::try_from(&key))
    else {
        return false;
    };
    // Several algorithms share an identifier where the key determines the curve.
    ALGORITHMS
        .iter()
        .filter(|candidate| candidate.signature_alg_id().as_ref() == algorithm)
        .any(|candidate| key.verify_signature(*candidate, message, signature).is_ok())
}
