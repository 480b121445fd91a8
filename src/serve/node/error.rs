//! Why a gate cannot serve this node.

use std::net::SocketAddr;

/// Something about this node that keeps the gate from starting.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Nothing says what the Node is called.
    #[error(
        "nodeName: nothing says what this Node is called: not the configuration, not the kubeconfig's client \
         certificate (CN=system:node:NAME), not a running kubelet's --hostname-override, not NODE_NAME in \
         the environment; set nodeName, or nodeNameFromHost: true if the Node is called as the host"
    )]
    NoName,
    /// The Node of this name is another machine.
    #[error(
        "the Node {name} is another machine: its {kind} is {theirs}, this machine's is {ours}; a gate that \
         asks about another Node admits the users of that one: set nodeName to this machine's Node, see \
         kubectl get nodes"
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
        "{key}: {address} is the running kubelet's (pid {pid}: address {kubelet}); a kubelet that finds its \
         port taken exits and the node is lost: bind the kubelet to loopback, or listen on another port and \
         redirect to it"
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
        "{key}: {address}: nothing proves that this node's kubelet will not bind that port, since no running \
         kubelet is seen in /proc; a kubelet that finds its port taken exits and the node is lost: run where \
         its process can be seen, or listen on another port and redirect to it"
    )]
    NoKubelet {
        /// Where the configuration names it.
        key: &'static str,
        /// The address that was to be listened on.
        address: SocketAddr,
    },
    /// The kubelet's configuration cannot be read, so that its addresses are not known.
    #[error(
        "the running kubelet (pid {pid}) takes its address from {path}, which cannot be read: {why}; nothing \
         proves then that it leaves {address} alone"
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
