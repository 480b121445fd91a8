//! Connections to the kubelet: pairs of a sender and its connection, polled by whoever uses them, kept last in first out.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use super::io::KubeletIo;
use crate::metrics::{Metrics, Raised};

/// The kubelet closes an idle connection after 90 s; well before that it is not used any more.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// One HTTP/1.1 connection to the kubelet, with nobody behind it: it moves only while it is polled. Dropping it closes
/// the socket.
pub(super) struct KubeletConnection {
    sender: SendRequest<Incoming>,
    driver: Option<Http1>,
    /// The connection's future has ended and must not be polled again.
    ended: bool,
    /// What it was made under: an older one is not reused.
    generation: u64,
}

type Http1 = Connection<TokioIo<KubeletIo>, Incoming>;

/// A request that was not answered.
pub(super) struct SendError {
    pub(super) error: hyper::Error,
    /// The request, if not a byte of it was written.
    pub(super) unsent: Option<Box<Request<Incoming>>>,
}

/// A worker's idle connections to the kubelet.
#[derive(Clone)]
pub struct Pool(Arc<Shelf>);

struct Shelf {
    idle: Mutex<Vec<(Instant, Box<KubeletConnection>, Raised)>>,
    capacity: usize,
    metrics: Arc<Metrics>,
}

/// A connection in use, which goes back to its pool if it turns out reusable, and is closed otherwise.
pub(super) struct PooledConnection {
    connection: Box<KubeletConnection>,
    pool: Option<Pool>,
}

// === impl KubeletConnection ===

impl KubeletConnection {
    pub(super) fn new(sender: SendRequest<Incoming>, driver: Http1, generation: u64) -> Self {
        Self {
            sender,
            driver: Some(driver),
            ended: false,
            generation,
        }
    }

    /// Writes a request and waits for the head of its answer, polling the connection along.
    ///
    /// The answer comes out of the connection, on this very task: waiting for it needs no waker of its own, and having
    /// one would wake the task for what it has just done itself.
    pub(super) async fn send(&mut self, request: Request<Incoming>) -> Result<Response<Incoming>, SendError> {
        let mut response = pin!(unconstrained(self.sender.try_send_request(request)));
        poll_fn(|cx| {
            self.poll(cx);
            let answer = response.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if answer.is_pending() && self.ended {
                // The kubelet closed before it read the request. It lies in the connection, and comes back with its end.
                self.driver = None;
                return response.as_mut().poll(cx);
            }
            answer
        })
        .await
        .map_err(|mut error| SendError {
            unsent: error.take_message().map(Box::new),
            error: error.into_error(),
        })
    }

    /// Moves the connection on: reads what the kubelet sent, writes what the client sent.
    fn poll(&mut self, cx: &mut Context<'_>) {
        if !self.ended
            && let Some(driver) = &mut self.driver
        {
            self.ended = driver.poll_without_shutdown(cx).is_ready();
        }
    }

    /// Whether request and answer have both ended and the connection can take another request; what has come of the
    /// answer stays readable. While the kubelet has answered a request whose body is still coming it cannot, and must be
    /// closed (hyper#4176).
    fn reusable(&self) -> bool {
        !self.ended && self.sender.is_ready()
    }
}

// === impl Pool ===

impl Pool {
    /// A pool that keeps up to `capacity` idle connections.
    pub fn new(capacity: usize, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Shelf {
            idle: Mutex::default(),
            capacity,
            metrics,
        }))
    }

    /// The connection used last, if one is still good and was made under `generation`.
    pub(super) fn check_out(&self, generation: u64) -> Option<Box<KubeletConnection>> {
        loop {
            let (since, mut connection) = self.take()?;
            if connection.generation != generation || since.elapsed() > MAX_IDLE {
                continue;
            }
            // One poll tells whether the kubelet has closed it meanwhile.
            connection.poll(&mut Context::from_waker(Waker::noop()));
            if connection.reusable() {
                return Some(connection);
            }
        }
    }

    pub(super) fn guard(&self, connection: Box<KubeletConnection>) -> PooledConnection {
        PooledConnection {
            connection,
            pool: Some(self.clone()),
        }
    }

    /// Closes what has been idle for too long or was closed by the kubelet; called from time to time, so that an idle gate
    /// holds no dead socket.
    pub fn sweep(&self) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain_mut(|(since, connection, _)| {
            connection.poll(&mut Context::from_waker(Waker::noop()));
            since.elapsed() <= MAX_IDLE && connection.reusable()
        });
    }

    fn take(&self) -> Option<(Instant, Box<KubeletConnection>)> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop().map(|(since, connection, _)| (since, connection))
    }

    fn put(&self, connection: Box<KubeletConnection>) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.0.capacity {
            let counted = Raised::new(&self.0.metrics.upstream_idle);
            idle.push((Instant::now(), connection, counted));
        }
    }
}

// === impl PooledConnection ===

impl PooledConnection {
    /// Moves the connection on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        self.connection.poll(cx);
    }

    /// Goes to the pool if request and answer have ended, else stays.
    pub(super) fn settle(self) -> Option<Self> {
        if !self.connection.reusable() {
            return Some(self);
        }
        if let Some(pool) = self.pool {
            pool.put(self.connection);
        }
        None
    }

    /// The connection is closed when its answer ends.
    pub(super) fn never_reuse(&mut self) {
        self.pool = None;
    }

    /// After a 101: the raw connection, and the bytes that came right behind the head. `None` if it failed meanwhile.
    pub(super) async fn into_io(self) -> Option<(KubeletIo, Bytes)> {
        let mut driver = self.connection.driver?;
        if !self.connection.ended {
            poll_fn(|cx| driver.poll_without_shutdown(cx)).await.ok()?;
        }
        let parts = driver.into_parts();
        Some((parts.io.into_inner(), parts.read_buf))
    }
}
