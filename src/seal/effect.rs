//! Whether a rule of another program takes connections away from the port that it names, or lets them pass.
//!
//! A rule that accepts, counts or marks does no harm to the seal: packets go on to its chains. One that
//! drops, refuses or redirects does. What is not understood counts as taking away.

use std::cell::RefCell;
use std::collections::HashSet;

use super::listed_rule::{ListedRule, names, unquoted};

/// Statements of nft after which a packet does not go on to its port.
const STATEMENTS: [&str; 13] = [
    "drop",
    "reject",
    "redirect",
    "dnat",
    "tproxy",
    "notrack",
    "queue",
    "masquerade",
    "snat",
    "fwd",
    "dup",
    "synproxy",
    "flow",
];
/// Targets of iptables after which it does.
const HARMLESS: [&str; 19] = [
    "ACCEPT",
    "RETURN",
    "LOG",
    "NFLOG",
    "ULOG",
    "MARK",
    "CONNMARK",
    "SECMARK",
    "CONNSECMARK",
    "CLASSIFY",
    "TRACE",
    "AUDIT",
    "SET",
    "TOS",
    "DSCP",
    "TCPMSS",
    "IDLETIMER",
    "LED",
    "RATEEST",
];
/// Whether `rule`, which names one of `ports`, takes their connections away. `all` is its whole listing.
pub(super) fn takes_away(rule: &ListedRule, all: &[ListedRule], ports: &[u16]) -> bool {
    let listing = Listing {
        all,
        ports,
        judged: RefCell::default(),
    };
    listing.takes_away(rule)
}

/// What a rule is judged by.
struct Listing<'a> {
    all: &'a [ListedRule],
    ports: &'a [u16],
    /// Chains that are judged, or being judged: each once, however many rules lead there.
    judged: RefCell<HashSet<String>>,
}

impl Listing<'_> {
    fn takes_away(&self, rule: &ListedRule) -> bool {
        if rule.in_set {
            return self.set_takes_away(rule);
        }
        let text = unquoted(&rule.text);
        // `dport != 10250 drop` spares the port.
        let spares = || without_negation(&text).is_some_and(|rest| !names(&rest, false, self.ports));
        if rule.text.starts_with("-A ") {
            return self.target_takes_away(rule, &text) && !spares();
        }
        let chain_takes = |name: &str| self.chain_takes_away(&rule.table, name);
        let takes = by_statements(&mapped(&text, self.ports), chain_takes) || is_foreign_target(&rule.text);
        takes && !spares()
    }

    fn chain_takes_away(&self, table: &str, name: &str) -> bool {
        let holder = format!("chain {name}");
        self.judged.borrow_mut().insert(format!("{table} {name}"))
            && self
                .all
                .iter()
                .filter(|rule| rule.table == table && rule.holder == holder)
                .filter(|rule| !is_about_others(rule, self.ports))
                .any(|rule| self.takes_away(rule))
    }

    /// A line of a set takes away what the rules that refer to the set do; one of a map, what it maps to.
    fn set_takes_away(&self, line: &ListedRule) -> bool {
        let elements = line.text.trim_start_matches("elements = ");
        let of_these = elements
            .split(',')
            .map(|element| element.trim_matches(|c: char| c.is_whitespace() || "{}".contains(c)))
            .filter(|element| names(element, true, self.ports));
        let mut mapped_to = of_these
            .filter_map(|element| Some(element.split_once(" : ")?.1))
            .peekable();
        if mapped_to.peek().is_some() {
            return mapped_to.any(|verdict| {
                let mut words = verdict.split_whitespace();
                match (words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
                    ("accept" | "return" | "continue", _) => false,
                    ("jump" | "goto", chain) => self.chain_takes_away(&line.table, chain),
                    // A map to addresses or ports is one of a `dnat` or a `redirect`.
                    _ => true,
                }
            });
        }
        let reference = format!("@{}", line.holder.split(' ').nth(1).unwrap_or_default());
        let refers = |rule: &&ListedRule| {
            rule.table == line.table
                && !rule.in_set
                && rule.text.split_whitespace().any(|word| word == reference)
        };
        self.all.iter().filter(refers).any(|rule| self.takes_away(rule))
    }

    /// By the target of a rule of iptables.
    fn target_takes_away(&self, rule: &ListedRule, text: &str) -> bool {
        let words: Vec<&str> = text.split_whitespace().collect();
        let jump = words.iter().rposition(|word| ["-j", "-g"].contains(word));
        let Some(target) = jump.and_then(|at| words.get(at + 1)) else {
            return false;
        };
        let holder = format!("chain {target}");
        let in_chain = |other: &ListedRule| other.table == rule.table && other.holder == holder;
        match self.all.iter().any(in_chain) {
            true => self.chain_takes_away(&rule.table, target),
            false => !HARMLESS.contains(target),
        }
    }
}

/// Whether a rule looks at destination ports, and at none of these.
fn is_about_others(rule: &ListedRule, ports: &[u16]) -> bool {
    let text = unquoted(&rule.text);
    let looks = text.split_whitespace().any(|word| {
        [
            "dport",
            "--dport",
            "--dports",
            "--destination-port",
            "--destination-ports",
        ]
        .contains(&word)
    });
    looks && !text.contains('@') && !rule.names(ports)
}

/// By the statements of a rule of nft.
fn by_statements(text: &str, chain_takes: impl Fn(&str) -> bool) -> bool {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || "{},;".contains(c))
        .filter(|word| !word.is_empty())
        .collect();
    let after = |at: usize| words.get(at + 1).copied().unwrap_or_default();
    words.iter().enumerate().any(|(at, word)| match *word {
        "jump" | "goto" => chain_takes(after(at)),
        // Written to the packet itself, past the connection tracking.
        "dport" | "daddr" => after(at) == "set",
        word => STATEMENTS.contains(&word),
    })
}

/// A rule with a verdict map in it has, of the map, what is mapped from these ports.
fn mapped(text: &str, ports: &[u16]) -> String {
    let Some((before, map)) = text.split_once("vmap {") else {
        return text.to_owned();
    };
    let (elements, after) = map.split_once('}').unwrap_or((map, ""));
    let of_these: Vec<&str> = elements
        .split(',')
        .filter(|element| {
            let key = element.split_once(" : ").map_or(*element, |(key, _)| key);
            names(key, true, ports)
        })
        .collect();
    match of_these.is_empty() {
        // Mapped from something else than a port: any of it may be meant.
        true => text.to_owned(),
        false => format!("{before}{}{after}", of_these.join(",")),
    }
}

/// What iptables-nft writes and nft has no words for: `xt target "REJECT"`.
fn is_foreign_target(text: &str) -> bool {
    let mut parts = text.split("xt target \"").skip(1);
    parts.any(|part| {
        !part
            .split('"')
            .next()
            .is_some_and(|target| HARMLESS.contains(&target))
    })
}

/// The rule without the ports that it leaves alone; `None`: it leaves none alone.
fn without_negation(text: &str) -> Option<String> {
    if let Some((before, rest)) = text.split_once("dport != ") {
        let after = match rest.strip_prefix('{') {
            Some(set) => set.split_once('}').map_or("", |(_, after)| after),
            None => rest.split_once(' ').map_or("", |(_, after)| after),
        };
        return Some(format!("{before}{after}"));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let is_port = |word: &str| ["--dport", "--dports", "--destination-port"].contains(&word);
    let at = words
        .windows(2)
        .position(|two| two[0] == "!" && is_port(two[1]))?;
    let kept = words
        .iter()
        .enumerate()
        .filter(|(place, _)| !(at..at + 3).contains(place));
    Some(kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::super::listed_rule::rules;
    use super::*;

    /// Whether any rule of a listing that names 10250 takes it away.
    fn takes(listing: &str) -> bool {
        let all = rules(listing);
        let named: Vec<&ListedRule> = all.iter().filter(|rule| rule.names(&[10250])).collect();
        assert!(!named.is_empty(), "nothing names the port: {listing}");
        named.iter().any(|rule| takes_away(rule, &all, &[10250]))
    }

    fn in_nft(rule: &str) -> bool {
        takes(&format!(
            "table inet filter {{\n\tchain input {{\n\t\t{rule}\n\t}}\n}}\n"
        ))
    }

    fn in_iptables(rules: &str) -> bool {
        takes(&format!("*filter\n:INPUT DROP [0:0]\n{rules}\nCOMMIT\n"))
    }

    /// A firewall that lets the port pass is what most nodes have. (Not seen red.)
    #[test]
    fn a_rule_that_accepts_counts_or_marks_takes_nothing_away() {
        for rule in [
            "tcp dport 10250 accept",
            "tcp dport { 22, 10250 } ct state { new, untracked } accept",
            "tcp dport 10250 counter packets 0 bytes 0",
            "tcp dport 10250 log prefix \"drop \" accept comment \"reject\"",
            "tcp dport 10250 meta mark set 0x00000010",
            "tcp dport vmap { 22 : drop, 10250 : accept }",
            "tcp dport != 10250 drop",
            "tcp dport != { 22, 10250 } reject with icmpx admin-prohibited",
            "ip saddr @drop tcp dport 10250 accept",
            "iifname \"drop\" tcp dport 10000-10300 return",
        ] {
            assert!(!in_nft(rule), "{rule}");
        }
        for rule in [
            "-A INPUT -p tcp -m tcp --dport 10250 -j ACCEPT",
            "-A INPUT -p tcp -m multiport --dports 22,10250 -m comment --comment \"no -j DROP here\" -j \
             ACCEPT",
            "-A INPUT -p tcp -m tcp --dport 10250",
            "-A INPUT -p tcp -m tcp ! --dport 10250 -j REJECT --reject-with icmp-port-unreachable",
            "-A INPUT -p tcp -m tcp --dport 10250 -j ALLOW\n-A ALLOW -s 10.0.0.0/8 -j ACCEPT\n\
             -A ALLOW -p tcp -m tcp --dport 22 -j DROP\n-A ALLOW -j LOG",
        ] {
            assert!(!in_iptables(rule), "{rule}");
        }
    }

    /// (Not seen red.)
    #[test]
    fn a_rule_that_drops_refuses_or_redirects_takes_connections_away() {
        for rule in [
            "tcp dport 10250 drop",
            "tcp dport { 22, 10250 } counter packets 0 bytes 0 reject with tcp reset",
            "tcp dport 10250 redirect to :8443",
            "tcp dport 10250 dnat to 192.0.2.9:10250",
            "tcp dport 8443 redirect to :10250",
            "tcp dport != 22 redirect to :10250",
            "tcp dport 10250 notrack",
            "tcp dport 10250 tproxy to :8443 accept",
            "tcp dport 10250 tcp dport set 8443",
            "tcp dport 10250 counter packets 0 bytes 0 xt target \"REJECT\"",
            "tcp dport vmap { 22 : accept, 10250 : drop }",
            "tcp dport vmap { 22 : accept, 10250 : jump refuse }\n\t}\n\tchain refuse {\n\t\treject",
            "tcp dport 10250 goto refuse\n\t}\n\tchain refuse {\n\t\tip saddr 10.0.0.0/8 accept\n\t\tdrop",
        ] {
            assert!(in_nft(rule), "{rule}");
        }
        for rule in [
            "-A INPUT -p tcp -m tcp --dport 10250 -j DROP",
            "-A INPUT -p tcp -m tcp --dport 10250 -j REJECT --reject-with tcp-reset",
            "-A PREROUTING -p tcp -m tcp --dport 8443 -j REDIRECT --to-ports 10250",
            "-A PREROUTING -p tcp -m tcp --dport 10250 -j CT --notrack",
            "-A INPUT -p tcp -m tcp --dport 10250 -j SOMETHING-NEW",
            "-A INPUT -p tcp -m tcp --dport 10250 -g REFUSE\n-A REFUSE -j DROP",
        ] {
            assert!(in_iptables(rule), "{rule}");
        }
    }

    /// (Not seen red.)
    #[test]
    fn a_set_does_what_its_rules_do_and_a_map_what_it_maps_to() {
        let with = |set: &str, rule: &str| {
            takes(&format!(
                "table inet filter {{\n\t{set} {{\n\t\ttype inet_service : verdict\n\
                 \t\telements = {{ 22, 10250 }}\n\t}}\n\tchain input {{\n\t\t{rule}\n\t}}\n}}\n"
            ))
        };
        assert!(!with("set open", "tcp dport @open accept"));
        assert!(with("set shut", "tcp dport @shut drop"));
        let mapped = |to: &str| {
            takes(&format!(
                "table inet filter {{\n\tmap to {{\n\t\telements = {{ 22 : accept,\n\t\t\t10250 : {to} }}\n\
                 \t}}\n\tchain input {{\n\t\ttcp dport vmap @to\n\t}}\n\tchain refuse \
                 {{\n\t\tdrop\n\t}}\n}}\n"
            ))
        };
        assert!(!mapped("accept"));
        assert!(mapped("drop") && mapped("goto refuse") && mapped("10.0.0.1 . 8443"));
    }
}
