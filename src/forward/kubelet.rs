//! The kubelet behind the gate: its address, how it proves itself, and the gate's credentials for it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http::Uri;
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::io::KubeletIo;
use super::open::OpenConnections;
use super::pool::{KubeletConnection, Pool};
use super::read_ahead::ReadAhead;
use crate::error::{RequestError, chain};
use crate::files::{self, BUNDLE, Guard, TOKEN};
use crate::host::Mark;
use crate::host::sockets;
use crate::metrics::Metrics;
use crate::settings::{self, UpstreamTrust, UpstreamUrl};
use crate::tls::{self, UpstreamVerification, judgement, pem};

/// The kubelet behind the gate.
pub(crate) struct Kubelet {
    files: Arc<KubeletFiles>,
    /// One thread reads the files again for all connections that need it.
    reader: Arc<Semaphore>,
    connect_timeout: Duration,
    open: OpenConnections,
    /// The mark (`SO_MARK`) by which the seal lets the gate's own connections through.
    mark: Option<Mark>,
    /// The seal may redirect the gate's own connections to the gate, because it does not exempt them yet.
    led_back: AtomicBool,
    /// When the log last named the process that listens on the kubelet's address.
    named: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
}

/// `upstream:`, and its files as they were read last.
struct KubeletFiles {
    settings: settings::Upstream,
    access: ArcSwap<KubeletAccess>,
    /// Held while a thread reads the files again.
    reloading: Mutex<()>,
}

/// All that a connection to the kubelet needs, read from the files of `upstream:` and published as one value.
struct KubeletAccess {
    /// Connections made under an older generation are not reused.
    generation: u64,
    /// `None` for `http://` and `unix://`.
    tls: Option<(TlsConnector, ServerName<'static>)>,
    authorization: Option<HeaderValue>,
    /// The contents of the files: if they are equal, nothing has changed.
    files: Vec<Vec<u8>>,
}

/// Why the kubelet could not be connected to.
#[derive(Debug)]
pub(crate) struct ProbeFailure {
    pub(crate) why: String,
    /// It shows nothing about the kubelet.
    pub(crate) is_inconclusive: bool,
    /// What answers there does not show the certificate that is configured.
    pub(crate) is_another: bool,
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

/// How much of an answer is read at once. It is also the largest frame that is passed on, which an HTTP/2
/// client must take whole before it stops counting as stalled, and the largest head of an answer.
const READ_AT_ONCE: usize = 64 * 1024;
const CERTIFICATE_FILE: &str = "upstream.clientCertificateFile";
const KEY_FILE: &str = "upstream.clientKeyFile";
const TOKEN_FILE: &str = "upstream.tokenFile";
/// The least time between two log lines that name the process in the kubelet's place.
const NAMED_AGAIN: Duration = Duration::from_secs(10);

// === impl Kubelet ===

impl Kubelet {
    /// Reads the files of `upstream:`. Connections will carry `mark`.
    ///
    /// # Errors
    /// A file is missing or unusable.
    pub(crate) fn new(
        settings: settings::Upstream,
        limits: &settings::Limits,
        mark: Option<Mark>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, KubeletError> {
        let access = ArcSwap::from_pointee(KubeletAccess::read(&settings, 0)?);
        Ok(Self {
            files: Arc::new(KubeletFiles {
                settings,
                access,
                reloading: Mutex::new(()),
            }),
            reader: Arc::new(Semaphore::new(1)),
            connect_timeout: limits.upstream_connect_timeout,
            open: OpenConnections::new(limits.upstream_connections),
            mark,
            led_back: AtomicBool::new(false),
            named: Mutex::default(),
            metrics,
        })
    }

    /// Reads the files again, and publishes them if they have changed: `Ok(true)`. On an error the last good
    /// ones stay in use.
    ///
    /// # Errors
    /// A file is missing or unusable.
    pub(crate) fn reload(&self) -> Result<bool, KubeletError> {
        self.files.reload()
    }

    /// A pool for a worker's idle connections, of which it keeps up to `capacity`.
    pub(crate) fn pool(&self, capacity: usize) -> Pool {
        self.open.pool(capacity, self.metrics.clone())
    }

    /// Whether a connection can be made now, for `/readyz`.
    ///
    /// # Errors
    /// Why not, as [`forward`](super::forward) would say it.
    pub(crate) async fn probe(&self) -> Result<(), ProbeFailure> {
        match self.try_to_connect().await {
            Ok(_) => Ok(()),
            Err(error) => Err(ProbeFailure {
                is_inconclusive: is_inconclusive(&error),
                is_another: tls::is_refused_certificate(&error),
                why: self.refuse(&error).to_string(),
            }),
        }
    }

    /// Whether the seal lets the gate's own connections through. Until it does, it may redirect them to the
    /// gate, and each new one is looked at before it is used.
    pub(crate) fn set_admitted(&self, admitted: bool) {
        self.led_back.store(!admitted, Ordering::Relaxed);
    }

    pub(super) fn generation(&self) -> u64 {
        self.files.access.load().generation
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Makes the request's target the path and query that were authorized, and the authority of HTTP/2 its
    /// `Host`.
    pub(super) fn address_request(&self, parts: &mut Parts) -> Result<(), RequestError> {
        if !parts.headers.contains_key(HOST) {
            let authority = parts.uri.authority().map_or("", |authority| authority.as_str());
            let host = HeaderValue::from_str(authority)
                .map_err(|error| RequestError::internal(error.to_string()))?;
            parts.headers.insert(HOST, host);
        }
        if parts.uri.authority().is_some() {
            let target = parts.uri.path_and_query().cloned();
            let target = target.ok_or_else(|| RequestError::internal("a request without a path"))?;
            parts.uri = Uri::from(target);
        }
        Ok(())
    }

    /// Adds the gate's own credentials, for a kubelet that authenticates its clients.
    pub(super) fn add_credentials(&self, headers: &mut HeaderMap) {
        if let Some(authorization) = &self.files.access.load().authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Box<KubeletConnection>, RequestError> {
        self.try_to_connect().await.map_err(|error| self.refuse(&error))
    }

    /// If the kubelet shows another key than the pinned one, the pin is read again, once, because the kubelet
    /// may just have rotated its certificate.
    async fn try_to_connect(&self) -> io::Result<Box<KubeletConnection>> {
        let access = self.files.access.load_full();
        match self.connect_with(&access).await {
            Err(error) if tls::is_pin_mismatch(&error) => {
                self.read_again(access.generation).await;
                // Another request, or the periodic reload, may have read the new pin during this handshake.
                let fresh = self.files.access.load_full();
                if fresh.generation == access.generation {
                    return Err(error);
                }
                self.connect_with(&fresh).await
            }
            outcome => outcome,
        }
    }

    /// Reads the files again if no other request has done so since `generation`. It waits no longer than for
    /// a connection: the files may be on a slow disk.
    async fn read_again(&self, generation: u64) {
        let reading = async {
            // The semaphore is never closed.
            let alone = self.reader.clone().acquire_owned().await;
            if self.generation() != generation {
                return Ok(Ok(false));
            }
            let files = self.files.clone();
            let read = move || {
                let outcome = files.reload();
                drop(alone);
                outcome
            };
            files::aside(read).await
        };
        if let Ok(Ok(outcome @ (Ok(true) | Err(_)))) = timeout(self.connect_timeout, reading).await {
            self.metrics.reloaded("upstream", outcome.is_ok());
        }
    }

    async fn connect_with(&self, access: &KubeletAccess) -> io::Result<Box<KubeletConnection>> {
        let counted = self.open.count();
        let dialled = timeout(self.connect_timeout, async {
            let io = match &self.files.settings.url {
                UpstreamUrl::Unix(path) => KubeletIo::Unix(UnixStream::connect(path).await?),
                UpstreamUrl::Http(address) | UpstreamUrl::Https(address) => {
                    let stream = self.dial(*address).await?;
                    stream.set_nodelay(true)?;
                    match &access.tls {
                        None => KubeletIo::Tcp(stream),
                        Some((connector, name)) => KubeletIo::Tls(Box::new(
                            connector.connect(name.clone(), ReadAhead::new(stream)).await?,
                        )),
                    }
                }
            };
            http1::Builder::new()
                .max_buf_size(READ_AT_ONCE)
                .handshake(TokioIo::new(io))
                .await
                .map_err(io::Error::other)
        });
        let (sender, connection) = dialled
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Box::new(KubeletConnection::new(
            sender,
            connection,
            access.generation,
            counted,
        )))
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark.value)?;
        }
        let stream = socket.connect(address).await?;
        if self.led_back.load(Ordering::Relaxed) {
            let here = stream.local_addr()?;
            // This reads every socket of the node: only in this state, and not on a worker's thread.
            let taken = tokio::task::spawn_blocking(move || sockets::taken_by(here));
            let us = rustix::process::getuid().as_raw();
            let ours = |taker: &sockets::Taker| taker.address != address && taker.uid == Some(us);
            if taken.await.map_err(io::Error::other)??.iter().any(ours) {
                // The gate may serve the kubelet's own certificate, so the pin alone does not show the loop.
                // It would forward each request to itself again and again.
                return Err(io::Error::other(
                    "the seal brings the gate's connections back to the gate, since it does not let them \
                     through (yet)",
                ));
            }
        }
        Ok(stream)
    }

    /// Logs which process listens on the kubelet's address: it may not be the kubelet. Not each time, because
    /// this reads the descriptors of every process.
    fn name_listener(&self) {
        let (UpstreamUrl::Http(address) | UpstreamUrl::Https(address)) = self.files.settings.url else {
            return;
        };
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.is_some_and(|at| at.elapsed() < NAMED_AGAIN) {
            return;
        }
        *named = Some(Instant::now());
        tokio::task::spawn_blocking(move || {
            let listeners = sockets::listeners(address);
            let named: Vec<String> = listeners.iter().map(ToString::to_string).collect();
            tracing::error!(
                "{address} shows another key than upstream.certificateFile: nothing is sent there. It is \
                 held by {}",
                if named.is_empty() {
                    "no process that is visible here".to_owned()
                } else {
                    named.join(", ")
                }
            );
        });
    }

    fn refuse(&self, error: &io::Error) -> RequestError {
        self.metrics.upstream_connection("failed");
        let at = match &self.files.settings.url {
            UpstreamUrl::Http(address) | UpstreamUrl::Https(address) => address.to_string(),
            UpstreamUrl::Unix(path) => path.display().to_string(),
        };
        if tls::is_pin_mismatch(error) {
            self.metrics.pin_mismatches.inc();
            self.name_listener();
            return RequestError::bad_gateway(
                "pin_mismatch",
                "the kubelet's certificate is not the pinned one\n",
                format!(
                    "{at} shows another key than upstream.certificateFile: the kubelet's certificate was \
                     replaced, or something else listens there"
                ),
            );
        }
        let inside = format!("the kubelet at {at} cannot be reached: {}", chain(error));
        RequestError::bad_gateway("unreachable", "the kubelet cannot be reached\n", inside)
    }
}

/// Whether an attempt to connect shows nothing about the kubelet: this process or machine has run out of
/// something, or was too slow.
fn is_inconclusive(error: &io::Error) -> bool {
    const EXHAUSTED: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    let exhausted = Errno::from_io_error(error).is_some_and(|errno| EXHAUSTED.contains(&errno));
    let kinds = [
        io::ErrorKind::AddrNotAvailable,
        io::ErrorKind::TimedOut,
        io::ErrorKind::WouldBlock,
    ];
    exhausted || kinds.contains(&error.kind())
}

// === impl KubeletFiles ===

impl KubeletFiles {
    fn reload(&self) -> Result<bool, KubeletError> {
        let _alone = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.access.load();
        let access = KubeletAccess::read(&self.settings, current.generation + 1)?;
        let changed = access.files != current.files;
        if changed {
            self.access.store(Arc::new(access));
        }
        Ok(changed)
    }
}

// === impl KubeletAccess ===

impl KubeletAccess {
    fn read(settings: &settings::Upstream, generation: u64) -> Result<Self, KubeletError> {
        let mut contents = Vec::new();
        for (key, path) in sources(settings) {
            let most = match key {
                TOKEN_FILE => TOKEN,
                _ => BUNDLE,
            };
            let guard = match key {
                TOKEN_FILE | KEY_FILE => Guard::Secret,
                _ => Guard::Trusted,
            };
            contents.push(
                files::read_guarded(&path, most, guard).map_err(|source| KubeletError::Read {
                    key,
                    path,
                    source,
                })?,
            );
        }
        // In the order of `sources`.
        let mut read = contents.iter();
        let mut next = || read.next().map(Vec::as_slice).unwrap_or_default();

        let verification = match &settings.trust {
            None => None,
            Some(UpstreamTrust::Pinned(path)) => {
                let pinned = certificates("upstream.certificateFile", path, next())?;
                Some((
                    UpstreamVerification::Pinned(pinned),
                    ServerName::from(std::net::IpAddr::from([127, 0, 0, 1])),
                ))
            }
            Some(UpstreamTrust::Ca { ca_file, server_name }) => {
                let roots = certificates("upstream.caFile", ca_file, next())?;
                let name = ServerName::try_from(server_name.clone())
                    .map_err(|_| KubeletError::ServerName(server_name.clone()))?;
                Some((UpstreamVerification::Ca { roots }, name))
            }
        };
        let client = match &settings.credentials.client_certificate {
            None => None,
            Some((certificate_file, key_file)) => {
                let chain = certificates(CERTIFICATE_FILE, certificate_file, next())?;
                judgement::client(&chain, SystemTime::now()).map_err(|source| KubeletError::Unfit {
                    path: certificate_file.clone(),
                    source,
                })?;
                let key = pem::private_key(key_file, next()).map_err(|source| KubeletError::Pem {
                    key: KEY_FILE,
                    source,
                })?;
                Some(tls::certified_key(chain, key)?)
            }
        };
        let authorization = match &settings.credentials.token_file {
            None => None,
            Some(path) => Some(bearer(next()).ok_or_else(|| KubeletError::Token(path.clone()))?),
        };
        let tls = match verification {
            None => None,
            Some((verification, name)) => {
                let config: Arc<ClientConfig> = tls::upstream_config(&verification, client)?;
                Some((TlsConnector::from(config), name))
            }
        };
        Ok(Self {
            generation,
            tls,
            authorization,
            files: contents,
        })
    }
}

/// The files of `upstream:` with the keys that name them, in a fixed order.
fn sources(settings: &settings::Upstream) -> Vec<(&'static str, PathBuf)> {
    let mut sources = Vec::new();
    match &settings.trust {
        None => {}
        Some(UpstreamTrust::Pinned(path)) => sources.push(("upstream.certificateFile", path.clone())),
        Some(UpstreamTrust::Ca { ca_file, .. }) => sources.push(("upstream.caFile", ca_file.clone())),
    }
    if let Some((certificate_file, key_file)) = &settings.credentials.client_certificate {
        sources.push((CERTIFICATE_FILE, certificate_file.clone()));
        sources.push((KEY_FILE, key_file.clone()));
    }
    if let Some(path) = &settings.credentials.token_file {
        sources.push((TOKEN_FILE, path.clone()));
    }
    sources
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
