//! TLS to the kubelet: how its serving certificate is judged, and which certificate the gate presents.
//!
//! A kubelet's certificate is usually self-signed and made once. It expires unnoticed, because the API server
//! does not verify it by default. On its own node a kubelet is identified by its key, which is the one in its
//! certificate file.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::config::{self, TlsError};
use super::possession::{prove_tls12, public_key};

/// How the kubelet proves itself.
#[derive(Clone, Debug)]
pub(crate) enum UpstreamVerification {
    /// By the key of the first of these certificates alone; names and dates are not checked.
    Pinned(Vec<CertificateDer<'static>>),
    /// By a chain to one of these CAs, for the name that is connected to.
    Ca {
        /// The CAs.
        roots: Vec<CertificateDer<'static>>,
    },
}

/// The kubelet presented another key than the pinned one.
#[derive(Debug, thiserror::Error)]
#[error(
    "the kubelet's serving key is not the one in upstream.certificateFile: name the certificate that it \
     serves"
)]
struct PinMismatch;

#[derive(Debug)]
struct PinnedKey {
    key: SubjectPublicKeyInfoDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The configuration for connections to the kubelet: HTTP/1.1 without ALPN, since upgrades need it anyway, no
/// resumption, and `client` as the certificate if the kubelet asks for one.
pub(crate) fn upstream_config(
    trust: &UpstreamVerification,
    client: Option<Arc<CertifiedKey>>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(config::provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        UpstreamVerification::Pinned(certificates) => {
            let certificate = certificates.first().ok_or(TlsError::NoCertificate)?;
            let key = public_key(certificate).map_err(|_| TlsError::BadCertificate)?;
            Arc::new(PinnedKey {
                key,
                algorithms: provider.signature_verification_algorithms,
            })
        }
        UpstreamVerification::Ca { roots } => {
            let roots = Arc::new(config::roots(roots)?);
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|_| TlsError::NoRoot)?
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match client {
        Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Whether a handshake with the kubelet failed because of its certificate: another key than the pinned
/// one, or no chain to the CA.
pub(crate) fn is_refused_certificate(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    matches!(error, Some(Error::InvalidCertificate(_)))
}

/// Whether a handshake with the kubelet failed because of the pin. If so, its certificate file may have
/// changed and should be read again.
pub(crate) fn is_pin_mismatch(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    match error {
        Some(Error::InvalidCertificate(CertificateError::Other(other))) => other.0.is::<PinMismatch>(),
        _ => false,
    }
}

// === impl PinnedKey ===

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if public_key(end_entity)? != self.key {
            return Err(CertificateError::Other(OtherError(Arc::new(PinMismatch))).into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        _certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        prove_tls12(message, &self.key, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        _certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(message, &self.key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
