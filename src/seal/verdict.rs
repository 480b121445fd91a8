//! The state of the seal, as the watch found it last.

use serde::{Deserialize, Serialize};

/// The seal as the watch found it last.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state", content = "why")]
pub enum Seal {
    /// The watch has not looked yet.
    #[default]
    Unwatched,
    /// None was confirmed on this node, and none is being tried.
    Absent,
    /// One is being tried, and holds.
    Trial,
    /// In force as it was confirmed, and no connection bypassed the gate.
    Sealed,
    /// No connection bypasses the gate, and callers that reached a port over the wire before reach nothing
    /// there now: what keeps them out.
    Shut(String),
    /// It is not in force as it was confirmed, or a connection bypassed the gate: how.
    Open(String),
    /// It cannot be looked at: why.
    Unknown(String),
}

impl Seal {
    /// Its name as a metric's label, and in `/seal`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unwatched => "unwatched",
            Self::Absent => "absent",
            Self::Trial => "trial",
            Self::Sealed => "sealed",
            Self::Shut(_) => "shut",
            Self::Open(_) => "open",
            Self::Unknown(_) => "unknown",
        }
    }
}
