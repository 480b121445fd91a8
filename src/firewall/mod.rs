//! The seal: whoever goes around the gate finds the kubelet's ports closed.
//!
//! A [`Plan`] says what is closed and where it is brought instead. It is tried for a while, in which the kernel itself
//! falls back to the last confirmed plan, and then confirmed.

mod changes;
mod exemption;
mod plan;

pub use self::exemption::{FREE_BITS, RunningGate, RunningGateError};
pub use self::plan::{Backend, Exemption, Mark, Plan, PortKind, SealedPort};
