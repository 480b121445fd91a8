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
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::authorities::{Authorities, AuthoritiesError};
use super::exec::{IssuedCredential, Plugin};
use super::keys::KubeconfigError;
use super::kubeconfig::{Kubeconfig, ServerUrl};
use super::material::{ClientCertificate, Material};
use crate::files::{BUNDLE, DOCUMENT, Guard, TOKEN};
use crate::looks::{Looks, Reloaded, Unit};
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

/// What the files that a kubeconfig names hold. Each is a unit of its own, and certificate and key are one.
#[derive(Clone)]
pub(super) struct ApiServerFiles {
    authorities: Arc<Unit<()>>,
    token: Arc<Unit<Option<HeaderValue>>>,
    pair: Arc<Unit<Option<PemPair>>>,
}

/// All that a connection is made from. As soon as another endpoint is published, connections of the old one
/// are no longer used. A new token alone does not make a new endpoint, because every request carries the
/// token.
pub(super) struct ApiServerEndpoint {
    pub(super) server: ServerUrl,
    pub(super) server_name: ServerName<'static>,
    pub(super) tls: Arc<ClientConfig>,
    /// What the operator should know about these certificates. The gate starts with ones that have expired:
    /// the kubelet may renew them at any time, and the gate starts without an API server as well.
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
        let parts = Parts {
            authorities: &self.authorities,
            authorization: None,
            pair: None,
        };
        Self::of(source, parts, Some(issued), Some(&self.endpoint))
    }

    /// Of what was read. The endpoint in use is kept if nothing in it has changed.
    pub(super) fn new(
        source: &Kubeconfig,
        files: &ApiServerFiles,
        issued: Option<Arc<IssuedCredential>>,
        in_use: Option<&Arc<ApiServerEndpoint>>,
    ) -> Result<Self, ApiServerError> {
        let parts = Parts {
            authorities: files.authorities(),
            authorization: files.token.value().clone(),
            pair: files.pair.value().clone(),
        };
        Self::of(source, parts, issued, in_use)
    }

    fn of(
        source: &Kubeconfig,
        parts: Parts<'_>,
        issued: Option<Arc<IssuedCredential>>,
        in_use: Option<&Arc<ApiServerEndpoint>>,
    ) -> Result<Self, ApiServerError> {
        let Parts {
            authorities,
            mut authorization,
            mut pair,
        } = parts;
        if let Some(issued) = &issued {
            if authorization.is_none() {
                let read = |token: &Material| header(token, &read(token, TOKEN, Guard::Secret)?);
                authorization = issued.token.as_ref().map(read).transpose()?;
            }
            if pair.is_none() {
                let read = |certificate| Ok(PemPair::new(certificate, &read_pair(certificate)?));
                pair = issued
                    .client_certificate
                    .as_ref()
                    .map(read)
                    .transpose()
                    .map_err(|error: ApiServerError| error)?;
            }
        }
        let fingerprint = fingerprint(source, authorities, pair.as_ref());
        let endpoint = match in_use {
            Some(endpoint) if endpoint.fingerprint == fingerprint => Arc::clone(endpoint),
            _ => {
                let trust = Authorities::new(source.authority.origin(), authorities)?;
                let outdated = trust.check_dates(UnixTime::now()).err();
                let judged = pair.as_ref().map_or_else(|| Ok(Vec::new()), PemPair::judge);
                let mut warnings = judged.unwrap_or_else(|error| vec![error.to_string()]);
                warnings.extend(outdated.map(|error| error.to_string()));
                Arc::new(ApiServerEndpoint {
                    server: source.server.clone(),
                    server_name: source.server_name.clone(),
                    warnings,
                    tls: tls(trust, pair.as_ref())?,
                    fingerprint,
                })
            }
        };
        Ok(Self {
            endpoint,
            authorization,
            plugin: source.plugin.clone(),
            issued,
            authorities: authorities.to_vec(),
        })
    }
}

// === impl ApiServerFiles ===

impl ApiServerFiles {
    /// Reads them. This may take as long as their file systems take.
    pub(super) fn read(source: &Kubeconfig) -> Result<Self, ApiServerError> {
        let found = read_authorities(source)?;
        let authorities = Unit::read(found, |files| check_authorities(source, files).map(drop))?;
        let token = Unit::read(read_token(source)?, |files| token(source, files))?;
        let pair = Unit::read(read_client(source)?, |files| client(source, files))?;
        Ok(Self {
            authorities: authorities.into(),
            token: token.into(),
            pair: pair.into(),
        })
    }

    /// What a look finds of them.
    pub(super) fn next(
        &self,
        source: &Kubeconfig,
        looks: &mut Looks,
        reloaded: &mut Reloaded<ApiServerError>,
    ) -> Self {
        let mut next = self.clone();
        let (found, read) = (read_authorities(source), |files: &[Vec<u8>]| {
            Ok(check_authorities(source, files)?.check_dates(UnixTime::now())?)
        });
        let unit = self.authorities.next("api server CAs", found, looks, read);
        reloaded
            .note(unit)
            .into_iter()
            .for_each(|unit| next.authorities = unit.into());
        let (found, read) = (read_token(source), |files: &[Vec<u8>]| token(source, files));
        let unit = self.token.next("api server token", found, looks, read);
        reloaded
            .note(unit)
            .into_iter()
            .for_each(|unit| next.token = unit.into());
        let (found, read) = (read_client(source), |files: &[Vec<u8>]| {
            let pair = client(source, files)?;
            pair.iter().try_for_each(|pair| pair.judge().map(drop))?;
            Ok(pair)
        });
        let unit = self.pair.next("api server client", found, looks, read);
        reloaded
            .note(unit)
            .into_iter()
            .for_each(|unit| next.pair = unit.into());
        next
    }

    /// Whether they are good now: what has expired never replaces what is good.
    pub(super) fn check_dates(&self, source: &Kubeconfig) -> Result<(), ApiServerError> {
        Authorities::new(source.authority.origin(), self.authorities())?.check_dates(UnixTime::now())?;
        let pair = self.pair.value().iter();
        pair.map(PemPair::judge).try_for_each(|judged| judged.map(drop))
    }

    /// The contents of all of them.
    pub(super) fn contents(&self) -> Vec<Vec<u8>> {
        [self.authorities.files(), self.token.files(), self.pair.files()].concat()
    }

    fn authorities(&self) -> &[u8] {
        self.authorities.files().first().map_or(&[], Vec::as_slice)
    }
}

/// What an access is made of.
struct Parts<'a> {
    authorities: &'a [u8],
    authorization: Option<HeaderValue>,
    pair: Option<PemPair>,
}

fn read_authorities(source: &Kubeconfig) -> Result<Vec<Vec<u8>>, ApiServerError> {
    Ok(vec![read(&source.authority, BUNDLE, Guard::Trusted)?])
}

fn check_authorities(source: &Kubeconfig, files: &[Vec<u8>]) -> Result<Authorities, ApiServerError> {
    Ok(Authorities::new(source.authority.origin(), &files[0])?)
}

fn read_token(source: &Kubeconfig) -> Result<Vec<Vec<u8>>, ApiServerError> {
    let token = source.token.iter();
    token.map(|token| read(token, TOKEN, Guard::Secret)).collect()
}

fn token(source: &Kubeconfig, files: &[Vec<u8>]) -> Result<Option<HeaderValue>, ApiServerError> {
    let token = source.token.as_ref().zip(files.first());
    token.map(|(token, bytes)| header(token, bytes)).transpose()
}

fn read_client(source: &Kubeconfig) -> Result<Vec<Vec<u8>>, ApiServerError> {
    let pair = source.client_certificate.as_ref().map(read_pair);
    Ok(pair.transpose()?.map(Vec::from).unwrap_or_default())
}

fn client(source: &Kubeconfig, files: &[Vec<u8>]) -> Result<Option<PemPair>, ApiServerError> {
    let (Some(certificate), [chain, key]) = (&source.client_certificate, files) else {
        return Ok(None);
    };
    let pair = PemPair::new(certificate, &[chain.clone(), key.clone()]);
    pair.certified()?;
    Ok(Some(pair))
}

/// The `Authorization` header for a token. Surrounding white space is removed, as in client-go.
fn header(token: &Material, bytes: &[u8]) -> Result<HeaderValue, ApiServerError> {
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
#[derive(Clone)]
struct PemPair {
    certificate: ClientCertificate,
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl PemPair {
    fn new(certificate: &ClientCertificate, [chain, key]: &[Vec<u8>; 2]) -> Self {
        Self {
            certificate: certificate.clone(),
            chain: chain.clone(),
            key: key.clone(),
        }
    }

    /// Judges the certificate as one for the API server. Yields warnings.
    fn judge(&self) -> Result<Vec<String>, ApiServerError> {
        let file = self.certificate.chain.origin();
        let chain = pem::certificates(file, &self.chain)?;
        let judged = judgement::client(&chain, SystemTime::now());
        let warnings = judged.map_err(|source| ApiServerError::Unfit {
            file: file.to_owned(),
            source,
        })?;
        let name = |warning| format!("{}: {warning}", file.display());
        Ok(warnings.into_iter().map(name).collect())
    }

    /// Also compares the key with the certificate.
    fn certified(&self) -> Result<Arc<CertifiedKey>, ApiServerError> {
        let ClientCertificate {
            chain: chain_file,
            key: key_file,
        } = &self.certificate;
        let chain = pem::certificates(chain_file.origin(), &self.chain)?;
        let key = pem::private_key(key_file.origin(), &self.key)?;
        certified_key(chain, key).map_err(|source| ApiServerError::Pair {
            certificate: chain_file.origin().to_owned(),
            key: key_file.origin().to_owned(),
            source,
        })
    }
}

/// `kubelet-client-current.pem` holds both, and a symlink switches it. It is read once: with two readings,
/// certificate and key could be of different pairs.
fn read_pair(certificate: &ClientCertificate) -> Result<[Vec<u8>; 2], ApiServerError> {
    let key = read(&certificate.key, DOCUMENT, Guard::Secret)?;
    let chain = match (&certificate.chain, &certificate.key) {
        (Material::File(chain_file), Material::File(key_file)) if chain_file == key_file => key.clone(),
        (chain, _) => read(chain, DOCUMENT, Guard::Trusted)?,
    };
    Ok([chain, key])
}

fn read(material: &Material, most: u64, guard: Guard) -> Result<Vec<u8>, ApiServerError> {
    material.read(most, guard).map_err(|source| ApiServerError::Read {
        file: material.origin().to_owned(),
        source,
    })
}

fn tls(authorities: Authorities, pair: Option<&PemPair>) -> Result<Arc<ClientConfig>, ApiServerError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ApiServerError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(authorities));
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.certified()?))),
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
