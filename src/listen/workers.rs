//! The workers of the TLS port: how many connections it takes, and which worker gets the next one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::accept::Acceptor;
use super::port::TlsPort;
use super::worker::{self, Accepted, CUT_GRACE, Loaded, WorkerEnds, WorkerHandle};
use crate::door::{Bounds, Door};
use crate::source::Source;

/// The worker threads, and the places for their connections.
pub(crate) struct Workers {
    port: Arc<TlsPort>,
    door: Arc<Door>,
    handles: Vec<WorkerHandle>,
    ends: WorkerEnds,
}

// === impl Workers ===

impl Workers {
    /// Starts `count` worker threads.
    ///
    /// # Errors
    /// A thread or its runtime cannot be made.
    pub(crate) fn start(count: usize, port: &Arc<TlsPort>) -> io::Result<Self> {
        let ends = WorkerEnds::new();
        let handles = (0..count)
            .map(|number| worker::start(number, port.clone(), ends.clone()))
            .collect::<io::Result<_>>()?;
        let (limits, metrics) = (&port.limits, &port.gate.metrics);
        let bounds = Bounds {
            total: limits.connections,
            unauthenticated: limits.unauthenticated_connections,
            per_source: limits.connections_per_address,
        };
        let unauthenticated = metrics.unauthenticated_connections.clone();
        Ok(Self {
            door: Door::new(bounds, port.gate.known.clone(), metrics.clone(), unauthenticated),
            port: port.clone(),
            handles,
            ends,
        })
    }

    /// The name of each worker, and its runtime.
    pub(crate) fn runtimes(&self) -> impl Iterator<Item = (&str, &Handle)> {
        self.handles.iter().map(|worker| (&*worker.name, &worker.runtime))
    }

    /// Accepts connections and hands them to the workers, until it is dropped.
    pub(crate) async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut acceptor = Acceptor::new(listener, "tls", self.port.gate.metrics.clone());
        loop {
            let (stream, peer) = acceptor.accept().await;
            if self.port.gate.rules.load().sources.port.allow(peer.ip()) {
                self.hand_over(stream, peer);
            } else {
                self.refuse_source(&stream, peer);
            }
        }
    }

    /// Resets a connection whose source is not in `sources.port`. It takes no place, and no thread's time but
    /// this one's.
    fn refuse_source(&self, stream: &TcpStream, peer: SocketAddr) {
        self.port.gate.metrics.rejected("source");
        tracing::warn!(
            %peer,
            "a connection was refused: sources.port does not have its address; add it if this client is \
             needed"
        );
        // Closed by a reset, it leaves nothing in the kernel either.
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }

    fn hand_over(&self, stream: TcpStream, peer: SocketAddr) {
        let rejected = |reason| self.port.gate.metrics.rejected(reason);
        let entry = match self.door.enter(Source::of(peer.ip())) {
            Ok(entry) => entry,
            Err(full) => return rejected(full.reason()),
        };
        // The channel of a worker that has ended is closed. Its load would stay the least.
        let alive = self.handles.iter().filter(|worker| !worker.send.is_closed());
        let Some(worker) = alive.min_by_key(|worker| worker.load.load(Relaxed)) else {
            return rejected("no_worker");
        };
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => {
                return tracing::warn!(%peer, %error, "an accepted connection cannot be handed over");
            }
        };
        let accepted = Accepted {
            stream,
            peer,
            at: Instant::now(),
            entry,
            loaded: Loaded::new(&worker.load),
        };
        if worker.send.try_send(accepted).is_err() {
            rejected("worker_busy");
        }
    }

    /// Lets the connections finish, and cuts the rest. Yields how many were cut.
    ///
    /// Until `stop` is cancelled the process leaves: an idle connection stays until its client uses it again,
    /// and the rest is cut after `leave_within`. Once it is cancelled idle connections end, and the rest is
    /// cut after `limits.shutdownTimeout`, or as soon as `alone` is cancelled as well.
    pub(crate) async fn end(
        self,
        stop: &CancellationToken,
        alone: &CancellationToken,
        leave_within: Duration,
    ) -> usize {
        let Self {
            port, handles, ends, ..
        } = self;
        // The channels close, and the workers end with their last connection.
        let (loads, threads): (Vec<_>, Vec<_>) = handles
            .into_iter()
            .map(|worker| (worker.load, worker.thread))
            .unzip();
        let mut joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // The panic of a worker has been reported already.
                let _ = thread.join();
            }
        });
        ends.leave.cancel();
        let stopped = tokio::select! {
            biased;
            () = stop.cancelled() => true,
            _ = &mut joined => return 0,
            () = sleep(leave_within) => false,
        };
        ends.drain.cancel();
        if stopped {
            let finishing = timeout(port.limits.shutdown_timeout, &mut joined);
            if alone
                .run_until_cancelled(finishing)
                .await
                .is_some_and(|ended| ended.is_ok())
            {
                return 0;
            }
        }
        let open = loads.iter().map(|load| load.load(Relaxed)).sum::<usize>();
        let streams = usize::try_from(port.gate.metrics.streams.get()).unwrap_or(0);
        ends.cut.cancel();
        let _ = timeout(CUT_GRACE, joined).await;
        open + streams
    }
}
