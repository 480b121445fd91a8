//! Bypassing the gate on purpose: connections that have nothing of the gate's exemption, and which process
//! takes them.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::plan::Plan;
use super::running_gate::RunningGate;
use crate::host::{sandbox, sockets};
use crate::network::Networks;

/// A refusal comes at once; after so long without an answer a rule has dropped the connection.
const PATIENCE: Duration = Duration::from_millis(500);

/// A way around the gate, tried.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attempt {
    /// What was dialled.
    pub address: SocketAddr,
    /// What answered.
    pub reached: Reached,
}

/// What takes a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reached {
    /// Nothing: it was refused, or dropped.
    Nothing,
    /// The gate: its TLS port or its tombstone.
    Gate,
    /// A process that is not the gate, where the gate listens: it receives what is brought to the gate.
    Squatter,
    /// Any other process, which can only be the kubelet: the seal is open.
    Kubelet,
    /// It cannot be found out: why.
    Unknown(String),
}

impl Reached {
    /// Whether the connection did not bypass the gate.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        matches!(self, Self::Nothing | Self::Gate)
    }
}

impl std::fmt::Display for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Gate => "the gate",
            Self::Squatter => "not the gate, on its port",
            Self::Kubelet => "the kubelet",
            Self::Unknown(why) => why,
        })
    }
}

/// Dials every port of `plan` on each of `addresses`, from here, and says what took it. `sources` is
/// `sources.port` of the gate.
pub async fn attempt_all(
    plan: &Plan,
    addresses: &[IpAddr],
    gate: &RunningGate,
    sources: &Networks,
) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for (address, outcome) in dial_all(&plan.dialled(addresses)).await {
        let reached = reached(&outcome, gate, sources);
        attempts.push(Attempt { address, reached });
    }
    attempts
}

/// Dials them one after the other, and yields the sockets or why there is none; the connections stay open
/// until the result is dropped.
pub(super) async fn dial_all(addresses: &[SocketAddr]) -> Vec<(SocketAddr, io::Result<TcpStream>)> {
    let mut dialled = Vec::new();
    for address in addresses {
        let outcome = timeout(PATIENCE, dial(*address))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if let Ok(stream) = &outcome {
            // Ended by a reset, it leaves no trace in the node's tables that looks like a health check.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
        dialled.push((*address, outcome));
    }
    dialled
}

/// From a port that is no other connection's: left to itself the kernel takes one that is in use towards
/// another address, and then two takers are found.
async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let (socket, from) = match address {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
    };
    // A refusal of the sandbox's would look like one of the seal's.
    if !sandbox::may_connect(address.port()) {
        return Err(io::Error::other(
            "the sandbox opens the ports that were known when the gate started; restart the gate",
        ));
    }
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(address).await
}

/// What took a connection, wherever it was made; to be asked in the node's own network namespace while it is
/// open. `sources` is `sources.port` of the gate.
pub(super) fn reached(dialled: &io::Result<TcpStream>, gate: &RunningGate, sources: &Networks) -> Reached {
    let stream = match dialled {
        Err(error) if is_closed(error) => return Reached::Nothing,
        Err(error) => return Reached::Unknown(error.to_string()),
        Ok(stream) => stream,
    };
    let reached = taken(stream, gate);
    // A gate resets what comes from elsewhere as soon as it has accepted it, and leaves nothing to be found.
    let elsewhere = || stream.local_addr().is_ok_and(|here| !sources.allow(here.ip()));
    if !reached.is_sealed() && elsewhere() && is_ended(stream) {
        return Reached::Nothing;
    }
    reached
}

/// Whether the other end has ended the connection.
fn is_ended(stream: &TcpStream) -> bool {
    match SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

fn taken(stream: &TcpStream, gate: &RunningGate) -> Reached {
    let ends = stream
        .local_addr()
        .and_then(|here| Ok((here, stream.peer_addr()?)));
    let taken = ends.and_then(|(here, there)| Ok((there.port(), sockets::taken_by(here)?)));
    match taken {
        // If several processes may have taken it, the worst of them counts.
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
fn is_closed(error: &io::Error) -> bool {
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
