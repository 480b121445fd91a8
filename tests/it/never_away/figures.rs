//! The figures of a row of upgrades.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::{FULL, scaled};
use crate::load::{STREAMS, Tally};

/// Upgrades of one way, in a row.
pub(super) struct Row {
    name: &'static str,
    times: Vec<Duration>,
}

const HEAD: &str = "\
| how | upgrades | requests | failed | sent again | streams | failed | bytes of streams | \
worst request, ms | an upgrade, ms: best, median, worst |
|---|---|---|---|---|---|---|---|---|---|
";

impl Row {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            times: Vec::new(),
        }
    }

    /// One more upgrade, which took so long.
    pub(super) fn took(&mut self, time: Duration) {
        self.times.push(time);
    }

    /// Prints it, and in the full form adds it to the table in the target directory.
    pub(super) fn note(&self, tally: &Tally) {
        let line = self.line(tally);
        print!("{HEAD}{line}{}", tally.failures());
        if !*FULL {
            return;
        }
        let table = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("upgrades.md");
        let head = if table.exists() { "" } else { HEAD };
        let mut table = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(table)
            .unwrap();
        write!(table, "{head}{line}").unwrap();
    }

    fn line(&self, tally: &Tally) -> String {
        let is_stream = |kind: &str| STREAMS.contains(&kind);
        let is_request = |kind: &str| !is_stream(kind);
        let worst = tally.kinds().into_iter().filter(|(kind, _)| is_request(kind));
        let worst = worst.map(|(_, counts)| counts.worst).max().unwrap_or_default();
        let mut times = self.times.clone();
        times.sort_unstable();
        let at = |index: usize| times.get(index).map_or(0, Duration::as_millis);
        let last = times.len().saturating_sub(1);
        format!(
            "| {}{} | {} | {} | {} | {} | {} | {} | {} | {} | {}, {}, {} |\n",
            self.name,
            scaled(" (short form)", ""),
            times.len(),
            tally.sum(is_request, |counts| counts.asked),
            tally.sum(is_request, |counts| counts.failures.values().sum()),
            tally.sum(is_request, |counts| counts.resent),
            tally.sum(is_stream, |counts| counts.asked),
            tally.sum(is_stream, |counts| counts.failures.values().sum()),
            tally.sum(is_stream, |counts| counts.bytes),
            worst.as_millis(),
            at(0),
            at(last / 2),
            at(last),
        )
    }
}
