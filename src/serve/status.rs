//! What a gate that runs says of itself: the answer to `/status`.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::instance::Instance;
use super::leaving::Leaving;
use super::sockets::Sockets;
use crate::host::sandbox;
use crate::seal::Seal;
use crate::timestamp::timestamp;

/// The answer to `GET /status`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusReport {
    pub(crate) version: String,
    pub(crate) pid: u32,
    /// When the process began to serve, in RFC 3339.
    pub(crate) since: String,
    /// The configuration file; `None` if the gate was started without one.
    pub(crate) configuration: Option<PathBuf>,
    pub(crate) node: String,
    /// As `/readyz` says it.
    pub(crate) ready: bool,
    /// The lines of `/readyz?verbose`.
    pub(crate) parts: Vec<String>,
    pub(crate) listeners: Vec<Listening>,
    /// Connections to the TLS port that are open, without those that have become streams.
    pub(crate) connections: i64,
    pub(crate) requests_in_flight: i64,
    /// Upgraded streams.
    pub(crate) streams: i64,
    pub(crate) followed_logs: i64,
    pub(crate) seal: Seal,
    /// What contains the process, and what of that is not in force.
    pub(crate) sandbox: String,
    /// What the files say and is not in force: what waits for SIGHUP or a restart, and files that cannot be
    /// used.
    pub(crate) not_in_force: Vec<String>,
    /// Earlier processes that still serve what they had accepted.
    pub(crate) leaving: Vec<Leaving>,
}

/// A listener of the gate.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Listening {
    pub(crate) port: String,
    pub(crate) address: String,
}

/// What does not change while the gate serves.
pub(super) struct Serving {
    since: SystemTime,
    listeners: Vec<Listening>,
}

// === impl Serving ===

impl Serving {
    /// A gate that serves these sockets from now on.
    pub(super) fn now_on(sockets: &Sockets) -> Self {
        let at = |port: &str, address: String| Listening {
            port: port.to_owned(),
            address,
        };
        let tls = sockets
            .addresses()
            .into_iter()
            .map(|address| at("tls", address.to_string()));
        let tombstone = sockets.tombstone_addresses().into_iter();
        let tombstone = tombstone.map(|address| at("read-only", address.to_string()));
        let admin = sockets
            .admin_address()
            .map(|address| at("admin", address.to_string()));
        let socket = sockets.admin_socket_path().map(|path| at("admin socket", path));
        Self {
            since: SystemTime::now(),
            listeners: tls.chain(tombstone).chain(admin).chain(socket).collect(),
        }
    }

    /// The report of `instance`, whose readiness was found to be so.
    pub(super) fn report(&self, instance: &Instance, ready: bool, parts: Vec<String>) -> StatusReport {
        let metrics = instance.metrics();
        let not_in_force = instance.not_in_force.load();
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since: timestamp(self.since),
            configuration: instance.configuration.get().cloned(),
            node: instance.gate.node_name.to_string(),
            ready,
            parts,
            listeners: self.listeners.clone(),
            connections: metrics.connections.get(),
            requests_in_flight: metrics.requests_in_flight.get(),
            streams: metrics.streams.get(),
            followed_logs: metrics.followed_logs.get(),
            seal: Seal::clone(&instance.seal.load()),
            sandbox: sandbox::in_force().map_or_else(|| "off".to_owned(), ToString::to_string),
            not_in_force: not_in_force
                .iter()
                .map(|(what, why)| format!("{what}: {why}"))
                .collect(),
            leaving: instance.leaving.list(),
        }
    }
}
