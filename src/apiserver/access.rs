//! All that a request to the API server needs, read from the files and validated as a whole.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use http::HeaderValue;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;

use super::authorities::{Authorities, AuthoritiesError};
use super::exec::{IssuedCredential, Plugin};
use super::keys::KubeconfigError;
use super::kubeconfig::{Kubeconfig, ServerUrl};
use super::material::{ClientCertificate, Material};
use crate::files::{BUNDLE, DOCUMENT, Guard, TOKEN};
use crate::tls::pem::{self, PemError};
use crate::tls::{TlsError, Unfit, certified_key, judgement};

/// All that a request needs, from one reading of the files.
#[derive(Clone)]
pub(super) struct ApiServerAccess {
    pub(super) endpoint: Arc<ApiServerEndpoint>,
    /// `Authorization`, if there is a token; marked sensitive.
    pub(super) authorization: Option<HeaderValue>,
    /// The exec plugin, if the kubeconfig names one.
    pub(super) plugin: Option<Arc<Plugin>>,
    /// The credential that the plugin issued; `None` if it has not run yet.
    pub(super) issued: Option<Arc<IssuedCredential>>,
    /// The CA bundle as read. The plugin may ask for it.
    pub(super) authorities: Vec<u8>,
}

/// What the files that a kubeconfig names hold.
pub(super) struct ApiServerFiles {
    authorities: Vec<u8>,
    authorization: Option<HeaderValue>,
    pair: Option<PemPair>,
}

/// All that a connection is made from. As soon as another endpoint is published, connections of the old one
/// are no longer used. A new token alone does not make a new endpoint, because every request carries the
/// token.
pub(super) struct ApiServerEndpoint {
    pub(super) server: ServerUrl,
    pub(super) server_name: ServerName<'static>,
    pub(super) tls: Arc<ClientConfig>,
    /// What the operator should know about these certificates. The gate starts with ones that have expired: the
    /// kubelet may renew them at any time, and the gate starts without an API server as well.
    pub(super) warnings: Vec<String>,
    fingerprint: [u8; 32],
}

/// Why credentials cannot be used for a new `ApiServer`, or on a reload.
#[derive(Debug, thiserror::Error)]
pub enum ApiServerError {
    /// The kubeconfig cannot be used any more.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate or key does not parse.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The CA bundle cannot be used.
    #[error(transparent)]
    Authorities(#[from] AuthoritiesError),
    /// Certificate and key do not belong together, or the kind of key is not supported.
    #[error("{} with {}: {source}", certificate.display(), key.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What is wrong with them.
        source: TlsError,
    },
    /// The API server would refuse the client certificate.
    #[error("{}: {source}", file.display())]
    Unfit {
        /// The file.
        file: PathBuf,
        /// Why.
        source: Unfit,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
    /// A token is empty, or no header can carry it.
    #[error("{}: {problem}", file.display())]
    Token {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
}

// === impl ApiServerAccess ===

impl ApiServerAccess {
    /// The same access with a credential that a plugin issued. No file is read: a kubeconfig with a plugin
    /// names no other credential.
    pub(super) fn with(
        &self,
        source: &Kubeconfig,
        issued: Arc<IssuedCredential>,
    ) -> Result<Self, ApiServerError> {
        let files = ApiServerFiles {
            authorities: self.authorities.clone(),
            authorization: None,
            pair: None,
        };
        Self::new(source, files, Some(issued), Some(&self.endpoint))
    }

    /// Validates what was read. The endpoint in use is kept if nothing in it has changed.
    pub(super) fn new(
        source: &Kubeconfig,
        files: ApiServerFiles,
        issued: Option<Arc<IssuedCredential>>,
        in_use: Option<&Arc<ApiServerEndpoint>>,
    ) -> Result<Self, ApiServerError> {
        let ApiServerFiles {
            authorities,
            mut authorization,
            mut pair,
        } = files;
        if let Some(issued) = &issued {
            if authorization.is_none() {
                authorization = issued.token.as_ref().map(header).transpose()?;
            }
            if pair.is_none() {
                pair = issued.client_certificate.as_ref().map(read_pair).transpose()?;
            }
        }
        let fingerprint = fingerprint(source, &authorities, pair.as_ref());
        let endpoint = match in_use {
            Some(endpoint) if endpoint.fingerprint == fingerprint => Arc::clone(endpoint),
            _ => {
                let trust = Authorities::new(source.authority.origin(), &authorities)?;
                let outdated = trust.check_dates(UnixTime::now()).err();
                let mut warnings = judged(pair.as_ref()).unwrap_or_else(|error| vec![error.to_string()]);
                warnings.extend(outdated.map(|error| error.to_string()));
                Arc::new(ApiServerEndpoint {
                    server: source.server.clone(),
                    server_name: source.server_name.clone(),
                    warnings,
                    tls: tls(trust, pair)?,
                    fingerprint,
                })
            }
        };
        Ok(Self {
            endpoint,
            authorization,
            plugin: source.plugin.clone(),
            issued,
            authorities,
        })
    }
}

// === impl ApiServerFiles ===

impl ApiServerFiles {
    /// Whether they may replace those of `in_use`: an expired certificate never replaces a good one.
    pub(super) fn check_dates(
        &self,
        source: &Kubeconfig,
        in_use: &ApiServerEndpoint,
    ) -> Result<(), ApiServerError> {
        if in_use.fingerprint == fingerprint(source, &self.authorities, self.pair.as_ref()) {
            return Ok(());
        }
        Authorities::new(source.authority.origin(), &self.authorities)?.check_dates(UnixTime::now())?;
        judged(self.pair.as_ref()).map(drop)
    }

    /// Reads them. This may take as long as their file systems take.
    pub(super) fn read(source: &Kubeconfig) -> Result<Self, ApiServerError> {
        Ok(Self {
            authorities: read(&source.authority, BUNDLE, Guard::Trusted)?,
            authorization: source.token.as_ref().map(header).transpose()?,
            pair: source.client_certificate.as_ref().map(read_pair).transpose()?,
        })
    }
}

/// Judges a client certificate. Yields warnings.
fn judged(pair: Option<&PemPair>) -> Result<Vec<String>, ApiServerError> {
    let Some(pair) = pair else {
        return Ok(Vec::new());
    };
    let file = pair.certificate.chain.origin();
    let chain = pem::certificates(file, &pair.chain)?;
    let warnings = judgement::client(&chain, SystemTime::now()).map_err(|source| ApiServerError::Unfit {
        file: file.to_owned(),
        source,
    })?;
    let name = |warning| format!("{}: {warning}", file.display());
    Ok(warnings.into_iter().map(name).collect())
}

/// The `Authorization` header for a token. Surrounding white space is removed, as in client-go.
fn header(token: &Material) -> Result<HeaderValue, ApiServerError> {
    let bytes = read(token, TOKEN, Guard::Secret)?;
    let refuse = |problem| ApiServerError::Token {
        file: token.origin().to_owned(),
        problem,
    };
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return Err(refuse("the token is empty"));
    }
    let mut header = HeaderValue::from_bytes(&[b"Bearer ", bytes].concat())
        .map_err(|_| refuse("the token has a character that no header can carry"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Certificates and key as PEM.
struct PemPair {
    certificate: ClientCertificate,
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// `kubelet-client-current.pem` holds both, and a symlink switches it. It is read once: with two readings,
/// certificate and key could be of different pairs.
fn read_pair(certificate: &ClientCertificate) -> Result<PemPair, ApiServerError> {
    let key = read(&certificate.key, DOCUMENT, Guard::Secret)?;
    let chain = match (&certificate.chain, &certificate.key) {
        (Material::File(chain_file), Material::File(key_file)) if chain_file == key_file => key.clone(),
        (chain, _) => read(chain, DOCUMENT, Guard::Trusted)?,
    };
    Ok(PemPair {
        certificate: certificate.clone(),
        chain,
        key,
    })
}

fn read(material: &Material, most: u64, guard: Guard) -> Result<Vec<u8>, ApiServerError> {
    material.read(most, guard).map_err(|source| ApiServerError::Read {
        file: material.origin().to_owned(),
        source,
    })
}

fn tls(authorities: Authorities, pair: Option<PemPair>) -> Result<Arc<ClientConfig>, ApiServerError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ApiServerError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(authorities));
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some(PemPair {
            certificate:
                ClientCertificate {
                    chain: chain_file,
                    key: key_file,
                },
            chain,
            key,
        }) => {
            let chain = pem::certificates(chain_file.origin(), &chain)?;
            let key = pem::private_key(key_file.origin(), &key)?;
            // Also compares the key with the certificate.
            let pair = certified_key(chain, key).map_err(|source| ApiServerError::Pair {
                certificate: chain_file.origin().to_owned(),
                key: key_file.origin().to_owned(),
                source,
            })?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would not verify the server again.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A digest that tells endpoints apart, without a second copy of the key.
fn fingerprint(source: &Kubeconfig, authorities: &[u8], pair: Option<&PemPair>) -> [u8; 32] {
    let ServerUrl {
        host,
        port,
        authority,
        prefix,
    } = &source.server;
    let server_name = source.server_name.to_str();
    let (chain, key) = pair.map_or((&[][..], &[][..]), |pair| (&pair.chain, &pair.key));
    let port = port.to_be_bytes();
    let fields: [&[u8]; 8] = [
        host.as_bytes(),
        &port,
        authority.as_bytes(),
        prefix.as_bytes(),
        server_name.as_bytes(),
        authorities,
        chain,
        key,
    ];
    let mut context = digest::Context::new(&digest::SHA256);
    for field in fields {
        context.update(&(field.len() as u64).to_be_bytes());
        context.update(field);
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}
