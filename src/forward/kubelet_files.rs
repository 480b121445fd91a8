//! The files of `upstream:`: how the kubelet proves itself, and what the gate shows it.
//!
//! What must match is one unit: the pin or the CAs, the client certificate with its key, the token. A unit
//! that cannot be used keeps its last good files, and the others are taken up all the same.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::HeaderValue;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;

use crate::files::{self, BUNDLE, Guard, TOKEN};
use crate::looks::{Looks, Reloaded, Unit};
use crate::settings::{self, UpstreamTrust};
use crate::tls::{self, UpstreamVerification, judgement, pem};

/// The files of `upstream:`, each with those that it must match.
#[derive(Clone)]
pub(super) struct KubeletUnits {
    /// The pin, or the CAs with the name to look for; `None` for `http://` and `unix://`.
    pub(super) trust: Arc<Unit<Option<(UpstreamVerification, ServerName<'static>)>>>,
    pub(super) client: Arc<Unit<Option<Arc<CertifiedKey>>>>,
    pub(super) authorization: Arc<Unit<Option<HeaderValue>>>,
}

/// The files of `upstream:` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// A file cannot be read.
    #[error("{key}: cannot read {}: {source}", path.display())]
    Read {
        /// Where the configuration names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not PEM of the right kind.
    #[error("{key}: {source}")]
    Pem {
        /// Where the configuration names it.
        key: &'static str,
        /// Why not.
        source: pem::PemError,
    },
    /// The kubelet would refuse the client certificate.
    #[error("{CERTIFICATE_FILE} {}: {source}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why.
        source: tls::Unfit,
    },
    /// Certificate, key or CA do not make a TLS client.
    #[error("upstream: {0}")]
    Tls(#[from] tls::TlsError),
    /// `upstream.serverName` is neither a DNS name nor an address.
    #[error("upstream.serverName: {0:?} is neither a DNS name nor an IP address")]
    ServerName(String),
    /// The token file does not hold a token.
    #[error("upstream.tokenFile: {} holds no token that can be sent in a header", .0.display())]
    Token(PathBuf),
}

const CERTIFICATE_FILE: &str = "upstream.clientCertificateFile";
const KEY_FILE: &str = "upstream.clientKeyFile";
const TOKEN_FILE: &str = "upstream.tokenFile";

// === impl KubeletUnits ===

impl KubeletUnits {
    pub(super) fn read(settings: &settings::Upstream) -> Result<Self, KubeletError> {
        let found = |sources| read_files(sources);
        Ok(Self {
            trust: Unit::read(found(trust_sources(settings))?, |files| trust(settings, files))?.into(),
            client: Unit::read(found(client_sources(settings))?, |files| client(settings, files))?.into(),
            authorization: Unit::read(found(token_sources(settings))?, |files| token(settings, files))?
                .into(),
        })
    }

    /// What a look finds of them; `None` if nothing is to be taken up.
    pub(super) fn next(
        &self,
        settings: &settings::Upstream,
        looks: &mut Looks,
        reloaded: &mut Reloaded<KubeletError>,
    ) -> Option<Self> {
        let mut next = self.clone();
        let found = read_files(trust_sources(settings));
        let read = |files: &[Vec<u8>]| trust(settings, files);
        let trust = reloaded.note(self.trust.next("upstream trust", found, looks, read));
        let found = read_files(client_sources(settings));
        let read = |files: &[Vec<u8>]| client(settings, files);
        let client = reloaded.note(self.client.next("upstream client", found, looks, read));
        let found = read_files(token_sources(settings));
        let read = |files: &[Vec<u8>]| token(settings, files);
        let token = reloaded.note(self.authorization.next("upstream token", found, looks, read));
        let changed = trust.is_some() || client.is_some() || token.is_some();
        trust.into_iter().for_each(|unit| next.trust = unit.into());
        client.into_iter().for_each(|unit| next.client = unit.into());
        token
            .into_iter()
            .for_each(|unit| next.authorization = unit.into());
        changed.then_some(next)
    }
}

/// The contents of these files, which the configuration names by these keys.
fn read_files(sources: Vec<(&'static str, PathBuf)>) -> Result<Vec<Vec<u8>>, KubeletError> {
    let read = |(key, path): (&'static str, PathBuf)| {
        let most = match key {
            TOKEN_FILE => TOKEN,
            _ => BUNDLE,
        };
        let guard = match key {
            TOKEN_FILE | KEY_FILE => Guard::Secret,
            _ => Guard::Trusted,
        };
        files::read_guarded(&path, most, guard).map_err(|source| KubeletError::Read { key, path, source })
    };
    sources.into_iter().map(read).collect()
}

fn trust_sources(settings: &settings::Upstream) -> Vec<(&'static str, PathBuf)> {
    match &settings.trust {
        None => Vec::new(),
        Some(UpstreamTrust::Pinned(path)) => vec![("upstream.certificateFile", path.clone())],
        Some(UpstreamTrust::Ca { ca_file, .. }) => vec![("upstream.caFile", ca_file.clone())],
    }
}

fn trust(
    settings: &settings::Upstream,
    files: &[Vec<u8>],
) -> Result<Option<(UpstreamVerification, ServerName<'static>)>, KubeletError> {
    let (verification, name) = match &settings.trust {
        None => return Ok(None),
        Some(UpstreamTrust::Pinned(path)) => {
            let pinned = certificates("upstream.certificateFile", path, &files[0])?;
            let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
            (UpstreamVerification::Pinned(pinned), name)
        }
        Some(UpstreamTrust::Ca { ca_file, server_name }) => {
            let roots = certificates("upstream.caFile", ca_file, &files[0])?;
            let name = ServerName::try_from(server_name.clone())
                .map_err(|_| KubeletError::ServerName(server_name.clone()))?;
            (UpstreamVerification::Ca { roots }, name)
        }
    };
    // Here, so that a bad CA does not keep a new client certificate out.
    tls::upstream_config(&verification, None)?;
    Ok(Some((verification, name)))
}

fn client_sources(settings: &settings::Upstream) -> Vec<(&'static str, PathBuf)> {
    match &settings.credentials.client_certificate {
        None => Vec::new(),
        Some((certificate_file, key_file)) => vec![
            (CERTIFICATE_FILE, certificate_file.clone()),
            (KEY_FILE, key_file.clone()),
        ],
    }
}

fn client(
    settings: &settings::Upstream,
    files: &[Vec<u8>],
) -> Result<Option<Arc<CertifiedKey>>, KubeletError> {
    let Some((certificate_file, key_file)) = &settings.credentials.client_certificate else {
        return Ok(None);
    };
    let chain = certificates(CERTIFICATE_FILE, certificate_file, &files[0])?;
    judgement::client(&chain, SystemTime::now()).map_err(|source| KubeletError::Unfit {
        path: certificate_file.clone(),
        source,
    })?;
    let key = pem::private_key(key_file, &files[1]).map_err(|source| KubeletError::Pem {
        key: KEY_FILE,
        source,
    })?;
    Ok(Some(tls::certified_key(chain, key)?))
}

fn token_sources(settings: &settings::Upstream) -> Vec<(&'static str, PathBuf)> {
    let path = settings.credentials.token_file.iter();
    path.map(|path| (TOKEN_FILE, path.clone())).collect()
}

fn token(settings: &settings::Upstream, files: &[Vec<u8>]) -> Result<Option<HeaderValue>, KubeletError> {
    let Some(path) = &settings.credentials.token_file else {
        return Ok(None);
    };
    let token = bearer(&files[0]).ok_or_else(|| KubeletError::Token(path.clone()))?;
    Ok(Some(token))
}

fn certificates(
    key: &'static str,
    path: &std::path::Path,
    bytes: &[u8],
) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, KubeletError> {
    pem::certificates(path, bytes).map_err(|source| KubeletError::Pem { key, source })
}

fn bearer(token: &[u8]) -> Option<HeaderValue> {
    let token = token.trim_ascii();
    if token.is_empty() {
        return None;
    }
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
    value.set_sensitive(true);
    Some(value)
}
