//! Where the files are written, and for which machine.

use std::net::IpAddr;
use std::path::Path;

/// Whose paths the configuration names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Naming {
    /// Those by which this process finds the files.
    Here,
    /// Those by which the node finds them.
    Node,
}

/// Where the files are written, and what is known of the machine that they are for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Destination<'a> {
    /// Whose paths the configuration names.
    pub(crate) naming: Naming,
    /// The folder that is written into, absolute.
    pub(crate) out: &'a Path,
    /// This program.
    pub(crate) program: &'a Path,
    /// The node's addresses, if this machine is the node.
    pub(crate) addresses: &'a [IpAddr],
    /// Whether the node has IPv6, if this machine is the node.
    pub(crate) ipv6: Option<bool>,
    /// Whether iptables would carry the seal, if this machine is the node.
    pub(crate) iptables: bool,
}
