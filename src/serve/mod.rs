//! A gate that runs until it is told to stop: how it starts, its ports, its reloads, the watch over the seal,
//! and the one over the kubelet's next start.

pub mod admin;
pub(crate) mod check;
pub(crate) mod containment;
mod descriptors;
mod error;
pub(crate) mod helper;
mod holding;
mod instance;
mod left_out;
mod looker;
mod names;
mod next_start;
pub(crate) mod node;
pub(crate) mod notify;
pub(crate) mod reload;
mod reviewing;
pub(crate) mod run;
mod side_port;
mod sockets;
pub mod start;
mod tombstone;
mod unit;
mod watch;

pub use self::error::StartError;
pub use self::instance::Instance;
pub use self::node::NodeError;
pub use self::sockets::{BindError, Sockets};
pub(crate) use self::tombstone::CensusReport;

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::admin::{AdminThread, Listeners};
use crate::listen::{TlsPort, Workers};

/// How a gate ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stopped {
    /// Connections and streams that were still open at `limits.shutdownTimeout` and were cut.
    pub cut: usize,
}

/// Serves every port until `stop` is cancelled. Then it accepts nothing new, lets running requests finish
/// within `limits.shutdownTimeout`, and cuts the rest. Runs on the control runtime; connections live on
/// the workers' own threads.
///
/// # Errors
/// A thread cannot be started.
pub async fn serve(
    instance: Arc<Instance>,
    sockets: Sockets,
    stop: CancellationToken,
) -> io::Result<Stopped> {
    let port = Arc::new(TlsPort {
        gate: instance.gate.clone(),
        serving: instance.serving.clone(),
        limits: instance.settings.limits.clone(),
    });
    let workers = Arc::new(Workers::start(instance.settings.workers, &port)?);
    let tasks = TaskTracker::new();
    let secure = tombstone::secure_port(&instance.settings.upstream.url, &sockets.addresses());
    for listener in sockets.tls {
        let workers = workers.clone();
        let accept = move |listener| workers.clone().accept(listener);
        let holding = instance.holding.clone().hold(listener, accept);
        tasks.spawn(stop.clone().run_until_cancelled_owned(holding));
    }
    for listener in sockets.tombstone {
        let serving = instance.clone();
        let accept = move |listener| tombstone::serve(listener, serving.clone(), secure);
        let holding = instance.holding.clone().hold(listener, accept);
        tasks.spawn(stop.clone().run_until_cancelled_owned(holding));
    }
    // It answers while connections drain, so that the drain can be watched.
    let listeners = Listeners {
        port: sockets.admin.map(TcpListener::into_std).transpose()?,
        socket: sockets.admin_socket,
    };
    let admin = AdminThread::start(listeners, instance.clone(), stop.clone())?;

    stop.cancelled().await;
    tasks.close();
    tasks.wait().await;
    // The acceptors have ended, so this is the last owner.
    let cut = match Arc::into_inner(workers) {
        Some(workers) => workers.stop().await,
        None => 0,
    };
    admin.stop().await;
    Ok(Stopped { cut })
}
