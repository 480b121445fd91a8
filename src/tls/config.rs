//! The TLS configuration of the gate's listener: one `ServerConfig`, built as a whole whenever a part of it
//! changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, RootCertStore, ServerConfig, SupportedCipherSuite};
use thiserror::Error;

use super::judgement::{self, RSA_BITS};
use super::options::{ClientCertificates, TlsVersion};
use super::pem::{self, PemError};
use super::possession::{self, PossessionVerifier};
use super::signature;
use super::trust::Trust;

/// Why a TLS configuration cannot be built.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A PEM file cannot be used.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// There is a key without a certificate.
    #[error("a private key without a certificate: give the certificate chain, leaf first")]
    NoCertificate,
    /// A certificate cannot be parsed.
    #[error("the certificate is not X.509: give the chain in PEM, leaf first")]
    BadCertificate,
    /// An RSA key is too short, or longer than Go's TLS accepts.
    #[error(
        "an RSA key of {bits} bits: {} or more are needed, and at most {}; have the certificate issued anew \
         with such a key",
        RSA_BITS.start(),
        RSA_BITS.end()
    )]
    KeyLength {
        /// The length that it has.
        bits: usize,
    },
    /// A key cannot be used.
    #[error("the private key is unusable: give an RSA, ECDSA or Ed25519 key as PKCS#8, PKCS#1 or SEC1 PEM")]
    BadKey {
        /// What rustls says.
        source: rustls::Error,
    },
    /// Certificate and key do not belong together.
    #[error("certificate and private key do not belong together: give the key of the first certificate")]
    PairMismatch,
    /// One of the above, with the files it came from.
    #[error("certificate file {} with key file {}: {source}", certificate.display(), key.display())]
    Pair {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// What is wrong with them.
        source: Box<Self>,
    },
    /// Client certificates are required, but no CA is given to verify them.
    #[error(
        "authentication.x509.clientCertificates: Require without authentication.x509.clientCAFile: no \
         client could connect; name the CA bundle, or use Request"
    )]
    RequireWithoutTrust,
    /// No CA certificate can serve as a root.
    #[error("no usable CA certificate in the bundle: give a PEM file with at least one CA certificate")]
    NoRoot,
    /// Another error of rustls.
    #[error("TLS configuration")]
    Rustls(#[from] rustls::Error),
}

/// A certificate chain, leaf first, with the leaf's key.
pub(crate) fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let leaf = chain.first().ok_or(TlsError::NoCertificate)?;
    if let Some(bits) = judgement::rsa_bits(&key).filter(|bits| !RSA_BITS.contains(bits)) {
        return Err(TlsError::KeyLength { bits });
    }
    let key = provider()
        .key_provider
        .load_private_key(key)
        .map_err(|source| TlsError::BadKey { source })?;
    // `CertifiedKey::keys_match` refuses certificates that webpki cannot parse, such as v1. They are good
    // enough to serve with.
    let public_key = possession::public_key(leaf).map_err(|_| TlsError::BadCertificate)?;
    if key.public_key().is_some_and(|own| own != public_key) {
        return Err(TlsError::PairMismatch);
    }
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

/// [`certified_key`] from PEM. An error names both files, which may be the same.
pub(super) fn certified_key_from_pem(
    certificate: (&Path, &[u8]),
    key: (&Path, &[u8]),
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = pem::certificates(certificate.0, certificate.1)?;
    let private_key = pem::private_key(key.0, key.1)?;
    certified_key(chain, private_key).map_err(|source| TlsError::Pair {
        certificate: certificate.0.to_owned(),
        key: key.0.to_owned(),
        source: Box::new(source),
    })
}

/// What clients are shown and asked for. An empty list of `cipher_suites` offers all. Those of TLS 1.3 are
/// always offered, as in Go, but a list of nothing else switches TLS 1.2 off.
///
/// Sessions are never resumed: a ticket would let a client certificate outlive its expiry and a change of the
/// CA bundle, and would save little. For the same reason there is no early data. Keys are never logged,
/// whatever `SSLKEYLOGFILE` says.
pub(super) fn server_config(
    pair: Arc<CertifiedKey>,
    trust: Option<&Arc<Trust>>,
    client_certificates: ClientCertificates,
    min_version: TlsVersion,
    cipher_suites: &[CipherSuite],
) -> Result<Arc<ServerConfig>, TlsError> {
    let is_offered = |suite: &SupportedCipherSuite| {
        suite.tls13().is_some()
            || min_version == TlsVersion::Tls12
                && (cipher_suites.is_empty() || cipher_suites.contains(&suite.suite()))
    };
    let mut provider = provider();
    provider.cipher_suites.retain(is_offered);
    let has_tls12 = provider.cipher_suites.iter().any(|suite| suite.tls13().is_none());
    let provider = Arc::new(provider);
    let versions = if has_tls12 {
        &[&TLS13, &TLS12][..]
    } else {
        &[&TLS13][..]
    };

    let verifier: Arc<dyn ClientCertVerifier> = match (trust, client_certificates) {
        (None, ClientCertificates::Require) => return Err(TlsError::RequireWithoutTrust),
        // Without a bundle no client is asked for a certificate, as in the kubelet.
        (None, ClientCertificates::Request) => Arc::new(NoClientAuth),
        (Some(trust), ClientCertificates::Request) => {
            let algorithms = provider.signature_verification_algorithms;
            Arc::new(PossessionVerifier::new(trust, algorithms))
        }
        (Some(trust), ClientCertificates::Require) if trust.has_anchors() => {
            let algorithms = provider.signature_verification_algorithms;
            Arc::new(PossessionVerifier::requiring(Arc::clone(trust), algorithms))
        }
        (Some(_), ClientCertificates::Require) => return Err(TlsError::NoRoot),
    };

    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The cryptography provider. The process-wide default is not used: any code in the process may set it.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        signature_verification_algorithms: signature::in_handshakes(),
        ..aws_lc_rs::default_provider()
    }
}

/// The `certificates` that webpki can use as roots, at least one.
pub(super) fn roots(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.iter().cloned());
    if roots.is_empty() {
        Err(TlsError::NoRoot)
    } else {
        Ok(roots)
    }
}
