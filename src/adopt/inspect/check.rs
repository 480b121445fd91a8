//! One check of a kubelet, its verdict, and what a gate means for it.

use serde::Serialize;
use serde_json::{Value, json};

use crate::adopt::prove::{ProbeReport, Verified};

/// How the kubelet alone does.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// An operator should look at it.
    Warn,
    /// Open, or broken.
    Fail,
}

impl Verdict {
    /// As benchmarks write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// A verdict and its reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct CheckResult {
    pub(super) verdict: Verdict,
    /// Empty for a pass.
    pub(super) why: String,
}

impl CheckResult {
    pub(super) const PASS: Self = Self {
        verdict: Verdict::Pass,
        why: String::new(),
    };

    pub(super) fn warn(why: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warn,
            why: why.into(),
        }
    }

    pub(super) fn fail(why: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail,
            why: why.into(),
        }
    }
}

/// What a gate makes up for, if it stands in front of the kubelet and the ways around it are sealed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compensation {
    /// Nothing.
    None,
    /// A part, and how.
    Partial(&'static str),
    /// All of it, and how.
    Full(&'static str),
}

/// One check.
#[derive(Clone, Debug)]
pub struct Check {
    /// Its name; it never changes.
    pub id: &'static str,
    /// Its number in the benchmark up to CIS 1.24.
    pub old: Option<&'static str>,
    /// Its number since CIS 1.7, the version that followed 1.24.
    pub new: Option<&'static str>,
    /// What should be so, in a few words.
    pub title: &'static str,
    /// What it looks at: an option, or a file. The same for each kubelet and each inspection.
    pub key: String,
    /// What was found.
    pub value: String,
    /// Where the value comes from.
    pub origin: String,
    /// The file to change, if the value is in one.
    pub file: Option<String>,
    /// How the kubelet alone does.
    pub verdict: Verdict,
    /// Why it is not a pass, and what follows. Empty for a pass.
    pub why: String,
    /// What the gate makes up for.
    pub gate: Compensation,
}

impl Check {
    /// What the gate means for this check. "Compensated" is said only of what a probe has just found closed:
    /// the benchmark's own tools go on to read the kubelet's options.
    #[must_use]
    pub fn with_gate(&self, report: Option<&ProbeReport>) -> String {
        if self.verdict == Verdict::Pass {
            return String::new();
        }
        let time = report.map_or("", |report| report.finished.as_str());
        match (self.gate, self.verified(report)) {
            (Compensation::None, _) => "does not compensate".to_owned(),
            (Compensation::Partial(how), _) => format!("compensates in part: {how}"),
            (Compensation::Full(_), Verified::Closed) => {
                format!("compensated, verified by probe at {time}")
            }
            (Compensation::Full(_), Verified::Open) => format!("open: a probe got through at {time}"),
            (Compensation::Full(how), Verified::NoGate) => {
                format!("can compensate: {how}; no probe got through at {time}, but no gate answered")
            }
            (Compensation::Full(how), Verified::Untried) => format!("can compensate: {how}; not probed"),
        }
    }

    /// Whether a probe has just found it closed by a gate.
    #[must_use]
    pub fn is_compensated(&self, report: Option<&ProbeReport>) -> bool {
        matches!(self.gate, Compensation::Full(_)) && self.verified(report) == Verified::Closed
    }

    /// What probes have shown of it.
    pub(super) fn verified(&self, report: Option<&ProbeReport>) -> Verified {
        match (report, self.new) {
            (Some(report), Some(cis)) => report.verified(cis),
            _ => Verified::Untried,
        }
    }

    pub(super) fn to_json(&self, report: Option<&ProbeReport>) -> Value {
        let (gate, how) = match self.gate {
            Compensation::None => ("no", None),
            Compensation::Partial(how) => ("partly", Some(how)),
            Compensation::Full(how) => ("yes", Some(how)),
        };
        let probe = match self.verified(report) {
            Verified::Open => "open",
            Verified::Closed => "closed",
            Verified::NoGate => "noGate",
            Verified::Untried => "untried",
        };
        json!({
            "id": self.id,
            "cis": {"upTo1.24": self.old, "since1.7": self.new},
            "title": self.title,
            "value": self.value,
            "origin": self.origin,
            "verdict": self.verdict,
            "why": self.why,
            "gate": {"compensates": gate, "how": how, "probe": probe, "says": self.with_gate(report)},
        })
    }
}
