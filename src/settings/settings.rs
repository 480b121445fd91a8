//! Everything that `serve` needs to know, validated.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::admin::Admin;
use super::audit::Audit;
use super::authentication::Authentication;
use super::authorization::Authorization;
use super::firewall::Firewall;
use super::limits::Limits;
use super::sandbox::Sandbox;
use super::sources::Sources;
use super::streams::Streams;
use super::upgrade::Upgrade;
use super::upstream::Upstream;
use crate::tls::ServingOptions;

/// Everything `serve` needs to know, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `nodeName`: lower-cased name of this node's Node object; `None` means that it is found.
    pub node_name: Option<String>,
    /// `nodeNameFromHost`: the host name may serve as the node name when nothing better is found.
    pub node_name_from_host: bool,
    /// `listen`: the addresses of the gate's TLS port; at least one.
    pub listen: Vec<SocketAddr>,
    /// `kubeconfig`: how to reach the API server; `None` means in-cluster.
    pub kubeconfig: Option<PathBuf>,
    /// `upstream`: the kubelet behind the gate.
    pub upstream: Upstream,
    /// `tlsCertFile` … `tlsCipherSuites` and `authentication.x509`: the listener's TLS.
    pub tls: ServingOptions,
    /// `authentication`, without `x509`.
    pub authentication: Authentication,
    /// `authorization`.
    pub authorization: Authorization,
    /// `sources`: from where the TLS port may be used.
    pub sources: Sources,
    /// `readOnlyPort`: the tombstone.
    pub read_only_port: ReadOnlyPort,
    /// `streamingConnectionIdleTimeout`: an upgraded stream without a byte for this long is ended.
    pub streaming_connection_idle_timeout: Duration,
    /// `streams`: how streams are judged again.
    pub streams: Streams,
    /// `limits`: every bound.
    pub limits: Limits,
    /// `firewall`: the seal around the gate.
    pub firewall: Firewall,
    /// `audit`: where the events go.
    pub audit: Audit,
    /// `admin`: the gate's own port and socket.
    pub admin: Admin,
    /// `upgrade`: how the gate ends after another process has taken its sockets.
    pub upgrade: Upgrade,
    /// `workers`: threads that serve connections, at least 1.
    pub workers: usize,
    /// `sandbox`: how the process is contained.
    pub sandbox: Sandbox,
    /// What is allowed but should be known to the operator: one sentence each, place first.
    pub warnings: Vec<String>,
}

/// `readOnlyPort`: the tombstone, which gives one answer to everything.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadOnlyPort {
    /// Where it listens; empty means nowhere.
    pub listen: Vec<SocketAddr>,
    /// `readOnlyPort.answer`: the status, 410, 404 or 403.
    pub answer: u16,
    /// `readOnlyPort.healthz`: `/healthz` from loopback is answered by whether the kubelet can be connected
    /// to.
    pub healthz: bool,
}
