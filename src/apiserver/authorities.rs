//! The cluster's CA bundle, and the verification of an API server against it.

use std::path::{Path, PathBuf};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tracing::warn;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::tls::pem::{self, PemError};

/// A CA bundle, of which only currently valid certificates are used. webpki does not check an anchor's dates.
/// Go does, and rejects an API server whose CA has expired.
#[derive(Debug)]
pub(crate) struct Authorities {
    file: PathBuf,
    anchors: Vec<DatedAnchor>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct DatedAnchor {
    anchor: TrustAnchor<'static>,
    /// The first and the last second of its validity, since 1970.
    valid: std::ops::RangeInclusive<i64>,
}

/// Why a CA bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// It is not PEM.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// All of them have expired, or are not valid yet.
    #[error("{}: all of its CAs have expired or are not valid yet: renew them", file.display())]
    Outdated {
        /// The bundle.
        file: PathBuf,
    },
    /// None of its certificates can be a trust anchor.
    #[error("{}: none of its certificates can be used as a CA", file.display())]
    NoAuthority {
        /// The bundle.
        file: PathBuf,
    },
}

// === impl Authorities ===

impl Authorities {
    /// Takes the PEM of `file`. As in Go, certificates that do not parse are ignored.
    pub(crate) fn new(file: &Path, bytes: &[u8]) -> Result<Self, AuthoritiesError> {
        let bundle = pem::certificates(file, bytes)?;
        let anchors: Vec<_> = bundle.iter().filter_map(DatedAnchor::new).collect();
        let ignored = bundle.len() - anchors.len();
        if anchors.is_empty() {
            return Err(AuthoritiesError::NoAuthority {
                file: file.to_owned(),
            });
        }
        if ignored > 0 {
            warn!(file = %file.display(), ignored, "certificates in the bundle do not parse and are ignored");
        }
        Ok(Self {
            file: file.to_owned(),
            anchors,
            algorithms: default_provider().signature_verification_algorithms,
        })
    }

    /// Whether one of the CAs is valid at `now`.
    pub(super) fn check_dates(&self, now: UnixTime) -> Result<(), AuthoritiesError> {
        let second = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        match self.anchors.iter().any(|dated| dated.valid.contains(&second)) {
            true => Ok(()),
            false => Err(AuthoritiesError::Outdated {
                file: self.file.clone(),
            }),
        }
    }

    /// Whether the chain of a server is valid at `now`. Its names are not checked.
    pub(crate) fn vouch_for(
        &self,
        leaf: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let second = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let valid = self.anchors.iter().filter(|dated| dated.valid.contains(&second));
        let roots: RootCertStore = valid.map(|dated| dated.anchor.clone()).collect();
        let algorithms = self.algorithms.all;
        let verified =
            verify_server_cert_signed_by_trust_anchor(leaf, &roots, intermediates, now, algorithms);
        verified.map_err(|error| match (error, self.anchors.len() - roots.len()) {
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), outdated @ 1..) => {
                let file = self.file.display();
                Error::General(format!(
                    "its CA is unknown, or one of the {outdated} in {file} that have expired or are not \
                     valid yet"
                ))
            }
            (error, _) => error,
        })
    }
}

impl DatedAnchor {
    fn new(der: &CertificateDer<'static>) -> Option<Self> {
        let anchor = webpki::anchor_from_trusted_cert(der).ok()?.to_owned();
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            anchor,
            valid: validity.not_before.timestamp()..=validity.not_after.timestamp(),
        })
    }
}

impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        self.vouch_for(&leaf, intermediates, now)?;
        verify_server_name(&leaf, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
