//! The seal in the language of iptables, for nodes whose nft or kernel cannot carry it: chains of our own, entered by the
//! first rule of each built-in chain, in both families.
//!
//! Each table of each family is replaced at once, one after the other. Until a trial's ports are in the set its chains match
//! nothing, and a table that could not be loaded leaves what was confirmed: there is no moment that is more open than
//! before. See `docs/decisions/004-seal-primitives.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use super::plan::{Plan, PortKind, SealedPort};
use super::{Boot, Exemption, FirewallError, Kind, id, tool};
use crate::settings::Backend;

/// The seal by `iptables` and `ip6tables`.
#[derive(Debug)]
pub struct Iptables {
    /// Which of the two kinds.
    pub(super) legacy: bool,
}

/// The ports of a running trial, each with a timeout.
const TRIAL: &str = "kubelet-gate-trial";
/// What opens a connection, and nothing else: a rule that matched more would tear live streams.
const SYN: &str = "-m tcp --tcp-flags FIN,SYN,RST,ACK SYN";
/// To one of this node's own addresses.
const LOCAL: &str = "-m addrtype --dst-type LOCAL";

/// A built-in chain, and ours that it begins with. What `exempt` has an exempting rule in front.
struct Hook {
    table: &'static str,
    builtin: &'static str,
    chain: &'static str,
    exempt: bool,
}

/// In the order of loading: redirects before refusals.
const HOOKS: [Hook; 5] = [
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

const TABLES: [&str; 3] = ["nat", "raw", "filter"];
/// The table, loaded last, with the chain by which a plan is known again.
const NAMED_IN: &str = "filter";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Family {
    Ipv4,
    Ipv6,
}

const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// What `iptables-save` prints: the rules of each chain of each table, without counters.
type Saved = BTreeMap<(String, String), Vec<String>>;

impl Iptables {
    pub(super) fn usable(&self) -> Result<(), FirewallError> {
        let backend = if self.legacy {
            Backend::IptablesLegacy
        } else {
            Backend::IptablesNft
        };
        let unusable = |error: FirewallError| FirewallError::Unusable {
            backend,
            why: error.to_string(),
        };
        let sample = Plan::sample(backend);
        for family in FAMILIES {
            let rules = document(Some(&sample), false, family, None, &Saved::new());
            let test = ["--test", "--noflush"];
            tool::run(&self.tool(family, "restore"), &test, &rules, "trying the rules").map_err(unusable)?;
        }
        // Without it nothing would undo a trial.
        tool::run("ipset", &["--version"], "", "telling its version").map_err(unusable)?;
        Ok(())
    }

    pub(super) fn print(&self, plan: &Plan) -> String {
        let rules = |family| {
            let restore = self.tool(family, "restore");
            format!(
                "# {restore} --noflush\n{}",
                document(Some(plan), false, family, None, &Saved::new())
            )
        };
        FAMILIES.map(rules).join("\n")
    }

    pub(super) fn load(
        &self,
        confirmed: Option<&Plan>,
        trial: Option<(&Plan, Duration)>,
        exemption: Option<&Exemption>,
    ) -> Result<(), FirewallError> {
        let exempt = exemption.map(exempt_rule);
        if trial.is_some() {
            // An earlier trial ends here; until the new one's ports are in the set its chains match nothing.
            let empty =
                format!("create {TRIAL} bitmap:port range 0-65535 timeout 60 -exist\nflush {TRIAL}\n");
            tool::run("ipset", &["restore"], &empty, "making the trial's set")?;
        }
        for family in FAMILIES {
            let saved = self.saved(family)?;
            let mut rules = String::new();
            if let Some((plan, _)) = trial {
                rules.push_str(&trial_chains(plan, family));
            }
            rules.push_str(&document(
                confirmed,
                trial.is_some(),
                family,
                exempt.as_deref(),
                &saved,
            ));
            rules.push_str(&without_others(&saved, confirmed, trial.map(|(plan, _)| plan)));
            self.submit(family, &rules, "loading the rules")?;
        }
        match trial {
            None => {
                self.drop_trial_chains()?;
                destroy_set()
            }
            Some((plan, window)) => {
                let seconds = window.as_secs().max(1);
                let mut ports: Vec<u16> = plan
                    .ports
                    .iter()
                    .chain(confirmed.into_iter().flat_map(|plan| &plan.ports))
                    .map(|port| port.port)
                    .collect();
                ports.dedup();
                let elements: String = ports
                    .iter()
                    .map(|port| format!("add {TRIAL} {port} timeout {seconds} -exist\n"))
                    .collect();
                tool::run("ipset", &["restore"], &elements, "starting the trial").map(drop)
            }
        }
    }

    pub(super) fn confirm(&self, trial: &Plan, exemption: Option<&Exemption>) -> Result<(), FirewallError> {
        match self.trial_remaining()? {
            Some(remaining) if !remaining.is_zero() => self.load(Some(trial), None, exemption),
            _ => Err(FirewallError::TooLate),
        }
    }

    pub(super) fn admit(&self, exemption: &Exemption) -> Result<(), FirewallError> {
        let exempt = exempt_rule(exemption);
        let rules: String = HOOKS
            .iter()
            .filter(|hook| hook.exempt)
            .map(|hook| format!("*{}\n{}COMMIT\n", hook.table, entrance(hook, Some(&exempt))))
            .collect();
        FAMILIES
            .into_iter()
            .try_for_each(|family| self.submit(family, &rules, "admitting the gate's own connections"))
    }

    pub(super) fn admitted(&self, exemption: &Exemption) -> Result<bool, FirewallError> {
        let expected = words(&exempt_rule(exemption));
        for family in FAMILIES {
            let saved = self.saved(family)?;
            for hook in HOOKS.iter().filter(|hook| hook.exempt) {
                let key = (hook.table.to_owned(), hook.chain.to_owned());
                let rules = saved.get(&key).map(Vec::as_slice).unwrap_or_default();
                if !matches!(rules, [exempt, _] if words(exempt) == expected) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    pub(super) fn remove(&self) -> Result<(), FirewallError> {
        for family in FAMILIES {
            let saved = self.saved(family)?;
            let mut rules = String::new();
            for table in TABLES {
                let ours: Vec<&str> = saved
                    .keys()
                    .filter(|(of, chain)| of == table && is_ours(chain))
                    .map(|(_, chain)| chain.as_str())
                    .collect();
                if ours.is_empty() {
                    continue;
                }
                let _ = writeln!(rules, "*{table}");
                for hook in HOOKS.iter().filter(|hook| hook.table == table) {
                    rules.push_str(&hook.deleted(&saved));
                }
                for verb in ["-F", "-X"] {
                    rules.extend(ours.iter().map(|chain| format!("{verb} {chain}\n")));
                }
                rules.push_str("COMMIT\n");
            }
            if !rules.is_empty() {
                self.submit(family, &rules, "removing the chains")?;
            }
        }
        destroy_set()
    }

    pub(super) fn fingerprint(&self) -> Result<Option<String>, FirewallError> {
        let mut text = String::new();
        let mut any = false;
        for family in FAMILIES {
            let saved = self.saved(family)?;
            for hook in &HOOKS {
                let rules = hook.rules(&saved);
                let entered = rules.first().is_some_and(|rule| *rule == hook.jump())
                    && rules.iter().filter(|rule| **rule == hook.jump()).count() == 1;
                let _ = writeln!(
                    text,
                    "{family:?} {} {} entered: {entered}",
                    hook.table, hook.chain
                );
            }
            for ((table, chain), rules) in saved.iter().filter(|((_, chain), _)| is_ours(chain)) {
                any = true;
                if chain.ends_with("-TRIAL") {
                    continue;
                }
                let _ = writeln!(text, "{table} {chain}");
                // Of those with an exemption only that they lead on: who is exempted is looked at apart.
                let exempts = HOOKS.iter().any(|hook| hook.exempt && hook.chain == chain);
                let kept = rules.iter().filter(|rule| !rule.contains(TRIAL));
                for rule in kept.filter(|rule| !exempts || !rule.contains("--uid-owner")) {
                    let _ = writeln!(text, "  {rule}");
                }
            }
        }
        let hash = digest(&SHA256, text.as_bytes());
        Ok(any.then(|| hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    pub(super) fn trial_remaining(&self) -> Result<Option<Duration>, FirewallError> {
        if !set_exists()? {
            return Ok(None);
        }
        let listed = tool::run("ipset", &["list", TRIAL], "", "listing the trial's set")?;
        let seconds = |line: &str| line.split_once(" timeout ")?.1.trim().parse().ok();
        let members = listed
            .lines()
            .skip_while(|line| !line.starts_with("Members:"))
            .skip(1);
        Ok(members.filter_map(seconds).min().map(Duration::from_secs))
    }

    pub(super) fn left_of_trial(&self) -> Result<bool, FirewallError> {
        set_exists()
    }

    pub(super) fn carries(&self, plan: &Plan, kind: Kind) -> Result<bool, FirewallError> {
        let which = match kind {
            Kind::Trial => "TRIAL",
            Kind::Confirmed => "CONF",
        };
        let key = (NAMED_IN.to_owned(), named_after(plan, which));
        for family in FAMILIES {
            if !self.saved(family)?.contains_key(&key) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn confirmed_any(&self) -> Result<bool, FirewallError> {
        for family in FAMILIES {
            let saved = self.saved(family)?;
            if saved
                .keys()
                .any(|(_, chain)| is_ours(chain) && chain.ends_with("-CONF"))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn boot(&self, plan: &Plan, directory: &Path) -> Boot {
        let mut boot = Boot {
            files: Vec::new(),
            commands: Vec::new(),
        };
        for (family, name) in [(Family::Ipv4, "confirmed.v4"), (Family::Ipv6, "confirmed.v6")] {
            let file = directory.join(name);
            let tool = self.tool(family, "restore");
            let program = tool::find(&tool).unwrap_or_else(|_| PathBuf::from("/usr/sbin").join(&tool));
            boot.commands.push(vec![
                program.display().to_string(),
                "--noflush".into(),
                file.display().to_string(),
            ]);
            boot.files
                .push((file, document(Some(plan), false, family, None, &Saved::new())));
        }
        boot
    }

    /// `iptables-nft-restore` and its like.
    fn tool(&self, family: Family, what: &str) -> String {
        let kind = if self.legacy { "legacy" } else { "nft" };
        format!("{}-{kind}-{what}", family.program())
    }

    fn submit(&self, family: Family, rules: &str, doing: &'static str) -> Result<(), FirewallError> {
        // The others' lock is waited for: kube-proxy holds it for long on a big cluster.
        let arguments = ["--noflush", "--wait", "5"];
        tool::run(&self.tool(family, "restore"), &arguments, rules, doing).map(drop)
    }

    fn saved(&self, family: Family) -> Result<Saved, FirewallError> {
        let text = tool::run::<&str>(&self.tool(family, "save"), &[], "", "listing the rules")?;
        Ok(saved(&text))
    }

    /// What is left of a trial once nothing leads there any more.
    fn drop_trial_chains(&self) -> Result<(), FirewallError> {
        for family in FAMILIES {
            let saved = self.saved(family)?;
            let mut rules = String::new();
            for table in TABLES {
                let left: Vec<&str> = saved
                    .keys()
                    .filter(|(of, chain)| of == table && is_ours(chain) && chain.ends_with("-TRIAL"))
                    .map(|(_, chain)| chain.as_str())
                    .collect();
                if left.is_empty() {
                    continue;
                }
                let _ = writeln!(rules, "*{table}");
                for verb in ["-F", "-X"] {
                    rules.extend(left.iter().map(|chain| format!("{verb} {chain}\n")));
                }
                rules.push_str("COMMIT\n");
            }
            if !rules.is_empty() {
                self.submit(family, &rules, "tidying up after the trial")?;
            }
        }
        Ok(())
    }
}

fn set_exists() -> Result<bool, FirewallError> {
    let names = tool::run("ipset", &["list", "-name"], "", "listing the sets")?;
    Ok(names.lines().any(|name| name == TRIAL))
}

fn destroy_set() -> Result<(), FirewallError> {
    match set_exists() {
        Ok(true) => tool::run("ipset", &["destroy", TRIAL], "", "removing the trial's set").map(drop),
        // Where there is no ipset there was no trial.
        Ok(false) | Err(FirewallError::Missing { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// By its whole name: others may begin theirs like that.
fn is_ours(chain: &str) -> bool {
    let of_hook = |hook: &Hook| {
        chain == hook.chain
            || chain == hook.dispatch()
            || ["-CONF", "-TRIAL"]
                .map(|which| chain.strip_suffix(which))
                .contains(&Some(hook.chain))
    };
    HOOKS.iter().any(of_hook) || is_named_after_a_plan(chain)
}

fn is_named_after_a_plan(chain: &str) -> bool {
    let id = chain
        .strip_prefix("KG-")
        .and_then(|rest| rest.strip_suffix("-CONF").or_else(|| rest.strip_suffix("-TRIAL")));
    id.is_some_and(|id| id.len() == 16 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

fn saved(text: &str) -> Saved {
    let mut saved = Saved::new();
    let mut table = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(declared) = line.strip_prefix(':') {
            let chain = declared.split(' ').next().unwrap_or_default();
            saved.entry((table.to_owned(), chain.to_owned())).or_default();
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
            let rules = saved.entry((table.to_owned(), chain.to_owned())).or_default();
            rules.push(rule.to_owned());
        }
    }
    saved
}

/// Everything of ours but a trial's own chains, for one family.
fn document(
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
                let _ = writeln!(
                    text,
                    "-A {rules} -p tcp -m set --match-set {TRIAL} dst -g {}-TRIAL",
                    hook.chain
                );
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

/// The chains of a trial, to be there before anything leads to them.
fn trial_chains(plan: &Plan, family: Family) -> String {
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

/// The chain by which a plan is known again; nothing leads there.
fn named_after(plan: &Plan, which: &str) -> String {
    format!("KG-{}-{which}", id(plan))
}

/// Takes away the chains that are named after other plans. That of a trial which ends here goes last, with its rules:
/// whatever stops this halfway, the trial can still be confirmed.
fn without_others(saved: &Saved, confirmed: Option<&Plan>, trial: Option<&Plan>) -> String {
    let kept = [(confirmed, "CONF"), (trial, "TRIAL")].map(|(plan, which)| Some(named_after(plan?, which)));
    let others: String = saved
        .keys()
        .filter(|(table, chain)| table == NAMED_IN && is_named_after_a_plan(chain))
        .filter(|(_, chain)| trial.is_some() || !chain.ends_with("-TRIAL"))
        .filter(|(_, chain)| !kept.iter().flatten().any(|kept| kept == chain))
        .map(|(_, chain)| format!("-F {chain}\n-X {chain}\n"))
        .collect();
    format!("*{NAMED_IN}\n{others}COMMIT\n")
}

/// What a chain whose exemption comes first consists of.
fn entrance(hook: &Hook, exempt: Option<&str>) -> String {
    let mut text = format!(":{} - [0:0]\n", hook.chain);
    if let Some(exempt) = exempt {
        let _ = writeln!(text, "-A {} {exempt}", hook.chain);
    }
    let _ = writeln!(text, "-A {} -j {}", hook.chain, hook.dispatch());
    text
}

/// What becomes of a plan's ports at one place.
fn chain(hook: &Hook, plan: &Plan, which: &str, family: Family) -> String {
    let name = format!("{}-{which}", hook.chain);
    let mut text = format!(":{name} - [0:0]\n");
    for port in &plan.ports {
        for rule in rules(hook.chain, port, family) {
            let _ = writeln!(text, "-A {name} {rule}");
        }
    }
    text
}

fn rules(chain: &str, sealed: &SealedPort, family: Family) -> Vec<String> {
    let port = format!("-p tcp -m tcp --dport {}", sealed.port);
    let from_outside_only = sealed.kind == PortKind::Healthz;
    let redirect = match family {
        Family::Ipv4 => sealed.redirect_ipv4,
        Family::Ipv6 => sealed.redirect_ipv6,
    };
    let mut rules: Vec<String> = sealed
        .gate_addresses
        .iter()
        .filter(|address| address.is_ipv4() == (family == Family::Ipv4))
        .map(|address| format!("-d {address} {port} -j RETURN"))
        .collect();
    match chain {
        "KG-RAW" => {
            if !from_outside_only {
                // Put on lo by a packet socket: what this node sends itself is known to conntrack.
                rules.push(format!(
                    "-i lo {port} {SYN} -m conntrack --ctstate INVALID,UNTRACKED -j DROP"
                ));
            }
            // A neighbour's, for this node's loopback (CVE-2020-8558).
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

/// The rule that lets the gate's own connections go on to whatever comes after ours. By user and mark alone: the path of a
/// cgroup is looked up again whenever anybody changes such a table (iptables-legacy) or puts back what was saved of it
/// (iptables-nft), and once that of a stopped gate is gone, every such change of theirs would fail.
fn exempt_rule(exemption: &Exemption) -> String {
    let mark = exemption.mark;
    format!(
        "-m owner --uid-owner {} -m mark --mark {:#x}/{:#x} -j RETURN",
        exemption.uid, mark.value, mark.mask
    )
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

// === impl Hook ===

impl Hook {
    /// The chain whose rules lead to a plan's.
    fn dispatch(&self) -> String {
        if self.exempt {
            format!("{}-RULES", self.chain)
        } else {
            self.chain.to_owned()
        }
    }

    fn jump(&self) -> String {
        format!("-j {}", self.chain)
    }

    fn rules<'a>(&self, saved: &'a Saved) -> &'a [String] {
        let key = (self.table.to_owned(), self.builtin.to_owned());
        saved.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    /// Makes our jump the first rule, whatever was before.
    fn entered(&self, saved: &Saved) -> String {
        let jump = self.jump();
        let here = self.rules(saved).iter().filter(|rule| **rule == jump).count();
        if here == 1 && self.rules(saved).first() == Some(&jump) {
            return String::new();
        }
        format!("{}-I {} 1 {jump}\n", self.deleted(saved), self.builtin)
    }

    /// Takes our jumps away, as many as there are.
    fn deleted(&self, saved: &Saved) -> String {
        let jump = self.jump();
        let here = self.rules(saved).iter().filter(|rule| **rule == jump).count();
        format!("-D {} {jump}\n", self.builtin).repeat(here)
    }
}

// === impl Family ===

impl Family {
    fn program(self) -> &'static str {
        match self {
            Self::Ipv4 => "iptables",
            Self::Ipv6 => "ip6tables",
        }
    }

    fn loopback(self) -> &'static str {
        match self {
            Self::Ipv4 => "127.0.0.0/8",
            Self::Ipv6 => "::1/128",
        }
    }
}
