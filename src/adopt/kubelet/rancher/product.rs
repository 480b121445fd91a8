//! The two products, and the commands that start them.

use crate::adopt::kubelet::invocation::{Word, program};

/// Which of the two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::adopt::kubelet) enum Product {
    K3s,
    Rke2,
}

/// Which of its starts is asked about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::adopt::kubelet) enum Start {
    /// The last one. The user's files were copied for it, and are where they were copied to.
    Last,
    /// The next one. The user's files are copied for it then, over the copies of an earlier start.
    Next,
}

impl Product {
    /// The one that a command starts as a server or an agent, each of which runs a kubelet.
    pub(in crate::adopt::kubelet) fn of(words: &[Word]) -> Option<Self> {
        let mut title = words
            .iter()
            .flat_map(|word| word.text.split(' '))
            .filter(|word| !word.is_empty());
        let name = program(title.next()?);
        // Before the role stand flags of the program itself, of which one has a value.
        let mut role = title.next().unwrap_or_default();
        while role.starts_with('-') {
            if matches!(role, "--data-dir" | "-d") {
                title.next();
            }
            role = title.next().unwrap_or_default();
        }
        match (name, role) {
            ("k3s", "server" | "agent") | ("k3s-server" | "k3s-agent", _) => Some(Self::K3s),
            ("rke2", "server" | "agent") => Some(Self::Rke2),
            _ => None,
        }
    }

    /// Whether the kubelet is a part of its process; RKE2's is a process of its own.
    pub(in crate::adopt::kubelet) fn embeds_kubelet(self) -> bool {
        self == Self::K3s
    }

    /// Its program.
    pub(in crate::adopt::kubelet) fn name(self) -> &'static str {
        match self {
            Self::K3s => "k3s",
            Self::Rke2 => "rke2",
        }
    }
}
