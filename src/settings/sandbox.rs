//! `sandbox`: how the process of a gate is contained.

use crate::named::Named;

/// How the process of a gate is contained.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sandbox {
    /// By everything that the sandbox has, but for what the kernel is too old for; else the gate does not
    /// start.
    Required,
    /// By what can be had here; what is missing is said when the gate starts.
    BestEffort,
    /// Not at all.
    Off,
}

impl Named for Sandbox {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("BestEffort", Self::BestEffort),
        ("Required", Self::Required),
        ("Off", Self::Off),
    ];
}

// === impl Sandbox ===

impl Sandbox {
    /// As in `sandbox`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Named::name(self)
    }
}
