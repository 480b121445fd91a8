//! The API server's last yes to each question, kept for an outage (`authorization.webhook.staleAllow`).
//!
//! They stand beside the caches, which forget an answer once it has expired. An answer here counts only
//! while [`Outage`] finds the API server unreachable, only for what the setting names, and until it is
//! `maxAge` old. Every review keeps them up to date: a yes replaces the one before, and a no removes
//! all that it puts in doubt.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use quick_cache::sync::Cache;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::identity::Identity;
use crate::apiserver::{ApiServer, Outage};
use crate::attributes::{Checks, Subresource, Verb};
use crate::cache::Freshness;
use crate::metrics::{CacheKind, Metrics};
use crate::settings;

/// Earlier answers of the API server, by question.
pub(crate) struct StaleAnswers {
    max_age: Duration,
    subresources: Vec<Subresource>,
    outage: Outage,
    /// Whose a token is, under the hash of the token that its reviewer made.
    tokens: Cache<[u8; 32], Kept<Identity>>,
    /// Why a user was allowed to get a subresource.
    allows: Cache<(Identity, Subresource), Kept<Arc<str>>>,
    refusals: Refusals,
    used: AtomicU64,
    last_used: Mutex<Option<SystemTime>>,
    metrics: Arc<Metrics>,
}

/// When the API server last refused something to a user. Users whose names hash to the same place share it:
/// it takes as much memory for many users as for few, and forgets no refusal.
struct Refusals {
    hasher: RandomState,
    last: [Mutex<Option<Instant>>; 256],
}

#[derive(Clone)]
struct Kept<V> {
    value: V,
    until: Instant,
}

// === impl StaleAnswers ===

impl StaleAnswers {
    /// At most `entries` answers of each kind; `None` if the settings let none count.
    /// Probes run on `control`.
    pub(crate) fn new(
        settings: &settings::StaleAllow,
        entries: usize,
        api_server: ApiServer,
        control: Handle,
        metrics: Arc<Metrics>,
    ) -> Option<Self> {
        (!settings.max_age.is_zero()).then(|| Self {
            max_age: settings.max_age,
            subresources: settings
                .subresources
                .iter()
                .map(|&scraped| scraped.into())
                .collect(),
            outage: Outage::new(api_server, control),
            tokens: Cache::new(entries),
            allows: Cache::new(entries),
            refusals: Refusals::default(),
            used: AtomicU64::new(0),
            last_used: Mutex::default(),
            metrics,
        })
    }

    /// How many answers were used, and when the last was.
    pub(crate) fn usage(&self) -> Option<(u64, SystemTime)> {
        let last = *self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        last.map(|last| (self.used.load(Relaxed), last))
    }

    /// Whether a request may be decided by an earlier answer: its first check decides. A stream that
    /// is judged again may not.
    pub(super) fn cover(&self, checks: &Checks, freshness: Freshness) -> bool {
        let first = checks.subresources().first();
        matches!(freshness, Freshness::Remembered)
            && first.is_some_and(|&first| self.cover_check(checks.verb(), first, checks.interactive()))
    }

    fn cover_check(&self, verb: Verb, subresource: Subresource, interactive: bool) -> bool {
        verb == Verb::Get && !interactive && self.subresources.contains(&subresource)
    }

    // --- tokens ---

    /// Keeps that a token is this user's, as the API server has just said when it was asked at `asked`.
    pub(super) fn keep_token(&self, key: [u8; 32], identity: &Identity, asked: Instant) {
        match self.kept(identity.clone(), identity) {
            Some(kept) => self.tokens.insert(key, kept),
            None => drop(self.tokens.remove(&key)),
        }
        if self.refusals.came_since(asked, identity) {
            self.tokens.remove(&key);
        }
    }

    /// Forgets a token that the API server has just rejected, and all that its user was allowed.
    pub(super) fn forget_token(&self, key: &[u8; 32]) {
        if let Some((_, kept)) = self.tokens.remove(key) {
            self.refusals.note(&kept.value);
            self.allows.retain(|(identity, _), _| *identity != kept.value);
        }
    }

    /// The user of a token by an earlier review, if the API server is unreachable. `failed` says that a new
    /// review has shown that.
    pub(super) async fn user_of(&self, key: &[u8; 32], failed: bool) -> Option<Identity> {
        // The probe may take seconds: what was forgotten meanwhile is not used.
        let known = || {
            let user = self.tokens.get(key)?.standing()?;
            let expired = user.valid_until().is_some_and(|until| until <= SystemTime::now());
            (!expired).then(|| user.as_stale())
        };
        known()?;
        let confirmed = self.is_outage(failed).await;
        known()
            .filter(|_| confirmed)
            .inspect(|_| self.note(CacheKind::Token))
    }

    // --- users ---

    /// Keeps that a user is allowed something, as the API server has just said when it was asked at `asked`,
    /// if that may be used later.
    pub(crate) fn keep_allow(
        &self,
        identity: &Identity,
        (verb, subresource, interactive): (Verb, Subresource, bool),
        reason: &Arc<str>,
        asked: Instant,
    ) {
        if self.cover_check(verb, subresource, interactive)
            && let Some(kept) = self.kept(reason.clone(), identity)
        {
            let question = (identity.clone(), subresource);
            self.allows.insert(question.clone(), kept);
            // Looked at last: a refusal is noted first and then forgets what is kept, so that one of both
            // takes this answer away.
            if self.refusals.came_since(asked, identity) {
                self.allows.remove(&question);
            }
        }
    }

    /// Forgets all that is kept of a user that was just refused something by the API server: by name, since
    /// each token of a service account may have a different uid or extra.
    pub(crate) fn forget_user(&self, identity: &Identity) {
        self.refusals.note(identity);
        let name = &identity.user().username;
        self.allows
            .retain(|(identity, _), _| identity.user().username != *name);
        self.tokens.retain(|_, kept| kept.value.user().username != *name);
    }

    /// Why a user may get a subresource by an earlier review, if the API server is unreachable. `failed` says
    /// that a new review has shown that.
    pub(crate) async fn allow(
        &self,
        identity: &Identity,
        (verb, subresource, interactive): (Verb, Subresource, bool),
        freshness: Freshness,
        failed: bool,
    ) -> Option<Arc<str>> {
        if !self.cover_check(verb, subresource, interactive) || matches!(freshness, Freshness::Since(_)) {
            return None;
        }
        let question = (identity.clone(), subresource);
        let known = || self.allows.get(&question)?.standing();
        known()?;
        let confirmed = self.is_outage(failed).await;
        known()
            .filter(|_| confirmed)
            .inspect(|_| self.note(CacheKind::Access))
    }

    // --- both ---

    async fn is_outage(&self, failed: bool) -> bool {
        if failed {
            self.outage.is_confirmed().await
        } else {
            self.outage.is_known().await
        }
    }

    /// `value` with its end: never later than that of the credential.
    fn kept<V>(&self, value: V, identity: &Identity) -> Option<Kept<V>> {
        let left = identity.valid_until().map_or(self.max_age, |until| {
            until.duration_since(SystemTime::now()).unwrap_or_default()
        });
        let life = left.min(self.max_age);
        let until = Instant::now().checked_add(life).filter(|_| !life.is_zero())?;
        Some(Kept { value, until })
    }

    fn note(&self, cache: CacheKind) {
        self.metrics.stale_answer(cache);
        self.used.fetch_add(1, Relaxed);
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Some(SystemTime::now());
        tracing::warn!("the API server is unreachable, and an earlier answer of it is used");
    }
}

// === impl Refusals ===

impl Refusals {
    fn note(&self, identity: &Identity) {
        *self.of(identity) = Some(Instant::now());
    }

    /// Whether a refusal came after `asked`. Which of the two questions the API server answered later is not
    /// known then, and the refusal counts.
    fn came_since(&self, asked: Instant, identity: &Identity) -> bool {
        self.of(identity).is_some_and(|refused| refused >= asked)
    }

    fn of(&self, identity: &Identity) -> MutexGuard<'_, Option<Instant>> {
        let hash = self.hasher.hash_one(&identity.user().username);
        // The remainder is less than the array's length.
        let place = &self.last[(hash % 256) as usize];
        place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            last: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl<V> Kept<V> {
    fn standing(self) -> Option<V> {
        (Instant::now() < self.until).then_some(self.value)
    }
}
