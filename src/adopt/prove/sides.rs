//! From where probes are sent: the node's own addresses, loopback as somebody else, and a network namespace as a pod has it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::host::{Wire, as_user};

/// Of a range that systemd and distributions leave free: whoever has the same user id may end a thread of ours.
const SOMEBODY: u32 = 65530;

/// A kind of side.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SideKind {
    /// The node's addresses, from the node.
    NodeAddress,
    /// Loopback, as a user without rights.
    Loopback,
    /// The node's addresses, from a network of its own.
    Namespace,
}

impl SideKind {
    pub(super) const ALL: [Self; 3] = [Self::NodeAddress, Self::Loopback, Self::Namespace];

    /// For people.
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
pub(super) enum Side {
    Here,
    AsSomebody,
    In(Wire),
}

impl Side {
    /// Goes there, as far as it has to be prepared for these addresses. What is not as it should be is the second.
    ///
    /// # Errors
    /// This is not root, or the kernel or `ip` refuses.
    pub(super) fn new(kind: SideKind, addresses: &[IpAddr]) -> Result<(Self, Option<String>), String> {
        let root = rustix::process::geteuid().is_root();
        match kind {
            SideKind::NodeAddress => Ok((Self::Here, None)),
            SideKind::Loopback if root => Ok((Self::AsSomebody, None)),
            SideKind::Loopback => Ok((
                Self::Here,
                Some("loopback was dialled as this user, since only root can be another".to_owned()),
            )),
            SideKind::Namespace if root => {
                let wire = Wire::new(addresses).map_err(|error| error.to_string())?;
                Ok((Self::In(wire), None))
            }
            SideKind::Namespace => Err("only root can make one".to_owned()),
        }
    }

    /// Whether packets from here reach this address of the node at all, and its answers come back: without that, silence shows nothing.
    ///
    /// # Errors
    /// A port that is open to everybody is not reached: why.
    pub(super) fn reaches(&self, address: IpAddr) -> Result<(), String> {
        match self {
            Self::In(wire) => wire.reaches(address).map_err(|error| error.to_string()),
            Self::Here | Self::AsSomebody => Ok(()),
        }
    }

    /// Runs `work` there.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        match self {
            Self::Here => Ok(work()),
            Self::AsSomebody => as_user(SOMEBODY, work),
            Self::In(wire) => wire.run(work),
        }
    }
}

/// Signals that end a program: what was made must be taken away before the end.
pub(super) struct Interrupted {
    interrupt: Signal,
    terminate: Signal,
    // Of a terminal that is gone.
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
