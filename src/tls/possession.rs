//! The client certificate in the handshake: the listener asks for one, and the client proves that it holds
//! the key. Nothing else is checked here, unless certificates are required.
//!
//! The kubelet does the same (`ClientAuth: RequestClientCert`). The chain is judged later, for the requests:
//! a bad one becomes a 401, and a token beside it still counts. With `clientCertificates: Require` the chain
//! is judged here as well, and a bad one becomes an alert.
//!
//! [`key_of`] reads the key, because webpki does not read every certificate that Go reads (v1, unusual
//! extensions). The rest of the certificate is read when the chain is judged.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved,
    SignatureScheme,
};
use webpki::RawPublicKeyEntity;

use super::frame::key_of;
use super::refusal::{Refusal, Refused};
use super::trust::Trust;

/// Asks for a certificate, and checks possession of its key. Without `required` it accepts any or none.
#[derive(Debug)]
pub(super) struct PossessionVerifier {
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    required: Option<Arc<Trust>>,
}

// === impl PossessionVerifier ===

impl PossessionVerifier {
    /// Takes any certificate whose key the client holds.
    pub(super) fn new(trust: &Trust, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self {
            hints: trust.hints().to_vec(),
            algorithms,
            required: None,
        }
    }

    /// Takes only a certificate that `trust` accepts.
    pub(super) fn requiring(trust: Arc<Trust>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self {
            required: Some(Arc::clone(&trust)),
            ..Self::new(&trust, algorithms)
        }
    }
}

impl ClientCertVerifier for PossessionVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required.is_some()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    /// Unless certificates are required, the chain is judged later, against the bundle of that time.
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(trust) = &self.required {
            let sent = [end_entity].into_iter().chain(intermediates);
            let chain: Vec<_> = sent.map(|der| CertificateDer::from(&der[..])).collect();
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
            trust.judge_in_handshake(&chain, now).map_err(alert)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        prove_tls12(message, &public_key(certificate)?, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(message, &public_key(certificate)?, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The error from which rustls chooses the alert.
fn alert(refused: Refused) -> CertificateError {
    match refused.refusal {
        Refusal::Expired | Refusal::AnchorExpired => CertificateError::Expired,
        Refusal::NotYetValid | Refusal::AnchorNotYetValid => CertificateError::NotValidYet,
        Refusal::UnknownIssuer { .. } => CertificateError::UnknownIssuer,
        Refusal::BadSignature => CertificateError::BadSignature,
        Refusal::Malformed { .. } => CertificateError::BadEncoding,
        Refusal::BadUsage => CertificateError::InvalidPurpose,
        _ => CertificateError::Other(OtherError(Arc::new(refused))),
    }
}

/// The public key of anything with the outermost fields of a certificate.
pub(super) fn public_key(
    certificate: &CertificateDer<'_>,
) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    let key = key_of(certificate).ok_or(CertificateError::BadEncoding)?;
    Ok(SubjectPublicKeyInfoDer::from(key.to_vec()))
}

/// What rustls does for TLS 1.2 with a certificate, for a bare key. In TLS 1.2 a scheme does not determine
/// the curve, so each algorithm of the scheme is tried.
pub(super) fn prove_tls12(
    message: &[u8],
    key: &SubjectPublicKeyInfoDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let candidates = algorithms
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == signed.scheme);
    let Some((_, candidates)) = candidates else {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    };
    let key = RawPublicKeyEntity::try_from(key).map_err(|_| CertificateError::BadEncoding)?;
    for algorithm in *candidates {
        match key.verify_signature(*algorithm, message, signed.signature()) {
            Ok(()) => return Ok(HandshakeSignatureValid::assertion()),
            Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
            Err(_) => break,
        }
    }
    Err(CertificateError::BadSignature.into())
}
