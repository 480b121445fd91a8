//! The node's addresses that clients dial, as far as they are known.

use std::net::IpAddr;

use crate::adopt::kubelet::invocation::Invocation;
use crate::adopt::kubelet::options::Effective;
use crate::host;

/// The node's addresses that clients dial.
#[derive(Debug)]
pub(super) enum DialledAddresses {
    /// Those that the kubelet announces, by its `--node-ip`: each of them is dialled.
    Announced(Vec<IpAddr>),
    /// Those of the node's interfaces: one of them is announced.
    Interfaces(Vec<IpAddr>),
    Unknown,
}

impl DialledAddresses {
    pub(super) fn of(invocation: &Invocation, options: &Effective) -> Self {
        let announced = options.announced_addresses();
        if !announced.is_empty() {
            return Self::Announced(announced);
        }
        let own = match invocation.pid() {
            Some(_) if !invocation.elsewhere => host::addresses().unwrap_or_default(),
            _ => Vec::new(),
        };
        let outside: Vec<IpAddr> = own.into_iter().filter(|address| !address.is_loopback()).collect();
        match outside.is_empty() {
            true => Self::Unknown,
            false => Self::Interfaces(outside),
        }
    }
}
