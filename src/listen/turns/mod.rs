//! The turns of handshakes on a worker's thread.
//!
//! A ClientHello costs its sender nothing, and the gate a signature of a millisecond. So the steps of
//! handshakes and the judgement of certificates take turns, and between two turns everything else that is
//! ready runs. While requests are in flight, handshakes get at most half of the thread's time. Known sources
//! come first; the others come by source, one step each.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::metrics::Metrics;
use crate::source::Source;

/// Turns follow each other without a pause until they have had this much more time than the rest.
const SLICE: Duration = Duration::from_millis(1);
/// One turn in this many is for an unknown source, if one waits.
const FOR_UNKNOWN: u32 = 4;

/// The turns of one worker.
pub(super) struct Turns {
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Notified when a step begins to wait, and when a turn that was given ends.
    changed: Notify,
}

struct State {
    known: Round,
    unknown: Round,
    /// Rises with every step that waits.
    next: u64,
    /// The step whose turn it is, if it had to wait for it.
    given: Option<u64>,
    /// Turns that were given, to tell whose is the next.
    turns: u32,
    /// How much more time turns have had than the rest, at `at`.
    ahead: Duration,
    at: Instant,
}

/// Steps that wait, by source. The sources take turns.
#[derive(Default)]
struct Round {
    /// A source that has no step left stays until it is its turn.
    sources: HashMap<Source, BTreeMap<u64, Waker>>,
    /// Each source once.
    order: VecDeque<Source>,
    waiting: usize,
}

/// A step of a handshake that wants a turn. Dropping it gives the turn to the next.
struct Step<'a> {
    turns: &'a Turns,
    source: Source,
    is_known: bool,
    /// Its number, if it had to wait.
    number: Option<u64>,
}

// === impl Turns ===

impl Turns {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            state: Mutex::new(State {
                known: Round::default(),
                unknown: Round::default(),
                next: 0,
                given: None,
                turns: 0,
                ahead: Duration::ZERO,
                at: Instant::now(),
            }),
            changed: Notify::new(),
        }
    }

    /// Runs `handshake` to its end, each step in a turn. It must wait for nothing but its own connection:
    /// each time it is woken it asks for a turn.
    pub(super) async fn run<F: Future>(&self, source: Source, is_known: bool, handshake: F) -> F::Output {
        let mut handshake = pin!(handshake);
        let mut step = Step {
            turns: self,
            source,
            is_known,
            number: None,
        };
        std::future::poll_fn(|cx| {
            ready!(step.poll_turn(cx));
            let began = Instant::now();
            let polled = handshake.as_mut().poll(cx);
            step.end(began);
            polled
        })
        .await
    }

    /// Gives turns to the steps that wait, for ever.
    pub(super) async fn give(&self) {
        loop {
            self.changed.notified().await;
            // First, the driver is asked, and everything that is ready runs.
            yield_now().await;
            while let Some(pause) = self.give_next() {
                sleep(pause).await;
            }
        }
    }

    /// Gives the next turn, or yields how long to wait before.
    fn give_next(&self) -> Option<Duration> {
        let mut state = self.lock();
        if state.given.is_some() || state.is_empty() {
            return None;
        }
        let ahead = state.ahead(Instant::now());
        if self.metrics.requests_in_flight.get() == 0 {
            state.ahead = Duration::ZERO;
        } else if ahead >= SLICE {
            return Some(ahead);
        }
        if let Some((number, waker)) = state.pop() {
            state.given = Some(number);
            drop(state);
            waker.wake();
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn is_empty(&self) -> bool {
        self.known.waiting + self.unknown.waiting == 0
    }

    /// How much more time turns have had than the rest.
    fn ahead(&mut self, now: Instant) -> Duration {
        self.ahead = self.ahead.saturating_sub(now.saturating_duration_since(self.at));
        self.at = now;
        self.ahead
    }

    /// Takes out the step whose turn is next.
    fn pop(&mut self) -> Option<(u64, Waker)> {
        self.turns = self.turns.wrapping_add(1);
        let (first, second) = if self.turns.is_multiple_of(FOR_UNKNOWN) {
            (&mut self.unknown, &mut self.known)
        } else {
            (&mut self.known, &mut self.unknown)
        };
        first.pop().or_else(|| second.pop())
    }

    fn round(&mut self, is_known: bool) -> &mut Round {
        if is_known {
            &mut self.known
        } else {
            &mut self.unknown
        }
    }
}

// === impl Round ===

impl Round {
    fn insert(&mut self, source: Source, number: u64, waker: Waker) {
        let Self {
            sources,
            order,
            waiting,
        } = self;
        let steps = sources.entry(source).or_insert_with(|| {
            order.push_back(source);
            BTreeMap::new()
        });
        if steps.insert(number, waker).is_none() {
            *waiting += 1;
        }
    }

    fn remove(&mut self, source: Source, number: u64) {
        let steps = self.sources.get_mut(&source);
        if steps.and_then(|steps| steps.remove(&number)).is_some() {
            self.waiting -= 1;
        }
    }

    fn pop(&mut self) -> Option<(u64, Waker)> {
        while let Some(source) = self.order.pop_front() {
            let first = self.sources.get_mut(&source).and_then(BTreeMap::pop_first);
            if first.is_some() {
                self.order.push_back(source);
                self.waiting -= 1;
                return first;
            }
            self.sources.remove(&source);
        }
        None
    }
}

// === impl Step ===

impl Step<'_> {
    /// Ready when it is this step's turn.
    fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.turns.lock();
        let number = match self.number {
            Some(number) if state.given == Some(number) => return Poll::Ready(()),
            Some(number) => number,
            None if state.given.is_none() && state.is_empty() && state.ahead(Instant::now()) < SLICE => {
                return Poll::Ready(());
            }
            None => {
                let number = state.next;
                state.next += 1;
                self.number = Some(number);
                self.turns.changed.notify_one();
                number
            }
        };
        let round = state.round(self.is_known);
        round.insert(self.source, number, cx.waker().clone());
        Poll::Pending
    }

    /// Ends a turn that began at `began`.
    fn end(&mut self, began: Instant) {
        let now = Instant::now();
        let mut state = self.turns.lock();
        // What had passed before the turn was the others'.
        state.ahead(began);
        state.ahead += now.saturating_duration_since(began);
        state.at = now;
        self.release(&mut state);
    }

    fn release(&mut self, state: &mut State) {
        let Some(number) = self.number.take() else { return };
        if state.given == Some(number) {
            state.given = None;
            self.turns.changed.notify_one();
        } else {
            state.round(self.is_known).remove(self.source, number);
        }
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if self.number.is_some() {
            self.release(&mut self.turns.lock());
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests;
