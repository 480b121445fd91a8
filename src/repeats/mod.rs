//! Log lines that repeat: the first is written, the others are counted.
//!
//! A client, or a kubelet that is down, can cause the same line thousands of times a second. The filter lets
//! a few of them through in a minute, and [`report`] says how many more there were.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// The time in which few lines are written.
const WINDOW: Duration = Duration::from_secs(60);
/// Most lines of one place in the gate's code in that time, however they differ.
const DIFFERENT: usize = 32;
/// How often the same line is written: a state may change to and fro.
const SAME: u32 = 5;
/// Fields of lines that clients cause. Lines that differ in nothing else are the same, and are written once.
const OF_CLIENTS: [&str; 2] = ["failures", "peer"];
/// How much of a line is kept for the report.
const SHOWN_CHARS: usize = 200;
/// The target of the report's own lines, which are not counted.
const REPORT: &str = "kubelet_gate::repeats";

/// A filter for lines at `info` and above. Lines at `debug` are wanted, however many there are.
#[derive(Debug, Default)]
pub(crate) struct Repeats;

static PLACES: Mutex<Option<HashMap<Identifier, Place>>> = Mutex::new(None);

/// A place in the code that logs.
#[derive(Debug)]
struct Place {
    level: Level,
    /// When the first line of the window was written.
    began: Instant,
    /// Hashes of the lines that were written in the window, and how often each was.
    written: HashMap<u64, u32>,
    left_out: u64,
    /// A line that was left out.
    example: String,
}

/// The message of an event, and a hash of everything in which it differs from others of its place.
#[derive(Default)]
struct Line {
    hasher: DefaultHasher,
    text: String,
    by_client: bool,
}

/// Logs how many lines were left out, of each place whose minute is over. Called from time to time.
pub(crate) fn report() {
    report_at(Instant::now());
}

/// Logs how many lines were left out, of each place: there will be no other time.
pub(crate) fn report_all() {
    report_at(Instant::now() + WINDOW);
}

fn report_at(now: Instant) {
    let mut over = Vec::new();
    if let Some(places) = PLACES.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        places.retain(|_, place| {
            let is_over = now >= place.began + WINDOW;
            if is_over && place.left_out > 0 {
                over.push((place.level, place.left_out, std::mem::take(&mut place.example)));
            }
            !is_over
        });
    }
    // Without the lock: the filter sees these lines too.
    for (level, count, example) in over {
        if level == Level::ERROR {
            tracing::error!(target: REPORT, count, "more lines in the last minute like: {example}");
        } else if level == Level::WARN {
            tracing::warn!(target: REPORT, count, "more lines in the last minute like: {example}");
        } else {
            tracing::info!(target: REPORT, count, "more lines in the last minute like: {example}");
        }
    }
}

// === impl Repeats ===

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == REPORT {
            return true;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places
            .get_or_insert_default()
            .entry(metadata.callsite())
            .or_insert_with(|| Place::new(metadata));
        // What h2 has to say is caused by clients.
        let (different, same) = match metadata.target().split("::").next() {
            Some("kubelet_gate") if line.by_client => (DIFFERENT, 1),
            Some("kubelet_gate") => (DIFFERENT, SAME),
            _ => (1, 1),
        };
        place.may_write(&line, different, same, Instant::now())
    }
}

// === impl Place ===

impl Place {
    fn new(metadata: &Metadata<'_>) -> Self {
        Self {
            level: *metadata.level(),
            began: Instant::now(),
            written: HashMap::new(),
            left_out: 0,
            example: String::new(),
        }
    }

    fn may_write(&mut self, line: &Line, different: usize, same: u32, now: Instant) -> bool {
        if now >= self.began + WINDOW {
            // What was left out is reported later, with what is left out now.
            self.began = now;
            self.written.clear();
        }
        let hash = line.hasher.finish();
        if self.written.len() < different || self.written.contains_key(&hash) {
            let written = self.written.entry(hash).or_default();
            if *written < same {
                *written += 1;
                return true;
            }
        }
        self.left_out += 1;
        self.example.clone_from(&line.text);
        false
    }
}

// === impl Line ===

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if OF_CLIENTS.contains(&field.name()) {
            self.by_client = true;
            return;
        }
        let mut text = String::new();
        // Writing to a String does not fail, unless the value's own text does: then the line has less of it.
        let _ = write!(text, "{value:?}");
        field.name().hash(&mut self.hasher);
        text.hash(&mut self.hasher);
        if field.name() == "message" {
            self.text = text.chars().take(SHOWN_CHARS).collect();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
