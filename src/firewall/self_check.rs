//! Going around the gate on purpose: connections that have nothing of the gate's exemption, and who takes them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Plan, PortKind, RunningGate};
use crate::node::sockets;

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
    /// Somebody else, which can only be the kubelet: the seal is open.
    Kubelet,
    /// It cannot be said.
    Unknown(String),
}

/// Dials every port of `plan` on each of `addresses`, from here. What the plan leaves alone is not dialled.
pub async fn attempt_all(plan: &Plan, addresses: &[IpAddr], gate: &RunningGate) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for port in plan.ports.iter().filter(|port| port.kind != PortKind::Healthz) {
        for address in addresses
            .iter()
            .filter(|address| !port.gate_addresses.contains(address))
        {
            let address = SocketAddr::new(*address, port.port);
            let reached = attempt(address, gate).await;
            attempts.push(Attempt { address, reached });
        }
    }
    attempts
}

async fn attempt(address: SocketAddr, gate: &RunningGate) -> Reached {
    match timeout(PATIENCE, TcpStream::connect(address)).await {
        Err(_) => Reached::Nobody,
        Ok(Err(error)) if nobody(&error) => Reached::Nobody,
        Ok(Err(error)) => Reached::Unknown(error.to_string()),
        Ok(Ok(stream)) => match stream.local_addr() {
            Err(error) => Reached::Unknown(error.to_string()),
            Ok(here) => match sockets::taken_by(here) {
                Ok(Some(taker)) if gate.listens_on(taker) => Reached::Gate,
                Ok(_) => Reached::Kubelet,
                Err(error) => Reached::Unknown(error.to_string()),
            },
        },
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
