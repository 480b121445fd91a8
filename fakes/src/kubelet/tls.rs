//! The fake kubelet's side of TLS: its certificate, and the CAs of the client certificates that it accepts.

use std::io;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// The client certificates that the kubelet accepts.
#[derive(Clone, Debug)]
pub struct ClientCa {
    /// The trust anchors. A certificate of another CA fails the handshake.
    pub roots: Vec<CertificateDer<'static>>,
    /// A client without a certificate fails the handshake. If false, its requests are answered 401, unless
    /// they have the token.
    pub mandatory: bool,
}

/// The TLS configuration and the parts that it is made of, since each part can be replaced.
pub(super) struct Tls {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) client_ca: Option<ClientCa>,
    pub(super) config: Arc<ServerConfig>,
}

// === impl Tls ===

impl Tls {
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        client_ca: Option<ClientCa>,
    ) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .map_err(io::Error::other)?;
        let builder = match &client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                for root in &ca.roots {
                    roots.add(root.clone()).map_err(io::Error::other)?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = if ca.mandatory {
                    verifier
                } else {
                    verifier.allow_unauthenticated()
                };
                builder.with_client_cert_verifier(verifier.build().map_err(io::Error::other)?)
            }
        };
        // No ALPN, and therefore HTTP/1.1 only, as measured on a kubelet 1.36.
        let config = builder
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(io::Error::other)?;
        Ok(Self {
            chain,
            key,
            client_ca,
            config: Arc::new(config),
        })
    }
}
