//! `sources:` for the configuration, from the callers that were seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::observe::Observed;
use super::plan::PortKind;

impl Observed {
    /// `sources:` with each address that called the gate or the port behind it, to be read, corrected and
    /// pasted. Left out are the calls of `gate`, which is the gate's own user. Interactive requests are
    /// proposed for the API server's addresses alone, if they are known.
    #[must_use]
    pub fn sources(&self, api_server: &[IpAddr], gate: Option<u32>) -> String {
        let mut counts: BTreeMap<IpAddr, u64> = BTreeMap::new();
        for caller in &self.callers {
            let by_gate = gate.is_some() && caller.process.as_ref().map(|process| process.uid) == gate;
            // Loopback is proposed as a whole.
            if matches!(caller.kind, PortKind::Secure | PortKind::Gate)
                && !by_gate
                && !caller.address.is_loopback()
            {
                *counts.entry(caller.address.to_canonical()).or_default() += caller.count;
            }
        }
        for address in api_server.iter().filter(|address| !address.is_loopback()) {
            counts.entry(address.to_canonical()).or_default();
        }
        let mut text = String::from(
            "# A proposal. Each address below asked for a connection while this looked on, which does not \
             prove what\n# is there: leave out what you do not know. Clients that call rarely are missing: \
             add them.\nsources:\n  port:\n    - 127.0.0.0/8  # this node\n    - ::1  # this node\n",
        );
        // Writing to a String does not fail.
        for (address, count) in &counts {
            let seen = match count {
                0 => "seen by the gate in the last hour".to_owned(),
                1 => "1 connection".to_owned(),
                count => format!("{count} connections"),
            };
            let what = if is_in(api_server, *address) {
                "the API server, "
            } else {
                ""
            };
            let _ = writeln!(text, "    - {address}  # {what}{seen}");
        }
        if api_server.is_empty() {
            text.push_str(
                "  # Only the API server's addresses, which the gate has not seen yet: kubectl exec comes \
                 from there.\n  interactive: []\n",
            );
        } else {
            text.push_str(
                "  # kubectl exec, attach and port-forward come from the API server.\n  interactive:\n",
            );
            for address in api_server {
                let _ = writeln!(text, "    - {}", address.to_canonical());
            }
        }
        text
    }
}

fn is_in(addresses: &[IpAddr], address: IpAddr) -> bool {
    addresses.iter().any(|other| other.to_canonical() == address)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::seal::observe::{Caller, Process};

    fn caller(kind: PortKind, address: &str, uid: Option<u32>, count: u64) -> Caller {
        Caller {
            port: 10250,
            kind,
            address: address.parse().unwrap(),
            process: uid.map(|uid| Process {
                uid,
                command: Some("curl\n- 0.0.0.0/0".to_owned()),
                cgroup: None,
            }),
            count,
            first: String::new(),
            last: String::new(),
        }
    }

    /// Seen red: with the callers of the read-only port not left out.
    #[test]
    fn the_proposal_names_each_caller_of_the_port_once_and_the_api_server() {
        let observed = Observed {
            callers: vec![
                caller(PortKind::Secure, "192.0.2.5", None, 7),
                caller(PortKind::Gate, "192.0.2.5", None, 2),
                caller(PortKind::Secure, "2001:db8::9", None, 1),
                caller(PortKind::Secure, "127.0.0.1", Some(0), 3),
                caller(PortKind::Secure, "192.0.2.10", Some(990), 3),
                caller(PortKind::ReadOnly, "192.0.2.66", None, 3),
            ],
            ..Observed::default()
        };
        let api_server = ["192.0.2.5", "192.0.2.6"].map(|address| address.parse().unwrap());
        let text = observed.sources(&api_server, Some(990));
        let yaml: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            yaml,
            [
                "sources:",
                "  port:",
                "    - 127.0.0.0/8  # this node",
                "    - ::1  # this node",
                "    - 192.0.2.5  # the API server, 9 connections",
                "    - 192.0.2.6  # the API server, seen by the gate in the last hour",
                "    - 2001:db8::9  # 1 connection",
                "  # kubectl exec, attach and port-forward come from the API server.",
                "  interactive:",
                "    - 192.0.2.5",
                "    - 192.0.2.6",
            ]
        );
        let text = observed.sources(&[], None);
        assert!(
            text.contains("  interactive: []\n") && text.contains("192.0.2.10"),
            "{text}"
        );
    }
}
