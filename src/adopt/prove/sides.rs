//! From where probes are sent: the node's own addresses, loopback as an unprivileged user, and a network
//! namespace such as a pod has.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::host::{Unreached, Wire, as_user};

/// Of a range that systemd and distributions leave free: a process with the same user id could end our
/// thread.
const UNPRIVILEGED: u32 = 65530;

/// Why there are no probes from a side.
#[derive(Debug, thiserror::Error)]
pub(super) enum SideError {
    #[error("only root can make a network namespace")]
    NotRoot,
    #[error(transparent)]
    Wire(io::Error),
}

/// A kind of side.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SideKind {
    /// The node's addresses, from the node itself
    NodeAddress,
    /// Loopback, as an unprivileged user
    Loopback,
    /// The node's addresses, from a network namespace
    Namespace,
}

impl SideKind {
    pub(super) const ALL: [Self; 3] = [Self::NodeAddress, Self::Loopback, Self::Namespace];

    /// Its name in tables and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeAddress => "node address",
            Self::Loopback => "loopback",
            Self::Namespace => "network namespace",
        }
    }

    /// Those of the node's addresses that are dialled from here.
    pub(super) fn addresses(self, own: &[IpAddr]) -> Vec<IpAddr> {
        // 127.0.0.53 and its like are other services' own.
        let wanted = |address: &&IpAddr| match self {
            Self::Loopback => {
                [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].contains(address)
            }
            Self::NodeAddress | Self::Namespace => !address.is_loopback(),
        };
        own.iter().filter(wanted).copied().collect()
    }
}

/// Somewhere to probe from.
pub(super) enum ProbeSide {
    Here,
    AsUnprivileged,
    In(Wire),
}

impl ProbeSide {
    /// Prepares a side for these addresses. The second value is a remark, if probes from there show less than
    /// they should.
    ///
    /// # Errors
    /// This is not root, or the kernel or `ip` refuses.
    pub(super) fn new(
        kind: SideKind,
        addresses: &[IpAddr],
    ) -> Result<(Self, Option<&'static str>), SideError> {
        let root = rustix::process::geteuid().is_root();
        match kind {
            SideKind::NodeAddress => Ok((Self::Here, None)),
            SideKind::Loopback if root => Ok((Self::AsUnprivileged, None)),
            SideKind::Loopback => Ok((
                Self::Here,
                Some(
                    "loopback as an unprivileged user: probed as this user instead, since only root can \
                     switch",
                ),
            )),
            SideKind::Namespace if root => {
                let wire = Wire::new(addresses).map_err(SideError::Wire)?;
                Ok((Self::In(wire), None))
            }
            SideKind::Namespace => Err(SideError::NotRoot),
        }
    }

    /// Whether packets from here reach this address of the node at all, and its answers come back: without
    /// that, silence shows nothing.
    ///
    /// # Errors
    /// A port that was opened for this is not reached: why.
    pub(super) fn reaches(&self, address: IpAddr) -> Result<(), Unreached> {
        match self {
            Self::In(wire) => wire.reaches(address),
            Self::Here | Self::AsUnprivileged => Ok(()),
        }
    }

    /// Runs `work` there.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        match self {
            Self::Here => Ok(work()),
            Self::AsUnprivileged => as_user(UNPRIVILEGED, work),
            Self::In(wire) => wire.run(work),
        }
    }
}

/// Signals that end a program: network namespaces and wires must be removed before it ends.
pub(super) struct Interrupted {
    interrupt: Signal,
    terminate: Signal,
    // Its terminal is gone.
    hangup: Signal,
    quit: Signal,
}

impl Interrupted {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Whether one has come.
    pub(super) async fn is_pending(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.wait() => true,
            () = std::future::ready(()) => false,
        }
    }

    pub(super) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}
