//! The figures of an attack, as a row of the table.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::legitimate::{Experience, KNOWN, Kind, PROBES};
use super::play::Outcome;
use super::{FULL, scaled};

/// One attack.
pub(super) struct Row<'a> {
    pub(super) name: &'a str,
    pub(super) rate: &'a str,
    pub(super) outcome: &'a Outcome,
    /// How requests fared beside a CPU burner in place of the attackers.
    pub(super) control: Option<&'a Experience>,
    /// Resident memory after the attack, in KiB, and when it was that.
    pub(super) memory: u64,
    pub(super) seconds: u64,
}

const HEAD: &str = "\
| attack | rate | sent | kept, new certificate, cached token, new token: % answered | from an unseen address: % | \
worst ms (control) | worst probe ms (control) | RSS MB before, peak, after | reviews | audit kB | log lines |
|---|---|---|---|---|---|---|---|---|---|---|
";

// === impl Row ===

impl Row<'_> {
    /// Prints it, and in the full form adds it to the table in the target directory.
    pub(super) fn note(&self) {
        let line = self.line();
        print!("{line}");
        if !*FULL {
            return;
        }
        let table = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("floods.md");
        let head = if table.exists() { "" } else { HEAD };
        let mut table = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(table)
            .unwrap();
        write!(table, "{head}{line}").unwrap();
    }

    fn line(&self) -> String {
        let Outcome {
            sent,
            experience,
            before,
            during,
            ..
        } = self.outcome;
        let percent = |kind| match experience.get(&kind) {
            Some(answers) if answers.asked > 0 => format!("{:.0}", answers.percent()),
            _ => "–".to_owned(),
        };
        let (answered, unseen) = (KNOWN.map(percent), percent(Kind::Unseen));
        let mebibytes = |kibibytes: u64| kibibytes / 1024;
        format!(
            "| {} | {} | {sent} | {} | {unseen} | {} | {} | {}, {}, {} after {} s | {} | {} | {} |\n",
            self.name,
            scaled("short form", self.rate),
            answered.join(", "),
            self.worst(&KNOWN),
            self.worst(&PROBES),
            mebibytes(before.memory),
            mebibytes(during.most_memory),
            mebibytes(self.memory),
            self.seconds,
            during.reviews - before.reviews,
            (during.audit_bytes - before.audit_bytes) / 1000,
            during.log_lines - before.log_lines,
        )
    }

    fn worst(&self, kinds: &[Kind]) -> String {
        let worst = |experience: &Experience| {
            let all = kinds.iter().map(|kind| experience[kind].worst());
            all.max().unwrap_or(Duration::ZERO).as_millis()
        };
        let control = self
            .control
            .map_or_else(|| "–".to_owned(), |control| worst(control).to_string());
        format!("{} ({control})", worst(&self.outcome.experience))
    }
}

/// Measures how much of the machine's time another machine took.
pub(super) struct Steal {
    stolen: u64,
    all: u64,
}

// === impl Steal ===

impl Steal {
    pub(super) fn begin() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap();
        let numbers: Vec<u64> = text
            .lines()
            .next()
            .unwrap()
            .split_whitespace()
            .skip(1)
            .map(|number| number.parse().unwrap())
            .collect();
        Self {
            stolen: numbers[7],
            // Guests are counted among the others already.
            all: numbers[..8].iter().sum(),
        }
    }

    /// Its share since then.
    pub(super) fn share(&self) -> f64 {
        let now = Self::begin();
        (now.stolen - self.stolen) as f64 / (now.all - self.all).max(1) as f64
    }
}
