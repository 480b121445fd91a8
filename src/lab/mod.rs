//! The lab: everything around the gate, on one machine, in one process.

pub mod client;
pub mod fake_apiserver;
pub mod fake_kubelet;
pub mod pki;
