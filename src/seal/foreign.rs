//! What the node's other rules do with the kubelet's ports and with packet marks. Read from what their own
//! programs print, by the few words that matter here; a line that is not understood names nothing.

use super::effect::takes_away;
use super::error::FirewallError;
use super::listed_rule::{ListedRule, rules};
use super::tool;

/// A rule that is not ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForeignRule {
    /// The program that lists it, and the place in its listing: `nft: table ip nat, chain PREROUTING`.
    pub place: String,
    /// The rule as listed.
    pub rule: String,
    /// It drops, refuses or redirects connections to a port that it names; otherwise it lets them pass.
    pub takes_away: bool,
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

/// The rules in a listing that name one of these ports: as a destination, alone, in a range, in a set or map,
/// or as what something else is brought to. One too many is shown rather than one too few.
pub fn naming(tool: &str, text: &str, ports: &[u16]) -> Vec<ForeignRule> {
    let all = rules(text);
    let named = all.iter().filter(|rule| rule.names(ports));
    named
        .map(|rule| ForeignRule {
            place: format!("{tool}: table {}, {}", rule.table, rule.holder),
            rule: rule.text.clone(),
            takes_away: takes_away(rule, &all, ports),
        })
        .collect()
}

/// A rule in a listing that accepts connections because they were redirected, to whichever port.
pub(super) fn accepting_redirected(tool: &str, text: &str) -> Option<ForeignRule> {
    let accepts = |rule: &&ListedRule| {
        let words: Vec<&str> = rule.text.split([' ', ',']).collect();
        let has = |these: &[&str]| words.windows(these.len()).any(|window| window == these);
        has(&["ct", "status", "dnat"]) && has(&["accept"])
            || (has(&["--ctstatus", "DNAT"]) || has(&["--ctstate"]) && has(&["DNAT"]))
                && has(&["-j", "ACCEPT"])
    };
    let all = rules(text);
    let rule = all.iter().find(accepts)?;
    Some(ForeignRule {
        place: format!("{tool}: table {}, {}", rule.table, rule.holder),
        rule: rule.text.clone(),
        takes_away: false,
    })
}

/// The bits of the packet mark that the rules in a listing read or write, as far as they say which.
pub fn marked(text: &str) -> u32 {
    let rules = rules(text);
    let marking = rules.iter().filter(|rule| rule.text.contains("mark"));
    marking.fold(0, |bits, rule| bits | mark_bits(&rule.text))
}

/// The same for `ip rule`: `fwmark 0x80/0x80`.
pub fn routed(text: &str) -> u32 {
    let after = |line: &str| Some(line.split_once("fwmark ")?.1.split(' ').next()?.to_owned());
    text.lines()
        .filter_map(after)
        .fold(0, |bits, word| bits | word_bits(&word))
}

fn mark_bits(rule: &str) -> u32 {
    let set = rule.split_once("mark set ");
    match set.map(|(before, value)| (before.ends_with("ct "), value)) {
        // Computed from something else, or a number: all of the packet's mark is read or written.
        Some((_, value)) if !value.contains("0x") => return u32::MAX,
        Some((false, value)) if value.starts_with("0x") => return u32::MAX,
        _ => {}
    }
    let (mut bits, mut before) = (0, "");
    let words = rule.split(|c: char| c.is_whitespace() || "{},".contains(c));
    for word in words.filter(|word| !word.is_empty()) {
        let found = word_bits(word);
        // `mark and 0xffffbfff` takes one bit away and leaves the others alone.
        let kept = matches!(before, "&" | "and") && found.count_ones() > 16;
        bits |= if kept { !found } else { found };
        before = word;
    }
    bits
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

    const NFT: &str = "table ip nat \
        {\n\tchain PREROUTING {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\
        \t\ttcp dport 10250 counter redirect to :8443\n\t\ttcp dport { 80, 443 } accept\n\t\ttcp sport 10250 \
        accept\n\t}\n}\n\
        table inet filter \
        {\n\tchain input {\n\t\ttcp dport { 22, 10000-10300 } drop\n\
        \t\tmeta mark & 0x0000f000 == 0x00004000 accept\n\t}\n}\n\
        table inet kubelet_gate \
        {\n\tchain in {\n\t\ttcp dport { 10250 } goto in_confirmed\n\
        \t\tmeta mark & 0x0000307f == 0x1 accept\n\t}\n}\n";
    const IPTABLES: &str = "# Generated\n*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 10255 \
        -j ACCEPT\n\
        -A INPUT -p tcp -m multiport --dports 22,10240:10260 -j ACCEPT\n-A INPUT -p tcp -m tcp ! --dport \
        10250 -j DROP\n\
        -A INPUT -j KG-IN\n-A KG-IN -p tcp -m tcp --dport 10250 -j DROP\n-A KUBE-MARK-MASQ -j MARK \
        --set-xmark 0x4000/0x4000\nCOMMIT\n";

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

    /// (Not seen red.)
    #[test]
    fn a_rule_that_accepts_what_was_redirected_is_found() {
        let found = |rule: &str| accepting_redirected("x", rule).is_some();
        assert!(found("ct status dnat accept"));
        assert!(found("-A INPUT -m conntrack --ctstatus DNAT -j ACCEPT"));
        assert!(found("-A INPUT -m conntrack --ctstate RELATED,DNAT -j ACCEPT"));
        assert!(!found("ct status dnat drop") && !found("ct state established accept"));
        assert!(!found("-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"));
    }

    /// Seen red: with only the numbers right behind `dport` read, the verdict map, the concatenation and
    /// every redirection to the port were missed.
    #[test]
    fn a_port_is_found_however_a_rule_names_it() {
        let found = |rule: &&str| !naming("x", rule, &[10250]).is_empty();
        let named = [
            "tcp dport 10250 accept",
            "tcp dport != 10250 drop",
            "tcp dport vmap { 22 : accept, 10250 : jump kubelet }",
            "ip daddr . tcp dport { 192.0.2.10 . 10250, 192.0.2.10 . 22 } accept",
            "tcp dport 8443 counter packets 1 bytes 60 dnat to 127.0.0.1:10250",
            "tcp dport 8443 dnat ip6 to [::1]:10250",
            "tcp dport 8443 redirect to :10250",
            "tcp sport 1024-65535 tcp dport 10000-10300 drop",
            "-A INPUT -p tcp -m multiport --dports 22,10240:10260 -j ACCEPT",
            "-A PREROUTING -p tcp -m tcp --dport 8443 -j DNAT --to-destination 127.0.0.1:10250",
            "-A PREROUTING -p tcp -m tcp --dport 8443 -j REDIRECT --to-ports 10250",
        ];
        let missed: Vec<&&str> = named.iter().filter(|rule| !found(rule)).collect();
        assert!(missed.is_empty(), "{missed:#?}");
        let others = [
            "tcp sport 10250 accept",
            "tcp sport { 22, 10250 } accept",
            "-A INPUT -p tcp -m tcp --sport 1024:65535 -j ACCEPT",
            "tcp dport 22 counter packets 10250 bytes 10250 accept",
            "tcp dport 22 accept comment \"not 10250\"",
            "-A POSTROUTING -p tcp -j MASQUERADE --to-ports 1024-65535",
            "ip6 daddr 2001:db8::10250 accept",
        ];
        let taken: Vec<&&str> = others.iter().filter(|rule| found(rule)).collect();
        assert!(taken.is_empty(), "{taken:#?}");
        let text = "table inet filter \
            {\n\tset open {\n\t\ttype inet_service\n\t\tflags interval\n\t\telements = { 22, 80,\n\
            \t\t\t     10000-10300 }\n\t}\n\tchain input {\n\t\ttcp dport @open accept\n\t}\n}\n";
        let found = naming("nft", text, &[10250]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].place, "nft: table inet filter, set open");
    }

    /// Seen red: with marks looked for between spaces only, the set's.
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
            ("meta mark { 0x00000001, 0x00000002 } accept", 0x3),
            ("meta mark vmap { 0x00000040 : accept }", 0x40),
            ("meta mark set ct mark", u32::MAX),
            ("meta mark set ip saddr map @marks", u32::MAX),
            ("ct mark set mark", u32::MAX),
            ("meta mark set mark and 0xffffbfff", 0x4000),
            ("meta mark set meta mark & 0xffffbfff | 0x00000020", 0x4020),
            ("-A X -d 10.0.0.1/32 -j ACCEPT", 0),
        ] {
            assert_eq!(marked(rule), bits, "{rule}");
        }
        let rules = "0:\tfrom all lookup local\n100:\tfrom all fwmark 0x80/0x80 lookup main\n101: from all \
            fwmark 0x200 lookup 5\n";
        assert_eq!(routed(rules), 0x280);
    }

    proptest! {
        #[test]
        fn no_listing_breaks_the_reader(text in "(table|chain|-A|tcp dport|mark|0x|/|\\{|\\}|[ \
            -~]|\n){0,80}") {
            let _ = (naming("x", &text, &[10250]), marked(&text), routed(&text));
        }
    }
}
