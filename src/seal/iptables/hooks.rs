//! Where the seal's chains are entered, and what they are called.

use serde::{Deserialize, Serialize};

use super::saved::Saved;
use crate::seal::exemption::Exemption;
use crate::seal::plan::Plan;

/// The set with the ports of a running trial, each with a timeout; without one once the trial is confirmed.
pub(super) const TRIAL: &str = "kubelet-gate-trial";

/// The chain, in the table nat, that is kept for connections that a seal had brought to the gate.
pub(super) const DRAINING: &str = "KG-DRAINING";

/// A built-in chain, and ours that it begins with. What `exempt` has an exempting rule in front.
pub(super) struct Hook {
    pub(super) table: &'static str,
    pub(super) builtin: &'static str,
    pub(super) chain: &'static str,
    pub(super) exempt: bool,
}

/// In the order of loading: redirects before refusals.
pub(super) const HOOKS: [Hook; 5] = [
    Hook {
        table: "nat",
        builtin: "PREROUTING",
        chain: "KG-NAT-IN",
        exempt: false,
    },
    Hook {
        table: "nat",
        builtin: "OUTPUT",
        chain: "KG-NAT-OUT",
        exempt: true,
    },
    Hook {
        table: "raw",
        builtin: "PREROUTING",
        chain: "KG-RAW",
        exempt: false,
    },
    Hook {
        table: "filter",
        builtin: "INPUT",
        chain: "KG-IN",
        exempt: false,
    },
    Hook {
        table: "filter",
        builtin: "OUTPUT",
        chain: "KG-OUT",
        exempt: true,
    },
];

pub(super) const TABLES: [&str; 3] = ["nat", "raw", "filter"];
/// The table, loaded last, with the chain by which a plan is recognized.
pub(super) const NAMED_IN: &str = "filter";

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

pub(super) const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// Whether a chain is one of the seal's. Its whole name counts: other programs may begin theirs like that.
pub(super) fn is_ours(chain: &str) -> bool {
    let of_hook = |hook: &Hook| {
        chain == hook.chain
            || chain == hook.dispatch()
            || ["-CONF", "-TRIAL"]
                .map(|which| chain.strip_suffix(which))
                .contains(&Some(hook.chain))
    };
    HOOKS.iter().any(of_hook) || is_named_after_a_plan(chain)
}

pub(super) fn is_named_after_a_plan(chain: &str) -> bool {
    let id = chain
        .strip_prefix("KG-")
        .and_then(|rest| rest.strip_suffix("-CONF").or_else(|| rest.strip_suffix("-TRIAL")));
    id.is_some_and(|id| id.len() == 16 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// The chain by which a plan is recognized; no rule leads to it.
pub(super) fn named_after(plan: &Plan, which: &str) -> String {
    format!("KG-{}-{which}", plan.id())
}

/// The rule that lets the gate's own connections go on to the chains after ours. By user and mark alone: the
/// path of a cgroup is looked up again at every change of the table by any program (iptables-legacy), or when
/// a saved listing is restored (iptables-nft). Once the cgroup of a stopped gate is gone, every such change
/// would fail.
pub(super) fn exempt_rule(exemption: &Exemption) -> String {
    let mark = exemption.mark;
    format!(
        "-m owner --uid-owner {} -m mark --mark {:#x}/{:#x} -j RETURN",
        exemption.uid, mark.value, mark.mask
    )
}

// === impl Hook ===

impl Hook {
    /// The chain whose rules lead to a plan's.
    pub(super) fn dispatch(&self) -> String {
        if self.exempt {
            format!("{}-RULES", self.chain)
        } else {
            self.chain.to_owned()
        }
    }

    /// What leads the ports of a trial to its rules.
    pub(super) fn to_trial(&self) -> String {
        format!("-p tcp -m set --match-set {TRIAL} dst -g {}-TRIAL", self.chain)
    }

    pub(super) fn jump(&self) -> String {
        format!("-j {}", self.chain)
    }

    fn jumps(&self, saved: &Saved) -> usize {
        let jump = self.jump();
        let rules = saved.rules(self.table, self.builtin);
        rules.iter().filter(|rule| **rule == jump).count()
    }

    /// Whether our jump is the first rule, and there is no other.
    pub(super) fn is_entered(&self, saved: &Saved) -> bool {
        let first = saved.rules(self.table, self.builtin).first();
        self.jumps(saved) == 1 && first.is_some_and(|rule| *rule == self.jump())
    }

    /// Makes our jump the first rule, whatever was there before.
    pub(super) fn entered(&self, saved: &Saved) -> String {
        if self.is_entered(saved) {
            return String::new();
        }
        format!("{}-I {} 1 {}\n", self.deleted(saved), self.builtin, self.jump())
    }

    /// Takes our jumps away, as many as there are.
    pub(super) fn deleted(&self, saved: &Saved) -> String {
        format!("-D {} {}\n", self.builtin, self.jump()).repeat(self.jumps(saved))
    }
}

// === impl Family ===

impl Family {
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Ipv4 => "iptables",
            Self::Ipv6 => "ip6tables",
        }
    }

    /// As the kernel's messages call it: `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    pub(super) fn loopback(self) -> &'static str {
        match self {
            Self::Ipv4 => "127.0.0.0/8",
            Self::Ipv6 => "::1/128",
        }
    }
}
