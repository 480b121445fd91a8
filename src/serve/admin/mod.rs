//! The gate's own port and socket: `/livez`, `/readyz`, `/metrics`, `/readonly-census`, `/seal`. They never
//! proxy.
//!
//! They have a thread of their own: a flood of their connections does not reach the threads that serve, and
//! probes are answered while those are flooded. The port is for probes, and any local process may connect to
//! it. The socket beside it is for the gate's own commands, and the directory that it is in protects it.

mod answer;
pub mod client;
mod connections;
mod part;
mod readiness;
mod report;
pub(in crate::serve) mod socket;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::answer::Answers;
use self::connections::Connections;
pub(super) use self::connections::Listeners;
use super::instance::Instance;

/// The thread that answers, until it is stopped or dropped.
pub(super) struct AdminThread {
    thread: JoinHandle<()>,
    stop: DropGuard,
}

impl AdminThread {
    /// Starts it. `/readyz` fails as soon as `stopping` is cancelled.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub(super) fn start(
        listeners: Listeners,
        instance: Arc<Instance>,
        stopping: CancellationToken,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let metrics = instance.gate.metrics.clone();
        let serve = async move {
            let connections = Connections::new(Answers::new(instance, stopping), metrics);
            connections.accept(listeners).await;
        };
        let serve = move || {
            runtime.block_on(stop.run_until_cancelled(serve));
            // What is still open ends with the runtime.
        };
        let thread = thread::Builder::new().name("admin".to_owned()).spawn(serve)?;
        Ok(Self { thread, stop: guard })
    }

    /// Stops it, and waits for its end.
    pub(super) async fn stop(self) {
        drop(self.stop);
        let ended = tokio::task::spawn_blocking(move || self.thread.join());
        if !matches!(ended.await, Ok(Ok(()))) {
            tracing::error!("the admin thread has panicked");
        }
    }
}
