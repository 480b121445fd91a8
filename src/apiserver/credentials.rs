//! What the client shows the API server and what it trusts, as the files say it now.
//!
//! A node's client certificate, a pod's token and the cluster's CA bundle all change under a running process.
//! client-go re-reads certificate files on handshakes and closes connections on a change, and tokens about
//! every minute; here all of it, the kubeconfig included, is looked at by content at most every ten seconds
//! while in use. What is read is validated as a whole before it is published as one value; if it does not
//! hold, the last good one stays.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use http::HeaderValue;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tracing::{info, warn};

use super::kubeconfig::{ClientCertificate, Kubeconfig, KubeconfigError, Material, Server};
use crate::tls::pem::{self, PemError};

/// How often, at most, the files are looked at while reviews are made.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(10);

/// The credentials in use, and where they come from.
pub(super) struct Credentials {
    source: Kubeconfig,
    current: ArcSwap<Access>,
    check_every: Duration,
    checks: Mutex<Checks>,
    failures: AtomicU64,
}

/// When the files were last looked at, and what was wrong with them then.
struct Checks {
    last: Instant,
    complaint: Option<String>,
}

/// All that one request needs, of one reading of the files.
pub(super) struct Access {
    pub(super) endpoint: Arc<Endpoint>,
    /// `Authorization`, if there is a token; marked sensitive.
    pub(super) authorization: Option<HeaderValue>,
}

/// What a connection is made from. A connection belongs to its endpoint: as soon as another one is published,
/// it is not used any more. A new token alone does not make a new endpoint, since every request carries it
/// afresh.
pub(super) struct Endpoint {
    pub(super) server: Server,
    pub(super) server_name: ServerName<'static>,
    pub(super) tls: Arc<ClientConfig>,
    fingerprint: [u8; 32],
}

/// Why credentials cannot be used: an `ApiServer` cannot be made from them, or does not take them up.
#[derive(Debug, thiserror::Error)]
pub enum ApiServerError {
    /// The kubeconfig no longer says how.
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
    /// None of the certificates can be a trust anchor.
    #[error("{}: none of its certificates can be used as a CA", file.display())]
    NoAuthority {
        /// The bundle.
        file: PathBuf,
    },
    /// Certificate and key do not belong together, or the key is of a kind that cannot be used.
    #[error("{} with {}: {source}", certificate.display(), key.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// TLS itself cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
    /// A token that is empty, or that no header can carry.
    #[error("{}: {problem}", file.display())]
    Token {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
}

// === impl Credentials ===

impl Credentials {
    /// Reads everything once; unlike later, an error here is final.
    pub(super) fn new(source: Kubeconfig, check_every: Duration) -> Result<Self, ApiServerError> {
        let access = Access::read(&source, None)?;
        Ok(Self {
            source,
            current: ArcSwap::from_pointee(access),
            check_every,
            checks: Mutex::new(Checks {
                last: Instant::now(),
                complaint: None,
            }),
            failures: AtomicU64::new(0),
        })
    }

    /// What to use for a request now. Looks at the files if that was last done a while ago; they are few and
    /// small, and the control thread may block for them. Others go on meanwhile with what there is.
    pub(super) fn current(&self) -> Arc<Access> {
        let checks = match self.checks.try_lock() {
            Ok(checks) => Some(checks),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(mut checks) = checks
            && checks.last.elapsed() >= self.check_every
        {
            // The error is logged and counted; the last good credentials serve on.
            let _ = self.check(&mut checks);
        }
        self.current.load_full()
    }

    /// Looks at the files now. `true` if they had changed.
    pub(super) fn reload(&self) -> Result<bool, ApiServerError> {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        self.check(&mut checks)
    }

    /// How often the files could not be used.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    fn check(&self, checks: &mut Checks) -> Result<bool, ApiServerError> {
        checks.last = Instant::now();
        let published = self.current.load_full();
        let read = self.source.reread().map_err(ApiServerError::from);
        match read.and_then(|source| Access::read(&source, Some(&published.endpoint))) {
            Ok(access) => {
                if checks.complaint.take().is_some() {
                    info!("the API server credentials can be read again");
                }
                let changed = !Arc::ptr_eq(&access.endpoint, &published.endpoint)
                    || access.authorization != published.authorization;
                if changed {
                    info!("the API server credentials have changed");
                    self.current.store(Arc::new(access));
                }
                Ok(changed)
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                let complaint = error.to_string();
                // Once for each fault, not every ten seconds.
                if checks.complaint.as_ref() != Some(&complaint) {
                    warn!(error = %complaint, "API server credentials cannot be used, the last good ones stay");
                    checks.complaint = Some(complaint);
                }
                Err(error)
            }
        }
    }
}

// === impl Access ===

impl Access {
    /// Reads and validates. The endpoint in use is kept if nothing about it has changed.
    fn read(source: &Kubeconfig, in_use: Option<&Arc<Endpoint>>) -> Result<Self, ApiServerError> {
        let authorization = source.token.as_ref().map(authorization).transpose()?;
        let authorities = read(&source.authority)?;
        let pair = source.client_certificate.as_ref().map(read_pair).transpose()?;
        let fingerprint = fingerprint(source, &authorities, pair.as_ref());
        let endpoint = match in_use {
            Some(endpoint) if endpoint.fingerprint == fingerprint => Arc::clone(endpoint),
            _ => Arc::new(Endpoint {
                server: source.server.clone(),
                server_name: source.server_name.clone(),
                tls: tls(source, &authorities, pair)?,
                fingerprint,
            }),
        };
        Ok(Self {
            endpoint,
            authorization,
        })
    }
}

/// The `Authorization` header for a token. Like client-go's, surrounding white space does not count.
fn authorization(token: &Material) -> Result<HeaderValue, ApiServerError> {
    let bytes = read(token)?;
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

/// Certificates and key as bytes of PEM.
struct Pair {
    certificate: ClientCertificate,
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// `kubelet-client-current.pem` holds both and is switched by a symlink: it is read once, or the two halves
/// could be of different certificates.
fn read_pair(certificate: &ClientCertificate) -> Result<Pair, ApiServerError> {
    let chain = read(&certificate.chain)?;
    let key = match (&certificate.chain, &certificate.key) {
        (Material::File(chain_file), Material::File(key_file)) if chain_file == key_file => chain.clone(),
        (_, key) => read(key)?,
    };
    Ok(Pair {
        certificate: certificate.clone(),
        chain,
        key,
    })
}

fn read(material: &Material) -> Result<Vec<u8>, ApiServerError> {
    material.read().map_err(|source| ApiServerError::Read {
        file: material.origin().to_owned(),
        source,
    })
}

fn tls(
    source: &Kubeconfig,
    authorities: &[u8],
    pair: Option<Pair>,
) -> Result<Arc<ClientConfig>, ApiServerError> {
    let bundle = source.authority.origin();
    let mut roots = RootCertStore::empty();
    // As Go does with a bundle: a certificate that does not parse can vouch for nobody, the others still can.
    let (usable, ignored) = roots.add_parsable_certificates(pem::certificates(bundle, authorities)?);
    if usable == 0 {
        return Err(ApiServerError::NoAuthority {
            file: bundle.to_owned(),
        });
    }
    if ignored > 0 {
        warn!(file = %bundle.display(), ignored, "certificates in the bundle do not parse and are ignored");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ApiServerError::Tls)?
        .with_root_certificates(roots);
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some(Pair {
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
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|source| ApiServerError::Pair {
                    certificate: chain_file.origin().to_owned(),
                    key: key_file.origin().to_owned(),
                    source,
                })?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would skip judging the server again.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Tells one endpoint from another without keeping a second copy of the key.
fn fingerprint(source: &Kubeconfig, authorities: &[u8], pair: Option<&Pair>) -> [u8; 32] {
    let Server {
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
