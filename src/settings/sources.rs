//! `sources`: from where the TLS port may be used.

use std::net::IpAddr;

use super::document::quoted;
use super::file;
use super::reading::Reading;
use crate::network::{Network, Networks};

/// Most networks of a list: each connection is compared with all of them.
const MOST: usize = 1024;

/// Most addresses that a message names.
const NAMED: usize = 8;

/// `sources`: from where the TLS port may be used.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sources {
    /// `sources.port`: a connection from elsewhere is closed before the TLS handshake.
    pub port: Networks,
    /// `sources.interactive`: an interactive request (exec, attach, run, portForward, `/cri/`) from elsewhere
    /// is refused.
    pub interactive: Networks,
    /// `sources.excludeApiServer`: the lists may leave out an address from which the API server was served.
    pub exclude_api_server: bool,
}

// === impl Sources ===

impl Sources {
    pub(super) fn read(reading: &mut Reading<'_>, file: &file::Sources) -> Self {
        let port = networks(reading, "sources.port", &file.port);
        let interactive = networks(reading, "sources.interactive", &file.interactive);
        let port = Networks::new(port);
        for (index, network) in interactive.iter().enumerate() {
            if !port.cover(network) {
                let key = format!("sources.interactive[{index}]");
                let text = format!(
                    "{network} is not within a network of sources.port, and has no effect beyond that: \
                     connections from elsewhere are closed before they can ask; add it there, or remove it"
                );
                reading.warn(&key, &text);
            }
        }
        Self {
            port,
            interactive: Networks::new(interactive),
            exclude_api_server: file.exclude_api_server,
        }
    }

    pub(super) fn write(&self) -> file::Sources {
        let texts = |networks: &Networks| networks.iter().map(ToString::to_string).collect();
        file::Sources {
            port: texts(&self.port),
            interactive: texts(&self.interactive),
            exclude_api_server: self.exclude_api_server,
        }
    }

    /// What ends if the API server is at these addresses: a sentence for each list that leaves one out.
    pub(crate) fn without_api_server(&self, addresses: &[IpAddr]) -> Vec<String> {
        self.leave_out(
            addresses,
            "where the API server was served last: this node's logs, exec and metrics end for it",
            "where the API server was served last: kubectl exec, attach, cp and port-forward end for this \
             node",
        )
    }

    /// What ends on the node that has these addresses: a sentence for each list that leaves one out.
    pub(crate) fn without_this_node(&self, addresses: &[IpAddr]) -> Vec<String> {
        self.leave_out(
            addresses,
            "of this node: what calls the port on the node itself, as probes and agents in the host's \
             network do, is refused",
            "of this node: interactive requests of the node itself are refused",
        )
    }

    fn leave_out(&self, addresses: &[IpAddr], of_port: &str, of_interactive: &str) -> Vec<String> {
        let lists = [
            ("sources.port", &self.port, of_port),
            ("sources.interactive", &self.interactive, of_interactive),
        ];
        let sentences = lists.into_iter().filter_map(|(key, list, ends)| {
            let absent = addresses.iter().filter(|address| !list.allow(**address));
            let mut names: Vec<String> = absent.map(|address| address.to_canonical().to_string()).collect();
            let more = names.len().saturating_sub(NAMED);
            names.truncate(NAMED);
            if more > 0 {
                names.push(format!("{more} more"));
            }
            (!names.is_empty()).then(|| format!("{key} does not have {}, {ends}", names.join(", ")))
        });
        sentences.collect()
    }
}

fn networks(reading: &mut Reading<'_>, key: &str, texts: &[String]) -> Vec<Network> {
    if texts.len() > MOST {
        let text = format!(
            "has {} networks; write {MOST} at most, such as wider ones",
            texts.len()
        );
        reading.refuse(key, text);
        return Vec::new();
    }
    let mut networks: Vec<Network> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let item = format!("{key}[{index}]");
        match Network::parse(text) {
            Ok(network) => {
                let same = networks
                    .iter()
                    .find(|other| other.covers(&network) || network.covers(other));
                if let Some(other) = same {
                    let text = if *other == network {
                        format!("{network} is there twice; remove one")
                    } else {
                        let (wide, narrow) = if other.covers(&network) {
                            (other, &network)
                        } else {
                            (&network, other)
                        };
                        format!("{narrow} is within {wide}; remove one of them")
                    };
                    reading.warn(&item, &text);
                }
                networks.push(network);
            }
            Err(error) => reading.refuse(&item, format!("{} {error}", quoted(text))),
        }
    }
    networks
}
