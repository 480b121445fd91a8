//! A gate takes over from the one that serves: it gets the very sockets, so that no client is refused, and
//! the old one serves what it has accepted to its end.
//!
//! `kubelet-gate upgrade` finds the old process ([`process`]), sends it SIGUSR2, and starts the new one. They
//! meet at a socket ([`place`]), where each looks at the other's user and cgroup ([`peer`]). The old process'
//! side is [`offer`], the new one's [`take`]; what they say is [`message`].

mod channel;
mod message;
mod offer;
mod peer;
mod place;
mod predecessors;
pub(crate) mod process;
mod take;

pub(super) use self::offer::Offering;
pub(super) use self::predecessors::Predecessors;
pub(crate) use self::take::TakeError;
pub(super) use self::take::{Taken, Taking, tell_command};
