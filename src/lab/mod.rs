//! The lab: an open kubelet, an API server and a gate, in one process.

pub mod scenes;

mod directory;
mod reserved_ports;
mod running;

pub use self::running::{Lab, LabError, LabOptions};
