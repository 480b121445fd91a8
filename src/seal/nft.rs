//! The seal in the language of nftables: one table of its own, replaced in one transaction.
//!
//! Five base chains each send the ports of the running trial to the trial's rules, and then the confirmed
//! ports to the confirmed rules. The trial's ports are elements with a timeout: when they expire, no rule of
//! the trial matches any more, and no process is needed for that. See
//! `docs/decisions/004-seal-primitives.md`.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::boot::Boot;
use super::error::FirewallError;
use super::exemption::Exemption;
use super::listing::{self, Listing};
use super::plan::{Plan, PortKind, SealedPort};
use super::tool;
use crate::files::{self, BUNDLE};
use crate::settings::Backend;

/// The seal by `nft`.
#[derive(Clone, Copy, Debug)]
pub struct Nft;

const TOOL: &str = "nft";

/// What opens a connection, and nothing else: a rule that matched more would tear live streams.
const SYN: &str = "tcp flags & (fin|syn|rst|ack) == syn";

/// Takes away what was kept of a seal that was removed, if anything was.
const NO_DRAINING: &str = "add table inet kubelet_gate_draining\ndelete table inet kubelet_gate_draining\n";

/// Where packets pass, in the order in which they do.
const BASE_CHAINS: [(&str, &str, &str); 5] = [
    (
        "raw",
        "type filter hook prerouting priority -310",
        "before conntrack: packets that this node never sent",
    ),
    (
        "nat_in",
        "type nat hook prerouting priority -110",
        "from outside, to the gate",
    ),
    (
        "nat_out",
        "type nat hook output priority -110",
        "from this node, to the gate",
    ),
    (
        "in",
        "type filter hook input priority 10",
        "the seal from outside: connections that were not brought to the gate",
    ),
    (
        "out",
        "type filter hook output priority 10",
        "the seal on this node, for every user",
    ),
];

impl Nft {
    pub(super) fn usable(self) -> Result<(), FirewallError> {
        let sample = Plan::sample(Backend::Nftables);
        let unusable = |error: FirewallError| FirewallError::Unusable {
            backend: Backend::Nftables,
            why: error.to_string(),
        };
        let document = document(Some(&sample), Some((&sample, Duration::from_secs(60))), None);
        check(&document).map_err(unusable)?;
        let tables = tool::run(TOOL, &["-j", "list", "tables"], "", "listing as JSON").map_err(unusable)?;
        listing::parse(TOOL, &tables).map(drop).map_err(unusable)
    }

    pub(super) fn print(self, plan: &Plan) -> String {
        document(Some(plan), None, None)
    }

    pub(super) fn load(
        self,
        confirmed: Option<&Plan>,
        trial: Option<(&Plan, Duration)>,
        exemption: Option<&Exemption>,
    ) -> Result<(), FirewallError> {
        let rule = exemption.map(exempt_rule).transpose()?;
        // The new rules keep connections translated themselves.
        let document = document(confirmed, trial, rule.as_deref()) + NO_DRAINING;
        submit(&document, "loading the rules")
    }

    pub(super) fn confirm(self, trial: &Plan, exemption: Option<&Exemption>) -> Result<(), FirewallError> {
        let rule = exemption.map(exempt_rule).transpose()?;
        // One transaction: when the elements have expired, deleting them fails, and with it everything.
        let document = format!(
            "delete element inet kubelet_gate trial {{ {} }}\n{}",
            ports(trial.ports.iter()),
            document(Some(trial), None, rule.as_deref())
        );
        match submit(&document, "confirming the trial") {
            Err(_) if self.trial_has_ended() => Err(FirewallError::TooLate),
            outcome => outcome,
        }
    }

    pub(super) fn admit(self, exemption: &Exemption) -> Result<(), FirewallError> {
        let rule = exempt_rule(exemption)?;
        submit(
            &format!("flush chain inet kubelet_gate exempt\nadd rule inet kubelet_gate exempt {rule}\n"),
            "admitting the gate's own connections",
        )
    }

    pub(super) fn remove(self, comment: Option<&str>) -> Result<(), FirewallError> {
        // Adding first makes the deletion good for a table that is not there, as `destroy` would be in newer
        // versions.
        let mut document = String::from("add table inet kubelet_gate\ndelete table inet kubelet_gate\n");
        match comment {
            None => document.push_str(NO_DRAINING),
            // What is kept already is kept for as long as it says.
            Some(_) if self.listing()?.is_none() => {}
            Some(comment) => document.push_str(&draining(comment)),
        }
        submit(&document, "removing the table")
    }

    /// What is kept of a seal that was removed, as it is listed.
    pub(super) fn draining(self) -> Result<Option<String>, FirewallError> {
        let list = [
            "-j",
            "-n",
            "-n",
            "-n",
            "list",
            "table",
            "inet",
            "kubelet_gate_draining",
        ];
        if !tables()?.has_table("kubelet_gate_draining") {
            return Ok(None);
        }
        match tool::run(TOOL, &list, "", "listing the table") {
            Ok(text) => Ok(Some(text)),
            // Another process may have taken it away in between.
            Err(error) if tables()?.has_table("kubelet_gate_draining") => Err(error),
            Err(_) => Ok(None),
        }
    }

    pub(super) fn end_draining(self) -> Result<(), FirewallError> {
        submit(NO_DRAINING, "removing the table that kept connections translated")
    }

    pub(super) fn boot(self, plan: &Plan, directory: &Path) -> Boot {
        let file = directory.join(format!("confirmed-{}.nft", plan.id()));
        let program = tool::find(TOOL).unwrap_or_else(|_| PathBuf::from("/usr/sbin/nft"));
        let words = [&program, Path::new("-f"), &file].map(|word| word.display().to_string());
        Boot {
            files: vec![(file, self.print(plan))],
            commands: vec![words.into()],
        }
    }

    /// Our table; `None`: there is none.
    pub(super) fn listing(self) -> Result<Option<Listing>, FirewallError> {
        if !tables()?.has_table("kubelet_gate") {
            return Ok(None);
        }
        let list = ["-j", "-n", "-n", "-n", "list", "table", "inet", "kubelet_gate"];
        match tool::run(TOOL, &list, "", "listing the table") {
            Ok(text) => listing::parse(TOOL, &text).map(Some),
            Err(error) => {
                // Another program may have taken it away in between.
                if tables()?.has_table("kubelet_gate") {
                    Err(error)
                } else {
                    Ok(None)
                }
            }
        }
    }

    fn trial_has_ended(self) -> bool {
        let listing = self.listing();
        listing.is_ok_and(|listing| listing.is_none_or(|listing| listing.trial_remaining().is_none()))
    }
}

fn tables() -> Result<Listing, FirewallError> {
    let list = ["-j", "list", "tables"];
    listing::parse(TOOL, &tool::run(TOOL, &list, "", "listing the tables")?)
}

/// What keeps connections translated that a seal had brought to the gate.
fn draining(comment: &str) -> String {
    format!(
        "{NO_DRAINING}table inet kubelet_gate_draining {{\n\
         \x20   # The kernel translates as long as there is a chain of this type, for which no rule is \
         needed.\n\
         \x20   chain keep_translating {{\n\
         \x20       type nat hook prerouting priority -110; policy accept\n\
         \x20   }}\n\
         \x20   # No rule leads here: that a rule looks at connections keeps the kernel tracking them.\n\
         \x20   chain keep_tracking {{\n\
         \x20       ct status dnat comment \"{comment}\"\n\
         \x20   }}\n\
         }}\n"
    )
}

fn submit(document: &str, doing: &'static str) -> Result<(), FirewallError> {
    tool::run(TOOL, &["-f", "-"], document, doing).map(drop)
}

/// Has the kernel judge it; nothing is changed.
fn check(document: &str) -> Result<(), FirewallError> {
    tool::run(TOOL, &["-c", "-f", "-"], document, "trying the rules").map(drop)
}

/// Everything of ours, as one transaction.
fn document(confirmed: Option<&Plan>, trial: Option<(&Plan, Duration)>, exempt: Option<&str>) -> String {
    let mut text = String::from(
        "# kubelet-gate: the kubelet's ports are closed to all but the gate.\n\
         # Removed without kubelet-gate by: nft delete table inet kubelet_gate\n\
         add table inet kubelet_gate\n\
         delete table inet kubelet_gate\n\
         table inet kubelet_gate {\n",
    );
    render(&mut text, confirmed, trial, exempt);
    text.push_str("}\n");
    text
}

fn render(
    text: &mut String,
    confirmed: Option<&Plan>,
    trial: Option<(&Plan, Duration)>,
    exempt: Option<&str>,
) {
    // Writing to a String cannot fail.
    macro_rules! line {
        ($($words:tt)*) => { let _ = writeln!(text, $($words)*); };
    }
    if let Some((plan, window)) = trial {
        let seconds = window.as_secs().max(1);
        let tried = ports(
            plan.ports
                .iter()
                .chain(confirmed.into_iter().flat_map(|plan| &plan.ports)),
        );
        let elements = tried.replace(", ", &format!(" timeout {seconds}s, "));
        line!("    # The trial: when these expire, the rules of the trial match nothing any more.");
        line!("    set trial {{");
        line!("        type inet_service; flags timeout");
        line!("        elements = {{ {elements} timeout {seconds}s }}");
        line!("    }}\n");
    }
    line!(
        "    # The gate's own connections: its user, its mark and its cgroup together. Filled by the gate \
         when it starts."
    );
    line!("    chain exempt {{");
    if let Some(rule) = exempt {
        line!("        {rule}");
    }
    line!("    }}");
    for (name, hook, why) in BASE_CHAINS {
        line!("\n    # {why}");
        line!("    chain {name} {{");
        line!("        {hook}; policy accept");
        if trial.is_some() {
            line!("        {}", to_trial(name));
        }
        if let Some(plan) = confirmed {
            line!(
                "        tcp dport {{ {} }} goto {name}_confirmed",
                ports(plan.ports.iter())
            );
        }
        line!("    }}");
        let plans = [(trial.map(|(plan, _)| plan), "trial"), (confirmed, "confirmed")];
        for (plan, which) in plans {
            let Some(plan) = plan else { continue };
            line!("    chain {name}_{which} {{");
            for port in &plan.ports {
                text.push_str(&rules(name, port, plan));
            }
            line!("    }}");
        }
    }
    for (plan, which) in [(trial.map(|(plan, _)| plan), "trial"), (confirmed, "confirmed")] {
        let Some(plan) = plan else { continue };
        line!("\n    # No rule leads here: the name says which plan it is.");
        line!("    chain {} {{", named_after(plan, which));
        line!("    }}");
    }
}

/// The chain by which a plan is recognized.
pub(super) fn named_after(plan: &Plan, which: &str) -> String {
    format!("plan_{}_{which}", plan.id())
}

/// What sends a base chain's packets to the trial.
fn to_trial(base: &str) -> String {
    format!("tcp dport @trial goto {base}_trial")
}

/// Each once, in ascending order.
fn ports<'a>(ports: impl Iterator<Item = &'a SealedPort>) -> String {
    let mut ports: Vec<u16> = ports.map(|port| port.port).collect();
    ports.sort_unstable();
    ports.dedup();
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    ports.join(", ")
}

/// What one base chain does about one port: a comment and a rule, in turn.
fn rules(base: &str, sealed: &SealedPort, plan: &Plan) -> String {
    let port = format!("tcp dport {}", sealed.port);
    let local = "fib daddr type local";
    let name = sealed.kind.name();
    let from_outside_only = sealed.kind == PortKind::Healthz;
    let mut rules: Vec<(String, String)> = from_elsewhere(base, sealed, plan);
    let mut rule = |comment: String, rule: String| rules.push((comment, rule));

    for (family, addresses) in [
        ("ip", addresses(sealed, IpAddr::is_ipv4)),
        ("ip6", addresses(sealed, IpAddr::is_ipv6)),
    ] {
        if !addresses.is_empty() {
            rule(
                "here the gate itself holds the port".to_owned(),
                format!("{port} {family} daddr {{ {addresses} }} accept"),
            );
        }
    }
    let redirects = [("ipv4", sealed.redirect_ipv4), ("ipv6", sealed.redirect_ipv6)];
    let redirects: Vec<(&str, u16)> = redirects
        .into_iter()
        .filter_map(|(family, to)| Some((family, to?)))
        .collect();
    match base {
        _ if sealed.kind == PortKind::Gate => {}
        "raw" => {
            if !from_outside_only {
                rule(
                    format!("{name}: a packet on lo that this node did not send was injected (CAP_NET_RAW)"),
                    format!("{port} iif lo {SYN} ct state invalid,untracked counter drop"),
                );
            }
            let comment = format!("{name}: a neighbour's packet for this node's loopback (CVE-2020-8558)");
            rule(
                comment.clone(),
                format!("{port} iif != lo ip daddr 127.0.0.0/8 {SYN} counter drop"),
            );
            rule(
                comment,
                format!("{port} iif != lo ip6 daddr ::1 {SYN} counter drop"),
            );
        }
        "nat_in" => {
            // Not `redirect`: it brings to the address of the incoming interface, and a pod's often has none.
            for (family, to) in redirects {
                rule(
                    format!("{name}: brought to the gate"),
                    format!("{port} meta nfproto {family} {SYN} {local} counter dnat to :{to}"),
                );
            }
        }
        "nat_out" if !redirects.is_empty() => {
            rule(
                format!("{name}: the gate reaches the kubelet"),
                format!("{port} {SYN} {local} jump exempt"),
            );
            for (family, to) in redirects {
                rule(
                    format!("{name}: brought to the gate"),
                    format!("{port} meta nfproto {family} {SYN} {local} counter redirect to :{to}"),
                );
            }
        }
        "in" => rule(
            format!("{name}: closed from outside"),
            format!("{port} iif != lo {SYN} counter drop"),
        ),
        "out" if !from_outside_only => {
            rule(
                format!("{name}: the gate reaches the kubelet"),
                format!("{port} {SYN} {local} jump exempt"),
            );
            rule(
                format!("{name}: closed on this node; other nodes' ports are not touched"),
                format!("{port} {SYN} {local} counter reject with tcp reset"),
            );
        }
        _ => {}
    }
    let lines = rules
        .iter()
        .map(|(comment, rule)| format!("        # {comment}\n        {rule}\n"));
    lines.collect()
}

/// Refuses what is for the gate from addresses that are not in `sources.port`.
fn from_elsewhere(base: &str, sealed: &SealedPort, plan: &Plan) -> Vec<(String, String)> {
    let (side, refusal) = match base {
        "in" => ("iif != lo", "drop"),
        "out" => ("fib daddr type local", "reject with tcp reset"),
        _ => return Vec::new(),
    };
    let mut rules = Vec::new();
    for (family, protocol, ipv4) in [("ipv4", "ip", true), ("ipv6", "ip6", false)] {
        let held = addresses(sealed, |address| address.is_ipv4() == ipv4);
        let to = match (sealed.kind, held.as_str()) {
            (PortKind::Gate, _) => String::new(),
            (PortKind::Secure, held) if !held.is_empty() => format!("{protocol} daddr {{ {held} }} "),
            _ => continue,
        };
        let Some(sources) = plan.sources(ipv4) else {
            continue;
        };
        let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
        let from = match sources.is_empty() {
            true => String::new(),
            false => format!("{protocol} saddr != {{ {} }} ", sources.join(", ")),
        };
        rules.push((
            "the gate is open to sources.port alone".to_owned(),
            format!(
                "tcp dport {} {side} meta nfproto {family} {to}{from}{SYN} counter {refusal}",
                sealed.port
            ),
        ));
    }
    rules
}

fn addresses(sealed: &SealedPort, family: impl Fn(&IpAddr) -> bool) -> String {
    let addresses = sealed.gate_addresses.iter().filter(|address| family(address));
    let addresses: Vec<String> = addresses.map(ToString::to_string).collect();
    addresses.join(", ")
}

/// The one rule of the chain `exempt`.
fn exempt_rule(exemption: &Exemption) -> Result<String, FirewallError> {
    let mark = exemption.mark;
    let cgroup = match nft_cgroup(exemption)? {
        Some(path) => format!("socket cgroupv2 level {} \"{path}\" ", level(exemption)),
        None => String::new(),
    };
    Ok(format!(
        "meta skuid {} {cgroup}meta mark & {:#x} == {:#x} counter accept",
        exemption.uid, mark.mask, mark.value
    ))
}

/// How deep the cgroup is.
fn level(exemption: &Exemption) -> usize {
    let path = exemption.cgroup.as_deref().unwrap_or_default();
    path.split('/').filter(|part| !part.is_empty()).count()
}

/// The gate's cgroup as nft spells it, below `/sys/fs/cgroup`; `None` where the gate has none of its own.
pub(super) fn nft_cgroup(exemption: &Exemption) -> Result<Option<String>, FirewallError> {
    let Some(path) = exemption.cgroup.as_deref().filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let unreadable = |why: &str| FirewallError::Failed {
        tool: TOOL.to_owned(),
        doing: "finding the gate's cgroup",
        why: why.to_owned(),
    };
    if path.contains(['"', '\n']) {
        return Err(unreadable("its name cannot be written in a rule"));
    }
    let mounts = files::read_text("/proc/self/mounts", BUNDLE)
        .map_err(|error| unreadable(&format!("/proc/self/mounts: {error}")))?;
    let below = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| place.strip_prefix("/sys/fs/cgroup"))?
        })
        .next_back()
        .ok_or_else(|| {
            unreadable("cgroup v2 is not mounted at or below /sys/fs/cgroup, where nft looks for it")
        })?;
    Ok(Some(format!("{below}/{path}").trim_start_matches('/').to_owned()))
}
