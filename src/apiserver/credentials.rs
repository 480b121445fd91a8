//! The gate's credentials for the API server and the trust in it, as the files have them now.
//!
//! A node's client certificate, a pod's token and the cluster's CA bundle change while the process runs.
//! client-go reads certificate files again on handshakes, closes connections on a change, and reads tokens
//! about every minute. Here [`Credentials::reload`] reads everything again, including the kubeconfig, and
//! compares contents. A kubeconfig that has changed is taken up with all the files that it names, or not at
//! all. Under the same kubeconfig the CA bundle, the token, and the certificate with its key are taken up
//! each on its own. If some cannot be used, the last good ones stay in use.
//!
//! An exec plugin may issue the credential. It is run when the credential is first needed, a little before
//! that expires, and when the API server refuses it. One run, in a task of its own, serves all waiting
//! requests; after a failure the next run is delayed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::OwnedMutexGuard;
use tracing::{info, warn};

use super::access::{ApiServerAccess, ApiServerEndpoint, ApiServerError, ApiServerFiles};
use super::exec::{IssuedCredential, Plugin, PluginError};
use super::failure::Cause;
use super::kubeconfig::Kubeconfig;
use crate::looks::{Looks, Reloaded, Unit};

/// How long a plugin may take. The plugins of the large clouds take seconds.
pub(super) const PLUGIN_DEADLINE: Duration = Duration::from_secs(30);

/// The pause between two runs of a plugin that does not help. It doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The credentials in use, and their source.
pub(super) struct Credentials {
    current: ArcSwap<ApiServerAccess>,
    /// The last good kubeconfig. Locked while an access is published, and never while files are read: a run
    /// of the plugin publishes too, and must not wait for a slow disk.
    source: Mutex<Kubeconfig>,
    /// What was read last. Locked while files are read, so that an older reading does
    /// not replace a newer one.
    held: Mutex<Held>,
    /// Locked while the plugin runs.
    last_run: Arc<tokio::sync::Mutex<LastPluginRun>>,
    plugin_deadline: Duration,
}

/// The contents of the kubeconfig, and of the files that it names.
#[derive(Clone)]
struct Held {
    kubeconfig: Arc<Unit<()>>,
    files: ApiServerFiles,
}

/// The outcome of the plugin's last run, and when the next may be.
struct LastPluginRun {
    failure: Option<Arc<PluginError>>,
    /// No run before this time, unless the issued credential has merely expired.
    not_before: Instant,
    pause: Duration,
}

// === impl Credentials ===

impl Credentials {
    /// Reads everything once. An error is final here, unlike on a reload. A plugin is not run yet.
    pub(super) fn new(source: Kubeconfig, plugin_deadline: Duration) -> Result<Self, ApiServerError> {
        let files = ApiServerFiles::read(&source)?;
        let access = ApiServerAccess::new(&source, &files, None, None)?;
        // The bytes that `source` was read from are not known here: the first look finds what they are now.
        let kubeconfig = Unit::unread(());
        Ok(Self {
            current: ArcSwap::from_pointee(access),
            source: Mutex::new(source),
            held: Mutex::new(Held {
                kubeconfig: kubeconfig.into(),
                files,
            }),
            last_run: Arc::new(tokio::sync::Mutex::new(LastPluginRun::new())),
            plugin_deadline,
        })
    }

    /// The access for a request now.
    pub(super) async fn current(self: &Arc<Self>) -> Result<Arc<ApiServerAccess>, Cause> {
        let access = self.current.load_full();
        match (&access.plugin, &access.issued) {
            (None, _) => Ok(access),
            (Some(_), Some(issued)) if !issued.has_expired() => {
                if issued.is_due()
                    && let Ok(last_run) = Arc::clone(&self.last_run).try_lock_owned()
                    && !last_run.must_wait()
                {
                    // In the background: the present credential is still valid.
                    tokio::spawn(Arc::clone(self).run_plugin(last_run, false));
                }
                Ok(access)
            }
            (Some(_), _) => self.renewed(&access, false).await,
        }
    }

    /// The access to use instead of one that the API server has just refused, if there is another.
    ///
    /// client-go runs the plugin here too, but only the next request uses the new credential.
    pub(super) async fn after_refusal(
        self: &Arc<Self>,
        refused: &Arc<ApiServerAccess>,
    ) -> Option<Arc<ApiServerAccess>> {
        refused.plugin.as_ref()?;
        self.renewed(refused, true).await.ok()
    }

    /// An access other than `old`.
    async fn renewed(
        self: &Arc<Self>,
        old: &Arc<ApiServerAccess>,
        refused: bool,
    ) -> Result<Arc<ApiServerAccess>, Cause> {
        let last_run = Arc::clone(&self.last_run).lock_owned().await;
        let access = self.current.load_full();
        let usable =
            access.plugin.is_none() || access.issued.as_ref().is_some_and(|issued| !issued.has_expired());
        if usable && !Arc::ptr_eq(&access, old) {
            return Ok(access);
        }
        let Some(plugin) = &access.plugin else {
            return Ok(access);
        };
        let failed = |error| Err(Cause::Plugin(error));
        match &last_run.failure {
            Some(failure) if last_run.must_wait() => return failed(Arc::clone(failure)),
            None if last_run.must_wait() && refused => {
                let problem = "the API server refuses its credential, and refused the one before";
                return failed(Arc::new(plugin.error(problem.to_owned())));
            }
            _ => {}
        }
        // In a task of its own: when a review is dropped, the run must go on for the others.
        let run = tokio::spawn(Arc::clone(self).run_plugin(last_run, refused)).await;
        run.unwrap_or_else(|lost| failed(Arc::new(plugin.error(lost.to_string()))))
    }

    async fn run_plugin(
        self: Arc<Self>,
        mut last_run: OwnedMutexGuard<LastPluginRun>,
        refused: bool,
    ) -> Result<Arc<ApiServerAccess>, Cause> {
        loop {
            let access = self.current.load_full();
            let Some(plugin) = &access.plugin else {
                return Ok(access);
            };
            let issued = plugin.run(&access.authorities, self.plugin_deadline).await;
            let published = issued.and_then(|issued| {
                self.publish(plugin, issued)
                    .map_err(|error| plugin.error(error.to_string()))
            });
            match published {
                // The kubeconfig names another plugin by now.
                Ok(None) => {}
                Ok(Some(access)) => {
                    info!(?plugin, "the exec plugin issued an API server credential");
                    if refused {
                        last_run.pause();
                        last_run.failure = None;
                    } else {
                        *last_run = LastPluginRun::new();
                    }
                    return Ok(access);
                }
                Err(error) => {
                    warn!(%error, "the exec plugin issued no API server credential");
                    let error = Arc::new(error);
                    last_run.pause();
                    last_run.failure = Some(Arc::clone(&error));
                    return Err(Cause::Plugin(error));
                }
            }
        }
    }

    /// Publishes a credential that a plugin issued, if it can be used; `None` if the kubeconfig no longer
    /// names this plugin.
    fn publish(
        &self,
        plugin: &Plugin,
        issued: IssuedCredential,
    ) -> Result<Option<Arc<ApiServerAccess>>, ApiServerError> {
        let source = self.source();
        if source.plugin.as_deref() != Some(plugin) {
            return Ok(None);
        }
        let access = Arc::new(self.current.load().with(&source, Arc::new(issued))?);
        self.current.store(Arc::clone(&access));
        Ok(Some(access))
    }

    /// Reads the files again, and publishes what has changed and is good.
    pub(super) fn reload(&self, looks: &mut Looks) -> Reloaded<ApiServerError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let last_good = self.source().clone();
        let mut reloaded = Reloaded::default();
        let (source, next) = match self.next_kubeconfig(&held, &last_good, looks, &mut reloaded) {
            Some((source, next)) => (source, next),
            None => {
                let files = held.files.next(&last_good, looks, &mut reloaded);
                (
                    last_good,
                    Held {
                        files,
                        ..held.clone()
                    },
                )
            }
        };
        match self.take_up(source, &next.files) {
            Ok(changed) => {
                reloaded.changed = changed;
                *held = next;
            }
            Err(error) => reloaded.problems.push(error),
        }
        reloaded
    }

    /// A kubeconfig that has changed, with the files that it names.
    fn next_kubeconfig(
        &self,
        held: &Held,
        last_good: &Kubeconfig,
        looks: &mut Looks,
        reloaded: &mut Reloaded<ApiServerError>,
    ) -> Option<(Kubeconfig, Held)> {
        let mut source = last_good.clone();
        let found = last_good.read_again().map_err(ApiServerError::from);
        let next = held.kubeconfig.next("kubeconfig", found, looks, |files| {
            source = last_good.with_contents(files)?;
            Ok(source.check_contained()?)
        });
        let kubeconfig = reloaded.note(next)?;
        let files = ApiServerFiles::read(&source).and_then(|files| {
            let outdated = files.check_dates(&source);
            // Files that are outdated already may be replaced by others that are.
            if held.files.check_dates(last_good).is_ok() {
                outdated?;
            }
            Ok(files)
        });
        match files {
            Ok(files) if looks.has_settled("kubeconfig with its files", &files.contents()) => {
                let kubeconfig = kubeconfig.into();
                Some((source, Held { kubeconfig, files }))
            }
            Ok(_) => {
                reloaded.unsettled = true;
                None
            }
            Err(error) => {
                reloaded.problems.push(error);
                None
            }
        }
    }

    /// Publishes what was read, if it can be used. `true` if it has changed.
    fn take_up(&self, source: Kubeconfig, files: &ApiServerFiles) -> Result<bool, ApiServerError> {
        let mut last_good = self.source();
        let published = self.current.load_full();
        // A credential is not used after the kubeconfig has come to name another plugin.
        let same = source.plugin == published.plugin;
        let issued = published.issued.clone().filter(|_| same);
        let access = ApiServerAccess::new(&source, files, issued, Some(&published.endpoint))?;
        *last_good = source;
        let changed = !same
            || !Arc::ptr_eq(&access.endpoint, &published.endpoint)
            || access.authorization != published.authorization;
        if changed {
            self.current.store(Arc::new(access));
        }
        Ok(changed)
    }

    fn source(&self) -> MutexGuard<'_, Kubeconfig> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the issued credential due for renewal.
    #[cfg(test)]
    pub(super) fn make_due(&self) {
        let mut access = ApiServerAccess::clone(&self.current.load());
        access.issued = access.issued.map(|issued| Arc::new(issued.due_now()));
        self.current.store(Arc::new(access));
    }

    /// The endpoint in use.
    pub(super) fn endpoint(&self) -> Arc<ApiServerEndpoint> {
        Arc::clone(&self.current.load().endpoint)
    }
}

// === impl LastPluginRun ===

impl LastPluginRun {
    fn new() -> Self {
        Self {
            failure: None,
            not_before: Instant::now(),
            pause: FIRST_PAUSE,
        }
    }

    fn must_wait(&self) -> bool {
        Instant::now() < self.not_before
    }

    fn pause(&mut self) {
        // After a long time it counts as a new failure.
        if self.not_before.elapsed() > LONGEST_PAUSE {
            self.pause = FIRST_PAUSE;
        }
        self.not_before = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}
