//! The gate's own port and socket: `/livez`, `/readyz`, `/metrics`, `/readonly-census`, `/seal` and `/status`.
//! They never proxy.
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
use super::ends::Ends;
use super::instance::Instance;
use super::status::Serving;

/// The thread that answers, until it has ended or is dropped.
pub(super) struct AdminThread {
    thread: JoinHandle<()>,
    cut: DropGuard,
}

impl AdminThread {
    /// Starts it. While the gate stops, it answers, and `/readyz` fails. When the gate leaves, the listeners
    /// are closed.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub(super) fn start(
        listeners: Listeners,
        instance: Arc<Instance>,
        status: Serving,
        ends: Ends,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        instance.threads.add("admin", runtime.handle().clone());
        let cut = CancellationToken::new();
        let guard = cut.clone().drop_guard();
        let metrics = instance.gate.metrics.clone();
        let serve = async move {
            let connections = Connections::new(Answers::new(instance, status, ends.stop.clone()), metrics);
            connections.serve(listeners, ends.left()).await;
        };
        let serve = move || {
            runtime.block_on(cut.run_until_cancelled(serve));
            // What is still open ends with the runtime.
        };
        let thread = thread::Builder::new().name("admin".to_owned()).spawn(serve)?;
        Ok(Self { thread, cut: guard })
    }

    /// Waits for its end: once the gate has left, until its last connection has ended; once `stop` is
    /// cancelled, no longer.
    pub(super) async fn end(self, stop: &CancellationToken) {
        let Self { thread, cut } = self;
        let mut ended = tokio::task::spawn_blocking(move || thread.join());
        let outcome = tokio::select! {
            outcome = &mut ended => outcome,
            () = stop.cancelled() => {
                drop(cut);
                ended.await
            }
        };
        if !matches!(outcome, Ok(Ok(()))) {
            tracing::error!("the admin thread has panicked");
        }
    }
}
