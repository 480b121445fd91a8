//! Going around the gate on purpose: connections that have nothing of the gate's exemption, and who takes them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{Plan, RunningGate};
use crate::host::sockets;

/// A refusal comes at once; whoever says nothing for so long was stopped by a rule that drops.
const PATIENCE: Duration = Duration::from_millis(500);

/// A way around the gate, tried.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attempt {
    /// What was dialled.
    pub address: SocketAddr,
    /// Who answered.
    pub reached: Reached,
}

/// Who takes a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reached {
    /// Nobody.
    Nobody,
    /// The gate: its TLS port or its tombstone.
    Gate,
    /// Somebody who is not the gate, where it listens: what is brought to the gate is theirs.
    Squatter,
    /// Somebody else, which can only be the kubelet: the seal is open.
    Kubelet,
    /// It cannot be said.
    Unknown(String),
}

impl Reached {
    /// Nobody got around the gate.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        matches!(self, Self::Nobody | Self::Gate)
    }
}

/// Dials every port of `plan` on each of `addresses`, from here, and says who took it.
pub async fn attempt_all(plan: &Plan, addresses: &[IpAddr], gate: &RunningGate) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for (address, outcome) in dial_all(&plan.dialled(addresses)).await {
        let reached = reached(&outcome, gate);
        attempts.push(Attempt { address, reached });
    }
    attempts
}

/// Dials them one after the other, and yields the sockets or why there is none; the connections stay open until the result is dropped.
pub async fn dial_all(addresses: &[SocketAddr]) -> Vec<(SocketAddr, io::Result<TcpStream>)> {
    let mut dialled = Vec::new();
    for address in addresses {
        let outcome = timeout(PATIENCE, dial(*address))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Ok(stream) = &outcome {
            // Ended by a reset, it leaves no trace in the node's tables that looks like somebody's health check.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
        dialled.push((*address, outcome));
    }
    dialled
}

/// From a port that is no other connection's: left to itself the kernel takes one that is in use towards somebody else, and
/// then two takers are found.
async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let (socket, from) = match address {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
    };
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(address).await
}

/// Who took a connection, wherever it was made; to be asked in the node's own network namespace while it is open.
pub fn reached(dialled: &io::Result<TcpStream>, gate: &RunningGate) -> Reached {
    let ends = match dialled {
        Err(error) if nobody(error) => return Reached::Nobody,
        Err(error) => return Reached::Unknown(error.to_string()),
        Ok(stream) => stream
            .local_addr()
            .and_then(|here| Ok((here, stream.peer_addr()?))),
    };
    let taken = ends.and_then(|(here, there)| Ok((there.port(), sockets::taken_by(here)?)));
    match taken {
        // If it cannot be told which of several it was, it is taken for the worst.
        Ok((_, takers)) if !takers.is_empty() && takers.iter().all(|taker| gate.took(taker)) => Reached::Gate,
        // Brought there from another port.
        Ok((port, takers))
            if takers
                .iter()
                .any(|taker| taker.address.port() != port && gate.listens_on(taker.address)) =>
        {
            Reached::Squatter
        }
        Ok(_) => Reached::Kubelet,
        Err(error) => Reached::Unknown(error.to_string()),
    }
}

/// Refused, or no such address or family on this node.
fn nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::TimedOut
    )
}
