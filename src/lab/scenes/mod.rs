//! Thirteen attacks and errands, each first at the open kubelet, then through the gate, and what must come of each.

mod around;
mod caller;
mod changes;
mod script;
mod tricks;

use std::io;

use self::caller::{Caller, Said, Who};
use super::Lab;

/// The demonstration, played.
#[derive(Clone, Debug)]
pub struct Played {
    /// Every line.
    pub rows: Vec<Row>,
    /// The scene that could not be played on this machine, and why.
    pub skipped: Option<String>,
}

/// One line of the demonstration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    /// The scene it belongs to, 1 to 13.
    pub scene: u8,
    /// Who asks.
    pub who: &'static str,
    /// What for.
    pub request: &'static str,
    /// What the open kubelet says.
    pub open: Cell,
    /// What the gate says.
    pub gate: Cell,
    /// Why the gate must say so.
    pub why: &'static str,
}

/// One answer, judged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cell {
    /// What came, in a few words: its status first.
    pub shown: String,
    /// What that means for the node.
    pub meaning: Meaning,
    /// What was expected and what came instead; `None` if all is as it must be.
    pub wrong: Option<String>,
}

/// What an answer means for the node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Meaning {
    /// A stranger gets what they should not.
    GivesIn,
    /// Somebody gets what is theirs.
    Serves,
    /// Nobody gets anything, and the kubelet never hears of it.
    Stops,
}

/// What an answer must be.
struct Must {
    meaning: Meaning,
    status: u16,
    /// Stands in the answer.
    proof: &'static str,
    /// The proof for people.
    shown: &'static str,
}

/// A row before it is played.
struct Line<'a> {
    who: &'a Who<'a>,
    request: &'static str,
    open: Must,
    gate: Must,
    why: &'static str,
}

/// A play under way.
struct Play<'a> {
    lab: &'a Lab,
    scene: u8,
    rows: Vec<Row>,
}

/// Plays every scene. The lab is afterwards as it was before, but for what its caches and records remember.
///
/// # Errors
/// The lab itself failed: a file could not be written, or the API server not be stopped or started again.
pub async fn play(lab: &Lab) -> io::Result<Played> {
    let mut play = Play {
        lab,
        scene: 0,
        rows: Vec::new(),
    };
    let skipped = script::all(&mut play).await?;
    Ok(Played {
        rows: play.rows,
        skipped,
    })
}

// === impl Row ===

impl Row {
    /// Whether both answers are as they must be.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.open.wrong.is_none() && self.gate.wrong.is_none()
    }
}

// === impl Cell ===

impl Cell {
    /// Another thing that must be so; the first that is not is told.
    fn and(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds && self.wrong.is_none() {
            self.wrong = Some(otherwise());
        }
    }
}

// === impl Must ===

impl Must {
    fn judge(&self, said: &Said) -> Cell {
        let as_it_must = said.status == Some(self.status) && said.text.contains(self.proof);
        let Self {
            status,
            proof,
            shown,
            meaning,
        } = *self;
        if as_it_must {
            return Cell {
                shown: format!("{status} {shown}"),
                meaning,
                wrong: None,
            };
        }
        let got = match said.status {
            Some(got) => format!("{got} {:?}", excerpt(&said.text)),
            None => format!("no answer ({})", said.text),
        };
        Cell {
            shown: said
                .status
                .map_or_else(|| "no answer".to_owned(), |got| got.to_string()),
            meaning,
            wrong: Some(format!("expected {status} with {proof:?}, got {got}")),
        }
    }
}

fn gives_in(status: u16, proof: &'static str, shown: &'static str) -> Must {
    Must {
        meaning: Meaning::GivesIn,
        status,
        proof,
        shown,
    }
}

fn serves(status: u16, proof: &'static str, shown: &'static str) -> Must {
    Must {
        meaning: Meaning::Serves,
        ..gives_in(status, proof, shown)
    }
}

fn stops(status: u16, proof: &'static str, shown: &'static str) -> Must {
    Must {
        meaning: Meaning::Stops,
        ..gives_in(status, proof, shown)
    }
}

// === impl Play ===

impl Play<'_> {
    fn scene(&mut self) {
        self.scene += 1;
    }

    /// Does the same at both doors.
    async fn both(&mut self, line: Line<'_>, act: impl AsyncFn(&Caller) -> Said) -> &mut Row {
        let open = match line.who.at_open(self.lab) {
            Ok(caller) => act(&caller).await,
            Err(error) => error.into(),
        };
        let before = self.lab.kubelet.request_count();
        let gate = match line.who.at_gate(self.lab) {
            Ok(caller) => act(&caller).await,
            Err(error) => error.into(),
        };
        let passed = self.lab.kubelet.request_count() - before;
        self.row(line, &open, &gate, passed)
    }

    /// Judges a line whose answers are there; `passed` is how many requests the kubelet saw from the gate for it.
    fn row(&mut self, line: Line<'_>, open: &Said, gate: &Said, passed: u64) -> &mut Row {
        let stopped = line.gate.meaning == Meaning::Stops;
        let mut gate = line.gate.judge(gate);
        gate.and(!stopped || passed == 0, || {
            format!("expected that the kubelet never hears of it, but {passed} requests were forwarded")
        });
        let row = Row {
            scene: self.scene,
            who: line.who.name,
            request: line.request,
            open: line.open.judge(open),
            gate,
            why: line.why,
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
