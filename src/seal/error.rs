//! Why the packet filter does not carry the seal.

use crate::settings::Backend;

/// Why the packet filter does not do what it is told.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The program is not installed.
    #[error(
        "{tool} is neither in PATH nor in /usr/sbin or /sbin: install it, or choose another with \
         firewall.backend"
    )]
    Missing {
        /// Its name.
        tool: String,
    },
    /// The program failed.
    #[error("{tool}, {doing}: {why}")]
    Failed {
        /// Its name.
        tool: String,
        /// What it was to do.
        doing: &'static str,
        /// How it ended and what it said.
        why: String,
    },
    /// What the program printed cannot be read.
    #[error("{tool}, {doing}: its answer cannot be read: {why}")]
    Answer {
        /// Its name.
        tool: String,
        /// What it was to do.
        doing: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// This packet filter cannot carry a seal on this node.
    #[error(
        "{} cannot carry the seal here: {why}; repair this, or choose another with firewall.backend or \
         --backend",
        backend.name()
    )]
    Unusable {
        /// Which one.
        backend: Backend,
        /// What failed when it was tried.
        why: String,
    },
    /// The trial ended before it was confirmed.
    #[error(
        "too late: no trial is running any more, the kernel has gone back to what was confirmed before; \
         begin again with kubelet-gate firewall apply"
    )]
    TooLate,
    /// The kernel tries another plan than the one that is to be confirmed.
    #[error(
        "the trial that runs is not the plan in firewall.stateDirectory: begin again with kubelet-gate \
         firewall apply"
    )]
    AnotherTrial,
}
