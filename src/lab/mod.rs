//! The lab: everything around the gate, on one machine, in one process.

pub mod client;
pub mod fake_apiserver;
pub mod fake_kubelet;
pub mod pki;
pub mod scenes;

mod directory;
mod running;

pub use self::running::{Lab, LabError, LabOptions};
