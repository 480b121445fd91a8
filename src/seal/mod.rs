//! The seal: the firewall rules that close every way to the kubelet but the one through the gate.
//!
//! A [`Plan`] says which ports are closed and where their connections are brought instead. It is tried for a
//! while, in which the kernel itself falls back to the last confirmed plan, and then confirmed: see
//! [`trial`]. Whether the kernel's rules are the confirmed ones is judged in [`standing`] alone.

mod boot;
mod changes;
pub mod connections;
mod digest;
pub mod draining;
mod effect;
mod error;
mod exemption;
pub(crate) mod file;
mod firewall;
pub mod foreign;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod iptables;
pub mod kept_out;
mod listed_rule;
mod listing;
mod nft;
pub mod observe;
mod over_wire;
mod plan;
mod proposal;
mod refusal;
mod refusals;
mod restore;
mod rules;
mod running_gate;
mod self_check;
pub mod standing;
mod state;
pub mod status;
pub(crate) mod tool;
pub mod trial;
mod unit;
pub mod unlisted;
mod verdict;

pub use self::boot::Boot;
pub(crate) use self::changes::Changes;
pub use self::error::FirewallError;
pub use self::exemption::{Exemption, FREE_BITS};
pub use self::file::FileError;
pub use self::firewall::{Firewall, iptables_in_use};
#[cfg(any(test, fuzzing))]
pub(crate) use self::iptables::iptables_listing;
pub use self::over_wire::{OverWire, WireMemory};
pub use self::plan::{Plan, PlanError, PortKind, SealedPort};
pub use self::refusals::{Accepted, Refusals};
pub use self::restore::{Restored, put_back, tidy};
pub use self::rules::Rules;
pub use self::running_gate::RunningGate;
pub use self::self_check::{Attempt, Reached, attempt_all};
pub use self::standing::{Case, Standing, StandingError};
pub use self::state::{Confirmed, Lock, State};
pub use self::unit::Unit;
pub use self::verdict::Seal;
