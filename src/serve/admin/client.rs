//! A client of a running gate's admin port, for the other commands.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest answer that is read.
const LONGEST: usize = 16 * 1024 * 1024;

/// Why the admin port gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The port cannot be connected to.
    #[error(
        "the gate's admin port {address} cannot be reached (admin.listen): does the gate run with this \
         configuration?"
    )]
    Unreachable {
        /// `admin.listen`.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It takes too long.
    #[error("the gate's admin port {address} has not answered within {within:?}: is it another program's?")]
    Deadline {
        /// `admin.listen`.
        address: SocketAddr,
        /// The deadline.
        within: Duration,
    },
    /// The answer is not HTTP, or is too long.
    #[error("http://{address}{path}: the answer cannot be read; is the port another program's?")]
    Broken {
        /// `admin.listen`.
        address: SocketAddr,
        /// What was asked for.
        path: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer's status is not 200: the process there is not a gate, or a gate of another version.
    #[error(
        "http://{address}{path} answers {status}: is the gate of another version, or the port another \
         program's?"
    )]
    Status {
        /// `admin.listen`.
        address: SocketAddr,
        /// What was asked for.
        path: &'static str,
        /// The answer's.
        status: StatusCode,
    },
}

/// What the admin port at `address` answers for `path`, from JSON.
///
/// # Errors
/// There is no gate, it does not answer within `deadline`, or it answers something else.
pub async fn get<T: DeserializeOwned>(
    address: SocketAddr,
    path: &'static str,
    deadline: Duration,
) -> Result<T, AdminError> {
    let asking = timeout(deadline, ask(address, path));
    let body = asking.await.map_err(|_| AdminError::Deadline {
        address,
        within: deadline,
    })??;
    serde_json::from_slice(&body).map_err(|error| broken(address, path, error))
}

async fn ask(address: SocketAddr, path: &'static str) -> Result<Bytes, AdminError> {
    let stream = TcpStream::connect(dialled(address))
        .await
        .map_err(|source| AdminError::Unreachable { address, source })?;
    let broken = |error: hyper::Error| broken(address, path, error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| self::broken(address, path, error))?;
    let answering = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            return Err(AdminError::Status {
                address,
                path,
                status,
            });
        }
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        body.map(|body| body.to_bytes())
            .map_err(|source| AdminError::Broken {
                address,
                path,
                source,
            })
    };
    // When the connection ends, the request ends with its error.
    let (mut answering, mut connection) = (std::pin::pin!(answering), std::pin::pin!(connection));
    tokio::select! {
        answer = &mut answering => answer,
        _ = &mut connection => answering.await,
    }
}

fn broken(
    address: SocketAddr,
    path: &'static str,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> AdminError {
    AdminError::Broken {
        address,
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
