//! Taking up what a look has found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use super::super::error::StartError;
use super::super::instance::Instance;
use super::configuration::{ConfigurationError, ConfigurationFile, FoundConfiguration, NextConfiguration};
use super::state::{Pending, Reloading};
use crate::authn::{DenyList, Identity, KnownApiServer};
use crate::error::chain;
use crate::gate::Rules;
use crate::looks::{Looks, Reloaded, Trigger};
use crate::settings::{AuthorizationMode, KubeletFlags, Settings};
use crate::tls::Serving;

impl Instance {
    /// Follows the configuration file at `path`, from which `settings` were read under `flags`.
    pub fn follow_configuration(&self, path: PathBuf, flags: KubeletFlags, settings: Settings) {
        let _ = self.configuration.set(path.clone());
        self.reloading().configuration = Some(ConfigurationFile::new(path, flags, settings));
    }

    /// Takes up every file that has changed, as SIGHUP does. A bad file is counted, and logged once, and the
    /// last good one stays in force. This may take as long as the files' disks take: not on a thread that
    /// serves.
    pub fn reload(&self) {
        self.look(Trigger::Signal);
    }

    /// Takes up the files that have changed and may be taken up now. Yields whether others should
    /// be looked at again soon.
    pub(super) fn look(&self, trigger: Trigger) -> bool {
        let mut reloading = self.reloading();
        let Reloading {
            looks, configuration, ..
        } = &mut *reloading;
        looks.begin(trigger, Instant::now());
        let before = self.judged_by();
        let (mut tls, mut deny_files) = (&self.settings.tls, &self.settings.authentication.deny_files);
        let taken = match configuration {
            None => None,
            Some(file) => {
                let taken = self.take_configuration(file, looks);
                tls = &file.in_force.tls;
                deny_files = &file.in_force.authentication.deny_files;
                Some((taken, file.path.clone()))
            }
        };
        let seen = self.gate.witness.api_server();
        let api_server = self.known_api_server(seen.as_deref());
        let denied = DenyList::reload(&self.reviewing.denied, deny_files, api_server, looks);
        let after = self.judged_by();
        if !Arc::ptr_eq(&before.1, &after.1) {
            self.warn_of_left_out();
        }
        if !Arc::ptr_eq(&before.0, &after.0)
            || !Arc::ptr_eq(&before.1, &after.1)
            || !Arc::ptr_eq(&before.2, &after.2)
        {
            self.gate.announce_change();
        }
        if !Arc::ptr_eq(&before.2, &after.2) {
            self.publish_denials();
            let held = after.2.held();
            if !held.is_empty() {
                tracing::warn!(
                    "entries are gone from the deny lists, and stay in force until SIGHUP (systemctl \
                     reload): {}",
                    held.join("; ")
                );
            }
        }
        // The disk of a certificate or of a revocation list may not answer. A deny list does not wait for it.
        let serving = Serving::reload(&self.serving, tls, looks);
        if serving.changed {
            self.gate.announce_change();
        }
        let upstream = self.gate.kubelet.reload(looks);
        let api_server = self
            .api_server
            .as_ref()
            .map(|api_server| api_server.reload(looks));
        if serving.changed || api_server.as_ref().is_some_and(|reloaded| reloaded.changed) {
            self.warn_of_certificates(tls);
        }
        let unsettled = looks.is_unsettled();
        if let Some((taken, path)) = taken {
            self.note_configuration(&mut reloading, taken, &path);
        }
        self.note(&mut reloading, "serving", serving);
        self.note(&mut reloading, "deny_lists", denied);
        self.note(&mut reloading, "upstream", upstream);
        if let Some(api_server) = api_server {
            self.note(&mut reloading, "kubeconfig", api_server);
        }
        self.publish_notes(&reloading);
        drop(reloading);
        self.publish_expiry();
        unsettled
    }

    /// What decisions rest on.
    fn judged_by(&self) -> (Arc<Serving>, Arc<Rules>, Arc<DenyList>) {
        (
            self.serving.load_full(),
            self.gate.rules.load_full(),
            self.reviewing.denied.load_full(),
        )
    }

    /// `seen` is the identity in which the API server was served last.
    fn known_api_server<'a>(&'a self, seen: Option<&'a Identity>) -> KnownApiServer<'a> {
        KnownApiServer {
            users: &self.settings.firewall.api_server_users,
            seen,
        }
    }

    fn reloading(&self) -> MutexGuard<'_, Reloading> {
        self.reloading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the configuration as a whole, or not at all.
    fn take_configuration(
        &self,
        file: &mut ConfigurationFile,
        looks: &mut Looks,
    ) -> (Reloaded<ConfigurationError>, Option<Pending>) {
        let mut reloaded = Reloaded::default();
        let pending = match file.look(looks) {
            Ok(FoundConfiguration::Same) => None,
            Ok(FoundConfiguration::Unsettled) => {
                reloaded.unsettled = true;
                None
            }
            Ok(FoundConfiguration::Waits(signal)) => Some(Pending {
                start: Vec::new(),
                signal,
            }),
            Ok(FoundConfiguration::New(next)) => match self.publish(file, &next, looks) {
                Ok(Some(loosened)) => {
                    reloaded.changed = next.settings != file.in_force;
                    reloaded.loosened.clone_from(&next.changes.loosened);
                    reloaded.loosened.extend(loosened);
                    let start = next.changes.at_start.clone();
                    file.take_up(*next);
                    Some(Pending {
                        start,
                        signal: Vec::new(),
                    })
                }
                Ok(None) => {
                    reloaded.unsettled = true;
                    None
                }
                Err(error) => {
                    reloaded.problems.push(error);
                    None
                }
            },
            Err(error) => {
                reloaded.problems.push(error);
                None
            }
        };
        (reloaded, pending)
    }

    /// Makes everything that the configuration needs, and only then puts it in force. Yields what the files
    /// that it names have loosened; `None` if one of them may still be being written.
    fn publish(
        &self,
        file: &ConfigurationFile,
        next: &NextConfiguration,
        looks: &mut Looks,
    ) -> Result<Option<Vec<String>>, ConfigurationError> {
        let (old, new) = (&file.in_force, &next.settings);
        let mut loosened = Vec::new();
        if old == new {
            return Ok(Some(loosened));
        }
        let asks = new.authentication.webhook || new.authorization.mode == AuthorizationMode::Webhook;
        if asks && self.api_server.is_none() {
            return Err(ConfigurationError::NeedsClient);
        }
        let serving = if old.tls == new.tls {
            None
        } else {
            let files = Serving::contents(&new.tls).map_err(StartError::from)?;
            if !looks.has_settled("files of the configuration", &files) {
                return Ok(None);
            }
            let serving = Serving::of(&new.tls, files).map_err(StartError::from)?;
            let lost = serving.lists_lost(&self.serving.load(), looks.trigger());
            loosened.extend(lost.map_err(StartError::from)?);
            Some(serving)
        };
        self.judge_sources(&new.sources)?;
        let denied = if old.authentication.deny_files == new.authentication.deny_files {
            None
        } else {
            let seen = self.gate.witness.api_server();
            let api_server = self.known_api_server(seen.as_deref());
            let (paths, trigger) = (&new.authentication.deny_files, looks.trigger());
            let lists = self.reviewing.denied.load();
            let denied = lists
                .with_files(paths, api_server, trigger)
                .map_err(StartError::from)?;
            loosened.extend(denied.iter().flat_map(|denied| denied.removed_since(&lists)));
            denied
        };
        let rules = self.reviewing.rules(new)?;
        self.gate.audit.set_policy(&new.audit);
        if let Some(serving) = serving {
            self.serving.store(Arc::new(serving));
        }
        if let Some(denied) = denied {
            self.reviewing.denied.store(Arc::new(denied));
        }
        self.gate.rules.store(Arc::new(rules));
        Ok(Some(loosened))
    }

    fn note_configuration(
        &self,
        reloading: &mut Reloading,
        (reloaded, pending): (Reloaded<ConfigurationError>, Option<Pending>),
        path: &Path,
    ) {
        let path = path.display();
        if pending.as_ref().is_some_and(|pending| !pending.signal.is_empty()) {
            // It is not bad any more, and not in force either.
            reloading.complaints.remove("configuration");
        }
        let is_same = pending.is_none() && reloaded.problems.is_empty() && !reloaded.unsettled;
        self.note(reloading, "configuration", reloaded);
        let Some(mut pending) = pending else {
            // A file that is as it was taken up waits for nothing.
            if is_same {
                reloading.pending.signal.clear();
            }
            return;
        };
        if !pending.signal.is_empty() {
            pending.start.clone_from(&reloading.pending.start);
            if pending != reloading.pending {
                tracing::warn!(
                    "{path} has changed and is not in force, since it loosens what is allowed: {}. Send \
                     SIGHUP (systemctl reload) to put it in force",
                    pending.signal.join("; ")
                );
            }
        } else if !pending.start.is_empty() && pending.start != reloading.pending.start {
            tracing::warn!("{}", for_start(&pending.start, &path));
        }
        reloading.pending = pending;
    }

    fn note<E: std::error::Error + 'static>(
        &self,
        reloading: &mut Reloading,
        what: &'static str,
        reloaded: Reloaded<E>,
    ) {
        let complaints = &mut reloading.complaints;
        let is_clean = reloaded.problems.is_empty() && !reloaded.unsettled;
        let is_mended = is_clean && complaints.remove(what).is_some();
        if reloaded.changed {
            self.metrics().reloaded(what, true);
        }
        match (reloaded.changed, is_mended) {
            (true, true) => tracing::info!(what, "mended: the files changed and are in force"),
            (true, false) => tracing::info!(what, "files changed and are in force"),
            (false, true) => tracing::info!(what, "mended: the files are again those that are in force"),
            (false, false) => {}
        }
        if !reloaded.loosened.is_empty() {
            let loosened = reloaded.loosened.join("; ");
            tracing::warn!(what, "what is allowed was loosened: {loosened}");
            self.gate.audit.write_notice(BTreeMap::from([
                ("kubelet-gate.dev/changed", what.to_owned()),
                ("kubelet-gate.dev/loosened", loosened),
            ]));
        }
        let mut problems: Vec<String> = reloaded
            .problems
            .iter()
            .map(|error| chain(error).replace('\n', "; "))
            .collect();
        problems.dedup();
        if !problems.is_empty() {
            self.metrics().reloaded(what, false);
            let error = problems.join("; ");
            let before = complaints.insert(what, error.clone());
            if before.as_ref() != Some(&error) {
                tracing::warn!(
                    what,
                    error,
                    "changed files cannot be used; the last good ones stay in force"
                );
            }
        }
        self.metrics().reload_failing(what, complaints.contains_key(what));
    }

    /// Publishes what is not in force, for `/readyz?verbose` and the metrics.
    fn publish_notes(&self, reloading: &Reloading) {
        let Reloading {
            configuration,
            complaints,
            pending,
            ..
        } = reloading;
        let complaint = |(what, error): (&&'static str, &String)| {
            (*what, format!("the last good files stay in force: {error}"))
        };
        let mut notes: Vec<_> = complaints.iter().map(complaint).collect();
        let held = self.reviewing.denied.load().held();
        if !held.is_empty() {
            let held = held.join("; ");
            notes.push((
                "deny_lists",
                format!("entries are gone from the files, and wait for SIGHUP: {held}"),
            ));
        }
        if let Some(file) = configuration {
            let path = file.path.display();
            if !pending.signal.is_empty() {
                let signal = pending.signal.join("; ");
                let note = format!("{path} waits for SIGHUP, since it loosens: {signal}");
                notes.push(("configuration", note));
            }
            if !pending.start.is_empty() {
                notes.push(("configuration", for_start(&pending.start, &path)));
            }
        }
        self.metrics()
            .configuration_pending(pending.signal.len(), pending.start.len());
        self.not_in_force.store(Arc::new(notes));
    }
}

fn for_start(keys: &[String], path: &std::path::Display<'_>) -> String {
    format!(
        "{}: changed in {path}, not in force until a restart",
        keys.join(", ")
    )
}
