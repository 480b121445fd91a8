//! What requests beyond a rate have in common, written every [`PERIOD`] as an event of its own.
//!
//! There is a summary of strangers, one of notable refusals, and one for each user who is beyond the user's
//! rate. Each counts by source. The sources that come first in a period are counted one by one, and all
//! others together, so that a summary is bounded however many sources a flood has.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::event::{Clock, Event, EventRate};
use super::notice;
use super::redaction::Redaction;
use super::text::{cut, json_text};
use crate::source::Source;

/// A summary is written this long after the first request that it counts.
pub(super) const PERIOD: Duration = Duration::from_secs(10);
/// Most sources that a summary counts one by one.
const SOURCES: usize = 64;
/// Most users with a summary of their own. All others share one.
const USERS: usize = 16;
/// Most requests of a source whose target is shown, and most bytes of it.
const SAMPLES: usize = 3;
const SAMPLE_BYTES: usize = 256;

/// The summaries of a period.
#[derive(Default)]
pub(super) struct Summaries {
    strangers: Summary,
    notable: Summary,
    users: BTreeMap<Box<str>, Summary>,
    other_users: Summary,
    /// The writer has ended: there will be no more summaries.
    closed: bool,
}

/// What became of a request that was to be summarised.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Noted {
    /// It is the first of its period.
    First,
    /// It is one of several.
    Counted,
    /// Nothing will be written any more.
    Lost,
}

#[derive(Default)]
struct Summary {
    sources: HashMap<Source, Tally>,
    rest: Option<Tally>,
}

/// What the requests of a source have in common.
struct Tally {
    /// The address that the first of them came from.
    address: IpAddr,
    requests: u64,
    first: SystemTime,
    last: SystemTime,
    statuses: BTreeMap<u16, u64>,
    reasons: BTreeMap<&'static str, u64>,
    subresources: BTreeMap<Box<str>, u64>,
    samples: Vec<String>,
}

// === impl Summaries ===

impl Summaries {
    /// Counts the request of `event`.
    pub(super) fn note(&mut self, event: &Event<'_>, redaction: &Redaction) -> Noted {
        if self.closed {
            return Noted::Lost;
        }
        let first = self.is_empty();
        let summary = match (event.rate, event.user) {
            (EventRate::Stranger, _) => &mut self.strangers,
            (EventRate::User | EventRate::Unlimited, Some(user)) => {
                if !self.users.contains_key(user.name()) && self.users.len() < USERS {
                    self.users.insert(user.name().into(), Summary::default());
                }
                self.users.get_mut(user.name()).unwrap_or(&mut self.other_users)
            }
            _ => &mut self.notable,
        };
        summary.note(event, redaction);
        if first { Noted::First } else { Noted::Counted }
    }

    /// Appends an event for each summary to `out`, and begins anew. Yields how many there were.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, clock: &mut Clock) -> usize {
        let now = SystemTime::now();
        let taken = std::mem::take(self);
        self.closed = taken.closed;
        let unnamed = [
            ("strangers", taken.strangers),
            ("notable", taken.notable),
            ("users", taken.other_users),
        ];
        let unnamed = unnamed.into_iter().map(|(of, summary)| (of, None, summary));
        let users = taken.users.into_iter();
        let users = users.map(|(name, summary)| ("user", Some(name), summary));
        let mut written = 0;
        for (of, user, summary) in unnamed.chain(users).filter(|(.., summary)| !summary.is_empty()) {
            summary.write(of, user.as_deref(), now, out, clock);
            written += 1;
        }
        written
    }

    /// Counts nothing more, if nothing is counted now.
    pub(super) fn close_if_empty(&mut self) {
        self.closed = self.is_empty();
    }

    fn is_empty(&self) -> bool {
        let unnamed = [&self.strangers, &self.notable, &self.other_users];
        self.users.is_empty() && unnamed.iter().all(|summary| summary.is_empty())
    }
}

// === impl Summary ===

impl Summary {
    fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    fn note(&mut self, event: &Event<'_>, redaction: &Redaction) {
        let source = Source::of(event.peer);
        if self.sources.len() < SOURCES || self.sources.contains_key(&source) {
            let tally = self.sources.entry(source).or_insert_with(|| Tally::new(event));
            tally.count(event);
            tally.sample(event, redaction);
        } else {
            self.rest.get_or_insert_with(|| Tally::new(event)).count(event);
        }
    }

    /// One event. Its annotations are strings, so the counts are JSON within a string.
    fn write(
        self,
        of: &'static str,
        user: Option<&str>,
        now: SystemTime,
        out: &mut Vec<u8>,
        clock: &mut Clock,
    ) {
        let mut tallies: Vec<Tally> = self.sources.into_values().collect();
        tallies.sort_by_key(|tally| (std::cmp::Reverse(tally.requests), tally.address));
        let all = || tallies.iter().chain(&self.rest);
        let requests: u64 = all().map(|tally| tally.requests).sum();
        let first = all().map(|tally| tally.first).min().unwrap_or(now);
        let counts: Vec<_> = tallies
            .iter()
            .map(|tally| tally.shown(Some(tally.address), clock))
            .collect();
        let mut annotations = BTreeMap::from([
            ("kubelet-gate.dev/summarised", requests.to_string()),
            ("kubelet-gate.dev/summary", json_text(&counts)),
            ("kubelet-gate.dev/summary-of", of.to_owned()),
        ]);
        if let Some(rest) = &self.rest {
            let rest = rest.shown(None, clock);
            annotations.insert("kubelet-gate.dev/summary-rest", json_text(&rest));
        }
        let sources: Vec<_> = tallies.iter().map(|tally| tally.address).collect();
        notice::write(user, &sources, first, now, annotations, out, clock);
    }
}

// === impl Tally ===

impl Tally {
    fn new(event: &Event<'_>) -> Self {
        Self {
            address: event.peer.to_canonical(),
            requests: 0,
            first: event.received,
            last: event.received,
            statuses: BTreeMap::new(),
            reasons: BTreeMap::new(),
            subresources: BTreeMap::new(),
            samples: Vec::new(),
        }
    }

    fn count(&mut self, event: &Event<'_>) {
        self.requests += 1;
        // Requests end in another order than they began.
        self.first = self.first.min(event.received);
        self.last = self.last.max(event.received);
        // A client that left before its answer has none.
        *self.statuses.entry(event.code.unwrap_or(0)).or_default() += 1;
        *self.reasons.entry(event.outcome).or_default() += 1;
        let subresource = event.object.map_or("none", |object| object.subresource);
        match self.subresources.get_mut(subresource) {
            Some(count) => *count += 1,
            None => {
                self.subresources.insert(subresource.into(), 1);
            }
        }
    }

    /// Keeps the target, if it is one of the first that differ.
    fn sample(&mut self, event: &Event<'_>, redaction: &Redaction) {
        if self.samples.len() < SAMPLES {
            // A part suffices, and costs no more for a long target.
            let uri = &event.request_uri[..event.request_uri.len().min(4 * SAMPLE_BYTES)];
            let shown = cut(&redaction.uri(uri), SAMPLE_BYTES);
            if !self.samples.contains(&shown) {
                self.samples.push(shown);
            }
        }
    }

    fn shown<'a>(&'a self, address: Option<IpAddr>, clock: &mut Clock) -> Counts<'a> {
        Counts {
            address,
            requests: self.requests,
            first: clock.text(self.first),
            last: clock.text(self.last),
            statuses: &self.statuses,
            reasons: &self.reasons,
            subresources: &self.subresources,
            uris: &self.samples,
        }
    }
}

/// What a summary says of one source, or of all others together.
#[derive(Serialize)]
struct Counts<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    requests: u64,
    first: String,
    last: String,
    statuses: &'a BTreeMap<u16, u64>,
    reasons: &'a BTreeMap<&'static str, u64>,
    subresources: &'a BTreeMap<Box<str>, u64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    uris: &'a [String],
}
