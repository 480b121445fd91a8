//! One running gate, with the parts around it that only its ports and its watch need.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;

use super::holding::Holding;
use super::leaving::LeavingProcesses;
use super::names;
use super::node::NodeStanding;
use super::reload::Reloading;
use super::reviewing::Reviewing;
use super::tombstone::Census;
use super::watchdog::Threads;
use crate::apiserver::ApiServer;
use crate::forward::KubeletProbe;
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::seal::{Exemption, Seal};
use crate::settings::Settings;
use crate::tls::{Serving, ServingOptions};

/// A gate with its settings, its files in force, and what is known about it.
pub struct Instance {
    pub(crate) settings: Settings,
    pub(crate) gate: Arc<Gate>,
    /// The serving pair and the client CAs in force.
    pub(crate) serving: Arc<ArcSwap<Serving>>,
    /// The client for reviews, if the settings need one.
    pub(crate) api_server: Option<ApiServer>,
    /// What stays when the security settings change.
    pub(super) reviewing: Reviewing,
    /// By what the seal knows the gate's own connections to the kubelet; `None` if it cannot know them.
    pub(crate) exemption: Option<Exemption>,
    /// The seal, as the watch found it last.
    pub(crate) seal: ArcSwap<Seal>,
    /// Held while the seal is looked at and put back, which one process does: this one,
    /// until another has taken over.
    pub(super) seal_turn: Arc<tokio::sync::Mutex<()>>,
    /// Which of its addresses a kubelet may come to want, and which of these it holds.
    pub(crate) holding: Arc<Holding>,
    /// Whether the Node under whose name requests are judged is this machine.
    pub(crate) node: Arc<NodeStanding>,
    pub(crate) probe: KubeletProbe,
    /// The callers of the read-only port.
    pub(crate) census: Census,
    /// The threads that serve.
    pub(super) threads: Arc<Threads>,
    /// What the looks at the files remember. Locked while files are read.
    pub(super) reloading: Mutex<Reloading>,
    /// How the helper process ended, once it has.
    pub(super) helper_lost: OnceLock<String>,
    /// The configuration file, if it is followed.
    pub(super) configuration: OnceLock<PathBuf>,
    /// Earlier processes that still serve what they had accepted.
    pub(super) leaving: LeavingProcesses,
    /// What the files say and is not in force, by what they are for.
    pub(super) not_in_force: ArcSwap<Vec<(&'static str, String)>>,
}

impl Instance {
    /// Remembers that the helper process has ended.
    pub(super) fn note_helper_lost(&self, ended: String) {
        // There is one helper, and it ends once.
        let _ = self.helper_lost.set(ended);
    }

    /// The gate's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.gate.metrics
    }

    /// Whether the kubelet can be connected to, by a look that is at most a second old; else why not.
    pub(crate) async fn kubelet_is_reachable(&self) -> Result<(), Arc<str>> {
        self.probe.of(&self.gate.kubelet).await
    }

    /// Logs what the operator should know about the certificates and CAs in force.
    pub(super) fn warn_of_certificates(&self, options: &ServingOptions) {
        let serving = self.serving.load();
        let names = names::missing_listeners(&serving, &self.settings.listen);
        let shown = self.api_server.iter().flat_map(ApiServer::warnings);
        for warning in serving.warnings(options).into_iter().chain(names).chain(shown) {
            tracing::warn!("{warning}");
        }
    }

    /// Publishes how much the deny lists deny.
    pub(super) fn publish_denials(&self) {
        let entries = i64::try_from(self.reviewing.denied.load().len()).unwrap_or(i64::MAX);
        self.metrics().deny_list_entries.set(entries);
    }

    /// Publishes when the serving pair and the revocation lists end.
    pub(crate) fn publish_expiry(&self) {
        let serving = self.serving.load();
        if let Some(expires) = serving.expires {
            self.metrics().certificate_expires("serving", expires);
        }
        let lists = serving.trust.as_ref().and_then(|trust| trust.lists_expire());
        if let Some(life) = lists.and_then(|expire| expire.duration_since(UNIX_EPOCH).ok()) {
            let seconds = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
            self.metrics().certificate_expires("revocation_lists", seconds);
        }
    }
}
