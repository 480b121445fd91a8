//! The signature algorithms, and the check of signatures on certificates and revocation lists: counted, and
//! bounded for each judgement. The cryptography is the provider's.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use rustls::SignatureScheme;
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::alg_id::{ECDSA_P256, ECDSA_P384, ECDSA_P521, ED25519, RSA_ENCRYPTION};
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};
use webpki::ALL_VERIFICATION_ALGS;

use super::bounds::MAX_SIGNATURES;
use super::encoding::{self, BIT_STRING, Element, SEQUENCE, Signed};

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
    Signed::read(signed).is_some_and(|signed| Signatures::default().check(signed, key).is_ok())
}

/// The signatures of one judgement: each is verified once, counted, and bounded.
#[derive(Debug, Default)]
pub(super) struct Signatures<'a> {
    checked: Vec<Checked<'a>>,
    count: AtomicU32,
    effort: AtomicU64,
}

/// A signature that was verified, and the result.
#[derive(Debug)]
struct Checked<'a> {
    algorithm: Algorithm,
    key: &'a [u8],
    message: &'a [u8],
    signature: &'a [u8],
    is_good: bool,
}

/// An algorithm that verifies by [`Signatures`]: webpki does not repeat what has been verified, and cannot
/// exceed the bound.
#[derive(Debug)]
pub(super) struct Counted<'s> {
    algorithm: Algorithm,
    signatures: &'s Signatures<'s>,
}

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SignatureError {
    /// It is not the key's.
    Bad,
    /// No known algorithm has this identifier, or none for such a key.
    Unsupported,
    /// Too many were verified before.
    Exhausted,
}

// === impl Signatures ===

impl<'a> Signatures<'a> {
    /// Whether `key` (a SubjectPublicKeyInfo) made the signature on `signed`.
    pub(super) fn check(&mut self, signed: Signed<'a>, key: &'a [u8]) -> Result<(), SignatureError> {
        let (kind, key) = public_key(key).ok_or(SignatureError::Unsupported)?;
        let Signed {
            message,
            algorithm: id,
            signature,
        } = signed;
        // Several algorithms share an identifier where the key determines the curve.
        let algorithm = ALGORITHMS.iter().copied().find(|candidate| {
            candidate.signature_alg_id().as_ref() == id && candidate.public_key_alg_id().as_ref() == kind
        });
        let algorithm = algorithm.ok_or(SignatureError::Unsupported)?;
        let verified = self.verify(algorithm, key, message, signature);
        if verified != Err(SignatureError::Exhausted) {
            self.checked.push(Checked {
                algorithm,
                key,
                message,
                signature,
                is_good: verified.is_ok(),
            });
        }
        verified
    }

    /// The algorithms for webpki.
    pub(super) fn algorithms(&self) -> Vec<Counted<'_>> {
        let all = ALGORITHMS.iter();
        all.map(|algorithm| Counted {
            algorithm: *algorithm,
            signatures: self,
        })
        .collect()
    }

    /// How many were verified.
    pub(super) fn count(&self) -> u32 {
        self.count.load(Relaxed)
    }

    /// The effort of those.
    pub(super) fn effort(&self) -> u64 {
        self.effort.load(Relaxed)
    }

    fn verify(
        &self,
        algorithm: Algorithm,
        key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        let result = |is_good| if is_good { Ok(()) } else { Err(SignatureError::Bad) };
        let known = self.checked.iter().find(|known| {
            known.algorithm.signature_alg_id() == algorithm.signature_alg_id()
                && known.algorithm.public_key_alg_id() == algorithm.public_key_alg_id()
                && (known.signature, known.key, known.message) == (signature, key, message)
        });
        if let Some(known) = known {
            return result(known.is_good);
        }
        if self.count() >= MAX_SIGNATURES {
            return Err(SignatureError::Exhausted);
        }
        self.count.fetch_add(1, Relaxed);
        let effort = effort(algorithm.public_key_alg_id(), key) + message.len() as u64 * HASHED_BYTE;
        self.effort.fetch_add(effort, Relaxed);
        result(algorithm.verify_signature(key, message, signature).is_ok())
    }
}

// === impl Counted ===

impl SignatureVerificationAlgorithm for Counted<'_> {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        self.signatures
            .verify(self.algorithm, key, message, signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}

/// The effort of one signature by `key` (a SubjectPublicKeyInfo), as [`Work`](super::work::Work) counts it.
pub(super) fn effort_of(key: &[u8]) -> u64 {
    public_key(key).map_or(0, |(kind, key)| {
        let known = [RSA_ENCRYPTION, ECDSA_P256, ECDSA_P384, ECDSA_P521, ED25519];
        known
            .into_iter()
            .find(|known| known.as_ref() == kind)
            .map_or(0, |kind| effort(kind, key))
    })
}

/// The effort of hashing one byte.
const HASHED_BYTE: u64 = 1;

/// The effort of verifying one signature, apart from the hash of the message.
fn effort(kind: AlgorithmIdentifier, key: &[u8]) -> u64 {
    match kind {
        ECDSA_P256 => 55_000,
        ECDSA_P384 => 220_000,
        ECDSA_P521 => 390_000,
        ED25519 => 40_000,
        // A product of long numbers costs the square of their length. There is one for each bit of the
        // exponent, and one for each that is set.
        _ => {
            let numbers = encoding::only(key, SEQUENCE).and_then(encoding::elements);
            let numbers = numbers.unwrap_or_default();
            let bytes = numbers.first().map_or(0, |modulus| modulus.content.len() as u64);
            let exponent = numbers.get(1).map_or(&[][..], |exponent| exponent.content);
            let products = exponent
                .iter()
                .map(|byte| 8 + u64::from(byte.count_ones()))
                .sum::<u64>();
            2_000 + bytes * bytes * products / 100
        }
    }
}

/// The algorithm of a SubjectPublicKeyInfo, as content, and the key itself.
fn public_key(info: &[u8]) -> Option<(&[u8], &[u8])> {
    match encoding::elements(encoding::only(info, SEQUENCE)?)?[..] {
        [
            Element {
                tag: SEQUENCE,
                content: algorithm,
                ..
            },
            Element {
                tag: BIT_STRING,
                content: [0, key @ ..],
                ..
            },
        ] => Some((algorithm, key)),
        _ => None,
    }
}
