//! An open kubelet: it allows anonymous requests (`AlwaysAllow`) and has a read-only port.
//!
//! It is an HTTPS server on a real socket. It records the requests it receives ([`FakeKubelet::requests`]),
//! and its [`Knobs`] make it misbehave while it runs.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::connection::Peer;
use self::record::Record;
use self::tls::Tls;
use self::wire::Wire;
use crate::client::Duplex;

pub use self::knobs::{Fault, Knobs};
pub use self::pages::node_info;
pub use self::record::RecordedRequest;
pub use self::rights::Rights;
pub use self::tls::ClientCa;

mod answer;
mod connection;
mod knobs;
mod pages;
mod record;
mod rights;
mod routes;
mod shell;
mod streams;
mod tls;
mod wire;

/// What the kubelet is started with.
#[derive(Debug)]
pub struct FakeKubeletOptions {
    /// Chain and key of the TLS port. `None` makes it a plain HTTP port.
    pub certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// The client certificates that the kubelet accepts. `None` makes it an open kubelet, which does not ask
    /// for one.
    pub client_ca: Option<ClientCa>,
    /// Opens a plain read-only port on the same address.
    pub read_only_port: bool,
    /// Also serves plain HTTP on this unix socket, whose file is removed at the end.
    pub unix: Option<PathBuf>,
    /// The address of the port. Port 0 takes a free one.
    pub address: SocketAddr,
}

/// A running fake kubelet. Dropping it ends it; [`FakeKubelet::shutdown`] also waits for the end.
pub struct FakeKubelet {
    inner: Arc<Inner>,
    address: SocketAddr,
    read_only_address: Option<SocketAddr>,
    unix: Option<SocketFile>,
    tasks: TaskTracker,
    stop: DropGuard,
}

/// What all connections share.
struct Inner {
    record: Record,
    knobs: Mutex<Knobs>,
    tls: Mutex<Option<Tls>>,
}

/// Removes the unix socket's file.
struct SocketFile(PathBuf);

// === impl FakeKubeletOptions ===

impl Default for FakeKubeletOptions {
    fn default() -> Self {
        Self {
            certificate: None,
            client_ca: None,
            read_only_port: false,
            unix: None,
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        }
    }
}

// === impl FakeKubelet ===

impl FakeKubelet {
    /// Binds every listener and starts to serve.
    ///
    /// # Errors
    ///
    /// An address cannot be bound, or certificate, key and client CA make no TLS configuration.
    pub async fn start(options: FakeKubeletOptions) -> io::Result<Self> {
        let tls = match options.certificate {
            Some((chain, key)) => Some(Tls::new(chain, key, options.client_ca)?),
            None => None,
        };
        let inner = Arc::new(Inner {
            record: Record::default(),
            knobs: Mutex::default(),
            tls: Mutex::new(tls),
        });
        let listener = TcpListener::bind(options.address).await?;
        let address = listener.local_addr()?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let secure = inner.tls().is_some();
        tasks.spawn(accept(
            inner.clone(),
            listener,
            Port {
                secure,
                read_only: false,
            },
            tasks.clone(),
            stop.clone(),
        ));

        let mut read_only_address = None;
        if options.read_only_port {
            let listener = TcpListener::bind((address.ip(), 0)).await?;
            read_only_address = Some(listener.local_addr()?);
            let port = Port {
                secure: false,
                read_only: true,
            };
            tasks.spawn(accept(inner.clone(), listener, port, tasks.clone(), stop.clone()));
        }
        let mut unix = None;
        if let Some(path) = options.unix {
            let listener = UnixListener::bind(&path)?;
            unix = Some(SocketFile(path));
            tasks.spawn(accept_unix(inner.clone(), listener, tasks.clone(), stop.clone()));
        }
        Ok(Self {
            inner,
            address,
            read_only_address,
            unix,
            tasks,
            stop: stop.drop_guard(),
        })
    }

    /// Cuts every connection and returns when nothing of the kubelet is left.
    pub async fn shutdown(self) {
        drop(self.stop);
        self.tasks.close();
        self.tasks.wait().await;
        drop(self.unix);
    }

    /// Changes how the kubelet behaves, from the next request on.
    pub fn adjust(&self, change: impl FnOnce(&mut Knobs)) {
        change(&mut self.inner.knobs.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Plays this fault for requests whose target starts with this prefix. It takes precedence over earlier
    /// faults.
    pub fn fail(&self, prefix: &str, fault: Fault) {
        self.adjust(|knobs| knobs.faults.insert(0, (prefix.to_owned(), fault)));
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.adjust(|knobs| knobs.faults.clear());
    }

    /// Uses this certificate from the next handshake on, as a kubelet does after rotation.
    ///
    /// # Errors
    ///
    /// The key does not belong to the certificate.
    pub fn rotate_certificate(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> io::Result<()> {
        let mut tls = self.inner.tls();
        let client_ca = tls.as_ref().and_then(|tls| tls.client_ca.clone());
        *tls = Some(Tls::new(chain, key, client_ca)?);
        Ok(())
    }

    /// Starts or stops to authenticate clients by certificate, from the next handshake on. Has no effect
    /// without TLS.
    ///
    /// # Errors
    ///
    /// A root is not a certificate.
    pub fn require_client_certificates(&self, client_ca: Option<ClientCa>) -> io::Result<()> {
        let mut tls = self.inner.tls();
        if let Some(old) = tls.as_ref() {
            *tls = Some(Tls::new(old.chain.clone(), old.key.clone_key(), client_ca)?);
        }
        Ok(())
    }

    /// Discards the recorded requests and their count. The gauges stay.
    pub fn clear(&self) {
        self.inner.record.clear();
    }

    /// The address of the kubelet's port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of its read-only port, if it has one.
    #[must_use]
    pub fn read_only_address(&self) -> Option<SocketAddr> {
        self.read_only_address
    }

    /// The last few thousand requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.inner.record.requests()
    }

    /// How many requests arrived, on all ports together.
    #[must_use]
    pub fn request_count(&self) -> u64 {
        self.inner.record.request_count()
    }

    /// How many connections were accepted since the start.
    #[must_use]
    pub fn connections_accepted(&self) -> u64 {
        self.inner.record.connections_accepted()
    }

    /// How many connections are open now, upgraded ones included.
    #[must_use]
    pub fn open_connections(&self) -> u64 {
        self.inner.record.open_connections()
    }

    /// How many upgraded streams are open now.
    #[must_use]
    pub fn open_streams(&self) -> u64 {
        self.inner.record.open_streams()
    }

    /// How often a client left before its request was read or its answer was complete. Upgraded streams do
    /// not count.
    #[must_use]
    pub fn cut_seen(&self) -> u64 {
        self.inner.record.cut_seen()
    }
}

impl fmt::Debug for FakeKubelet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeKubelet")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    fn knobs(&self) -> Knobs {
        self.knobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tls(&self) -> MutexGuard<'_, Option<Tls>> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl SocketFile ===

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The kind of a listening socket.
#[derive(Clone, Copy)]
struct Port {
    secure: bool,
    read_only: bool,
}

async fn accept(
    inner: Arc<Inner>,
    listener: TcpListener,
    port: Port,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let accepting = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors: wait until other connections have ended.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (inner, stop) = (inner.clone(), stop.clone());
            tasks.spawn(async move {
                // `stop` drops the connection, which cuts it.
                stop.run_until_cancelled(serve_tcp(&inner, stream, port)).await;
            });
        }
    };
    stop.run_until_cancelled(accepting).await;
    crate::stop_listening(&listener);
}

async fn accept_unix(inner: Arc<Inner>, listener: UnixListener, tasks: TaskTracker, stop: CancellationToken) {
    let accepting = async {
        while let Ok((stream, _)) = listener.accept().await {
            let (inner, stop) = (inner.clone(), stop.clone());
            tasks.spawn(async move {
                let _open = inner.record.connection();
                let peer = Peer {
                    read_only: false,
                    certificate: None,
                    certificate_required: false,
                };
                let serving = connection::serve(&inner, Wire::new(Box::new(stream)), &peer);
                stop.run_until_cancelled(serving).await;
            });
        }
    };
    stop.run_until_cancelled(accepting).await;
}

async fn serve_tcp(inner: &Inner, stream: TcpStream, port: Port) {
    let _open = inner.record.connection();
    // Without it small answers wait for the client's acknowledgement. An error changes nothing but that.
    let _ = stream.set_nodelay(true);
    let mut peer = Peer {
        read_only: port.read_only,
        certificate: None,
        certificate_required: false,
    };
    let stream: Box<dyn Duplex> = if port.secure {
        let mut first = [0];
        if matches!(stream.peek(&mut first).await, Ok(1)) && first[0].is_ascii_alphabetic() {
            let mut wire = Wire::new(Box::new(stream));
            if wire.send(&connection::HTTP_ON_TLS_PORT).await.is_ok() {
                wire.close().await;
            }
            return;
        }
        let Some((config, client_ca)) = inner
            .tls()
            .as_ref()
            .map(|tls| (tls.config.clone(), tls.client_ca.is_some()))
        else {
            return;
        };
        let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else {
            return;
        };
        let certificates = stream.get_ref().1.peer_certificates();
        peer.certificate = certificates
            .and_then(|chain| chain.first())
            .map(|leaf| leaf.to_vec());
        peer.certificate_required = client_ca;
        Box::new(stream)
    } else {
        Box::new(stream)
    };
    connection::serve(inner, Wire::new(stream), &peer).await;
}

#[cfg(test)]
mod tests;
