//! A worker: one thread with its own runtime and its own connections to the kubelet.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection;
use super::port::TlsPort;
use super::turns::Turns;
use crate::door::{Entry, MOST_ENDING};
use crate::gate::Worker;

/// After a cut, connections have this long to end.
pub(super) const CUT_GRACE: Duration = Duration::from_secs(2);

/// An accepted connection on its way to a worker.
pub(super) struct Accepted {
    pub(super) stream: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    /// When it was accepted.
    pub(super) at: Instant,
    pub(super) entry: Entry,
    pub(super) loaded: Loaded,
}

/// One connection of a worker's load, counted from the moment it is handed over.
pub(super) struct Loaded(Arc<AtomicUsize>);

impl Loaded {
    pub(super) fn new(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Relaxed);
        Self(load.clone())
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// How far the connections of the workers must have come to an end; see [`Worker`].
#[derive(Clone)]
pub(super) struct WorkerEnds {
    pub(super) leave: CancellationToken,
    pub(super) drain: CancellationToken,
    pub(super) cut: CancellationToken,
}

impl WorkerEnds {
    pub(super) fn new() -> Self {
        let drain = CancellationToken::new();
        Self {
            leave: drain.child_token(),
            drain,
            cut: CancellationToken::new(),
        }
    }
}

/// The acceptor's end of a worker.
pub(super) struct WorkerHandle {
    pub(super) send: mpsc::Sender<Accepted>,
    /// Connections it has now: the least loaded worker gets the next one, since a kubelet
    /// sees few, long connections.
    pub(super) load: Arc<AtomicUsize>,
    pub(super) thread: std::thread::JoinHandle<()>,
    pub(super) name: String,
    pub(super) runtime: Handle,
}

/// Starts a worker's thread. It ends when its channel is closed and its connections have
/// ended, or when they are cut.
pub(super) fn start(number: usize, port: Arc<TlsPort>, ends: WorkerEnds) -> std::io::Result<WorkerHandle> {
    // It holds every connection that may be open: strangers cannot fill it to the cost of others.
    let (send, receive) = mpsc::channel(port.limits.connections + MOST_ENDING);
    let load = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (name, handle) = (format!("worker-{number}"), runtime.handle().clone());
    let thread = std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || runtime.block_on(run(receive, port, ends)))?;
    Ok(WorkerHandle {
        send,
        load,
        thread,
        name,
        runtime: handle,
    })
}

async fn run(mut accepted: mpsc::Receiver<Accepted>, port: Arc<TlsPort>, ends: WorkerEnds) {
    let pool = port.gate.kubelet.pool(port.limits.upstream_idle_connections);
    let worker = Arc::new(Worker {
        pool,
        tasks: TaskTracker::new(),
        leave: ends.leave,
        drain: ends.drain,
        cut: ends.cut,
    });
    let turns = Arc::new(Turns::new(port.gate.metrics.clone()));
    // The runtime ends it.
    tokio::spawn({
        let turns = turns.clone();
        async move { turns.give().await }
    });
    let mut sweep = interval(Duration::from_secs(30));
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = accepted.recv() => {
                let Some(Accepted { stream, peer, at, entry, loaded }) = accepted else { break };
                let stream = match tokio::net::TcpStream::from_std(stream) {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::warn!(%peer, %error, "an accepted connection cannot be served");
                        continue;
                    }
                };
                let admission = entry.admission().clone();
                let serving = {
                    let (port, worker, turns) = (port.clone(), worker.clone(), turns.clone());
                    async move {
                        connection::serve(stream, peer, at, &entry, &port, &worker, &turns).await;
                        drop((entry, loaded));
                    }
                };
                admission.set_task(worker.tasks.spawn(serving).abort_handle());
            }
            _ = sweep.tick() => worker.pool.sweep(),
        }
    }
    worker.tasks.close();
    let mut ended = pin!(worker.tasks.wait());
    loop {
        tokio::select! {
            () = &mut ended => break,
            // Connections may last for long while the process leaves.
            _ = sweep.tick() => worker.pool.sweep(),
        }
    }
}
