//! A client: HTTP/1.1 and HTTP/2 over TLS or TCP, upgrades, raw bytes.
//!
//! Every operation has a deadline, and every error has a kind, so that a test can tell an alert in the
//! handshake, a closed connection and a missing answer apart.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::Full;
use rustls::HandshakeKind;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use self::tls::TlsSettings;

pub use self::connection::{BodySender, ClientBody, Connection, Streaming};
pub use self::error::ClientError;
pub use self::upgrade::{SpdyStream, UpgradeAnswer};
pub use self::websocket::{ExecOutcome, WsSession};

mod connection;
mod error;
mod tls;
mod upgrade;
mod websocket;

/// A client of one address.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    tls: Option<TlsSettings>,
    source: Option<IpAddr>,
    deadline: Duration,
}

/// The client's certificate, and the server certificates that it accepts.
#[derive(Debug)]
pub struct ClientTls {
    /// The trust anchors for the server's certificate; `None` accepts any certificate.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// The client certificate's chain and key, sent regardless of the CA names that the server asks for. The
    /// key may be that of another certificate.
    pub certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// The version of HTTP that is offered in the handshake and used.
    pub alpn: Alpn,
    /// The name that the server's certificate must have: a DNS name or an IP address.
    pub server_name: String,
    /// The TLS versions offered.
    pub versions: &'static [&'static rustls::SupportedProtocolVersion],
}

/// The protocol offered by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// No protocol is offered; HTTP/1.1 is used.
    Absent,
    /// `http/1.1`.
    H1,
    /// `h2`.
    H2,
}

/// The result of a handshake.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// The protocol the server chose by ALPN.
    pub alpn: Option<Vec<u8>>,
    /// The server's leaf certificate (DER).
    pub server_certificate: Option<Vec<u8>>,
    /// Full, or resumed.
    pub kind: Option<HandshakeKind>,
}

/// A stream of bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

// === impl Client ===

impl Client {
    /// A client over TLS.
    ///
    /// # Errors
    ///
    /// Roots, certificate, key or server name make no TLS configuration.
    pub fn new(address: SocketAddr, tls: ClientTls) -> Result<Self, ClientError> {
        Ok(Self {
            tls: Some(TlsSettings::new(tls)?),
            ..Self::plain(address)
        })
    }

    /// A client in plain HTTP over TCP: for the read-only port.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            tls: None,
            source: None,
            deadline: DEADLINE,
        }
    }

    /// Sets the deadline of every operation, which is 10 s otherwise.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Connects from this source address, such as 127.0.0.2.
    #[must_use]
    pub fn with_source(self, source: IpAddr) -> Self {
        Self {
            source: Some(source),
            ..self
        }
    }

    /// Sends a request on a connection of its own and collects the answer.
    ///
    /// # Errors
    ///
    /// No complete answer came.
    pub async fn request(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, ClientError> {
        self.connect().await?.send(request).await
    }

    /// [`Client::request`] from its parts.
    ///
    /// # Errors
    ///
    /// The parts make no request, or no complete answer came.
    pub async fn call(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response<Bytes>, ClientError> {
        self.request(build(method, target, headers)?.map(|()| Full::new(body.into())))
            .await
    }

    /// GET without further headers.
    ///
    /// # Errors
    ///
    /// As [`Client::call`].
    pub async fn get(&self, target: &str) -> Result<Response<Bytes>, ClientError> {
        self.call("GET", target, &[], Bytes::new()).await
    }

    /// Sends a request on a connection of its own and yields the answer's body frame by frame. Dropping the
    /// body closes the connection.
    ///
    /// # Errors
    ///
    /// No head of an answer came.
    pub async fn open(
        &self,
        request: Request<impl Into<ClientBody>>,
    ) -> Result<Response<Streaming>, ClientError> {
        let mut connection = self.connect().await?;
        let answer = connection.open(request).await?;
        Ok(answer.map(|body| body.owning(connection)))
    }

    /// Opens a connection for several requests.
    ///
    /// # Errors
    ///
    /// No connection, or no handshake.
    pub async fn connect(&self) -> Result<Connection, ClientError> {
        let h2 = self.tls.as_ref().is_some_and(|tls| tls.alpn == Alpn::H2);
        let io = self.stream().await?;
        Connection::new(io, h2, self.authority(), self.deadline).await
    }

    /// Connects and completes the handshake, without a request.
    ///
    /// # Errors
    ///
    /// No connection, no handshake, or a client without TLS.
    pub async fn handshake(&self) -> Result<Handshake, ClientError> {
        let Some(tls) = &self.tls else {
            return Err(ClientError::Setup("there is no handshake without TLS".into()));
        };
        let handshake = async {
            let tcp = self.tcp().await?;
            let stream = TlsConnector::from(tls.config.clone())
                .connect(tls.name.clone(), tcp)
                .await?;
            let session = stream.get_ref().1;
            Ok(Handshake {
                alpn: session.alpn_protocol().map(<[u8]>::to_vec),
                server_certificate: session
                    .peer_certificates()
                    .and_then(|chain| chain.first())
                    .map(|leaf| leaf.to_vec()),
                kind: session.handshake_kind(),
            })
        };
        self.within(handshake).await
    }

    /// The stream after the handshake, for bytes that a library does not send.
    ///
    /// # Errors
    ///
    /// No connection, or no handshake.
    pub async fn stream(&self) -> Result<Box<dyn Duplex>, ClientError> {
        self.within(self.dial(self.tls.as_ref().map(|tls| &tls.config)))
            .await
    }

    /// Writes these bytes and returns what the server sends until it closes the connection or the deadline
    /// passes.
    ///
    /// # Errors
    ///
    /// No connection, no handshake, or the connection broke before the server sent anything.
    pub async fn raw(&self, bytes: &[u8]) -> Result<Vec<u8>, ClientError> {
        let mut stream = self.stream().await?;
        let mut answer = Vec::new();
        let exchange = async {
            stream.write_all(bytes).await?;
            stream.flush().await?;
            while stream.read_buf(&mut answer).await? > 0 {}
            Ok(())
        };
        match tokio::time::timeout(self.deadline, exchange).await {
            Ok(Err(error)) if answer.is_empty() => Err(ClientError::from_io(error)),
            _ => Ok(answer),
        }
    }

    async fn dial(&self, tls: Option<&Arc<rustls::ClientConfig>>) -> Result<Box<dyn Duplex>, ClientError> {
        let tcp = self.tcp().await?;
        match (tls, &self.tls) {
            (Some(config), Some(TlsSettings { name, .. })) => Ok(Box::new(
                TlsConnector::from(config.clone())
                    .connect(name.clone(), tcp)
                    .await?,
            )),
            _ => Ok(Box::new(tcp)),
        }
    }

    async fn tcp(&self) -> Result<TcpStream, ClientError> {
        let socket = if self.address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn authority(&self) -> String {
        let port = self.address.port();
        match self.tls.as_ref().map(|tls| tls.name.to_str()) {
            Some(name) if name.contains(':') => format!("[{name}]:{port}"),
            Some(name) => format!("{name}:{port}"),
            None => self.address.to_string(),
        }
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        within(self.deadline, work).await
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("authority", &self.authority())
            .finish_non_exhaustive()
    }
}

// === impl ClientTls ===

impl Default for ClientTls {
    /// Accepts any server certificate, sends none, uses HTTP/1.1.
    fn default() -> Self {
        Self {
            roots: None,
            certificate: None,
            alpn: Alpn::H1,
            server_name: "localhost".to_owned(),
            versions: rustls::DEFAULT_VERSIONS,
        }
    }
}

// === impl Duplex ===

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

fn build(method: &str, target: &str, headers: &[(&str, &str)]) -> Result<Request<()>, ClientError> {
    let setup = |error: http::Error| ClientError::Setup(error.to_string());
    let method = Method::from_bytes(method.as_bytes()).map_err(|error| setup(error.into()))?;
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .body(())
        .map_err(setup)?;
    for (name, text) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| setup(error.into()))?;
        request.headers_mut().append(name, value(text)?);
    }
    Ok(request)
}

fn value(text: &str) -> Result<HeaderValue, ClientError> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|error| ClientError::Setup(error.to_string()))
}

async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or(Err(ClientError::Timeout(deadline)))
}

const DEADLINE: Duration = Duration::from_secs(10);
