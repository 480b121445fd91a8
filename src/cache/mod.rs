//! Answers of the API server, remembered for a while: bound, expiry and single flight, over `quick_cache`.
//!
//! A finished answer lives in `quick_cache`, bounded by number, until its own expiry; a hit never extends it. A
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

/// Answers by question: `K` is the whole question, `V` what a review came to, error or not.
pub struct Cache<K, V> {
    shared: Arc<Shared<K, V>>,
    control: Handle,
}

struct Shared<K, V> {
    answers: quick_cache::sync::Cache<K, Answer<V>>,
    flights: Mutex<Flights<K, V>>,
    lost: V,
}

#[derive(Clone)]
struct Answer<V> {
    value: V,
    expires: Instant,
}

struct Flights<K, V> {
    /// The flights that a caller may still join.
    open: HashMap<K, watch::Receiver<Option<V>>>,
    /// Reviews that run, those begun before the last `clear` included.
    running: usize,
    /// Goes up with each `clear`: a flight of an older epoch answers those who wait for it and nobody else.
    epoch: u64,
}

/// A review on its way. However it ends (answered, panicked, dropped with its runtime), its `Drop` lands it.
struct Flight<K: Hash + Eq, V: Clone> {
    shared: Arc<Shared<K, V>>,
    key: K,
    epoch: u64,
    outcome: Option<(V, Duration)>,
    sender: watch::Sender<Option<V>>,
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
        let shared = Shared {
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
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.shared.get_at(key, Instant::now())
    }

    /// The answer to `key`: remembered, or the outcome of the review under way, or that of a new one.
    ///
    /// `review` yields the answer and how long it may live from now on; `Duration::ZERO` is not kept at all. It is
    /// called only if this caller leads, and must bring its own deadline, since nothing here ends it. Dropping the
    /// returned future leaves the review running.
    pub async fn get_or_review<F>(&self, key: K, review: impl FnOnce() -> F) -> V
    where
        F: Future<Output = (V, Duration)> + Send + 'static,
    {
        let (mut outcome, flight) = {
            let mut flights = self.shared.flights();
            // Looked up under the lock, under which flights land: a caller finds the flight or its answer.
            if let Some(value) = self.get(&key) {
                return value;
            }
            if let Some(outcome) = flights.open.get(&key) {
                (outcome.clone(), None)
            } else {
                let (sender, receiver) = watch::channel(None);
                flights.open.insert(key.clone(), receiver.clone());
                flights.running += 1;
                let shared = Arc::clone(&self.shared);
                (
                    receiver,
                    Some(Flight {
                        shared,
                        key,
                        epoch: flights.epoch,
                        outcome: None,
                        sender,
                    }),
                )
            }
        };
        if let Some(flight) = flight {
            let review = review();
            self.control.spawn(async move { flight.land(review.await) });
        }
        let landed = outcome.wait_for(Option::is_some).await;
        landed
            .ok()
            .and_then(|value| value.clone())
            .unwrap_or_else(|| self.shared.lost.clone())
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

// === impl Shared ===

impl<K, V> Shared<K, V> {
    fn flights(&self) -> MutexGuard<'_, Flights<K, V>> {
        // Nothing panics between two changes that belong together, so a poisoned lock holds no half-made state.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V: Clone> Shared<K, V> {
    fn get_at<Q>(&self, key: &Q, now: Instant) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let answer = self.answers.get(key)?;
        if now < answer.expires {
            return Some(answer.value);
        }
        // Judged again under the write lock: another thread may have put a fresh answer there.
        self.answers.remove_if(key, |held| held.expires <= now);
        None
    }
}

// === impl Flight ===

impl<K: Hash + Eq, V: Clone> Flight<K, V> {
    fn land(mut self, outcome: (V, Duration)) {
        self.outcome = Some(outcome);
    }
}

impl<K: Hash + Eq, V: Clone> Drop for Flight<K, V> {
    fn drop(&mut self) {
        let outcome = self.outcome.take();
        let expires = outcome.as_ref().and_then(|(_, life)| expiry(*life));
        let mut flights = self.shared.flights();
        flights.running -= 1;
        if flights.epoch == self.epoch
            && let Some((key, _)) = flights.open.remove_entry(&self.key)
            && let Some((value, _)) = &outcome
            && let Some(expires) = expires
        {
            self.shared.answers.insert(
                key,
                Answer {
                    value: value.clone(),
                    expires,
                },
            );
        }
        drop(flights);
        // Without a value the sender's end is what the waiters see, and they take `lost`.
        if let Some((value, _)) = outcome {
            self.sender.send_replace(Some(value));
        }
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
