//! Thirteen scenes: attacks and regular requests, each to the open kubelet and then through the gate, with
//! the expected results.

mod around;
mod caller;
mod changes;
mod marks;
mod script;
mod tricks;

use std::io;

use self::caller::{Caller, Reply, Session};
use super::Lab;

/// The result of the scenes.
#[derive(Clone, Debug)]
pub struct DemoResult {
    /// Every row, in order.
    pub rows: Vec<Row>,
    /// The scene that could not be played on this machine, and why.
    pub skipped: Option<String>,
}

/// One request of a scene, to the open kubelet and through the gate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    /// The scene it belongs to, 1 to 13.
    pub scene: u8,
    /// The name of the caller.
    pub caller: &'static str,
    /// The request, in short.
    pub request: &'static str,
    /// The answer of the open kubelet.
    pub open: Outcome,
    /// The answer through the gate.
    pub gate: Outcome,
    /// Why the gate has to answer so.
    pub why: &'static str,
}

/// One answer, compared with the expected one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// The answer in a few words, with its status first.
    pub shown: String,
    /// What the expected answer means for the node.
    pub meaning: Meaning,
    /// What was expected and what was found; `None` if the answer is as expected.
    pub mismatch: Option<String>,
}

/// What an answer means for the node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Meaning {
    /// A caller gets what it has no right to.
    Exposed,
    /// A caller gets what it has a right to.
    Served,
    /// The request is refused, and the kubelet does not receive it.
    Refused,
}

/// The expected answer.
struct Expectation {
    meaning: Meaning,
    status: u16,
    /// Text that the answer contains.
    evidence: &'static str,
    /// The evidence as it is shown in the table.
    shown: &'static str,
}

/// A row before its requests are sent.
struct Attempt<'a> {
    caller: &'a Caller<'a>,
    request: &'static str,
    open: Expectation,
    gate: Expectation,
    why: &'static str,
}

/// The scenes that were played so far.
struct Demo<'a> {
    lab: &'a Lab,
    scene: u8,
    rows: Vec<Row>,
}

/// Plays every scene. Afterwards the lab is as it was before, except for its caches and records.
///
/// # Errors
/// A file of the lab cannot be written, or its API server cannot be stopped or started again.
pub async fn play(lab: &Lab) -> io::Result<DemoResult> {
    let mut demo = Demo {
        lab,
        scene: 0,
        rows: Vec::new(),
    };
    let skipped = script::all(&mut demo).await?;
    Ok(DemoResult {
        rows: demo.rows,
        skipped,
    })
}

// === impl Row ===

impl Row {
    /// Whether both answers are as expected.
    #[must_use]
    pub fn is_as_expected(&self) -> bool {
        self.open.mismatch.is_none() && self.gate.mismatch.is_none()
    }
}

// === impl Outcome ===

impl Outcome {
    /// Adds a requirement. The first one that does not hold is the mismatch.
    fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds && self.mismatch.is_none() {
            self.mismatch = Some(otherwise());
        }
    }
}

// === impl Expectation ===

impl Expectation {
    fn compare(&self, reply: &Reply) -> Outcome {
        let as_expected = reply.status == Some(self.status) && reply.text.contains(self.evidence);
        let Self {
            status,
            evidence,
            shown,
            meaning,
        } = *self;
        if as_expected {
            return Outcome {
                shown: format!("{status} {shown}"),
                meaning,
                mismatch: None,
            };
        }
        let got = match reply.status {
            Some(got) => format!("{got} {:?}", excerpt(&reply.text)),
            None => format!("no answer ({})", reply.text),
        };
        Outcome {
            shown: reply
                .status
                .map_or_else(|| "no answer".to_owned(), |got| got.to_string()),
            meaning,
            mismatch: Some(format!("expected {status} with {evidence:?}, got {got}")),
        }
    }
}

fn exposed(status: u16, evidence: &'static str, shown: &'static str) -> Expectation {
    Expectation {
        meaning: Meaning::Exposed,
        status,
        evidence,
        shown,
    }
}

fn served(status: u16, evidence: &'static str, shown: &'static str) -> Expectation {
    Expectation {
        meaning: Meaning::Served,
        ..exposed(status, evidence, shown)
    }
}

fn refused(status: u16, evidence: &'static str, shown: &'static str) -> Expectation {
    Expectation {
        meaning: Meaning::Refused,
        ..exposed(status, evidence, shown)
    }
}

// === impl Demo ===

impl Demo<'_> {
    fn next_scene(&mut self) {
        self.scene += 1;
    }

    /// Sends the same to the open kubelet and to the gate.
    async fn compare(&mut self, attempt: Attempt<'_>, send: impl AsyncFn(&Session) -> Reply) -> &mut Row {
        let open = match attempt.caller.session_with_kubelet(self.lab) {
            Ok(session) => send(&session).await,
            Err(error) => error.into(),
        };
        let before = self.lab.kubelet.request_count();
        let gate = match attempt.caller.session_with_gate(self.lab) {
            Ok(session) => send(&session).await,
            Err(error) => error.into(),
        };
        let forwarded = self.lab.kubelet.request_count() - before;
        self.add_row(attempt, &open, &gate, forwarded)
    }

    /// Compares the replies with the expected ones. `forwarded` is how many requests the kubelet received
    /// through the gate.
    fn add_row(&mut self, attempt: Attempt<'_>, open: &Reply, gate: &Reply, forwarded: u64) -> &mut Row {
        let refused = attempt.gate.meaning == Meaning::Refused;
        let mut gate = attempt.gate.compare(gate);
        gate.require(!refused || forwarded == 0, || {
            format!("expected that nothing is forwarded to the kubelet, got {forwarded} requests")
        });
        let row = Row {
            scene: self.scene,
            caller: attempt.caller.name,
            request: attempt.request,
            open: attempt.open.compare(open),
            gate,
            why: attempt.why,
        };
        let place = self.rows.len();
        self.rows.push(row);
        &mut self.rows[place]
    }
}

/// The beginning of a text that may be long.
fn excerpt(text: &str) -> String {
    const MOST: usize = 160;
    let text = text.trim_end();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
