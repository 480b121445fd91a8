//! The queue of events: lines in one buffer under a lock, the places that bound them, and the requests that
//! are counted in summaries instead.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, oneshot};

use super::event::{Clock, Event};
use super::notice;
use super::rates::Rates;
use super::redaction::Redaction;
use super::summary::{Noted, PERIOD, Summaries};
use crate::settings::{AuditMode, AuditRotation, AuditStrangers};

/// A batch of this size is written without lingering.
pub(super) const BATCH_BYTES: usize = 256 * 1024;

/// The side that a place in the queue is held for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Holder {
    /// An authenticated user, who may take every place.
    User,
    /// A client without a user. All of them together hold half of the places at most, so that they neither
    /// drop nor delay the events of users.
    Stranger,
}

/// What the requests and the thread share.
pub(super) struct AuditQueue {
    pub(super) policy: ArcSwap<AuditPolicy>,
    /// One permit for each event that the queue still has room for.
    pub(super) room: Semaphore,
    /// One permit for each event of strangers that it still has room for.
    pub(super) room_of_strangers: Semaphore,
    pub(super) queue: usize,
    pub(super) state: Mutex<QueueState>,
    /// A thread that holds this lock does not wait for `state`.
    pub(super) summaries: Mutex<Summaries>,
    pub(super) changed: Condvar,
    /// Bytes of the lines in memory: events differ in size, so their number alone is no bound.
    pub(super) bytes: AtomicUsize,
    pub(super) written: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) summarised: AtomicU64,
    pub(super) errors: AtomicU64,
}

/// What becomes of an event. It can be replaced while events are written.
pub(super) struct AuditPolicy {
    pub(super) mode: AuditMode,
    pub(super) strangers: AuditStrangers,
    pub(super) redaction: Redaction,
}

/// What changes under the lock.
pub(super) struct QueueState {
    pub(super) batch: Batch,
    pub(super) clock: Clock,
    pub(super) rates: Rates,
    /// When the summaries are to be written, if a request was summarised.
    pub(super) summaries_due: Option<Instant>,
    /// Events ever appended.
    pub(super) appended: u64,
    /// The thread waits for the first line and must be woken.
    pub(super) idle: bool,
    /// The thread must not linger over this batch.
    pub(super) urgent: bool,
    /// What the thread must do with the file before it writes more.
    pub(super) orders: VecDeque<FileOrder>,
    /// Other bounds of the file, until the thread has taken them up.
    pub(super) rotation: Option<Option<AuditRotation>>,
    /// When the thread gives up what it could not write. Set once, by the shutdown.
    pub(super) closing: Option<Instant>,
    /// Nothing more will be written.
    pub(super) closed: bool,
}

/// What is to be done with the file. An order whose sender is closed is withdrawn.
pub(super) enum FileOrder {
    /// Open the path again.
    Reopen,
    /// Leave the path to another process, and go on in a file of its own.
    LeavePath(oneshot::Sender<()>),
    /// Take the path again.
    ReturnToPath(oneshot::Sender<()>),
}

/// Lines, and the requests that wait until they are written.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<u8>,
    pub(super) events: usize,
    /// Places in the queue that the lines take, and those of strangers among them. Summaries take none.
    pub(super) places: usize,
    pub(super) places_of_strangers: usize,
    pub(super) waiters: Vec<oneshot::Sender<()>>,
}

// === impl AuditQueue ===

impl AuditQueue {
    pub(super) fn state(&self) -> MutexGuard<'_, QueueState> {
        // Serialising does not panic. If it did, one broken line would be better than no more lines.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn append(&self, event: &Event<'_>, holder: Holder, waiter: Option<oneshot::Sender<()>>) {
        let now = Instant::now();
        let mut state = self.state();
        if state.closed {
            self.dropped.fetch_add(1, Relaxed);
            return self.give_back(holder);
        }
        if self.summarises() && !state.rates.allow(event, now) {
            drop(state);
            self.give_back(holder);
            self.summarise(event);
            if let Some(waiter) = waiter {
                // A request that no longer waits is counted all the same.
                let _ = waiter.send(());
            }
            return;
        }
        let QueueState {
            batch, clock, rates, ..
        } = &mut *state;
        let before = batch.lines.len();
        event.write(&mut batch.lines, clock, &self.policy.load().redaction);
        let bytes = batch.lines.len() - before;
        rates.charge(event, bytes, now);
        batch.events += 1;
        batch.places += 1;
        batch.places_of_strangers += usize::from(holder == Holder::Stranger);
        self.bytes.fetch_add(bytes, Relaxed);
        let hurry = !state.urgent && (waiter.is_some() || state.batch.lines.len() >= BATCH_BYTES);
        state.batch.waiters.extend(waiter);
        state.appended += 1;
        state.urgent |= hurry;
        let wake = std::mem::take(&mut state.idle) || hurry;
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    pub(super) fn give_back(&self, holder: Holder) {
        self.room.add_permits(1);
        if holder == Holder::Stranger {
            self.room_of_strangers.add_permits(1);
        }
    }

    pub(super) fn summarises(&self) -> bool {
        self.policy.load().strangers == AuditStrangers::Summarised
    }

    fn summaries(&self) -> MutexGuard<'_, Summaries> {
        self.summaries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request in a summary.
    pub(super) fn summarise(&self, event: &Event<'_>) {
        let noted = self.summaries().note(event, &self.policy.load().redaction);
        let counter = match noted {
            Noted::Lost => &self.dropped,
            Noted::First | Noted::Counted => &self.summarised,
        };
        counter.fetch_add(1, Relaxed);
        if noted == Noted::First {
            let mut state = self.state();
            state.summaries_due = Some(Instant::now() + PERIOD);
            state.idle = false;
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Puts the summaries in the queue. Yields whether there were any.
    pub(super) fn append_summaries(&self, state: &mut QueueState) -> bool {
        state.summaries_due = None;
        let QueueState { batch, clock, .. } = state;
        let before = batch.lines.len();
        let mut summaries = self.summaries();
        let events = summaries.write(&mut batch.lines, clock);
        if state.closing.is_some() {
            summaries.close_if_empty();
        }
        drop(summaries);
        self.bytes.fetch_add(batch.lines.len() - before, Relaxed);
        batch.events += events;
        state.appended += events as u64;
        state.urgent |= events > 0;
        events > 0
    }

    /// Puts an event that no request has caused in the queue. It takes no place there: there are few.
    pub(super) fn append_notice(&self, annotations: BTreeMap<&'static str, String>) {
        let mut state = self.state();
        if state.closed {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        let QueueState { batch, clock, .. } = &mut *state;
        let (before, now) = (batch.lines.len(), SystemTime::now());
        notice::write(None, &[], now, now, annotations, &mut batch.lines, clock);
        self.bytes.fetch_add(batch.lines.len() - before, Relaxed);
        batch.events += 1;
        state.appended += 1;
        state.urgent = true;
        state.idle = false;
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn close(&self, limit: Duration) {
        self.state().closing.get_or_insert_with(|| Instant::now() + limit);
        self.changed.notify_one();
    }
}

// === impl QueueState ===

impl QueueState {
    pub(super) fn new() -> Self {
        Self {
            batch: Batch::default(),
            clock: Clock::default(),
            rates: Rates::new(Instant::now()),
            summaries_due: None,
            appended: 0,
            idle: false,
            urgent: false,
            orders: VecDeque::new(),
            rotation: None,
            closing: None,
            closed: false,
        }
    }
}
