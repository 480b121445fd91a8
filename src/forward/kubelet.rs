//! The kubelet behind the gate: its address, how it proves itself, and the gate's credentials for it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
use super::kubelet_files::{KubeletError, KubeletUnits};
use super::open::OpenConnections;
use super::pool::{KubeletConnection, Pool};
use super::read_ahead::ReadAhead;
use crate::error::{RequestError, chain};
use crate::files;
use crate::host::{ConnectionOwners, Mark, sockets};
use crate::looks::{Looks, Reloaded};
use crate::metrics::Metrics;
use crate::settings::{self, UpstreamUrl};
use crate::tls;

/// The kubelet behind the gate.
pub(crate) struct Kubelet {
    files: Arc<KubeletFiles>,
    /// One thread reads the files again for all connections that need it.
    reader: Arc<Semaphore>,
    connect_timeout: Duration,
    open: OpenConnections,
    /// The mark (`SO_MARK`) by which the seal lets the gate's own connections through.
    mark: Option<Mark>,
    /// A seal stands, which may lead a connection of the gate back to the gate.
    sealed: AtomicBool,
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
    units: KubeletUnits,
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

/// How much of an answer is read at once. It is also the largest frame that is passed on, which an HTTP/2
/// client must take whole before it stops counting as stalled, and the largest head of an answer.
const READ_AT_ONCE: usize = 64 * 1024;
/// So many connections in a row that are led back show that the seal does not know the gate: the port of each
/// may still be led as a client's was.
const DIALS: usize = 5;
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
        let access = ArcSwap::from_pointee(KubeletAccess::new(KubeletUnits::read(&settings)?, 0)?);
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
            sealed: AtomicBool::new(false),
            named: Mutex::default(),
            metrics,
        })
    }

    /// Reads the files again, and publishes what has changed and is good.
    pub(crate) fn reload(&self, looks: &mut Looks) -> Reloaded<KubeletError> {
        self.files.reload(looks)
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

    /// Whether a seal stands, or may stand. If so, each new connection is looked at before it is used: a seal
    /// that does not know the gate leads it back to the gate. So does one that knows it, if the gate gets the
    /// port of a client whose connection was reset less than 10 s ago: the kernel still leads that port's
    /// packets as it led the client's.
    pub(crate) fn set_sealed(&self, sealed: bool) {
        self.sealed.store(sealed, Ordering::Relaxed);
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

    /// Whether `upstream` has a credential for it.
    pub(super) fn shows_credentials(&self) -> bool {
        let credentials = &self.files.settings.credentials;
        credentials.client_certificate.is_some() || credentials.token_file.is_some()
    }

    /// Adds the gate's own credentials, for a kubelet that authenticates its clients.
    pub(super) fn add_credentials(&self, headers: &mut HeaderMap) {
        if let Some(authorization) = self.files.access.load().units.authorization.value() {
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
                return Ok(Reloaded::default());
            }
            let files = self.files.clone();
            let read = move || {
                let outcome = files.reload(&mut Looks::at_once());
                drop(alone);
                outcome
            };
            files::aside(read).await
        };
        if let Ok(Ok(reloaded)) = timeout(self.connect_timeout, reading).await {
            if reloaded.changed {
                self.metrics.reloaded("upstream", true);
            }
            if !reloaded.problems.is_empty() {
                self.metrics.reloaded("upstream", false);
            }
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
        // They stay open, so that each further one has another port.
        let mut led_back = Vec::new();
        while led_back.len() < DIALS {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            if let Some(mark) = self.mark {
                SockRef::from(&socket).set_mark(mark.value)?;
            }
            let stream = socket.connect(address).await?;
            if !self.sealed.load(Ordering::Relaxed) || !is_led_back(&stream, address).await? {
                return Ok(stream);
            }
            led_back.push(stream);
        }
        Err(io::Error::other(
            "the seal brings the gate's connections back to the gate, since it does not let them through \
             (yet)",
        ))
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

/// Whether this process accepted the other end of this connection to `kubelet`. The gate may serve
/// the kubelet's own certificate, so the pin alone does not show that. It would forward each request
/// to itself again and again.
async fn is_led_back(stream: &TcpStream, kubelet: SocketAddr) -> io::Result<bool> {
    let here = stream.local_addr()?;
    if ConnectionOwners::open().is_ok_and(|kernel| kernel.has(kubelet, here)) {
        return Ok(false);
    }
    // A kubelet in another network namespace is not in the list either. This reads every socket of the node:
    // not on a worker's thread.
    let taken = tokio::task::spawn_blocking(move || sockets::taken_by(here));
    let us = rustix::process::getuid().as_raw();
    let ours = |taker: &sockets::Taker| taker.address != kubelet && taker.uid == Some(us);
    Ok(taken.await.map_err(io::Error::other)??.iter().any(ours))
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
    fn reload(&self, looks: &mut Looks) -> Reloaded<KubeletError> {
        let _alone = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.access.load_full();
        let mut reloaded = Reloaded::default();
        let Some(units) = current.units.next(&self.settings, looks, &mut reloaded) else {
            return reloaded;
        };
        match KubeletAccess::new(units, current.generation + 1) {
            Ok(access) => {
                self.access.store(Arc::new(access));
                reloaded.changed = true;
            }
            Err(error) => reloaded.problems.push(error),
        }
        reloaded
    }
}

// === impl KubeletAccess ===

impl KubeletAccess {
    fn new(units: KubeletUnits, generation: u64) -> Result<Self, KubeletError> {
        let tls = match units.trust.value() {
            None => None,
            Some((verification, name)) => {
                let config: Arc<ClientConfig> =
                    tls::upstream_config(verification, units.client.value().clone())?;
                Some((TlsConnector::from(config), name.clone()))
            }
        };
        Ok(Self {
            generation,
            tls,
            units,
        })
    }
}
