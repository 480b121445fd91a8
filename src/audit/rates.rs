//! How many bytes of events each user, each source and all of them together may cause. Beyond that, requests
//! are counted in a summary (see [`super::summary`]).
//!
//! The rates bound what one client can do to the disk, and to the evidence on it: the file is rotated, and a
//! flood would push out what was there.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use super::event::{Event, EventRate};
use crate::source::Source;

/// A rate, and what may be written at once when nothing was for a while.
#[derive(Clone, Copy, Debug)]
struct Rate {
    bytes_per_second: u64,
    at_once: Duration,
}

/// What was written of late.
#[derive(Debug)]
pub(super) struct Rates {
    users: Users,
    notable: Sources,
    strangers: Sources,
}

/// The rate of each user.
#[derive(Debug)]
struct Users {
    /// What all users together have spent of the rate of one.
    together: Spent,
    each: Each<Box<str>>,
}

/// The rate of each source, and of all sources together.
#[derive(Debug)]
struct Sources {
    together: Spent,
    each: Each<Source>,
}

/// What a rate was spent on.
#[derive(Debug)]
struct Spent {
    rate: Rate,
    /// When everything that was spent will have been refunded.
    until: Instant,
}

/// A rate for each key.
#[derive(Debug)]
struct Each<K> {
    rate: Rate,
    until: HashMap<K, Instant>,
}

// === impl Rates ===

impl Rates {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            users: Users {
                together: Spent::new(USER, now),
                each: Each::new(USER),
            },
            notable: Sources {
                together: Spent::new(NOTABLE_TOGETHER, now),
                each: Each::new(NOTABLE),
            },
            strangers: Sources {
                together: Spent::new(STRANGERS_TOGETHER, now),
                each: Each::new(STRANGER),
            },
        }
    }

    /// Whether `event` may be written. The event that uses up a rate is written whole.
    pub(super) fn allow(&mut self, event: &Event<'_>, now: Instant) -> bool {
        match event.rate {
            EventRate::Unlimited => true,
            EventRate::User => self.users.allow(name(event), now),
            EventRate::Notable => self.notable.allow(Source::of(event.peer), now),
            EventRate::Stranger => self.strangers.allow(Source::of(event.peer), now),
        }
    }

    /// Charges `event`, which was allowed at this time, with the bytes of its line.
    pub(super) fn charge(&mut self, event: &Event<'_>, bytes: usize, now: Instant) {
        match event.rate {
            EventRate::Unlimited => {}
            EventRate::User => self.users.charge(name(event), bytes, now),
            EventRate::Notable => self.notable.charge(Source::of(event.peer), bytes, now),
            EventRate::Stranger => self.strangers.charge(Source::of(event.peer), bytes, now),
        }
    }
}

/// The name that a user's events are counted by. Users of one name may have several certificates and tokens.
fn name<'a>(event: &Event<'a>) -> &'a str {
    event.user.map_or("", |user| user.name())
}

// === impl Users ===

impl Users {
    /// As long as all users together keep to the rate of one, no user can be beyond it, and none is looked
    /// up.
    fn allow(&mut self, name: &str, now: Instant) -> bool {
        self.together.has_room(now) || self.each.has_room(name, now)
    }

    fn charge(&mut self, name: &str, bytes: usize, now: Instant) {
        if self.together.has_room(now) {
            self.together.charge(bytes, now);
        } else {
            self.each.charge(name, || name.into(), bytes, now);
        }
    }
}

// === impl Sources ===

impl Sources {
    fn allow(&mut self, source: Source, now: Instant) -> bool {
        self.together.has_room(now) && self.each.has_room(&source, now)
    }

    fn charge(&mut self, source: Source, bytes: usize, now: Instant) {
        self.together.charge(bytes, now);
        self.each.charge(&source, || source, bytes, now);
    }
}

// === impl Spent ===

impl Spent {
    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, until: now }
    }

    fn has_room(&self, now: Instant) -> bool {
        self.until < now + self.rate.at_once
    }

    fn charge(&mut self, bytes: usize, now: Instant) {
        self.until = self.until.max(now) + self.rate.price(bytes);
    }
}

// === impl Each ===

impl<K: Eq + Hash> Each<K> {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            until: HashMap::new(),
        }
    }

    /// A key for which there is no place has no room: its requests are counted in the summary.
    fn has_room<Q: Eq + Hash + ?Sized>(&mut self, key: &Q, now: Instant) -> bool
    where
        K: Borrow<Q>,
    {
        if let Some(until) = self.until.get(key) {
            return *until < now + self.rate.at_once;
        }
        if self.until.len() >= KEYS {
            self.until.retain(|_, until| *until > now);
        }
        self.until.len() < KEYS
    }

    fn charge<Q: Eq + Hash + ?Sized>(&mut self, key: &Q, own: impl FnOnce() -> K, bytes: usize, now: Instant)
    where
        K: Borrow<Q>,
    {
        let price = self.rate.price(bytes);
        match self.until.get_mut(key) {
            Some(until) => *until = (*until).max(now) + price,
            None => {
                self.until.insert(own(), now + price);
            }
        }
    }
}

// === impl Rate ===

impl Rate {
    const fn new(bytes_per_second: u64, at_once: u64) -> Self {
        Self {
            bytes_per_second,
            at_once: Duration::from_millis(at_once * 1000 / bytes_per_second),
        }
    }

    /// How long it takes until `bytes` are refunded.
    fn price(self, bytes: usize) -> Duration {
        Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second)
    }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Some 3,000 events a second, and 50,000 at once: more than the API server causes on a busy node.
const USER: Rate = Rate::new(2 * MIB, 32 * MIB);
/// Some 100 events a second.
const NOTABLE: Rate = Rate::new(64 * KIB, 256 * KIB);
const NOTABLE_TOGETHER: Rate = Rate::new(256 * KIB, 256 * KIB);
/// Some 50 events a second, and 400 at once.
const STRANGER: Rate = Rate::new(32 * KIB, 256 * KIB);
const STRANGERS_TOGETHER: Rate = Rate::new(128 * KIB, 256 * KIB);
/// Most users, or sources, whose spending is remembered.
const KEYS: usize = 4096;
