//! This node: its name, and the kubelet that runs on it.

mod addresses;
mod environment;
mod fleet;
pub mod invocation;
pub(crate) mod kubeconfig;
mod kubelet;
mod machine;
mod microk8s;
mod namespace;
pub mod options;
mod rancher;
mod root;
pub mod sockets;
mod systemd;
mod wire;

pub(crate) use self::fleet::{Shown, shown_to_kubelet};
pub(crate) use self::machine::{Confirmed, confirm};

pub use self::addresses::{WIRE, addresses};
pub use self::fleet::FleetCredential;
pub use self::kubelet::{RunningKubelet, binds, listening_ports, may_listen, running_kubelets};
pub use self::namespace::{Namespace, as_user, ip};
pub use self::root::Root;
pub(crate) use self::root::plain;
pub use self::wire::Wire;

use std::net::SocketAddr;
use std::path::Path;

use crate::settings::Settings;

/// Something about this node that keeps the gate from starting.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Nothing says what the Node is called.
    #[error(
        "nodeName: nothing says what this Node is called: not the configuration, not the kubeconfig's client \
         certificate (CN=system:node:NAME), not a running kubelet's --hostname-override, not NODE_NAME in the \
         environment; set nodeName, or nodeNameFromHost: true if the Node is called as the host"
    )]
    NoName,
    /// The Node of this name is another machine.
    #[error(
        "the Node {name} is another machine: its {kind} is {theirs}, this machine's is {ours}; a gate that asks about \
         another Node lets in whoever may reach that one: set nodeName to this machine's Node, see kubectl get nodes"
    )]
    AnotherMachine {
        /// The name that was found.
        name: String,
        /// Which of the ids shows it.
        kind: &'static str,
        /// The Node's.
        theirs: String,
        /// This machine's.
        ours: String,
    },
    /// The kubelet itself would want this address.
    #[error(
        "{key}: {address} is the running kubelet's (pid {pid}: address {kubelet}); a kubelet that finds its port taken \
         exits and the node is lost: bind the kubelet to loopback, or listen on another port and redirect to it"
    )]
    KubeletsPort {
        /// Where the configuration names it.
        key: &'static str,
        /// The address that was to be listened on.
        address: SocketAddr,
        /// The kubelet's process.
        pid: i32,
        /// What the kubelet binds.
        kubelet: SocketAddr,
    },
    /// Nothing proves that the kubelet leaves this port alone.
    #[error(
        "{key}: {address}: nothing proves that this node's kubelet will not bind that port, since no running kubelet is \
         seen in /proc; a kubelet that finds its port taken exits and the node is lost: run where its process can be \
         seen, or listen on another port and redirect to it"
    )]
    NoKubelet {
        /// Where the configuration names it.
        key: &'static str,
        /// The address that was to be listened on.
        address: SocketAddr,
    },
    /// The kubelet's configuration cannot be read, so that its addresses are not known.
    #[error(
        "the running kubelet (pid {pid}) takes its address from {path}, which cannot be read: {why}; nothing proves \
         then that it leaves {address} alone"
    )]
    KubeletConfig {
        /// The kubelet's process.
        pid: i32,
        /// Its `--config`.
        path: String,
        /// Why not.
        why: String,
        /// The address that was to be listened on.
        address: SocketAddr,
    },
}

/// The Node's name: `nodeName`, the `system:node:NAME` of the gate's own certificate, a running kubelet's
/// `--hostname-override`, `NODE_NAME`, or the host's name if that is allowed. Trimmed and lower-cased, as the kubelet
/// does.
///
/// # Errors
/// None of them says.
pub fn name(settings: &Settings, certificate_common_name: Option<&str>) -> Result<String, NodeError> {
    let variable = std::env::var("NODE_NAME").ok();
    first_name(settings, certificate_common_name, Path::new("/proc"), variable)
}

/// The first that says anything; a kubelet, too, takes an empty `--hostname-override` for none.
fn first_name(
    settings: &Settings,
    certificate_common_name: Option<&str>,
    proc: &Path,
    variable: Option<String>,
) -> Result<String, NodeError> {
    let mut kubelets = running_kubelets(proc).into_iter();
    [
        settings.node_name.clone(),
        certificate_common_name
            .and_then(|name| name.strip_prefix("system:node:"))
            .map(str::to_owned),
        kubelets.find_map(|kubelet| kubelet.hostname_override),
        variable,
        settings.node_name_from_host.then(host_name).flatten(),
    ]
    .into_iter()
    .flatten()
    .map(|name| name.trim().to_lowercase())
    .find(|name| !name.is_empty())
    .ok_or(NodeError::NoName)
}

/// The host's name.
pub(crate) fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_lowercase())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::settings::KubeletFlags;

    fn named(key: &str, certificate: &str, kubelet: &str, variable: &str, host: bool) -> Option<String> {
        let text = format!(
            "apiVersion: kubelet-gate.dev/v1alpha1\nkind: KubeletGateConfiguration\nlisten: [\"127.0.0.1:0\"]\n\
             kubeconfig: /k\nupstream: {{url: \"https://127.0.0.1:10250\", certificateFile: /c}}\ntlsCertFile: /c\n\
             tlsPrivateKeyFile: /k\nnodeName: \"{key}\"\nnodeNameFromHost: {host}\n"
        );
        let settings = Settings::parse(&text, Path::new("test.yaml"), &KubeletFlags::default()).unwrap();
        let proc = tempfile::tempdir().unwrap();
        let process = proc.path().join("4711");
        std::fs::create_dir(&process).unwrap();
        std::fs::write(
            process.join("cmdline"),
            format!("kubelet\0--hostname-override={kubelet}"),
        )
        .unwrap();
        let name = first_name(
            &settings,
            Some(certificate),
            proc.path(),
            Some(variable.to_owned()),
        );
        name.map_err(|error| assert!(matches!(error, NodeError::NoName)))
            .ok()
    }

    /// Seen red: with `nodeName` left out, the first row.
    #[test]
    fn the_name_is_the_first_that_is_said_trimmed_and_in_lower_case() {
        let node = "system:node:Worker-B.example";
        assert_eq!(
            named("Worker-A", node, "Worker-C", "Worker-D", true).unwrap(),
            "worker-a"
        );
        assert_eq!(
            named("", node, "Worker-C", "Worker-D", true).unwrap(),
            "worker-b.example"
        );
        for nobodys in ["system:node:", "system:nodes:x", "kubelet-gate", ""] {
            assert_eq!(
                named("", nobodys, " Worker-C\n", "Worker-D", true).unwrap(),
                "worker-c"
            );
        }
        assert_eq!(named("", "", "", "Worker-D", true).unwrap(), "worker-d");
        assert_eq!(named("", "", " ", "", true), host_name());
        assert_eq!(
            named("", "", "", "", false),
            None,
            "the host's name is not the Node's unless that is said"
        );
    }
}
