//! What the gate tells systemd, in a unit with `Type=notify`: that it serves, that it reads its files again,
//! that it is alive, which process follows it, and that it ends.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The service manager of a process, as its environment names it. A process that follows another one is told
/// by that one.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ServiceManager {
    /// `NOTIFY_SOCKET`: a path, or `@` and a name in the abstract namespace.
    pub(crate) socket: Option<String>,
    /// `WATCHDOG_USEC`: without a sign of life for so long, the process is killed. In microseconds.
    pub(crate) watchdog: Option<u64>,
}

/// Tells the service manager. Without one it says nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notifier {
    manager: ServiceManager,
    /// Another process is the service now, and tells the service manager.
    is_succeeded: Arc<AtomicBool>,
}

// === impl ServiceManager ===

impl ServiceManager {
    /// That of this process. A watchdog that is another process' counts as none.
    pub(crate) fn of_environment() -> Self {
        let variable = |name| std::env::var(name).ok();
        let ours = variable("WATCHDOG_PID").is_some_and(|pid| pid.parse() == Ok(std::process::id()));
        Self {
            socket: variable("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()),
            watchdog: variable("WATCHDOG_USEC")
                .filter(|_| ours)
                .and_then(|interval| interval.parse().ok())
                .filter(|interval| *interval > 0),
        }
    }

    /// It listens in the abstract namespace.
    pub(super) fn is_abstract(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.starts_with('@'))
    }
}

// === impl Notifier ===

impl Notifier {
    /// Tells this service manager.
    pub(crate) fn to(manager: ServiceManager) -> Self {
        Self {
            manager,
            is_succeeded: Arc::default(),
        }
    }

    /// The service manager that it tells, for the process that follows.
    pub(crate) fn manager(&self) -> &ServiceManager {
        &self.manager
    }

    /// Within which time the service manager waits for a sign of life; `None` if it waits for none.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        let interval = self.manager.watchdog.filter(|_| self.manager.socket.is_some());
        interval.map(Duration::from_micros)
    }

    /// The gate serves, and its files are read.
    pub(crate) fn ready(&self) {
        self.tell("READY=1\n");
    }

    /// The gate reads its files again. `Type=notify-reload` tells this from an earlier reload by its time.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\n"));
    }

    /// The gate is alive.
    pub(super) fn alive(&self) {
        self.tell("WATCHDOG=1\n");
    }

    /// From now on the service is this process. It is the last that this one says.
    ///
    /// # Errors
    /// The service manager cannot be told, and nothing has changed.
    pub(crate) fn succeeded_by(&self, pid: u32) -> io::Result<()> {
        if let Some(socket) = &self.manager.socket {
            send(socket, &format!("MAINPID={pid}\n"))?;
        }
        self.is_succeeded.store(true, Relaxed);
        Ok(())
    }

    /// That process has ended and was not the service.
    pub(crate) fn not_succeeded(&self) {
        self.is_succeeded.store(false, Relaxed);
        self.tell(&format!("MAINPID={}\n", std::process::id()));
    }

    /// The gate accepts nothing new.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\n");
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.manager.socket
            && !self.is_succeeded.load(Relaxed)
            && let Err(error) = send(socket, state)
        {
            tracing::warn!(
                %error,
                "the service manager cannot be told the state of the gate, at NOTIFY_SOCKET={socket}"
            );
        }
    }
}

fn send(socket: &str, state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A service manager that does not read must not hold the gate.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// In a container a service manager may have no path that both see.
    #[test]
    fn a_service_manager_may_listen_in_the_abstract_namespace() {
        let name = format!("kubelet-gate-notify-{}", std::process::id());
        let listening = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier = Notifier::to(ServiceManager {
            socket: Some(format!("@{name}")),
            watchdog: Some(2_000_000),
        });
        assert_eq!(notifier.watchdog(), Some(Duration::from_secs(2)));
        notifier.succeeded_by(4711).unwrap();
        let mut said = [0; 64];
        let length = listening.recv(&mut said).unwrap();
        assert_eq!(&said[..length], b"MAINPID=4711\n");
        // What is said afterwards is not sent. (Not seen red.)
        notifier.ready();
        notifier.not_succeeded();
        let length = listening.recv(&mut said).unwrap();
        let own = format!("MAINPID={}\n", std::process::id());
        assert_eq!(&said[..length], own.as_bytes());
        // One that does not listen does not know the process: the hand-over must not come about.
        drop(listening);
        assert!(notifier.succeeded_by(4711).is_err());
    }

    #[test]
    fn without_a_socket_there_is_no_watchdog_to_tell() {
        let notifier = Notifier::to(ServiceManager {
            socket: None,
            watchdog: Some(1),
        });
        assert_eq!(notifier.watchdog(), None);
        notifier.ready();
    }
}
