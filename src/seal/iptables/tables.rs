//! Our rules as `iptables-save` and `ipset` list them.

use std::fmt::Write as _;
use std::time::Duration;

use super::hooks::{FAMILIES, Family, HOOKS, Hook, NAMED_IN, exempt_rule, is_ours, named_after};
use super::saved::Saved;
use crate::seal::digest::sha256;
use crate::seal::exemption::Exemption;
use crate::seal::plan::Plan;

/// Both families' tables, and the trial's set.
#[derive(Debug)]
pub struct Tables {
    ipv4: Saved,
    ipv6: Saved,
    set: Option<TrialSet>,
}

/// The ports of a trial with what is left of their timeouts, in seconds; 0: they do not time out.
#[derive(Debug)]
pub(super) struct TrialSet(Vec<(u16, u64)>);

impl TrialSet {
    /// Reads what `ipset list` prints.
    pub(super) fn parse(text: &str) -> Self {
        let member = |line: &str| {
            let (port, timeout) = line.split_once(" timeout ")?;
            Some((port.trim().parse().ok()?, timeout.trim().parse().ok()?))
        };
        let members = text.lines().skip_while(|line| !line.starts_with("Members:"));
        Self(members.skip(1).filter_map(member).collect())
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        self.0.iter().map(|(port, _)| *port)
    }

    /// `None`: its ports have timed out, or do not time out.
    fn remaining(&self) -> Option<Duration> {
        let timeouts = self.0.iter().map(|(_, timeout)| *timeout);
        timeouts
            .filter(|seconds| *seconds > 0)
            .min()
            .map(Duration::from_secs)
    }

    fn lasts(&self) -> bool {
        !self.0.is_empty() && self.remaining().is_none()
    }
}

impl Tables {
    pub(super) fn new(ipv4: Saved, ipv6: Saved, set: Option<TrialSet>) -> Self {
        Self { ipv4, ipv6, set }
    }

    fn of(&self, family: Family) -> &Saved {
        match family {
            Family::Ipv4 => &self.ipv4,
            Family::Ipv6 => &self.ipv6,
        }
    }

    fn named(&self, plan: &Plan, which: &str) -> bool {
        let name = named_after(plan, which);
        FAMILIES
            .iter()
            .all(|family| self.of(*family).has(NAMED_IN, &name))
    }

    pub(in crate::seal) fn tries(&self, plan: &Plan) -> bool {
        self.named(plan, "TRIAL")
    }

    /// By rules of its own, or by those of a trial that no longer ends.
    pub(in crate::seal) fn confirms(&self, plan: &Plan) -> bool {
        self.named(plan, "CONF") || (self.tries(plan) && self.set.as_ref().is_some_and(TrialSet::lasts))
    }

    pub(in crate::seal) fn confirms_any(&self) -> bool {
        let confirmed = |chain: &str| is_ours(chain) && chain.ends_with("-CONF");
        FAMILIES
            .iter()
            .any(|family| self.of(*family).chains().any(|(_, chain, _)| confirmed(chain)))
    }

    pub(in crate::seal) fn trial_remaining(&self) -> Option<Duration> {
        self.set.as_ref()?.remaining()
    }

    pub(in crate::seal) fn left_of_trial(&self) -> bool {
        self.set.is_some()
    }

    pub(in crate::seal) fn admits(&self, exemption: &Exemption) -> bool {
        let expected = words(&exempt_rule(exemption));
        FAMILIES.iter().all(|family| {
            HOOKS.iter().filter(|hook| hook.exempt).all(|hook| {
                let rules = self.of(*family).rules(hook.table, hook.chain);
                matches!(rules, [exempt, _] if words(exempt) == expected)
            })
        })
    }

    pub(in crate::seal) fn fingerprint(&self) -> Option<String> {
        let mut text = String::new();
        let mut any = false;
        for family in FAMILIES {
            let saved = self.of(family);
            for hook in &HOOKS {
                let entered = hook.is_entered(saved);
                let _ = writeln!(
                    text,
                    "{family:?} {} {} entered: {entered}",
                    hook.table, hook.chain
                );
            }
            for (table, chain, rules) in saved.chains().filter(|(_, chain, _)| is_ours(chain)) {
                any = true;
                if chain.ends_with("-TRIAL") {
                    continue;
                }
                let _ = writeln!(text, "{table} {chain}");
                // Of a chain with an exemption only that it leads on: the exemption is compared apart.
                let exempts = HOOKS.iter().any(|hook| hook.exempt && hook.chain == chain);
                // The one rule that leads to the trial; any other with the set in it is not ours.
                let hook = HOOKS.iter().find(|hook| hook.dispatch() == chain);
                let to_trial = hook.map(Hook::to_trial);
                let kept = rules.iter().filter(|rule| Some(*rule) != to_trial.as_ref());
                for rule in kept.filter(|rule| !exempts || !rule.contains("--uid-owner")) {
                    let _ = writeln!(text, "  {rule}");
                }
            }
        }
        any.then(|| sha256(text.as_bytes()))
    }
}

/// A rule's words in no order, since each version prints its matches in another.
fn words(rule: &str) -> Vec<String> {
    let mut words: Vec<String> = rule
        .replace('"', "")
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    words.sort_unstable();
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_do_not_time_out_are_no_trial() {
        let listed =
            |members: &str| TrialSet::parse(&format!("Name: x\nHeader: timeout 60\nMembers:\n{members}"));
        let running = listed("10250 timeout 41\n10255 timeout 40\n");
        assert_eq!(running.remaining(), Some(Duration::from_secs(40)));
        assert!(!running.lasts() && running.ports().eq([10250, 10255]));
        let lasting = listed("10250 timeout 0\n10255 timeout 0\n");
        assert!(lasting.lasts() && lasting.remaining().is_none());
        let ended = listed("");
        assert!(!ended.lasts() && ended.remaining().is_none());
    }
}
