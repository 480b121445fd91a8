//! Stand-ins for everything around a gate, on real sockets: certificates, a kubelet, an API server and a
//! client.
//!
//! Tests, benchmarks and the lab use them. They know nothing of the gate, so that a change in it does not
//! recompile them.

#![allow(
    clippy::disallowed_methods,
    reason = "the files are the machine's own, or the tests'"
)]

pub mod apiserver;
pub mod client;
pub mod kubelet;
pub mod pki;

/// Refuses connections from now on. Closing the listener does not suffice: a process that another thread
/// starts at this moment has a copy of it until it executes its program.
fn stop_listening(listener: &tokio::net::TcpListener) {
    // A listener that cannot be shut down is one no more.
    let _ = socket2::SockRef::from(listener).shutdown(std::net::Shutdown::Both);
}
