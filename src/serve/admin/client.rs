//! A client of a running gate's admin socket or port, for the other commands.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::settings::Settings;

/// Longest answer that is read.
const LONGEST: usize = 16 * 1024 * 1024;

/// Where a gate is asked. The socket comes first: no other user's process can have taken it.
#[derive(Clone, Debug)]
pub struct AdminPlace {
    first: Asked,
    /// Where it is asked if the first cannot be reached.
    then: Option<Asked>,
}

/// One of the two, as messages name it.
#[derive(Clone, Debug)]
pub enum Asked {
    /// `admin.socket`.
    Socket(PathBuf),
    /// `admin.listen`.
    Port(SocketAddr),
}

/// The API server, as the gate served it last.
#[derive(Debug, Deserialize)]
pub struct ServedApiServer {
    /// When, in RFC 3339.
    pub last: String,
    /// From where in the last hour, the last one first. Earlier versions do not say.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// What of the answer to `/seal` other commands need.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SealAnswer {
    api_server: Option<ServedApiServer>,
}

/// Why the gate gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It cannot be connected to.
    #[error(
        "the gate's admin {asked} cannot be reached (admin.listen, admin.socket): does the gate run with \
         this configuration?"
    )]
    Unreachable {
        /// Where.
        asked: Asked,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It takes too long.
    #[error("the gate's admin port or socket has not answered within {within:?}: is it another program's?")]
    Deadline {
        /// The deadline.
        within: Duration,
    },
    /// The answer is not HTTP, or is too long.
    #[error("{path} of the gate's admin {asked}: the answer cannot be read; is it another program's?")]
    Broken {
        /// Where.
        asked: Asked,
        /// What was asked for.
        path: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer's status is not 200: the process there is not a gate, or a gate of another version.
    #[error(
        "the gate's admin {asked}: {path} answers {status}: is the gate of another version, or is another \
         program there?"
    )]
    Status {
        /// Where.
        asked: Asked,
        /// What was asked for.
        path: &'static str,
        /// The answer's.
        status: StatusCode,
    },
}

// === impl AdminPlace ===

impl AdminPlace {
    /// Where a gate of `settings` is asked, whose port is `port`, or else the configured one. `None` if it
    /// has neither port nor socket.
    #[must_use]
    pub fn of(settings: &Settings, port: Option<SocketAddr>) -> Option<Self> {
        let (admin, run_directory) = (&settings.admin, &settings.firewall.run_directory);
        let socket = admin.socket.path(run_directory).map(Asked::Socket);
        let port = port.or_else(|| admin.listen.filter(|address| address.port() != 0));
        let mut places = socket.into_iter().chain(port.map(Asked::Port));
        Some(Self {
            first: places.next()?,
            then: places.next(),
        })
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "socket {}", path.display()),
            Self::Port(address) => write!(f, "port {address}"),
        }
    }
}

/// What the gate at `place` answers for `path`, from JSON.
///
/// # Errors
/// There is no gate, it does not answer within `deadline`, or it answers something else.
pub async fn get<T: DeserializeOwned>(
    place: &AdminPlace,
    path: &'static str,
    deadline: Duration,
) -> Result<T, AdminError> {
    let asking = timeout(deadline, ask(place, path));
    let (asked, body) = asking
        .await
        .map_err(|_| AdminError::Deadline { within: deadline })??;
    serde_json::from_slice(&body).map_err(|error| broken(asked, path, error))
}

/// The API server, as the gate at `place` served it last; `None`: not since the gate started.
///
/// # Errors
/// As [`get`].
pub async fn api_server(
    place: &AdminPlace,
    deadline: Duration,
) -> Result<Option<ServedApiServer>, AdminError> {
    let answer: SealAnswer = get(place, "/seal", deadline).await?;
    Ok(answer.api_server)
}

async fn ask<'a>(place: &'a AdminPlace, path: &'static str) -> Result<(&'a Asked, Bytes), AdminError> {
    let answer = match (ask_at(&place.first, path).await, &place.then) {
        // A gate may have its port alone.
        (Err(AdminError::Unreachable { .. }), Some(then)) => (then, ask_at(then, path).await),
        (answer, _) => (&place.first, answer),
    };
    Ok((answer.0, answer.1?))
}

async fn ask_at(asked: &Asked, path: &'static str) -> Result<Bytes, AdminError> {
    let unreachable = |source| AdminError::Unreachable {
        asked: asked.clone(),
        source,
    };
    match asked {
        Asked::Socket(socket) => {
            let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
            request(stream, asked, path).await
        }
        Asked::Port(address) => {
            let stream = TcpStream::connect(dialled(*address)).await.map_err(unreachable)?;
            request(stream, asked, path).await
        }
    }
}

async fn request(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    asked: &Asked,
    path: &'static str,
) -> Result<Bytes, AdminError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(asked, path, error))?;
    let request = Request::get(path)
        .header(HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(asked, path, error))?;
    let answering = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| broken(asked, path, error))?;
        if response.status() != StatusCode::OK {
            return Err(AdminError::Status {
                asked: asked.clone(),
                path,
                status: response.status(),
            });
        }
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        body.map(|body| body.to_bytes())
            .map_err(|source| broken(asked, path, source))
    };
    // When the connection ends, the request ends with its error.
    let (mut answering, mut connection) = (std::pin::pin!(answering), std::pin::pin!(connection));
    tokio::select! {
        answer = &mut answering => answer,
        _ = &mut connection => answering.await,
    }
}

fn broken(
    asked: &Asked,
    path: &'static str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> AdminError {
    AdminError::Broken {
        asked: asked.clone(),
        path,
        source: error.into(),
    }
}

/// The address to dial: loopback for a gate that listens on every address.
fn dialled(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
