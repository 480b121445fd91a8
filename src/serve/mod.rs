//! A gate that runs until it is told to end: how it starts, its ports, its reloads, the watch over the seal,
//! and the one over the kubelet's next start.

pub mod admin;
pub(crate) mod check;
pub(crate) mod containment;
mod descriptors;
mod ends;
mod error;
pub(crate) mod handover;
pub(crate) mod helper;
mod holding;
mod inherited;
mod instance;
mod leaving;
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
mod status;
mod tombstone;
mod unit;
mod watch;
mod watchdog;

pub use self::ends::Ends;
pub use self::error::StartError;
pub use self::inherited::{Inherited, InheritedError};
pub use self::instance::Instance;
pub use self::node::NodeError;
pub use self::sockets::{BindError, Sockets};
pub(crate) use self::status::StatusReport;
pub(crate) use self::tombstone::CensusReport;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::admin::{AdminThread, Listeners};
use crate::listen::{TlsPort, Workers};

/// How a gate ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stopped {
    /// Connections and streams that were still open at the deadline and were cut.
    pub cut: usize,
    /// It left: another process has its sockets. False if it was stopped, also while it was leaving.
    pub left: bool,
}

/// A gate whose ports are served.
struct Ports {
    instance: Arc<Instance>,
    workers: Arc<Workers>,
    acceptors: TaskTracker,
    tombstone_tasks: TaskTracker,
    admin: Admin,
    ends: Ends,
}

/// The admin port and the admin socket.
enum Admin {
    /// The process that hands over answers there until it has left.
    Waits(Listeners, status::Serving),
    Serves(AdminThread),
}

/// Serves every port until it is told to end. Then it accepts nothing new, and the listeners are closed in
/// this process.
///
/// If it stops, idle connections end, requests may finish within `limits.shutdownTimeout`, and the rest is
/// cut. If it leaves, every connection that was accepted is served until its client has been told to use
/// another one, and streams go on; after `upgrade.drainTimeout` the rest is cut. Runs on the control runtime;
/// connections live on the workers' own threads.
///
/// # Errors
/// A thread cannot be started.
pub async fn serve(instance: Arc<Instance>, sockets: Sockets, ends: Ends) -> io::Result<Stopped> {
    let ports = Ports::open(instance, sockets, ends)?;
    Ok(ports.open_admin()?.until_ended().await)
}

// === impl Ports ===

impl Ports {
    /// Begins to accept on every port but the admin port. Must be called on the control runtime.
    ///
    /// # Errors
    /// A thread cannot be started.
    fn open(instance: Arc<Instance>, sockets: Sockets, ends: Ends) -> io::Result<Self> {
        let port = Arc::new(TlsPort {
            gate: instance.gate.clone(),
            serving: instance.serving.clone(),
            limits: instance.settings.limits.clone(),
        });
        let workers = Arc::new(Workers::start(instance.settings.workers, &port)?);
        for (name, runtime) in workers.runtimes() {
            instance.threads.add(name, runtime.clone());
        }
        let (acceptors, tombstone_tasks) = (TaskTracker::new(), TaskTracker::new());
        let until_ended = || ends.leave.clone();
        let secure = tombstone::secure_port(&instance.settings.upstream.url, &sockets.addresses());
        let status = status::Serving::now_on(&sockets);
        let (holding, settings) = (&instance.holding, &instance.settings);
        let accept = {
            let workers = workers.clone();
            move |listener| workers.clone().accept(listener)
        };
        for listener in sockets.tls {
            let held = holding.clone().hold(listener, accept.clone());
            acceptors.spawn(until_ended().run_until_cancelled_owned(held));
        }
        for address in holding.not_held(&settings.listen) {
            let held = holding.clone().hold_later(address, accept.clone());
            acceptors.spawn(until_ended().run_until_cancelled_owned(held));
        }
        let accept = {
            let (serving, tasks) = (instance.clone(), tombstone_tasks.clone());
            move |listener| tombstone::serve(listener, serving.clone(), secure, tasks.clone())
        };
        for listener in sockets.tombstone {
            let held = holding.clone().hold(listener, accept.clone());
            acceptors.spawn(until_ended().run_until_cancelled_owned(held));
        }
        for address in holding.not_held(&settings.read_only_port.listen) {
            let held = holding.clone().hold_later(address, accept.clone());
            acceptors.spawn(until_ended().run_until_cancelled_owned(held));
        }
        let listeners = Listeners {
            port: sockets.admin.map(TcpListener::into_std).transpose()?,
            socket: sockets.admin_socket,
        };
        Ok(Self {
            instance,
            workers,
            acceptors,
            tombstone_tasks,
            admin: Admin::Waits(listeners, status),
            ends,
        })
    }

    /// Begins to answer on the admin port and on the admin socket: this process is the gate. It answers while
    /// the gate stops, so that this can be watched.
    ///
    /// # Errors
    /// The thread cannot be started.
    fn open_admin(self) -> io::Result<Self> {
        let admin = match self.admin {
            Admin::Waits(listeners, status) => {
                AdminThread::start(listeners, self.instance.clone(), status, self.ends.clone())?
            }
            Admin::Serves(admin) => admin,
        };
        Ok(Self {
            admin: Admin::Serves(admin),
            ..self
        })
    }

    /// Waits until the gate is told to end, and for its end.
    async fn until_ended(self) -> Stopped {
        let Self {
            instance,
            workers,
            acceptors,
            tombstone_tasks,
            admin,
            ends,
        } = self;
        ends.leave.cancelled().await;
        acceptors.close();
        acceptors.wait().await;
        // The acceptors have ended, so this is the last owner.
        let cut = match Arc::into_inner(workers) {
            // What another Node's users were allowed is cut at once.
            Some(workers) if instance.node.ends_process() => {
                let never = CancellationToken::new();
                workers.end(&never, &never, Duration::ZERO).await
            }
            Some(workers) => {
                let leave_within = instance.settings.upgrade.drain_timeout;
                workers.end(&ends.stop, &ends.alone, leave_within).await
            }
            None => 0,
        };
        tombstone_tasks.close();
        ends.stop.run_until_cancelled(tombstone_tasks.wait()).await;
        if let Admin::Serves(admin) = admin {
            admin.end(&ends.stop).await;
        }
        let left = !ends.stop.is_cancelled();
        Stopped { cut, left }
    }
}
