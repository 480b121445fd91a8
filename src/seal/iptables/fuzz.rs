//! Fuzz target: what `iptables-save`, `ip6tables-save` and `ipset list` print. No listing but a right one
//! counts as the confirmed plan in force.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target tells what it found"
)]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::hooks::{HOOKS, TRIAL, is_ours};
use super::saved::Saved;
use super::tables::{Tables, TrialSet};
use crate::host::Mark;
use crate::seal::exemption::Exemption;
use crate::seal::foreign;
use crate::seal::plan::Plan;
use crate::settings::Backend;

/// The listings of both families once [`Plan::sample`] was confirmed and the gate admitted.
const CONFIRMED: &str = include_str!("../../../fuzz/seeds/iptables_listing/confirmed");

static RIGHT: LazyLock<(String, [Effective; 2])> = LazyLock::new(|| {
    let (tables, [ipv4, ipv6]) = (tables(CONFIRMED), families(CONFIRMED));
    assert!(tables.admits(&EXEMPTION) && tables.confirms(&Plan::sample(Backend::IptablesNft)));
    assert!(tables.trial_remaining().is_none() && !tables.left_of_trial());
    let fingerprint = tables.fingerprint().expect("the recorded listings");
    (fingerprint, [effective(ipv4), effective(ipv6)])
});

const EXEMPTION: Exemption = Exemption {
    uid: 990,
    mark: Mark {
        value: 0x1,
        mask: 0x107f,
    },
    cgroup: None,
};

/// The rules that decide about packets while no trial runs, by table and chain; and where ours are entered.
type Effective = (BTreeMap<(String, String), Vec<String>>, Vec<bool>);

/// Three texts with a line of `%%` between them; or the confirmed ones with changes, five bytes each, behind
/// an `m`.
///
/// # Panics
/// A listing counts as the confirmed plan in force, or as admitting the gate alone, and is not.
pub(crate) fn iptables_listing(data: &[u8]) {
    let text = match data.split_first() {
        Some((b'm', plan)) => changed(plan),
        _ => String::from_utf8_lossy(data).into_owned(),
    };
    for text in text.split("\n%%\n") {
        let _ = (foreign::naming("x", text, &[10250]), foreign::marked(text));
    }
    let tables = tables(&text);
    let (right, [ipv4, ipv6]) = &*RIGHT;
    let [its_ipv4, its_ipv6] = families(&text);
    if tables.fingerprint().as_ref() == Some(right) {
        for (its, right) in [(its_ipv4, ipv4), (its_ipv6, ipv6)] {
            assert_eq!(&effective(its), right, "it is taken for the confirmed plan");
        }
        assert!(tables.confirms_any());
    }
    if tables.admits(&EXEMPTION) {
        for family in [its_ipv4, its_ipv6] {
            for hook in HOOKS.iter().filter(|hook| hook.exempt) {
                let start = format!("-A {} ", hook.chain);
                let rules = family.lines().filter(|line| line.starts_with(&start));
                assert!(
                    rules
                        .filter(|rule| rule.contains("--uid-owner"))
                        .all(|rule| rule.contains("990"))
                );
            }
        }
    }
    let plan = Plan::sample(Backend::IptablesNft);
    let _ = (tables.tries(&plan), tables.confirms(&plan));
    if tables.trial_remaining().is_some() {
        assert!(tables.left_of_trial());
    }
}

fn families(text: &str) -> [&str; 2] {
    let mut parts = text.split("\n%%\n");
    [parts.next().unwrap_or_default(), parts.next().unwrap_or_default()]
}

fn tables(text: &str) -> Tables {
    let [ipv4, ipv6] = families(text);
    let set = text.split("\n%%\n").nth(2).map(TrialSet::parse);
    Tables::new(Saved::parse(ipv4), Saved::parse(ipv6), set)
}

fn effective(text: &str) -> Effective {
    let (mut table, mut chains) = (String::new(), BTreeMap::<_, Vec<String>>::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        }
        let Some((chain, rule)) = line
            .strip_prefix("-A ")
            .map(|rule| rule.split_once(' ').unwrap_or((rule, "")))
        else {
            continue;
        };
        chains
            .entry((table.clone(), chain.to_owned()))
            .or_default()
            .push(rule.to_owned());
    }
    let entered = HOOKS.iter().map(|hook| {
        let rules = chains.get(&(hook.table.to_owned(), hook.builtin.to_owned()));
        rules
            .and_then(|rules| rules.first())
            .is_some_and(|rule| *rule == format!("-j {}", hook.chain))
    });
    let entered = entered.collect();
    chains.retain(|(_, chain), rules| {
        rules.retain(|rule| {
            // While there is no set of a trial, nothing leads to its rules.
            let to_trial = rule.starts_with(&format!("-p tcp -m set --match-set {TRIAL} dst -g KG-"));
            let exempting = matches!(&**chain, "KG-NAT-OUT" | "KG-OUT") && rule.contains("--uid-owner");
            !to_trial && !exempting
        });
        is_ours(chain) && !chain.ends_with("-TRIAL") && !rules.is_empty()
    });
    (chains, entered)
}

/// The confirmed listings with lines taken out, moved, or written anew.
fn changed(plan: &[u8]) -> String {
    let mut lines: Vec<String> = CONFIRMED.lines().map(str::to_owned).collect();
    for change in plan.chunks_exact(5).take(4) {
        let [high, low, kind, other, value] = *change else {
            break;
        };
        let at = usize::from(u16::from_be_bytes([high, low])) % lines.len();
        let second = (at + usize::from(other)) % lines.len();
        match kind % 8 {
            0 => drop(lines.remove(at)),
            1 => lines.swap(at, second),
            2 => lines.insert(second, lines[at].clone()),
            3 => lines[at].push_str(" -j ACCEPT"),
            4 => lines.insert(at, format!("-A KG-IN -m comment --comment {TRIAL} -j ACCEPT")),
            5 => lines.insert(
                at,
                format!("-A KG-OUT-RULES -m owner --uid-owner {value} -j ACCEPT"),
            ),
            6 => lines.insert(
                at,
                format!("-A INPUT -p tcp -m set --match-set {TRIAL} dst -j ACCEPT"),
            ),
            _ => {
                let word = usize::from(value);
                let words = lines[at].split(' ').enumerate();
                let words = words.map(|(number, text)| if number == word % 12 { "10250" } else { text });
                lines[at] = words.collect::<Vec<_>>().join(" ");
            }
        }
    }
    lines.join("\n") + "\n"
}
