//! The floor: a reverse proxy over the libraries of the gate, with its two TLS legs, and nothing else.
//!
//! It demands a client certificate, and sends each request over a kept connection to the backend. It does not
//! authorize, audit or count, has no limits and no timeouts, and passes every header on as it came. What it
//! costs is what a gate of these libraries costs before it does anything of its own.
//!
//! The comparison starts its own executable once more with `floor` as first argument: as a process of its own
//! the floor is pinned and billed as every other front is.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use anyhow::{Result, bail};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

/// rustls reads 4 KiB at a time. A buffer below it reads four TLS records of a large answer at once.
const READ_AT_ONCE: usize = 64 * 1024;

struct Floor {
    backend: SocketAddr,
    connector: TlsConnector,
    #[expect(clippy::vec_box, reason = "each request moves one in and out")]
    idle: Mutex<Vec<Box<Upstream>>>,
}

/// A connection to the backend, moved on by the task that uses it.
struct Upstream {
    sender: SendRequest<Incoming>,
    connection: Connection<TokioIo<TlsStream<BufReader<TcpStream>>>, Incoming>,
    ended: bool,
}

/// The body of an answer, with the connection that it comes from.
struct Answer {
    body: Incoming,
    upstream: Option<Box<Upstream>>,
    floor: Arc<Floor>,
}

/// Serves until the process is ended. `arguments` are the floor's address, the backend's address, and the
/// directory of certificates and keys.
pub(crate) async fn serve(arguments: &[String]) -> Result<()> {
    let [address, backend, directory] = arguments else {
        bail!("expected floor ADDRESS BACKEND DIRECTORY, found {arguments:?}");
    };
    let directory = Path::new(directory);
    let acceptor = TlsAcceptor::from(Arc::new(server_config(directory)?));
    let floor = Arc::new(Floor {
        backend: backend.parse()?,
        connector: TlsConnector::from(Arc::new(client_config(directory)?)),
        idle: Mutex::default(),
    });
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, floor) = (acceptor.clone(), floor.clone());
        tokio::spawn(async move {
            stream.set_nodelay(true)?;
            let stream = acceptor.accept(stream).await?;
            let service = service_fn(|request| floor.clone().forward(request));
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await?;
            Ok::<_, anyhow::Error>(())
        });
    }
}

fn server_config(directory: &Path) -> Result<ServerConfig> {
    let clients = WebPkiClientVerifier::builder(Arc::new(roots(directory, "ca")?)).build()?;
    let (chain, key) = pair(directory, "gate-serving")?;
    let mut config = ServerConfig::builder_with_protocol_versions(&[&TLS13])
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config(directory: &Path) -> Result<ClientConfig> {
    let (chain, key) = pair(directory, "gate")?;
    Ok(ClientConfig::builder_with_protocol_versions(&[&TLS13])
        .with_root_certificates(roots(directory, "kubelet-serving")?)
        .with_client_auth_cert(chain, key)?)
}

fn certificates(directory: &Path, name: &str) -> Result<Vec<CertificateDer<'static>>> {
    let file = directory.join(format!("{name}.crt"));
    Ok(CertificateDer::pem_file_iter(file)?.collect::<Result<_, _>>()?)
}

fn roots(directory: &Path, name: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(directory, name)?);
    Ok(roots)
}

fn pair(directory: &Path, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let key = PrivateKeyDer::from_pem_file(directory.join(format!("{name}.key")))?;
    Ok((certificates(directory, name)?, key))
}

impl Floor {
    async fn forward(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Answer>> {
        let mut upstream = match self.take() {
            Some(upstream) => upstream,
            None => self.connect().await?,
        };
        let (head, body) = upstream.send(request).await?.into_parts();
        let answer = Answer {
            body,
            upstream: Some(upstream),
            floor: self,
        };
        Ok(Response::from_parts(head, answer))
    }

    /// The connection used last that can take a request; those that cannot are closed.
    fn take(&self) -> Option<Box<Upstream>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut upstream) = idle.pop() {
            upstream.poll(&mut Context::from_waker(Waker::noop()));
            if !upstream.ended && upstream.sender.is_ready() {
                return Some(upstream);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Box<Upstream>> {
        let stream = TcpStream::connect(self.backend).await?;
        stream.set_nodelay(true)?;
        let stream = BufReader::with_capacity(READ_AT_ONCE, stream);
        let stream = self
            .connector
            .connect(ServerName::try_from("worker-1")?, stream)
            .await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        Ok(Box::new(Upstream {
            sender,
            connection,
            ended: false,
        }))
    }
}

impl Upstream {
    async fn send(&mut self, request: Request<Incoming>) -> Result<Response<Incoming>> {
        let mut answer = pin!(self.sender.send_request(request));
        let answer = poll_fn(|cx| {
            self.poll(cx);
            answer.as_mut().poll(cx)
        });
        Ok(answer.await?)
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        if !self.ended {
            self.ended = self.connection.poll_without_shutdown(cx).is_ready();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if let Some(upstream) = &mut this.upstream {
            upstream.poll(cx);
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut idle = self.floor.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.upstream.take());
    }
}
