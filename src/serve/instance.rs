//! One running gate, with the parts around it that only its ports and its watch need.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;

use super::names;
use super::reviewing::Reviewing;
use super::tombstone::Census;
use crate::apiserver::ApiServer;
use crate::error::chain;
use crate::forward::KubeletProbe;
use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::seal::{Exemption, Seal};
use crate::settings::Settings;
use crate::tls::Serving;

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
    pub(crate) probe: KubeletProbe,
    /// The callers of the read-only port.
    pub(crate) census: Census,
    /// What was wrong with the files when they were last read again, by what they are for.
    pub(super) complaints: Mutex<BTreeMap<&'static str, String>>,
}

impl Instance {
    /// Reads every file again that may have changed. A bad file is counted, and logged once, and the last
    /// good one stays in force. This may take as long as the files' disks take: not on a thread that serves.
    pub fn reload(&self) {
        let mut changed = self.note_reload("serving", Serving::reload(&self.serving, &self.settings.tls));
        self.note_reload("upstream", self.gate.kubelet.reload());
        if let Some(api_server) = &self.api_server {
            changed |= self.note_reload("kubeconfig", api_server.reload());
        }
        if changed {
            self.warn_of_certificates();
        }
        self.publish_expiry();
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
    pub(super) fn warn_of_certificates(&self) {
        let serving = self.serving.load();
        let names = names::missing_listeners(&serving, &self.settings.listen);
        let shown = self
            .api_server
            .as_ref()
            .map(ApiServer::warnings)
            .unwrap_or_default();
        for warning in serving.warnings.iter().chain(&names).chain(&shown) {
            tracing::warn!("{warning}");
        }
    }

    /// What is wrong with changed files that cannot be used, by what they are for.
    pub(super) fn complaints(&self) -> BTreeMap<&'static str, String> {
        let complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.clone()
    }

    /// Whether the files changed and are in force.
    fn note_reload<E: std::error::Error + 'static>(
        &self,
        what: &'static str,
        outcome: Result<bool, E>,
    ) -> bool {
        self.metrics().reload_failing(what, outcome.is_err());
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(changed) => {
                let mended = complaints.remove(what).is_some();
                if changed {
                    self.metrics().reloaded(what, true);
                }
                match (changed, mended) {
                    (true, true) => tracing::info!(what, "mended: the files changed and are in force"),
                    (true, false) => tracing::info!(what, "files changed and are in force"),
                    (false, true) => {
                        tracing::info!(what, "mended: the files are again those that are in force");
                    }
                    (false, false) => {}
                }
                changed
            }
            Err(error) => {
                self.metrics().reloaded(what, false);
                let error = chain(&error);
                let before = complaints.insert(what, error.clone());
                if before.as_ref() != Some(&error) {
                    tracing::warn!(
                        what,
                        error,
                        "changed files cannot be used; the last good ones stay in force"
                    );
                }
                false
            }
        }
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
