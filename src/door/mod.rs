//! Which connections have a place when there are more than the gate can hold.
//!
//! A connection is *unauthenticated* until its client has shown a credential that is believed. What strangers
//! hold is a pool of its own: when it is full, a newcomer takes the place of the oldest connection of the
//! source that holds most. So silence costs its sender, and no other client. Authenticated connections are
//! never evicted.
//!
//! Some places are *kept*, so that clients which the node needs come in when everything else is full: for
//! sources that were served lately, and for users that the configuration names.

mod evictable;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use self::evictable::Evictable;
use crate::metrics::Metrics;
use crate::source::{Known, Source};

/// One in this many places is kept.
const KEPT: usize = 8;
/// Connections that were evicted and have not ended yet, and still have their descriptors. Newcomers are
/// refused while there are more; those of known sources while there are three times as many.
const ENDING: usize = 64;

/// Most connections that may be open above [`Bounds::total`], because they were evicted and are ending.
pub(crate) const MOST_ENDING: usize = 3 * ENDING;

/// The way into one port, which counts the connections that came in.
pub(crate) struct Door {
    bounds: Bounds,
    known: Arc<Known>,
    metrics: Arc<Metrics>,
    /// Unauthenticated connections.
    unauthenticated: Gauge,
    state: Mutex<State>,
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// All together.
    pub(crate) total: usize,
    /// Those that are unauthenticated.
    pub(crate) unauthenticated: usize,
    /// Those of one source.
    pub(crate) per_source: usize,
}

/// The place of one connection that came in. Dropping it gives the place back.
pub(crate) struct Entry {
    admission: Admission,
    is_known: bool,
}

/// The way of one connection to the authenticated ones. It does not hold the place.
#[derive(Clone)]
pub(crate) struct Admission {
    door: Arc<Door>,
    source: Source,
    number: u64,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Full {
    /// The source has as many as it may have.
    Source,
    /// There are as many as there may be, and none may be evicted.
    Total,
}

#[derive(Debug, Default)]
struct State {
    /// Rises with every connection.
    next: u64,
    held: HashMap<u64, Held>,
    sources: HashMap<Source, Count>,
    evictable: Evictable,
    unauthenticated: usize,
    authenticated: usize,
    ending: usize,
}

#[derive(Debug)]
struct Held {
    source: Source,
    phase: Phase,
    /// It has one of the source's kept places.
    is_kept: bool,
    /// Ends it.
    task: Option<AbortHandle>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Unauthenticated,
    Authenticated,
    /// Evicted, and not ended yet.
    Ending,
}

/// The connections of one source, without those that are ending.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    all: usize,
    authenticated: usize,
    kept: usize,
}

// === impl Full ===

impl Full {
    /// As `kubelet_gate_rejections_total` has it.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Source => "connections_per_address",
            Self::Total => "connections",
        }
    }
}

// === impl Door ===

impl Door {
    /// The door of a port with these bounds. `unauthenticated` counts the unauthenticated connections.
    pub(crate) fn new(
        bounds: Bounds,
        known: Arc<Known>,
        metrics: Arc<Metrics>,
        unauthenticated: Gauge,
    ) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            known,
            metrics,
            unauthenticated,
            state: Mutex::default(),
        })
    }

    /// Lets a connection of `source` in. It may evict another one.
    ///
    /// # Errors
    /// A bound is reached, and no connection may be evicted.
    pub(crate) fn enter(self: &Arc<Self>, source: Source) -> Result<Entry, Full> {
        self.enter_at(source, Instant::now())
    }

    fn enter_at(self: &Arc<Self>, source: Source, now: Instant) -> Result<Entry, Full> {
        let kept_places = self.known.kept_places(source);
        let mut state = self.lock();
        let is_known = kept_places > 0;
        let is_kept = state.count(source).kept < kept_places;
        let most_ending = if is_known { MOST_ENDING } else { ENDING };
        if state.ending >= most_ending {
            return Err(Full::Total);
        }
        let victim = state.make_room(&self.bounds, source, is_kept, now)?;
        let task = victim.and_then(|number| state.evict(number));
        let number = state.insert(source, is_kept, now);
        self.publish(&state);
        drop(state);
        if victim.is_some() {
            self.metrics.rejected("evicted");
        }
        if let Some(task) = task {
            task.abort();
        }
        Ok(Entry {
            admission: Admission {
                door: self.clone(),
                source,
                number,
            },
            is_known,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &State) {
        let unauthenticated = i64::try_from(state.unauthenticated).unwrap_or(i64::MAX);
        self.unauthenticated.set(unauthenticated);
    }
}

// === impl Entry ===

impl Entry {
    /// Whether the source was served lately.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known
    }

    /// The connection's way to the authenticated ones.
    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let door = &self.admission.door;
        let mut state = door.lock();
        state.remove(self.admission.number);
        door.publish(&state);
    }
}

// === impl Admission ===

impl Admission {
    /// The source of the connection.
    pub(crate) fn source(&self) -> Source {
        self.source
    }

    /// Names the task of the connection. An eviction aborts it, at once if it came first.
    pub(crate) fn set_task(&self, task: AbortHandle) {
        let mut state = self.door.lock();
        match state.held.get_mut(&self.number) {
            Some(held) if held.phase != Phase::Ending => held.task = Some(task),
            Some(_) => {
                drop(state);
                task.abort();
            }
            None => {}
        }
    }

    /// Notes that the connection is authenticated; `is_needed` says whether its user is one whose places are
    /// kept. False if only kept places are left: the connection goes on, but may still be evicted.
    pub(crate) fn admit(&self, is_needed: bool) -> bool {
        let door = &self.door;
        let kept_places = door.known.kept_places(self.source);
        let mut state = door.lock();
        let admitted = state.admit(&door.bounds, self.number, kept_places, is_needed);
        let in_use = state.count(self.source).authenticated;
        door.publish(&state);
        drop(state);
        if kept_places > 0 {
            door.known.note_connections(self.source, in_use);
        }
        admitted
    }
}

// === impl State ===

impl State {
    fn count(&self, source: Source) -> Count {
        self.sources.get(&source).copied().unwrap_or_default()
    }

    /// The connection to evict, if one must go for a newcomer of `source`.
    fn make_room(
        &self,
        bounds: &Bounds,
        source: Source,
        is_kept: bool,
        now: Instant,
    ) -> Result<Option<u64>, Full> {
        if self.count(source).all >= bounds.per_source {
            return self.evictable.oldest_of(source).map(Some).ok_or(Full::Source);
        }
        let room = bounds.unauthenticated.min(bounds.total - self.authenticated);
        let unkept = room - room / KEPT;
        let has_room = self.unauthenticated < room && (is_kept || self.evictable.len() < unkept);
        if has_room {
            return Ok(None);
        }
        let newcomer = (!is_kept).then_some(source);
        self.evictable
            .next(newcomer, unkept, now)
            .map(Some)
            .ok_or(Full::Total)
    }

    fn insert(&mut self, source: Source, is_kept: bool, now: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        let held = Held {
            source,
            phase: Phase::Unauthenticated,
            is_kept,
            task: None,
        };
        self.held.insert(number, held);
        let count = self.sources.entry(source).or_default();
        count.all += 1;
        count.kept += usize::from(is_kept);
        self.unauthenticated += 1;
        if !is_kept {
            self.evictable.insert(source, number, now);
        }
        number
    }

    /// Counts a connection out of the places. It stays in `held` until it has ended.
    fn evict(&mut self, number: u64) -> Option<AbortHandle> {
        self.discount(number);
        let held = self.held.get_mut(&number)?;
        held.phase = Phase::Ending;
        self.ending += 1;
        held.task.take()
    }

    fn admit(&mut self, bounds: &Bounds, number: u64, kept_places: usize, is_needed: bool) -> bool {
        let Some(held) = self.held.get_mut(&number) else {
            return true;
        };
        if held.phase != Phase::Unauthenticated {
            return true;
        }
        let count = self.sources.entry(held.source).or_default();
        let is_kept = held.is_kept || count.kept < kept_places;
        // A part of what is kept is left for handshakes: who a client is shows only at their end.
        let kept = bounds.total / KEPT;
        let left_for_others = match (is_needed, is_kept) {
            (true, _) => kept / 4,
            (false, true) => kept / 2,
            (false, false) => kept,
        };
        if self.authenticated + left_for_others >= bounds.total {
            return false;
        }
        if !held.is_kept {
            self.evictable.remove(held.source, number);
            count.kept += usize::from(is_kept);
        }
        held.is_kept = is_kept;
        held.phase = Phase::Authenticated;
        count.authenticated += 1;
        self.unauthenticated -= 1;
        self.authenticated += 1;
        true
    }

    fn remove(&mut self, number: u64) {
        self.discount(number);
        if let Some(held) = self.held.remove(&number)
            && held.phase == Phase::Ending
        {
            self.ending -= 1;
        }
    }

    /// Takes a connection out of every count, unless an eviction has done so.
    fn discount(&mut self, number: u64) {
        let Some(held) = self.held.get(&number) else {
            return;
        };
        let is_authenticated = match held.phase {
            Phase::Unauthenticated => false,
            Phase::Authenticated => true,
            Phase::Ending => return,
        };
        if is_authenticated {
            self.authenticated -= 1;
        } else {
            self.unauthenticated -= 1;
            if !held.is_kept {
                self.evictable.remove(held.source, number);
            }
        }
        if let Some(count) = self.sources.get_mut(&held.source) {
            count.all -= 1;
            count.authenticated -= usize::from(is_authenticated);
            count.kept -= usize::from(held.is_kept);
            if count.all == 0 {
                self.sources.remove(&held.source);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests;
