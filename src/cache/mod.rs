//! Answers of the API server, remembered for a while: bound, expiry and single flight, over `quick_cache`.
//!
//! A finished answer lives in `quick_cache`, bounded by number, until its own expiry; a hit never extends it. In the
//! last fifth of its life a granted answer that is still in use is asked for anew, ahead of its end, so that nobody
//! waits for it; a new answer takes its place at once, a failure never lets it live longer. A
//! review that is still running (a *flight*) lives in a map of its own, and everybody who asks the same question
//! meanwhile waits for its one outcome, errors included. `quick_cache`'s own guards would hand a failed review to
//! the next waiter to try again: with the API server dead, a hundred waiters would stand in line for a hundred
//! time-outs.
//!
//! The review is a task of the control runtime. A client that leaves, even the one whose request started it, takes
//! nothing from the others, and the answer is kept for whoever asks next. Neither does the kubelet's token cache
//! let a leaving client cancel the look-up it shares with others; its SubjectAccessReviews it does not share.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::Equivalent;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

/// A granted answer that is used in this last part of its life is renewed.
const RENEWED_IN_LAST: u32 = 5;

/// Answers by question: `K` is the whole question, `V` what a review came to, error or not.
pub struct Cache<K, V> {
    shared: Arc<CacheInner<K, V>>,
    control: Handle,
}

/// What a review came to, and how long that may be remembered from now on; `Duration::ZERO` is not kept at all.
#[derive(Clone, Debug)]
pub enum ReviewOutcome<V> {
    /// A yes: while it is in use it is asked for again ahead of its end.
    Granted(V, Duration),
    /// A no.
    Refused(V, Duration),
    /// No answer. It never takes the place of an answer that still stands, nor lets that one live longer.
    Failed(V, Duration),
}

/// A remembered answer.
#[derive(Clone, Debug)]
pub struct Remembered<V> {
    /// The answer.
    pub value: V,
    /// Until when it needs no look at the cache: from then on it should be renewed.
    pub fresh_until: Instant,
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
}

/// Where the waiters of a flight see it land.
type Landing<V> = watch::Receiver<Option<Remembered<V>>>;

struct Flights<K, V> {
    /// The flights that a caller may still join.
    open: HashMap<K, Landing<V>>,
    /// Reviews that run, those begun before the last `clear` included.
    running: usize,
    /// Goes up with each `clear`: a flight of an older epoch answers those who wait for it and nobody else.
    epoch: u64,
}

/// A review on its way. However it ends (answered, panicked, dropped with its runtime), its `Drop` lands it.
struct Flight<K: Hash + Eq + Clone, V: Clone> {
    shared: Arc<CacheInner<K, V>>,
    key: K,
    epoch: u64,
    outcome: Option<ReviewOutcome<V>>,
    sender: watch::Sender<Option<Remembered<V>>>,
}

// === impl Cache ===

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// A cache of at most `entries` finished answers, whose reviews run on `control`.
    ///
    /// `lost` is what callers are given when a review ends without an answer, because it panicked or because the
    /// control runtime is gone. It must be an error, or a no.
    pub fn new(entries: usize, control: Handle, lost: V) -> Self {
        let flights = Flights {
            open: HashMap::new(),
            running: 0,
            epoch: 0,
        };
        let shared = CacheInner {
            answers: quick_cache::sync::Cache::new(entries),
            flights: Mutex::new(flights),
            lost,
        };
        Self {
            shared: Arc::new(shared),
            control,
        }
    }

    /// The answer to `key`, if there is one that has not expired. Allocates nothing beyond what cloning `V` does.
    pub fn get<Q>(&self, key: &Q) -> Option<Remembered<V>>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.shared.get_at(key, Instant::now())
    }

    /// The answer to `key`: remembered, or the outcome of the review under way, or that of a new one.
    ///
    /// `review` is called only if this caller leads, and must bring its own deadline, since nothing here ends it.
    /// Dropping the returned future leaves the review running.
    pub async fn get_or_review<F>(&self, key: K, review: impl FnOnce() -> F) -> Remembered<V>
    where
        F: Future<Output = ReviewOutcome<V>> + Send + 'static,
    {
        let (mut landing, flight) = {
            let mut flights = self.shared.flights();
            // Looked up under the lock, under which flights land: a caller finds the flight or its answer.
            if let Some(remembered) = self.get(&key) {
                return remembered;
            }
            match flights.open.get(&key) {
                Some(landing) => (landing.clone(), None),
                None => {
                    let flight = self.shared.take_off(&mut flights, key);
                    (flight.sender.subscribe(), Some(flight))
                }
            }
        };
        if let Some(flight) = flight {
            let review = review();
            self.control.spawn(async move { flight.land(review.await) });
        }
        let landed = landing.wait_for(Option::is_some).await;
        landed
            .ok()
            .and_then(|remembered| remembered.clone())
            .unwrap_or_else(|| Remembered {
                value: self.shared.lost.clone(),
                fresh_until: Instant::now(),
            })
    }

    /// Begins a review of `key` whose answer takes the place of the one that is remembered, unless one is under way.
    /// Nobody waits for it.
    pub fn renew<F>(&self, key: K, review: impl FnOnce() -> F)
    where
        F: Future<Output = ReviewOutcome<V>> + Send + 'static,
    {
        let flight = {
            let mut flights = self.shared.flights();
            if flights.open.contains_key(&key) {
                return;
            }
            self.shared.take_off(&mut flights, key)
        };
        let review = review();
        self.control.spawn(async move { flight.land(review.await) });
    }

    /// Forgets every answer. What reviews under way come to reaches those who wait for them already and is not
    /// kept; whoever asks from now on starts a new one.
    pub fn clear(&self) {
        let mut flights = self.shared.flights();
        flights.epoch += 1;
        flights.open.clear();
        self.shared.answers.clear();
    }

    /// Answers held, expired ones that nobody asked for since included.
    pub fn len(&self) -> usize {
        self.shared.answers.len()
    }

    /// Whether no answer is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reviews that run.
    pub fn in_flight(&self) -> usize {
        self.shared.flights().running
    }
}

// === impl CacheInner ===

impl<K, V> CacheInner<K, V> {
    fn flights(&self) -> MutexGuard<'_, Flights<K, V>> {
        // Nothing panics between two changes that belong together, so a poisoned lock holds no half-made state.
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
        // Judged again under the write lock: another thread may have put a fresh answer there.
        self.answers.remove_if(key, |held| held.expires <= now);
        None
    }

    fn take_off(self: &Arc<Self>, flights: &mut Flights<K, V>, key: K) -> Flight<K, V> {
        let (sender, landing) = watch::channel(None);
        flights.open.insert(key.clone(), landing);
        flights.running += 1;
        Flight {
            shared: Arc::clone(self),
            key,
            epoch: flights.epoch,
            outcome: None,
            sender,
        }
    }

    /// Remembers what a review came to, as far as it may be.
    fn keep(&self, key: &K, outcome: &ReviewOutcome<V>) -> Option<Remembered<V>> {
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
                let remembered = Remembered { value, fresh_until };
                StoredAnswer { remembered, expires }
            }
        };
        let remembered = answer.remembered.clone();
        self.answers.insert(key.clone(), answer);
        Some(remembered)
    }
}

// === impl Remembered ===

impl<V> Remembered<V> {
    /// Whether it is time to ask for it anew.
    pub fn is_due(&self) -> bool {
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
        flights.running -= 1;
        let current = flights.epoch == self.epoch;
        if current {
            flights.open.remove(&self.key);
        }
        // Without a value the sender's end is what the waiters see, and they take `lost`.
        let Some(outcome) = self.outcome.take() else {
            return;
        };
        let kept = if current {
            self.shared.keep(&self.key, &outcome)
        } else {
            None
        };
        drop(flights);
        let (ReviewOutcome::Granted(value, _)
        | ReviewOutcome::Refused(value, _)
        | ReviewOutcome::Failed(value, _)) = outcome;
        let fresh_until = kept.map_or_else(Instant::now, |kept| kept.fresh_until);
        self.sender.send_replace(Some(Remembered { value, fresh_until }));
    }
}

/// When an answer that may live for `life` expires: up to a tenth earlier, so that answers given together, as after
/// a restart, are not asked for again together; never later. `None` = not to be kept.
fn expiry(life: Duration) -> Option<Instant> {
    let mut chance = [u8::MAX];
    // Without a random byte the answer merely expires a full tenth early.
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
