//! What `sources` leave out and an operator may not mean to: this node itself, and the API server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::StartError;
use super::instance::Instance;
use crate::host;
use crate::settings::Sources;

/// A sentence for each list that leaves out this node, and the like for the API
/// server, served at `addresses`.
pub(super) fn left_out(sources: &Sources, addresses: &[IpAddr], listen: &[SocketAddr]) -> Vec<String> {
    if sources.port.is_empty() && sources.interactive.is_empty() {
        return Vec::new();
    }
    let mut sentences = sources.without_api_server(addresses);
    sentences.extend(sources.without_this_node(&own_addresses(listen)));
    sentences
}

/// This node's addresses, loopback first, of the families that the gate listens on.
fn own_addresses(listen: &[SocketAddr]) -> Vec<IpAddr> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    // Without the kernel's list, loopback is still known.
    let own = host::addresses().unwrap_or_default();
    let others = own.into_iter().filter(|address| !loopback.contains(address));
    let ipv6 = listen.iter().any(SocketAddr::is_ipv6);
    let ipv4 = listen
        .iter()
        .any(|at| at.ip().to_canonical().is_ipv4() || at.ip().is_unspecified());
    let reaches = |address: &IpAddr| if address.is_ipv4() { ipv4 } else { ipv6 };
    loopback.into_iter().chain(others).filter(reaches).collect()
}

// === impl Instance ===

impl Instance {
    /// What `sources` in force leave out; empty if they leave out nothing, or there are none.
    pub(crate) fn left_out(&self) -> Vec<String> {
        let rules = self.gate.rules.load();
        left_out(
            &rules.sources,
            &self.gate.witness.addresses(),
            &self.settings.listen,
        )
    }

    /// Refuses new `sources` that leave out the API server, unless they say that they may. The same lists as
    /// before are no change: what they leave out holds back no other change of the configuration.
    ///
    /// # Errors
    /// They leave out an address from which the API server was served.
    pub(super) fn judge_sources(&self, new: &Sources) -> Result<(), StartError> {
        let before = &self.gate.rules.load().sources;
        if new.exclude_api_server || (&new.port, &new.interactive) == (&before.port, &before.interactive) {
            return Ok(());
        }
        let left_out = new.without_api_server(&self.gate.witness.api_server_addresses());
        match left_out.is_empty() {
            true => Ok(()),
            false => Err(StartError::WithoutApiServer(left_out.join("; "))),
        }
    }

    /// Warns of what `sources` in force leave out.
    pub(super) fn warn_of_left_out(&self) {
        for sentence in self.left_out() {
            tracing::warn!("{sentence}; add it unless that is meant");
        }
    }
}
