//! What the client shows the API server and what it trusts, as the files say it now.
//!
//! A node's client certificate, a pod's token and the cluster's CA bundle all change under a running process.
//! client-go re-reads certificate files on handshakes and closes connections on a change, and tokens about
//! every minute; here all of it, the kubeconfig included, is looked at by content whenever
//! [`Credentials::reload`] is called, which the gate does every ten seconds. What is read is validated as a
//! whole before it is published as one value; if it does not hold, the last good one stays.
//!
//! Where an exec plugin issues the credential it is one more source. It is run when it is first needed, a
//! little before what it issued expires, and when the API server refuses that; once for all who wait, in a
//! task of its own, and after a failure not again at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::OwnedMutexGuard;
use tracing::{info, warn};

use super::access::{ApiServerAccess, ApiServerEndpoint, ApiServerError};
use super::exec::{IssuedCredential, Plugin, PluginError};
use super::failure::Cause;
use super::kubeconfig::Kubeconfig;

/// How long a plugin may take. Those of the large clouds take seconds.
pub(super) const PLUGIN_DEADLINE: Duration = Duration::from_secs(30);

/// Between two runs of a plugin that does not help, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The credentials in use, and where they come from.
pub(super) struct Credentials {
    current: ArcSwap<ApiServerAccess>,
    /// The last good kubeconfig; held while anything is read and published.
    source: Mutex<Kubeconfig>,
    /// Held while the plugin runs.
    turn: Arc<tokio::sync::Mutex<LastPluginRun>>,
    plugin_deadline: Duration,
}

/// What became of the plugin's last run.
struct LastPluginRun {
    failure: Option<Arc<PluginError>>,
    /// No further run before, unless what it issued has simply expired.
    not_before: Instant,
    pause: Duration,
}

// === impl Credentials ===

impl Credentials {
    /// Reads everything once; unlike later, an error here is final. A plugin is not run yet.
    pub(super) fn new(source: Kubeconfig, plugin_deadline: Duration) -> Result<Self, ApiServerError> {
        let access = ApiServerAccess::read(&source, None, None)?;
        Ok(Self {
            current: ArcSwap::from_pointee(access),
            source: Mutex::new(source),
            turn: Arc::new(tokio::sync::Mutex::new(LastPluginRun::new())),
            plugin_deadline,
        })
    }

    /// What to use for a request now.
    pub(super) async fn current(self: &Arc<Self>) -> Result<Arc<ApiServerAccess>, Cause> {
        let access = self.current.load_full();
        match (&access.plugin, &access.issued) {
            (None, _) => Ok(access),
            (Some(_), Some(issued)) if !issued.has_expired() => {
                if issued.is_due()
                    && let Ok(turn) = Arc::clone(&self.turn).try_lock_owned()
                    && !turn.must_wait()
                {
                    // Nobody waits for it: what there is still holds.
                    tokio::spawn(Arc::clone(self).run_plugin(turn, false));
                }
                Ok(access)
            }
            (Some(_), _) => self.renewed(&access, false).await,
        }
    }

    /// What to use instead of credentials that the API server has just refused, if anything else is to be
    /// had.
    ///
    /// client-go runs the plugin at this point too, and leaves it to the next request to use what it issues.
    pub(super) async fn after_refusal(
        self: &Arc<Self>,
        refused: &Arc<ApiServerAccess>,
    ) -> Option<Arc<ApiServerAccess>> {
        refused.plugin.as_ref()?;
        self.renewed(refused, true).await.ok()
    }

    /// Credentials that are not these.
    async fn renewed(
        self: &Arc<Self>,
        old: &Arc<ApiServerAccess>,
        refused: bool,
    ) -> Result<Arc<ApiServerAccess>, Cause> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
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
        match &turn.failure {
            Some(failure) if turn.must_wait() => return failed(Arc::clone(failure)),
            None if turn.must_wait() && refused => {
                let problem = "refused, and so is what it issued after the last refusal";
                return failed(Arc::new(plugin.error(problem.to_owned())));
            }
            _ => {}
        }
        // In a task of its own: a review that is given up must not end it for the others.
        let run = tokio::spawn(Arc::clone(self).run_plugin(turn, refused)).await;
        run.unwrap_or_else(|lost| failed(Arc::new(plugin.error(lost.to_string()))))
    }

    async fn run_plugin(
        self: Arc<Self>,
        mut turn: OwnedMutexGuard<LastPluginRun>,
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
                // The kubeconfig has come to name another one meanwhile.
                Ok(None) => {}
                Ok(Some(access)) => {
                    info!(?plugin, "the exec plugin issued an API server credential");
                    if refused {
                        turn.pause();
                        turn.failure = None;
                    } else {
                        *turn = LastPluginRun::new();
                    }
                    return Ok(access);
                }
                Err(error) => {
                    warn!(%error, "the exec plugin issued no API server credential");
                    let error = Arc::new(error);
                    turn.pause();
                    turn.failure = Some(Arc::clone(&error));
                    return Err(Cause::Plugin(error));
                }
            }
        }
    }

    /// Puts into force what a plugin issued, if it holds; `None` if it is no longer this plugin's turn.
    fn publish(
        &self,
        plugin: &Plugin,
        issued: IssuedCredential,
    ) -> Result<Option<Arc<ApiServerAccess>>, ApiServerError> {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        if source.plugin.as_deref() != Some(plugin) {
            return Ok(None);
        }
        let access = Arc::new(self.current.load().with(&source, Arc::new(issued))?);
        self.current.store(Arc::clone(&access));
        Ok(Some(access))
    }

    /// Looks at the files now. `true` if they had changed.
    pub(super) fn reload(&self) -> Result<bool, ApiServerError> {
        let mut last_good = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let published = self.current.load_full();
        let source = last_good.reread()?;
        // What one plugin issued is not shown on behalf of another.
        let same = source.plugin == published.plugin;
        let issued = published.issued.clone().filter(|_| same);
        let access = ApiServerAccess::read(&source, issued, Some(&published.endpoint))?;
        *last_good = source;
        let changed = !same
            || !Arc::ptr_eq(&access.endpoint, &published.endpoint)
            || access.authorization != published.authorization;
        if changed {
            self.current.store(Arc::new(access));
        }
        Ok(changed)
    }

    /// Makes it time to renew what the plugin issued.
    #[cfg(test)]
    pub(super) fn make_due(&self) {
        let mut access = ApiServerAccess::clone(&self.current.load());
        access.issued = access.issued.map(|issued| Arc::new(issued.due_now()));
        self.current.store(Arc::new(access));
    }

    /// Where connections lead now.
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
        // Long ago, it is another trouble.
        if self.not_before.elapsed() > LONGEST_PAUSE {
            self.pause = FIRST_PAUSE;
        }
        self.not_before = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}
