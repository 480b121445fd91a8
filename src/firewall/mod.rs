//! The seal: whoever goes around the gate finds the kubelet's ports closed.
//!
//! A [`Plan`] says what is closed and where it is brought instead. It is tried for a while, in which the kernel itself
//! falls back to the last confirmed plan, and then confirmed.

mod changes;
mod exemption;
pub mod observe;
mod plan;
mod self_check;

pub use self::exemption::{FREE_BITS, RunningGate, RunningGateError};
pub use self::plan::{Backend, Exemption, Mark, Plan, PortKind, SealedPort};
pub use self::self_check::{Attempt, Reached, attempt_all};
