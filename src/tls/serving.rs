//! The listener's certificate and the trust in client certificates, read from files and published as one
//! value.
//!
//! What must match is one unit: certificate and key; the client CAs and their revocation lists. If a file
//! cannot be used, the last good files of its unit stay in use, and the other unit is taken up all the same.
//! There is one exception. A revocation list that cannot be used must not keep a CA in use that was replaced.
//! The bundle is then published with the last good lists, and certificates of a CA that has a list's name but
//! not its key are refused. So a bad list never admits a client.
//!
//! A bundle of lists may be read while it is being written, and then has a list less: the issuer of that list
//! would revoke nothing. By the clock no list is therefore let go whose issuer may still be accepted.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use super::config::{TlsError, certified_key_from_pem, server_config};
use super::judgement::{self, Unfit};
use super::options::{ClientCertificates, ServingOptions};
use super::pem::{self, PemError};
use super::revocation::RevocationError;
use super::trust::{Trust, TrustError};
use crate::files::{self, BUNDLE, DOCUMENT, Guard};
use crate::looks::{Looks, Reloaded, Trigger, Unit};
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
    pair: Arc<Unit<Arc<CertifiedKey>>>,
    trusted: Option<Arc<Unit<Arc<Trust>>>>,
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
    /// A list is gone or has become older, and the clock may not let it go.
    #[error(
        "authentication.x509.crlFiles: no list of {issuers} as new as the one in force, so that what that \
         one revokes may no longer be refused: put it back, fetch the CA's newest, or let it go by SIGHUP"
    )]
    ListGone {
        /// Its issuer, or those of several.
        issuers: String,
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
        Self::of(options, Self::contents(options)?)
    }

    /// The contents of the files that `options` names, for [`Self::of`].
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn contents(options: &ServingOptions) -> Result<Vec<Vec<u8>>, ServingError> {
        let mut files = read(pair_sources(options))?;
        if let Some(path) = &options.client_ca_file {
            files.extend(read(vec![(CLIENT_CA_FILE, path.clone())])?);
            files.extend(read(list_sources(options))?);
        }
        Ok(files)
    }

    /// Of files that were read.
    ///
    /// # Errors
    /// A file is unusable, or the pair does not match.
    pub(crate) fn of(options: &ServingOptions, mut files: Vec<Vec<u8>>) -> Result<Self, ServingError> {
        let trusted = files.split_off(pair_sources(options).len());
        let pair = Unit::read(files, |files| pair(options, files))?;
        let trusted = match &options.client_ca_file {
            None => None,
            Some(path) => {
                let read = |files: &[Vec<u8>]| trust(options, path, files, Lists::Good);
                Some(Arc::new(Unit::read(trusted, read)?))
            }
        };
        Self::assemble(options, Arc::new(pair), trusted)
    }

    /// Reads the files again, and publishes what has changed and is good.
    pub(crate) fn reload(
        published: &ArcSwap<Self>,
        options: &ServingOptions,
        looks: &mut Looks,
    ) -> Reloaded<ServingError> {
        let current = published.load_full();
        let mut reloaded = Reloaded::default();
        let found = read(pair_sources(options));
        let next = current
            .pair
            .next("pair", found, looks, |files| pair(options, files));
        let pair = reloaded.note(next).map(Arc::new);
        let trusted = match (&current.trusted, &options.client_ca_file) {
            (Some(trusted), Some(path)) => next_trust(trusted, options, path, looks, &mut reloaded),
            _ => None,
        };
        if pair.is_none() && trusted.is_none() {
            return reloaded;
        }
        let pair = pair.unwrap_or_else(|| current.pair.clone());
        let trusted = trusted.map(Arc::new).or_else(|| current.trusted.clone());
        match Self::assemble(options, pair, trusted) {
            Ok(next) => {
                published.store(Arc::new(next));
                reloaded.changed = true;
            }
            Err(error) => reloaded.problems.push(error),
        }
        reloaded
    }

    /// What is loosened by revocation lists of `before` that are gone.
    ///
    /// # Errors
    /// The clock may not let one go.
    pub(crate) fn lists_lost(&self, before: &Self, trigger: Trigger) -> Result<Vec<String>, ServingError> {
        match (&self.trust, &before.trust) {
            (Some(trust), Some(before)) => lists_lost(trust, before, trigger),
            _ => Ok(Vec::new()),
        }
    }

    /// The certificate that clients see, and those above it.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.pair.value().cert
    }

    /// What the operator should know about these files, which `options` name.
    pub(crate) fn warnings(&self, options: &ServingOptions) -> Vec<String> {
        let now = SystemTime::now();
        let pair = judgement::serving(self.chain(), now);
        let mut warnings = with_place(CERT_FILE, &options.cert_file, pair);
        if let (Some(trust), Some(path)) = (&self.trust, &options.client_ca_file) {
            let cas = judgement::client_cas(trust.bundle(), now);
            warnings.extend(with_place(CLIENT_CA_FILE, path, cas));
        }
        warnings
    }

    fn assemble(
        options: &ServingOptions,
        pair: Arc<Unit<Arc<CertifiedKey>>>,
        trusted: Option<Arc<Unit<Arc<Trust>>>>,
    ) -> Result<Self, ServingError> {
        let trust = trusted.as_ref().map(|trusted| trusted.value().clone());
        let expires = judgement::expiry(&pair.value().cert);
        let config = server_config(
            pair.value().clone(),
            trust.as_ref(),
            options.client_certificates,
            options.min_version,
            &options.cipher_suites,
        )?;
        Ok(Self {
            config,
            trust,
            expires,
            pair,
            trusted,
        })
    }
}

impl ServingError {
    fn is_about_lists(&self) -> bool {
        match self {
            Self::CrlPem(_) | Self::OutdatedList { .. } | Self::Revocation { .. } | Self::ListGone { .. } => {
                true
            }
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

/// The serving pair, whose contents are `files`.
fn pair(options: &ServingOptions, files: &[Vec<u8>]) -> Result<Arc<CertifiedKey>, ServingError> {
    let pair = certified_key_from_pem(
        (&options.cert_file, &files[0]),
        (&options.private_key_file, &files[1]),
    )?;
    judgement::serving(&pair.cert, SystemTime::now()).map_err(unfit(CERT_FILE, &options.cert_file))?;
    Ok(pair)
}

/// What is wrong with the file at `path`, which the configuration names by `key`.
fn unfit(key: &'static str, path: &Path) -> impl FnOnce(Unfit) -> ServingError {
    let path = path.to_owned();
    move |source| ServingError::Unfit { key, path, source }
}

/// Warnings with the place that they are about. What was good when it was put in
/// force may have expired since.
fn with_place(key: &str, path: &Path, judgement: Result<Vec<String>, Unfit>) -> Vec<String> {
    let warnings = judgement.unwrap_or_else(|unfit| vec![unfit.to_string()]);
    let file = path.display();
    warnings
        .iter()
        .map(|warning| format!("{key} {file}: {warning}"))
        .collect()
}

/// What a look finds of `clientCAFile`, which is at `path`, and of the lists.
fn next_trust(
    current: &Unit<Arc<Trust>>,
    options: &ServingOptions,
    path: &Path,
    looks: &mut Looks,
    reloaded: &mut Reloaded<ServingError>,
) -> Option<Unit<Arc<Trust>>> {
    let mut files = match read(vec![(CLIENT_CA_FILE, path.to_owned())]) {
        Ok(files) => files,
        Err(error) => {
            reloaded.problems.push(error);
            return None;
        }
    };
    let is_new = !current.files().starts_with(&files);
    let with_last_lists = [&files[..], &current.files()[1..]].concat();
    let found = read(list_sources(options)).map(|lists| {
        files.extend(lists);
        files
    });
    let (trigger, mut lost) = (looks.trigger(), Vec::new());
    let next = current.next("trust", found, looks, |files| {
        let trust = trust(options, path, files, Lists::Good)?;
        check_lists(&trust, current.value(), SystemTime::now())?;
        lost = lists_lost(&trust, current.value(), trigger)?;
        Ok(trust)
    });
    match next {
        Err(error) if error.is_about_lists() && is_new => {
            reloaded.problems.push(error);
            let found = Ok(with_last_lists);
            let next = current.next("bundle", found, looks, |files| {
                trust(options, path, files, Lists::OfAnySigner)
            });
            reloaded.note(next)
        }
        next => {
            let next = reloaded.note(next)?;
            reloaded.loosened.extend(lost);
            Some(next)
        }
    }
}

/// The trust of `clientCAFile` and `crlFiles`, whose contents are `files`, in this order.
fn trust(
    options: &ServingOptions,
    path: &Path,
    files: &[Vec<u8>],
    lists: Lists,
) -> Result<Arc<Trust>, ServingError> {
    let bundle = pem::certificates(path, &files[0]).map_err(ServingError::Pem)?;
    judgement::client_cas(&bundle, SystemTime::now()).map_err(unfit(CLIENT_CA_FILE, path))?;
    let generation = GENERATIONS.fetch_add(1, Relaxed);
    let mut trust = Trust::new(bundle, generation).map_err(|source| ServingError::Trust {
        path: path.to_owned(),
        source,
    })?;
    if options.client_certificates == ClientCertificates::Require && !trust.has_anchors() {
        return Err(TlsError::NoRoot.into());
    }
    if options.legacy_v1_certificates {
        trust.allow_version1();
    }
    for (path, bytes) in options.crl_files.iter().zip(&files[1..]) {
        for list in pem::revocation_lists(path, bytes).map_err(ServingError::CrlPem)? {
            trust
                .add_revocation_list(&list, lists == Lists::OfAnySigner)
                .map_err(|source| ServingError::Revocation {
                    path: path.clone(),
                    source,
                })?;
        }
    }
    Ok(Arc::new(trust))
}

/// A list that has expired refuses every client of its CA: it does not replace one that has not.
fn check_lists(trust: &Trust, in_force: &Trust, now: SystemTime) -> Result<(), ServingError> {
    match (trust.lists_expire(), in_force.lists_expire()) {
        (Some(at), Some(good)) if at < now && now <= good => Err(ServingError::OutdatedList { at }),
        _ => Ok(()),
    }
}

/// What is loosened by lists of `before` that are gone from `trust`. The clock may not let one go.
fn lists_lost(trust: &Trust, before: &Trust, trigger: Trigger) -> Result<Vec<String>, ServingError> {
    let lost = trust.lost_lists(before);
    if trigger == Trigger::Clock && !lost.is_empty() {
        let issuers = lost.join(" and of ");
        return Err(ServingError::ListGone { issuers });
    }
    let loosened = |issuer| format!("{CRL_FILES} has no list of {issuer} as new as the one before");
    Ok(lost.into_iter().map(loosened).collect())
}

fn pair_sources(options: &ServingOptions) -> Vec<(&'static str, PathBuf)> {
    vec![
        (CERT_FILE, options.cert_file.clone()),
        (KEY_FILE, options.private_key_file.clone()),
    ]
}

fn list_sources(options: &ServingOptions) -> Vec<(&'static str, PathBuf)> {
    let lists = options.crl_files.iter();
    lists.map(|path| (CRL_FILES, path.clone())).collect()
}
