//! The client certificate in the handshake: the listener asks for one, and the client proves that it holds
//! the key. Nothing else is checked here.
//!
//! The kubelet does the same (`ClientAuth: RequestClientCert`). The chain is judged later, per request: a bad
//! one becomes a 401, and a token beside it still counts.
//!
//! [`Frame`] reads the key, because webpki does not read every certificate that Go reads (v1, unusual
//! extensions). The rest of the certificate is read when the chain is judged.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, SignatureScheme,
};
use webpki::RawPublicKeyEntity;

use super::frame::Frame;

/// Asks for a certificate, accepts any or none, and checks possession of its key.
#[derive(Debug)]
pub(super) struct PossessionVerifier {
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

// === impl PossessionVerifier ===

impl PossessionVerifier {
    /// `hints` are the names of the CAs whose certificates clients may use.
    pub(super) fn new(hints: Vec<DistinguishedName>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { hints, algorithms }
    }
}

impl ClientCertVerifier for PossessionVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    /// The chain is not judged here, but by `Trust::judge` on a request, against the bundle of that time.
    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
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

/// The public key of any certificate with the frame of one.
pub(super) fn public_key(
    certificate: &CertificateDer<'_>,
) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    let frame = Frame::read(certificate).ok_or(CertificateError::BadEncoding)?;
    Ok(SubjectPublicKeyInfoDer::from(frame.key.to_vec()))
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
