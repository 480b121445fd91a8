//! One line of `/readyz?verbose`: a part of the gate, and what is known about it.

use std::fmt::{self, Display, Formatter};

/// A part of the gate.
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) state: PartState,
}

/// What is known about a part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum PartState {
    /// It was tried, and works.
    Ok,
    /// It has not been tried: why. The gate is ready all the same.
    Unknown(String),
    /// It is absent, open, or fails in a way that does not keep the gate from its work. The gate is ready all
    /// the same.
    Note(String),
    /// The gate is not ready, for this reason.
    Broken(String),
}

impl Part {
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.state, PartState::Broken(_))
    }
}

impl Display for Part {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match &self.state {
            PartState::Ok => write!(f, "[+] {name} ok"),
            PartState::Unknown(why) => write!(f, "[?] {name}: {why}"),
            PartState::Note(what) => write!(f, "[!] {name}: {what}"),
            PartState::Broken(why) => write!(f, "[-] {name}: {why}"),
        }
    }
}

/// Of a part without which the gate is not ready.
impl From<Result<(), String>> for PartState {
    fn from(outcome: Result<(), String>) -> Self {
        outcome.map_or_else(Self::Broken, |()| Self::Ok)
    }
}
