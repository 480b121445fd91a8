//! What the listener shows and trusts, read from files and published as one value.
//!
//! Bad files change nothing, with one exception: a revocation list that cannot be used keeps no certificate and no CA in
//! force that the other files have replaced. These are published with the last good lists, and whoever is of a CA that a
//! list is of by its name but not by its key is refused. So whatever is wrong with a list, it lets nobody in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::config::{TlsError, certified_key_from_pem, server_config};
use super::pem::{self, PemError};
use super::revocation::RevocationError;
use super::trust::{Trust, TrustError};
use crate::settings::Settings;

/// The listener's side of TLS. The handshake's CA hints, the CAs and the revocation lists that certificates are judged
/// by are one value, so that no connection sees the one without the other.
pub struct Serving {
    /// For handshakes from now on.
    pub config: Arc<ServerConfig>,
    /// What client certificates are judged by, now; `None` without `authentication.x509.clientCAFile`.
    pub trust: Option<Arc<Trust>>,
    /// When the first certificate of the serving pair ends, as Unix time.
    pub expires: Option<i64>,
    files: Vec<Vec<u8>>,
    generation: u64,
}

/// The serving pair or the client CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
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
    /// The client CA file is not a bundle of certificates.
    #[error("authentication.x509.clientCAFile: {0}")]
    Pem(PemError),
    /// A revocation list's file is not one.
    #[error("authentication.x509.crlFiles: {0}")]
    CrlPem(PemError),
    /// Certificate and key do not make a TLS server.
    #[error("tlsCertFile, tlsPrivateKeyFile: {0}")]
    Tls(#[from] TlsError),
    /// A certificate in the client CA file cannot be an anchor.
    #[error("authentication.x509.clientCAFile {}: {source}", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: TrustError,
    },
    /// A revocation list cannot be used.
    #[error("authentication.x509.crlFiles {}: {source}", path.display())]
    Revocation {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: RevocationError,
    },
}

/// What revocation lists must be when a CA of their name is in the bundle.
#[derive(Clone, Copy, PartialEq)]
enum Lists {
    /// Signed by a CA of that name.
    Good,
    /// Signed by anybody: they are the last good ones, beside a bundle that has changed since.
    OfAnySigner,
}

/// Certificate, key and CA bundle come before the lists, for which there must be a bundle.
const BEFORE_LISTS: usize = 3;
const CRL_FILES: &str = "authentication.x509.crlFiles";

impl Serving {
    /// Reads `tlsCertFile`, `tlsPrivateKeyFile`, `clientCAFile` and `crlFiles`.
    ///
    /// # Errors
    /// A file is missing or unusable, or the pair does not match.
    pub fn load(settings: &Settings) -> Result<Self, ServingError> {
        Self::build(settings, read(sources(settings))?, 0, Lists::Good)
    }

    /// The files that [`Self::load`] reads.
    pub fn files(settings: &Settings) -> Vec<PathBuf> {
        sources(settings).into_iter().map(|(_, path)| path).collect()
    }

    /// Reads the files again and publishes them if anything changed and all of it is good; else the last good stays.
    /// `Ok(true)` if something changed.
    ///
    /// A revocation list that cannot be used keeps no CA in force that has been taken out of the bundle: the rest is
    /// published with the last lists that could be read, and if those are not of the new CAs, nobody of these is believed.
    ///
    /// # Errors
    /// A file is missing or unusable, or the pair does not match.
    pub fn reload(published: &ArcSwap<Self>, settings: &Settings) -> Result<bool, ServingError> {
        let current = published.load();
        let generation = current.generation + 1;
        let mut sources = sources(settings);
        let lists = sources.split_off(BEFORE_LISTS.min(sources.len()));
        let rest = read(sources)?;
        let next = read(lists).and_then(|lists| {
            let files = [&rest[..], &lists].concat();
            if files == current.files {
                return Ok(None);
            }
            Self::build(settings, files, generation, Lists::Good).map(Some)
        });
        match next {
            Ok(None) => Ok(false),
            Ok(Some(next)) => {
                published.store(Arc::new(next));
                Ok(true)
            }
            Err(error) if error.is_about_lists() && !current.files.starts_with(&rest) => {
                let files = [&rest[..], &current.files[BEFORE_LISTS..]].concat();
                let next = Self::build(settings, files, generation, Lists::OfAnySigner)?;
                published.store(Arc::new(next));
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    fn build(
        settings: &Settings,
        files: Vec<Vec<u8>>,
        generation: u64,
        lists: Lists,
    ) -> Result<Self, ServingError> {
        let tls = &settings.tls;
        let pair = certified_key_from_pem((&tls.cert_file, &files[0]), (&tls.private_key_file, &files[1]))?;
        let trust = match &settings.authentication.client_ca_file {
            None => None,
            Some(path) => Some(Arc::new(trust(settings, path, &files[2..], generation, lists)?)),
        };
        let expires = pair
            .cert
            .iter()
            .filter_map(|certificate| not_after(certificate))
            .min();
        let config = server_config(
            pair,
            trust.as_deref(),
            settings.authentication.client_certificates,
            tls.min_version,
            &tls.cipher_suites,
        )?;
        Ok(Self {
            config,
            trust,
            expires,
            files,
            generation,
        })
    }
}

impl ServingError {
    fn is_about_lists(&self) -> bool {
        match self {
            Self::CrlPem(_) | Self::Revocation { .. } => true,
            Self::Read { key, .. } => *key == CRL_FILES,
            Self::Pem(_) | Self::Tls(_) | Self::Trust { .. } => false,
        }
    }
}

/// What these files hold.
fn read(sources: Vec<(&'static str, PathBuf)>) -> Result<Vec<Vec<u8>>, ServingError> {
    let read = |(key, path): (&'static str, PathBuf)| {
        std::fs::read(&path).map_err(|source| ServingError::Read { key, path, source })
    };
    sources.into_iter().map(read).collect()
}

/// What `clientCAFile` and `crlFiles` hold, in this order in `files`.
fn trust(
    settings: &Settings,
    path: &Path,
    files: &[Vec<u8>],
    generation: u64,
    lists: Lists,
) -> Result<Trust, ServingError> {
    let authentication = &settings.authentication;
    let bundle = pem::certificates(path, &files[0]).map_err(ServingError::Pem)?;
    let mut trust = Trust::new(bundle, generation).map_err(|source| ServingError::Trust {
        path: path.to_owned(),
        source,
    })?;
    if authentication.legacy_v1_certificates {
        trust.allow_version1();
    }
    for (path, bytes) in authentication.crl_files.iter().zip(&files[1..]) {
        for list in pem::revocation_lists(path, bytes).map_err(ServingError::CrlPem)? {
            trust
                .add_revocation_list(&list, lists == Lists::OfAnySigner)
                .map_err(|source| ServingError::Revocation {
                    path: path.clone(),
                    source,
                })?;
        }
    }
    Ok(trust)
}

/// When a certificate ends, as Unix time.
fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// The files with their keys, in a fixed order.
fn sources(settings: &Settings) -> Vec<(&'static str, PathBuf)> {
    let mut sources = vec![
        ("tlsCertFile", settings.tls.cert_file.clone()),
        ("tlsPrivateKeyFile", settings.tls.private_key_file.clone()),
    ];
    if let Some(path) = &settings.authentication.client_ca_file {
        sources.push(("authentication.x509.clientCAFile", path.clone()));
        let lists = &settings.authentication.crl_files;
        sources.extend(lists.iter().map(|path| (CRL_FILES, path.clone())));
    }
    sources
}
