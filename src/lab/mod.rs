//! The lab: everything around the gate, on one machine, in one process.

pub mod fake_apiserver;
pub mod pki;
