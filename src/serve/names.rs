//! Whether the serving certificate names what clients dial. A client that does not verify does not care, so
//! that this is a warning.

use std::net::{IpAddr, SocketAddr};

use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;

use crate::host;
use crate::tls::Serving;

const REFUSED: &str = "clients that dial it there and verify the certificate refuse it, as do metrics-server \
                       and an API server with --kubelet-certificate-authority; have it issued with these \
                       names";

/// A warning if the certificate does not name what the gate listens on: each address that is spelled out, or
/// for the wildcard one of this machine's. Clients dial no loopback address.
pub(super) fn missing_listeners(serving: &Serving, listen: &[SocketAddr]) -> Option<String> {
    let (wildcards, spelled): (Vec<IpAddr>, Vec<IpAddr>) = listen
        .iter()
        .map(SocketAddr::ip)
        .filter(|address| !address.is_loopback())
        .partition(IpAddr::is_unspecified);
    let missing = unnamed(serving, spelled.iter().map(ToString::to_string));
    if !missing.is_empty() {
        return Some(format!(
            "tlsCertFile: the certificate does not name {}, where the gate listens: {REFUSED}",
            missing.join(", ")
        ));
    }
    let own = host::addresses().unwrap_or_default().into_iter();
    let outside: Vec<String> = own
        .filter(|address| !wildcards.is_empty() && !address.is_loopback())
        .map(|address| address.to_string())
        .collect();
    none_of(serving, &outside, "this machine's addresses")
}

/// A warning if the certificate names none of the addresses of the Node, which clients take from there.
pub(super) fn missing_node(serving: &Serving, addresses: &[String]) -> Option<String> {
    none_of(serving, addresses, "the Node's addresses")
}

fn none_of(serving: &Serving, names: &[String], what: &str) -> Option<String> {
    let missing = unnamed(serving, names.iter().cloned());
    (!names.is_empty() && missing.len() == names.len()).then(|| {
        format!(
            "tlsCertFile: the certificate names none of {what} ({}): {REFUSED}",
            missing.join(", ")
        )
    })
}

fn unnamed(serving: &Serving, names: impl Iterator<Item = String>) -> Vec<String> {
    let leaf = serving.chain().first();
    let leaf = leaf.and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
    let is_named = |name: &String| {
        let name = ServerName::try_from(name.as_str()).ok();
        leaf.as_ref()
            .zip(name)
            .is_some_and(|(leaf, name)| verify_server_name(leaf, &name).is_ok())
    };
    names.filter(|name| !is_named(name)).collect()
}
