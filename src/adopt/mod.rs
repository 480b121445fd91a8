//! Adopting a node: its kubelet inspected, prepared for, and probed.

pub(crate) mod init;
pub mod inspect;
pub mod kubelet;
pub mod prove;
pub(crate) mod socket_unit;
pub mod weaknesses;
