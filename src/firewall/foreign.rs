//! What the node's other rules do with the kubelet's ports and with packet marks. Read from what their own programs
//! print, by the few words that matter here; a line that is not understood names nothing.

use super::{FirewallError, tool};

/// A rule that is not ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForeignRule {
    /// The program that lists it, and the place in its listing: `nft: table ip nat, chain PREROUTING`.
    pub place: String,
    /// The rule as listed.
    pub rule: String,
}

/// Every rule of the node, as each program lists it. A program that is not there has no rules.
///
/// # Errors
/// A program is there and does not say: perhaps it may not.
pub fn listings() -> Result<Vec<(String, String)>, FirewallError> {
    let mut listings = Vec::new();
    for (tool, arguments) in [
        ("nft", &["list", "ruleset"][..]),
        ("iptables-legacy-save", &[]),
        ("ip6tables-legacy-save", &[]),
        ("iptables-nft-save", &[]),
        ("ip6tables-nft-save", &[]),
    ] {
        if tool::find(tool).is_err() {
            continue;
        }
        let text = tool::run(tool, arguments, "", "listing every rule")?;
        listings.push((tool.to_owned(), text));
    }
    Ok(listings)
}

/// The bits of the packet mark that the node's rules look at, ours left out.
///
/// # Errors
/// As [`listings`], and `ip rule`.
pub fn marks_in_use() -> Result<u32, FirewallError> {
    let mut bits = listings()?.iter().fold(0, |bits, (_, text)| bits | marked(text));
    for family in ["-4", "-6"] {
        if tool::find("ip").is_ok() {
            bits |= routed(&tool::run(
                "ip",
                &[family, "rule", "show"],
                "",
                "listing the routing rules",
            )?);
        }
    }
    Ok(bits)
}

/// The rules in a listing that name one of these ports as a destination.
pub fn naming(tool: &str, text: &str, ports: &[u16]) -> Vec<ForeignRule> {
    let names = |rule: &str| {
        let words: Vec<&str> = rule
            .split(|c: char| c.is_whitespace() || "{},=".contains(c))
            .filter(|word| !word.is_empty())
            .collect();
        let after = |word: &str| {
            matches!(
                word,
                "dport" | "--dport" | "--dports" | "--ports" | "--destination-port"
            )
        };
        words.iter().enumerate().any(|(at, word)| {
            after(word)
                && words[at + 1..]
                    .iter()
                    .skip_while(|word| matches!(**word, "!" | "!="))
                    .map_while(|word| range(word))
                    .any(|range| ports.iter().any(|port| range.contains(port)))
        })
    };
    rules(tool, text).filter(|foreign| names(&foreign.rule)).collect()
}

/// The bits of the packet mark that the rules in a listing read or write, as far as they say which.
pub fn marked(text: &str) -> u32 {
    rules("", text)
        .map(|foreign| foreign.rule)
        .filter(|rule| rule.contains("mark"))
        .fold(0, |bits, rule| bits | mark_bits(&rule))
}

/// The same for `ip rule`: `fwmark 0x80/0x80`.
pub fn routed(text: &str) -> u32 {
    let after = |line: &str| Some(line.split_once("fwmark ")?.1.split(' ').next()?.to_owned());
    text.lines()
        .filter_map(after)
        .fold(0, |bits, word| bits | word_bits(&word))
}

/// What each rule of a listing is and where it stands, without ours.
fn rules<'a>(tool: &'a str, text: &'a str) -> impl Iterator<Item = ForeignRule> {
    let (mut table, mut chain) = (String::new(), String::new());
    text.lines().filter_map(move |line| {
        let line = line.trim();
        // nft opens tables and chains with a brace; iptables-save names a table with an asterisk, and each rule its chain.
        if let Some(name) = line
            .strip_prefix("table ")
            .and_then(|line| line.strip_suffix(" {"))
        {
            name.clone_into(&mut table);
            chain.clear();
        } else if let Some(name) = line
            .strip_prefix("chain ")
            .and_then(|line| line.strip_suffix(" {"))
        {
            name.clone_into(&mut chain);
        } else if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if let Some(rule) = line.strip_prefix("-A ") {
            rule.split(' ').next().unwrap_or_default().clone_into(&mut chain);
        }
        let ours = table == "inet kubelet_gate"
            || chain.starts_with("KG-")
            || line.contains("KG-")
            || line.contains("kubelet-gate");
        let rule = !ours && !line.is_empty() && !line.starts_with([':', '*', '#']) && !line.ends_with('{');
        rule.then(|| ForeignRule {
            place: format!("{tool}: table {table}, chain {chain}"),
            rule: line.to_owned(),
        })
    })
}

/// `10250`, `10000-11000` or `10000:11000`.
fn range(word: &str) -> Option<std::ops::RangeInclusive<u16>> {
    match word.split_once(['-', ':']) {
        None => word.parse().ok().map(|port| port..=port),
        Some((first, last)) => Some(first.parse().ok()?..=last.parse().ok()?),
    }
}

fn mark_bits(rule: &str) -> u32 {
    let whole = rule.contains("mark set 0x") && !rule.contains("mark set mark");
    if whole || rule.contains("/0xffffffff") {
        return u32::MAX;
    }
    rule.split_whitespace()
        .fold(0, |bits, word| bits | word_bits(word))
}

/// `0x4000`, or the mask of `0x0/0x4000`; `0x4000/0x0` sets bits and looks at none.
fn word_bits(word: &str) -> u32 {
    let number = |word: &str| u32::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let (value, mask) = word.split_once('/').unwrap_or((word, ""));
    let Some(value) = number(value) else { return 0 };
    value | number(mask).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NFT: &str = "table ip nat {\n\tchain PREROUTING {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\
        \t\ttcp dport 10250 counter redirect to :8443\n\t\ttcp dport { 80, 443 } accept\n\t\ttcp sport 10250 accept\n\t}\n}\n\
        table inet filter {\n\tchain input {\n\t\ttcp dport { 22, 10000-10300 } drop\n\t\tmeta mark & 0x0000f000 == 0x00004000 accept\n\t}\n}\n\
        table inet kubelet_gate {\n\tchain in {\n\t\ttcp dport { 10250 } goto in_confirmed\n\t\tmeta mark & 0x0000307f == 0x1 accept\n\t}\n}\n";
    const IPTABLES: &str = "# Generated\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 10255 -j ACCEPT\n\
        -A INPUT -p tcp -m multiport --dports 22,10240:10260 -j ACCEPT\n-A INPUT -p tcp -m tcp ! --dport 10250 -j DROP\n\
        -A INPUT -j KG-IN\n-A KG-IN -p tcp -m tcp --dport 10250 -j DROP\n-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\nCOMMIT\n";

    #[test]
    fn rules_that_name_a_port_are_found_with_their_place_and_ours_are_not() {
        let found = naming("nft", NFT, &[10250, 10255]);
        let shown: Vec<(&str, &str)> = found
            .iter()
            .map(|found| (found.place.as_str(), found.rule.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                (
                    "nft: table ip nat, chain PREROUTING",
                    "tcp dport 10250 counter redirect to :8443"
                ),
                (
                    "nft: table inet filter, chain input",
                    "tcp dport { 22, 10000-10300 } drop"
                ),
            ]
        );
        let found = naming("iptables-save", IPTABLES, &[10250, 10255]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found
                .iter()
                .all(|found| found.place == "iptables-save: table filter, chain INPUT")
        );
    }

    #[test]
    fn the_bits_of_marks_in_use_are_found() {
        assert_eq!(marked(NFT), 0xf000);
        assert_eq!(marked(IPTABLES), 0x4000);
        for (rule, bits) in [
            ("-A X -j MARK --set-xmark 0x80/0x0", 0x80),
            ("-A X -m mark --mark 0x0/0x4000 -j RETURN", 0x4000),
            (
                "-A X -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80",
                0x80,
            ),
            ("-A X -j MARK --set-xmark 0x1/0xffffffff", u32::MAX),
            ("meta mark set mark or 0x00002000", 0x2000),
            ("meta mark set 0x00000001", u32::MAX),
            ("-A X -d 10.0.0.1/32 -j ACCEPT", 0),
        ] {
            assert_eq!(marked(rule), bits, "{rule}");
        }
        let rules = "0:\tfrom all lookup local\n100:\tfrom all fwmark 0x80/0x80 lookup main\n101: from all fwmark 0x200 lookup 5\n";
        assert_eq!(routed(rules), 0x280);
    }

    proptest! {
        #[test]
        fn no_listing_breaks_the_reader(text in "(table|chain|-A|tcp dport|mark|0x|/|\\{|\\}|[ -~]|\n){0,80}") {
            let _ = (naming("x", &text, &[10250]), marked(&text), routed(&text));
        }
    }
}
