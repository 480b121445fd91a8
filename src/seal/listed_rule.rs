//! The rules in what `nft list ruleset` and the `iptables-save` programs print, and the ports that each
//! names. Read by the few words that matter here; a line that is not understood names nothing.

use std::net::Ipv4Addr;

/// A rule, or a line of a set or map, as listed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ListedRule {
    /// The table that it is in.
    pub(super) table: String,
    /// `chain NAME`, `set NAME` or `map NAME`.
    pub(super) holder: String,
    /// It is a line of a set or map, to which rules may refer.
    pub(super) in_set: bool,
    /// The line.
    pub(super) text: String,
}

/// Every rule of a listing with the place where it stands, without ours.
pub(super) fn rules(text: &str) -> Vec<ListedRule> {
    let (mut table, mut holder, mut in_set) = (String::new(), String::new(), false);
    let set = |name: &&str| name.starts_with("set ") || name.starts_with("map ");
    let rule = |line: &str| {
        let line = line.trim();
        // nft opens tables and chains with a brace; iptables-save names a table with an asterisk, and each
        // rule its chain.
        if let Some(name) = line
            .strip_prefix("table ")
            .and_then(|line| line.strip_suffix(" {"))
        {
            name.clone_into(&mut table);
            holder.clear();
        } else if let Some(name) = line
            .strip_prefix("chain ")
            .and_then(|line| line.strip_suffix(" {"))
        {
            (holder, in_set) = (format!("chain {name}"), false);
        } else if let Some(name) = line.strip_suffix(" {").filter(set) {
            (holder, in_set) = (name.to_owned(), true);
        } else if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if let Some(rule) = line.strip_prefix("-A ") {
            holder = format!("chain {}", rule.split(' ').next().unwrap_or_default());
        }
        let ours = table == "inet kubelet_gate"
            || holder.starts_with("chain KG-")
            || line.split(' ').any(|word| word.starts_with("KG-"))
            || line.contains("kubelet-gate");
        let is_rule = !ours && !line.is_empty() && !line.starts_with([':', '*', '#']) && !line.ends_with('{');
        is_rule.then(|| ListedRule {
            table: table.clone(),
            holder: holder.clone(),
            in_set,
            text: line.to_owned(),
        })
    };
    text.lines().filter_map(rule).collect()
}

impl ListedRule {
    /// Whether it names one of these ports: as a destination, alone, in a range, in a set or map, or as what
    /// something else is brought to. One too many is found rather than one too few.
    pub(super) fn names(&self, ports: &[u16]) -> bool {
        names(&self.text, self.in_set, ports)
    }
}

/// The same for a part of a rule; `destination` says that numbers in it are destination ports.
pub(super) fn names(text: &str, mut destination: bool, ports: &[u16]) -> bool {
    let unquoted = unquoted(text);
    let words = unquoted
        .split(|c: char| c.is_whitespace() || "{},=".contains(c))
        .filter(|word| !word.is_empty() && !matches!(*word, "!" | "."));
    // What the numbers that follow are.
    let mut other = false;
    for word in words {
        match (word, range(word)) {
            ("dport" | "--dport" | "--dports" | "--ports" | "--destination-port", _) => {
                (destination, other) = (true, false);
            }
            ("sport" | "--sport" | "--sports" | "--source-port" | "packets" | "bytes", _) => other = true,
            (_, Some(_)) if other => {}
            (_, Some(range)) => {
                // A range of something else is mostly that of a masquerade.
                let meant = destination || range.start() == range.end();
                if meant && ports.iter().any(|port| range.contains(port)) {
                    return true;
                }
            }
            (word, None) => {
                other = false;
                if target(word).is_some_and(|port| ports.contains(&port)) {
                    return true;
                }
            }
        }
    }
    false
}

/// Without comments, names of interfaces and prefixes of logs, which are in quotes.
pub(super) fn unquoted(text: &str) -> String {
    let outside: Vec<&str> = text.split('"').step_by(2).collect();
    outside.join(" ")
}

/// The port of `:10250`, `192.0.2.1:10250` or `[::1]:10250`.
fn target(word: &str) -> Option<u16> {
    let (address, port) = word.rsplit_once(':')?;
    let addressed = address.is_empty() || address.ends_with(']') || address.parse::<Ipv4Addr>().is_ok();
    addressed.then(|| port.parse().ok())?
}

/// `10250`, `10000-11000` or `10000:11000`.
fn range(word: &str) -> Option<std::ops::RangeInclusive<u16>> {
    match word.split_once(['-', ':']) {
        None => word.parse().ok().map(|port| port..=port),
        Some((first, last)) => Some(first.parse().ok()?..=last.parse().ok()?),
    }
}
