//! Whether the gate may bind its ports: never one that this node's kubelet binds or may come to bind.

use std::net::SocketAddr;

use super::error::NodeError;
use crate::adopt::kubelet::{PORT, READ_ONLY_PORT, RunningKubelet};
use crate::settings::{Settings, UpstreamUrl};

/// Checks that the gate may bind the addresses in `settings`: never what a kubelet binds or may come to bind.
///
/// A port is a kubelet's if it is a default port, the upstream's port, or bound by a running kubelet.
/// The gate binds such a port only if at least one kubelet runs, and every running kubelet is known
/// not to bind that address.
///
/// # Errors
/// The address is the kubelet's, or nothing proves that it is not.
pub(crate) fn may_listen(settings: &Settings, kubelets: &[RunningKubelet]) -> Result<(), NodeError> {
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
    let tombstone = settings
        .read_only_port
        .listen
        .iter()
        .map(|address| ("readOnlyPort.listen", *address));
    for (key, address) in listen
        .chain(tombstone)
        .filter(|(_, address)| kubelet_ports.contains(&address.port()))
    {
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
    Ok(())
}

/// Whether two sockets cannot both be bound.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && (one == other || one.is_unspecified() || other.is_unspecified())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::Path;

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
}
