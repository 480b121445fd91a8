//! Station 1: listen. Accepted, counted, handed to a worker; and everything around it that starts and stops.

mod census;
mod connection;
mod io;
mod limits;
mod replacement;
mod side_port;
mod socket;
mod streams;
mod tombstone;
mod worker;

pub(crate) use self::census::{Census, CensusReport};
pub use self::connection::Connection;
pub use self::io::{Activity, Timeouts, Watched};
pub use self::limits::{Exhausted, Quota, Share};
pub(crate) use self::side_port::accept_each;
pub use self::socket::{BindError, Sockets};
pub use self::worker::Worker;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::worker::{Accepted, Loaded, WorkerHandle};
use crate::gate::Gate;

/// After a cut, what is left is given this long to notice.
const CUT_GRACE: Duration = Duration::from_secs(2);
/// Waited after the process has run out of descriptors; it goes on accepting, it never exits.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How a gate ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stopped {
    /// Connections and streams that were still open at `limits.shutdownTimeout` and were cut.
    pub cut: usize,
}

/// Serves until `stop` is cancelled; then takes nothing new, lets what runs finish within `limits.shutdownTimeout`,
/// and cuts the rest. Runs on the control runtime; connections live on the workers' own threads.
///
/// # Errors
/// A worker's thread cannot be started.
pub async fn serve(gate: Arc<Gate>, sockets: Sockets, stop: CancellationToken) -> std::io::Result<Stopped> {
    let (drain, cut) = (CancellationToken::new(), CancellationToken::new());
    let workers: Arc<Vec<WorkerHandle>> = (0..gate.settings().workers)
        .map(|number| worker::start(number, gate.clone(), drain.clone(), cut.clone()))
        .collect::<std::io::Result<Vec<_>>>()?
        .into();

    let limits = gate.limits();
    let quota = Quota::new(limits.connections, limits.connections_per_address);
    let tasks = TaskTracker::new();
    let secure = tombstone::secure_port(&gate.settings().upstream.url, &sockets.addresses());
    for listener in sockets.tls {
        let acceptor = accept(listener, gate.clone(), quota.clone(), workers.clone());
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(acceptor).await });
    }
    for listener in sockets.tombstone {
        tasks.spawn(tombstone::serve(listener, gate.clone(), secure, stop.clone()));
    }
    // The admin port goes on answering while connections drain, so that the drain can be watched.
    let admin_stop = CancellationToken::new();
    let admin = TaskTracker::new();
    if let Some(listener) = sockets.admin {
        admin.spawn(crate::admin::serve(
            listener,
            gate.clone(),
            stop.clone(),
            admin_stop.clone(),
        ));
    }

    stop.cancelled().await;
    tasks.close();
    tasks.wait().await;
    drain.cancel();
    let stopped = stop_workers(&gate, workers, &cut).await;
    admin_stop.cancel();
    admin.close();
    admin.wait().await;
    Ok(stopped)
}

async fn stop_workers(gate: &Gate, workers: Arc<Vec<WorkerHandle>>, cut: &CancellationToken) -> Stopped {
    // The acceptors are gone, so this is the last owner; the channels close and the workers drain.
    let mut threads = Vec::new();
    let loads: Vec<_> = workers.iter().map(|worker| worker.load.clone()).collect();
    if let Some(workers) = Arc::into_inner(workers) {
        threads.extend(workers.into_iter().map(|worker| worker.thread));
    }
    let mut joined = tokio::task::spawn_blocking(move || {
        for thread in threads {
            // A worker that panicked has been reported by the panic itself.
            let _ = thread.join();
        }
    });
    if timeout(gate.limits().shutdown_timeout, &mut joined).await.is_ok() {
        return Stopped { cut: 0 };
    }
    let open = loads.iter().map(|load| load.load(Relaxed)).sum::<usize>();
    let streams = usize::try_from(gate.metrics().streams.get()).unwrap_or(0);
    cut.cancel();
    let _ = timeout(CUT_GRACE, joined).await;
    Stopped { cut: open + streams }
}

/// Accepts, counts and hands on, until dropped.
async fn accept(
    listener: TcpListener,
    gate: Arc<Gate>,
    quota: Arc<Quota<IpAddr>>,
    workers: Arc<Vec<WorkerHandle>>,
) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                gate.metrics().rejected("accept_failed");
                tracing::warn!(%error, "accept failed");
                sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        hand_over(stream, peer, &gate, &quota, &workers);
    }
}

fn hand_over(
    stream: TcpStream,
    peer: SocketAddr,
    gate: &Gate,
    quota: &Arc<Quota<IpAddr>>,
    workers: &[WorkerHandle],
) {
    let share = match quota.take(peer.ip().to_canonical()) {
        Ok(share) => share,
        Err(Exhausted::Each) => return gate.metrics().rejected("connections_per_address"),
        Err(Exhausted::Total) => return gate.metrics().rejected("connections"),
    };
    // A worker that is gone would look idle for ever.
    let alive = workers.iter().filter(|worker| !worker.send.is_closed());
    let Some(worker) = alive.min_by_key(|worker| worker.load.load(Relaxed)) else {
        return gate.metrics().rejected("no_worker");
    };
    match stream.into_std() {
        Ok(stream) => {
            let loaded = Loaded::new(&worker.load);
            if worker
                .send
                .try_send(Accepted {
                    stream,
                    peer,
                    share,
                    loaded,
                })
                .is_err()
            {
                gate.metrics().rejected("worker_busy");
            }
        }
        Err(error) => tracing::warn!(%peer, %error, "an accepted connection cannot be handed over"),
    }
}
