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
    /// It is not in force as it was confirmed, or a connection bypassed the gate: how.
    Open(String),
    /// It cannot be looked at: why.
    Unknown(String),
}
