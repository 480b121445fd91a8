//! The state of the seal, as the last look found it.

use serde::Serialize;

/// The seal as it was found by the last look.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state", content = "why")]
pub enum Seal {
    /// Nobody has looked yet.
    #[default]
    Unwatched,
    /// None was confirmed on this node, and none is being tried.
    Absent,
    /// One is being tried, and holds.
    Trial,
    /// In force as it was confirmed, and nobody got around the gate.
    Sealed,
    /// Somebody can get around the gate: how.
    Open(String),
    /// It cannot be looked at: why.
    Unknown(String),
}
