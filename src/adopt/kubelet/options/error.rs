//! Why the options of a kubelet are not known.

/// Why the options of a kubelet are not known.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct OptionsError {
    /// The file or flag.
    pub place: String,
    /// What is wrong with it.
    pub why: String,
}
