//! The client's side of TLS.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{Alpn, ClientError, ClientTls};

/// The TLS configuration of a client.
#[derive(Clone)]
pub(super) struct TlsSettings {
    pub(super) config: Arc<ClientConfig>,
    /// The same for upgrades, which are HTTP/1.1.
    pub(super) h1_config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
    pub(super) alpn: Alpn,
}

/// Accepts any certificate, as a client of a kubelet with a self-signed certificate has to. The server must
/// still prove that it has the key.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

// === impl TlsSettings ===

impl TlsSettings {
    pub(super) fn new(tls: ClientTls) -> Result<Self, ClientError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let name =
            ServerName::try_from(tls.server_name).map_err(|error| ClientError::Setup(error.to_string()))?;
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(tls.versions)
            .map_err(ClientError::Tls)?;
        let builder = match tls.roots {
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAny(provider.clone()))),
            Some(anchors) => {
                let mut roots = RootCertStore::empty();
                for anchor in anchors {
                    roots.add(anchor).map_err(ClientError::Tls)?;
                }
                builder.with_root_certificates(roots)
            }
        };
        let mut config = match tls.certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = provider
                    .key_provider
                    .load_private_key(key)
                    .map_err(ClientError::Tls)?;
                // Certificate and key are not compared: tests use a certificate with the key of another.
                let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
                builder.with_client_cert_resolver(Arc::new(shown))
            }
        };
        config.alpn_protocols = match tls.alpn {
            Alpn::Absent => vec![],
            Alpn::H1 => vec![b"http/1.1".to_vec()],
            Alpn::H2 => vec![b"h2".to_vec()],
        };
        let mut h1_config = config.clone();
        if tls.alpn == Alpn::H2 {
            h1_config.alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        Ok(Self {
            config: Arc::new(config),
            h1_config: Arc::new(h1_config),
            name,
            alpn: tls.alpn,
        })
    }
}

// === impl AcceptAny ===

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
