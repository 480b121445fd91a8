//! Stand-ins for everything around a gate, on real sockets: certificates, a kubelet, an API server and a
//! client.
//!
//! Tests, benchmarks and the lab use them. They know nothing of the gate, so that a change in it does not
//! recompile them.

pub mod apiserver;
pub mod client;
pub mod kubelet;
pub mod pki;
