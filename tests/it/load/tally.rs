//! What became of the requests and streams of all clients.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The kinds of client whose requests last.
pub(crate) const STREAMS: [&str; 5] = ["exec", "attach", "port-forward", "followed log", "slow reader"];

/// How long the gate remembers that a review has failed: for so long it asks the same no more.
const FAILED_REVIEW: Duration = Duration::from_secs(1);

/// Counts of what was asked, by kind of client.
pub(crate) struct Tally {
    counts: Mutex<BTreeMap<&'static str, Counts>>,
    outages: Arc<Outages>,
}

/// What became of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Requests, or streams, that were judged.
    pub(crate) asked: u64,
    pub(crate) right: u64,
    /// Refusals and cuts that an injected outage explains.
    pub(crate) excused: u64,
    /// Requests that were not sent, since the connection had ended while it was idle. The client sent them on
    /// a new one, as every HTTP client does.
    pub(crate) resent: u64,
    pub(crate) worst: Duration,
    pub(crate) bytes: u64,
    /// What came instead of the right answer.
    pub(crate) failures: BTreeMap<String, u64>,
}

/// When the kubelet or the API server could not be reached, as the test has arranged.
#[derive(Default)]
pub(crate) struct Outages(Mutex<Vec<(Outage, Instant, Option<Instant>)>>);

/// What could not be reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outage {
    ApiServer,
    Kubelet,
}

/// What came in place of the right answer.
#[derive(Debug)]
pub(super) enum Wrong {
    /// This status.
    Status(u16),
    /// The end of the connection or of the stream; or it could not be opened.
    Cut(String),
    /// Other bytes than the kubelet's.
    Bytes(String),
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(outages: Arc<Outages>) -> Self {
        Self {
            counts: Mutex::default(),
            outages,
        }
    }

    /// Counts what a request or stream of this kind that began then has come to.
    pub(super) fn judge(&self, kind: &'static str, began: Instant, outcome: Result<u64, Wrong>) {
        let took = began.elapsed();
        let mut counts = self.counts();
        let counts = counts.entry(kind).or_default();
        counts.asked += 1;
        match outcome {
            Ok(bytes) => {
                counts.right += 1;
                counts.bytes += bytes;
                counts.worst = counts.worst.max(took);
            }
            Err(wrong) if self.outages.explain(&wrong, kind, began) => counts.excused += 1,
            Err(wrong) => *counts.failures.entry(wrong.to_string()).or_default() += 1,
        }
    }

    pub(super) fn resend(&self, kind: &'static str) {
        self.counts().entry(kind).or_default().resent += 1;
    }

    /// How many requests and streams were judged.
    pub(crate) fn asked(&self) -> u64 {
        self.counts().values().map(|counts| counts.asked).sum()
    }

    /// The counts of each kind.
    pub(crate) fn kinds(&self) -> BTreeMap<&'static str, Counts> {
        self.counts().clone()
    }

    /// The sum over the kinds for which this holds.
    pub(crate) fn sum(&self, of: impl Fn(&str) -> bool, what: impl Fn(&Counts) -> u64) -> u64 {
        let counts = self.counts();
        counts
            .iter()
            .filter(|(kind, _)| of(kind))
            .map(|(_, counts)| what(counts))
            .sum()
    }

    /// How many requests and streams were neither right nor explained by an outage.
    pub(crate) fn lost(&self) -> u64 {
        self.sum(|_| true, |counts| counts.failures.values().sum())
    }

    /// Each failure, by kind.
    pub(crate) fn failures(&self) -> String {
        let counts = self.counts();
        let each = counts.iter().flat_map(|(kind, counts)| {
            let failures = counts.failures.iter();
            failures.map(move |(what, times)| format!("{kind}: {times} × {what}\n"))
        });
        each.collect()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<&'static str, Counts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Outages ===

impl Outages {
    /// From now on refusals are expected.
    pub(crate) fn begin(&self, outage: Outage) {
        self.list().push((outage, Instant::now(), None));
    }

    /// The outage is over: what begins later must be answered.
    pub(crate) fn end(&self) {
        if let Some((_, _, end)) = self.list().last_mut() {
            *end = Some(Instant::now());
        }
    }

    /// Whether one that explains this was under way at some moment since then.
    fn explain(&self, wrong: &Wrong, kind: &str, began: Instant) -> bool {
        let list = self.list();
        let since = list.iter().filter(|(outage, _, end)| {
            let felt = match outage {
                Outage::ApiServer => FAILED_REVIEW,
                Outage::Kubelet => Duration::ZERO,
            };
            end.is_none_or(|end| end + felt >= began)
        });
        since.map(|(outage, ..)| outage).any(|outage| match wrong {
            Wrong::Status(503) => *outage == Outage::ApiServer,
            Wrong::Status(502) => *outage == Outage::Kubelet,
            Wrong::Cut(_) => *outage == Outage::Kubelet && STREAMS.contains(&kind),
            Wrong::Status(_) | Wrong::Bytes(_) => false,
        })
    }

    fn list(&self) -> MutexGuard<'_, Vec<(Outage, Instant, Option<Instant>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Wrong ===

impl Wrong {
    pub(super) fn cut(error: impl fmt::Display) -> Self {
        Self::Cut(error.to_string())
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Cut(what) | Self::Bytes(what) => f.write_str(what),
        }
    }
}

/// Asserts that nothing was lost.
#[track_caller]
pub(crate) fn lost(tally: &Tally) {
    assert_eq!(tally.lost(), 0, "{}", tally.failures());
    assert!(tally.asked() > 0, "nothing was asked");
}
