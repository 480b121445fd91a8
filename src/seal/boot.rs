//! What loads the confirmed plan when the machine starts.

use std::path::PathBuf;

/// What loads a plan when the machine starts, without the gate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Boot {
    /// The files that must exist: path and text. Their names hold the plan's own, so that those of two plans
    /// are never mixed.
    pub files: Vec<(PathBuf, String)>,
    /// The commands, in order, each as its words, the first an absolute path.
    pub commands: Vec<Vec<String>>,
}
