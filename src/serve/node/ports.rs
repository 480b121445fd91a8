//! Whether the gate may bind its ports, never one that this node's kubelet binds or may come to bind; and
//! what the kubelet's next start would do to those that it holds.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::NodeError;
use crate::adopt::kubelet::{
    NextStart, PORT, READ_ONLY_PORT, RunningKubelet, WatchedKubelet, kubelets_of_the_node, overlap,
};
use crate::settings::{Settings, UpstreamUrl};

/// What a kubelet's next start would do to an address that the gate holds. The worse is the greater.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) enum Prospect {
    /// It does not bind it.
    Free,
    /// It is not known what it binds: why.
    Unknown(String),
    /// It binds it: what, and what says so.
    Taken(String),
}

/// Checks that the gate may bind the addresses in `settings`: never what a kubelet binds or may come to bind.
/// Yields those whose port is a kubelet's.
///
/// A port is a kubelet's if it is a default port, the upstream's port, or bound by a running kubelet.
/// The gate binds such a port only if at least one kubelet runs, and every running kubelet is known
/// not to bind that address.
///
/// # Errors
/// The address is the kubelet's, or nothing proves that it is not.
pub(crate) fn may_listen(
    settings: &Settings,
    kubelets: &[RunningKubelet],
) -> Result<Vec<SocketAddr>, NodeError> {
    let at_stake = on_kubelet_ports(settings, kubelets);
    for &(key, address) in &at_stake {
        if kubelets.is_empty() {
            return Err(NodeError::NoKubelet { key, address });
        }
        for kubelet in kubelets {
            let pid = kubelet.pid;
            match &kubelet.binds {
                Err(error) => {
                    return Err(NodeError::KubeletConfig {
                        pid,
                        path: error.place.clone(),
                        why: error.why.clone(),
                        address,
                    });
                }
                Ok(binds) => {
                    if let Some(kubelet) = binds.iter().find(|bound| overlap(**bound, address)) {
                        return Err(NodeError::KubeletsPort {
                            key,
                            address,
                            pid,
                            kubelet: *kubelet,
                        });
                    }
                }
            }
        }
    }
    Ok(at_stake.into_iter().map(|(_, address)| address).collect())
}

/// The addresses in `settings` whose port is a kubelet's, and their keys.
fn on_kubelet_ports(settings: &Settings, kubelets: &[RunningKubelet]) -> Vec<(&'static str, SocketAddr)> {
    let mut kubelet_ports = vec![PORT, READ_ONLY_PORT];
    if let UpstreamUrl::Http(upstream) | UpstreamUrl::Https(upstream) = &settings.upstream.url {
        kubelet_ports.push(upstream.port());
    }
    kubelet_ports.extend(
        kubelets
            .iter()
            .flat_map(|kubelet| kubelet.binds.iter().flatten().map(SocketAddr::port)),
    );
    let listen = settings.listen.iter().map(|address| ("listen", *address));
    let tombstone = &settings.read_only_port.listen;
    let tombstone = tombstone.iter().map(|address| ("readOnlyPort.listen", *address));
    listen
        .chain(tombstone)
        .filter(|(_, address)| kubelet_ports.contains(&address.port()))
        .collect()
}

/// What the worst of these starts would do to an address.
pub(crate) fn prospect(address: SocketAddr, starts: &[NextStart]) -> Prospect {
    let of = |start: &NextStart| match &start.binds {
        Err(why) => Prospect::Unknown(format!("{}: {why}", start.source)),
        Ok((binds, said)) => match binds.iter().find(|bound| overlap(**bound, address)) {
            Some(bound) => Prospect::Taken(format!("{bound}, by {}: {said}", start.source)),
            None => Prospect::Free,
        },
    };
    starts.iter().map(of).max().unwrap_or(Prospect::Free)
}

/// What the next start of a kubelet that runs under `proc` would do to the addresses in `settings`,
/// where that is to be known.
pub(crate) fn next_start_warnings(settings: &Settings, proc: &Path) -> Vec<String> {
    let at_stake = on_kubelet_ports(settings, &[]);
    if at_stake.is_empty() {
        return Vec::new();
    }
    let kubelets = kubelets_of_the_node(proc).into_iter();
    let starts: Vec<NextStart> = kubelets
        .filter_map(|pid| WatchedKubelet::of(proc, pid))
        .flat_map(|kubelet| kubelet.next_starts())
        .collect();
    let warning = |(key, address): (&str, SocketAddr)| {
        let text = prospect(address, &starts).text(address)?;
        Some(format!("{key}: {text}"))
    };
    at_stake.into_iter().filter_map(warning).collect()
}

impl Prospect {
    /// What it means for an address that the gate holds; `None` if nothing.
    pub(crate) fn text(&self, address: SocketAddr) -> Option<String> {
        match self {
            Self::Free => None,
            Self::Unknown(why) => Some(format!(
                "{address}: it is not known whether the kubelet's next start binds it, so the gate lets go \
                 of it when the kubelet ends, and takes it again once a kubelet runs that does not bind it: \
                 {why}"
            )),
            Self::Taken(bound) => Some(format!(
                "{address}: the kubelet's next start would bind {bound}. The gate lets go of it when the \
                 kubelet ends, and callers then reach the kubelet without the gate: set the kubelet's \
                 address to 127.0.0.1 and its readOnlyPort to 0 again"
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::adopt::kubelet::running_kubelets;
    use crate::settings::KubeletFlags;

    fn settings(listen: &str, tombstone: &str) -> Settings {
        let text = format!(
            "apiVersion: kubelet-gate.dev/v1alpha1\nkind: KubeletGateConfiguration\nnodeName: \
             worker-1\nlisten: [\"{listen}\"]\n\
             kubeconfig: /k\nupstream: {{url: \"https://127.0.0.1:10250\", certificateFile: /c}}\n\
             tlsCertFile: /c\ntlsPrivateKeyFile: /k\nreadOnlyPort: {{listen: [{tombstone}]}}\n"
        );
        Settings::parse(&text, Path::new("test.yaml"), &KubeletFlags::default()).unwrap()
    }

    /// A `/proc` with one kubelet in it, whose root is `root/`.
    fn proc(arguments: &[&str]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        let process = proc.path().join("4711");
        fs::create_dir_all(process.join("root")).unwrap();
        fs::write(process.join("cmdline"), arguments.join("\0")).unwrap();
        proc
    }

    #[test]
    fn a_port_is_taken_only_if_the_kubelet_is_proven_not_to_want_it() {
        let open = running_kubelets(proc(&["kubelet"]).path());
        let loopback =
            running_kubelets(proc(&["kubelet", "--address=127.0.0.1", "--read-only-port=0"]).path());
        let unreadable = running_kubelets(proc(&["kubelet", "--config=/gone.yaml"]).path());

        let gate = settings("192.0.2.10:10250", "");
        assert!(matches!(
            may_listen(&gate, &open),
            Err(NodeError::KubeletsPort { pid: 4711, .. })
        ));
        assert!(matches!(may_listen(&gate, &[]), Err(NodeError::NoKubelet { .. })));
        assert!(matches!(
            may_listen(&gate, &unreadable),
            Err(NodeError::KubeletConfig { .. })
        ));
        assert!(may_listen(&gate, &loopback).is_ok());
        let here = running_kubelets(proc(&["kubelet", "--address=192.0.2.10"]).path());
        let mapped = settings("[::ffff:192.0.2.10]:10250", "");
        assert!(
            may_listen(&mapped, &here).is_err(),
            "an IPv4 address in IPv6 clothes is the same socket"
        );
        assert!(
            may_listen(&settings("192.0.2.10:10350", ""), &open).is_ok(),
            "its own port needs no proof"
        );
        assert!(may_listen(&settings("0.0.0.0:10350", "\"192.0.2.10:10255\""), &open).is_err());
        assert!(may_listen(&settings("0.0.0.0:10350", "\"192.0.2.10:10255\""), &loopback).is_ok());
        let both = [loopback, open].concat();
        assert!(may_listen(&gate, &both).is_err(), "every kubelet counts");
    }

    /// Seen red: with an unspecified address of the kubelet not taken for every address.
    #[test]
    fn a_next_start_takes_what_it_binds_and_the_worst_counts() {
        let start = |binds: &[&str]| NextStart {
            source: "kubelet.service".to_owned(),
            binds: Ok((
                binds.iter().map(|address| address.parse().unwrap()).collect(),
                "address=… (default)".to_owned(),
            )),
        };
        let unknown = NextStart {
            source: "kubelet.service".to_owned(),
            binds: Err("why".to_owned()),
        };
        let node: SocketAddr = "192.0.2.10:10250".parse().unwrap();
        let free = start(&["127.0.0.1:10250", "0.0.0.0:10255"]);
        assert_eq!(prospect(node, &[]), Prospect::Free);
        assert_eq!(prospect(node, std::slice::from_ref(&free)), Prospect::Free);
        for taken in [
            "0.0.0.0:10250",
            "[::]:10250",
            "192.0.2.10:10250",
            "[::ffff:192.0.2.10]:10250",
        ] {
            let starts = [free.clone(), start(&[taken]), unknown.clone()];
            let worst = prospect(node, &starts);
            assert!(matches!(worst, Prospect::Taken(_)), "{taken}: {worst:?}");
            let said = worst.text(node).unwrap();
            assert!(said.contains(taken) && said.contains("kubelet.service"), "{said}");
        }
        let worst = prospect(node, &[free, unknown]);
        assert_eq!(worst, Prospect::Unknown("kubelet.service: why".to_owned()));
        assert!(worst.text(node).unwrap().contains("not known"));
    }

    /// Seen red: with the running process' flags alone looked at.
    #[test]
    fn an_operator_is_warned_of_a_next_start_that_takes_a_port() {
        let proc = proc(&["kubelet", "--address=127.0.0.1", "--read-only-port=0"]);
        let unit = proc.path().join("4711/root/etc/systemd/system/kubelet.service");
        fs::create_dir_all(unit.parent().unwrap()).unwrap();
        let gate = settings("192.0.2.10:10250", "");
        let warnings = |flags: &str| {
            fs::write(&unit, format!("[Service]\nExecStart=/usr/bin/kubelet {flags}\n")).unwrap();
            next_start_warnings(&gate, proc.path())
        };
        assert!(warnings("--address=127.0.0.1 --read-only-port=0").is_empty());
        let said = warnings("--read-only-port=0");
        let begin = "listen: 192.0.2.10:10250: the kubelet's next start would bind 0.0.0.0:10250";
        assert!(said.len() == 1 && said[0].starts_with(begin), "{said:?}");
        assert!(
            said[0].contains("/etc/systemd/system/kubelet.service"),
            "{said:?}"
        );
        let own = settings("192.0.2.10:19443", "");
        assert!(next_start_warnings(&own, proc.path()).is_empty());
    }
}
