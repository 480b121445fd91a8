//! Connections to the API server: each serves one request at a time and is kept for the next.
//!
//! A connection has no task of its own: the request that uses it drives it. When a request is dropped, its
//! connection is closed, and nothing outlives the client.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::access::ApiServerEndpoint;
use super::failure::Cause;

/// The largest answer that is read. Reviews are far smaller.
pub(super) const MAX_ANSWER_BYTES: usize = 1 << 20;

/// API servers close an idle connection after 90 s. Well before that it is not used any more.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// How long an address may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long bytes may stay unacknowledged by the API server's machine.
const UNACKNOWLEDGED: Duration = Duration::from_secs(2);

/// A connection, and the endpoint that it was made from.
pub(super) struct ApiServerConnection {
    endpoint: Arc<ApiServerEndpoint>,
    sender: http1::SendRequest<Full<Bytes>>,
    /// Reads and writes the bytes; `None` once the connection is closed.
    driver: Option<http1::Connection<TokioIo<TlsStream<TcpStream>>, Full<Bytes>>>,
    last_used: Instant,
}

/// Connects to the first of these addresses that answers. A silent address must not use up the time that the
/// others need: a name may have the addresses of several API servers, one of which is down. All are tried
/// again while one is silent, since the kernel's own repetitions come ever later: an API server that is back
/// is reached within a second. The caller sets the deadline.
async fn dial(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    loop {
        let mut failure = None;
        let mut silent = false;
        for address in addresses {
            match timeout(PATIENCE, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(error)) => failure = Some(error),
                Err(_) => silent = true,
            }
        }
        if !silent {
            return Err(failure.unwrap_or_else(|| io::Error::other("the name has no address")));
        }
    }
}

/// A complete answer.
pub(super) struct ApiServerAnswer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

/// Idle connections, of which the last used is taken first.
pub(super) struct ApiServerPool {
    idle: Mutex<Vec<ApiServerConnection>>,
    capacity: usize,
}

// === impl ApiServerConnection ===

impl ApiServerConnection {
    /// Connects, with the TLS handshake. The caller sets the deadline. `asked` is set once the name is
    /// resolved: before that, it is not the API server that is waited for.
    pub(super) async fn open(endpoint: Arc<ApiServerEndpoint>, asked: &AtomicBool) -> Result<Self, Cause> {
        let address = || endpoint.server.authority.clone();
        let connect_error = |source| Cause::Connect {
            address: address(),
            source,
        };
        let addresses = lookup_host((endpoint.server.host.as_str(), endpoint.server.port))
            .await
            .map_err(connect_error)?;
        asked.store(true, Relaxed);
        let tcp = dial(&addresses.collect::<Vec<_>>())
            .await
            .map_err(connect_error)?;
        tcp.set_nodelay(true).map_err(connect_error)?;
        // A network that takes no more packets ends the call, which is then repeated on a new connection.
        SockRef::from(&tcp)
            .set_tcp_user_timeout(Some(UNACKNOWLEDGED))
            .map_err(connect_error)?;
        let tls = TlsConnector::from(Arc::clone(&endpoint.tls))
            .connect(endpoint.server_name.clone(), tcp)
            .await
            .map_err(|source| Cause::Handshake {
                address: address(),
                source,
            })?;
        let (sender, driver) = http1::handshake(TokioIo::new(tls))
            .await
            .map_err(Cause::Exchange)?;
        Ok(Self {
            endpoint,
            sender,
            driver: Some(driver),
            last_used: Instant::now(),
        })
    }

    /// Sends a request and reads the answer. If it fails or is dropped, the connection must be dropped.
    pub(super) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<ApiServerAnswer, Cause> {
        let Self { sender, driver, .. } = self;
        let answer = async {
            sender.ready().await.map_err(Cause::Exchange)?;
            let (head, body) = sender
                .send_request(request)
                .await
                .map_err(Cause::Exchange)?
                .into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES)
                .collect()
                .await
                .map_err(body_error)?
                .to_bytes();
            Ok(ApiServerAnswer {
                status: head.status,
                retry_after: retry_after(&head.headers),
                body,
            })
        };
        let mut answer = pin!(answer);
        let answer = poll_fn(|context| {
            drive(driver, context);
            answer.as_mut().poll(context)
        })
        .await;
        self.last_used = Instant::now();
        answer
    }

    fn leads_to(&self, endpoint: &Arc<ApiServerEndpoint>) -> bool {
        Arc::ptr_eq(&self.endpoint, endpoint)
    }

    /// Whether the connection is still open. It is polled once, so that it notices a close while it was idle.
    async fn is_open(&mut self) -> bool {
        poll_fn(|context| {
            drive(&mut self.driver, context);
            Poll::Ready(())
        })
        .await;
        self.driver.is_some() && !self.sender.is_closed()
    }
}

fn drive<F: Future + Unpin>(driver: &mut Option<F>, context: &mut Context<'_>) {
    if driver
        .as_mut()
        .is_some_and(|driver| Pin::new(driver).poll(context).is_ready())
    {
        // If there is a request, it receives the error as well.
        *driver = None;
    }
}

fn body_error(error: Box<dyn std::error::Error + Send + Sync>) -> Cause {
    match error.downcast::<hyper::Error>() {
        Ok(error) => Cause::Exchange(*error),
        Err(error) if error.is::<LengthLimitError>() => Cause::TooLarge {
            limit: MAX_ANSWER_BYTES,
        },
        Err(error) => Cause::Request(error.to_string()),
    }
}

/// Seconds only, as client-go reads it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

// === impl ApiServerPool ===

impl ApiServerPool {
    pub(super) const fn new(capacity: usize) -> Self {
        Self {
            idle: Mutex::new(Vec::new()),
            capacity,
        }
    }

    /// An open connection to this endpoint. Connections to an older one are closed.
    pub(super) async fn take(&self, endpoint: &Arc<ApiServerEndpoint>) -> Option<ApiServerConnection> {
        loop {
            let mut connection = self.pop(endpoint)?;
            if connection.is_open().await {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(super) fn put(&self, connection: ApiServerConnection) {
        let mut idle = self.lock();
        if connection.driver.is_some() && idle.len() < self.capacity {
            idle.push(connection);
        }
    }

    /// Closes all idle connections: when one hangs, the others lead to the same server.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// Closes all idle connections except those to this endpoint.
    pub(super) fn keep_only(&self, endpoint: &Arc<ApiServerEndpoint>) {
        self.lock().retain(|connection| connection.leads_to(endpoint));
    }

    fn pop(&self, endpoint: &Arc<ApiServerEndpoint>) -> Option<ApiServerConnection> {
        let mut idle = self.lock();
        idle.retain(|connection| connection.leads_to(endpoint) && connection.last_used.elapsed() < MAX_IDLE);
        idle.pop()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<ApiServerConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// Seen red: with the addresses tried one after the other, each for as long as the kernel tries.
    #[tokio::test]
    async fn a_silent_address_does_not_keep_the_others_from_answering() {
        let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        silent
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        silent.listen(0).unwrap();
        let address = silent.local_addr().unwrap().as_socket().unwrap();
        // The queue is full once connections are no longer answered.
        let mut filling = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            filling.push(stream);
        }
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [closed, address, good.local_addr().unwrap()];
        let reached = timeout(Duration::from_secs(30), dial(&addresses))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reached.peer_addr().unwrap(), good.local_addr().unwrap());
        assert!(dial(&[]).await.is_err());
        // What was silent is reached once it answers, long before the kernel would ask again.
        let dialling = tokio::spawn(async move { dial(&[address]).await });
        assert!(!dialling.is_finished());
        silent.set_nonblocking(true).unwrap();
        drop(filling);
        let emptying = async {
            loop {
                let _ = silent.accept();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = emptying => {}
            reached = dialling => {
                assert_eq!(reached.unwrap().unwrap().peer_addr().unwrap(), address);
            }
        }
    }
}
