//! The lab: everything around the gate, on one machine, in one process.

pub mod scenes;

mod directory;
mod running;

pub use self::running::{Lab, LabError, LabOptions};
