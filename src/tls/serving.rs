//! The listener's certificate and the trust in client certificates, read from files and published as one
//! value.
//!
//! If a file cannot be used, the last good files stay in use, with one exception. A revocation list that
//! cannot be used must not keep a certificate or CA in use that the other files have replaced. The other
//! files are then published with the last good lists, and certificates of a CA that has a list's name but not
//! its key are refused. So a bad list never admits a client.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;

use super::config::{TlsError, certified_key_from_pem, server_config};
use super::judgement::{self, Unfit};
use super::options::ServingOptions;
use super::pem::{self, PemError};
use super::revocation::RevocationError;
use super::trust::{Trust, TrustError};
use crate::files::{self, BUNDLE, DOCUMENT, Guard};
use crate::timestamp::timestamp;

/// The listener's side of TLS. The CA hints of the handshake, the CAs and the revocation lists are one value:
/// no connection sees one without the others.
pub(crate) struct Serving {
    /// The configuration of new handshakes.
    pub config: Arc<ServerConfig>,
    /// The trust that client certificates are judged by; `None` without `authentication.x509.clientCAFile`.
    pub trust: Option<Arc<Trust>>,
    /// When the first certificate of the serving pair expires, as Unix time.
    pub expires: Option<i64>,
    /// What the operator should know about these files.
    pub warnings: Vec<String>,
    /// The certificate that clients see.
    pub chain: Vec<CertificateDer<'static>>,
    files: Vec<Vec<u8>>,
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
    /// A certificate must not be put in force.
    #[error("{key} {}: {source}", path.display())]
    Unfit {
        /// Where the configuration names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Unfit,
    },
    /// A certificate in the client CA file cannot be an anchor.
    #[error("authentication.x509.clientCAFile {}: {source}", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: TrustError,
    },
    /// A revocation list is past its next update, and those in force are not.
    #[error(
        "authentication.x509.crlFiles: one of the lists ended at {}, its next update: fetch the CA's newest",
        timestamp(*at)
    )]
    OutdatedList {
        /// When it ended.
        at: SystemTime,
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

/// Which revocation lists are accepted if a CA of their name is in the bundle.
#[derive(Clone, Copy, PartialEq)]
enum Lists {
    /// Only lists that a CA of that name signed.
    Good,
    /// Lists of any signer: they are the last good ones, and the bundle has changed since.
    OfAnySigner,
}

/// The number of files before the lists: certificate, key and CA bundle. Without a bundle there are no lists.
const BEFORE_LISTS: usize = 3;
const CERT_FILE: &str = "tlsCertFile";
const KEY_FILE: &str = "tlsPrivateKeyFile";
const CLIENT_CA_FILE: &str = "authentication.x509.clientCAFile";
/// The generation of the next trust. Verdicts are remembered with that of the trust that they were made by,
/// so no two of a process may be the same, also if one of them was never published.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);
const CRL_FILES: &str = "authentication.x509.crlFiles";

impl Serving {
    /// Reads `tlsCertFile`, `tlsPrivateKeyFile`, `clientCAFile` and `crlFiles`.
    ///
    /// # Errors
    /// A file is missing or unusable, or the pair does not match.
    pub(crate) fn load(options: &ServingOptions) -> Result<Self, ServingError> {
        Self::build(options, read(sources(options))?, Lists::Good)
    }

    /// Reads the files again, and publishes them if one has changed and all are good: `Ok(true)`. On an error
    /// the last good ones stay in use.
    ///
    /// A revocation list that cannot be used does not keep a CA in use that was removed from the bundle. The
    /// other files are published with the last good lists, and if those are not signed by the new CAs, no
    /// certificate of these CAs is accepted.
    ///
    /// # Errors
    /// A file is missing or unusable, or the pair does not match.
    pub(crate) fn reload(published: &ArcSwap<Self>, options: &ServingOptions) -> Result<bool, ServingError> {
        let current = published.load();
        let mut sources = sources(options);
        let lists = sources.split_off(BEFORE_LISTS.min(sources.len()));
        let rest = read(sources)?;
        let next = read(lists).and_then(|lists| {
            let files = [&rest[..], &lists].concat();
            if files == current.files {
                return Ok(None);
            }
            let next = Self::build(options, files, Lists::Good)?;
            next.check_lists(&current, SystemTime::now())?;
            Ok(Some(next))
        });
        match next {
            Ok(None) => Ok(false),
            Ok(Some(next)) => {
                published.store(Arc::new(next));
                Ok(true)
            }
            Err(error) if error.is_about_lists() && !current.files.starts_with(&rest) => {
                let files = [&rest[..], &current.files[BEFORE_LISTS..]].concat();
                let next = Self::build(options, files, Lists::OfAnySigner)?;
                published.store(Arc::new(next));
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// A list that has expired refuses every client of its CA: it does not replace one that has not.
    fn check_lists(&self, in_force: &Self, now: SystemTime) -> Result<(), ServingError> {
        let end = |serving: &Self| serving.trust.as_ref().and_then(|trust| trust.lists_expire());
        match (end(self), end(in_force)) {
            (Some(at), Some(good)) if at < now && now <= good => Err(ServingError::OutdatedList { at }),
            _ => Ok(()),
        }
    }

    fn build(options: &ServingOptions, files: Vec<Vec<u8>>, lists: Lists) -> Result<Self, ServingError> {
        let pair = certified_key_from_pem(
            (&options.cert_file, &files[0]),
            (&options.private_key_file, &files[1]),
        )?;
        let now = SystemTime::now();
        let judgement = judgement::serving(&pair.cert, now);
        let mut warnings: Vec<_> = judged(CERT_FILE, &options.cert_file, judgement)?.collect();
        let trust = match &options.client_ca_file {
            None => None,
            Some(path) => {
                let bundle = pem::certificates(path, &files[2]).map_err(ServingError::Pem)?;
                warnings.extend(judged(CLIENT_CA_FILE, path, judgement::client_cas(&bundle, now))?);
                Some(Arc::new(trust(options, path, bundle, &files[3..], lists)?))
            }
        };
        let (expires, chain) = (judgement::expiry(&pair.cert), pair.cert.clone());
        let config = server_config(
            pair,
            trust.as_ref(),
            options.client_certificates,
            options.min_version,
            &options.cipher_suites,
        )?;
        Ok(Self {
            config,
            trust,
            expires,
            warnings,
            chain,
            files,
        })
    }
}

impl ServingError {
    fn is_about_lists(&self) -> bool {
        match self {
            Self::CrlPem(_) | Self::OutdatedList { .. } | Self::Revocation { .. } => true,
            Self::Read { key, .. } => *key == CRL_FILES,
            Self::Pem(_) | Self::Tls(_) | Self::Trust { .. } | Self::Unfit { .. } => false,
        }
    }
}

/// The contents of these files.
fn read(sources: Vec<(&'static str, PathBuf)>) -> Result<Vec<Vec<u8>>, ServingError> {
    let read = |(key, path): (&'static str, PathBuf)| {
        let most = match key {
            CLIENT_CA_FILE | CRL_FILES => BUNDLE,
            _ => DOCUMENT,
        };
        let guard = match key {
            KEY_FILE => Guard::Secret,
            _ => Guard::Trusted,
        };
        files::read_guarded(&path, most, guard).map_err(|source| ServingError::Read { key, path, source })
    };
    sources.into_iter().map(read).collect()
}

/// A judgement with the key and the file that it is about.
fn judged(
    key: &'static str,
    path: &Path,
    judgement: Result<Vec<String>, Unfit>,
) -> Result<impl Iterator<Item = String>, ServingError> {
    let warnings = judgement.map_err(|source| ServingError::Unfit {
        key,
        path: path.to_owned(),
        source,
    })?;
    let file = path.display().to_string();
    Ok(warnings
        .into_iter()
        .map(move |warning| format!("{key} {file}: {warning}")))
}

/// The trust in the CAs of `clientCAFile`, which is at `path`. `files` are the contents of `crlFiles`.
fn trust(
    options: &ServingOptions,
    path: &Path,
    bundle: Vec<CertificateDer<'static>>,
    files: &[Vec<u8>],
    lists: Lists,
) -> Result<Trust, ServingError> {
    let generation = GENERATIONS.fetch_add(1, Relaxed);
    let mut trust = Trust::new(bundle, generation).map_err(|source| ServingError::Trust {
        path: path.to_owned(),
        source,
    })?;
    if options.legacy_v1_certificates {
        trust.allow_version1();
    }
    for (path, bytes) in options.crl_files.iter().zip(files) {
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

/// The files with the keys that name them, in a fixed order.
fn sources(options: &ServingOptions) -> Vec<(&'static str, PathBuf)> {
    let mut sources = vec![
        (CERT_FILE, options.cert_file.clone()),
        (KEY_FILE, options.private_key_file.clone()),
    ];
    if let Some(path) = &options.client_ca_file {
        sources.push((CLIENT_CA_FILE, path.clone()));
        let lists = &options.crl_files;
        sources.extend(lists.iter().map(|path| (CRL_FILES, path.clone())));
    }
    sources
}
