//! Plans as `iptables-restore` reads them.

use std::fmt::Write as _;

use super::hooks::{
    DRAINING, Family, HOOKS, Hook, NAMED_IN, TABLES, is_named_after_a_plan, is_ours, named_after,
};
use super::saved::Saved;
use crate::network::Network;
use crate::seal::plan::{Plan, PortKind, SealedPort};

/// What opens a connection, and nothing else: a rule that matched more would tear live streams.
const SYN: &str = "-m tcp --tcp-flags FIN,SYN,RST,ACK SYN";
/// To one of this node's own addresses.
const LOCAL: &str = "-m addrtype --dst-type LOCAL";

/// Everything of ours but a trial's own chains, for one family.
pub(super) fn document(
    confirmed: Option<&Plan>,
    trial: bool,
    family: Family,
    exempt: Option<&str>,
    saved: &Saved,
) -> String {
    let mut text = String::new();
    for table in TABLES {
        let _ = writeln!(text, "*{table}");
        for hook in HOOKS.iter().filter(|hook| hook.table == table) {
            let rules = hook.dispatch();
            if hook.exempt {
                let _ = writeln!(text, ":{rules} - [0:0]");
            }
            if let Some(plan) = confirmed {
                text.push_str(&chain(hook, plan, "CONF", family));
            }
            if hook.exempt {
                text.push_str(&entrance(hook, exempt));
            } else {
                let _ = writeln!(text, ":{rules} - [0:0]");
            }
            if trial {
                let _ = writeln!(text, "-A {rules} {}", hook.to_trial());
            }
            for port in confirmed.into_iter().flat_map(|plan| &plan.ports) {
                let _ = writeln!(
                    text,
                    "-A {rules} -p tcp -m tcp --dport {} -g {}-CONF",
                    port.port, hook.chain
                );
            }
            text.push_str(&hook.entered(saved));
        }
        if let Some(plan) = confirmed.filter(|_| table == NAMED_IN) {
            let _ = writeln!(text, ":{} - [0:0]", named_after(plan, "CONF"));
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// The chains of a trial, which must exist before a rule leads to them.
pub(super) fn trial_chains(plan: &Plan, family: Family) -> String {
    let table = |table: &&'static str| {
        let hooks = HOOKS.iter().filter(|hook| hook.table == *table);
        let mut chains: String = hooks.map(|hook| chain(hook, plan, "TRIAL", family)).collect();
        if *table == NAMED_IN {
            let _ = writeln!(chains, ":{} - [0:0]", named_after(plan, "TRIAL"));
        }
        format!("*{table}\n{chains}COMMIT\n")
    };
    TABLES.iter().map(table).collect()
}

/// Takes away the chains that are named after other plans. The name of a trial that ends here goes last, with
/// its rules: whatever stops this midway, the plan is still recognized.
pub(super) fn without_others(saved: &Saved, confirmed: Option<&Plan>, trial: Option<&Plan>) -> String {
    let kept = [(confirmed, "CONF"), (trial, "TRIAL")].map(|(plan, which)| Some(named_after(plan?, which)));
    let others: String = saved
        .chains()
        .filter(|(table, chain, _)| *table == NAMED_IN && is_named_after_a_plan(chain))
        .map(|(_, chain, _)| chain)
        .filter(|chain| trial.is_some() || !chain.ends_with("-TRIAL"))
        .filter(|chain| !kept.iter().flatten().any(|kept| kept == chain))
        .map(|chain| format!("-F {chain}\n-X {chain}\n"))
        .collect();
    format!("*{NAMED_IN}\n{others}COMMIT\n")
}

/// Deletes those of our chains of which `which` is true, and with `entrances` the jumps to them; empty if
/// there are none.
pub(super) fn deletion(saved: &Saved, which: impl Fn(&str) -> bool, entrances: bool) -> String {
    let mut text = String::new();
    for table in TABLES {
        let chains: Vec<&str> = saved
            .chains()
            .filter(|(of, chain, _)| *of == table && is_ours(chain) && which(chain))
            .map(|(_, chain, _)| chain)
            .collect();
        if chains.is_empty() {
            continue;
        }
        let _ = writeln!(text, "*{table}");
        for hook in HOOKS.iter().filter(|hook| entrances && hook.table == table) {
            text.push_str(&hook.deleted(saved));
        }
        for verb in ["-F", "-X"] {
            text.extend(chains.iter().map(|chain| format!("{verb} {chain}\n")));
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// The chain that keeps connections translated that the seal in `saved` has brought to the gate; empty
/// if there is none. No rule leads to it: that there is a rule in it which looks at connections
/// suffices, and the table with it.
pub(super) fn draining(saved: &Saved, comment: &str) -> String {
    let redirects = |hook: &Hook| hook.table == "nat" && saved.has(hook.table, hook.chain);
    if !HOOKS.iter().any(redirects) {
        return String::new();
    }
    format!(
        "*nat\n:{DRAINING} - [0:0]\n-A {DRAINING} -m conntrack --ctstate DNAT -m comment --comment \
         {comment}\nCOMMIT\n"
    )
}

/// Takes that chain away; empty if it is not there.
pub(super) fn draining_ended(saved: &Saved) -> String {
    match saved.has("nat", DRAINING) {
        true => format!("*nat\n-F {DRAINING}\n-X {DRAINING}\nCOMMIT\n"),
        false => String::new(),
    }
}

/// The rules of a chain whose exemption comes first.
pub(super) fn entrance(hook: &Hook, exempt: Option<&str>) -> String {
    let mut text = format!(":{} - [0:0]\n", hook.chain);
    if let Some(exempt) = exempt {
        let _ = writeln!(text, "-A {} {exempt}", hook.chain);
    }
    let _ = writeln!(text, "-A {} -j {}", hook.chain, hook.dispatch());
    text
}

/// What happens to a plan's ports at one hook.
fn chain(hook: &Hook, plan: &Plan, which: &str, family: Family) -> String {
    let name = format!("{}-{which}", hook.chain);
    let mut text = format!(":{name} - [0:0]\n");
    for port in &plan.ports {
        for rule in rules(hook.chain, port, plan, family) {
            let _ = writeln!(text, "-A {name} {rule}");
        }
    }
    text
}

fn rules(chain: &str, sealed: &SealedPort, plan: &Plan, family: Family) -> Vec<String> {
    let port = format!("-p tcp -m tcp --dport {}", sealed.port);
    let from_outside_only = sealed.kind == PortKind::Healthz;
    let redirect = match family {
        Family::Ipv4 => sealed.redirect_ipv4,
        Family::Ipv6 => sealed.redirect_ipv6,
    };
    let held = sealed
        .gate_addresses
        .iter()
        .filter(|address| address.is_ipv4() == (family == Family::Ipv4));
    let held: Vec<String> = held.map(|address| format!("-d {address} ")).collect();
    let to_gate: &[String] = match sealed.kind {
        PortKind::Gate => &[String::new()],
        PortKind::Secure => &held,
        _ => &[],
    };
    let mut rules = from_elsewhere(chain, to_gate, &port, plan.sources(family == Family::Ipv4));
    rules.extend(held.iter().map(|to| format!("{to}{port} -j RETURN")));
    match chain {
        _ if sealed.kind == PortKind::Gate => {}
        "KG-RAW" => {
            if !from_outside_only {
                // Put on lo by a packet socket: what this node sends itself is known to conntrack.
                rules.push(format!(
                    "-i lo {port} {SYN} -m conntrack --ctstate INVALID,UNTRACKED -j DROP"
                ));
            }
            // From a neighbour, for this node's loopback (CVE-2020-8558).
            rules.push(format!("-d {} ! -i lo {port} {SYN} -j DROP", family.loopback()));
        }
        // Not REDIRECT: it brings to the address of the incoming interface, and a pod's often has none.
        "KG-NAT-IN" => {
            if let Some(to) = redirect {
                rules.push(format!("{port} {SYN} {LOCAL} -j DNAT --to-destination :{to}"));
            }
        }
        "KG-NAT-OUT" => {
            if let Some(to) = redirect {
                rules.push(format!("{port} {SYN} {LOCAL} -j REDIRECT --to-ports {to}"));
            }
        }
        "KG-IN" => rules.push(format!("! -i lo {port} {SYN} -j DROP")),
        _ if !from_outside_only => {
            rules.push(format!("{port} {SYN} {LOCAL} -j REJECT --reject-with tcp-reset"));
        }
        _ => {}
    }
    rules
}

/// Refuses what is for the gate from addresses that are not in `sources.port`.
fn from_elsewhere(chain: &str, to_gate: &[String], port: &str, sources: Option<Vec<Network>>) -> Vec<String> {
    let (side, refusal) = match chain {
        "KG-IN" => ("! -i lo", "DROP"),
        "KG-OUT" => (LOCAL, "REJECT --reject-with tcp-reset"),
        _ => return Vec::new(),
    };
    let Some(sources) = sources else { return Vec::new() };
    let rules = to_gate.iter().flat_map(|to| {
        let listed = sources
            .iter()
            .map(move |source| format!("-s {source} {to}{port} -j RETURN"));
        listed.chain([format!("{to}{side} {port} {SYN} -j {refusal}")])
    });
    rules.collect()
}
