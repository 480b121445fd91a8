//! Connections to the kubelet, and the pool of idle ones, of which the last used is taken first.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
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

/// The kubelet closes an idle connection after 90 s. The gate stops using it well before that.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// One HTTP/1.1 connection to the kubelet. No task drives it: it advances only while it is polled. Dropping
/// it closes the socket.
pub(super) struct KubeletConnection {
    sender: SendRequest<Incoming>,
    driver: Option<Http1>,
    /// The driver has ended and must not be polled again.
    ended: bool,
    /// The generation of the credentials it was made with. A connection of an older generation is not reused.
    generation: u64,
    counted: Option<Counted>,
}

type Http1 = Connection<TokioIo<KubeletIo>, Incoming>;

/// Why a request was not answered.
pub(super) struct SendError {
    pub(super) error: hyper::Error,
    /// The request, if no byte of it was written.
    pub(super) unsent: Option<Box<Request<Incoming>>>,
}

/// A worker's idle connections to the kubelet.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shelf>);

struct Shelf {
    idle: Mutex<Vec<(Instant, Box<KubeletConnection>, Raised)>>,
    capacity: usize,
    metrics: Arc<Metrics>,
}

/// A connection in a count of those that are open or being opened.
pub(super) struct Counted(Arc<AtomicUsize>);

/// The idle connections of a pool, as long as the pool is there.
pub(super) struct IdleConnections(Weak<Shelf>);

/// A connection in use. It returns to its pool if it can be reused, and is closed otherwise.
pub(super) struct PooledConnection {
    connection: Box<KubeletConnection>,
    pool: Option<Pool>,
}

// === impl KubeletConnection ===

impl KubeletConnection {
    pub(super) fn new(
        sender: SendRequest<Incoming>,
        driver: Http1,
        generation: u64,
        counted: Counted,
    ) -> Self {
        Self {
            sender,
            driver: Some(driver),
            ended: false,
            generation,
            counted: Some(counted),
        }
    }

    /// Writes a request and waits for the head of its answer, polling the connection meanwhile.
    ///
    /// The answer arrives through the connection, which this task polls. Waiting for it needs no waker of its
    /// own; one would wake the task for its own work.
    pub(super) async fn send(&mut self, request: Request<Incoming>) -> Result<Response<Incoming>, SendError> {
        let mut response = pin!(unconstrained(self.sender.try_send_request(request)));
        poll_fn(|cx| {
            self.poll(cx);
            let answer = response.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if answer.is_pending() && self.ended {
                // The kubelet closed before it read the request. The request is still in the driver; dropping
                // that returns it.
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

    /// Advances the connection: reads what the kubelet sent, writes what the client sent.
    fn poll(&mut self, cx: &mut Context<'_>) {
        if !self.ended
            && let Some(driver) = &mut self.driver
        {
            self.ended = driver.poll_without_shutdown(cx).is_ready();
        }
    }

    /// Whether request and answer have both ended, so that the connection can take another request. What has
    /// arrived of the answer stays readable. If the kubelet answers before it has read the whole request, the
    /// connection cannot be reused and must be closed (hyper#4176).
    fn reusable(&self) -> bool {
        !self.ended && self.sender.is_ready()
    }
}

// === impl Pool ===

impl Pool {
    /// A pool that keeps up to `capacity` idle connections.
    pub(super) fn new(capacity: usize, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Shelf {
            idle: Mutex::default(),
            capacity,
            metrics,
        }))
    }

    /// The last used connection that is still open and of this `generation`.
    pub(super) fn check_out(&self, generation: u64) -> Option<Box<KubeletConnection>> {
        loop {
            let (since, mut connection) = self.take()?;
            if connection.generation != generation || since.elapsed() > MAX_IDLE {
                continue;
            }
            // One poll shows whether the kubelet has closed it meanwhile.
            connection.poll(&mut Context::from_waker(Waker::noop()));
            if connection.reusable() {
                return Some(connection);
            }
        }
    }

    /// Its idle connections, for another worker to close.
    pub(super) fn idle_connections(&self) -> IdleConnections {
        IdleConnections(Arc::downgrade(&self.0))
    }

    pub(super) fn guard(&self, connection: Box<KubeletConnection>) -> PooledConnection {
        PooledConnection {
            connection,
            pool: Some(self.clone()),
        }
    }

    /// Closes connections that were idle for too long or that the kubelet has closed. Called periodically, so
    /// that an idle gate keeps no dead sockets.
    pub(crate) fn sweep(&self) {
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

// === impl IdleConnections ===

impl IdleConnections {
    /// Closes the connection that has been idle longest; false if none is idle.
    pub(super) fn close_oldest(&self) -> bool {
        let Some(shelf) = self.0.upgrade() else {
            return false;
        };
        let mut idle = shelf.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.is_empty() {
            return false;
        }
        idle.remove(0);
        true
    }
}

// === impl Counted ===

impl Counted {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl PooledConnection ===

impl PooledConnection {
    /// Advances the connection.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        self.connection.poll(cx);
    }

    /// Returns the connection to its pool if request and answer have ended, and itself otherwise.
    pub(super) fn settle(self) -> Option<Self> {
        if !self.connection.reusable() {
            return Some(self);
        }
        if let Some(pool) = self.pool {
            pool.put(self.connection);
        }
        None
    }

    /// Has the connection closed when its answer ends, and counts it no longer: a stream holds it,
    /// which has a place of its own.
    pub(super) fn leave_pool(&mut self) {
        self.pool = None;
        self.connection.counted = None;
    }

    /// After a 101: the raw stream, and the bytes that followed the head. `None` if the connection has
    /// failed.
    pub(super) async fn into_io(self) -> Option<(KubeletIo, Bytes)> {
        let mut driver = self.connection.driver?;
        if !self.connection.ended {
            poll_fn(|cx| driver.poll_without_shutdown(cx)).await.ok()?;
        }
        let parts = driver.into_parts();
        Some((parts.io.into_inner(), parts.read_buf))
    }
}
