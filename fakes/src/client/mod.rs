//! The client of the demo scenes and the tests: HTTP/1.1 and HTTP/2 over TLS, TCP or a unix socket, upgrades, raw bytes.
//!
//! Every operation has a deadline, and every failure says which kind it is, so that a test can tell an alert in the
//! handshake from a closed connection and both from silence.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::Full;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use self::tls::Secured;

pub use self::connection::{BodySender, ClientBody, Connection, Streaming};
pub use self::error::ClientError;
pub use self::upgrade::{SpdyStream, UpgradeAnswer};
pub use self::websocket::{ExecOutcome, WsSession};

mod connection;
mod error;
mod tls;
mod upgrade;
mod websocket;

/// Speaks to one address.
#[derive(Clone)]
pub struct Client {
    target: Target,
    tls: Option<Secured>,
    source: Option<IpAddr>,
    deadline: Duration,
}

/// How the client shows itself, and whom it believes.
#[derive(Debug)]
pub struct ClientTls {
    /// The trust anchors for the server's certificate; `None` accepts any certificate.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// The client certificate's chain and key, shown whatever CA names the server hints at. They need not fit.
    pub certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// Which HTTP is offered in the handshake and spoken.
    pub alpn: Alpn,
    /// The name to find in the server's certificate: a DNS name or an IP address.
    pub server_name: String,
    /// The TLS versions offered.
    pub versions: &'static [&'static rustls::SupportedProtocolVersion],
}

/// The protocol offered by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// Nothing, as plain tools do; HTTP/1.1 is spoken.
    Absent,
    /// `http/1.1`.
    H1,
    /// `h2`.
    H2,
}

/// What a handshake came to.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// The version agreed on.
    pub version: Option<ProtocolVersion>,
    /// The protocol the server chose by ALPN.
    pub alpn: Option<Vec<u8>>,
    /// The server's leaf certificate (DER).
    pub server_certificate: Option<Vec<u8>>,
    /// Full, or resumed.
    pub kind: Option<HandshakeKind>,
}

/// A stream of bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

#[derive(Clone)]
enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

// === impl Client ===

impl Client {
    /// A client over TLS.
    ///
    /// # Errors
    ///
    /// Roots, certificate, key or server name make no TLS configuration.
    pub fn new(address: SocketAddr, tls: ClientTls) -> Result<Self, ClientError> {
        Ok(Self {
            tls: Some(Secured::new(tls)?),
            ..Self::plain(address)
        })
    }

    /// A client in plain HTTP over TCP: for the read-only port.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            target: Target::Tcp(address),
            tls: None,
            source: None,
            deadline: DEADLINE,
        }
    }

    /// A client in plain HTTP over a unix socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self {
            target: Target::Unix(path.into()),
            tls: None,
            source: None,
            deadline: DEADLINE,
        }
    }

    /// The same with this deadline for every operation, instead of 10 s.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The same from this source address, such as 127.0.0.2.
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

    /// Sends a request on a connection of its own and gives the answer's body frame by frame. Dropping the body
    /// closes the connection.
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

    /// Opens a connection that is kept.
    ///
    /// # Errors
    ///
    /// No connection, or no handshake.
    pub async fn connect(&self) -> Result<Connection, ClientError> {
        let h2 = self.tls.as_ref().is_some_and(|tls| tls.alpn == Alpn::H2);
        let io = self.stream().await?;
        Connection::new(io, h2, self.authority(), self.deadline).await
    }

    /// Connects, shakes hands and tells what came of it; nothing is sent.
    ///
    /// # Errors
    ///
    /// No connection, no handshake, or a client without TLS.
    pub async fn handshake(&self) -> Result<Handshake, ClientError> {
        let (Target::Tcp(address), Some(tls)) = (&self.target, &self.tls) else {
            return Err(ClientError::Setup("there is no handshake without TLS".into()));
        };
        let handshake = async {
            let tcp = self.tcp(*address).await?;
            let stream = TlsConnector::from(tls.config.clone())
                .connect(tls.name.clone(), tcp)
                .await?;
            let session = stream.get_ref().1;
            Ok(Handshake {
                version: session.protocol_version(),
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

    /// The bare stream, after the handshake: for what no library would send.
    ///
    /// # Errors
    ///
    /// No connection, or no handshake.
    pub async fn stream(&self) -> Result<Box<dyn Duplex>, ClientError> {
        self.within(self.dial(self.tls.as_ref().map(|tls| &tls.config)))
            .await
    }

    /// Writes these bytes and returns whatever comes back until the server closes or the deadline passes.
    ///
    /// # Errors
    ///
    /// No connection, no handshake, or the connection broke before anything came back.
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
        let tcp = match &self.target {
            Target::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Target::Tcp(address) => self.tcp(*address).await?,
        };
        match (tls, &self.tls) {
            (Some(config), Some(Secured { name, .. })) => Ok(Box::new(
                TlsConnector::from(config.clone())
                    .connect(name.clone(), tcp)
                    .await?,
            )),
            _ => Ok(Box::new(tcp)),
        }
    }

    async fn tcp(&self, address: SocketAddr) -> Result<TcpStream, ClientError> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn authority(&self) -> String {
        match (&self.target, &self.tls) {
            (Target::Unix(_), _) => "localhost".to_owned(),
            (Target::Tcp(address), Some(Secured { name, .. })) => match name.to_str() {
                name if name.contains(':') => format!("[{name}]:{}", address.port()),
                name => format!("{name}:{}", address.port()),
            },
            (Target::Tcp(address), None) => address.to_string(),
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
    /// Believes any certificate, shows none, speaks HTTP/1.1.
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

#[cfg(test)]
mod tests;
