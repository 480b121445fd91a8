//! The answers of the API server to reviews, with a bound, an expiry, and one review at a time for each
//! question. Built on `quick_cache`.
//!
//! A finished answer stays in `quick_cache`, which bounds their number, until it expires; a hit does not
//! extend it. A granted answer that is used in the last fifth of its life is reviewed again in the
//! background, so that no request waits for the renewal. A new answer replaces the old one at once; a failed
//! renewal does not extend it.
//!
//! A review that is running (a *flight*) is kept in a map of its own. All callers with the same question wait
//! for its one outcome, errors included. `quick_cache`'s own guards would pass a failed review on to the next
//! waiter to try again: with the API server down, a hundred waiters would sit through a hundred timeouts, one
//! after another.
//!
//! A caller that must not rely on the past asks for an answer [`Freshness::Since`] a point in time.
//! All callers that ask for the same answer since the same time share one review, whose answer
//! replaces the remembered one.
//!
//! A review is a task of the control runtime. It goes on when a client leaves, even the one whose request
//! started it, and the answer is kept for later requests. The kubelet's token cache behaves the same way; the
//! kubelet does not share its SubjectAccessReviews.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::Equivalent;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

/// A granted answer is renewed if it is used in the last such part of its life.
const RENEWED_IN_LAST: u32 = 5;

/// Answers by question. `K` is the whole question, `V` the outcome of its review, errors included.
pub(crate) struct Cache<K, V> {
    shared: Arc<CacheInner<K, V>>,
    control: Handle,
}

/// The outcome of a review, and how long it may be kept from now on; with `Duration::ZERO` it is not kept.
#[derive(Clone, Debug)]
pub(crate) enum ReviewOutcome<V> {
    /// Yes. While the answer is in use it is renewed before it expires.
    Granted(V, Duration),
    /// No.
    Refused(V, Duration),
    /// No answer. It does not replace an answer that is still valid, and does not extend one.
    Failed(V, Duration),
}

/// An answer from the cache.
#[derive(Clone, Debug)]
pub(crate) struct Remembered<V> {
    /// The answer.
    pub value: V,
    /// When it should be renewed; until then it can be used without a look at the cache.
    pub fresh_until: Instant,
}

/// Which answers count.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Freshness {
    /// Those of every review that is still remembered.
    Remembered,
    /// Those of reviews that began at this time or later. A failure counts as well.
    Since(Instant),
}

struct CacheInner<K, V> {
    answers: quick_cache::sync::Cache<K, StoredAnswer<V>>,
    flights: Mutex<Flights<K, V>>,
    lost: V,
}

#[derive(Clone)]
struct StoredAnswer<V> {
    remembered: Remembered<V>,
    expires: Instant,
    /// When its review began.
    asked: Instant,
    /// The last review of the same question that failed since, and when it began.
    failed: Option<(Instant, V)>,
}

/// Where the callers that wait for a flight receive its outcome.
type Landing<V> = watch::Receiver<Option<Remembered<V>>>;

/// The reviews that are running.
type Flights<K, V> = HashMap<K, Running<V>>;

struct Running<V> {
    landing: Landing<V>,
    asked: Instant,
}

/// A review that is running. However it ends (answered, panicked, dropped with its runtime), its `Drop`
/// delivers the outcome.
struct Flight<K: Hash + Eq + Clone, V: Clone> {
    shared: Arc<CacheInner<K, V>>,
    key: K,
    asked: Instant,
    outcome: Option<ReviewOutcome<V>>,
    sender: watch::Sender<Option<Remembered<V>>>,
}

// === impl Cache ===

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// A cache of at most `entries` finished answers. Reviews run on `control`.
    ///
    /// Callers get `lost` when a review ends without an outcome, because it panicked or the control runtime
    /// is gone. It must be an error or a refusal.
    pub(crate) fn new(entries: usize, control: Handle, lost: V) -> Self {
        let shared = CacheInner {
            answers: quick_cache::sync::Cache::new(entries),
            flights: Mutex::new(Flights::new()),
            lost,
        };
        Self {
            shared: Arc::new(shared),
            control,
        }
    }

    /// The answer to `key`, if there is one that has not expired. Allocates only what cloning `V` allocates.
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<Remembered<V>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.shared.get_at(key, Instant::now())
    }

    /// The answer to `key`, if there is one that is fresh enough.
    pub(crate) fn get_fresh(&self, key: &K, freshness: Freshness) -> Option<Remembered<V>> {
        match freshness {
            Freshness::Remembered => self.get(key),
            Freshness::Since(since) => self.shared.get_since(key, since, Instant::now()),
        }
    }

    /// The answer to `key`: from the cache, from the review that is running, or from a new review, of which
    /// the first that is fresh enough counts.
    ///
    /// `review` is called only if no review of `key` is running. It must have its own deadline: nothing here
    /// ends it. Dropping the returned future leaves the review running.
    pub(crate) async fn get_or_review<F>(
        &self,
        key: K,
        freshness: Freshness,
        review: impl FnOnce() -> F,
    ) -> Remembered<V>
    where
        F: Future<Output = ReviewOutcome<V>> + Send + 'static,
    {
        loop {
            let (landing, asked, flight) = {
                let mut flights = self.shared.flights();
                // Flights end under this lock. A look-up under it finds either the flight or its answer.
                if let Some(remembered) = self.get_fresh(&key, freshness) {
                    return remembered;
                }
                match flights.get(&key) {
                    Some(running) => (running.landing.clone(), running.asked, None),
                    None => {
                        let flight = self.shared.take_off(&mut flights, key.clone());
                        (flight.sender.subscribe(), flight.asked, Some(flight))
                    }
                }
            };
            if let Some(flight) = flight {
                let review = review();
                self.control.spawn(async move { flight.land(review.await) });
                return self.land(landing).await;
            }
            let landed = self.land(landing).await;
            if freshness.admits(asked) {
                return landed;
            }
        }
    }

    /// Waits for the outcome of a flight.
    async fn land(&self, mut landing: Landing<V>) -> Remembered<V> {
        let landed = landing.wait_for(Option::is_some).await;
        landed
            .ok()
            .and_then(|remembered| remembered.clone())
            .unwrap_or_else(|| Remembered {
                value: self.shared.lost.clone(),
                fresh_until: Instant::now(),
            })
    }

    /// Begins a review of `key` in the background, unless one is running. Its answer replaces the cached one.
    pub(crate) fn renew<F>(&self, key: K, review: impl FnOnce() -> F)
    where
        F: Future<Output = ReviewOutcome<V>> + Send + 'static,
    {
        let flight = {
            let mut flights = self.shared.flights();
            if flights.contains_key(&key) {
                return;
            }
            self.shared.take_off(&mut flights, key)
        };
        let review = review();
        self.control.spawn(async move { flight.land(review.await) });
    }

    /// How many answers are held, including expired ones that have not been looked up since.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shared.answers.len()
    }

    /// How many reviews are running.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.shared.flights().len()
    }
}

// === impl CacheInner ===

impl<K, V> CacheInner<K, V> {
    fn flights(&self) -> MutexGuard<'_, Flights<K, V>> {
        // No code between two related changes can panic, so the state behind a poisoned lock is complete.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone, V: Clone> CacheInner<K, V> {
    fn get_at<Q>(&self, key: &Q, now: Instant) -> Option<Remembered<V>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let answer = self.answers.get(key)?;
        if now < answer.expires {
            return Some(answer.remembered);
        }
        // Checked again under the write lock: another thread may have stored a new answer.
        self.answers.remove_if(key, |held| held.expires <= now);
        None
    }

    /// The answer of a review that began at `since` or later, or its failure.
    fn get_since(&self, key: &K, since: Instant, now: Instant) -> Option<Remembered<V>> {
        let answer = self.answers.get(key).filter(|answer| now < answer.expires)?;
        let failure = answer.failed.filter(|(asked, _)| *asked >= since);
        if let Some((_, value)) = failure {
            return Some(Remembered {
                value,
                fresh_until: now,
            });
        }
        (answer.asked >= since).then_some(answer.remembered)
    }

    fn take_off(self: &Arc<Self>, flights: &mut Flights<K, V>, key: K) -> Flight<K, V> {
        let (sender, landing) = watch::channel(None);
        let asked = Instant::now();
        flights.insert(key.clone(), Running { landing, asked });
        Flight {
            shared: Arc::clone(self),
            key,
            asked,
            outcome: None,
            sender,
        }
    }

    /// Stores the outcome of a review that began at `asked`, if it may be kept.
    fn keep(&self, key: &K, asked: Instant, outcome: &ReviewOutcome<V>) -> Option<Remembered<V>> {
        let now = Instant::now();
        let (ReviewOutcome::Granted(value, life)
        | ReviewOutcome::Refused(value, life)
        | ReviewOutcome::Failed(value, life)) = outcome;
        let standing = match outcome {
            ReviewOutcome::Failed(..) => self.answers.get(key).filter(|answer| now < answer.expires),
            ReviewOutcome::Granted(..) | ReviewOutcome::Refused(..) => None,
        };
        let answer = match (standing, expiry(*life)) {
            (Some(mut standing), _) => {
                standing.remembered.fresh_until = standing.expires.min(now + *life);
                standing.failed = Some((asked, value.clone()));
                standing
            }
            (None, None) => {
                self.answers.remove(key);
                return None;
            }
            (None, Some(expires)) => {
                let renew_ahead = match outcome {
                    ReviewOutcome::Granted(..) => (expires - now) / RENEWED_IN_LAST,
                    ReviewOutcome::Refused(..) | ReviewOutcome::Failed(..) => Duration::ZERO,
                };
                let fresh_until = expires - renew_ahead;
                let value = value.clone();
                StoredAnswer {
                    remembered: Remembered { value, fresh_until },
                    expires,
                    asked,
                    failed: None,
                }
            }
        };
        let remembered = answer.remembered.clone();
        self.answers.insert(key.clone(), answer);
        Some(remembered)
    }
}

// === impl Freshness ===

impl Freshness {
    /// Whether the answer of a review that began at `asked` counts, as long as it is remembered.
    fn admits(self, asked: Instant) -> bool {
        match self {
            Self::Remembered => true,
            Self::Since(since) => asked >= since,
        }
    }
}

// === impl Remembered ===

impl<V> Remembered<V> {
    /// Whether it should be renewed.
    pub(crate) fn is_due(&self) -> bool {
        self.fresh_until <= Instant::now()
    }
}

// === impl Flight ===

impl<K: Hash + Eq + Clone, V: Clone> Flight<K, V> {
    fn land(mut self, outcome: ReviewOutcome<V>) {
        self.outcome = Some(outcome);
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Drop for Flight<K, V> {
    fn drop(&mut self) {
        let mut flights = self.shared.flights();
        flights.remove(&self.key);
        // Without an outcome the sender closes; the waiters then take `lost`.
        let Some(outcome) = self.outcome.take() else {
            return;
        };
        let kept = self.shared.keep(&self.key, self.asked, &outcome);
        drop(flights);
        let (ReviewOutcome::Granted(value, _)
        | ReviewOutcome::Refused(value, _)
        | ReviewOutcome::Failed(value, _)) = outcome;
        let fresh_until = kept.map_or_else(Instant::now, |kept| kept.fresh_until);
        self.sender.send_replace(Some(Remembered { value, fresh_until }));
    }
}

/// When an answer that may live for `life` expires; `None` if it must not be kept. The life is shortened by
/// up to a tenth at random: answers that were given together, as after a restart, do not expire together.
fn expiry(life: Duration) -> Option<Instant> {
    let mut chance = [u8::MAX];
    // Without a random byte the answer expires a full tenth early.
    let _ = aws_lc_rs::rand::fill(&mut chance);
    let life = life.saturating_sub(life / (10 * u32::from(u8::MAX)) * u32::from(chance[0]));
    if life.is_zero() {
        None
    } else {
        Instant::now().checked_add(life)
    }
}

#[cfg(test)]
mod tests;
