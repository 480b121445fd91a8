//! The Node this gate serves: its name, whether it is this machine and how that is watched, which ports its
//! kubelet keeps for itself, and whether the credential shown to the kubelet is valid for this node only.

mod error;
mod fleet;
mod machine;
mod name;
mod ports;
mod reach;
mod standing;
mod watch;

pub use self::error::NodeError;
pub(crate) use self::fleet::{Shown, shown_to_kubelet};

pub(crate) use self::machine::{Ids, SameMachine, confirm};
pub(crate) use self::name::name;
pub(crate) use self::ports::{Prospect, may_listen, next_start_warnings, prospect};
pub(crate) use self::reach::out_of_reach;
pub(crate) use self::standing::{Confirmation, NodeStanding};
pub(super) use self::watch::NodeWatch;
