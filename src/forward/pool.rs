//! Connections to the kubelet: pairs of a sender and its connection, polled by whoever uses them, kept last in first out.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::kubelet::{KubeletIo, SendError};
use crate::metrics::Metrics;

/// The kubelet closes an idle connection after 90 s; well before that it is not used any more.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// One HTTP/1.1 connection to the kubelet, with nobody behind it: it moves only while it is polled. Dropping it closes
/// the socket.
pub(super) struct Upstream {
    sender: SendRequest<Incoming>,
    connection: Connection<TokioIo<KubeletIo>, Incoming>,
    /// The connection's future has ended and must not be polled again.
    done: bool,
    /// What it was made under: an older one is not reused.
    generation: u64,
}

/// A worker's idle connections to the kubelet.
#[derive(Clone)]
pub struct Pool(Arc<Shelf>);

struct Shelf {
    idle: Mutex<Vec<(Instant, Box<Upstream>)>>,
    capacity: usize,
    metrics: Arc<Metrics>,
}

/// A connection in use, which goes back to its pool if it turns out reusable, and is closed otherwise.
pub(super) struct PooledConnection {
    upstream: Box<Upstream>,
    pool: Option<Pool>,
}

// === impl Upstream ===

impl Upstream {
    pub(super) fn new(
        sender: SendRequest<Incoming>,
        connection: Connection<TokioIo<KubeletIo>, Incoming>,
        generation: u64,
    ) -> Self {
        Self {
            sender,
            connection,
            done: false,
            generation,
        }
    }

    /// Writes a request and waits for the head of its answer, polling the connection along.
    pub(super) async fn send(&mut self, request: Request<Incoming>) -> Result<Response<Incoming>, SendError> {
        let Self {
            sender,
            connection,
            done,
            ..
        } = self;
        let mut response = pin!(sender.try_send_request(request));
        poll_fn(|cx| {
            if !*done && Pin::new(&mut *connection).poll_without_shutdown(cx).is_ready() {
                *done = true;
            }
            response.as_mut().poll(cx)
        })
        .await
        .map_err(|mut error| SendError {
            unsent: error.take_message().map(Box::new),
            error: error.into_error(),
        })
    }

    /// Moves the connection on: reads what the kubelet sent, writes what the client sent.
    pub(super) fn poll(&mut self, cx: &mut std::task::Context<'_>) {
        if !self.done && self.connection.poll_without_shutdown(cx).is_ready() {
            self.done = true;
        }
    }

    /// Whether request and answer have both ended and the connection can take another request. While the kubelet has
    /// answered a request whose body is still coming it cannot, and must be closed (hyper#4176).
    fn reusable(&self) -> bool {
        !self.done && self.sender.is_ready()
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
    pub(super) async fn check_out(&self, generation: u64) -> Option<Box<Upstream>> {
        loop {
            let (since, mut upstream) = self.take()?;
            if upstream.generation != generation || since.elapsed() > MAX_IDLE {
                continue;
            }
            // One poll tells whether the kubelet has closed it meanwhile, and registers this task in place of the last.
            poll_fn(|cx| {
                upstream.poll(cx);
                Poll::Ready(())
            })
            .await;
            if upstream.reusable() {
                return Some(upstream);
            }
        }
    }

    pub(super) fn guard(&self, upstream: Box<Upstream>) -> PooledConnection {
        PooledConnection {
            upstream,
            pool: Some(self.clone()),
        }
    }

    /// Closes what has been idle for too long; called from time to time, so that an idle gate holds no dead socket.
    pub fn sweep(&self) {
        let expired: Vec<_> = {
            let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let young = idle.partition_point(|(since, _)| since.elapsed() > MAX_IDLE);
            idle.drain(..young).collect()
        };
        self.0
            .metrics
            .upstream_idle
            .dec_by(i64::try_from(expired.len()).unwrap_or(i64::MAX));
    }

    fn take(&self) -> Option<(Instant, Box<Upstream>)> {
        let taken = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if taken.is_some() {
            self.0.metrics.upstream_idle.dec();
        }
        taken
    }

    fn put(&self, upstream: Box<Upstream>) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.0.capacity {
            idle.push((Instant::now(), upstream));
            self.0.metrics.upstream_idle.inc();
        }
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        let idle = self.idle.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.metrics
            .upstream_idle
            .dec_by(i64::try_from(idle.len()).unwrap_or(i64::MAX));
    }
}

// === impl PooledConnection ===

impl PooledConnection {
    pub(super) fn poll(&mut self, cx: &mut std::task::Context<'_>) {
        self.upstream.poll(cx);
    }

    /// The connection is closed when its answer ends.
    pub(super) fn never_reuse(&mut self) {
        self.pool = None;
    }

    /// The answer has ended: back to the pool, if it can take another request.
    pub(super) fn give_back(self) {
        let Self { upstream, pool } = self;
        if let Some(pool) = pool
            && upstream.reusable()
        {
            pool.put(upstream);
        }
    }

    /// After a 101: the raw connection, and the bytes that came right behind the head.
    pub(super) async fn into_io(self) -> Result<(KubeletIo, Bytes), hyper::Error> {
        let mut upstream = self.upstream;
        if !upstream.done {
            poll_fn(|cx| upstream.connection.poll_without_shutdown(cx)).await?;
        }
        let parts = upstream.connection.into_parts();
        Ok((parts.io.into_inner(), parts.read_buf))
    }
}
